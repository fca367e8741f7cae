package stateserver

import (
	"context"
	"net"
	"sync"
	"time"
)

// A pool lends connections, each to one request at a time: to those that wait, to
// large ones and lists, and to all on a foreign server.
type pool struct {
	dial  func(ctx context.Context) (net.Conn, error)
	keep  time.Duration // how long a connection may be idle
	slots chan struct{} // a place for each connection that is lent
	ended chan struct{} // closed by close

	mu     sync.Mutex
	closed bool
	idle   []*clientConn // the one used last at the end
	all    map[*clientConn]struct{}
}

// A clientConn is one connection to a server.
type clientConn struct {
	pool    *pool
	nc      net.Conn
	used    bool // a request was answered on it: the server may have closed it since
	kind    peer
	in, out []byte
	resp    response
	since   time.Time // when it became idle
}

// peer is what a client knows of who answers a connection.
type peer uint8

const (
	peerUnknown  peer = iota
	peerHoldfast      // a server that marks its answers
	peerForeign       // another one of the protocol
)

func newPool(size int, keep time.Duration, dial func(context.Context) (net.Conn, error)) *pool {
	return &pool{
		dial:  dial,
		keep:  keep,
		slots: make(chan struct{}, size),
		ended: make(chan struct{}),
		all:   make(map[*clientConn]struct{}),
	}
}

// get lends a connection, an idle one if there is one, waiting for its turn until
// the deadline. Give it back with put.
func (p *pool) get(ctx context.Context, deadline time.Time) (*clientConn, error) {
	select {
	case p.slots <- struct{}{}:
	default:
		ctx, cancel := context.WithDeadline(ctx, deadline)
		defer cancel()
		select {
		case p.slots <- struct{}{}:
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-p.ended:
			return nil, errClientClosed
		}
	}
	cn := p.pop()
	if cn != nil {
		return cn, nil
	}
	cn, err := p.open(ctx, deadline)
	if err != nil {
		p.release()
		return nil, err
	}
	return cn, nil
}

// release lets another connection be lent.
func (p *pool) release() { <-p.slots }

// pop takes the idle connection that was used last, and closes those that were
// idle for too long or that the server has closed.
func (p *pool) pop() *clientConn {
	now := time.Now()
	for {
		p.mu.Lock()
		n := len(p.idle)
		if n == 0 {
			p.mu.Unlock()
			return nil
		}
		cn := p.idle[n-1]
		p.idle[n-1] = nil
		p.idle = p.idle[:n-1]
		p.mu.Unlock()
		rested := now.Sub(cn.since)
		cn.nc.SetReadDeadline(time.Time{})
		if rested < p.keep && (rested < restUnchecked || alive(cn.nc)) {
			return cn
		}
		cn.drop()
	}
}

// restUnchecked is how long an idle connection is taken for open without a look.
const restUnchecked = 100 * time.Millisecond

// open dials a new connection.
func (p *pool) open(ctx context.Context, deadline time.Time) (*clientConn, error) {
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	nc, err := p.dial(ctx)
	if err != nil {
		return nil, err
	}
	cn := &clientConn{pool: p, nc: nc, in: make([]byte, 0, smallBuffer)}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		nc.Close()
		return nil, errClientClosed
	}
	p.all[cn] = struct{}{}
	return cn, nil
}

// put gives a connection back; one that is not fit for another request is closed.
func (p *pool) put(cn *clientConn, fit bool) {
	if fit {
		cn.used = true
		cn.since = time.Now()
		if cap(cn.in) > keepBuffer {
			cn.in = make([]byte, 0, smallBuffer)
		}
		if cap(cn.out) > keepBuffer {
			cn.out = nil
		}
		p.mu.Lock()
		if fit = !p.closed; fit {
			p.idle = append(p.idle, cn)
		}
		p.mu.Unlock()
	}
	if !fit {
		cn.drop()
	}
	p.release()
}

// reusable reports whether the server goes on reading after the answer a.
func (cn *clientConn) reusable(a *answer) bool {
	switch a.status {
	case statusBadRequest, statusTooLarge, statusNoToken, statusDenied:
		return false
	}
	return true
}

// drop closes a connection.
func (cn *clientConn) drop() {
	cn.nc.Close()
	cn.pool.forget(cn)
}

// forget is told that a connection is closed, or somebody else's.
func (p *pool) forget(cn *clientConn) {
	p.mu.Lock()
	delete(p.all, cn)
	p.mu.Unlock()
}

// dropIdle closes the idle connections: the server has restarted.
func (p *pool) dropIdle() {
	p.mu.Lock()
	idle := p.idle
	p.idle = nil
	p.mu.Unlock()
	for _, cn := range idle {
		cn.drop()
	}
}

// close closes all connections, the lent ones too, whose requests then fail.
func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	p.closed = true
	close(p.ended)
	p.idle = nil
	for cn := range p.all {
		cn.nc.Close()
	}
}

// aLongTimeAgo as a deadline ends what is under way on a connection.
var aLongTimeAgo = time.Unix(1, 0)

// roundTrip sends q and reads the answer into cn.resp, until ctx ends or deadline
// has passed. sent reports whether the whole request left: if it did not, the
// server has not done it. The answer lies in cn's buffer.
func (cn *clientConn) roundTrip(ctx context.Context, deadline time.Time, host string, q *call) (sent bool, err error) {
	cn.nc.SetDeadline(deadline)
	if ctx.Done() != nil {
		ended := make(chan struct{})
		stop := context.AfterFunc(ctx, func() {
			cn.nc.SetDeadline(aLongTimeAgo)
			close(ended)
		})
		defer func() {
			if !stop() {
				<-ended // or it would end somebody else's request
			}
		}()
	}
	cn.out = q.appendTo(cn.out[:0], host)
	n, err := cn.nc.Write(cn.out)
	if err != nil {
		// The server may have said why it did not read on.
		if n == 0 || cn.read(q.method) != nil {
			return n == len(cn.out), err
		}
		return true, nil
	}
	return true, cn.read(q.method)
}

// responseLimits bound what a server can make a client keep.
var responseLimits = limits{head: DefaultMaxHeader, body: 1 << 30}

// read reads one answer.
func (cn *clientConn) read(m method) error {
	cn.in = cn.in[:0]
	for {
		n, err := cn.nc.Read(cn.in[len(cn.in):cap(cn.in)])
		cn.in = cn.in[:len(cn.in)+n]
		if n == 0 && err != nil {
			return err
		}
		size, err := cn.resp.parse(cn.in, m, responseLimits)
		switch {
		case err == nil && size < len(cn.in):
			return errMoreThanAsked
		case err != errShort:
			return err
		}
		if len(cn.in) == cap(cn.in) {
			cn.in = append(make([]byte, 0, 2*cap(cn.in)), cn.in...)
		}
	}
}
