package main

import (
	"bytes"
	"context"
	"encoding/gob"
	"fmt"
	"math"
	"runtime"
	"runtime/metrics"
	"slices"
	"time"

	"github.com/alexedwards/scs/v2/memstore"

	"github.com/holdfast-session/holdfast/store"
)

var memoryRow = row{
	name:  "memory",
	title: "InProc: memory of idle sessions, and the collector",
	note: "Bytes of the heap for each session of five values, with its ID of 24 characters, and how long a collection of all of them takes. " +
		"Then sessions are looked up at random, with 2 KiB of garbage each time, as a request makes: the collector's share of the processor time, and the longest that it stopped everything. " +
		"The map has what people write by hand.",
	metrics: []metric{metricBytes, metricGC, metricShare, metricPause},
	cells:   memoryCells,
}

// A weighedStore is sessions of a store, and a look at one.
type weighedStore struct {
	look  func(i int) error
	close func()
}

func memoryCells(s *suite) ([]cell, error) {
	gobbed, err := gobFive()
	if err != nil {
		return nil, err
	}
	var cells []cell
	for _, count := range memoryCounts(s) {
		cells = append(cells, cell{fmt.Sprintf("%s sessions", number(float64(count))), []side{
			weighed("holdfast inproc", count, func() (weighedStore, error) {
				p, err := oursInproc(s, count)
				if err != nil {
					return weighedStore{}, err
				}
				p.ids = nil // they are the test's, as are the keys below
				return weighedStore{func(i int) error { return p.store.Load(context.Background(), callerID(i), &p.rec) }, func() { p.store.Close() }}, nil
			}),
			weighed("xsync, map[string]any and a mutex", count, func() (weighedStore, error) {
				p := newMapSessions(count)
				p.keys = nil
				return weighedStore{func(i int) error {
					if _, ok := p.sessions.Load(sessionKey(0, i)); !ok {
						return store.ErrNotFound
					}
					return nil
				}, func() {}}, nil
			}),
			weighed("scs, memstore", count, func() (weighedStore, error) {
				m := memstore.NewWithCleanupInterval(0)
				for i := range count {
					if err := m.Commit(sessionKey(0, i), slices.Clone(gobbed), time.Now().Add(idleTimeout)); err != nil {
						return weighedStore{}, err
					}
				}
				return weighedStore{func(i int) error { _, _, err := m.Find(sessionKey(0, i)); return err }, func() {}}, nil
			}),
		}})
	}
	return cells, nil
}

// memoryCounts are how many sessions there are, the most first.
func memoryCounts(s *suite) []int {
	counts := []int{s.many, 100_000, 1000}
	if s.quick {
		counts = []int{s.cold}
	}
	slices.SortFunc(counts, func(a, b int) int { return b - a })
	return slices.Compact(counts)
}

// gobFive is a session of five values as scs keeps it.
func gobFive() ([]byte, error) {
	gob.Register(time.Time{})
	var b bytes.Buffer
	err := gob.NewEncoder(&b).Encode(&struct {
		Deadline time.Time
		Values   map[string]any
	}{time.Now(), fiveValues.toMap()})
	return b.Bytes(), err
}

// weighed makes sessions, weighs them, and uses them.
func weighed(name string, count int, fill func() (weighedStore, error)) side {
	return side{name, func(_ context.Context, w window) (figures, error) {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&before)
		kept, err := fill()
		if err != nil {
			return nil, err
		}
		defer kept.close()
		runtime.GC()
		runtime.ReadMemStats(&after)
		begin := time.Now()
		runtime.GC()
		took := time.Since(begin)
		f := figures{
			metricBytes.Name: float64(after.HeapAlloc-before.HeapAlloc) / float64(count),
			metricGC.Name:    float64(took) / float64(time.Millisecond),
		}
		err = collecting(f, w, func(i int) error { return kept.look(i % count) })
		runtime.KeepAlive(kept)
		return f, err
	}}
}

// garbage is what a request throws away, on the heap.
var garbage []byte

// collecting measures what the garbage collector costs while something is done over
// and over that makes garbage, until it has run twice at least: what it costs is known
// after each run.
func collecting(f figures, w window, do func(i int) error) error {
	before := readCollector()
	after := before
	for begin, i := time.Now(), 0; after.runs < before.runs+2 || time.Since(begin) < w.measure; {
		for range 1024 {
			if err := do(i * 7919); err != nil { // a prime: they are met out of order
				return err
			}
			garbage = make([]byte, 2<<10)
			i++
		}
		after = readCollector()
	}
	runtime.KeepAlive(garbage)
	if all := after.all - before.all; all > 0 {
		f[metricShare.Name] = (after.collecting - before.collecting) / all * 100
	}
	if longest, ok := longestPause(before.pauses, after.pauses); ok {
		f[metricPause.Name] = longest * 1e6
	}
	return nil
}

// A collector is what the runtime has counted of its garbage collector, times in
// seconds.
type collector struct {
	runs            uint64
	collecting, all float64
	pauses          *metrics.Float64Histogram
}

func readCollector() collector {
	samples := []metrics.Sample{
		{Name: "/cpu/classes/gc/total:cpu-seconds"}, {Name: "/cpu/classes/idle:cpu-seconds"},
		{Name: "/cpu/classes/total:cpu-seconds"}, {Name: "/sched/pauses/total/gc:seconds"},
		{Name: "/gc/cycles/total:gc-cycles"},
	}
	metrics.Read(samples)
	return collector{samples[4].Value.Uint64(), samples[0].Value.Float64(), samples[2].Value.Float64() - samples[1].Value.Float64(), samples[3].Value.Float64Histogram()}
}

// longestPause returns the upper bound of the longest pause since before.
func longestPause(before, after *metrics.Float64Histogram) (float64, bool) {
	for i := len(after.Counts) - 1; i >= 0; i-- {
		if after.Counts[i] > before.Counts[i] {
			if bound := after.Buckets[i+1]; !math.IsInf(bound, 1) {
				return bound, true
			}
			return after.Buckets[i], true
		}
	}
	return 0, false
}
