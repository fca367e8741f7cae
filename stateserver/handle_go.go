package stateserver

import (
	"errors"
	"fmt"
	"strconv"
	"time"
	"unsafe"

	"github.com/holdfast-session/holdfast/store"
)

// The answers to Holdfast's own clients, whose requests are marked: one call of
// the store each.

// handle answers the request in c.req, and counts it.
func (c *conn) handle() {
	start := c.now
	c.waited, c.outcome = false, outcomeWithdrawn
	c.call = c.callOf()
	c.dispatch()
	c.now = c.s.nanos()
	c.count(start)
}

// callsOf are the calls by their method.
var callsOf = [...]struct{ marked, old callKind }{
	methodGet:    {callLoad, callOldGet},
	methodPut:    {callSave, callOldPut},
	methodDelete: {callRemove, callOldDelete},
	methodHead:   {callTouch, callOldHead},
}

// callOf is what the request asks for.
func (c *conn) callOf() callKind {
	c.marked = c.req.has(fieldHoldfast) && !c.s.Exact
	if c.marked && isListTarget(c.req.target) {
		return listCall(&c.req)
	}
	of := callsOf[c.req.method]
	switch {
	case c.req.method == methodGet && c.req.exclusive == exclusiveAcquire:
		of.marked, of.old = callLock, callOldAcquire
	case c.req.method == methodGet && c.req.exclusive == exclusiveRelease:
		of.marked, of.old = callUnlock, callOldRelease
	case c.req.method == methodPut && c.req.absent:
		of.marked = callCreate
	}
	if c.marked {
		return of.marked
	}
	return of.old
}

// dispatch answers the request, unless it is refused.
func (c *conn) dispatch() {
	if c.denied {
		c.hangUp = true
		c.tell(c.why)
		return
	}
	if !c.pace(1) {
		c.deny(refusedRate)
		return
	}
	switch c.call {
	case callUnknown:
		c.hangUp = true
		c.start(statusBadRequest)
		c.finish("")
		return
	case callList, callEnded, callAck:
		c.handleLists()
		return
	}
	var ok bool
	if c.key, ok = c.app.appendKey(c.key[:0], c.req.target); !ok {
		c.refuse(errBadTarget)
		return
	}
	id := splitKey(c.key)
	need := Write
	if c.call == callLoad || c.call == callTouch {
		need = Read
	}
	if why, ok := c.admit(id.App, need); !ok {
		c.deny(why)
		return
	}
	switch {
	case c.call >= callOldGet:
		c.handleOld(id)
	case c.req.bad != 0:
		c.refuse(errBadField)
	default:
		c.handleMarked(id)
	}
}

var (
	errBadField = errors.New("stateserver: a header field has a value that is none")
	errMissing  = errors.New("stateserver: a header field that this request needs is missing")
)

// defaultTimeout is that of a session whose writer named none.
const defaultTimeout = 20 * time.Minute

func (c *conn) handleMarked(id store.ID) {
	lock := store.Lock{Cookie: c.req.cookie, Owner: c.req.owner}
	switch {
	case c.req.method == methodGet && c.req.exclusive == exclusiveNone:
		c.answerRecord(c.s.Store.Load(c.s.base, id, &c.rec))
	case c.req.method == methodGet && c.req.exclusive == exclusiveAcquire:
		c.handleLock(id)
	case c.req.method == methodGet:
		if lock.IsZero() {
			c.refuse(errMissing)
			return
		}
		c.answer(c.s.Store.Unlock(c.s.base, id, lock))
	case c.req.method == methodPut:
		c.handlePut(id, lock)
	case c.req.method == methodDelete:
		if lock.IsZero() != c.req.any {
			c.refuse(errMissing)
			return
		}
		c.answer(c.s.Store.Remove(c.s.base, id, lock, store.Reason{Kind: c.req.kind, To: unescaped(c.req.to)}))
	case c.req.method == methodHead:
		c.answer(c.s.Store.Touch(c.s.base, id))
	}
}

func (c *conn) handleLock(id store.ID) {
	o := store.LockOptions{Owner: c.req.owner, Stale: c.req.stale, Renew: c.req.hold}
	if o.Owner == 0 {
		c.refuse(errMissing)
		return
	}
	// Most locks are free. Only for one that is not is the peer watched.
	err := c.s.Store.Lock(c.s.base, id, o, &c.rec)
	if err != nil && c.req.wait > 0 && asLocked(err) != nil {
		if r := c.s.rules.Load(); r.MaxWaits > 0 && !r.unlimited(c.addr) {
			defer c.source.waits.Add(-1)
			if c.source.waits.Add(1) > int64(r.MaxWaits) {
				c.deny(refusedWaits)
				return
			}
		}
		o.Wait = c.req.wait
		var ok bool
		if ok, err = c.await(id, o); !ok {
			if !c.hangUp {
				c.fail(statusUnavailable, "stateserver: given up while it waited")
			}
			return
		}
	}
	if err == nil && o.Renew && !c.holdAnswer(len(c.rec.Body)) {
		c.s.refused(c, refusedMemory)
		c.fail(statusUnsure, errMemory.Error()) // for it is renewed
		return
	}
	sent := c.answerRecord(err)
	switch {
	case err != nil || o.Renew: // which is the peer's, with or without this answer
	case !sent:
		c.giveBack(id, o.Owner)
	default:
		c.granted(o.Owner)
	}
}

func (c *conn) handlePut(id store.ID, lock store.Lock) {
	timeout := c.req.timeout
	if timeout == 0 {
		timeout = defaultTimeout
	}
	rec := &c.put
	*rec = store.Record{
		Version: c.req.version,
		Lock:    lock,
		Timeout: timeout,
		Created: c.req.created,
		Flags:   c.req.flags,
		History: c.req.history,
		Subject: unescaped(c.req.subject),
		Body:    c.req.body,
	}
	var err error
	switch {
	case !c.req.ok(fieldIdempotencyKey) || c.req.absent == c.req.has(fieldIfMatch) || c.req.any:
		c.refuse(errMissing)
		return
	case c.req.absent:
		rec.Version = c.req.next
		err = c.s.Store.Create(c.s.base, id, rec, !lock.IsZero())
	default:
		err = c.s.Store.Save(c.s.base, id, rec, c.req.next, c.req.hold)
	}
	rec.Body = nil
	if err != nil {
		c.answer(err)
		return
	}
	c.start(statusOK)
	c.out = append(c.out, "\r\nETag: "...)
	c.out = appendVersion(c.out, c.req.next)
	if c.req.absent && rec.Lock.Cookie != 0 {
		c.out = appendLock(c.out, rec.Lock)
	}
	c.finish("")
}

// asLocked returns the *LockedError that err is, or nil.
func asLocked(err error) *store.LockedError {
	var locked *store.LockedError
	errors.As(err, &locked)
	return locked
}

// answer writes the answer to a call that returns nothing but err.
func (c *conn) answer(err error) {
	if err == nil {
		c.start(statusOK)
		c.finish("")
		return
	}
	var locked *store.LockedError
	switch {
	case errors.Is(err, store.ErrNotFound):
		c.start(statusNotFound)
		c.out = appendReason(c.out, store.ReasonOf(err))
		c.finish("")
	case errors.As(err, &locked):
		c.start(statusLocked)
		c.out = append(c.out, "\r\nLockAge: "...)
		c.out = appendSeconds(c.out, locked.Age)
		c.out = appendLock(c.out, locked.Lock)
		c.finish("")
	case errors.Is(err, store.ErrLockLost):
		c.start(statusLocked)
		c.finish("")
	case errors.Is(err, store.ErrConflict), errors.Is(err, store.ErrExists):
		c.start(statusConflict)
		c.finish("")
	case errors.Is(err, store.ErrTooLarge):
		c.fail(statusTooLarge, err.Error())
	case errors.Is(err, store.ErrFull):
		c.fail(statusFull, err.Error())
	default:
		c.s.storeFailed(err)
		switch {
		case errors.Is(err, store.ErrUnsure), c.s.base.Err() != nil:
			c.fail(statusUnsure, err.Error())
		case errors.Is(err, store.ErrUnavailable):
			c.fail(statusUnavailable, err.Error())
		default:
			c.fail(statusFailed, err.Error())
		}
	}
}

// answerRecord writes the answer to a call that read c.rec, and reports whether it
// carries that.
func (c *conn) answerRecord(err error) bool {
	switch {
	case err != nil:
		c.answer(err)
		return false
	case c.rec.Items != nil:
		c.answer(errItems)
		return false
	case !c.holdAnswer(len(c.rec.Body)):
		c.deny(refusedMemory)
		return false
	}
	if c.req.known != 0 && c.req.known == c.rec.Version && c.rec.Flags&^store.Uninitialized == 0 { // see store.Moving
		c.start(statusNotModified)
		c.out = appendRecordHead(c.out, &c.rec)
		c.finish("")
		return true
	}
	c.start(statusOK)
	c.out = appendRecordHead(c.out, &c.rec)
	c.finish(alias(c.rec.Body))
	return true
}

// holdAnswer reports whether there may be an answer with a body of n bytes.
func (c *conn) holdAnswer(n int) bool {
	if n <= keepBuffer {
		n = max(n+len(c.out), cap(c.out)) // it goes there
	}
	return c.hold(cap(c.in), n)
}

// errItems guards a store that a Manager in this process fills at the same time.
var errItems = fmt.Errorf("stateserver: the store holds this session as items of this process, not as bytes: "+
	"give the server a store of its own, or every Manager a Client: %w", store.ErrUnavailable)

// start begins an answer; every later line of its head begins with its line end.
func (c *conn) start(status int) {
	c.outcome = outcomeOf[status]
	c.out = append(c.out, statusLine(status)...)
	c.out = append(c.out, "\r\nX-AspNet-Version: "...)
	c.out = append(c.out, c.s.Version...)
	if c.req.marked() && !c.s.Exact {
		c.out = append(c.out, "\r\nHoldfast: 1"...)
	}
}

// finish ends the head of an answer and writes its body. A large body is sent from
// where it is.
func (c *conn) finish(body string) {
	c.out = append(c.out, "\r\nCache-Control: private\r\nContent-Length: "...)
	c.out = strconv.AppendInt(c.out, int64(len(body)), 10)
	c.out = append(c.out, "\r\n\r\n"...)
	if len(body) <= keepBuffer {
		c.out = append(c.out, body...)
		return
	}
	c.now = c.s.nanos() // the store may have taken its time, and the peer's begins now
	if c.flush() {
		c.write(unsafe.Slice(unsafe.StringData(body), len(body)))
	}
}

// fail writes an answer that says in words what is wrong, except to a HEAD, whose
// answer has no body.
func (c *conn) fail(status int, text string) {
	c.start(status)
	if c.req.method == methodHead {
		text = ""
	}
	c.finish(text)
}

// appendReason writes why a session is not there.
func appendReason(b []byte, why store.Reason) []byte {
	if why.Kind == store.Unknown {
		return b
	}
	b = append(b, "\r\nHoldfast-Reason: "...)
	b = append(b, why.Kind.String()...)
	b = append(b, "\r\nHoldfast-Age: "...)
	b = appendSeconds(b, why.Age)
	if why.To != "" {
		b = append(b, "\r\nHoldfast-To: "...)
		b = appendEscaped(b, why.To)
	}
	return b
}

// storeFailed logs that the store failed a request: a store that is down fails each.
func (s *Server) storeFailed(err error) {
	if times, log := s.failures.log(s.nanos(), failuresEvery); log {
		s.Logger.Error("stateserver: the store failed", "err", err, "times", times)
	}
}
