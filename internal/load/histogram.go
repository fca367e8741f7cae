package load

import (
	"math/bits"
	"time"
)

const (
	// subBits is how many bits of a value below its highest one tell buckets apart:
	// with 6, a bucket is at most 1/64 of its value wide.
	subBits = 6
	// maxBits bounds the values: what takes longer than 18 minutes counts as that.
	maxBits = 40
	buckets = (maxBits - subBits + 1) << subBits
)

// A Histogram counts durations in buckets whose width grows with the value, so
// that a quantile is right to a hundredth of itself over the whole range, at 18 KB.
// The zero Histogram is empty. It is not safe for concurrent use.
type Histogram struct {
	counts   []uint64
	count    uint64
	sum, max time.Duration
}

// bucket returns where d is counted: values up to 2^subBits in a bucket each, then
// 2^subBits buckets for each power of two.
func bucket(d time.Duration) int {
	v := min(uint64(max(d, 0)), 1<<maxBits-1)
	shift := max(bits.Len64(v)-subBits-1, 0)
	return shift<<subBits + int(v>>shift)
}

// value is the middle of a bucket.
func value(bucket int) time.Duration {
	if bucket < 2<<subBits {
		return time.Duration(bucket)
	}
	shift := bucket>>subBits - 1
	low := uint64(bucket-shift<<subBits) << shift
	return time.Duration(low + 1<<shift/2)
}

// Add counts d, n times.
func (h *Histogram) Add(d time.Duration, n int) {
	if h.counts == nil {
		h.counts = make([]uint64, buckets)
	}
	h.counts[bucket(d)] += uint64(n)
	h.count += uint64(n)
	h.sum += d * time.Duration(n)
	h.max = max(h.max, d)
}

// Merge adds what other has counted.
func (h *Histogram) Merge(other *Histogram) {
	if other.count == 0 {
		return
	}
	if h.counts == nil {
		h.counts = make([]uint64, buckets)
	}
	for i, n := range other.counts {
		h.counts[i] += n
	}
	h.count += other.count
	h.sum += other.sum
	h.max = max(h.max, other.max)
}

// Reset empties it and keeps its memory.
func (h *Histogram) Reset() {
	clear(h.counts)
	h.count, h.sum, h.max = 0, 0, 0
}

// Count returns how many durations were counted.
func (h *Histogram) Count() uint64 { return h.count }

// Max returns the longest duration, exactly.
func (h *Histogram) Max() time.Duration { return h.max }

// Mean returns the mean, exactly; 0 of none.
func (h *Histogram) Mean() time.Duration {
	if h.count == 0 {
		return 0
	}
	return h.sum / time.Duration(h.count)
}

// Quantile returns the duration that the share q of all does not exceed, such as
// 0.99; 0 of none.
func (h *Histogram) Quantile(q float64) time.Duration {
	if h.count == 0 {
		return 0
	}
	rank := max(uint64(q*float64(h.count)+0.999999), 1)
	var seen uint64
	for i, n := range h.counts {
		if seen += n; seen >= rank {
			return min(value(i), h.max)
		}
	}
	return h.max
}
