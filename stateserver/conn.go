package stateserver

import (
	"context"
	"crypto/tls"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/holdfast-session/holdfast/store"
)

const (
	// smallBuffer is what a connection keeps while it is idle.
	smallBuffer = 4 << 10
	// keepBuffer is how large a buffer may be to be kept for the next request.
	keepBuffer = 64 << 10
	// freeBuffer is how large a buffer may be that does not count for MaxBuffered.
	freeBuffer = 16 << 10
	// flushAt is how many bytes of answers to pipelined requests are gathered.
	flushAt = 32 << 10
	// denialTimeout is the time of a connection that is to be told why it was refused.
	denialTimeout = 2 * time.Second
	// giveBackTimeout bounds the call that gives an undeliverable lock back.
	giveBackTimeout = 10 * time.Second
)

// The states of a connection. Only an idle one may be closed by Shutdown.
const (
	connBusy int32 = iota
	connIdle
	connClosed
)

// A conn is one connection. Everything but state belongs to the goroutine that
// runs serve. Its buffers are reused, so that a request of the usual size
// allocates nothing.
type conn struct {
	s     *Server
	nc    net.Conn
	raw   syscall.RawConn       // of nc, if it can be waited on without a buffer
	ready func(fd uintptr) bool // turn, made once
	state atomic.Int32

	addr      netip.Addr // of the peer
	source    *source    // what is known of that
	counters  *counters
	pass      pass
	certified bool    // the peer has shown a certificate
	denied    bool    // all that it gets is why it was refused:
	why       refusal //
	now       int64   // by Server.nanos, when something happened last

	*buffers       // nil while nothing is in them
	r, w     int   // in[r:w] is what was read and not dealt with
	err      error // why nothing more comes
	lost     bool  // an answer could not be written
	hangUp   bool  // close when the answers so far are written
	held     int64 // of Server.MaxBuffered

	key []byte    // the key of the request at hand, which its ID aliases
	app appTarget // what the targets of the peer's application begin with
	req request
	rec store.Record // what the store read; its body is reused
	put store.Record // what the store is to write

	terms putTerms // of an old client's PUT
	fresh bool     // an old client's GET was the first of its session

	// Of the request at hand, for the statistics.
	call    callKind
	outcome outcome
	waited  bool
	marked  bool // it is a Holdfast client's

	// grants are the locks whose delivery is not certain: the peer has sent nothing
	// since. Their keys stand one after the other in grantKeys.
	grants    []grant
	grantKeys []byte

	partial    bool  // the read deadline is that of a request that has begun
	expected   bool  // its body may be made, see expect
	readUntil  int64 // the deadlines, by Server.nanos; 0 for none
	writeUntil int64
}

type grant struct {
	keyEnd int
	owner  uint64
}

func newConn(s *Server, nc net.Conn) *conn {
	c := &conn{s: s, nc: nc, counters: &s.counters[rand.IntN(len(s.counters))]}
	if c.raw = rawConn(nc); c.raw != nil {
		c.ready = c.turn
	}
	c.unpark()
	return c
}

// open does what comes before the first request, and reports whether there may be
// one.
func (c *conn) open() bool {
	if c.denied {
		return true
	}
	if t, ok := c.nc.(*tls.Conn); ok && !c.handshake(t) {
		return false
	}
	if c.s.rules.Load().ClientCerts && !c.certified {
		c.s.refused(c, refusedCert)
		return false
	}
	if !c.pace(connCost) {
		c.s.refused(c, refusedRate)
		return false
	}
	return true
}

// handshake makes the connection safe, in the time that a request may take.
func (c *conn) handshake(t *tls.Conn) bool {
	limit := c.s.ReadTimeout
	if limit < 0 {
		limit = DefaultReadTimeout
	}
	t.SetDeadline(time.Now().Add(limit))
	if err := t.HandshakeContext(c.s.waiting); err != nil {
		if !c.s.draining.Load() {
			c.s.refused(c, refusedHandshake, "err", err)
		}
		return false
	}
	t.SetDeadline(time.Time{})
	c.certified = len(t.ConnectionState().VerifiedChains) > 0
	c.now = c.s.nanos()
	return true
}

// serve answers requests, in order, until the connection ends.
func (c *conn) serve() {
	defer c.close()
	for c.deal(true) && c.fill() {
	}
	if c.hangUp {
		c.linger()
	}
}

// deal answers the requests that were read, and reports whether more may come. Unless
// they may wait, it stops before one that asks to wait for a lock.
func (c *conn) deal(waits bool) bool {
	for !c.hangUp && !c.lost {
		n, err := c.req.parse(c.in[c.r:c.w], c.s.limits)
		switch {
		case err == nil && c.req.wait > 0 && !waits:
			return true
		case err == nil:
			c.r += n
			c.partial, c.expected = false, false
			c.handle()
			if c.held > 0 || cap(c.rec.Body) > keepBuffer {
				c.letGo()
			}
			if len(c.out) >= flushAt {
				c.flush()
			}
		case err != errShort:
			c.refuse(err)
			c.counters.requests[callUnknown][c.outcome].Add(1)
		case c.req.want > 0 && !c.expected && !c.expect():
			c.counters.requests[callUnknown][c.outcome].Add(1)
		default:
			return c.flush() && c.err == nil
		}
	}
	return false
}

// close gives back what the connection has taken.
func (c *conn) close() {
	c.giveBackUndelivered()
	c.park()
}

// expect reports whether a request whose body is still to come may be made, so that
// nobody's body is kept who may not send it.
func (c *conn) expect() bool {
	var ok bool
	if c.key, ok = c.app.appendKey(c.key[:0], c.req.target); !ok {
		c.refuse(errBadTarget)
		return false
	}
	if c.denied {
		c.tell(c.why)
		c.hangUp = true
		return false
	}
	why, ok := c.admit(splitKey(c.key).App, Write)
	if !ok {
		c.deny(why)
		c.hangUp = true
	}
	c.expected = ok
	return ok
}

// fill waits for more of the peer's bytes.
func (c *conn) fill() bool {
	if c.r == c.w {
		return c.rest() && c.readIdle()
	}
	if !c.partial {
		c.partial = true
		c.setReadDeadline(c.s.ReadTimeout)
	}
	for want := c.req.want; ; {
		if !c.makeRoom() {
			c.deny(refusedMemory)
			c.hangUp = true
			return true
		}
		if !c.read() {
			return false
		}
		if c.w-c.r >= want || c.err != nil {
			return true
		}
	}
}

// rest makes the connection one that has nothing to do, and reports false if the server
// wants no such ones any more.
func (c *conn) rest() bool {
	c.r, c.w = 0, 0
	c.shrink()
	c.setIdleDeadline()
	c.state.Store(connIdle)
	return !c.s.draining.Load()
}

// wake makes it busy again, unless Shutdown was faster.
func (c *conn) wake() bool { return c.state.CompareAndSwap(connIdle, connBusy) }

// letGo lets go of the body of the record that was read, if it is large: it was sent.
func (c *conn) letGo() {
	if cap(c.rec.Body) > keepBuffer {
		c.rec.Body = nil
	}
	c.hold(cap(c.in), cap(c.out))
}

// shrink lets go of what an idle connection does not need.
func (c *conn) shrink() {
	keep := keepBuffer
	if c.raw == nil {
		keep = freeBuffer // since it keeps them
	}
	if cap(c.in) > keep {
		c.in = make([]byte, smallBuffer)
		c.req = request{} // which aliases the old one
	}
	if cap(c.out) > keep {
		c.out = make([]byte, 0, smallBuffer)
	}
	if c.held > 0 {
		c.hold(cap(c.in), cap(c.out))
	}
	if cap(c.key) > smallBuffer {
		c.key = nil
	}
}

// closeIdle closes the connection if it has nothing to do.
func (c *conn) closeIdle() {
	if c.state.CompareAndSwap(connIdle, connClosed) {
		c.nc.Close()
	}
}

// makeRoom makes room for more of a request that has begun. It grows with what
// has come, not with what the peer says will. It reports false if the server has no
// memory for that now.
func (c *conn) makeRoom() bool {
	if c.w < len(c.in) {
		return true
	}
	if c.r > 0 && len(c.in) < freeBuffer { // who sends that many ahead is answered together, which costs less
		return c.grow(freeBuffer)
	}
	if c.r > 0 && c.w-c.r <= len(c.in)/2 {
		c.w = copy(c.in, c.in[c.r:c.w])
		c.r = 0
		return true
	}
	size := 2 * max(c.w-c.r, smallBuffer)
	if c.req.want > c.w-c.r {
		size = min(size, max(c.req.want, 2*smallBuffer))
	}
	return c.grow(size)
}

// grow moves what is buffered to a larger buffer, leaving the old one as it is.
func (c *conn) grow(size int) bool {
	if !c.hold(size, cap(c.out)) {
		return false
	}
	next := make([]byte, size)
	c.w = copy(next, c.in[c.r:c.w])
	c.r = 0
	c.in = next
	return true
}

func (c *conn) read() bool {
	n, err := c.nc.Read(c.in[c.w:])
	c.w += n
	return c.got(n, err)
}

// readIdle reads without keeping buffers while there is nothing to be read, if that
// is possible. It reports whether there is something to deal with now.
func (c *conn) readIdle() bool {
	if c.raw == nil {
		ok := c.read()
		return c.wake() && ok
	}
	err := c.raw.Read(c.ready)
	if c.buffers == nil {
		c.unpark()
	}
	if err != nil {
		c.wake()
		return c.got(0, err)
	}
	return c.r < c.w
}

// got takes notice of n bytes more, or of the error that came instead or with them.
func (c *conn) got(n int, err error) bool {
	c.now = c.s.nanos()
	if n > 0 {
		c.counters.in.Add(uint64(n))
		// Whoever asks again has got the answers, the grants of locks among them.
		c.grants, c.grantKeys = c.grants[:0], c.grantKeys[:0]
	}
	c.err = err
	return n > 0 || err == nil
}

// setIdleDeadline gives the peer time until its next request: up to half as much
// again, so that not every request has to set it anew.
func (c *conn) setIdleDeadline() {
	limit := c.s.IdleTimeout
	if c.denied {
		limit = denialTimeout
	}
	if limit < 0 && c.readUntil == 0 {
		return
	}
	if left := time.Duration(c.readUntil - c.now); left < limit || left > limit+limit/2 {
		c.setReadDeadline(limit + limit/2)
	}
}

// setReadDeadline lets reads fail after limit, or never if it is less than 0.
func (c *conn) setReadDeadline(limit time.Duration) {
	c.readUntil = 0
	var until time.Time
	if limit >= 0 {
		c.now = c.s.nanos()
		c.readUntil = c.now + int64(limit)
		until = c.s.epoch.Add(time.Duration(c.readUntil))
	}
	c.nc.SetReadDeadline(until)
}

// flush writes the answers so far.
func (c *conn) flush() bool {
	if len(c.out) == 0 {
		return !c.lost
	}
	c.write(c.out)
	c.out = c.out[:0]
	if cap(c.out) > keepBuffer {
		c.out = make([]byte, 0, smallBuffer)
	}
	return !c.lost
}

// write writes b, which is all or nothing to the peer.
func (c *conn) write(b []byte) {
	if c.lost {
		return
	}
	if limit := c.s.WriteTimeout; limit >= 0 && time.Duration(c.writeUntil-c.now) < limit {
		c.writeUntil = c.s.nanos() + int64(limit+limit/2)
		c.nc.SetWriteDeadline(c.s.epoch.Add(time.Duration(c.writeUntil)))
	}
	n, err := c.nc.Write(b)
	c.counters.out.Add(uint64(n))
	if err != nil {
		c.err, c.lost = err, true
	}
}

// refuse answers a request that cannot be read, and ends the connection: nobody
// knows where the next one would begin.
func (c *conn) refuse(why error) {
	c.s.Logger.Debug("stateserver: refused a request", "peer", c.nc.RemoteAddr(), "why", why)
	c.hangUp = true
	if why == errBodyTooLarge && c.req.marked() {
		c.fail(statusTooLarge, why.Error())
		return
	}
	c.fail(statusBadRequest, why.Error())
	c.outcome = outcomeMalformed
}

// linger writes what is left, and reads and drops what the peer still sends: a
// connection closed over unread bytes is reset, which may destroy the answer.
func (c *conn) linger() {
	if !c.flush() || c.err != nil {
		return
	}
	half, ok := c.nc.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		return
	}
	limit := 5 * time.Second
	if t := c.s.ReadTimeout; t >= 0 {
		limit = min(limit, t)
	}
	if c.denied {
		limit = min(limit, denialTimeout)
	}
	c.nc.SetReadDeadline(time.Now().Add(limit))
	c.state.Store(connIdle)
	if c.s.draining.Load() {
		return
	}
	for c.err == nil {
		_, c.err = c.nc.Read(c.in)
	}
}

// granted remembers that the answer at the end of out hands a lock over.
func (c *conn) granted(owner uint64) {
	c.grantKeys = append(c.grantKeys, c.key...)
	c.grants = append(c.grants, grant{keyEnd: len(c.grantKeys), owner: owner})
}

// giveBackUndelivered unlocks what the peer has certainly not heard that it has.
// A peer that closed its connection in order may well have the lock still.
func (c *conn) giveBackUndelivered() {
	if !c.lost && len(c.out) == 0 && !errors.Is(c.err, syscall.ECONNRESET) {
		return
	}
	start := 0
	for _, g := range c.grants {
		c.giveBack(splitKey(c.grantKeys[start:g.keyEnd]), g.owner)
		start = g.keyEnd
	}
}

// giveBack unlocks what was granted to a peer that is not there any more.
func (c *conn) giveBack(id store.ID, owner uint64) {
	ctx, cancel := context.WithTimeout(context.Background(), giveBackTimeout)
	defer cancel()
	err := c.s.Store.Unlock(ctx, id, store.Lock{Owner: owner})
	if err != nil && !errors.Is(err, store.ErrNotFound) && !errors.Is(err, store.ErrLockLost) {
		c.s.Logger.Error("stateserver: a lock whose holder is gone could not be given back; it ends with its age", "app", id.App, "err", err)
	}
}

// await waits for a lock that is another's. It reports false if meanwhile the
// peer went away or the server began to shut down; the lock is then nobody's.
func (c *conn) await(id store.ID, o store.LockOptions) (ok bool, err error) {
	c.waited = true
	if !c.flush() {
		c.hangUp = true
		return false, c.err
	}
	c.s.waits.Add(1)
	defer c.s.waits.Add(-1)
	ctx, cancel := context.WithCancel(c.s.waiting)
	defer cancel()
	stop := c.watch(cancel)
	err = c.s.Store.Lock(ctx, id, o, &c.rec)
	stop()
	if ctx.Err() == nil {
		return true, err
	}
	if err == nil || errors.Is(err, store.ErrUnsure) {
		c.giveBack(id, o.Owner)
	}
	// What a peer sent before it went away is still done: it may be that it takes
	// back what it asked for.
	c.hangUp = c.err == nil
	return false, ctx.Err()
}

// watch reads ahead while a request waits, and calls gone if the peer goes away.
// It sees that only as long as there is room for what the peer sends before.
func (c *conn) watch(gone func()) (stop func()) {
	if len(c.in)-c.w < smallBuffer/2 {
		c.grow(2 * max(c.w-c.r, smallBuffer))
	}
	c.nc.SetReadDeadline(time.Time{})
	var stopped atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		for c.w < len(c.in) {
			n, err := c.nc.Read(c.in[c.w:])
			c.w += n
			if err == nil {
				continue
			}
			if stopped.Load() && errors.Is(err, os.ErrDeadlineExceeded) {
				return
			}
			c.err = err
			gone()
			return
		}
	}()
	return func() {
		stopped.Store(true)
		c.nc.SetReadDeadline(time.Now())
		<-done
		c.setReadDeadline(-1)
	}
}
