package inproc

import (
	"context"
	"math"
	"time"

	"github.com/holdfast-session/holdfast/internal/lockqueue"
	"github.com/holdfast-session/holdfast/store"
)

// lock is the lock that is held.
func (e *entry) lock() store.Lock { return store.Lock{Cookie: e.cookie, Owner: e.hold.Owner} }

func (e *entry) lockedError(now int64) error {
	return &store.LockedError{Lock: e.lock(), Age: time.Duration(now - e.hold.Since)}
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
		e.hold = sh.free.Get()
	}
	e.hold.Owner = owner
	e.cookie = s.nextCookie(sh, e)
	s.renew(e, stale, now)
}

// renew restarts the lock's age. The session expires no earlier than it would have,
// than its timeout from now, and than stale from now.
func (s *Store) renew(e *entry, stale time.Duration, now int64) {
	e.hold.Renew(stale, now)
	e.acquired = e.version
	e.deadline = max(e.deadline, after(now, time.Duration(e.timeout)*time.Second), after(now, stale))
}

// keep is what Save does to the lock with hold, once it has written: the lock goes
// on under the name that the caller knows.
func (s *Store) keep(sh *shard, e *entry, lock store.Lock, now int64) {
	if e.hold == nil { // it was gone, and nobody was there in between
		e.hold = sh.free.Get()
		e.hold.Owner = lock.Owner
		e.cookie = lock.Cookie
		if e.cookie == 0 {
			e.cookie = s.nextCookie(sh, e)
		}
	}
	e.hold.Keep(now)
	e.acquired = e.version
}

// release takes the lock from its holder, if there is one, restarts the timeout,
// and gives the lock to the next in line.
func (s *Store) release(sh *shard, e *entry, now int64) {
	s.expireAt(sh, e, after(now, time.Duration(e.timeout)*time.Second), now)
	h := e.hold
	switch {
	case h == nil:
	case h.Waiting() > 0:
		s.grant(sh, e, h.First(), now)
	default:
		e.hold = nil
		sh.free.Put(h)
	}
}

// grant gives the lock to w, who waits for it.
func (s *Store) grant(sh *shard, e *entry, w *lockqueue.Waiter, now int64) {
	s.acquire(sh, e, w.Owner(), w.Stale(), now)
	e.hold.Granted(w, func(rec *store.Record) { e.read(rec, now) })
}

// settle does to a session what its time has brought: the first in line for whom
// the lock is stale takes it over, provided that this came before the expiry;
// otherwise a session that has expired ends. It returns e, or nil if it ended.
func (s *Store) settle(sh *shard, e *entry, now int64) *entry {
	if e.hold != nil {
		if w := e.hold.Taker(e.deadline, now); w != nil {
			s.grant(sh, e, w, now)
			return e
		}
	}
	if now < e.deadline {
		return e
	}
	s.end(sh, s.key(e.id()), e, store.Reason{Kind: store.Expired, Age: time.Duration(now - e.deadline)}, now)
	return nil
}

// wait sleeps, first for that long, until w has its outcome or gives up.
func (s *Store) wait(ctx context.Context, sh *shard, e *entry, w *lockqueue.Waiter, sleep time.Duration) error {
	return w.Wait(ctx, sleep, func(timer *time.Timer) (over bool, err error) { return s.wake(ctx, sh, e, w, timer) })
}

// wake looks whether the waiting is over, and else sets the timer again.
func (s *Store) wake(ctx context.Context, sh *shard, e *entry, w *lockqueue.Waiter, timer *time.Timer) (over bool, err error) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	now := s.now()
	gone := ctx.Err()
	if over, _ := w.Over(); !over && gone == nil {
		s.settle(sh, e, now)
	}
	if over, err = w.Over(); over {
		if err == nil && gone != nil {
			if e.hold.IsGrantTo(w) {
				s.release(sh, e, now)
			}
			err = gone
		}
		return true, err
	}
	switch {
	case gone != nil:
		e.hold.Leave(w)
		return true, gone
	case w.GivesUp(now):
		e.hold.Leave(w)
		return true, e.lockedError(now)
	default:
		timer.Reset(w.Patience(e.hold, e.deadline, now))
		return false, nil
	}
}
