// Package lockqueue is the line at a session's lock, as the stores have it that keep
// their sessions in this process: who holds it, and who waits for it, in order of
// arrival.
//
// It is data under its owner's mutex: every method of a [Hold], and every field of a
// [Waiter] but what Wait itself looks at, is guarded by the mutex that guards the
// session.
package lockqueue

import (
	"context"
	"math"
	"slices"
	"time"

	"github.com/holdfast-session/holdfast/store"
)

// A Hold is a session's lock while somebody holds it, with those who wait for it:
// somebody waits only where somebody holds. Its cookie is the session's.
type Hold struct {
	Owner   uint64
	Since   int64         // when it was taken or renewed, by the owner's clock
	Stale   time.Duration // the holder's lock timeout: the session does not expire before
	waiting []*Waiter     // in order of arrival
	granted *Waiter       // who got it while waiting, if no other call knows of it
}

// By reports whether the holder is owner, who is not nobody.
func (h *Hold) By(owner uint64) bool { return h != nil && owner != 0 && h.Owner == owner }

// Renew restarts the lock's age.
func (h *Hold) Renew(stale time.Duration, now int64) { h.Since, h.Stale, h.granted = now, stale, nil }

// Keep restarts the lock's age under the terms it has.
func (h *Hold) Keep(now int64) { h.Since, h.granted = now, nil }

// IsStale reports whether the lock may be taken over by who finds it stale at that age.
func (h *Hold) IsStale(age time.Duration, now int64) bool {
	return age > 0 && now-h.Since >= int64(age)
}

// Waiting is how many wait.
func (h *Hold) Waiting() int { return len(h.waiting) }

// First is the first in line, of those there are.
func (h *Hold) First() *Waiter { return h.waiting[0] }

// Taker returns the first in line for whom the lock has become stale, before the
// session expired at its deadline, or nil.
func (h *Hold) Taker(deadline, now int64) *Waiter {
	for _, w := range h.waiting {
		if w.stale > 0 && After(h.Since, w.stale) <= min(now, deadline) {
			return w
		}
	}
	return nil
}

// Queue lines a call up behind the holder.
func (h *Hold) Queue(o store.LockOptions, rec *store.Record, now int64) *Waiter {
	w := &Waiter{owner: o.Owner, stale: o.Stale, until: After(now, o.Wait), rec: rec, ready: make(chan struct{})}
	h.waiting = append(h.waiting, w)
	return w
}

// Granted tells w, whose the lock is by now, and whoever waits as the same owner, that
// they have it; fill fills in what they read. Should the same owner wait twice, the
// later call repeats one that its caller has given up, so both get the lock, and it is
// the later one's to give back.
func (h *Hold) Granted(w *Waiter, fill func(*store.Record)) {
	rest := h.waiting[:0]
	for _, other := range h.waiting {
		if other != w && !h.By(other.owner) {
			rest = append(rest, other)
			continue
		}
		fill(other.rec)
		other.done(nil)
		h.granted = other
	}
	clear(h.waiting[len(rest):])
	h.waiting = rest
}

// End tells all who wait that they wait for nothing any more.
func (h *Hold) End(err error) {
	for _, w := range h.waiting {
		w.done(err)
	}
	clear(h.waiting)
	h.waiting = h.waiting[:0]
}

// IsGrantTo reports whether w got the lock, and no other call has had it since.
func (h *Hold) IsGrantTo(w *Waiter) bool { return h != nil && h.granted == w }

// Leave takes a call that gives up out of the line.
func (h *Hold) Leave(w *Waiter) {
	i := slices.Index(h.waiting, w)
	h.waiting = slices.Delete(h.waiting, i, i+1)
}

// A Waiter is a Lock call that waits. Whoever grants it the lock fills its record in,
// so that what it reads is the session of that moment.
type Waiter struct {
	owner uint64
	stale time.Duration
	until int64 // when it gives up
	rec   *store.Record
	ready chan struct{} // closed by done
	over  bool          // done was called
	err   error         // the outcome, nil for a grant
}

// Owner is who waits, and Stale the age at which a lock is stale for it.
func (w *Waiter) Owner() uint64        { return w.owner }
func (w *Waiter) Stale() time.Duration { return w.stale }

// Over reports whether w has its outcome, which is err. It is in no line any more.
func (w *Waiter) Over() (over bool, err error) { return w.over, w.err }

// GivesUp reports whether w has waited for as long as it was to.
func (w *Waiter) GivesUp(now int64) bool { return now >= w.until }

func (w *Waiter) done(err error) {
	w.rec, w.err, w.over = nil, err, true
	close(w.ready)
}

// Patience is how long w may sleep: until it gives up, or the lock is stale, or the
// session expires, if nothing happens before. All that can happen to the lock or the
// timeout meanwhile puts these off, or is told to w; then it sleeps on.
func (w *Waiter) Patience(h *Hold, deadline, now int64) time.Duration {
	wake := min(w.until, deadline)
	if w.stale > 0 {
		wake = min(wake, After(h.Since, w.stale))
	}
	return time.Duration(wake - now)
}

// Wait sleeps, first for that long, and calls wake, without any lock, whenever w may
// have its outcome or is to give up, until that says that it is over. wake resets the
// timer where it is not.
func (w *Waiter) Wait(ctx context.Context, sleep time.Duration, wake func(*time.Timer) (over bool, err error)) error {
	timer := time.NewTimer(sleep)
	defer timer.Stop()
	for {
		select {
		case <-w.ready:
		case <-ctx.Done():
		case <-timer.C:
		}
		if over, err := wake(timer); over {
			return err
		}
	}
}

// maxFree is how many holds are set aside.
const maxFree = 32

// Free are holds to be used again.
type Free []*Hold

// Get returns a hold of nobody's.
func (f *Free) Get() *Hold {
	n := len(*f)
	if n == 0 {
		return new(Hold)
	}
	h := (*f)[n-1]
	*f = (*f)[:n-1]
	return h
}

// Put sets a hold aside for which nobody waits.
func (f *Free) Put(h *Hold) {
	if len(*f) < maxFree {
		*h = Hold{waiting: h.waiting[:0]}
		*f = append(*f, h)
	}
}

// After is the moment d from now; one that is too far away to be met is none.
func After(now int64, d time.Duration) int64 { return now + min(int64(d), math.MaxInt64/2) }
