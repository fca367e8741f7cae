package migrate_test

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

	"github.com/holdfast-session/holdfast/migrate"
	"github.com/holdfast-session/holdfast/store"
	"github.com/holdfast-session/holdfast/storetest"
)

// pause delays a call to one of the two stores, so that those of several processes fall
// between each other.
func pause(context.Context, storetest.Call) { time.Sleep(rand.N(2 * time.Millisecond)) }

// TestCrowd has many visitors of one session in processes of both phases update it,
// with and without the lock, while movers go over the stores and calls are refused and
// replies lost.
func TestCrowd(t *testing.T) {
	for name, rule := range map[string]func(uint64) func(storetest.Call) storetest.Fault{
		"": func(uint64) func(storetest.Call) storetest.Fault { return nil },
		"Faults": func(seed uint64) func(storetest.Call) storetest.Fault {
			return storetest.Random(seed, 0.02, 0.02)
		},
	} {
		for round := range 30 {
			seed := rand.Uint64()
			t.Run(fmt.Sprint(name, round), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t, round%5)
					f := func(n uint64) *storetest.Faults {
						return &storetest.Faults{Rule: rule(seed + n), Before: pause, After: pause}
					}
					processes := []store.Store{w.process(migrate.Prepare, f(0)), w.process(migrate.Move, f(1)), w.process(migrate.Move, f(2))}
					const visitors = 15
					outcome := make([]error, visitors)
					var wg sync.WaitGroup
					for i := range visitors {
						s := processes[i%len(processes)]
						wg.Go(func() {
							time.Sleep(rand.N(30 * time.Millisecond))
							outcome[i] = w.visit(s, i)
						})
					}
					wg.Go(func() {
						time.Sleep(rand.N(30 * time.Millisecond))
						faults := f(3)
						migrate.All(w.ctx, faults.Wrap(w.from), faults.Wrap(w.to), nil)
					})
					wg.Wait()
					time.Sleep(lockTimeout + time.Second)
					got := w.body()
					for i, err := range outcome {
						n := strings.Count(got, fmt.Sprintf(" %d.", i))
						if n > 1 || err == nil && n != 1 || err != nil && rule(0) == nil {
							t.Errorf("seed %d: visitor %d's update, which returned %v, is there %d times: %q", seed, i, err, n, got)
						}
					}
					w.all(1)
					if now := w.body(); now != got {
						t.Errorf("seed %d: All made %q of %q", seed, now, got)
					}
				})
			})
		}
	}
}

// visit adds n to the session. A visitor with an even number takes the lock.
func (w *world) visit(s store.Store, n int) error {
	o := store.LockOptions{Owner: store.NewOwner(), Wait: 2 * time.Minute, Stale: lockTimeout}
	var rec store.Record
	read := func() error { return s.Lock(w.ctx, w.id, o, &rec) }
	merges := n%2 == 1
	if merges {
		read = func() error { return s.Load(w.ctx, w.id, &rec) }
	}
	again := func(call func() error) error {
		for {
			err := call()
			if !errors.Is(err, store.ErrUnsure) && !errors.Is(err, store.ErrUnavailable) {
				return err
			}
		}
	}
	for {
		if err := again(read); err != nil {
			return err
		}
		if merges {
			rec.Lock = store.Lock{}
		}
		rec.Body = append(rec.Body, fmt.Sprintf(" %d.", n)...)
		next := store.NewVersion()
		err := again(func() error { return s.Save(w.ctx, w.id, &rec, next, false) })
		locked := new(store.LockedError)
		if !merges || err == nil || !errors.Is(err, store.ErrConflict) && !errors.As(err, &locked) {
			return err
		}
		if now := new(store.Record); again(func() error { return s.Load(w.ctx, w.id, now) }) == nil && strings.Contains(string(now.Body), fmt.Sprintf(" %d.", n)) {
			return nil // an earlier call did it, too many versions ago
		}
		time.Sleep(rand.N(50 * time.Millisecond))
	}
}

// TestRemoveStaysRemoved has sessions removed while processes of both phases use and
// move them: from the reply on, nobody finds them.
func TestRemoveStaysRemoved(t *testing.T) {
	for round := range 100 {
		t.Run(fmt.Sprint(round), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, round%5)
				f := &storetest.Faults{Before: pause, After: pause}
				processes := []store.Store{w.process(migrate.Prepare, f), w.process(migrate.Move, f), w.process(migrate.Move, f)}
				var wg sync.WaitGroup
				for i := range 6 {
					s := processes[i%len(processes)]
					wg.Go(func() {
						time.Sleep(rand.N(20 * time.Millisecond))
						if err := w.update(s, "x"); err != nil && !errors.Is(err, store.ErrNotFound) {
							t.Errorf("update: %v", err)
						}
					})
				}
				time.Sleep(rand.N(30 * time.Millisecond))
				w.ok(processes[round%3].Remove(w.ctx, w.id, store.Lock{}, store.Reason{Kind: store.Abandoned}), "Remove")
				w.isGone("in the end")
				wg.Wait()
				w.isGone("in the end")
				w.all(0)
				ends := 0
				for _, e := range []store.Ender{w.from, w.to} {
					list, err := e.Ended(w.ctx, w.id.App, 10, time.Minute)
					w.ok(err, "Ended")
					ends += len(list)
				}
				if ends != 1 {
					t.Errorf("a session that was removed has %d ends", ends)
				}
			})
		})
	}
}

// TestWaitersFollow has those who wait in the old place for the lock get it in the new
// one, each in turn, when the session moves.
func TestWaitersFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		old, mover := w.process(migrate.Prepare, nil), w.process(migrate.Move, nil)
		var holder store.Record
		w.ok(old.Lock(w.ctx, w.id, store.LockOptions{Owner: store.NewOwner()}, &holder), "Lock")
		var wg sync.WaitGroup
		for i := range 8 {
			s := old
			if i%4 == 2 {
				s = mover
			}
			wg.Go(func() {
				if err := w.update(s, fmt.Sprint(i)); err != nil {
					t.Errorf("waiter %d: %v", i, err)
				}
			})
			synctest.Wait()
		}
		w.ok(old.Save(w.ctx, w.id, &holder, store.NewVersion(), false), "Save")
		start := time.Now()
		wg.Wait()
		if waited := time.Since(start); waited > 0 {
			t.Errorf("the lock went round only after %v", waited)
		}
		if got := strings.Fields(w.body()); len(got) != 9 {
			t.Errorf("the session has %q; want the updates of 8 waiters", got)
		}
		if err := w.from.Load(w.ctx, w.id, new(store.Record)); store.ReasonOf(err).Kind != store.Moved {
			t.Errorf("Load in the old place: %v; want moved", err)
		}
	})
}
