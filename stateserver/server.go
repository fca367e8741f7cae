package stateserver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"hash/maphash"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/holdfast-session/holdfast/store"
)

// ErrServerClosed is what [Server.Serve] returns after [Server.Shutdown] or
// [Server.Close].
var ErrServerClosed = errors.New("stateserver: server closed")

// What a Server's zero fields mean.
const (
	DefaultVersion      = "4.0.30319"
	DefaultMaxBody      = 16 << 20
	DefaultMaxHeader    = 16 << 10
	DefaultMaxBuffered  = 256 << 20
	DefaultIdleTimeout  = 5 * time.Minute
	DefaultReadTimeout  = 30 * time.Second
	DefaultWriteTimeout = 30 * time.Second
)

// A Server serves a store to the clients of the protocol, Holdfast's and
// ASP.NET's. Its zero value and a Store make a good one. Set the fields before the
// first Serve; a Server that was shut down does not serve again.
//
// There is a goroutine for each connection. What one peer does wrong costs that
// peer its connection and is not felt by others.
type Server struct {
	// Store keeps the sessions. The server calls it from many goroutines and does
	// not close it.
	Store store.Store

	// Exact makes the server behave as Microsoft's, for everybody: what only a
	// Holdfast client asks for is ignored, a PUT on an unlocked or absent session
	// always wins, and a changed timeout starts the session anew. It loses updates
	// and brings sessions back where Microsoft's does. Lock cookies count from 1 if
	// the store counts them.
	Exact bool

	// Access says who may use the server, and how much of it; it is read at the
	// first Serve. [Server.SetAccess] changes it later.
	Access Access

	// AllowRemote lets other machines connect where Access asks for neither tokens
	// nor client certificates: whoever connects reads and changes every session.
	// Without it the server then refuses to listen on an address that other machines
	// reach.
	AllowRemote bool

	// Version is sent as X-AspNet-Version; empty means DefaultVersion. ASP.NET's
	// clients want 2 or more in front of the first dot.
	Version string

	// MaxBody is how many bytes a session may have on the wire, and MaxHeader how
	// many the head of a request; 0 means DefaultMaxBody and DefaultMaxHeader.
	MaxBody, MaxHeader int

	// MaxBuffered is how many bytes requests and answers of more than 16 KiB may
	// take together while they are being sent. Who exceeds it is answered 503. 0
	// means DefaultMaxBuffered.
	MaxBuffered int64

	// MaxConns is how many connections are served at a time, 0 for no limit. Those
	// past it wait, unaccepted, for one to end; of several listeners each may have
	// accepted one that waits.
	MaxConns int

	// ReadTimeout ends a connection that takes longer to send a request that it has
	// begun, IdleTimeout one that has had no request for that long, and WriteTimeout
	// one that takes longer to read an answer; the latter two may be exceeded by
	// half. 0 means DefaultIdleTimeout, DefaultReadTimeout and DefaultWriteTimeout;
	// less than 0 means never.
	IdleTimeout, ReadTimeout, WriteTimeout time.Duration

	// Logger gets what an operator should know: stores that fail (Error), peers
	// that are turned away (Warn) and those that misbehave (Debug). nil means
	// slog.Default().
	Logger *slog.Logger

	// now is the clock of LockDate; tests set it.
	now func() time.Time

	start    sync.Once
	limits   limits
	slots    chan struct{} // MaxConns places; nil for no limit
	base     context.Context
	end      context.CancelFunc // ends base
	waiting  context.Context    // of requests that wait for a lock
	endWaits context.CancelFunc
	draining atomic.Bool
	stripes  [256]sync.Mutex // Exact: one operation on a key at a time
	seed     maphash.Seed

	epoch     time.Time // what nanos counts from
	accessErr error     // why there are no rules
	rules     atomic.Pointer[rules]
	sources   sources
	failures  repeats       // of the store
	denials   chan struct{} // a place for each refused connection that is answered
	counters  []counters
	waits     atomic.Int64 // requests that wait for a lock
	buffered  atomic.Int64 // of MaxBuffered

	mu        sync.Mutex
	closed    bool // set before draining, under mu
	listeners map[net.Listener]struct{}
	conns     map[*conn]struct{}
	done      sync.WaitGroup // conns
}

// setUp fills in what the first use needs.
func (s *Server) setUp() {
	s.start.Do(func() {
		if s.now == nil {
			s.now = time.Now
		}
		if s.Logger == nil {
			s.Logger = slog.Default()
		}
		if s.Version == "" {
			s.Version = DefaultVersion
		}
		if s.MaxBuffered == 0 {
			s.MaxBuffered = DefaultMaxBuffered
		}
		s.limits = limits{head: s.MaxHeader, body: s.MaxBody}
		if s.limits.head == 0 {
			s.limits.head = DefaultMaxHeader
		}
		if s.limits.body == 0 {
			s.limits.body = DefaultMaxBody
		}
		for _, t := range []struct {
			field *time.Duration
			value time.Duration
		}{{&s.IdleTimeout, DefaultIdleTimeout}, {&s.ReadTimeout, DefaultReadTimeout}, {&s.WriteTimeout, DefaultWriteTimeout}} {
			if *t.field == 0 {
				*t.field = t.value
			}
		}
		if s.MaxConns > 0 {
			s.slots = make(chan struct{}, s.MaxConns)
		}
		s.epoch = time.Now()
		r, err := compile(&s.Access)
		if s.accessErr = err; err == nil {
			s.rules.Store(r)
		}
		s.denials = make(chan struct{}, maxDenials)
		s.counters = make([]counters, shards)
		s.base, s.end = context.WithCancel(context.Background())
		s.waiting, s.endWaits = context.WithCancel(s.base)
		s.seed = maphash.MakeSeed()
		s.listeners = make(map[net.Listener]struct{})
		s.conns = make(map[*conn]struct{})
	})
}

// nanos is the time, in nanoseconds since the server began.
func (s *Server) nanos() int64 { return int64(time.Since(s.epoch)) }

// ListenAndServe listens on addr, as [Listen] does, and serves.
func (s *Server) ListenAndServe(addr string) error {
	l, err := Listen(addr)
	if err != nil {
		return err
	}
	return s.Serve(l)
}

// Listen listens on addr, as [ParseAddr] reads it. An empty addr means
// [DefaultAddr]. A socket file that a server left behind is replaced.
func Listen(addr string) (net.Listener, error) {
	if addr == "" {
		addr = DefaultAddr
	}
	network, address, err := ParseAddr(addr)
	if err != nil {
		return nil, err
	}
	l, err := net.Listen(network, address)
	if network == "unix" && errors.Is(err, syscall.EADDRINUSE) && abandonedSocket(address) {
		os.Remove(address)
		l, err = net.Listen(network, address)
	}
	return l, err
}

// abandonedSocket reports whether path is a socket that nobody listens on.
func abandonedSocket(path string) bool {
	info, err := os.Stat(path)
	if err != nil || info.Mode()&fs.ModeSocket == 0 {
		return false
	}
	nc, err := net.Dial("unix", path)
	if err == nil {
		nc.Close()
	}
	return errors.Is(err, syscall.ECONNREFUSED)
}

// Serve accepts connections on l and answers their requests until the server is
// shut down, and then returns [ErrServerClosed]. It closes l. It may be called for
// several listeners.
func (s *Server) Serve(l net.Listener) error {
	defer l.Close()
	if s.Store == nil {
		return errors.New("stateserver: Server.Store is nil; set it before Serve")
	}
	s.setUp()
	r := s.rules.Load()
	if r == nil {
		return s.accessErr
	}
	if addr := addrOf(l.Addr()); !s.AllowRemote && !r.protected() && addr.IsValid() && !addr.IsLoopback() {
		return fmt.Errorf("stateserver: %s can be reached from other machines, and nobody has to show who he is: "+
			"listen on localhost or a unix socket, set Access.Tokens or Access.ClientCerts, "+
			"or set AllowRemote where a firewall lets only the web servers in", l.Addr())
	}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return ErrServerClosed
	}
	s.listeners[l] = struct{}{}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.listeners, l)
		s.mu.Unlock()
	}()
	var pause time.Duration
	for {
		// A slot that was kept while nobody comes here would be missing elsewhere.
		if !s.slot() {
			return ErrServerClosed
		}
		s.release()
		nc, err := l.Accept()
		if err == nil {
			pause = 0
			if !s.slot() { // another listener has had it meanwhile
				nc.Close()
				return ErrServerClosed
			}
			s.serveConn(nc)
			continue
		}
		if s.draining.Load() {
			return ErrServerClosed
		}
		if !passes(err) {
			return err
		}
		// Out of file descriptors, for instance: some will be closed.
		pause = min(max(2*pause, 5*time.Millisecond), time.Second)
		s.Logger.Error("stateserver: accept failed, trying again", "err", err, "in", pause)
		select {
		case <-time.After(pause):
		case <-s.waiting.Done():
			return ErrServerClosed
		}
	}
}

// passes reports whether a failure to accept is one of the moment.
func passes(err error) bool {
	for _, e := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// maxDenials is how many refused connections are answered at a time. Others are
// closed without a word.
const maxDenials = 64

// serveConn starts serving nc, for which there is a slot.
func (s *Server) serveConn(nc net.Conn) {
	r, addr, now := s.rules.Load(), addrOf(nc.RemoteAddr()), s.nanos()
	c := newConn(s, nc)
	c.addr, c.now = addr, now
	c.counters.accepted.Add(1)
	limit := r.MaxConns
	if r.unlimited(addr) {
		limit = 0
	}
	from, entered := s.sources.enter(addr, limit, now)
	c.source = from
	leave := func() {
		if entered {
			s.sources.leave(from, s.nanos())
		}
		if c.denied {
			<-s.denials
		}
		s.release()
	}
	switch {
	case !r.welcomes(addr, s.AllowRemote):
		c.denied, c.why = true, refusedAddress
	case !entered:
		c.denied, c.why = true, refusedConns
	}
	if c.denied {
		s.refused(c, c.why)
		if c.denied = s.answersDenial(c, r); !c.denied {
			nc.Close()
			leave()
			return
		}
	}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		nc.Close()
		leave()
		return
	}
	s.conns[c] = struct{}{}
	s.done.Add(1)
	s.mu.Unlock()
	go func() {
		if c.open() {
			c.serve()
		}
		nc.Close()
		s.mu.Lock()
		delete(s.conns, c)
		s.mu.Unlock()
		leave()
		s.done.Done()
	}()
}

// answersDenial reports whether a refused connection is told so, once it has asked
// for something: if it is one of few, costs no handshake, and is not from a machine
// that nobody allowed.
func (s *Server) answersDenial(c *conn, r *rules) bool {
	if _, ok := c.nc.(*tls.Conn); ok || r.ClientCerts || !r.reaches(c.addr, s.AllowRemote) {
		return false
	}
	select {
	case s.denials <- struct{}{}:
		return true
	default:
		return false
	}
}

// slot takes a slot, waiting for one, and reports false if the server shuts down.
func (s *Server) slot() bool {
	if s.slots == nil {
		return true
	}
	select {
	case s.slots <- struct{}{}:
		return true
	default:
	}
	select {
	case s.slots <- struct{}{}:
		return true
	case <-s.waiting.Done():
		return false
	}
}

// release gives a slot back.
func (s *Server) release() {
	if s.slots != nil {
		<-s.slots
	}
}

// Shutdown stops listening, closes the connections that have nothing to do, and
// lets the others finish the requests that they have sent; those that wait for a
// lock are closed without an answer, and wait on at the next server. It returns
// when all connections are closed or, with its error, when ctx ends.
func (s *Server) Shutdown(ctx context.Context) error {
	s.stop()
	s.mu.Lock()
	for c := range s.conns {
		c.closeIdle()
	}
	s.mu.Unlock()
	gone := make(chan struct{})
	go func() {
		s.done.Wait()
		close(gone)
	}()
	select {
	case <-gone:
		s.end()
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Close closes the listeners and every connection at once and returns when no
// request is being worked on any more.
func (s *Server) Close() error {
	s.stop()
	s.end()
	s.mu.Lock()
	for c := range s.conns {
		c.nc.Close()
	}
	s.mu.Unlock()
	s.done.Wait()
	return nil
}

// stop closes the listeners and ends the waits for locks.
func (s *Server) stop() {
	s.setUp()
	s.mu.Lock()
	s.closed = true
	s.draining.Store(true)
	for l := range s.listeners {
		l.Close()
	}
	s.mu.Unlock()
	s.endWaits()
}
