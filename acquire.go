package holdfast

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/holdfast-session/holdfast/items"
	"github.com/holdfast-session/holdfast/store"
)

// acquire gets the request's session once, however often and by however many
// goroutines it is asked for. It waits for the lock as long as ctx, the request's as
// the asking handler has it: one that http.TimeoutHandler gives up waits no longer.
func (s *Session) acquire(ctx context.Context) error {
	if s.phase.Load() == acquired {
		return nil
	}
	s.io.Lock()
	defer s.io.Unlock()
	switch s.phase.Load() {
	case acquired:
		return nil
	case failed:
		return s.failure
	}
	if err := s.sticky(); err != nil {
		return err // the request is over
	}
	if err := s.seek(ctx); err != nil {
		s.failure = err
		s.phase.Store(failed)
		return err
	}
	s.phase.Store(acquired)
	return nil
}

// keyOf is the store's key of a session ID.
func (m *Manager) keyOf(id string) store.ID {
	if m.o.PlainIDs {
		return store.ID{App: m.o.App, Session: id}
	}
	return store.ID{App: m.o.App, Session: hashID(id)}
}

// seek opens the first of the presented sessions that is there, or begins a new
// one. An ID that the store does not know is never taken over.
func (s *Session) seek(ctx context.Context) error {
	m := s.m
	s.now.timeout = m.o.Timeout
	var lost store.Reason
	presented := false
	if !m.off {
		var buf [maxCandidates]string
		for _, id := range s.present(buf[:0]) {
			presented = true
			err := s.open(ctx, id, m.keyOf(id))
			if err == nil {
				return nil
			}
			if !errors.Is(err, store.ErrNotFound) {
				return err
			}
			if why := store.ReasonOf(err); lost.Kind == store.Unknown || why.Kind == store.Regenerated {
				lost = why // a replaced ID counts before others: it stops writes
			}
		}
	}
	if lost.Kind == store.Restarted && lost.Age > m.o.Timeout {
		lost = store.Reason{} // it would have expired by now in any case
	}
	if m.cookieless && !m.off && s.access != ReadOnly {
		return s.prepare(ctx, lost, presented)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.base = &s.own
	s.own.Timeout = s.now.timeout
	s.kept = s.now
	s.isNew, s.lost = true, lost
	return nil
}

// renewalOverlap is how long an ID that was renewed leads to its session: as long as
// a request that was sent with it may be under way.
const renewalOverlap = 10 * time.Second

// open reads the session of this ID, which the store has under key, into s and, if
// the access is exclusive, locks it.
func (s *Session) open(ctx context.Context, id string, key store.ID) error {
	m := s.m
	s.setKey(key)
	var err error
	if s.access == Exclusive {
		err = s.lock(ctx, key)
	} else {
		s.rec.Body = s.room[:0]
		ctx, cancel := m.storeContext(ctx)
		err = m.repeat(ctx, onlyUnsure, func(ctx context.Context) error { return m.store.Load(ctx, key, &s.rec) })
		cancel()
	}
	var base *items.Item
	switch {
	case err != nil:
	case m.cookieless && s.rec.Flags&store.Uninitialized != 0:
		base = &s.own // ours, for the redirect
		base.Timeout = m.o.Timeout
	case s.rec.Flags&store.Uninitialized != 0:
		err = store.ErrNotFound // nothing was ever put in, and perhaps the visitor chose the ID
	default:
		if base, err = s.content(); err == nil && s.isOverdue() {
			err = s.expire(ctx)
		}
	}
	if err != nil {
		s.unlock(false)
		s.forget()
		if why := store.ReasonOf(err); why.Kind == store.Regenerated && why.To != "" && why.Age < renewalOverlap && !s.follows {
			s.follows = true
			return s.open(ctx, id, store.ID{App: key.App, Session: why.To})
		}
		return err
	}
	s.stored = true
	s.mu.Lock()
	defer s.mu.Unlock()
	s.id, s.base = id, base
	s.merging = !s.locked
	s.now = traitsOf(base, s.rec.Subject)
	s.kept, s.said = s.now, s.now.persist
	if s.rec.Flags&store.Uninitialized != 0 {
		s.isNew, s.lost = true, s.segment.lostBy(time.Now())
	}
	s.created = s.rec.Created
	return nil
}

// isOverdue reports whether the session in s.rec has reached its absolute lifetime.
func (s *Session) isOverdue() bool {
	d := s.m.o.Lifetime
	return d > 0 && !s.rec.Created.IsZero() && time.Since(s.rec.Created) >= d
}

// expire ends the session in s.rec, and returns that as the reason why it is not
// there.
func (s *Session) expire(ctx context.Context) error {
	m, key := s.m, s.key
	why := store.Reason{Kind: store.Expired}
	ctx, cancel := m.storeContext(ctx)
	defer cancel()
	err := m.repeat(ctx, untilDefinite, func(ctx context.Context) error { return m.store.Remove(ctx, key, store.Lock{}, why) })
	if err != nil {
		return err
	}
	s.letGo()
	return &store.NotFoundError{Reason: why}
}

// forget makes s one that has read nothing yet.
func (s *Session) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.key = store.ID{}
	s.own = items.Item{}
	s.live, s.liveKept = nil, nil
}

// setKey changes the key under which the store has the session. Called with io
// held.
func (s *Session) setKey(key store.ID) {
	s.mu.Lock()
	s.key = key
	s.mu.Unlock()
}

// content is the record's content, ready to be read.
func (s *Session) content() (*items.Item, error) {
	body := s.rec.Body
	if k, ok := s.rec.Items.(*kept); ok {
		body = []byte(k.body)
		s.mu.Lock()
		s.adopt(k.live)
		s.mu.Unlock()
	}
	it := &s.own
	if s.base == it {
		it = new(items.Item) // somebody may still be reading the other
	}
	if err := it.Parse(body); err != nil {
		return nil, fmt.Errorf("holdfast: the session cannot be read, and is left as it is: %w", err)
	}
	it.Timeout = s.m.timeoutOf(s.rec.Timeout, it.Timeout)
	return it, nil
}

// timeoutOf is a session's timeout: what the store was told, less the slack, if we have
// told it; what the body says, which counts minutes, if another platform has. That tells
// the store just what the body says. Nine of ours look alike, as 9m5s does, which with its
// slack is ten minutes: where others may have written, they are taken for theirs.
func (m *Manager) timeoutOf(stored, body time.Duration) time.Duration {
	t := unslack(stored)
	ours := slack(t) == stored && (t+time.Minute-1).Truncate(time.Minute) == body
	if !ours || m.o.PlainIDs && stored == body {
		return body
	}
	return t
}

// A store keeps a session a tenth longer than its timeout, so that restarting the
// timeout is needed once in a tenth of it only, and nothing ever ends early.
func slack(timeout time.Duration) time.Duration {
	timeout = min(timeout, forever) // another platform may have said more
	return timeout + wholeSeconds(timeout/10)
}

func unslack(stored time.Duration) time.Duration {
	return (stored / time.Second * 10 / 11) * time.Second
}

// lock takes the session's lock for this request and reads it into s.rec: first in
// the line of this process, then at the store.
func (s *Session) lock(ctx context.Context, key store.ID) error {
	m := s.m
	start := time.Now()
	behind, err := m.queue.enter(ctx, key, m.o.MaxWaiters, m.o.LockWait)
	if err != nil {
		if time.Since(start) >= m.o.LockWait {
			m.warn(&m.warned.queue, "a request waited in vain for a session that another request of this process holds; "+
				"a handler that calls its own site with its visitor's cookie must call Session.Release first, or one of the two be ReadOnly or Merge")
		}
		return err
	}
	wait := m.o.LockWait
	if behind {
		wait = max(wait-time.Since(start), 0)
	}
	o := store.LockOptions{Owner: store.NewOwner(), Wait: wait, Stale: m.o.LockTimeout}
	if !m.local {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, wait+m.o.StoreTimeout)
		defer cancel()
	}
	s.rec.Body, s.rec.Items = nil, nil
	if s.base == nil {
		s.rec.Body = s.room[:0] // nobody reads there yet
	}
	err = m.repeat(ctx, onlyUnsure, func(ctx context.Context) error { return m.store.Lock(ctx, key, o, &s.rec) })
	if err == nil {
		s.locked, s.line = true, key
		if behind {
			start = time.Now()
		}
		m.lease.add(s, start)
		if s.r.ContentLength > largeUpload {
			m.warn(&m.warned.upload, "a large upload is read while its request holds the session's lock, so the visitor's other requests wait for it; "+
				"read the body before the first From, call Session.Release, or use Merge")
		}
		return nil
	}
	var locked *store.LockedError
	switch {
	case errors.As(err, &locked):
		err = fmt.Errorf("%w: %w", ErrBusy, err)
	case !definite(err):
		// Perhaps it was granted, to nobody: see to it that nobody waits for that.
		m.background.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), m.o.LockTimeout)
			defer cancel()
			m.repeat(ctx, untilDefinite, func(ctx context.Context) error {
				return m.store.Unlock(ctx, key, store.Lock{Owner: o.Owner})
			})
		})
	}
	m.queue.leave(key)
	return err
}

// largeUpload is what takes some visitors a while to send.
const largeUpload = 1 << 20

// warn tells the log of a mistake that is easily made, once in a Manager's life.
func (m *Manager) warn(once *sync.Once, what string) {
	if m.log != nil {
		once.Do(func() { m.log.Warn("holdfast: " + what) })
	}
}

// storeContext is the context of one operation of the store, which goes on when
// the visitor leaves. A store in this process needs no deadline.
func (m *Manager) storeContext(ctx context.Context) (context.Context, context.CancelFunc) {
	if m.local {
		return context.Background(), func() {}
	}
	return context.WithTimeout(context.WithoutCancel(ctx), m.o.StoreTimeout)
}

// definite reports whether err says what has become of the call.
func definite(err error) bool {
	return !errors.Is(err, store.ErrUnsure) && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled)
}

// What repeat repeats.
const (
	onlyUnsure    = false // a store that is not there is an error page at once
	untilDefinite = true  // a change that is not saved is lost: give the store its time
)

// repeat makes a call of the store until it has a definite answer, or ctx ends. The
// call has the same tokens each time, so that doing it twice is doing it once.
func (m *Manager) repeat(ctx context.Context, unavailable bool, call func(context.Context) error) error {
	err := call(ctx)
	if err == nil || definite(err) && !(unavailable && errors.Is(err, store.ErrUnavailable)) {
		return err
	}
	if _, bounded := ctx.Deadline(); !bounded { // a store in this process, which needs no deadline until it fails
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, m.o.StoreTimeout)
		defer cancel()
	}
	began, unsure := time.Now(), !definite(err)
	// The first time at once: a lost reply is a lost connection, and the longer it
	// takes, the more is saved over what is asked for.
	for pause := time.Duration(1); ; pause = min(max(2*pause, 200*time.Microsecond), 250*time.Millisecond) {
		timer := time.NewTimer(pause/2 + rand.N(pause))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			if unsure && definite(err) {
				return fmt.Errorf("%w (%w)", store.ErrUnsure, err)
			}
			return err
		}
		err = call(ctx)
		switch {
		case err == nil:
			return nil
		case !definite(err):
			unsure = true
		case errors.Is(err, store.ErrUnavailable) && (unavailable || unsure && time.Since(began) < m.o.StoreTimeout):
		case errors.Is(err, store.ErrUnavailable) && unsure:
			return fmt.Errorf("%w (%w)", store.ErrUnsure, err) // ctx has the time to wait for a lock, too
		default:
			return err
		}
	}
}
