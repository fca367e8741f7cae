package logstore

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/holdfast-session/holdfast/store"
)

var background = context.Background()

// benchIDs are IDs of 43 characters, as package holdfast draws them.
func benchIDs(n int) []store.ID {
	ids := make([]store.ID, n)
	for i := range ids {
		ids[i] = store.ID{App: "/", Session: fmt.Sprintf("%043d", i)}
	}
	return ids
}

func benchStore(tb testing.TB, dir string, o *Options, ids []store.ID) *Store {
	s, err := Open(dir, o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { s.Close() })
	body := make([]byte, 500)
	for _, id := range ids {
		rec := store.Record{Version: store.NewVersion(), Timeout: 24 * time.Hour, Body: body}
		if err := s.Create(background, id, &rec, false); err != nil {
			tb.Fatal(err)
		}
	}
	return s
}

var sizes = []struct {
	name     string
	sessions int
}{{"1k", 1 << 10}, {"1M", 1 << 20}}

func BenchmarkLoad(b *testing.B) {
	for _, c := range sizes {
		b.Run(c.name, func(b *testing.B) {
			ids := benchIDs(c.sessions)
			s := benchStore(b, b.TempDir(), nil, ids)
			rand.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
			var rec store.Record
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				if err := s.Load(background, ids[i&(c.sessions-1)], &rec); err != nil {
					b.Fatal(err)
				}
				i++
			}
		})
	}
}

// cycle is what an exclusive request costs: take the lock, read, write, give the
// lock up.
func cycle(s *Store, id store.ID, rec *store.Record, owner, version uint64) error {
	if err := s.Lock(background, id, store.LockOptions{Owner: owner, Stale: 20 * time.Second}, rec); err != nil {
		return err
	}
	return s.Save(background, id, rec, store.Version(version), false)
}

func BenchmarkCycle(b *testing.B) {
	for _, c := range sizes {
		b.Run(c.name, func(b *testing.B) {
			ids := benchIDs(c.sessions)
			s := benchStore(b, b.TempDir(), nil, ids)
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

// BenchmarkParallel is the cycle from 64 goroutines.
func BenchmarkParallel(b *testing.B) {
	for _, c := range []struct {
		name string
		sync Sync
	}{{"Interval", Interval}, {"Always", Always}} {
		b.Run(c.name, func(b *testing.B) {
			ids := benchIDs(1 << 16)
			s := benchStore(b, b.TempDir(), &Options{}, ids)
			if c.sync == Always {
				dir := b.TempDir()
				s.Close()
				s = benchStore(b, dir, &Options{}, ids)
				s.Close()
				s = benchStore(b, dir, &Options{Sync: Always}, nil)
			}
			b.SetParallelism(64 / runtime.GOMAXPROCS(0))
			b.ReportAllocs()
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				var rec store.Record
				owner := store.NewOwner()
				for i := rand.Uint64(); pb.Next(); i += 7919 {
					if err := cycle(s, ids[i&(1<<16-1)], &rec, owner, i|1); err != nil {
						if locked := new(store.LockedError); !errors.As(err, &locked) {
							b.Error(err)
						}
					}
				}
			})
		})
	}
}

// BenchmarkMemory reports the bytes of one session among a million, all told: with an
// ID of 43 characters and a body of 500 bytes. "GC" is what a collection takes then.
func BenchmarkMemory(b *testing.B) {
	const sessions = 1 << 20
	var before, after runtime.MemStats
	ids := benchIDs(sessions)
	for b.Loop() {
		runtime.GC()
		runtime.ReadMemStats(&before)
		s := benchStore(b, b.TempDir(), nil, ids)
		runtime.GC()
		begun := time.Now()
		runtime.GC()
		took := time.Since(begun)
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(took.Microseconds())/1000, "GC-ms")
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/sessions, "B/session")
		b.ReportMetric(float64(after.HeapObjects-before.HeapObjects), "objects")
		s.Close()
	}
}

// BenchmarkReopen opens a folder with a million sessions: with a snapshot, as after a
// graceful stop, and from the log alone.
func BenchmarkReopen(b *testing.B) {
	const sessions = 1 << 20
	dir := b.TempDir()
	s := benchStore(b, dir, nil, benchIDs(sessions))
	for _, name := range []string{"Snapshot", "Log"} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				s.Close()
				if name == "Log" {
					snapshots, _ := filepath.Glob(filepath.Join(dir, "*.snap"))
					for _, file := range snapshots {
						os.Remove(file)
					}
				}
				b.StartTimer()
				s = benchStore(b, dir, nil, nil)
				if n := s.Stats().Sessions; n != sessions {
					b.Fatalf("%d sessions", n)
				}
			}
		})
	}
}
