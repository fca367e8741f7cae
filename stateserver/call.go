package stateserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/holdfast-session/holdfast/store"
)

// How a Client gets one call answered: attempts, repeats, and what is done about a
// lock whose grant nobody waits for any more.

const (
	firstPause   = 5 * time.Millisecond
	longestPause = 500 * time.Millisecond
)

var (
	errClientClosed  = errors.New("stateserver: client is closed")
	errGone          = errors.New("stateserver: not asked, because the server has not answered")
	errIdleEnded     = errors.New("stateserver: the connection was idle for too long")
	errMoreThanAsked = errors.New("stateserver: the server answers more than was asked")
	errNoBody        = errors.New("stateserver: the server takes for unchanged what the client does not have")
	errNoStateServer = errors.New("stateserver: who answers is no state server")
	errStalled       = errors.New("stateserver: nothing comes on the connection any more")
)

// do sends q until it is answered. The end of the context, or the timeout if it
// has no deadline, ends that. What only a Holdfast server understands rightly is
// not sent to another: the answer is then foreign, without a status.
func (c *Client) do(ctx context.Context, id store.ID, q *call) (answer, error) {
	if err := ctx.Err(); err != nil {
		return answer{}, c.failed(store.ErrUnavailable, err)
	}
	x := c.newExchange(q)
	x.prefix, x.session = c.prefix(id.App), id.Session
	a, err := c.repeat(ctx, id, x)
	c.free(x)
	return a, err
}

// repeat attempts x until it is answered.
func (c *Client) repeat(ctx context.Context, id store.ID, x *exchange) (answer, error) {
	start, wait := time.Now(), x.wait
	x.started = start
	var deadline time.Time
	if deadline, x.limited = ctx.Deadline(); !x.limited {
		deadline = start.Add(wait + c.options.Timeout)
	}
	unsure := false
	for try := 0; ; x.started = time.Now() {
		var l loss
		var err error
		probe, let := c.breaker.enter(x.started)
		x.probe = probe
		if let {
			var a answer
			if a, l, err = c.attempt(ctx, deadline, x); err == nil {
				c.breaker.withdrew(probe) // if heard has not ended that
				if unsure && !a.foreign && !x.settledBy(a.status) {
					err = fmt.Errorf("a reply was lost, and the call repeated is answered %d", a.status)
					return answer{}, c.giveUp(ctx, loss{}, id, &x.call, true, err)
				}
				return a, nil
			}
			c.blame(ctx, x, l, probe, err)
		} else {
			err = c.breaker.err()
		}
		unsure = unsure || l.sent
		over := ctx.Err() != nil || !time.Now().Before(deadline) || c.breaker.open.Load() ||
			final(err) || unsure && x.plain || x.state.Load() == givenUp
		switch {
		case !over && l.used:
			// The server has restarted: there is no use in waiting.
		case over || !pause(ctx, deadline, try):
			return answer{}, c.giveUp(ctx, l, id, &x.call, unsure, err)
		default:
			try++
		}
		if l.conn != nil {
			l.conn.drop()
		}
		if wait > 0 {
			x.wait = max(wait-time.Since(start), time.Millisecond)
		}
	}
}

// settledBy reports whether an answer of that status to a repeat of q, whose reply was
// lost, tells what became of q, too. Else only the caller can find that out, who has to
// know that there was a call before: a change that is refused may have been made and
// others have come since, or it was made and is what it is refused for.
func (q *call) settledBy(status int) bool {
	switch {
	case status == statusOK:
		return true
	case q.exclusive != exclusiveNone: // a lock is had or not
		return status == statusNotFound || status == statusLocked
	}
	return q.method != methodPut && q.method != methodDelete
}

// blame tells the breaker what came of an attempt that has no answer.
func (c *Client) blame(ctx context.Context, x *exchange, l loss, probe bool, err error) {
	switch {
	case errors.Is(ctx.Err(), context.Canceled), final(err):
		c.breaker.withdrew(probe)
	case l.reached:
		c.breaker.failed(time.Now(), probe, err)
	default:
		c.breaker.failed(x.started, probe, err)
	}
}

// giveUp ends a call that has no answer, and perhaps was done if it is unsure.
func (c *Client) giveUp(ctx context.Context, l loss, id store.ID, q *call, unsure bool, err error) error {
	switch {
	case ctx.Err() != nil:
		err = ctx.Err()
	case isTimeout(err):
		err = context.DeadlineExceeded
	}
	if !unsure {
		return c.failed(store.ErrUnavailable, err)
	}
	if q.takes() {
		c.takeBack(l, id, q.lock.Owner)
	}
	return c.failed(store.ErrUnsure, err)
}

func (c *Client) failed(how, why error) error {
	return fmt.Errorf("%w: %s: %w", how, c.address, why)
}

// final reports whether a reply that was read in vain will not be better the next
// time.
func final(err error) bool {
	for _, e := range []error{errNoStateServer, errClientClosed, errBadStart, errBadLine, errBadLength, errHeadTooLarge,
		errBodyTooLarge, errTooManyLines, errEncoding, errMoreThanAsked, errNoBody} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// pauseAfter is how long to wait after so many tries: twice as long each time, and
// never exactly as long as others.
func pauseAfter(tries int) time.Duration {
	d := longestPause
	if tries < 7 {
		d = min(d, firstPause<<tries)
	}
	return d/2 + rand.N(d/2)
}

// pause waits before another try, and reports whether there is time for it.
func pause(ctx context.Context, deadline time.Time, try int) bool {
	d := pauseAfter(try)
	if time.Until(deadline) < d {
		return false
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// A loss is what is known of an attempt without an answer.
type loss struct {
	reached bool // there was a server
	sent    bool // it may have done what was asked
	used    bool // the connection was not new

	// What a Lock was sent on, if that is still open and nothing but time is wrong
	// with it: the one or the other.
	conn   *clientConn
	shared *sharedConn
}

// attempt sends x once, on the connections where it belongs.
func (c *Client) attempt(ctx context.Context, deadline time.Time, x *exchange) (answer, loss, error) {
	switch {
	case x.wait > 0:
		return c.attemptAlone(ctx, deadline, c.waits, x)
	case c.foreign.Load(), x.path != "", x.in != nil && len(x.in.Body) > largeBody:
		return c.attemptAlone(ctx, deadline, c.calls, x)
	}
	for {
		cn, o, err := c.shared.get(ctx, deadline, x.probe)
		switch {
		case err != nil:
			return answer{}, loss{reached: isTimeout(err)}, err
		case o != nil:
			return c.attemptFirst(ctx, deadline, o, x)
		}
		ok, err := cn.roundTrip(ctx, deadline, x)
		switch {
		case !ok:
			continue
		case err == nil:
			return x.answer, loss{}, nil
		}
		l := loss{reached: true, sent: x.sent, used: true}
		if x.held {
			l.shared = cn
		}
		return answer{}, l, err
	}
}

// attemptFirst opens a connection that is to be shared, with x as its first request.
func (c *Client) attemptFirst(ctx context.Context, deadline time.Time, o *opening, x *exchange) (answer, loss, error) {
	cn, err := c.calls.open(ctx, deadline)
	if err != nil {
		if ctx.Err() != nil || !time.Now().Before(deadline) {
			c.shared.opened(o, nil, nil) // others may have more time
		} else {
			c.shared.opened(o, nil, err)
		}
		return answer{}, loss{}, err
	}
	a, l, err := c.exchange(ctx, deadline, cn, x)
	switch {
	case err != nil:
		c.shared.opened(o, nil, nil)
		if l.conn == nil {
			cn.drop()
		}
	case cn.kind == peerHoldfast && cn.reusable(&a):
		c.calls.forget(cn)
		c.shared.opened(o, newSharedConn(c, cn.nc), nil)
	default:
		c.shared.opened(o, nil, nil)
		cn.drop()
	}
	return a, l, err
}

// attemptAlone sends x once on a connection of p that nobody else uses meanwhile.
func (c *Client) attemptAlone(ctx context.Context, deadline time.Time, p *pool, x *exchange) (answer, loss, error) {
	cn, err := p.get(ctx, deadline)
	if err != nil {
		return answer{}, loss{}, err
	}
	if x.wait > 0 && !cn.used {
		c.breaker.heard(time.Now()) // there is somebody; the answer may take its time
	}
	a, l, err := c.exchange(ctx, deadline, cn, x)
	switch {
	case err == nil:
		p.put(cn, cn.reusable(&a))
	case l.conn != nil:
		p.release()
	default:
		p.put(cn, false)
		if l.used {
			p.dropIdle() // they are all dead
		}
	}
	return a, l, err
}

// exchange sends x on cn, and a question before, if it would do harm on a foreign
// server: such a one would store a session whatever the conditions are.
func (c *Client) exchange(ctx context.Context, deadline time.Time, cn *clientConn, x *exchange) (answer, loss, error) {
	if x.in != nil && !x.plain && cn.kind == peerUnknown {
		probe := call{method: methodHead, prefix: x.prefix, session: x.session}
		if sent, err := c.ask(ctx, deadline, cn, &probe); err != nil {
			return answer{}, loss{reached: sent || cn.used, used: cn.used}, err
		}
	}
	if x.in != nil && !x.plain && cn.kind == peerForeign {
		return answer{foreign: true}, loss{}, nil
	}
	sent, err := c.ask(ctx, deadline, cn, &x.call)
	var a answer
	if err == nil {
		a, err = takeAnswer(&cn.resp, &x.call, cn.kind)
	}
	if err != nil {
		l := loss{reached: sent || cn.used, sent: sent, used: cn.used}
		if sent && x.takes() && (ctx.Err() != nil || isTimeout(err)) {
			l.conn = cn
		}
		return answer{}, l, err
	}
	return a, loss{}, nil
}

// ask makes one round trip.
func (c *Client) ask(ctx context.Context, deadline time.Time, cn *clientConn, q *call) (sent bool, err error) {
	sent, err = cn.roundTrip(ctx, deadline, c.head, q)
	if err != nil {
		return sent, err
	}
	c.breaker.heard(time.Now())
	return sent, c.meet(&cn.kind, &cn.resp, q)
}

// meet learns from the answer r to q who is at the other end.
func (c *Client) meet(kind *peer, r *response, q *call) error {
	switch {
	case r.marked():
		*kind = peerHoldfast
	case q.plain, r.status == statusBadRequest: // says nothing
		return nil
	case r.major < 2:
		return errNoStateServer
	default:
		*kind = peerForeign
	}
	if foreign := *kind == peerForeign; c.foreign.Load() != foreign {
		c.foreign.Store(foreign)
	}
	return nil
}

// takeAnswer takes what answers q, and its record, out of r, which lies in the buffer
// of a connection to a server of that kind.
func takeAnswer(r *response, q *call, kind peer) (answer, error) {
	a := answer{
		status:  r.status,
		foreign: !r.marked() && kind == peerForeign,
		fresh:   r.actionFlags&1 != 0,
		cookie:  r.cookie,
		owner:   r.owner,
		lockAge: r.lockAge,
		reason:  store.Reason{Kind: r.kind, Age: r.age, To: unescaped(r.to)},
	}
	switch {
	case r.status == statusNotModified:
		if q.near == nil || q.out == nil || r.version != q.near.Version {
			return answer{}, errNoBody
		}
		a.status = statusOK
		r.body = q.near.Body
		r.record(q.out)
	case r.status == statusOK && q.out != nil:
		r.record(q.out)
		if a.foreign || q.plain {
			q.out.Timeout = time.Duration(r.minutes) * time.Minute
			if a.fresh {
				q.out.Flags |= store.Uninitialized
			}
		}
	case r.status >= statusBadRequest:
		a.text = string(r.body)
	}
	return a, nil
}

// takeBack sees to it that a Lock of owner that nobody waits for any more leaves no
// lock behind. l says what it was last sent on, if that is open.
func (c *Client) takeBack(l loss, id store.ID, owner uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return // and with it all connections
	}
	id = store.ID{App: strings.Clone(id.App), Session: strings.Clone(id.Session)}
	done := make(chan struct{})
	c.takingBack[owner] = done
	c.takings.Add(1)
	c.background.Go(func() {
		defer func() {
			c.mu.Lock()
			if c.takingBack[owner] == done {
				delete(c.takingBack, owner)
			}
			c.mu.Unlock()
			c.takings.Add(-1)
			close(done)
		}()
		if !c.withdraw(l, id, owner) {
			c.unlock(id, owner)
		}
	})
}

// takenBack waits until an earlier lock of owner is taken back: the same call,
// repeated, must not lose what it gets.
func (c *Client) takenBack(ctx context.Context, owner uint64) error {
	if c.takings.Load() == 0 {
		return nil
	}
	c.mu.Lock()
	done := c.takingBack[owner]
	c.mu.Unlock()
	if done == nil {
		return nil
	}
	if c.breaker.open.Load() {
		return c.failed(store.ErrUnavailable, c.breaker.err()) // that may take as long as the server is away
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return c.failed(store.ErrUnavailable, ctx.Err())
	}
}

// withdraw ends a Lock on the connection that it was sent on, by a release that the
// server reads after it, and reports whether that is certain.
func (c *Client) withdraw(l loss, id store.ID, owner uint64) bool {
	q := call{method: methodGet, exclusive: exclusiveRelease, lock: store.Lock{Owner: owner}, prefix: c.prefix(id.App), session: id.Session}
	deadline := time.Now().Add(c.options.Timeout)
	switch {
	case l.conn != nil:
		defer l.conn.drop()
		return c.withdrawAlone(l.conn, &q, deadline)
	case l.shared != nil:
		defer l.shared.unhold()
		x := c.newExchange(&q)
		defer c.free(x)
		x.started, x.limited, x.held = time.Now(), false, true
		ok, err := l.shared.roundTrip(c.ctx, deadline, x)
		return ok && err == nil && q.settledBy(x.answer.status)
	}
	return false
}

// withdrawAlone does that on a connection that nobody shares. The server waits there:
// it sees the connection's end, stops waiting, and only then does the release. On a
// foreign server, which does not wait and knows no owner, the release needs the
// cookie of the answer.
func (c *Client) withdrawAlone(cn *clientConn, q *call, deadline time.Time) bool {
	cn.nc.SetDeadline(deadline)
	if c.foreign.Load() {
		if cn.read(methodGet) != nil {
			return true // nothing is left to try
		}
		if cn.resp.status == statusOK {
			q.lock.Cookie = cn.resp.cookie
			cn.roundTrip(c.ctx, deadline, c.head, q)
		}
		return true
	}
	half, ok := cn.nc.(interface{ CloseWrite() error })
	if !ok {
		return false
	}
	if _, err := cn.nc.Write(q.appendTo(nil, c.head)); err != nil || half.CloseWrite() != nil {
		return false
	}
	rest, err := io.ReadAll(cn.nc)
	if err != nil {
		return false
	}
	answers := append(cn.in, rest...) // the Lock's, which may have begun to come before, and the release's
	for range 2 {
		n, err := cn.resp.parse(answers, methodGet, responseLimits)
		if err != nil {
			return false
		}
		answers = answers[n:]
	}
	return q.settledBy(cn.resp.status)
}

// unlock gives up the lock of owner, trying for a while.
func (c *Client) unlock(id store.ID, owner uint64) {
	ctx, cancel := context.WithTimeout(c.ctx, c.options.Timeout)
	defer cancel()
	deadline, _ := ctx.Deadline()
	for try := 0; ; try++ {
		err := c.Unlock(ctx, id, store.Lock{Owner: owner})
		if !errors.Is(err, store.ErrUnavailable) && !errors.Is(err, store.ErrUnsure) || !pause(ctx, deadline, try) {
			return
		}
	}
}
