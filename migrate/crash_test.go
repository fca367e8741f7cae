package migrate_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-session/holdfast/inproc"
	"github.com/holdfast-session/holdfast/migrate"
	"github.com/holdfast-session/holdfast/store"
	"github.com/holdfast-session/holdfast/storetest"
)

const (
	timeout     = 20 * time.Minute
	lockTimeout = 20 * time.Second
)

// A place is what the tests ask of a store.
type place interface {
	store.Lister
	store.Ender
}

// A world is two stores with one session in the old one, which many processes use.
type world struct {
	t        *testing.T
	ctx      context.Context
	from, to place
	id       store.ID
	stale    time.Duration // when a lock is taken over
	created  time.Time
	version  store.Version
	history  [3]store.Version
	forgets  bool
}

// newWorld has a session that was saved that many times. Where it was saved an even
// number of times, the stores forget at once why a session is not there.
func newWorld(t *testing.T, saves int) *world {
	o := &inproc.Options{Ends: 100}
	if saves%2 == 0 {
		o.Tombstones = -1
	}
	from, to := inproc.New(o), inproc.New(o)
	t.Cleanup(func() { from.Close(); to.Close() })
	w := &world{t: t, ctx: t.Context(), from: from, to: to, id: store.ID{App: "/shop", Session: "s"}, stale: lockTimeout, forgets: o.Tombstones < 0}
	w.begin(saves)
	return w
}

// begin begins the session.
func (w *world) begin(saves int) {
	w.t.Helper()
	rec := &store.Record{Version: store.NewVersion(), Timeout: timeout, Subject: "anna", Body: []byte("0 ")}
	w.ok(w.from.Create(w.ctx, w.id, rec, false), "Create")
	for range saves {
		next := store.NewVersion()
		w.ok(w.from.Save(w.ctx, w.id, rec, next, false), "Save")
		rec.Advance(next)
	}
	w.ok(w.from.Load(w.ctx, w.id, rec), "Load")
	w.created, w.version, w.history = rec.Created, rec.Version, rec.History
}

// process returns the store of a process in a phase, whose calls meet the faults f.
func (w *world) process(phase migrate.Phase, f *storetest.Faults) store.Store {
	from, to := store.Store(w.from), store.Store(w.to)
	if f != nil {
		from, to = f.Wrap(from), f.Wrap(to)
	}
	return migrate.New(from, to, &migrate.Options{Phase: phase})
}

func (w *world) ok(err error, what string) {
	w.t.Helper()
	if err != nil {
		w.t.Fatalf("%s: %v", what, err)
	}
}

// update appends what to the session under its lock, as a request does. Whether it was
// saved is not known if the error is neither nil nor one that refuses.
func (w *world) update(s store.Store, what string) error {
	o := store.LockOptions{Owner: store.NewOwner(), Wait: time.Minute, Stale: w.stale}
	var rec store.Record
	if err := patiently(func() error { return s.Lock(w.ctx, w.id, o, &rec) }); err != nil {
		return err
	}
	if rec.Flags != 0 || rec.Subject != "anna" || rec.Created.Sub(w.created).Abs() >= time.Second || rec.Acquired != rec.Version || !rec.Locked || rec.Lock.Owner != o.Owner {
		w.t.Errorf("Lock returned %+v", rec)
	}
	rec.Body = append(rec.Body, what+" "...)
	next := store.NewVersion()
	return patiently(func() error { return s.Save(w.ctx, w.id, &rec, next, false) })
}

// patiently repeats a call as package holdfast does, for a while.
func patiently(call func() error) (err error) {
	for range 3 {
		if err = call(); !errors.Is(err, store.ErrUnsure) && !errors.Is(err, store.ErrUnavailable) {
			return err
		}
	}
	return err
}

// body is what the session has, as every process sees it.
func (w *world) body() string {
	w.t.Helper()
	var first store.Record
	w.ok(w.process(migrate.Prepare, nil).Load(w.ctx, w.id, &first), "Load in the phase Prepare")
	var second store.Record
	w.ok(w.process(migrate.Move, nil).Load(w.ctx, w.id, &second), "Load in the phase Move")
	if string(first.Body) != string(second.Body) || first.Version != second.Version || first.History != second.History {
		w.t.Fatalf("the phases see %q, %d %d and %q, %d %d", first.Body, first.Version, first.History, second.Body, second.Version, second.History)
	}
	return string(first.Body)
}

// isGone checks that no process finds the session.
func (w *world) isGone(when string) {
	w.t.Helper()
	for _, phase := range []migrate.Phase{migrate.Prepare, migrate.Move} {
		s := w.process(phase, nil)
		err := s.Load(w.ctx, w.id, new(store.Record))
		// A mover that comes late takes its reservation away again, over the tombstone.
		if why := store.ReasonOf(err).Kind; !errors.Is(err, store.ErrNotFound) || why != store.Abandoned && !w.forgets && (when == "at once" || why != store.Unknown) {
			w.t.Fatalf("Load in phase %d %s: %v; want not found, abandoned", phase, when, err)
		}
		if err := s.Touch(w.ctx, w.id); !errors.Is(err, store.ErrNotFound) {
			w.t.Fatalf("Touch in phase %d %s: %v; want not found", phase, when, err)
		}
	}
}

// all moves everything and checks that the new place has so many sessions and the old
// one none.
func (w *world) all(want int) {
	w.t.Helper()
	o := &migrate.AllOptions{App: w.id.App, LockTimeout: w.stale}
	if w.stale < lockTimeout { // in real time, where a lock may be stale while it is used
		finish(w.t, w.from, w.to, o, migrate.All)
	} else if p, err := migrate.All(w.ctx, w.from, w.to, o); err != nil || p.Busy > 0 {
		w.t.Fatalf("All: %+v, %v", p, err)
	}
	old, _, err := w.from.List(w.ctx, store.Query{App: w.id.App})
	w.ok(err, "List")
	there, _, err := w.to.List(w.ctx, store.Query{App: w.id.App})
	w.ok(err, "List")
	if len(old) != 0 || len(there) != want {
		w.t.Fatalf("after All the old place has %d sessions and the new %d; want 0 and %d", len(old), len(there), want)
	}
	for _, one := range there {
		if one.Record.Flags != 0 {
			w.t.Fatalf("after All the session has flags %b", one.Record.Flags)
		}
	}
}

// What another process does while a mover stands still, or after it has died.
var deeds = map[string]func(w *world, s store.Store) (removed bool){
	"nothing": func(*world, store.Store) bool { return false },
	"Update": func(w *world, s store.Store) bool {
		w.ok(w.update(s, "2"), "update")
		return false
	},
	"SixUpdates": func(w *world, s store.Store) bool {
		for _, what := range "2abcde" {
			w.ok(w.update(s, string(what)), "update")
		}
		return false
	},
	"Remove": func(w *world, s store.Store) bool {
		w.ok(s.Remove(w.ctx, w.id, store.Lock{}, store.Reason{Kind: store.Abandoned}), "Remove")
		w.isGone("at once")
		return true
	},
	"UpdateAndRemove": func(w *world, s store.Store) bool {
		w.ok(w.update(s, "2"), "update")
		w.ok(s.Remove(w.ctx, w.id, store.Lock{}, store.Reason{Kind: store.Abandoned}), "Remove")
		w.isGone("at once")
		return true
	},
	// The old place ends the session by itself, as it does when it expires. What a
	// process was told of that stays true.
	"EndsByItself": func(w *world, s store.Store) bool {
		err := w.from.Remove(w.ctx, w.id, store.Lock{}, store.Reason{Kind: store.Abandoned})
		isMoved := errors.Is(err, store.ErrNotFound)
		err = s.Load(w.ctx, w.id, new(store.Record))
		switch {
		case errors.Is(err, store.ErrNotFound) && !isMoved:
			return true
		case err != nil || !isMoved && !w.forgets:
			w.t.Fatalf("Load of a session that ended in the old place: %v", err)
		}
		return false
	},
	"Merge": func(w *world, s store.Store) bool {
		var rec store.Record
		w.ok(s.Load(w.ctx, w.id, &rec), "Load")
		rec.Lock = store.Lock{}
		rec.Body = append(rec.Body, "2 "...)
		err := s.Save(w.ctx, w.id, &rec, store.NewVersion(), false)
		if locked := new(store.LockedError); errors.As(err, &locked) {
			err = w.update(s, "2")
		}
		w.ok(err, "Save")
		return false
	},
}

// check looks at the session after a mover that wanted to add "1", and what err it got,
// and another process has done its deed.
func (w *world) check(deed string, removed bool, err error) {
	w.t.Helper()
	if removed {
		if err == nil {
			w.t.Error("an update of a session that was removed succeeded")
		}
		w.isGone("in the end")
		w.all(0)
		w.isGone("after All")
		return
	}
	before := w.body()
	w.all(1)
	got := w.body()
	if got != before {
		w.t.Errorf("All changed the session from %q to %q", before, got)
	}
	twos := 1
	if deed == "nothing" || deed == "EndsByItself" {
		twos = 0
	}
	ones := strings.Count(got, "1 ")
	if !strings.HasPrefix(got, "0 ") || strings.Count(got, "2 ") != twos || ones > 1 || err == nil && ones != 1 {
		w.t.Errorf("the session has %q; want 2 %d times, and 1 as %v says", got, twos, err)
	}
}

// eachCall runs f for the first, second, … call that a mover makes to a store, until it
// makes no more, with every deed of a process in every phase.
func eachCall(t *testing.T, f func(w *world, n int, deed func(s store.Store) (removed bool), name string, other store.Store) (done bool)) {
	for name, deed := range deeds {
		for phase, of := range map[migrate.Phase]string{migrate.Prepare: "Prepare", migrate.Move: "Move"} {
			for _, saves := range []int{0, 1, 4} {
				t.Run(fmt.Sprintf("%s/%s/%d", name, of, saves), func(t *testing.T) {
					for n, done := 1, false; !done; n++ {
						if n > 50 {
							t.Fatal("a mover makes more than 50 calls")
						}
						synctest.Test(t, func(t *testing.T) {
							w := newWorld(t, saves)
							done = f(w, n, func(s store.Store) bool { return deed(w, s) }, name, w.process(phase, nil))
							if t.Failed() {
								done = true
								t.Logf("at call %d", n)
							}
						})
					}
				})
			}
		}
	}
}

// TestMoverStalls has a mover stand still before each of its calls until its lock is
// stale and another process has done something, and then go on.
func TestMoverStalls(t *testing.T) {
	eachCall(t, func(w *world, n int, deed func(store.Store) bool, name string, other store.Store) bool {
		var mu sync.Mutex
		calls := 0
		stalled, goOn := make(chan struct{}), make(chan struct{})
		f := &storetest.Faults{Before: func(context.Context, storetest.Call) {
			mu.Lock()
			calls++
			mine := calls == n
			mu.Unlock()
			if mine {
				close(stalled)
				<-goOn
			}
		}}
		result := make(chan error, 1)
		go func() { result <- w.update(w.process(migrate.Move, f), "1") }()
		synctest.Wait()
		select {
		case <-stalled:
		default:
			w.ok(<-result, "update")
			return true
		}
		time.Sleep(lockTimeout + time.Second)
		removed := deed(other)
		close(goOn)
		err := <-result
		if name != "nothing" && err != nil && !errors.Is(err, store.ErrNotFound) && !errors.Is(err, store.ErrLockLost) {
			w.t.Errorf("the update of a mover that stood still: %v", err)
		}
		w.check(name, removed, err)
		return false
	})
}

// TestMoverDies has a mover die before and after each of its calls, and another process
// go on.
func TestMoverDies(t *testing.T) {
	for name, last := range map[string]storetest.Fault{"Before": storetest.Refuse, "After": storetest.LoseReply} {
		t.Run(name, func(t *testing.T) {
			eachCall(t, func(w *world, n int, deed func(store.Store) bool, name string, other store.Store) bool {
				err, died := w.updateAndDie(n, last)
				if !died {
					w.ok(err, "update")
					return true
				}
				time.Sleep(lockTimeout + time.Second)
				removed := deed(other)
				w.check(name, removed, err)
				return false
			})
		})
	}
}

// updateAndDie has a mover update the session and die at its n-th call, if it makes as many.
func (w *world) updateAndDie(n int, last storetest.Fault) (err error, died bool) {
	var mu sync.Mutex
	calls := 0
	f := &storetest.Faults{Rule: func(storetest.Call) storetest.Fault {
		mu.Lock()
		defer mu.Unlock()
		calls++
		switch {
		case calls < n:
			return storetest.None
		case calls == n:
			return last
		}
		return storetest.Refuse
	}}
	err = w.update(w.process(migrate.Move, f), "1")
	return err, calls >= n
}

// TestCallFailsOnce has each call of a mover fail once, or lose its reply once; the
// visitor notices nothing.
func TestCallFailsOnce(t *testing.T) {
	for name, fault := range map[string]storetest.Fault{"Refused": storetest.Refuse, "ReplyLost": storetest.LoseReply} {
		t.Run(name, func(t *testing.T) {
			eachCall(t, func(w *world, n int, deed func(store.Store) bool, name string, other store.Store) bool {
				var mu sync.Mutex
				calls := 0
				f := &storetest.Faults{Rule: func(storetest.Call) storetest.Fault {
					mu.Lock()
					defer mu.Unlock()
					if calls++; calls == n {
						return fault
					}
					return storetest.None
				}}
				err := w.update(w.process(migrate.Move, f), "1")
				w.ok(err, "update")
				removed := deed(other)
				if removed {
					err = store.ErrNotFound // afterwards
				}
				w.check(name, removed, err)
				return calls < n
			})
		})
	}
}

// TestMovedIsTheSame has nothing but the lock changed by a move, and the ends of the
// session are what they are without.
func TestMovedIsTheSame(t *testing.T) {
	for saves := range 6 {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, saves)
			s := w.process(migrate.Move, nil)
			var rec store.Record
			w.ok(s.Lock(w.ctx, w.id, store.LockOptions{Owner: store.NewOwner()}, &rec), "Lock")
			if rec.Version != w.version || rec.History != w.history || !rec.Created.Equal(w.created) {
				t.Errorf("after %d saves and a move: version %d, history %d, created %v; want %d, %d, %v", saves, rec.Version, rec.History, rec.Created, w.version, w.history, w.created)
			}
			w.ok(s.Unlock(w.ctx, w.id, rec.Lock), "Unlock")
			err := w.from.Load(w.ctx, w.id, new(store.Record))
			if why := store.ReasonOf(err); !w.forgets && (why.Kind != store.Moved || why.To != "new store") {
				t.Errorf("Load in the old place: %v, to %q", err, why.To)
			}
			// Whoever saved there, and got no reply, is recognised here.
			w.ok(s.Save(w.ctx, w.id, &store.Record{Version: w.history[0], Timeout: timeout}, w.version, false), "Save, repeated")
			if got := w.body(); got != "0 " {
				t.Errorf("the session has %q", got)
			}
			e := s.(store.Ender)
			if ends, err := e.Ended(w.ctx, w.id.App, 10, time.Minute); err != nil || len(ends) != 0 {
				t.Errorf("a session that moved has the ends %+v, %v", ends, err)
			}
			w.ok(s.Remove(w.ctx, w.id, store.Lock{}, store.Reason{Kind: store.Abandoned}), "Remove")
			if ends, err := e.Ended(w.ctx, w.id.App, 10, time.Minute); err != nil || len(ends) != 1 || string(ends[0].Record.Body) != "0 " {
				t.Errorf("a session that moved and was removed has the ends %+v, %v; want one", ends, err)
			}
		})
	}
}
