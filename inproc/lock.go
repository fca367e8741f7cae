package inproc

import (
	"context"
	"math"
	"slices"
	"time"

	"github.com/holdfast-session/holdfast/store"
)

// A hold is a session's lock while somebody holds it, with those who wait for it:
// somebody waits only where somebody holds. Its cookie is the entry's.
type hold struct {
	owner   uint64
	since   int64         // when it was taken or renewed, by Store.now
	stale   time.Duration // the holder's lock timeout: the session does not expire before
	waiting []*waiter     // in order of arrival
	granted *waiter       // who got it while waiting, if no other call knows of it
}

// by reports whether the holder is owner, who is not nobody.
func (h *hold) by(owner uint64) bool { return h != nil && owner != 0 && h.owner == owner }

// A waiter is a Lock call that waits. Whoever grants it the lock fills its record
// in, so that what it reads is the session of that moment; all fields are guarded
// by the mutex of the shard until ready is closed.
type waiter struct {
	owner uint64
	stale time.Duration
	until int64 // when it gives up
	rec   *store.Record
	ready chan struct{} // closed by done
	over  bool          // done was called
	err   error         // the outcome, nil for a grant
}

// done tells a waiter its outcome. It is in no queue any more.
func (w *waiter) done(err error) {
	w.rec, w.err, w.over = nil, err, true
	close(w.ready)
}

// maxFree is how many holds a shard sets aside.
const maxFree = 32

func (sh *shard) newHold() *hold {
	n := len(sh.free)
	if n == 0 {
		return new(hold)
	}
	h := sh.free[n-1]
	sh.free = sh.free[:n-1]
	return h
}

func (sh *shard) freeHold(h *hold) {
	if len(sh.free) < maxFree {
		clear(h.waiting)
		h.waiting, h.granted, h.stale = h.waiting[:0], nil, 0
		sh.free = append(sh.free, h)
	}
}

// lock is the lock that is held.
func (e *entry) lock() store.Lock { return store.Lock{Cookie: e.cookie, Owner: e.hold.owner} }

func (e *entry) lockedError(now int64) error {
	return &store.LockedError{Lock: e.lock(), Age: time.Duration(now - e.hold.since)}
}

// nextCookie issues a cookie.
func (s *Store) nextCookie(sh *shard, e *entry) int32 {
	if s.exact {
		if e.cookie == math.MaxInt32 {
			return 1
		}
		return e.cookie + 1
	}
	for {
		if c := int32(sh.random.Uint64() >> 33); c != 0 && c != e.cookie {
			return c
		}
	}
}

// acquire gives the lock to owner: one that is free, or another's.
func (s *Store) acquire(sh *shard, e *entry, owner uint64, stale time.Duration, now int64) {
	if e.hold == nil {
		e.hold = sh.newHold()
	}
	e.hold.owner = owner
	e.cookie = s.nextCookie(sh, e)
	s.renew(e, stale, now)
}

// renew restarts the lock's age. The session expires no earlier than it would have,
// than its timeout from now, and than stale from now.
func (s *Store) renew(e *entry, stale time.Duration, now int64) {
	h := e.hold
	h.since, h.stale, h.granted = now, stale, nil
	e.acquired = e.version
	e.deadline = max(e.deadline, after(now, time.Duration(e.timeout)*time.Second), after(now, stale))
}

// keep is what Save does to the lock with hold, once it has written: the lock goes
// on under the name that the caller knows.
func (s *Store) keep(sh *shard, e *entry, lock store.Lock, now int64) {
	if e.hold == nil { // it was gone, and nobody was there in between
		e.hold = sh.newHold()
		e.hold.owner = lock.Owner
		e.cookie = lock.Cookie
		if e.cookie == 0 {
			e.cookie = s.nextCookie(sh, e)
		}
	}
	e.hold.since, e.hold.granted = now, nil
	e.acquired = e.version
}

// release takes the lock from its holder, if there is one, restarts the timeout,
// and gives the lock to the next in line.
func (s *Store) release(sh *shard, e *entry, now int64) {
	s.expireAt(sh, e, after(now, time.Duration(e.timeout)*time.Second), now)
	h := e.hold
	if h == nil {
		return
	}
	if len(h.waiting) > 0 {
		s.grant(sh, e, h.waiting[0], now)
		return
	}
	e.hold = nil
	sh.freeHold(h)
}

// grant gives the lock to w, who waits for it. Should the same owner wait twice,
// the later call repeats one that its caller has given up, so both get the lock,
// and it is the later one's to give back.
func (s *Store) grant(sh *shard, e *entry, w *waiter, now int64) {
	h := e.hold
	s.acquire(sh, e, w.owner, w.stale, now)
	rest := h.waiting[:0]
	for _, other := range h.waiting {
		if other != w && !h.by(other.owner) {
			rest = append(rest, other)
			continue
		}
		e.read(other.rec, now)
		other.done(nil)
		h.granted = other
	}
	clear(h.waiting[len(rest):])
	h.waiting = rest
}

// settle does to a session what its time has brought: the first in line for whom
// the lock is stale takes it over, provided that this came before the expiry;
// otherwise a session that has expired ends. It returns e, or nil if it ended.
func (s *Store) settle(sh *shard, e *entry, now int64) *entry {
	if h := e.hold; h != nil {
		for _, w := range h.waiting {
			if w.stale > 0 && after(h.since, w.stale) <= min(now, e.deadline) {
				s.grant(sh, e, w, now)
				return e
			}
		}
	}
	if now < e.deadline {
		return e
	}
	s.end(sh, s.key(e.id()), e, store.Reason{Kind: store.Expired, Age: time.Duration(now - e.deadline)}, now)
	return nil
}

// queue lines a call up behind the holder of the lock.
func (e *entry) queue(o store.LockOptions, rec *store.Record, now int64) *waiter {
	w := &waiter{owner: o.Owner, stale: o.Stale, until: after(now, o.Wait), rec: rec, ready: make(chan struct{})}
	e.hold.waiting = append(e.hold.waiting, w)
	return w
}

// leave takes a call that gives up out of the line.
func (e *entry) leave(w *waiter) {
	i := slices.Index(e.hold.waiting, w)
	e.hold.waiting = slices.Delete(e.hold.waiting, i, i+1)
}

// patience is how long w may sleep: until it gives up, or the lock is stale, or the
// session expires, if nothing happens before. All that can happen to the lock or
// the timeout meanwhile puts these off, or is told to w; then it sleeps on.
func (w *waiter) patience(e *entry, now int64) time.Duration {
	wake := min(w.until, e.deadline)
	if w.stale > 0 {
		wake = min(wake, after(e.hold.since, w.stale))
	}
	return time.Duration(wake - now)
}

// wait sleeps, first for that long, until w has its outcome or gives up.
func (s *Store) wait(ctx context.Context, sh *shard, e *entry, w *waiter, sleep time.Duration) error {
	timer := time.NewTimer(sleep)
	defer timer.Stop()
	for {
		select {
		case <-w.ready:
		case <-ctx.Done():
		case <-timer.C:
		}
		if over, err := s.wake(ctx, sh, e, w, timer); over {
			return err
		}
	}
}

// wake looks whether the waiting is over, and else sets the timer again.
func (s *Store) wake(ctx context.Context, sh *shard, e *entry, w *waiter, timer *time.Timer) (over bool, err error) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	now := s.now()
	gone := ctx.Err()
	if !w.over && gone == nil {
		s.settle(sh, e, now)
	}
	switch {
	case w.over && (w.err != nil || gone == nil):
		return true, w.err
	case w.over:
		if e.hold != nil && e.hold.granted == w {
			s.release(sh, e, now)
		}
		return true, gone
	case gone != nil:
		e.leave(w)
		return true, gone
	case now >= w.until:
		e.leave(w)
		return true, e.lockedError(now)
	}
	timer.Reset(w.patience(e, now))
	return false, nil
}
