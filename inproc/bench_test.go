package inproc

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/holdfast-session/holdfast/store"
)

// fiveValues stands for a session of five small values, as package holdfast keeps it.
type fiveValues [5][2]uint64

func benchIDs(n int) []store.ID {
	ids := make([]store.ID, n)
	for i := range ids {
		ids[i] = store.ID{App: "/", Session: fmt.Sprintf("%024d", i)}
	}
	return ids
}

func benchStore(tb testing.TB, ids []store.ID, content func() any) *Store {
	s := New(nil)
	tb.Cleanup(func() { s.Close() })
	for _, id := range ids {
		rec := store.Record{Version: store.NewVersion(), Timeout: 20 * time.Minute, Items: content()}
		if err := s.Create(context.Background(), id, &rec, false); err != nil {
			tb.Fatal(err)
		}
	}
	return s
}

// cycle is what an exclusive request costs: take the lock, read, write, give the
// lock up.
func cycle(s *Store, id store.ID, rec *store.Record, owner, version uint64) error {
	ctx := context.Background()
	if err := s.Lock(ctx, id, store.LockOptions{Owner: owner, Stale: 20 * time.Second}, rec); err != nil {
		return err
	}
	return s.Save(ctx, id, rec, store.Version(version), false)
}

// BenchmarkCycle locks, reads, saves and so touches one session ("hot"), or one of
// many that are in no cache of the processor ("cold").
func BenchmarkCycle(b *testing.B) {
	for _, c := range []struct {
		name     string
		sessions int
	}{{"hot", 1}, {"cold131k", 1 << 17}} {
		b.Run(c.name, func(b *testing.B) {
			ids := benchIDs(c.sessions)
			s := benchStore(b, ids, func() any { return new(fiveValues) })
			rand.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
			var rec store.Record
			b.ReportAllocs()
			i, v := 0, uint64(1)
			for b.Loop() {
				if err := cycle(s, ids[i&(c.sessions-1)], &rec, 7, v); err != nil {
					b.Fatal(err)
				}
				i, v = i+1, v+1
			}
		})
	}
}

// BenchmarkBody is the same with a content of 500 bytes that is copied in and out.
func BenchmarkBody(b *testing.B) {
	id := benchIDs(1)[0]
	s := New(nil)
	defer s.Close()
	rec := store.Record{Version: 1, Timeout: 20 * time.Minute, Body: make([]byte, 500)}
	if err := s.Create(context.Background(), id, &rec, false); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	v := uint64(1)
	for b.Loop() {
		v++
		if err := cycle(s, id, &rec, 7, v); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkTouch(b *testing.B) {
	for _, c := range []struct {
		name     string
		sessions int
	}{{"hot", 1}, {"cold1M", 1 << 20}} {
		b.Run(c.name, func(b *testing.B) {
			ids := benchIDs(c.sessions)
			s := benchStore(b, ids, func() any { return nil })
			rand.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				if err := s.Touch(context.Background(), ids[i&(c.sessions-1)]); err != nil {
					b.Fatal(err)
				}
				i++
			}
		})
	}
}

func BenchmarkLoad(b *testing.B) {
	id := benchIDs(1)[0]
	s := benchStore(b, []store.ID{id}, func() any { return nil })
	var rec store.Record
	b.ReportAllocs()
	for b.Loop() {
		if err := s.Load(context.Background(), id, &rec); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCreateRemove(b *testing.B) {
	id := benchIDs(1)[0]
	s := New(nil)
	defer s.Close()
	rec := store.Record{Version: 1, Timeout: 20 * time.Minute}
	b.ReportAllocs()
	for b.Loop() {
		if err := s.Create(context.Background(), id, &rec, false); err != nil {
			b.Fatal(err)
		}
		if err := s.Remove(context.Background(), id, store.Lock{}, store.Reason{Kind: store.Abandoned}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkParallel is the hot cycle on many sessions from all processors.
func BenchmarkParallel(b *testing.B) {
	ids := benchIDs(1 << 10)
	s := benchStore(b, ids, func() any { return new(fiveValues) })
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		var rec store.Record
		owner := store.NewOwner()
		for i := rand.Uint64(); pb.Next(); i++ {
			ctx, id := context.Background(), ids[i&(1<<10-1)]
			if s.Lock(ctx, id, store.LockOptions{Owner: owner, Stale: 20 * time.Second}, &rec) == nil {
				s.Save(ctx, id, &rec, store.Version(i), false)
			}
		}
	})
}

// BenchmarkMemory reports the bytes of one session among a million, all told: with
// its ID of 24 characters and, for "five", 80 bytes of content.
func BenchmarkMemory(b *testing.B) {
	for _, c := range []struct {
		name    string
		content func() any
	}{{"empty", func() any { return nil }}, {"five", func() any { return new(fiveValues) }}} {
		b.Run(c.name, func(b *testing.B) {
			var before, after runtime.MemStats
			ids := benchIDs(1 << 20)
			for b.Loop() {
				runtime.GC()
				runtime.ReadMemStats(&before)
				s := benchStore(b, ids, c.content)
				runtime.GC()
				runtime.ReadMemStats(&after)
				s.Close()
			}
			b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/(1<<20), "B/session")
		})
	}
}

// BenchmarkTick sweeps a store of a million sessions, a tick at each operation. They
// came evenly over time and live on ("spread"), or all came in one second and expire
// in one ("burst"). "worst" is the longest tick, "hold" the longest that a sweep had
// a shard to itself, which is what a request may have to wait.
func BenchmarkTick(b *testing.B) {
	const sessions, ticks = 1 << 20, 1200
	fill := func(b *testing.B, timeout time.Duration, over int) *Store {
		s := New(nil)
		s.Close() // the benchmark sweeps
		step := time.Duration(over) * tick / sessions
		for _, id := range benchIDs(sessions) {
			s.start = s.start.Add(-step) // the clock goes on
			rec := store.Record{Version: 1, Timeout: timeout}
			if err := s.Create(context.Background(), id, &rec, false); err != nil {
				b.Fatal(err)
			}
		}
		return s
	}
	sweep := func(s *Store) (all, hold time.Duration) {
		begin := time.Now()
		last := begin
		for done := false; !done; { // as sweepAll
			done = true
			for i := range s.shard {
				_, all := s.sweepSome(&s.shard[i])
				now := time.Now()
				hold, last, done = max(hold, now.Sub(last)), now, done && all
			}
		}
		return last.Sub(begin), hold
	}
	b.Run("spread", func(b *testing.B) {
		s := fill(b, 24*time.Hour, ticks)
		for range ticks {
			s.start = s.start.Add(-tick)
			sweep(s)
		}
		var all, hold []time.Duration
		b.ResetTimer()
		for range b.N {
			s.start = s.start.Add(-tick)
			a, h := sweep(s)
			all, hold = append(all, a), append(hold, h)
		}
		report(b, all, hold)
	})
	b.Run("burst", func(b *testing.B) {
		var all, hold []time.Duration
		for range b.N {
			b.StopTimer()
			s := fill(b, 20*time.Minute, 1)
			for range ticks - 2 {
				s.start = s.start.Add(-tick)
				sweep(s)
			}
			s.start = s.start.Add(-5 * tick)
			b.StartTimer()
			a, h := sweep(s)
			if n := s.count.Load(); n > 0 {
				b.Fatalf("%d sessions left", n)
			}
			all, hold = append(all, a), append(hold, h)
		}
		report(b, all, hold)
	})
}

// report reports the longest, and the longest but one in a hundred, which the other
// work of the machine disturbs less.
func report(b *testing.B, all, hold []time.Duration) {
	slices.Sort(all)
	slices.Sort(hold)
	at := func(d []time.Duration, percent int) float64 {
		return float64(d[(len(d)-1)*percent/100]) / float64(time.Microsecond)
	}
	b.ReportMetric(at(all, 99), "p99-tick-µs")
	b.ReportMetric(at(all, 100), "worst-tick-µs")
	b.ReportMetric(at(hold, 99), "p99-hold-µs")
	b.ReportMetric(at(hold, 100), "worst-hold-µs")
}
