package stateserver

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// A mux keeps the few connections that requests share.
//
// Whoever finds all of them busy, and fewer than there may be, opens another one. He
// has it to himself for his first request, whose answer tells who is at the other
// end: nothing is sent ahead to a server that may not expect that.
type mux struct {
	size int
	// conns are those that take requests; the slice is never changed.
	conns atomic.Pointer[[]*sharedConn]

	mu      sync.Mutex
	closed  bool
	opening *opening                 // one at a time
	tries   int                      // how many have failed since the last that did not
	why     error                    // that of the last
	retryAt time.Time                // not before then is there another
	all     map[*sharedConn]struct{} // with those that only finish what they have
}

// An opening is a connection that is not shared yet.
type opening struct {
	done chan struct{} // closed when it is, or will not be
}

func newMux(size int) *mux {
	m := &mux{size: size, all: make(map[*sharedConn]struct{})}
	m.conns.Store(new([]*sharedConn))
	return m
}

// get returns a connection to share, or a new opening: the caller then is to make the
// connection, and to call opened in any case. Where connections fail, all callers
// together make one try at a time, at growing intervals, but for one that is to try
// now.
func (m *mux) get(ctx context.Context, deadline time.Time, now bool) (*sharedConn, *opening, error) {
	for tries := -1; ; {
		cn, all := m.least()
		if cn != nil && (all == m.size || cn.load.Load() == 0) {
			return cn, nil, nil
		}
		m.mu.Lock()
		if cn, all = m.least(); all == m.size { // by now
			m.mu.Unlock()
			continue
		}
		o := m.opening
		switch {
		case m.closed:
			m.mu.Unlock()
			return nil, nil, errClientClosed
		case cn == nil && tries >= 0 && m.tries > tries: // somebody else's try is ours
			defer m.mu.Unlock()
			return nil, nil, m.why
		case o == nil && (now || m.tries == 0 || !time.Now().Before(m.retryAt)):
			o = &opening{done: make(chan struct{})}
			m.opening = o
			m.mu.Unlock()
			return nil, o, nil
		}
		tries = m.tries
		retryAt := m.retryAt
		m.mu.Unlock()
		if cn != nil {
			return cn, nil, nil
		}
		if err := o.wait(ctx, deadline, retryAt); err != nil {
			return nil, nil, err
		}
	}
}

// least returns the connection that has the least to do, and how many there are.
func (m *mux) least() (best *sharedConn, all int) {
	conns := *m.conns.Load()
	var least int32
	for _, cn := range conns {
		if n := cn.load.Load(); best == nil || n < least {
			best, least = cn, n
		}
	}
	return best, len(conns)
}

// wait waits until an opening has ended or, if there is none, may begin.
func (o *opening) wait(ctx context.Context, deadline, retryAt time.Time) error {
	var done chan struct{}
	until := deadline
	if o != nil {
		done = o.done
	} else if retryAt.Before(deadline) {
		until = retryAt
	}
	t := time.NewTimer(time.Until(until))
	defer t.Stop()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		if until.Equal(deadline) {
			return context.DeadlineExceeded
		}
		return nil
	}
}

// opened ends an opening: with a connection, with the error that others would get
// too, or with neither.
func (m *mux) opened(o *opening, cn *sharedConn, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.opening = nil
	close(o.done)
	if err != nil {
		m.retryAt, m.why = time.Now().Add(pauseAfter(m.tries)), err
		m.tries++
	} else if cn != nil {
		m.tries = 0
	}
	switch {
	case cn == nil:
	case m.closed:
		cn.nc.Close()
	default:
		m.all[cn] = struct{}{}
		m.set(append(m.list(cn), cn))
	}
}

// remove sees to it that no more requests are sent on cn.
func (m *mux) remove(cn *sharedConn) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.set(m.list(cn))
}

// forget is told that cn is closed.
func (m *mux) forget(cn *sharedConn) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.all, cn)
}

// list returns a copy of the connections but cn. Called with mu held, as set is.
func (m *mux) list(but *sharedConn) []*sharedConn {
	conns := make([]*sharedConn, 0, m.size)
	for _, cn := range *m.conns.Load() {
		if cn != but {
			conns = append(conns, cn)
		}
	}
	return conns
}

func (m *mux) set(conns []*sharedConn) { m.conns.Store(&conns) }

// close closes all connections. Whoever waits on one is told by its leader.
func (m *mux) close() {
	m.mu.Lock()
	m.closed = true
	m.set(nil)
	all := m.all
	m.all = nil
	m.mu.Unlock()
	for cn := range all {
		cn.mu.Lock()
		if cn.err == nil {
			cn.err = errClientClosed
		}
		cn.nc.Close()
		cn.mu.Unlock()
	}
}
