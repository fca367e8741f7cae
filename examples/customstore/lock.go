package customstore

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/holdfast-session/holdfast/store"
)

// A waiter is a call of Lock, from its beginning to its end.
type waiter struct {
	woken chan struct{} // the lock may be free, or the session gone
}

// Lock implements store.Store. A lock that is free is for the call that came first.
func (s *Store) Lock(ctx context.Context, id store.ID, o store.LockOptions, rec *store.Record) error {
	until := time.Now().Add(o.Wait)
	w := s.join(id)
	defer s.leave(id, w)
	for {
		err := s.tryLock(ctx, id, o, rec, w)
		locked := new(store.LockedError)
		wait := time.Until(until)
		if !errors.As(err, &locked) || wait <= 0 {
			return err
		}
		if o.Stale > 0 {
			wait = min(wait, o.Stale-locked.Age)
		}
		select {
		case <-w.woken:
		case <-time.After(wait):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s *Store) tryLock(ctx context.Context, id store.ID, o store.LockOptions, rec *store.Record, w *waiter) error {
	return s.change(ctx, id, func(e *session, now time.Time) error {
		switch {
		case e.Locked && e.Lock.Owner == o.Owner:
			e.LockedAt, e.Acquired = now, e.Version
		case !e.Locked && s.first(id) == w,
			e.Locked && o.Stale > 0 && now.Sub(e.LockedAt) >= o.Stale:
			e.take(o.Owner, now)
		default:
			return e.lockedError(now)
		}
		e.postpone(now, max(e.Timeout, o.Stale))
		e.read(rec, now)
		return nil
	})
}

// join lines a call up for the lock of a session.
func (s *Store) join(id store.ID) *waiter {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := &waiter{make(chan struct{}, 1)}
	s.lines[id] = append(s.lines[id], w)
	return w
}

// leave takes it out of the line again. Another one is the first then.
func (s *Store) leave(id store.ID, w *waiter) {
	s.mu.Lock()
	line := s.lines[id]
	i := slices.Index(line, w)
	if line = slices.Delete(line, i, i+1); len(line) == 0 {
		delete(s.lines, id)
	} else {
		s.lines[id] = line
	}
	s.mu.Unlock()
	s.wake(id)
}

func (s *Store) first(id store.ID) *waiter {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lines[id][0]
}

// wake has those who wait look again.
func (s *Store) wake(id store.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range s.lines[id] {
		select {
		case w.woken <- struct{}{}:
		default:
		}
	}
}
