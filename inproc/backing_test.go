package inproc

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-session/holdfast/logstore"
	"github.com/holdfast-session/holdfast/store"
	"github.com/holdfast-session/holdfast/storetest"
)

// kill ends a store as its process ends that is killed.
func (s *Store) kill() {
	s.sweeper.Close()
	s.behind.once.Do(func() {
		s.behind.closed.Store(true)
		close(s.behind.stop)
		<-s.behind.done
	})
}

// pageOutAll takes all sessions out of memory again and again that may leave it, except
// those that are to expire soon, which they would do late.
func (s *Store) pageOutAll() {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-s.behind.stop:
			return
		}
		s.flush(context.Background(), 1<<30, false)
		for i := range s.shard {
			sh := &s.shard[i]
			for _, at := range sh.from(nil, 0) {
				sh.mu.Lock()
				used, lives := at.e.used(s.now()), at.e.timeout > 60
				sh.mu.Unlock()
				if lives {
					s.endUnused(candidate{sh, at.key, at.e, used})
				}
			}
		}
	}
}

// A place is a folder that outlives the store in front of it.
type place struct {
	dir string
	s   *logstore.Store
}

func (p *place) open(t testing.TB) store.Store {
	if p.s != nil {
		p.s.Close()
	}
	s, err := logstore.Open(p.dir, nil)
	mustDo(t, err)
	p.s = s
	t.Cleanup(func() { s.Close() })
	return s
}

// TestBackingContract runs the suite with sessions that are read back after a restart:
// all of them after a graceful one, and after a crash what was there an interval
// before; and with sessions that leave memory again and again.
func TestBackingContract(t *testing.T) {
	for name, pages := range map[string]bool{"Stay": false, "Leave": true} {
		places := make(map[store.Store]*place)
		open := func(t testing.TB, p *place, o *Options) store.Store {
			o.Backing = p.open(t)
			s := New(o)
			t.Cleanup(func() { s.Close() })
			if pages {
				go s.pageOutAll()
			}
			places[s] = p
			return s
		}
		h := storetest.Harness{
			Bubble: true,
			Open:   func(t testing.TB) store.Store { return open(t, &place{dir: t.TempDir()}, &Options{Ends: 10000}) },
		}
		if pages { // a lock that changed nothing is forgotten then
			h.Lacks = append(h.Lacks, storetest.Acquired)
		}
		t.Run(name+"/Ends", func(t *testing.T) { storetest.Run(t, h) })

		h.Open = func(t testing.TB) store.Store { return open(t, &place{dir: t.TempDir()}, &Options{}) }
		h.Restart = func(t testing.TB, s store.Store, crash bool) store.Store {
			if crash {
				time.Sleep(2 * defaultBackingInterval)
				s.(*Store).kill()
			} else if err := s.(*Store).Close(); err != nil {
				t.Error(err)
			}
			return open(t, places[s], &Options{})
		}
		h.Lacks = append(h.Lacks, storetest.LocksOverRestart, storetest.ReliableEnds)
		t.Run(name, func(t *testing.T) { storetest.Run(t, h) })
	}
}

var backedID = store.ID{App: "/shop", Session: "s"}

func mustDo(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestBackingFails has the backing fail for a while: nobody is refused, and nothing is
// lost once it is there again; what ends meanwhile is refused, and does not end.
func TestBackingFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, inner := t.Context(), New(nil)
		defer inner.Close()
		var down bool
		f := &storetest.Faults{Rule: func(storetest.Call) storetest.Fault {
			if down {
				return storetest.Refuse
			}
			return storetest.None
		}}
		s := New(&Options{Backing: f.Wrap(inner)})
		rec := &store.Record{Version: store.NewVersion(), Timeout: time.Hour, Body: []byte("v0")}
		mustDo(t, s.Create(ctx, backedID, rec, false))
		time.Sleep(2 * time.Second)
		synctest.Wait()
		down = true
		for i := range 10 {
			rec.Body = []byte(fmt.Sprint("v", i+1))
			next := store.NewVersion()
			mustDo(t, s.Save(ctx, backedID, rec, next, false))
			rec.Advance(next)
			time.Sleep(time.Second)
			synctest.Wait()
		}
		if err := s.Remove(ctx, backedID, store.Lock{}, store.Reason{Kind: store.Abandoned}); !errors.Is(err, store.ErrUnavailable) {
			t.Fatalf("Remove while the backing is down: %v; want ErrUnavailable", err)
		}
		mustDo(t, s.Touch(ctx, backedID))
		if err := s.Close(); err == nil {
			t.Fatal("Close wrote to a backing that is down")
		}
		if err := s.Save(ctx, backedID, rec, store.NewVersion(), false); !errors.Is(err, store.ErrUnavailable) {
			t.Fatalf("Save after Close: %v; want ErrUnavailable", err)
		}
		down = false
		mustDo(t, s.Close())

		s = New(&Options{Backing: inner})
		defer s.Close()
		var got store.Record
		mustDo(t, s.Load(ctx, backedID, &got))
		if string(got.Body) != "v10" || got.Version != rec.Version || got.History != rec.History || got.Timeout != time.Hour {
			t.Errorf("after the restart: %+v; want %+v", got, rec)
		}
		mustDo(t, s.Remove(ctx, backedID, store.Lock{}, store.Reason{Kind: store.Regenerated, To: "another"}))
		mustDo(t, s.Close())
		s = New(&Options{Backing: inner})
		defer s.Close()
		err := s.Load(ctx, backedID, &got)
		if why := store.ReasonOf(err); why.Kind != store.Regenerated || why.To != "another" {
			t.Errorf("Load after another restart: %v, to %q; want regenerated, to another", err, why.To)
		}
	})
}

// TestBackpressure has more sessions change than may wait: Create writes some itself,
// and is refused if it cannot.
func TestBackpressure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, inner := t.Context(), New(nil)
		defer inner.Close()
		s := New(&Options{Backing: inner, BackingInterval: time.Hour})
		defer s.Close()
		for i := range maxBehind + 5000 {
			id := store.ID{App: "/shop", Session: fmt.Sprint(i)}
			mustDo(t, s.Create(ctx, id, &store.Record{Version: store.NewVersion(), Timeout: time.Hour}, false))
		}
		if n := s.behind.dirty.Load(); n > maxBehind {
			t.Errorf("%d sessions wait to be written; want %d at most", n, maxBehind)
		}
		mustDo(t, s.Close())
		if n := inner.count.Load(); n != maxBehind+5000 {
			t.Errorf("the backing has %d sessions; want %d", n, maxBehind+5000)
		}
	})
}

// TestReadingKeepsBacked has a session that is only read for longer than its timeout:
// it is there after a restart.
func TestReadingKeepsBacked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, inner := t.Context(), New(nil)
		defer inner.Close()
		s := New(&Options{Backing: inner})
		mustDo(t, s.Create(ctx, backedID, &store.Record{Version: store.NewVersion(), Timeout: time.Minute}, false))
		for range 20 {
			time.Sleep(50 * time.Second)
			mustDo(t, s.Load(ctx, backedID, new(store.Record)))
		}
		time.Sleep(30 * time.Second)
		s.kill()
		s = New(&Options{Backing: inner})
		defer s.Close()
		mustDo(t, s.Load(ctx, backedID, new(store.Record)))

		// And one that nobody reads expires in the end, though it is in the backing alone.
		time.Sleep(2 * time.Minute)
		if err := s.Load(ctx, backedID, new(store.Record)); store.ReasonOf(err).Kind != store.Expired {
			t.Errorf("Load after the timeout: %v; want expired", err)
		}
	})
}

// TestBackedCrowd has many sessions, of which few have room in memory, counted up by
// many, with restarts; every update is there in the end, once.
func TestBackedCrowd(t *testing.T) {
	inner := New(nil)
	defer inner.Close()
	const sessions, workers, rounds = 40, 8, 300
	ctx := context.Background()
	var want [sessions]int
	for restart := range 3 {
		s := New(&Options{Backing: inner, BackingInterval: time.Millisecond, MaxSessions: 20})
		var mu sync.Mutex
		var wg sync.WaitGroup
		for range workers {
			wg.Go(func() {
				for range rounds {
					i := rand.IntN(sessions)
					id := store.ID{App: "/shop", Session: fmt.Sprint(i)}
					var rec store.Record
					o := store.LockOptions{Owner: store.NewOwner(), Wait: time.Minute}
					err := s.Lock(ctx, id, o, &rec)
					if errors.Is(err, store.ErrNotFound) {
						s.Create(ctx, id, &store.Record{Version: store.NewVersion(), Timeout: time.Hour}, false)
						err = s.Lock(ctx, id, o, &rec)
					}
					if err == nil {
						rec.Body = append(rec.Body, '.')
						err = s.Save(ctx, id, &rec, store.NewVersion(), false)
					}
					if err != nil {
						t.Errorf("restart %d: %v", restart, err)
						return
					}
					mu.Lock()
					want[i]++
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		if n := s.count.Load(); n > 20 {
			t.Errorf("%d sessions in memory; want 20 at most", n)
		}
		mustDo(t, s.Close())
	}
	s := New(&Options{Backing: inner})
	defer s.Close()
	for i, n := range want {
		var rec store.Record
		err := s.Load(ctx, store.ID{App: "/shop", Session: fmt.Sprint(i)}, &rec)
		if n > 0 && (err != nil || strings.Count(string(rec.Body), ".") != n) {
			t.Errorf("session %d has %d updates, %v; want %d", i, len(rec.Body), err, n)
		}
	}
}
