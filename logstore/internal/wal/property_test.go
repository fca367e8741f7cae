package wal

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-session/holdfast/logstore/internal/vfs"
)

var errInjected = errors.New("injected")

// A fault makes calls fail, or takes what a cut would leave, at a random moment.
type fault struct {
	mu      sync.Mutex
	r       *rand.Rand
	m       *vfs.Mem
	w       *owner
	calls   int
	cutAt   int
	mode    vfs.CutMode
	after   *vfs.Mem // the cut
	promise promises // at that moment
	failing float64  // how many calls fail
	until   int      // for that long
}

func (f *fault) hook(op vfs.Op, name string, off, n int64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls++
	if f.calls == f.cutAt {
		f.cut()
	}
	if f.calls > f.until && f.r.IntN(150) == 0 {
		f.until = f.calls + f.r.IntN(30)
	}
	switch op {
	case vfs.OpLock, vfs.OpList, vfs.OpOpen, vfs.OpRead, vfs.OpSize:
		return nil
	}
	if f.calls <= f.until && f.r.Float64() < f.failing {
		if op == vfs.OpWrite && f.r.IntN(2) == 0 {
			return &vfs.Partial{N: f.r.IntN(int(n) + 1), Err: errInjected}
		}
		return errInjected
	}
	return nil
}

// cut takes what is left, and then what was promised by then: in this order, so that
// nothing counts that came between.
func (f *fault) cut() {
	f.w.promising.Lock()
	f.promise = f.w.promised.clone()
	f.w.promising.Unlock()
	f.after = f.m.Cut(f.r, f.mode)
	f.after.SetSpace(-1)
}

// TestRandomCutsAndFailures lets an owner work on a log whose power is cut and whose
// file system fails, opens what is left, and goes on with that.
func TestRandomCutsAndFailures(t *testing.T) {
	runs := 2000
	switch {
	case os.Getenv("HOLDFAST_LONG") != "":
		runs = 20000
	case raceEnabled || testing.Short():
		runs = 150
	}
	for seed := range runs {
		synctest.Test(t, func(t *testing.T) { randomRun(t, uint64(seed)) })
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func randomRun(t *testing.T, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 1))
	o := Options{
		Sync:        Sync(r.IntN(3)),
		Interval:    time.Duration(1+r.IntN(20)) * time.Millisecond,
		SegmentSize: minSegment,
	}
	failing := 0.0
	if r.IntN(2) == 0 {
		failing = r.Float64()
	}
	if r.IntN(4) == 0 {
		o.MaxDisk = 8 * minSegment
	}
	m := vfs.NewMem()
	var before *owner
	var promised promises
	crashed := false
	for round := range 4 {
		name := fmt.Sprintf("seed %d round %d %v", seed, round, o.Sync)
		w := openOwner(t, name, m, o, before, promised, crashed)
		if t.Failed() {
			w.l.Close()
			return
		}
		f := &fault{
			r: rand.New(rand.NewPCG(seed, uint64(round+2))), m: m, w: w, failing: failing,
			cutAt: 1 + r.IntN(300), mode: []vfs.CutMode{vfs.Drop, vfs.Keep, vfs.Prefix, vfs.Any}[r.IntN(4)],
		}
		m.Fail(f.hook)
		var workers sync.WaitGroup
		for i := range 1 + r.IntN(3) {
			workers.Go(func() { w.work(rand.New(rand.NewPCG(seed, uint64(10*round+i+100))), 120, 25) })
		}
		if r.IntN(4) == 0 {
			workers.Go(func() {
				m.SetSpace(m.Used() + 1000)
				time.Sleep(time.Duration(r.IntN(3000)) * time.Millisecond)
				m.SetSpace(-1)
			})
		}
		workers.Wait()
		time.Sleep(time.Duration(r.IntN(300)) * time.Millisecond)
		f.mu.Lock()
		if f.after == nil {
			f.cut()
		}
		f.mu.Unlock()
		m.Fail(nil)
		if w.l.Close() == nil {
			w.mu.Lock()
			w.checkLive()
			w.mu.Unlock()
		}
		before, promised, m = w, f.promise, f.after
		crashed = f.mode != vfs.Keep
	}
	openOwner(t, fmt.Sprintf("seed %d end", seed), m, o, before, promised, crashed).l.Close()
}

// TestManyWriters uses a log on the disk as hard as it can, in every mode.
func TestManyWriters(t *testing.T) {
	for _, mode := range []Sync{Interval, Always, Never} {
		fs := dir(t)
		o := Options{Sync: mode, SegmentSize: 64 << 10, Interval: 5 * time.Millisecond}
		var before *owner
		for round := range 3 {
			var promised promises
			if before != nil {
				promised = before.promised
			}
			w := openOwner(t, fmt.Sprintf("mode %d round %d", mode, round), fs, o, before, promised, false)
			var workers sync.WaitGroup
			for i := range 16 {
				workers.Go(func() { w.work(rand.New(rand.NewPCG(uint64(round), uint64(i))), 150, 200) })
			}
			workers.Wait()
			w.checkLive()
			closeLog(t, w.l)
			before = w
		}
	}
}
