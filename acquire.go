package holdfast

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
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
	if !m.off {
		var buf [maxCandidates]string
		for _, id := range m.o.Cookie.read(s.r, buf[:0]) {
			err := s.open(ctx, id)
			if err == nil {
				return nil
			}
			if !errors.Is(err, store.ErrNotFound) {
				return err
			}
			if why := store.ReasonOf(err); lost.Kind == store.Unknown {
				lost = why
			}
		}
	}
	if lost.Kind == store.Restarted && lost.Age > m.o.Timeout {
		lost = store.Reason{} // it would have expired by now in any case
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.base = &s.own
	s.own.Timeout = s.now.timeout
	s.kept = s.now
	s.isNew, s.lost = true, lost
	return nil
}

// open reads the session with this ID into s and, if the access is exclusive,
// locks it.
func (s *Session) open(ctx context.Context, id string) error {
	m, key := s.m, s.m.keyOf(id)
	s.setKey(key)
	var err error
	if s.access == Exclusive {
		err = s.lock(ctx, key)
	} else {
		ctx, cancel := m.storeContext(ctx)
		err = m.repeat(ctx, onlyUnsure, func(ctx context.Context) error { return m.store.Load(ctx, key, &s.rec) })
		cancel()
	}
	var base *items.Item
	switch {
	case err != nil:
	case s.rec.Flags&store.Uninitialized != 0:
		err = store.ErrNotFound // nothing was ever put in, and perhaps the visitor chose the ID
	default:
		base, err = s.content()
	}
	if err != nil {
		s.unlock(false)
		s.setKey(store.ID{})
		return err
	}
	s.stored = true
	s.mu.Lock()
	defer s.mu.Unlock()
	s.id, s.base = id, base
	s.merging = !s.locked
	s.now = traits{base.Timeout, s.rec.Subject}
	s.kept = s.now
	s.created = s.rec.Created
	return nil
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
	if it, ok := s.rec.Items.(*items.Item); ok {
		return it, nil
	}
	it := &s.own
	if s.base == it {
		it = new(items.Item) // somebody may still be reading the other
	}
	if err := it.Parse(s.rec.Body); err != nil {
		return nil, fmt.Errorf("holdfast: the session cannot be read, and is left as it is: %w", err)
	}
	if t := unslack(s.rec.Timeout); (t + time.Minute - 1).Truncate(time.Minute) == it.Timeout {
		it.Timeout = t // to the second; the body counts minutes
	}
	return it, nil
}

// A store keeps a session a tenth longer than its timeout, so that restarting the
// timeout is needed once in a tenth of it only, and nothing ever ends early.
func slack(timeout time.Duration) time.Duration {
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
	if err := m.queue.enter(ctx, key, m.o.MaxWaiters, m.o.LockWait); err != nil {
		return err
	}
	wait := max(m.o.LockWait-time.Since(start), 0)
	o := store.LockOptions{Owner: store.NewOwner(), Wait: wait, Stale: m.o.LockTimeout}
	if !m.local {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, wait+m.o.StoreTimeout)
		defer cancel()
	}
	s.rec.Body, s.rec.Items = nil, nil
	err := m.repeat(ctx, onlyUnsure, func(ctx context.Context) error { return m.store.Lock(ctx, key, o, &s.rec) })
	if err == nil {
		s.locked, s.line = true, key
		m.lease.add(s)
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
	unsure := !definite(err)
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
		case errors.Is(err, store.ErrUnavailable) && (unavailable || unsure):
		default:
			return err
		}
	}
}
