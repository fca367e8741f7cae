package lockqueue

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-session/holdfast/store"
)

// line has a hold with a waiter of each owner.
func line(owners ...uint64) (h *Hold, all []*Waiter) {
	h = new(Free).Get()
	h.Owner = 100
	for i, owner := range owners {
		o := store.LockOptions{Owner: owner, Wait: time.Hour, Stale: time.Duration(10-i) * time.Second}
		all = append(all, h.Queue(o, new(store.Record), int64(i)))
	}
	return h, all
}

// TestGrant: the first in line gets the lock, and so does a later call of its owner,
// which is the one that can give it back.
func TestGrant(t *testing.T) {
	h, all := line(1, 2, 1, 3)
	if h.First() != all[0] || h.Waiting() != 4 {
		t.Fatalf("%d wait, the first as %d", h.Waiting(), h.First().Owner())
	}
	h.Owner = 1
	filled := 0
	h.Granted(all[0], func(*store.Record) { filled++ })
	for i, w := range all {
		if over, err := w.Over(); over != (i%2 == 0 && i < 3) || err != nil {
			t.Errorf("waiter %d is over: %v, %v", i, over, err)
		}
	}
	if filled != 2 || h.Waiting() != 2 || h.First() != all[1] || h.IsGrantTo(all[0]) || !h.IsGrantTo(all[2]) {
		t.Errorf("%d were filled in, %d wait", filled, h.Waiting())
	}
	h.Keep(5)
	if h.IsGrantTo(all[2]) || h.Since != 5 {
		t.Error("a lock that was used since is still the grant's")
	}
	h.Leave(all[1])
	gone := errors.New("gone")
	h.End(gone)
	if over, err := all[3].Over(); !over || err != gone || h.Waiting() != 0 {
		t.Errorf("at the end, the last is over: %v, %v", over, err)
	}
	if over, _ := all[1].Over(); over {
		t.Error("who left was told")
	}
}

// TestTaker: the first in line for whom the lock is stale, if that came before the
// session's end.
func TestTaker(t *testing.T) {
	h, all := line(1, 2, 3) // stale at 10, 9 and 8 seconds
	h.Renew(time.Minute, 0)
	for _, c := range []struct {
		deadline, now time.Duration
		want          *Waiter
	}{
		{time.Hour, 7 * time.Second, nil},
		{time.Hour, 8 * time.Second, all[2]},
		{time.Hour, 9 * time.Second, all[1]},
		{time.Hour, time.Minute, all[0]},
		{9 * time.Second, time.Minute, all[1]},
		{time.Second, time.Minute, nil},
	} {
		if got := h.Taker(int64(c.deadline), int64(c.now)); got != c.want {
			t.Errorf("after %v, with the deadline at %v: %v, want %v", c.now, c.deadline, got, c.want)
		}
	}
	if h.IsStale(0, 1<<60) || !h.IsStale(time.Second, int64(time.Second)) || h.IsStale(time.Second, int64(time.Second)-1) {
		t.Error("a lock is stale at the wrong age")
	}
	var none *Hold
	if none.By(1) || none.IsGrantTo(all[0]) || h.By(0) || !h.By(100) {
		t.Error("a lock is held by the wrong one")
	}
}

// TestWait: the waiter sleeps until something may have happened to it.
func TestWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		now := func() int64 { return int64(time.Since(start)) }
		h := &Hold{Owner: 100}
		w := h.Queue(store.LockOptions{Owner: 1, Wait: time.Minute, Stale: 10 * time.Second}, new(store.Record), now())
		woken := 0
		deadline := int64(time.Hour)
		sleep := w.Patience(h, deadline, now())
		if sleep != 10*time.Second {
			t.Errorf("it sleeps %v; want until the lock is stale", sleep)
		}
		h.Since = int64(30 * time.Second) // renewed meanwhile
		err := w.Wait(t.Context(), sleep, func(timer *time.Timer) (bool, error) {
			woken++
			if w.GivesUp(now()) {
				return true, errors.New("gave up")
			}
			if d := w.Patience(h, deadline, now()); d > 0 {
				timer.Reset(d)
			} else {
				h.Since = now() // and once more
				timer.Reset(w.Patience(h, deadline, now()))
			}
			return false, nil
		})
		if err == nil || woken != 4 || now() != int64(time.Minute) {
			t.Errorf("%v after %v, woken %d times; want to give up after a minute, woken at 10, 40, 50 and 60 seconds", err, time.Since(start), woken)
		}
	})
}

func TestFree(t *testing.T) {
	var f Free
	h := f.Get()
	h.Owner, h.Since, h.Stale = 1, 2, 3
	f.Put(h)
	if again := f.Get(); again != h || again.Owner != 0 || again.Since != 0 || again.Stale != 0 || again.Waiting() != 0 {
		t.Errorf("a hold that is used again: %+v", again)
	}
	for range 2 * maxFree {
		f.Put(new(Hold))
	}
	if len(f) != maxFree {
		t.Errorf("%d holds are set aside; want %d", len(f), maxFree)
	}
}
