package main

import (
	"context"
	"runtime"
	"time"
)

// timed is work that is measured in nanoseconds: do is called with how often to do
// it. How many fit into a window is found out first, while it warms up.
func timed(name string, do func(n int) error) side {
	return side{name, func(_ context.Context, w window) (figures, error) {
		n := 1
		for {
			begin := time.Now()
			if err := do(n); err != nil {
				return nil, err
			}
			took := time.Since(begin)
			if took >= max(w.warmup/2, time.Millisecond) {
				n = max(1, int(float64(n)*float64(w.measure)/float64(took)))
				break
			}
			n *= 2
		}
		runtime.GC()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		begin := time.Now()
		if err := do(n); err != nil {
			return nil, err
		}
		took := time.Since(begin)
		runtime.ReadMemStats(&after)
		return figures{
			metricTime.Name:   float64(took) / float64(n),
			metricAllocs.Name: float64((after.Mallocs - before.Mallocs) / uint64(n)),
			metricHeap.Name:   float64((after.TotalAlloc - before.TotalAlloc) / uint64(n)),
		}, nil
	}}
}
