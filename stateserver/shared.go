package stateserver

import (
	"context"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// patience is how long an answer may take before its reader looks after its
	// context: within it, a call costs no timer and no allocation for that.
	patience = 10 * time.Millisecond
	// stallAfter is how long a connection on which nothing comes is still given new
	// requests although one on it was given up.
	stallAfter = time.Second
	// largeBody is from which size a request has a connection to itself, where it is
	// in nobody's way.
	largeBody = 64 << 10
)

// An exchange is one call on its way and what became of it. It is used again for
// others, unless it was given up while its answer was still to come.
type exchange struct {
	call
	buf     []byte    // the request, as it is sent
	started time.Time // when it was sent
	limited bool      // the deadline is that of its context, which ends with it
	probe   bool      // it tries whether the server is there
	held    bool      // it may be sent on a held connection that is out of use

	state atomic.Int32
	// wake has a token when the state has changed, or when it is this exchange's turn
	// to read.
	wake    chan struct{}
	timer   *time.Timer
	alarmAt time.Time // when the timer goes off
	end     int64     // how many bytes were to be sent on the connection, with these
	answer  answer
	err     error // instead of an answer
	sent    bool  // with err: the server may have done it
}

// The states of an exchange.
const (
	waiting int32 = iota
	settled       // there is an answer, or an error
	givenUp       // nobody waits for the answer; the exchange is the connection's
)

func (c *Client) newExchange(q *call) *exchange {
	x, _ := c.exchanges.Get().(*exchange)
	if x == nil {
		x = &exchange{wake: make(chan struct{}, 1)}
	}
	x.call = *q
	return x
}

// free lets x be used again, if it is not the connection's now.
func (c *Client) free(x *exchange) {
	if x.state.Load() == givenUp {
		return
	}
	x.call, x.answer, x.err, x.held = call{}, answer{}, nil, false
	if cap(x.buf) > keepBuffer {
		x.buf = nil
	}
	c.exchanges.Put(x)
}

// A sharedConn is a connection on which the requests of many callers are sent one
// behind the other, and answered in that order.
//
// It has no goroutine of its own. Who has a request while nobody is writing writes
// it, and then what others have added meanwhile. Who waits for an answer while nobody
// is reading becomes the leader: it reads the answers of all, hands them out until it
// has its own, and makes another who waits the leader. So a caller that is alone
// writes and reads for itself and wakes nobody, and among many a system call serves
// several.
type sharedConn struct {
	c  *Client
	nc net.Conn

	load    atomic.Int32 // requests that are not answered
	crowded atomic.Bool  // the last answers came several at a time
	heardAt atomic.Int64 // when bytes last came, as [Client.at] counts

	mu      sync.Mutex
	err     error       // why no request is taken any more
	cut     bool        // a request could not be written
	down    bool        // closed, and all who waited know
	holds   int         // who goes on using it although it takes no requests
	leader  *exchange   // who reads
	writer  *exchange   // who writes
	queue   []*exchange // sent after those that are due
	out     []byte      // what the writer is to write
	added   int64       // bytes that were ever to be sent,
	handed  int64       // and of these, how many were perhaps
	writeBy time.Time   // the write deadline

	// These are the leader's.
	due    []*exchange // whose answers come next,
	next   int         // from this one on
	in     []byte      // in[r:w] is what was read and not dealt with
	r, w   int
	resp   response
	readBy time.Time // the read deadline
	kind   peer

	spare []byte // the writer's, for the next out
}

func newSharedConn(c *Client, nc net.Conn) *sharedConn {
	cn := &sharedConn{c: c, nc: nc, in: make([]byte, flushAt), kind: peerHoldfast}
	cn.heardAt.Store(c.at(time.Now()))
	return cn
}

// roundTrip sends x and waits for its answer, or returns an error. ok is false if the
// connection takes no requests any more; nothing has happened then. A Lock that is
// given up holds the connection, see x.held, until unhold.
func (cn *sharedConn) roundTrip(ctx context.Context, deadline time.Time, x *exchange) (ok bool, err error) {
	x.buf = x.appendTo(x.buf[:0], cn.c.head)
	x.state.Store(waiting)
	x.err, x.sent = nil, true
	cn.mu.Lock()
	if cn.down || cn.err != nil && !x.held || !cn.fit(x) {
		cn.mu.Unlock()
		return false, nil
	}
	cn.queue = append(cn.queue, x)
	cn.added += int64(len(x.buf))
	x.end = cn.added
	alone := cn.load.Add(1) == 1
	switch {
	case cn.writer != nil:
		cn.out = append(cn.out, x.buf...)
		leads := cn.leader == nil
		if leads {
			cn.leader = x
		}
		cn.mu.Unlock()
		return true, cn.await(ctx, deadline, x, leads)
	case alone && !cn.crowded.Load():
		cn.writer = x
		cn.handed = cn.added
		cn.mu.Unlock()
		cn.write(x.buf, x.started, deadline)
	default:
		cn.writer = x
		cn.out = append(cn.out, x.buf...)
		cn.mu.Unlock()
	}
	return true, cn.await(ctx, deadline, x, cn.writeAll(x))
}

// fit reports whether the connection can take x, and puts it out of use if it lay
// idle for too long, or is closed. Called with mu held.
func (cn *sharedConn) fit(x *exchange) bool {
	if cn.load.Load() > 0 || cn.writer != nil {
		return true
	}
	rested := time.Duration(cn.c.at(x.started) - cn.heardAt.Load())
	if rested < restUnchecked {
		return true
	}
	cn.readBy = time.Time{} // nobody reads
	cn.nc.SetReadDeadline(time.Time{})
	if rested < cn.c.options.IdleTimeout && alive(cn.nc) {
		return true
	}
	cn.err = errIdleEnded
	cn.close()
	return false
}

// writeAll writes what there is to write, as long as there is, and reports whether x,
// the writer, is the leader now.
func (cn *sharedConn) writeAll(x *exchange) (leads bool) {
	for {
		cn.mu.Lock()
		if len(cn.out) == 0 || cn.cut || cn.down {
			cn.writer = nil
			if leads = cn.leader == nil && !cn.down && x.state.Load() == waiting; leads {
				cn.leader = x
			}
			cn.closeUnused()
			cn.mu.Unlock()
			return leads
		}
		cn.mu.Unlock()
		runtime.Gosched() // others who are about to send go along
		cn.mu.Lock()
		b := cn.out
		cn.out, cn.spare = cn.spare[:0], nil
		cn.handed = cn.added
		cn.mu.Unlock()
		cn.write(b, time.Now(), time.Time{})
		if cap(b) <= keepBuffer {
			cn.spare = b
		}
	}
}

// write writes b, which was counted as handed over, now and before the deadline, if
// it is not zero. An error is left for the leader, who may find answers that came before it.
func (cn *sharedConn) write(b []byte, now, deadline time.Time) {
	limit := cn.c.options.Timeout
	if cn.writeBy.Sub(now) < limit/2 {
		cn.writeBy = now.Add(limit)
		cn.nc.SetWriteDeadline(cn.writeBy)
	}
	if !deadline.IsZero() && deadline.Before(cn.writeBy) {
		cn.writeBy = time.Time{} // it is nobody else's
		cn.nc.SetWriteDeadline(deadline)
	}
	n, err := cn.nc.Write(b)
	if err == nil {
		return
	}
	cn.mu.Lock()
	defer cn.mu.Unlock()
	cn.handed -= int64(len(b) - n)
	cn.cut = true
	if cn.err == nil {
		cn.err = err
	}
	cn.c.shared.remove(cn)
	if isTimeout(err) { // else the peer has closed it, which ends the reading
		cn.nc.Close()
	}
}

// await waits for the answer to x, reading itself if it is, or comes to be, the
// leader.
func (cn *sharedConn) await(ctx context.Context, deadline time.Time, x *exchange, leads bool) error {
	if leads {
		return cn.lead(ctx, deadline, x)
	}
	var over <-chan time.Time
	if !x.limited {
		over = x.alarm(deadline)
	}
	for {
		select {
		case <-x.wake:
			if x.state.Load() == waiting {
				return cn.lead(ctx, deadline, x)
			}
			return x.err
		case <-ctx.Done():
			return cn.leave(x, ctx.Err())
		case now := <-over:
			if !now.Before(deadline) {
				return cn.leave(x, context.DeadlineExceeded)
			}
			x.alarmAt = time.Time{} // that was an earlier call's
			x.alarm(deadline)
		}
	}
}

// alarm returns a channel on which the time comes at the deadline, and perhaps once
// before: the timer of an earlier call goes on for this one, so that most need not
// set any.
func (x *exchange) alarm(deadline time.Time) <-chan time.Time {
	switch {
	case x.timer == nil:
		x.timer = time.NewTimer(time.Until(deadline))
	case x.alarmAt.IsZero() || deadline.Before(x.alarmAt):
		x.timer.Reset(time.Until(deadline))
	default:
		return x.timer.C
	}
	x.alarmAt = deadline
	return x.timer.C
}

// lead reads until x, the leader, has its answer.
func (cn *sharedConn) lead(ctx context.Context, deadline time.Time, x *exchange) error {
	for {
		err := cn.deliver()
		if err == nil && x.state.Load() == settled {
			cn.mu.Lock()
			cn.passOn()
			cn.mu.Unlock()
			return x.err
		}
		if err == nil {
			err = cn.fill(ctx, deadline)
			if err != nil && (ctx.Err() != nil || isTimeout(err)) {
				if ctx.Err() != nil {
					err = ctx.Err()
				}
				return cn.leave(x, err)
			}
		}
		if err != nil {
			cn.fail(err)
			return x.err
		}
	}
}

// passOn makes another the leader, if anybody waits: not the writer, as long as it
// can be one of the others, since a server that cannot write does not read.
// Called by the leader, or for it, with mu held.
func (cn *sharedConn) passOn() {
	cn.leader = nil
	if cn.down {
		return
	}
	for _, some := range [][]*exchange{cn.due[cn.next:], cn.queue} {
		for _, x := range some {
			if x != cn.writer && x.state.Load() == waiting {
				cn.leader = x
				x.wake <- struct{}{}
				return
			}
		}
	}
	cn.closeUnused()
}

// closeUnused closes a connection that is out of use once nobody waits on it.
// Called with mu held.
func (cn *sharedConn) closeUnused() {
	if cn.err != nil && !cn.down && cn.leader == nil && cn.writer == nil && cn.holds == 0 {
		cn.close()
	}
}

// close closes the connection, on which nobody waits. Called with mu held.
func (cn *sharedConn) close() {
	cn.down = true
	cn.nc.Close()
	cn.c.shared.remove(cn)
	cn.c.shared.forget(cn)
}

// leave gives x up, because of why. Its answer is read and dropped by others.
func (cn *sharedConn) leave(x *exchange, why error) error {
	if !x.state.CompareAndSwap(waiting, givenUp) {
		<-x.wake // it has come at the last moment
		return x.err
	}
	cn.mu.Lock()
	defer cn.mu.Unlock()
	stalled := cn.c.at(x.started) > cn.heardAt.Load() && time.Since(x.started) >= stallAfter
	if stalled && cn.err == nil {
		cn.err = errStalled
		cn.c.shared.remove(cn)
	}
	if x.held = x.takes() && !cn.down; x.held {
		cn.holds++
	}
	if cn.leader == x {
		cn.passOn()
	} else {
		cn.closeUnused()
	}
	return why
}

// unhold ends what a Lock that was given up began.
func (cn *sharedConn) unhold() {
	cn.mu.Lock()
	defer cn.mu.Unlock()
	cn.holds--
	cn.closeUnused()
}

// fill reads more. It returns an error of time if x's is over.
func (cn *sharedConn) fill(ctx context.Context, deadline time.Time) error {
	cn.makeRoom()
	now := time.Now()
	if cn.readBy.Sub(now) < patience || deadline.Before(cn.readBy) {
		cn.readBy = now.Add(2 * patience)
		if deadline.Before(cn.readBy) {
			cn.readBy = deadline
		}
		cn.nc.SetReadDeadline(cn.readBy)
	}
	n, err := cn.nc.Read(cn.in[cn.w:])
	if n == 0 && err != nil && isTimeout(err) {
		n, err = cn.readSlowly(ctx, deadline)
		now = time.Now()
	}
	cn.w += n
	if n > 0 {
		cn.heardAt.Store(cn.c.at(now))
		cn.c.breaker.heard(now)
		return nil
	}
	return err
}

// readSlowly reads until ctx ends.
func (cn *sharedConn) readSlowly(ctx context.Context, deadline time.Time) (int, error) {
	cn.readBy = time.Time{}
	cn.nc.SetReadDeadline(deadline)
	if ctx.Done() != nil {
		ended := make(chan struct{})
		stop := context.AfterFunc(ctx, func() {
			cn.nc.SetReadDeadline(aLongTimeAgo)
			close(ended)
		})
		defer func() {
			if !stop() {
				<-ended // or it would end somebody else's reading
			}
		}()
	}
	return cn.nc.Read(cn.in[cn.w:])
}

// makeRoom makes room for what comes.
func (cn *sharedConn) makeRoom() {
	switch {
	case cn.r == cn.w:
		cn.r, cn.w = 0, 0
		if cap(cn.in) > keepBuffer {
			cn.in = make([]byte, flushAt)
		}
	case cn.w < len(cn.in):
	case cn.w-cn.r <= len(cn.in)/2:
		cn.w = copy(cn.in, cn.in[cn.r:cn.w])
		cn.r = 0
	default:
		next := make([]byte, 2*len(cn.in))
		cn.w = copy(next, cn.in[cn.r:cn.w])
		cn.r, cn.in = 0, next
	}
}

// deliver hands out the answers that are there.
func (cn *sharedConn) deliver() error {
	for first := true; cn.r < cn.w; first = false {
		x := cn.expected()
		if x == nil {
			return errMoreThanAsked
		}
		n, err := cn.resp.parse(cn.in[cn.r:cn.w], x.method, responseLimits)
		if err == errShort {
			return nil
		}
		if err != nil {
			return err
		}
		cn.r += n
		if first {
			cn.crowded.Store(cn.r < cn.w)
		}
		cn.due[cn.next] = nil
		cn.next++
		cn.load.Add(-1)
		cn.settle(x)
	}
	return nil
}

// expected returns the exchange whose answer comes next, or nil.
func (cn *sharedConn) expected() *exchange {
	if cn.next == len(cn.due) {
		cn.mu.Lock()
		cn.due, cn.queue, cn.next = cn.queue, cn.due[:0], 0
		cn.mu.Unlock()
		if len(cn.due) == 0 {
			return nil
		}
	}
	return cn.due[cn.next]
}

// settle gives x the answer that was read, if it is still waited for.
func (cn *sharedConn) settle(x *exchange) {
	// From now on it cannot be given up: its caller waits until it is woken.
	if !x.state.CompareAndSwap(waiting, settled) {
		return
	}
	x.err = cn.c.meet(&cn.kind, &cn.resp, &x.call)
	if x.err == nil {
		x.answer, x.err = takeAnswer(&cn.resp, &x.call, cn.kind)
	}
	if x != cn.leader {
		x.wake <- struct{}{}
	}
}

// fail ends the connection, whose leader the caller is, and tells all who wait.
func (cn *sharedConn) fail(err error) {
	cn.mu.Lock()
	if cn.err == nil {
		cn.err = err
	}
	err = cn.err
	lost := append(cn.due[cn.next:], cn.queue...)
	handed, leader := cn.handed, cn.leader
	cn.due, cn.queue, cn.next, cn.leader = nil, nil, 0, nil
	cn.close()
	cn.mu.Unlock()
	for _, x := range lost {
		if !x.state.CompareAndSwap(waiting, settled) {
			continue
		}
		x.err, x.sent = err, x.end <= handed
		if x != leader {
			x.wake <- struct{}{}
		}
	}
}

// isTimeout reports whether err is that of a deadline.
func isTimeout(err error) bool {
	if err == os.ErrDeadlineExceeded || err == context.DeadlineExceeded {
		return true
	}
	t, ok := err.(interface{ Timeout() bool })
	return ok && t.Timeout()
}
