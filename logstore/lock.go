package logstore

import (
	"context"
	"time"

	"github.com/holdfast-session/holdfast/internal/lockqueue"
	"github.com/holdfast-session/holdfast/store"
)

// lock is the lock that is held.
func (sh *shard) lock(e *entry) store.Lock {
	return store.Lock{Cookie: e.cookie, Owner: sh.hold(e).Owner}
}

func (sh *shard) lockedError(e *entry, now int64) error {
	return &store.LockedError{Lock: sh.lock(e), Age: time.Duration(now - sh.hold(e).Since)}
}

// nextCookie draws a cookie.
func (sh *shard) nextCookie(last int32) int32 {
	for {
		if c := int32(sh.random.Uint64() >> 33); c != 0 && c != last {
			return c
		}
	}
}

// acquire gives the lock to owner: one that is free, or another's.
func (s *Store) acquire(sh *shard, e *entry, owner uint64, stale time.Duration, now int64) {
	h := sh.hold(e)
	if h == nil {
		h = sh.newHold(e)
		s.locked.Add(1)
	}
	h.Owner = owner
	e.cookie = sh.nextCookie(e.cookie)
	s.renew(sh, e, stale, now)
}

// renew restarts the lock's age. The session expires no earlier than it would have,
// than its timeout from now, and than stale from now.
func (s *Store) renew(sh *shard, e *entry, stale time.Duration, now int64) {
	sh.hold(e).Renew(stale, now)
	e.acquired = e.version
	e.deadline = max(e.deadline, after(now, time.Duration(e.timeout)*time.Second), after(now, stale))
}

// unlock takes the lock from its holder, for nobody.
func (s *Store) unlock(sh *shard, e *entry) {
	sh.dropHold(e)
	s.locked.Add(-1)
}

// release takes the lock from its holder, if there is one, restarts the timeout,
// and gives the lock to the next in line.
func (s *Store) release(sh *shard, ref uint32, e *entry, now int64) {
	s.expireAt(sh, ref, e, after(now, time.Duration(e.timeout)*time.Second), now)
	h := sh.hold(e)
	switch {
	case h == nil:
	case h.Waiting() > 0:
		s.grant(sh, e, h.First(), now)
	default:
		s.unlock(sh, e)
	}
}

// grant gives the lock to w, who waits for it. Nothing that somebody waits for is
// cold: who waits has made it warm, and what is locked stays so.
func (s *Store) grant(sh *shard, e *entry, w *lockqueue.Waiter, now int64) {
	s.acquire(sh, e, w.Owner(), w.Stale(), now)
	sh.hold(e).Granted(w, func(rec *store.Record) { s.readAll(sh, e, rec, now) })
}

// settle does to a session what its time has brought: the first in line for whom
// the lock is stale takes it over, provided that this came before the expiry;
// otherwise a session that has expired ends. It reports whether the session is there;
// an error means that it has expired, and that the log does not take it.
func (s *Store) settle(sh *shard, ref uint32, e *entry, now int64) (there bool, err error) {
	if h := sh.hold(e); h != nil {
		if w := h.Taker(e.deadline, now); w != nil {
			s.grant(sh, e, w, now)
			return true, nil
		}
	}
	if now < e.deadline {
		return true, nil
	}
	expired := store.Reason{Kind: store.Expired, Age: time.Duration(now - e.deadline)}
	return false, s.end(sh, ref, e, s.keyOf(e), expired, now)
}

// wait sleeps, first for that long, until w has its outcome or gives up. Until then
// the session's entry stays where it is, under its number.
func (s *Store) wait(ctx context.Context, sh *shard, ref uint32, w *lockqueue.Waiter, sleep time.Duration) error {
	s.waiting.Add(1)
	defer s.waiting.Add(-1)
	return w.Wait(ctx, sleep, func(timer *time.Timer) (over bool, err error) { return s.woken(ctx, sh, ref, w, timer) })
}

// woken looks whether the waiting is over, and else sets the timer again.
func (s *Store) woken(ctx context.Context, sh *shard, ref uint32, w *lockqueue.Waiter, timer *time.Timer) (over bool, err error) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	now := s.now()
	gone := ctx.Err()
	if over, _ := w.Over(); !over && gone == nil {
		if _, err := s.settle(sh, ref, sh.entries.at(ref), now); err != nil {
			sh.hold(sh.entries.at(ref)).Leave(w)
			return true, unavailable(err)
		}
	}
	if over, err = w.Over(); over {
		if err == nil && gone != nil {
			if e := sh.entries.there(ref); e != nil && sh.hold(e).IsGrantTo(w) {
				s.release(sh, ref, e, now)
			}
			err = gone
		}
		return true, err
	}
	e := sh.entries.at(ref)
	switch h := sh.hold(e); {
	case gone != nil:
		h.Leave(w)
		return true, gone
	case w.GivesUp(now):
		h.Leave(w)
		return true, sh.lockedError(e, now)
	default:
		timer.Reset(w.Patience(h, e.deadline, now))
		return false, nil
	}
}
