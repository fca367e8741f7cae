package holdfast

import (
	"context"
	"sync"
	"time"

	"github.com/holdfast-session/holdfast/store"
)

// leases renew the locks of requests that take long. A lock is broken when it is
// LockTimeout old, so that a dead worker's sessions come free; one whose handler
// still runs is renewed before that. One timer serves all locks of a Manager, and
// runs only while there are any, so that a request pays two pointers.
type leases struct {
	m     *Manager
	mu    sync.Mutex
	first *Session
	timer *time.Timer
	armed bool
}

// A leaseLink makes a Session a member of the list.
type leaseLink struct {
	next, prev *Session
	in         bool
	since      time.Time // of the lock, or of its renewal
}

// every is how often a lock is renewed: two renewals may fail before it is stale.
func (l *leases) every() time.Duration { return l.m.o.LockTimeout / 3 }

// add begins to renew the lock that s has got, at the time since or a little later.
func (l *leases) add(s *Session, since time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s.leased = leaseLink{next: l.first, in: true, since: since}
	if l.first != nil {
		l.first.leased.prev = s
	}
	l.first = s
	if !l.armed { // else it comes in time, and finds out by itself that nobody needs it any more
		l.arm(l.every() / 2)
	}
}

// arm sets the timer. Called with mu held.
func (l *leases) arm(d time.Duration) {
	l.armed = true
	if l.timer == nil {
		l.timer = time.AfterFunc(d, l.renew)
	} else {
		l.timer.Reset(d)
	}
}

// remove ends that. No renewal is under way when it returns, because both are done
// with s.io held.
func (l *leases) remove(s *Session) {
	l.mu.Lock()
	defer l.mu.Unlock()
	k := s.leased
	if !k.in {
		return
	}
	if k.prev != nil {
		k.prev.leased.next = k.next
	} else {
		l.first = k.next
	}
	if k.next != nil {
		k.next.leased.prev = k.prev
	}
	s.leased = leaseLink{}
}

func (l *leases) stop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.timer != nil {
		l.timer.Stop()
	}
}

// renew renews the locks that are due.
func (l *leases) renew() {
	now := time.Now()
	var due []*Session
	l.mu.Lock()
	for s := l.first; s != nil; s = s.leased.next {
		if now.Sub(s.leased.since) >= l.every()/2 {
			due = append(due, s)
			s.leased.since = now
		}
	}
	if l.armed = l.first != nil; l.armed {
		l.arm(l.every() / 2)
	}
	l.mu.Unlock()
	for _, s := range due {
		l.m.background.Go(s.renewLease)
	}
}

// renewLease locks the session again as the owner that has it. Should another have
// had the lock meanwhile, that is a new lock: ours, if nobody has saved. Otherwise our
// Save is refused, and the lock is given back at once.
func (s *Session) renewLease() {
	s.io.Lock()
	defer s.io.Unlock()
	if !s.locked {
		return
	}
	m := s.m
	ctx, cancel := context.WithTimeout(context.WithoutCancel(&s.ctx), m.o.LockTimeout/3)
	defer cancel()
	var rec store.Record
	err := m.repeat(ctx, onlyUnsure, func(ctx context.Context) error {
		return m.store.Lock(ctx, s.key, store.LockOptions{Owner: s.rec.Lock.Owner, Stale: m.o.LockTimeout, Renew: true}, &rec)
	})
	switch {
	case err == nil && rec.Version == s.rec.Version:
		s.rec.Lock = rec.Lock
	case err == nil:
		m.lease.remove(s)
		err = m.repeat(ctx, untilDefinite, func(ctx context.Context) error { return m.store.Unlock(ctx, s.key, rec.Lock) })
	}
	if err != nil && m.log != nil {
		m.log.WarnContext(ctx, "holdfast: a lock could not be renewed", "error", err, "session", s.logID())
	}
}
