package stateserver

import (
	"context"
	"errors"
	"net"
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
	// flushAt is how many bytes of answers to pipelined requests are gathered.
	flushAt = 32 << 10
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
	state atomic.Int32

	in     []byte // in[r:w] is what was read and not dealt with
	r, w   int
	err    error // why nothing more comes
	out    []byte
	lost   bool // an answer could not be written
	hangUp bool // close when the answers so far are written

	key []byte // the key of the request at hand, which its ID aliases
	req request
	rec store.Record // what the store read; its body is reused
	put store.Record // what the store is to write

	terms putTerms // of an old client's PUT
	fresh bool     // an old client's GET was the first of its session

	// grants are the locks whose delivery is not certain: the peer has sent nothing
	// since. Their keys stand one after the other in grantKeys.
	grants    []grant
	grantKeys []byte

	partial    bool // the read deadline is that of a request that has begun
	readUntil  time.Time
	writeUntil time.Time
}

type grant struct {
	keyEnd int
	owner  uint64
}

func newConn(s *Server, nc net.Conn) *conn {
	return &conn{s: s, nc: nc, in: make([]byte, smallBuffer), out: make([]byte, 0, smallBuffer)}
}

// serve answers requests, in order, until the connection ends.
func (c *conn) serve() {
	defer c.giveBackUndelivered()
	for !c.hangUp {
		n, err := c.req.parse(c.in[c.r:c.w], c.s.limits)
		switch {
		case err == nil:
			c.r += n
			c.partial = false
			c.handle()
			if len(c.out) >= flushAt && !c.flush() {
				return
			}
		case err != errShort:
			c.refuse(err)
		default:
			if !c.flush() || c.err != nil || !c.fill() {
				return
			}
		}
	}
	c.linger()
}

// fill waits for more of the peer's bytes.
func (c *conn) fill() bool {
	if c.r == c.w {
		c.r, c.w = 0, 0
		if cap(c.in) > keepBuffer {
			c.in = make([]byte, smallBuffer)
		}
		c.setIdleDeadline()
		c.state.Store(connIdle)
		if c.s.draining.Load() {
			return false
		}
		ok := c.read()
		return c.state.CompareAndSwap(connIdle, connBusy) && ok
	}
	c.makeRoom()
	if !c.partial {
		c.partial = true
		c.setReadDeadline(c.s.ReadTimeout)
	}
	return c.read()
}

// closeIdle closes the connection if it has nothing to do.
func (c *conn) closeIdle() {
	if c.state.CompareAndSwap(connIdle, connClosed) {
		c.nc.Close()
	}
}

// makeRoom makes room for more of a request that has begun. It grows with what
// has come, not with what the peer says will.
func (c *conn) makeRoom() {
	if c.w < len(c.in) {
		return
	}
	if c.r > 0 && c.w-c.r <= len(c.in)/2 {
		c.w = copy(c.in, c.in[c.r:c.w])
		c.r = 0
		return
	}
	c.grow()
}

// grow moves what is buffered to a larger buffer, leaving the old one as it is.
func (c *conn) grow() {
	next := make([]byte, 2*max(c.w-c.r, smallBuffer))
	c.w = copy(next, c.in[c.r:c.w])
	c.r = 0
	c.in = next
}

func (c *conn) read() bool {
	n, err := c.nc.Read(c.in[c.w:])
	c.w += n
	if n > 0 {
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
	if limit < 0 && c.readUntil.IsZero() {
		return
	}
	if left := time.Until(c.readUntil); left < limit || left > limit+limit/2 {
		c.setReadDeadline(limit + limit/2)
	}
}

// setReadDeadline lets reads fail after limit, or never if it is less than 0.
func (c *conn) setReadDeadline(limit time.Duration) {
	c.readUntil = time.Time{}
	if limit >= 0 {
		c.readUntil = time.Now().Add(limit)
	}
	c.nc.SetReadDeadline(c.readUntil)
}

// flush writes the answers so far.
func (c *conn) flush() bool {
	if len(c.out) == 0 {
		return !c.lost
	}
	if limit := c.s.WriteTimeout; limit >= 0 && time.Until(c.writeUntil) < limit {
		c.writeUntil = time.Now().Add(limit + limit/2)
		c.nc.SetWriteDeadline(c.writeUntil)
	}
	_, err := c.nc.Write(c.out)
	c.out = c.out[:0]
	if cap(c.out) > keepBuffer {
		c.out = make([]byte, 0, smallBuffer)
	}
	if cap(c.rec.Body) > keepBuffer {
		c.rec.Body = nil
	}
	if err != nil {
		c.err, c.lost = err, true
	}
	return !c.lost
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
	if !c.flush() {
		c.hangUp = true
		return false, c.err
	}
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
		c.grow()
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
