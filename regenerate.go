package holdfast

import (
	"context"
	"errors"
	"time"

	"github.com/holdfast-session/holdfast/items"
	"github.com/holdfast-session/holdfast/store"
)

// How a session gets a new ID, and how it is ended.

// isDue reports whether the session is to get a new ID by itself, because this one
// has become old.
func (s *Session) isDue(ch *changes) bool {
	m := s.m
	if m.o.Renewal == 0 || m.cookieless || !s.locked || s.follows || s.w.left() {
		return false
	}
	since := s.rec.Created
	if ch.now.since != 0 {
		since = time.Unix(ch.now.since, 0)
	}
	return !since.IsZero() && time.Since(since) >= m.o.Renewal
}

// regenerate moves the session to a new ID: create the new one, end the old, and
// only then tell the browser.
func (s *Session) regenerate(ctx context.Context, ch *changes, how ending) error {
	m := s.m
	if s.w.left() {
		return ErrHeadersSent
	}
	if !s.locked {
		if err := s.relock(ctx, ch); err != nil {
			return err
		}
	}
	if m.o.Renewal > 0 {
		ch.now.since = time.Now().Unix()
	}
	it, err := ch.over(s.base)
	if err != nil {
		return err
	}
	old, oldKey, oldLine := s.rec, s.key, s.line
	m.lease.remove(s)
	s.rec = store.Record{Version: store.NewVersion(), Created: old.Created}
	hold := how == keepLock && s.access == Exclusive
	id, err := s.insert(ctx, ch, it, hold)
	if err != nil {
		s.rec = old
		m.lease.add(s, time.Now())
		return err
	}
	unsure := false
	why := store.Reason{Kind: store.Regenerated}
	if ch.renewal {
		why.To = s.key.Session
	}
	sctx, cancel := m.storeContext(ctx)
	err = m.repeat(sctx, untilDefinite, func(ctx context.Context) error {
		err := m.store.Remove(ctx, oldKey, old.Lock, why)
		if unsure && errors.Is(err, store.ErrNotFound) && store.ReasonOf(err).Kind == store.Regenerated {
			return nil // by us, the time before
		}
		unsure = unsure || !definite(err)
		return err
	})
	cancel()
	if err != nil {
		// The old one is another's, or ended, or perhaps still there. In each case
		// the new one, which nobody knows, must not live.
		m.lease.remove(s)
		newKey := s.key
		m.background.Go(func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), m.o.LockTimeout)
			defer cancel()
			m.repeat(ctx, untilDefinite, func(ctx context.Context) error {
				return m.store.Remove(ctx, newKey, store.Lock{}, store.Reason{Kind: store.Abandoned})
			})
		})
		s.setKey(oldKey)
		s.rec, s.locked, s.line = old, true, oldLine
		if errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrLockLost) {
			s.letGo()
		}
		return s.outcome(err)
	}
	s.line = store.ID{}
	if oldLine.Session != "" { // a lock that came with a Create stands in no line
		m.queue.leave(oldLine)
	}
	s.born(id)
	s.applied(ch, it)
	return nil
}

// abandon ends the stored session and leaves s empty. Called with io held.
func (s *Session) abandon() error {
	m := s.m
	if err := s.overdue(); err != nil {
		return err
	}
	if s.stored {
		ctx, cancel := m.storeContext(&s.ctx)
		defer cancel()
		key := s.key
		err := m.repeat(ctx, untilDefinite, func(ctx context.Context) error {
			return m.store.Remove(ctx, key, store.Lock{}, store.Reason{Kind: store.Abandoned})
		})
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.err == nil {
				s.err = err
			}
			return err
		}
		s.letGo()
		s.stored = false
		s.mu.Lock()
		s.lost = store.Reason{} // else it is a dead ID, and stays one
		s.mu.Unlock()
	}
	s.rec = store.Record{}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sayGone, s.sayID = s.sayGone || s.id != "", false // an ID that a Save gave it has ended too
	s.id, s.key = "", store.ID{}
	s.base = &items.Item{Timeout: m.o.Timeout}
	s.live, s.liveKept = nil, nil
	s.kept = traits{timeout: m.o.Timeout}
	s.discard()
	s.isNew, s.merging, s.follows = true, false, false
	s.created = time.Time{}
	return nil
}
