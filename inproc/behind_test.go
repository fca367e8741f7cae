package inproc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-session/holdfast/store"
	"github.com/holdfast-session/holdfast/storetest"
)

func backedNo(i int) store.ID { return store.ID{App: "/shop", Session: fmt.Sprint(i)} }

func backedRec(timeout time.Duration) *store.Record {
	return &store.Record{Version: store.NewVersion(), Timeout: timeout, Body: []byte("x")}
}

// slow delays all calls of a method by what it returns, in nanoseconds.
func slow(method string) (f *storetest.Faults, by *atomic.Int64) {
	by = new(atomic.Int64)
	return &storetest.Faults{Before: func(_ context.Context, c storetest.Call) {
		if c.Method == method {
			time.Sleep(time.Duration(by.Load()))
		}
	}}, by
}

// outage refuses all calls of these methods (of all, if none is named) while it lasts.
func outage(methods ...string) (f *storetest.Faults, down *atomic.Bool) {
	down = new(atomic.Bool)
	return &storetest.Faults{Rule: func(c storetest.Call) storetest.Fault {
		if down.Load() && (len(methods) == 0 || slices.Contains(methods, c.Method)) {
			return storetest.Refuse
		}
		return storetest.None
	}}, down
}

// neighbour returns the number of another session that has the stripe of i.
func (s *Store) neighbour(i int) int {
	other := i + 1
	for s.behind.stripeOf(s.key(backedNo(other))) != s.behind.stripeOf(s.key(backedNo(i))) {
		other++
	}
	return other
}

// TestCallGivesUpBehindAnother: who waits for another's slow call of the backing waits
// no longer than he wants to.
func TestCallGivesUpBehindAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, inner := t.Context(), New(nil)
		defer inner.Close()
		f, by := slow("Load")
		s := New(&Options{Backing: f.Wrap(inner)})
		defer s.Close()
		by.Store(int64(time.Minute))
		go s.Load(ctx, backedNo(1), new(store.Record))
		synctest.Wait()
		for name, call := range map[string]func(ctx context.Context, id store.ID) error{
			"Load":   func(ctx context.Context, id store.ID) error { return s.Load(ctx, id, new(store.Record)) },
			"Create": func(ctx context.Context, id store.ID) error { return s.Create(ctx, id, backedRec(time.Hour), false) },
			"Remove": func(ctx context.Context, id store.ID) error {
				return s.Remove(ctx, id, store.Lock{}, store.Reason{Kind: store.Abandoned})
			},
		} {
			begun := time.Now()
			short, cancel := context.WithTimeout(ctx, time.Second)
			err := call(short, backedNo(s.neighbour(1)))
			cancel()
			if took := time.Since(begun); !errors.Is(err, context.DeadlineExceeded) || took != time.Second {
				t.Errorf("%s with a second to go, behind a slow one: %v after %v", name, err, took)
			}
		}
		time.Sleep(2 * time.Minute)
	})
}

// TestTouchIsRepeated has the backing fail when it is to be told that a session was used:
// it is told later, or when the store is closed.
func TestTouchIsRepeated(t *testing.T) {
	for _, closed := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			ctx, inner := t.Context(), New(nil)
			defer inner.Close()
			f, down := outage()
			s := New(&Options{Backing: f.Wrap(inner)})
			mustDo(t, s.Create(ctx, backedNo(1), backedRec(10*time.Minute), false))
			time.Sleep(8 * time.Minute)
			down.Store(true)
			mustDo(t, s.Load(ctx, backedNo(1), new(store.Record)))
			time.Sleep(time.Minute)
			if closed {
				if err := s.Close(); err == nil {
					t.Error("Close succeeds, and the backing does not know that a session was used")
				}
				down.Store(false)
				mustDo(t, s.Close())
			}
			down.Store(false)
			time.Sleep(4 * time.Minute)
			mustDo(t, s.Close())
			s = New(&Options{Backing: inner})
			defer s.Close()
			if err := s.Load(ctx, backedNo(1), new(store.Record)); err != nil {
				t.Errorf("closed meanwhile: %v; 5 minutes after its last use, timeout 10 minutes: %v", closed, err)
			}
		})
	}
}

// TestUsedBeforeLeaving: a session that was used just before it leaves memory has its
// whole timeout from then.
func TestUsedBeforeLeaving(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, inner := t.Context(), New(nil)
		defer inner.Close()
		s := New(&Options{Backing: inner, MaxSessions: 1})
		defer s.Close()
		mustDo(t, s.Create(ctx, backedNo(1), backedRec(20*time.Minute), false))
		time.Sleep(19*time.Minute + time.Second/2)
		mustDo(t, s.Load(ctx, backedNo(1), new(store.Record)))
		mustDo(t, s.Create(ctx, backedNo(2), backedRec(20*time.Minute), false))
		time.Sleep(19 * time.Minute)
		if err := s.Load(ctx, backedNo(1), new(store.Record)); err != nil {
			t.Errorf("19 minutes after its last use, timeout 20 minutes: %v", err)
		}
	})
}

// TestUsedAndBackingFails: a session of which the backing cannot be told that it was used
// does not leave memory, and nobody waits long for it to do so.
func TestUsedAndBackingFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, inner := t.Context(), New(nil)
		defer inner.Close()
		f, down := outage("Touch")
		s := New(&Options{Backing: f.Wrap(inner), MaxSessions: 1})
		mustDo(t, s.Create(ctx, backedNo(1), backedRec(20*time.Minute), false))
		time.Sleep(19 * time.Minute)
		down.Store(true)
		mustDo(t, s.Load(ctx, backedNo(1), new(store.Record)))
		begun := time.Now()
		if err := s.Create(ctx, backedNo(2), backedRec(20*time.Minute), false); !errors.Is(err, store.ErrFull) {
			t.Errorf("Create where no session can leave memory: %v; want ErrFull", err)
		}
		if took := time.Since(begun); took > 3*time.Second {
			t.Errorf("Create took %v", took)
		}
		time.Sleep(18 * time.Minute)
		mustDo(t, s.Load(ctx, backedNo(1), new(store.Record)))
		down.Store(false)
		time.Sleep(11 * time.Second) // the backing, where it has expired, has it again
		mustDo(t, s.Create(ctx, backedNo(2), backedRec(20*time.Minute), false))
		mustDo(t, s.Load(ctx, backedNo(1), new(store.Record)))
		mustDo(t, s.Close())
	})
}

// TestExpiresWhileWritten: a session that expires while it is written does not return
// after a restart.
func TestExpiresWhileWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, inner := t.Context(), New(nil)
		defer inner.Close()
		f, by := slow("Create")
		by.Store(int64(3 * time.Second))
		s := New(&Options{Backing: f.Wrap(inner)})
		mustDo(t, s.Create(ctx, backedNo(1), backedRec(3*time.Second), false))
		time.Sleep(10 * time.Second)
		wantExpired := func(when string) {
			t.Helper()
			if err := s.Load(ctx, backedNo(1), new(store.Record)); store.ReasonOf(err).Kind != store.Expired {
				t.Errorf("%s: %v; want expired", when, err)
			}
		}
		wantExpired("before the restart")
		mustDo(t, s.Close())
		s = New(&Options{Backing: inner})
		defer s.Close()
		wantExpired("after the restart")
	})
}

// TestAnotherAfterExpiry: a session that is created under the ID of one that has just
// expired is not taken for it by the backing.
func TestAnotherAfterExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, inner := t.Context(), New(nil)
		defer inner.Close()
		s := New(&Options{Backing: inner})
		mustDo(t, s.Create(ctx, backedNo(1), backedRec(30*time.Second), false))
		time.Sleep(30*time.Second + time.Millisecond)
		if err := s.Load(ctx, backedNo(1), new(store.Record)); !errors.Is(err, store.ErrNotFound) {
			t.Fatalf("after the timeout: %v", err)
		}
		mustDo(t, s.Create(ctx, backedNo(1), backedRec(time.Hour), false))
		var before, after store.Record
		mustDo(t, s.Load(ctx, backedNo(1), &before))
		mustDo(t, s.Close())
		s = New(&Options{Backing: inner})
		defer s.Close()
		mustDo(t, s.Load(ctx, backedNo(1), &after))
		if !after.Created.Equal(before.Created) {
			t.Errorf("Created was %v, and is %v after a restart", before.Created, after.Created)
		}
	})
}

// TestLateRemoval has the backing slow to remove sessions that expired. Meanwhile the ID
// of one of them is created again, written, and leaves memory: it is not removed.
func TestLateRemoval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, inner := t.Context(), New(nil)
		defer inner.Close()
		f, by := slow("Remove")
		s := New(&Options{Backing: f.Wrap(inner), MaxSessions: 3, BackingInterval: 3 * time.Second})
		defer s.Close()
		for i := range 3 {
			mustDo(t, s.Create(ctx, backedNo(i), backedRec(4*time.Second), false))
		}
		time.Sleep(3500 * time.Millisecond) // written
		by.Store(int64(20 * time.Second))
		time.Sleep(3 * time.Second) // expired, and the worker is in the middle of the first removal
		synctest.Wait()
		by.Store(0)
		again := 0
		for len(s.behind.stripeOf(s.key(backedNo(again)))) > 0 {
			again++
		}
		mustDo(t, s.Create(ctx, backedNo(again), backedRec(time.Hour), false))
		for i := 10; i < 20; i++ { // others, for which it leaves memory
			mustDo(t, s.Create(ctx, backedNo(i), backedRec(time.Hour), false))
		}
		time.Sleep(time.Minute)
		if err := s.Load(ctx, backedNo(again), new(store.Record)); err != nil {
			t.Errorf("a minute after it was created, timeout an hour: %v", err)
		}
	})
}

// TestListWaitsForOthers: a session that is not written yet because another of its stripe
// is being read, is in the list all the same.
func TestListWaitsForOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, inner := t.Context(), New(nil)
		defer inner.Close()
		f, by := slow("Load")
		s := New(&Options{Backing: f.Wrap(inner), BackingInterval: time.Hour})
		defer s.Close()
		rec := backedRec(time.Hour)
		rec.Subject = "alice"
		mustDo(t, s.Create(ctx, backedNo(1), rec, false))
		by.Store(int64(time.Minute))
		go s.Load(ctx, backedNo(s.neighbour(1)), new(store.Record))
		synctest.Wait()
		page, _, err := s.List(ctx, store.Query{App: "/shop", Subject: "alice"})
		if err != nil || len(page) != 1 {
			t.Errorf("List of a subject with one session: %d sessions, %v", len(page), err)
		}
	})
}

// A refusing store takes all sessions but one.
type refusing struct{ store.Store }

func (r refusing) Create(ctx context.Context, id store.ID, rec *store.Record, hold bool) error {
	if id == backedNo(7) {
		return store.ErrTooLarge
	}
	return r.Store.Create(ctx, id, rec, hold)
}

// TestOneRefusedByBacking: a session that the backing does not take keeps no other from
// being written.
func TestOneRefusedByBacking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, inner := t.Context(), New(nil)
		defer inner.Close()
		s := New(&Options{Backing: refusing{inner}, BackingInterval: time.Hour})
		for i := range 1000 {
			mustDo(t, s.Create(ctx, backedNo(i), backedRec(time.Hour), false))
		}
		if err := s.Close(); !errors.Is(err, store.ErrTooLarge) {
			t.Errorf("Close: %v; want ErrTooLarge", err)
		}
		if n := inner.count.Load(); n != 999 {
			t.Errorf("of 1000 sessions, one of which is too large for the backing, it has %d", n)
		}
	})
}

// TestDamagedEndInBacking damages what a session held that ends in the backing: its end
// comes without, and those of others as they are.
func TestDamagedEndInBacking(t *testing.T) {
	p := &place{dir: t.TempDir()}
	const content = "the one that is damaged"
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		s := New(&Options{Backing: p.open(t)})
		_, err := s.Ended(ctx, "/shop", 0, time.Second)
		mustDo(t, err)
		rec := backedRec(3 * time.Second)
		rec.Body = []byte(content)
		mustDo(t, s.Create(ctx, backedNo(1), rec, false))
		mustDo(t, s.Create(ctx, backedNo(2), backedRec(3*time.Second), false))
		mustDo(t, s.Close())
		mustDo(t, p.s.Close())

		files, err := filepath.Glob(filepath.Join(p.dir, "*.seg"))
		mustDo(t, err)
		damaged := 0
		for _, name := range files {
			b, err := os.ReadFile(name)
			mustDo(t, err)
			damaged += bytes.Count(b, []byte(content))
			mustDo(t, os.WriteFile(name, bytes.ReplaceAll(b, []byte(content), []byte("THE ONE THAT IS DAMAGED")), 0o600))
		}
		if damaged == 0 {
			t.Fatal("no content was found in the log")
		}

		s = New(&Options{Backing: p.open(t)}) // nothing is in memory, not there either
		defer s.Close()
		_, err = s.Ended(ctx, "/shop", 0, time.Second)
		mustDo(t, err)
		time.Sleep(time.Minute)
		ends, err := s.Ended(ctx, "/shop", 10, time.Second)
		if err != nil || len(ends) != 2 {
			t.Fatalf("Ended: %d ends, %v; want 2", len(ends), err)
		}
		for _, e := range ends {
			want := "x"
			if e.ID == backedNo(1) {
				want = ""
			}
			if string(e.Record.Body) != want || e.Record.Timeout != 3*time.Second {
				t.Errorf("the end of %s has the content %q and the timeout %v; want %q and 3s", e.ID.Session, e.Record.Body, e.Record.Timeout, want)
			}
		}
	})
}

// TestRemoveUnsureInBacking: a session whose removal had no answer from the backing, and
// is not repeated, is there; also after a restart.
func TestRemoveUnsureInBacking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, inner := t.Context(), New(nil)
		defer inner.Close()
		f := &storetest.Faults{Rule: storetest.Nth("Remove", 1, storetest.LoseReply)}
		s := New(&Options{Backing: f.Wrap(inner)})
		mustDo(t, s.Create(ctx, backedNo(1), backedRec(time.Hour), false))
		time.Sleep(2 * time.Second)
		if err := s.Remove(ctx, backedNo(1), store.Lock{}, store.Reason{Kind: store.Abandoned}); !errors.Is(err, store.ErrUnsure) {
			t.Errorf("Remove: %v; want ErrUnsure", err)
		}
		mustDo(t, s.Load(ctx, backedNo(1), new(store.Record)))
		mustDo(t, s.Close())
		s = New(&Options{Backing: inner})
		defer s.Close()
		if err := s.Load(ctx, backedNo(1), new(store.Record)); err != nil {
			t.Errorf("a session that was there when the store was closed: %v", err)
		}
	})
}

// TestChangeWhileClosing: a change that is under way while the store is closed is refused,
// or is there after a restart.
func TestChangeWhileClosing(t *testing.T) {
	for _, kind := range []string{"Create", "Save"} {
		synctest.Test(t, func(t *testing.T) {
			ctx, inner := t.Context(), New(nil)
			defer inner.Close()
			f, by := slow("Load")
			s := New(&Options{Backing: f.Wrap(inner)})
			rec := backedRec(time.Hour)
			if kind == "Save" {
				mustDo(t, s.Create(ctx, backedNo(1), rec, false))
				mustDo(t, s.Close())
				s = New(&Options{Backing: f.Wrap(inner)})
			}
			by.Store(int64(time.Second))
			changed := make(chan error)
			go func() {
				if kind == "Save" {
					next := store.NewVersion()
					err := s.Save(ctx, backedNo(1), rec, next, false)
					rec.Advance(next)
					changed <- err
				} else {
					changed <- s.Create(ctx, backedNo(1), rec, false)
				}
			}()
			time.Sleep(time.Second / 2)
			mustDo(t, s.Close())
			err := <-changed
			if errors.Is(err, store.ErrUnavailable) {
				return
			}
			var there store.Record
			if load := inner.Load(ctx, backedNo(1), &there); err != nil || load != nil || there.Version != rec.Version {
				t.Errorf("%s: %v; in the backing: %v, version %x; want ErrUnavailable, or %x", kind, err, load, there.Version, rec.Version)
			}
		})
	}
}
