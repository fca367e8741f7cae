package inproc

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-session/holdfast/store"
)

// A call is a Lock call on a goroutine of its own. Its outcome is there once it is
// over.
type call struct {
	store.LockOptions
	rec    store.Record
	err    error
	done   chan struct{}
	cancel context.CancelFunc
}

// waitFor starts a Lock call in a bubble and returns when it waits, or is over.
func waitFor(s *Store, id store.ID, o store.LockOptions) *call {
	c := &call{LockOptions: o, done: make(chan struct{})}
	done, cancel := context.WithCancel(ctx)
	c.cancel = cancel
	go func() {
		defer close(c.done)
		c.err = s.Lock(done, id, o, &c.rec)
	}()
	synctest.Wait()
	return c
}

func (c *call) over() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// wantWaiting checks that the call still waits.
func (c *call) wantWaiting(t *testing.T) {
	t.Helper()
	synctest.Wait()
	if c.over() {
		t.Errorf("Lock by %d: over with %v, want it waiting", c.Owner, c.err)
	}
}

// want checks that the call is over, with err.
func (c *call) want(t *testing.T, err error) {
	t.Helper()
	synctest.Wait()
	if !c.over() {
		t.Fatalf("Lock by %d still waits", c.Owner)
	}
	if !errors.Is(c.err, err) {
		t.Errorf("Lock by %d: %v, want %v", c.Owner, c.err, err)
	}
}

// pieces returns what the store has for a session.
func pieces(s *Store, id store.ID) (*shard, *entry) {
	key := s.key(id)
	sh := s.of(key)
	return sh, sh.sessions.get(key, id)
}

func TestWaitersInOrderOfArrival(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, nil)
		id := sid("a")
		create(t, s, id, time.Hour)
		held := lock(t, s, id, 100, 0)
		var calls []*call
		for i := range 6 {
			calls = append(calls, waitFor(s, id, store.LockOptions{Owner: uint64(i + 1), Wait: time.Minute, Stale: 20 * time.Second}))
		}
		for i, c := range calls {
			switch {
			case i%2 == 0:
				v := save(t, s, id, held, false)
				c.want(t, nil)
				if c.rec.Version != v || c.rec.Items != v || c.rec.Acquired != v {
					t.Errorf("waiter %d was not shown what was saved before: %+v", i, c.rec)
				}
			default:
				wantErr(t, "Unlock", s.Unlock(ctx, id, held.Lock), nil)
				c.want(t, nil)
			}
			if got := load(t, s, id); c.rec.Lock != got.Lock || c.rec.Lock.Owner != c.Owner || !got.Locked || c.rec.LockAge != 0 {
				t.Errorf("waiter %d has the lock %+v, the session %+v", i, c.rec.Lock, got)
			}
			for _, later := range calls[i+1:] {
				later.wantWaiting(t)
			}
			held = c.rec
			advance(time.Second)
		}
		wantErr(t, "Unlock", s.Unlock(ctx, id, held.Lock), nil)
		if load(t, s, id).Locked {
			t.Error("locked by nobody")
		}
	})
}

func TestWaitEndsAfterItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, nil)
		id := sid("a")
		create(t, s, id, time.Hour)
		held := lock(t, s, id, 1, 0)
		c := waitFor(s, id, store.LockOptions{Owner: 2, Wait: 30 * time.Second})
		advance(30*time.Second - 1)
		c.wantWaiting(t)
		advance(1)
		var locked *store.LockedError
		if !c.over() || !errors.As(c.err, &locked) || locked.Lock != held.Lock || locked.Age != 30*time.Second {
			t.Errorf("Lock: %v, want the holder's lock %+v", c.err, held.Lock)
		}
		if _, e := pieces(s, id); e.hold.Waiting() != 0 {
			t.Error("it still stands in line")
		}
	})
}

func TestCancelLeavesTheLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, nil)
		id := sid("a")
		create(t, s, id, time.Hour)
		held := lock(t, s, id, 1, 0)
		b := waitFor(s, id, store.LockOptions{Owner: 2, Wait: time.Minute})
		c := waitFor(s, id, store.LockOptions{Owner: 3, Wait: time.Minute})
		b.cancel()
		b.want(t, context.Canceled)
		c.wantWaiting(t)
		wantErr(t, "Unlock", s.Unlock(ctx, id, held.Lock), nil)
		c.want(t, nil)
	})
}

// TestGrantMeetsCancel lets both happen before the waiter can look.
func TestGrantMeetsCancel(t *testing.T) {
	for _, order := range []string{"grant first", "cancel first"} {
		t.Run(order, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := open(t, nil)
				id := sid("a")
				create(t, s, id, time.Hour)
				lock(t, s, id, 1, 0)
				b := waitFor(s, id, store.LockOptions{Owner: 2, Wait: time.Minute})
				c := waitFor(s, id, store.LockOptions{Owner: 3, Wait: time.Minute})
				sh, e := pieces(s, id)
				sh.mu.Lock()
				if order == "cancel first" {
					b.cancel()
				}
				s.release(sh, e, s.now())
				if e.hold.Owner != 2 {
					t.Errorf("granted to %d", e.hold.Owner)
				}
				b.cancel()
				sh.mu.Unlock()
				b.want(t, context.Canceled)
				c.want(t, nil)
				if got := load(t, s, id); !got.Locked || got.Lock.Owner != 3 {
					t.Errorf("the session is %+v, want it locked by 3", got)
				}
				wantErr(t, "Unlock", s.Unlock(ctx, id, c.rec.Lock), nil)
				if load(t, s, id).Locked {
					t.Error("locked by nobody")
				}
			})
		})
	}
}

// TestGrantGivenBackIsMine: what a cancelled waiter gives back is its own grant, not
// the lock that somebody else has by then.
func TestGrantGivenBackIsMine(t *testing.T) {
	for _, then := range []string{"taken over", "repeated", "removed", "recreated"} {
		t.Run(then, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := open(t, nil)
				id := sid("a")
				create(t, s, id, time.Hour)
				lock(t, s, id, 1, 0)
				b := waitFor(s, id, store.LockOptions{Owner: 2, Wait: time.Minute})
				sh, e := pieces(s, id)
				sh.mu.Lock()
				s.release(sh, e, s.now())
				want := uint64(2)
				switch then {
				case "taken over":
					want = 3
					s.acquire(sh, e, 3, 0, s.now())
				case "repeated":
					s.renew(e, 0, s.now())
				case "removed", "recreated":
					s.end(sh, s.key(id), e, store.Reason{Kind: store.Abandoned}, s.now())
				}
				if then == "recreated" {
					fresh := newEntry(id, &store.Record{Version: 1, Timeout: time.Hour})
					s.begin(sh, s.key(id), fresh, s.now())
					s.acquire(sh, fresh, 2, 0, s.now())
				}
				b.cancel()
				sh.mu.Unlock()
				b.want(t, context.Canceled)
				if then == "removed" {
					wantErr(t, "Touch", s.Touch(ctx, id), store.ErrNotFound)
				} else if got := load(t, s, id); !got.Locked || got.Lock.Owner != want {
					t.Errorf("the session is %+v, want it locked by %d", got, want)
				}
			})
		})
	}
}

// TestRepeatWhileWaiting: a caller whose connection broke repeats its call while the
// first one still stands in line.
func TestRepeatWhileWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, nil)
		id := sid("a")
		create(t, s, id, time.Hour)
		held := lock(t, s, id, 1, 0)
		first := waitFor(s, id, store.LockOptions{Owner: 2, Wait: time.Minute})
		other := waitFor(s, id, store.LockOptions{Owner: 3, Wait: time.Minute})
		again := waitFor(s, id, store.LockOptions{Owner: 2, Wait: time.Minute})

		sh, e := pieces(s, id)
		sh.mu.Lock()
		s.release(sh, e, s.now())
		first.cancel()
		sh.mu.Unlock()
		first.want(t, context.Canceled)
		again.want(t, nil)
		other.wantWaiting(t)
		if got := load(t, s, id); got.Lock != again.rec.Lock || got.Lock.Cookie == held.Lock.Cookie {
			t.Errorf("the session has %+v, the call that waited %+v", got.Lock, again.rec.Lock)
		}
		wantErr(t, "Unlock", s.Unlock(ctx, id, again.rec.Lock), nil)
		other.want(t, nil)
	})
}

func TestRenewedLock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, nil)
		id := sid("a")
		create(t, s, id, time.Minute)
		held := lock(t, s, id, 1, 20*time.Second)
		advance(19 * time.Second)
		if again := lock(t, s, id, 1, 20*time.Second); again.Lock != held.Lock || again.LockAge != 0 {
			t.Errorf("renewed: %+v, want %+v", again.Lock, held.Lock)
		}
		advance(19 * time.Second)
		if got := load(t, s, id); got.LockAge != 19*time.Second {
			t.Errorf("age %v", got.LockAge)
		}
	})
}

// TestTakeoverWhileWaiting: the lock is renewed once during the wait, and then goes
// to the head of the line at the very moment it is stale.
func TestTakeoverWhileWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, nil)
		id := sid("a")
		create(t, s, id, time.Hour)
		held := lock(t, s, id, 1, 20*time.Second)
		advance(5 * time.Second)
		o := store.LockOptions{Wait: time.Minute, Stale: 20 * time.Second}
		o.Owner = 2
		b := waitFor(s, id, o)
		o.Owner = 3
		c := waitFor(s, id, o)
		advance(10 * time.Second)
		lock(t, s, id, 1, 20*time.Second)
		advance(20*time.Second - 1)
		b.wantWaiting(t)
		advance(1)
		b.want(t, nil)
		c.wantWaiting(t)
		if b.rec.Lock.Cookie == held.Lock.Cookie || b.rec.Lock.Owner != 2 {
			t.Errorf("taken over: %+v", b.rec.Lock)
		}
		wantErr(t, "Unlock by the holder before", s.Unlock(ctx, id, held.Lock), store.ErrLockLost)
		advance(20 * time.Second)
		c.want(t, nil)
	})
}

// TestTakeoverPastThePatient: who takes no lock over does not keep others from it.
func TestTakeoverPastThePatient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, nil)
		id := sid("a")
		create(t, s, id, time.Hour)
		lock(t, s, id, 1, 20*time.Second)
		patient := waitFor(s, id, store.LockOptions{Owner: 2, Wait: time.Hour})
		b := waitFor(s, id, store.LockOptions{Owner: 3, Wait: time.Hour, Stale: 20 * time.Second})
		advance(20 * time.Second)
		b.want(t, nil)
		patient.wantWaiting(t)
		wantErr(t, "Unlock", s.Unlock(ctx, id, b.rec.Lock), nil)
		patient.want(t, nil)
	})
}

func TestTakeoverAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, nil)
		id := sid("a")
		create(t, s, id, time.Hour)
		held := lock(t, s, id, 1, 20*time.Second)
		advance(20*time.Second - 1)
		var rec store.Record
		o := store.LockOptions{Owner: 2, Stale: 20 * time.Second}
		var locked *store.LockedError
		if err := s.Lock(ctx, id, o, &rec); !errors.As(err, &locked) {
			t.Errorf("Lock: %v, want a LockedError", err)
		}
		advance(1)
		wantErr(t, "Lock", s.Lock(ctx, id, o, &rec), nil)
		// The holder before was not there when it went, but nobody has written since.
		wantErr(t, "Save by the holder before", s.Save(ctx, id, &held, 9, false), store.ErrLockLost)
		wantErr(t, "Unlock", s.Unlock(ctx, id, rec.Lock), nil)
		wantErr(t, "Save by the holder before, unchanged", s.Save(ctx, id, &held, 9, false), nil)
	})
}

func TestRemovedWhileWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, nil)
		id := sid("a")
		create(t, s, id, time.Hour)
		lock(t, s, id, 1, 0)
		var calls []*call
		for i := range 3 {
			calls = append(calls, waitFor(s, id, store.LockOptions{Owner: uint64(i + 2), Wait: time.Minute}))
		}
		why := store.Reason{Kind: store.Regenerated, To: "next", Age: time.Hour} // Age is not read
		wantErr(t, "Remove", s.Remove(ctx, id, store.Lock{}, why), nil)
		why.Age = 0
		for _, c := range calls {
			c.want(t, store.ErrNotFound)
			wantReason(t, "Lock", c.err, why)
		}
	})
}

// TestExpiredWhileWaiting: the holder died, and nobody takes its lock over.
func TestExpiredWhileWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, nil)
		id := sid("a")
		create(t, s, id, 10*time.Second)
		lock(t, s, id, 1, 25*time.Second+time.Second/2)
		b := waitFor(s, id, store.LockOptions{Owner: 2, Wait: time.Hour})
		c := waitFor(s, id, store.LockOptions{Owner: 3, Wait: time.Hour, Stale: time.Minute})
		advance(25*time.Second + time.Second/2 - 1)
		b.wantWaiting(t)
		advance(1)
		for _, call := range []*call{b, c} {
			call.want(t, store.ErrNotFound)
			wantReason(t, "Lock", call.err, store.Reason{Kind: store.Expired})
		}
	})
}

// TestTakeoverBeatsExpiry: a timeout shorter than the lock's makes both due at the
// same moment. Who waits gets the session, whoever notices first.
func TestTakeoverBeatsExpiry(t *testing.T) {
	for _, first := range []string{"the waiter", "another call", "the sweep"} {
		t.Run(first, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := open(t, nil)
				id := sid("a")
				create(t, s, id, 10*time.Second)
				lock(t, s, id, 1, 20*time.Second)
				b := waitFor(s, id, store.LockOptions{Owner: 2, Wait: time.Hour, Stale: 20 * time.Second})
				sh, e := pieces(s, id)
				sh.mu.Lock()
				switch now := e.deadline + 5; first {
				case "another call":
					if s.find(sh, s.key(id), id, now) != e {
						t.Error("not found")
					}
				case "the sweep":
					if s.settle(sh, e, now) != e {
						t.Error("ended")
					}
				}
				sh.mu.Unlock()
				advance(20 * time.Second)
				b.want(t, nil)
				if got := load(t, s, id); got.Lock != b.rec.Lock {
					t.Errorf("the session has %+v, the waiter %+v", got.Lock, b.rec.Lock)
				}
			})
		})
	}
}

// TestExpiryVersusHolder: a lock keeps its session there for as long as the holder
// was promised, and no longer.
func TestExpiryVersusHolder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, nil)
		there := func(id store.ID, want bool) {
			t.Helper()
			sh, e := pieces(s, id)
			sh.mu.Lock()
			defer sh.mu.Unlock()
			if got := e != nil && s.find(sh, s.key(id), id, s.now()) != nil; got != want {
				t.Errorf("%s is there: %v, want %v", id.Session, got, want)
			}
		}
		for _, name := range []string{"locked", "touched", "held", "unlocked", "long"} {
			timeout := 10 * time.Second
			if name == "long" {
				timeout = time.Minute
			}
			create(t, s, sid(name), timeout)
		}
		held := map[string]store.Record{}
		for _, name := range []string{"locked", "touched", "held", "unlocked", "long"} {
			held[name] = lock(t, s, sid(name), 1, 30*time.Second)
		}
		wantErr(t, "Unlock", s.Unlock(ctx, sid("unlocked"), held["unlocked"].Lock), nil)
		advance(5 * time.Second)
		wantErr(t, "Touch", s.Touch(ctx, sid("touched")), nil)
		save(t, s, sid("held"), held["held"], true)
		advance(5 * time.Second)
		there(sid("unlocked"), false)
		advance(20*time.Second - 1)
		there(sid("locked"), true)
		there(sid("touched"), true)
		advance(1)
		there(sid("locked"), false)
		there(sid("touched"), false)
		there(sid("held"), true)
		there(sid("long"), true)
		advance(5 * time.Second)
		there(sid("held"), false)
		advance(25 * time.Second)
		there(sid("long"), false)
		err := s.Save(ctx, sid("locked"), &store.Record{}, 1, false)
		wantReason(t, "Save", err, store.Reason{Kind: store.Expired, Age: 30 * time.Second})
	})
}

func TestCookies(t *testing.T) {
	s := open(t, nil)
	create(t, s, sid("a"), time.Hour)
	if c := load(t, s, sid("a")).Lock.Cookie; c != 0 {
		t.Errorf("cookie %d before any lock", c)
	}
	seen := map[int32]bool{}
	for range 1000 {
		rec := lock(t, s, sid("a"), 1, 0)
		c := rec.Lock.Cookie
		if c <= 0 {
			t.Fatalf("cookie %d", c)
		}
		seen[c] = true
		wantErr(t, "Unlock", s.Unlock(ctx, sid("a"), rec.Lock), nil)
		if got := load(t, s, sid("a")); got.Lock != (store.Lock{Cookie: c}) {
			t.Fatalf("unlocked, the record has %+v, want the last cookie %d", got.Lock, c)
		}
	}
	if len(seen) < 998 { // two of a thousand are the same in one run of 4,000
		t.Errorf("%d different cookies of 1000 locks", len(seen))
	}
}

func TestCountCookies(t *testing.T) {
	s := open(t, &Options{CountCookies: true})
	for _, c := range []struct{ given, at, next int32 }{
		{0, 1, 2}, {7, 7, 8}, {math.MaxInt32 - 1, math.MaxInt32 - 1, math.MaxInt32}, {math.MaxInt32, math.MaxInt32, 1}, {-1, 1, 2},
	} {
		for _, hold := range []bool{false, true} {
			id := sid(fmt.Sprint(c.given, hold))
			rec := store.Record{Version: 1, Timeout: time.Hour, Lock: store.Lock{Cookie: c.given, Owner: 1}}
			wantErr(t, "Create", s.Create(ctx, id, &rec, hold), nil)
			got := load(t, s, id)
			if got.Lock.Cookie != c.at || got.Locked != hold || hold && rec.Lock.Cookie != c.at {
				t.Errorf("created with cookie %d, hold %v: %+v", c.given, hold, got.Lock)
			}
			wantErr(t, "Unlock", s.Unlock(ctx, id, rec.Lock), nil)
			if got := lock(t, s, id, 2, 0); got.Lock.Cookie != c.next {
				t.Errorf("cookie after %d: %d, want %d", c.at, got.Lock.Cookie, c.next)
			}
		}
	}
}

// TestWaitersSleep: a line of fifty behind a renewed lock is not polled.
func TestWaitersSleep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, nil)
		id := sid("a")
		create(t, s, id, 24*time.Hour)
		held := lock(t, s, id, 1000, 20*time.Second)
		var calls []*call
		for i := range 50 {
			calls = append(calls, waitFor(s, id, store.LockOptions{Owner: uint64(i + 1), Wait: time.Hour, Stale: 20 * time.Second}))
		}
		for range 10 {
			advance(10 * time.Second)
			lock(t, s, id, 1000, 20*time.Second)
		}
		var order []string
		for range calls {
			wantErr(t, "Unlock", s.Unlock(ctx, id, held.Lock), nil)
			synctest.Wait()
			for _, c := range calls {
				if c.over() && c.err == nil && c.rec.Lock == load(t, s, id).Lock {
					held = c.rec
				}
			}
			order = append(order, fmt.Sprint(held.Lock.Owner))
		}
		var want []string
		for i := range 50 {
			want = append(want, fmt.Sprint(i+1))
		}
		if !slices.Equal(order, want) {
			t.Errorf("the lock went to %s", strings.Join(order, " "))
		}
	})
}
