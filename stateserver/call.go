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

// How a Client gets one request answered: attempts, repeats, and what is done
// about a lock whose grant nobody waits for any more.

const (
	firstPause   = 5 * time.Millisecond
	longestPause = 500 * time.Millisecond
)

var errNoStateServer = errors.New("stateserver: who answers is no state server")

// do sends q until it is answered. The end of the context, or the timeout if it
// has no deadline, ends that. What only a Holdfast server understands rightly is
// not sent to another: the answer is then foreign, without a status.
func (c *Client) do(ctx context.Context, id store.ID, q *call) (answer, error) {
	if err := ctx.Err(); err != nil {
		return answer{}, c.failed(store.ErrUnavailable, err)
	}
	q.prefix, q.session = c.prefix(id.App), id.Session
	p, wait := c.calls, q.wait
	if wait > 0 {
		p = c.waits
	}
	start := time.Now()
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = start.Add(wait + c.options.Timeout)
	}
	unsure := false
	for try := 0; ; {
		a, l, err := c.attempt(ctx, deadline, p, q)
		if err == nil {
			return a, nil
		}
		unsure = unsure || l.sent
		over := ctx.Err() != nil || !time.Now().Before(deadline) || !l.reached && !unsure || final(err) || unsure && q.plain
		switch {
		case !over && l.used:
			p.dropIdle() // the server has restarted: they are all dead
		case over || !pause(ctx, deadline, try):
			return answer{}, c.giveUp(ctx, p, l.conn, id, q, unsure, err)
		default:
			try++
		}
		if l.conn != nil {
			p.drop(l.conn)
		}
		if wait > 0 {
			q.wait = max(wait-time.Since(start), time.Millisecond)
		}
	}
}

// giveUp ends a call that has no answer, and perhaps was done if it is unsure.
func (c *Client) giveUp(ctx context.Context, p *pool, cn *clientConn, id store.ID, q *call, unsure bool, err error) error {
	switch {
	case ctx.Err() != nil:
		err = ctx.Err()
	case isTimeout(err):
		err = context.DeadlineExceeded
	}
	if !unsure {
		return c.failed(store.ErrUnavailable, err)
	}
	c.takeBack(p, cn, id, q)
	return c.failed(store.ErrUnsure, err)
}

func (c *Client) failed(how, why error) error {
	return fmt.Errorf("%w: %s: %w", how, c.address, why)
}

// final reports whether a reply that was read in vain will not be better the next
// time.
func final(err error) bool {
	for _, e := range []error{errNoStateServer, errClientClosed, errBadStart, errBadLine, errBadLength, errHeadTooLarge,
		errBodyTooLarge, errTooManyLines, errEncoding, errMoreThanAsked} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// pause waits before another try, twice as long each time and never exactly as
// long as others, and reports whether there is time for it.
func pause(ctx context.Context, deadline time.Time, try int) bool {
	d := longestPause
	if try < 7 {
		d = min(d, firstPause<<try)
	}
	d = d/2 + rand.N(d/2)
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
	reached bool        // there was a server
	sent    bool        // it may have done what was asked
	used    bool        // the connection was not new
	conn    *clientConn // still open, if sent and nothing but time is wrong with it
}

// attempt sends q once.
func (c *Client) attempt(ctx context.Context, deadline time.Time, p *pool, q *call) (answer, loss, error) {
	cn, err := p.get(ctx, deadline)
	if err != nil {
		return answer{}, loss{}, err
	}
	if q.in != nil && !q.plain && cn.kind == peerUnknown {
		// A foreign server would store it whatever its conditions are, so ask first.
		probe := call{method: methodHead, prefix: q.prefix, session: q.session}
		sent, err := cn.roundTrip(ctx, deadline, c.host, &probe)
		if err == nil {
			err = c.meet(cn, &probe)
		}
		if err != nil {
			p.put(cn, false)
			return answer{}, loss{reached: sent || cn.used, used: cn.used}, err
		}
	}
	if q.in != nil && !q.plain && cn.kind == peerForeign {
		p.put(cn, true)
		return answer{foreign: true}, loss{}, nil
	}
	sent, err := cn.roundTrip(ctx, deadline, c.host, q)
	if err == nil {
		err = c.meet(cn, q)
	}
	if err != nil {
		l := loss{reached: sent || cn.used, sent: sent, used: cn.used}
		if sent && q.exclusive == exclusiveAcquire && (ctx.Err() != nil || isTimeout(err)) {
			l.conn = cn
			p.release()
		} else {
			p.put(cn, false)
		}
		return answer{}, l, err
	}
	a := cn.answer(q)
	p.put(cn, a.status != statusBadRequest && a.status != statusTooLarge)
	return a, loss{}, nil
}

func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}

// meet learns from the answer to q who is at the other end.
func (c *Client) meet(cn *clientConn, q *call) error {
	switch r := &cn.resp; {
	case r.marked():
		cn.kind = peerHoldfast
	case q.plain, r.status == statusBadRequest: // says nothing
		return nil
	case r.major < 2:
		return errNoStateServer
	default:
		cn.kind = peerForeign
	}
	if foreign := cn.kind == peerForeign; c.foreign.Load() != foreign {
		c.foreign.Store(foreign)
	}
	return nil
}

// answer takes the answer to q, and its record, from the connection's buffer.
func (cn *clientConn) answer(q *call) answer {
	r := &cn.resp
	a := answer{
		status:  r.status,
		foreign: !r.marked() && cn.kind == peerForeign,
		fresh:   r.actionFlags&1 != 0,
		cookie:  r.cookie,
		owner:   r.owner,
		lockAge: r.lockAge,
		reason:  store.Reason{Kind: r.kind, Age: r.age, To: unescaped(r.to)},
	}
	switch {
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
	return a
}

// takeBack sees to it that q, a Lock that nobody waits for any more, leaves no
// lock behind. cn is the connection that it was last sent on, if that is open.
func (c *Client) takeBack(p *pool, cn *clientConn, id store.ID, q *call) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if q.exclusive != exclusiveAcquire || c.closed {
		if cn != nil {
			p.drop(cn)
		}
		return
	}
	owner := q.lock.Owner
	id = store.ID{App: strings.Clone(id.App), Session: strings.Clone(id.Session)}
	done := make(chan struct{})
	c.takingBack[owner] = done
	c.background.Go(func() {
		defer func() {
			c.mu.Lock()
			if c.takingBack[owner] == done {
				delete(c.takingBack, owner)
			}
			c.mu.Unlock()
			close(done)
		}()
		if cn != nil {
			settled := c.withdraw(cn, id, owner)
			p.drop(cn)
			if settled {
				return
			}
		}
		c.unlock(id, owner)
	})
}

// takenBack waits until an earlier lock of owner is taken back: the same call,
// repeated, must not lose what it gets.
func (c *Client) takenBack(ctx context.Context, owner uint64) error {
	c.mu.Lock()
	done := c.takingBack[owner]
	c.mu.Unlock()
	if done == nil {
		return nil
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return c.failed(store.ErrUnavailable, ctx.Err())
	}
}

// withdraw ends a Lock on the connection that it was sent on, and reports whether
// that is certain: the server sees the connection's end, stops waiting, and only
// then does the release that follows the Lock. On a foreign server, which does not
// wait and knows no owner, the release needs the cookie of the answer.
func (c *Client) withdraw(cn *clientConn, id store.ID, owner uint64) bool {
	q := call{method: methodGet, exclusive: exclusiveRelease, lock: store.Lock{Owner: owner}, prefix: c.prefix(id.App), session: id.Session}
	deadline := time.Now().Add(c.options.Timeout)
	cn.nc.SetDeadline(deadline)
	if c.foreign.Load() {
		if cn.read(methodGet) != nil {
			return true // nothing is left to try
		}
		if cn.resp.status == statusOK {
			q.lock.Cookie = cn.resp.cookie
			cn.roundTrip(c.ctx, deadline, c.host, &q)
		}
		return true
	}
	half, ok := cn.nc.(interface{ CloseWrite() error })
	if !ok {
		return false
	}
	if _, err := cn.nc.Write(q.appendTo(nil, c.host)); err != nil || half.CloseWrite() != nil {
		return false
	}
	_, err := io.Copy(io.Discard, cn.nc)
	return err == nil
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
