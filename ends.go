package holdfast

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/holdfast-session/holdfast/store"
)

// An endWatch delivers the ends of sessions to the application.
type endWatch struct {
	once sync.Once
	stop chan struct{} // closed by close; nil if nothing is delivered
	done chan struct{}
}

const (
	endInterval = time.Second // how long an end waits at most to be delivered
	endLease    = time.Minute // how long a batch is ours before another process may have it
	endTime     = endLease / 2
	endBatch    = 100
)

// watchEnds begins to deliver ends, if the application wants them.
func (m *Manager) watchEnds() {
	if m.o.OnEnd == nil || m.off {
		return
	}
	ender, ok := m.store.(store.Ender)
	if !ok {
		panic(fmt.Sprintf("holdfast: Options.OnEnd: a %T does not remember which sessions ended; use a store that does, such as inproc", m.store))
	}
	// From now on it remembers them. If it is not there yet, the first delivery says so
	// in its place; no session can have begun before.
	ctx, cancel := context.WithTimeout(context.Background(), m.o.StoreTimeout)
	defer cancel()
	_, _ = ender.Ended(ctx, m.o.App, 0, endLease)
	m.ends.stop, m.ends.done = make(chan struct{}), make(chan struct{})
	go func() {
		defer close(m.ends.done)
		tick := time.NewTicker(endInterval)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				if !m.deliver(ender) {
					return
				}
			case <-m.ends.stop:
				m.deliver(ender)
				return
			}
		}
	}()
}

// close delivers what is due, and stops.
func (e *endWatch) close(ctx context.Context) error {
	if e.stop == nil {
		return nil
	}
	e.once.Do(func() { close(e.stop) })
	select {
	case <-e.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("holdfast: closed while ends of sessions were still being delivered: %w", context.Cause(ctx))
	}
}

// deliver hands over all ends that are due now. What was handed over is acknowledged
// one by one, so that a process that dies has the fewest delivered twice. One is begun
// only while there is endTime left of the lease of its batch, and what is not begun is
// had again when that is over. It reports false if there never will be any: a server may
// be in front of a store that remembers none.
func (m *Manager) deliver(ender store.Ender) bool {
	ctx, cancel := context.WithTimeout(context.Background(), endLease-endTime)
	defer cancel()
	for ctx.Err() == nil {
		ends, err := ender.Ended(ctx, m.o.App, endBatch, endLease)
		if err != nil {
			m.report(ctx, err, "the ends of sessions could not be had", nil)
			return !errors.Is(err, errors.ErrUnsupported)
		}
		for i := range ends {
			if ctx.Err() != nil {
				return true
			}
			m.deliverOne(&ends[i])
			if err := m.acknowledge(ender, ends[i].Key); err != nil {
				m.report(ctx, err, "an end of a session could not be acknowledged", nil)
				return true
			}
		}
		if len(ends) < endBatch {
			break
		}
	}
	return true
}

func (m *Manager) acknowledge(ender store.Ender, key string) error {
	ctx, cancel := context.WithTimeout(context.Background(), m.o.StoreTimeout)
	defer cancel()
	return ender.Ack(ctx, m.o.App, []string{key})
}

func (m *Manager) deliverOne(end *store.End) {
	ctx, cancel := context.WithTimeout(context.Background(), endTime)
	defer cancel()
	s := &Session{m: m, access: ReadOnly, rec: end.Record}
	s.ctx = sessionContext{ctx, s}
	s.key = end.ID
	base, err := s.content()
	if err != nil {
		m.report(ctx, err, "a session that ended could not be read", s)
		return
	}
	s.base, s.created = base, end.Record.Created
	s.now = traitsOf(base, end.Record.Subject)
	s.kept = s.now
	s.phase.Store(acquired)
	s.finished = true // it can be read, and not be changed
	defer func() {
		if p := recover(); p != nil {
			m.report(ctx, fmt.Errorf("holdfast: OnEnd panicked: %v", p), "a session's end was not dealt with", s)
		}
	}()
	m.o.OnEnd(&s.ctx, s, end.Reason)
}

// ErrNoList means that the store cannot find sessions by their subject.
var ErrNoList = fmt.Errorf("holdfast: this store cannot find sessions by their subject: %w", errors.ErrUnsupported)

// Info is what is known of a session without its values.
type Info struct {
	// LogID stands for the session, as [Session.LogID] does.
	LogID   string
	Subject string
	Created time.Time
	Timeout time.Duration

	key store.ID
}

// Sessions returns the sessions of a subject ([Session.SetSubject]), for a page that
// shows a user where he is signed in. The error is [ErrNoList] if the store cannot
// tell.
func (m *Manager) Sessions(ctx context.Context, subject string) ([]Info, error) {
	lister, ok := m.store.(store.Lister)
	if !ok {
		return nil, ErrNoList
	}
	if subject == "" {
		return nil, errors.New("holdfast: Sessions: the subject is empty")
	}
	var all []Info
	for q := (store.Query{App: m.o.App, Subject: subject}); ; {
		page, next, err := lister.List(ctx, q)
		switch {
		case errors.Is(err, errors.ErrUnsupported):
			return nil, fmt.Errorf("%w (%v)", ErrNoList, err)
		case err != nil:
			return nil, err
		}
		for _, l := range page {
			all = append(all, Info{logID(l.ID.App, l.ID.Session), l.Record.Subject, l.Record.Created, unslack(l.Record.Timeout), l.ID})
		}
		if q.After = next; next == "" {
			return all, nil
		}
	}
}

// End ends a session that [Manager.Sessions] has returned, at once and for good, as
// [Session.Abandon] does.
func (m *Manager) End(ctx context.Context, session Info) error {
	if session.key.Session == "" {
		return errors.New("holdfast: End: this Info is not from Sessions")
	}
	ctx, cancel := context.WithTimeout(ctx, m.o.StoreTimeout)
	defer cancel()
	err := m.repeat(ctx, untilDefinite, func(ctx context.Context) error {
		return m.store.Remove(ctx, session.key, store.Lock{}, store.Reason{Kind: store.Abandoned})
	})
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	return err
}

// EndAll ends all sessions of a subject but except, which may be nil, and returns how
// many there were: "sign out everywhere else". Sessions that begin meanwhile may stay.
func (m *Manager) EndAll(ctx context.Context, subject string, except *Session) (int, error) {
	all, err := m.Sessions(ctx, subject)
	if err != nil {
		return 0, err
	}
	var keep store.ID
	if except != nil {
		except.mu.Lock()
		keep = except.key
		except.mu.Unlock()
	}
	n := 0
	for _, session := range all {
		if session.key == keep {
			continue
		}
		if err := m.End(ctx, session); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}
