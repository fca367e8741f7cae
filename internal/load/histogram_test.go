package load

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// Every value is counted in a bucket whose middle is within a hundredth of it.
func TestBucket(t *testing.T) {
	last := -1
	for d := time.Duration(0); d < 1<<maxBits; d += 1 + d/1000 {
		b := bucket(d)
		if b < last || b >= buckets {
			t.Fatalf("bucket(%d) = %d, after %d", d, b, last)
		}
		last = b
		if off := value(b) - d; off.Abs() > d/100 {
			t.Fatalf("%d is counted as %d", d, value(b))
		}
	}
	for _, d := range []time.Duration{-1, 0} {
		if b := bucket(d); b != 0 {
			t.Errorf("bucket(%d) = %d", d, b)
		}
	}
	if b := bucket(1 << 62); b != buckets-1 {
		t.Errorf("the longest is in bucket %d of %d", b, buckets)
	}
}

func TestHistogram(t *testing.T) {
	var h, other Histogram
	if h.Quantile(0.5) != 0 || h.Mean() != 0 || h.Count() != 0 {
		t.Error("an empty histogram is not empty")
	}
	r := rand.New(rand.NewPCG(1, 2))
	var all []time.Duration
	var sum time.Duration
	for i := range 20_000 {
		d := time.Duration(r.ExpFloat64() * float64(time.Millisecond))
		all = append(all, d)
		sum += d
		if i%2 == 0 {
			h.Add(d, 1)
		} else {
			other.Add(d, 1)
		}
	}
	h.Merge(&other)
	h.Merge(&Histogram{})
	slices.Sort(all)
	if h.Count() != uint64(len(all)) || h.Max() != all[len(all)-1] || h.Mean() != sum/time.Duration(len(all)) {
		t.Errorf("count %d, max %v, mean %v", h.Count(), h.Max(), h.Mean())
	}
	for _, q := range []float64{0.001, 0.5, 0.9, 0.99, 0.999, 1} {
		want := all[int(q*float64(len(all)))-1]
		if got := h.Quantile(q); (got - want).Abs() > want/100+1 {
			t.Errorf("quantile %v is %v, want %v", q, got, want)
		}
	}
	h.Reset()
	if h.Count() != 0 || h.Max() != 0 || h.Quantile(1) != 0 {
		t.Error("not empty after Reset")
	}
}
