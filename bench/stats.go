package main

import (
	"fmt"
	"math"
	"slices"
)

// A metric is something measured of a contender.
type metric struct {
	Name string `json:"name"`
	Unit string `json:"unit"`
	// More means that more of it is better.
	More bool `json:"more_is_better,omitempty"`
	// Words are what the values 0, 1 and so on mean, if they are no quantity.
	Words []string `json:"words,omitempty"`
}

// text is a value as the tables have it.
func (m metric) text(v float64) string {
	if i := int(v); i < len(m.Words) {
		return m.Words[i]
	}
	return number(v)
}

var (
	metricCPU      = metric{Name: "server CPU", Unit: "µs/request"}
	metricRate     = metric{Name: "rate", Unit: "1/s", More: true}
	metricP50      = metric{Name: "p50", Unit: "µs"}
	metricP99      = metric{Name: "p99", Unit: "µs"}
	metricMax      = metric{Name: "longest", Unit: "µs"}
	metricLeast    = metric{Name: "least served", Unit: "%", More: true}
	metricOwnCPU   = metric{Name: "client CPU", Unit: "µs/call"}
	metricTime     = metric{Name: "time", Unit: "ns"}
	metricAllocs   = metric{Name: "allocations", Unit: ""}
	metricHeap     = metric{Name: "allocated", Unit: "B"}
	metricBytes    = metric{Name: "size", Unit: "B"}
	metricGC       = metric{Name: "one collection", Unit: "ms"}
	metricLost     = metric{Name: "updates lost", Unit: "%"}
	metricPerByte  = metric{Name: "memory per stored byte", Unit: "B"}
	metricWrong    = metric{Name: "out of order", Unit: ""}
	metricServed   = metric{Name: "served", Unit: "requests per CPU second", More: true}
	metricAppCPU   = metric{Name: "application", Unit: "µs/request"}
	metricStoreCPU = metric{Name: "store", Unit: "µs/request"}
	metricAsked    = metric{Name: "commands or statements", Unit: "per request"}
	metricLost50   = metric{Name: "updates lost", Unit: "of 50"}
	metricUndone   = metric{Name: "sign-outs undone", Unit: "%"}
	metricAdopted  = metric{Name: "chosen IDs adopted", Unit: "%"}
	metricLate     = metric{Name: "late changes lost", Unit: "%"}
	metricStrange  = metric{Name: "what cannot be stored is found", Words: []string{"when the program starts", "in the request: 500", "never: 200"}}
	metricShare    = metric{Name: "share of the collector", Unit: "%"}
	metricPause    = metric{Name: "longest pause", Unit: "µs"}
	metricGone     = metric{Name: "all swept", Unit: "ms after the last expired"}
	metricOpening  = metric{Name: "opening", Unit: "ms"}
	metricClosing  = metric{Name: "closing", Unit: "ms"}
	metricEach     = metric{Name: "memory then", Unit: "B/session"}
	metricWire     = metric{Name: "bytes at the store", Unit: "per request"}
)

// figures are what one measurement gave, by the metric's name.
type figures map[string]float64

// A summary is what all rounds gave.
type summary struct {
	Median float64   `json:"median"`
	Low    float64   `json:"low"`
	High   float64   `json:"high"`
	Values []float64 `json:"values"`
}

func summarize(values []float64) summary {
	return summary{median(values), slices.Min(values), slices.Max(values), values}
}

// median returns the middle value, of an even number the mean of the middle two.
func median(values []float64) float64 {
	s := slices.Sorted(slices.Values(values))
	n := len(s)
	return (s[(n-1)/2] + s[n/2]) / 2
}

const (
	// noDifference is the relative difference below which two contenders are equal,
	// because two runs of the same program on a shared machine differ that much.
	noDifference = 0.15
	// manyRounds is from how many rounds on a confidence interval may find a smaller
	// one.
	manyRounds = 20
)

// A verdict says how a peer compares with ours.
type verdict struct {
	// Ratio is the peer's median by ours, 0 if ours is 0.
	Ratio float64 `json:"ratio"`
	// Clear means that the spread does not hide the difference; if it is false, Why
	// says so.
	Clear bool   `json:"clear"`
	Why   string `json:"why,omitempty"`
}

// compare compares a peer with ours; the rounds of both were taken in turn.
func compare(ours, peer summary) verdict {
	if ours.Median == 0 {
		return verdict{Clear: peer.Low > 0, Why: "–"}
	}
	v := verdict{Ratio: peer.Median / ours.Median}
	if n := len(ours.Values); n >= manyRounds && n == len(peer.Values) {
		low, high := confidence(ours.Values, peer.Values)
		v.Clear = low > 1 || high < 1
		if !v.Clear {
			v.Why = fmt.Sprintf("no difference: the ratio is between %.2f and %.2f (95 %%)", low, high)
		}
		return v
	}
	switch {
	case math.Abs(v.Ratio-1) < noDifference:
		v.Why = "no difference: under 15 %"
	case peer.Low <= ours.High && ours.Low <= peer.High:
		v.Why = "hidden by the spread"
	default:
		v.Clear = true
	}
	return v
}

// confidence returns an interval that holds the median of the rounds' ratios with
// 95 % confidence, by order statistics: it supposes nothing of how they are spread.
func confidence(ours, peer []float64) (low, high float64) {
	ratios := make([]float64, len(ours))
	for i := range ours {
		ratios[i] = peer[i] / ours[i]
	}
	slices.Sort(ratios)
	n := float64(len(ratios))
	k := max(int(n/2-1.96*math.Sqrt(n)/2), 0)
	return ratios[k], ratios[len(ratios)-1-k]
}
