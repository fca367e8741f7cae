package stateserver

import (
	"errors"
	"strconv"
	"time"

	"github.com/holdfast-session/holdfast/store"
)

// The answers to ASP.NET's clients. They know neither versions nor owners, and take
// no notice of a PUT that was refused. What they do is made safe here: each of
// their requests becomes calls of the store that are repeated if somebody else came
// between, and settle on an answer that one moment justifies. What Microsoft's
// server does differently is in exact.go.

const (
	// maxMinutes is a year, the longest timeout of the protocol.
	maxMinutes = 525600
	// maxTries bounds how often a request is tried again because others came
	// between; each time one of them has got on.
	maxTries = 64
	// insertOnly is the bit of ExtraFlags that makes an uninitialized session, and
	// leaves alone one that is there.
	insertOnly = 1
)

var (
	errBusy     = errors.New("stateserver: too many others changed the session at the same time")
	errNoCookie = errors.New("stateserver: a release needs a LockCookie")
	errMemory   = errors.New("stateserver: " + refusalTexts[refusedMemory].text)
)

func (c *conn) handleOld(id store.ID) {
	if c.req.method == methodPut && !c.readOldPut() {
		return
	}
	if c.req.wrong(fieldLockCookie) {
		c.badHeader("Http_LockCookie")
		return
	}
	c.fresh = false
	c.answerOld(c.settleOld(id)) // which may have to wait for the peer, and nobody else has to
}

// settleOld does what the request asks for, so that one moment justifies the answer.
func (c *conn) settleOld(id store.ID) error {
	if c.s.Exact {
		m := c.s.stripe(c.key)
		m.Lock()
		defer m.Unlock()
	}
	for range maxTries {
		err := c.tryOld(id)
		if !errors.Is(err, store.ErrConflict) && !errors.Is(err, store.ErrLockLost) && !errors.Is(err, store.ErrExists) {
			return err
		}
	}
	return errBusy
}

// tryOld does what the request asks for, once. It may find that somebody else came
// between two calls of the store, as an error that says so.
func (c *conn) tryOld(id store.ID) error {
	switch {
	case c.req.method == methodGet && c.req.exclusive == exclusiveNone:
		return c.oldGet(id)
	case c.req.method == methodGet && c.req.exclusive == exclusiveAcquire:
		return c.oldAcquire(id)
	case c.req.method == methodGet:
		return c.oldRelease(id)
	case c.req.method == methodPut && c.s.Exact:
		return c.exactPut(id)
	case c.req.method == methodPut:
		return c.oldPut(id)
	case c.req.method == methodDelete:
		return c.oldDelete(id)
	}
	return c.s.Store.Touch(c.s.base, id)
}

// load reads the session, as the store has it now, into c.rec.
func (c *conn) load(id store.ID) error {
	err := c.s.Store.Load(c.s.base, id, &c.rec)
	if err == nil && c.rec.Items != nil {
		err = errItems
	}
	return err
}

// fits is an error if there is no memory to answer with c.rec.
func (c *conn) fits() error {
	if !c.holdAnswer(len(c.rec.Body)) {
		return errMemory
	}
	return nil
}

// locked is the error that names the lock in c.rec, or the last one that was.
func (c *conn) locked() error {
	return &store.LockedError{Lock: c.rec.Lock, Age: c.rec.LockAge}
}

func (c *conn) oldGet(id store.ID) error {
	err := c.load(id)
	if err == nil && c.rec.Locked {
		err = c.locked()
	}
	if err == nil {
		err = c.fits()
	}
	if err != nil || c.rec.Flags&store.Uninitialized == 0 {
		return err
	}
	return c.initialize(id)
}

// initialize takes the mark from an uninitialized session. The one request that
// does it is told, so that its client runs its Session_Start.
func (c *conn) initialize(id store.ID) error {
	c.put = c.rec
	c.put.Flags &^= store.Uninitialized
	if !c.rec.Locked {
		c.put.Lock = store.Lock{}
	}
	err := c.s.Store.Save(c.s.base, id, &c.put, store.NewVersion(), true)
	c.put.Body = nil
	c.fresh = err == nil
	return err
}

func (c *conn) oldAcquire(id store.ID) error {
	o := store.LockOptions{Owner: store.NewOwner()}
	err := c.s.Store.Lock(c.s.base, id, o, &c.rec)
	switch {
	case errors.Is(err, store.ErrUnsure):
		c.giveBack(id, o.Owner)
		return err
	case err != nil:
		return err
	case c.rec.Items != nil:
		err = errItems
	default:
		err = c.fits()
	}
	if err == nil && c.rec.Flags&store.Uninitialized != 0 {
		err = c.initialize(id)
	}
	if err != nil {
		c.giveBack(id, o.Owner)
		return err
	}
	c.granted(o.Owner)
	return nil
}

// oldRelease unlocks by the cookie alone. That is also how a client of ASP.NET
// breaks the lock of one that takes too long.
func (c *conn) oldRelease(id store.ID) error {
	if !c.s.Exact && !c.req.has(fieldLockCookie) {
		return errNoCookie
	}
	err := c.load(id)
	if err == nil && c.s.Exact && c.rec.Flags&store.Uninitialized != 0 {
		err = c.initialize(id)
	}
	switch {
	case err != nil:
		return err
	case !c.req.has(fieldLockCookie):
		return errNoCookie
	case !c.rec.Locked:
		return nil
	case c.req.cookie != c.rec.Lock.Cookie:
		return c.locked()
	}
	return c.s.Store.Unlock(c.s.base, id, c.rec.Lock)
}

// putTerms are what a PUT of an old client asks for, besides its body.
type putTerms struct {
	next    store.Version // drawn for it
	timeout time.Duration
	insert  bool // an uninitialized session, if there is none
}

// readOldPut reads the terms of a PUT.
func (c *conn) readOldPut() bool {
	minutes := int32(defaultTimeout / time.Minute)
	if c.req.has(fieldTimeout) {
		minutes = c.req.minutes
	}
	if c.req.wrong(fieldTimeout) || minutes > maxMinutes {
		c.badHeader("Http_Timeout")
		return false
	}
	if c.req.wrong(fieldExtraFlags) {
		c.badHeader("Http_ExtraFlags")
		return false
	}
	if minutes == 0 {
		minutes = maxMinutes // what ASP.NET's cache means by it: never
	}
	c.terms = putTerms{
		next:    store.NewVersion(),
		timeout: time.Duration(minutes) * time.Minute,
		insert:  c.req.extraFlags&insertOnly != 0,
	}
	return true
}

// oldPut stores a session for somebody who knows no versions:
//
//	cookie     session                             outcome
//	0 or none  absent                              created
//	           unlocked                            overwritten
//	           locked                              423
//	1 or more  absent                              404
//	           locked, by that cookie              saved
//	           locked otherwise                    423
//	           unlocked, that cookie was the last
//	           and the content is what it saw      saved
//	           unlocked otherwise                  423
//
// With ExtraFlags 1, absent: created; else left as it is, and 200.
func (c *conn) oldPut(id store.ID) error {
	if c.terms.insert {
		return c.insert(id)
	}
	cookie := c.req.cookie
	err := c.load(id)
	switch {
	case errors.Is(err, store.ErrNotFound) && cookie == 0:
		return c.create(id, 0)
	case err != nil:
		return err
	case c.rec.Locked && cookie != c.rec.Lock.Cookie:
		return c.locked()
	case !c.rec.Locked && cookie != 0 && (cookie != c.rec.Lock.Cookie || c.rec.Version != c.rec.Acquired):
		return c.locked()
	}
	timeout := c.terms.timeout
	if ceilMinutes(c.rec.Timeout) == ceilMinutes(timeout) {
		timeout = c.rec.Timeout // its minutes are what an old client makes of these seconds
	}
	err = c.save(id, timeout, c.rec.Flags&^store.Uninitialized)
	if cookie == 0 && errors.Is(err, store.ErrNotFound) {
		return store.ErrConflict // it went away meanwhile: once more
	}
	return err
}

// insert makes an uninitialized session unless there is one, which then lives on.
func (c *conn) insert(id store.ID) error {
	err := c.create(id, 0)
	if !errors.Is(err, store.ErrExists) {
		return err
	}
	if err := c.s.Store.Touch(c.s.base, id); !errors.Is(err, store.ErrNotFound) {
		return err
	}
	return store.ErrConflict // it went away meanwhile: once more
}

// create stores the request's body as a new session. A store that counts cookies
// goes on from cookie, if there is one.
func (c *conn) create(id store.ID, cookie int32) error {
	c.put = store.Record{
		Version: c.terms.next,
		Lock:    store.Lock{Cookie: cookie},
		Timeout: c.terms.timeout,
		Body:    c.req.body,
	}
	if c.terms.insert {
		c.put.Flags = store.Uninitialized
	}
	err := c.s.Store.Create(c.s.base, id, &c.put, false)
	c.put.Body = nil
	return err
}

// save stores the request's body over what was loaded into c.rec, and unlocks.
func (c *conn) save(id store.ID, timeout time.Duration, flags store.Flags) error {
	c.put = c.rec
	c.put.Body, c.put.Timeout, c.put.Flags = c.req.body, timeout, flags
	if !c.rec.Locked {
		c.put.Lock = store.Lock{}
	}
	err := c.s.Store.Save(c.s.base, id, &c.put, c.terms.next, false)
	c.put.Body = nil
	return err
}

// oldDelete removes a session that is not locked, or by the cookie of its lock. To
// remove it over nobody's head it is locked first.
func (c *conn) oldDelete(id store.ID) error {
	if err := c.load(id); err != nil && err != errItems {
		return err
	}
	lock := c.rec.Lock
	if c.rec.Locked && (lock.Cookie != c.req.cookie || !c.req.has(fieldLockCookie)) {
		return c.locked()
	}
	taken := !c.rec.Locked
	if taken {
		lock = store.Lock{Owner: store.NewOwner()}
		if err := c.s.Store.Lock(c.s.base, id, store.LockOptions{Owner: lock.Owner}, &c.rec); err != nil {
			return err
		}
	}
	err := c.s.Store.Remove(c.s.base, id, lock, store.Reason{Kind: store.Abandoned})
	if err != nil && taken {
		c.giveBack(id, lock.Owner)
	}
	return err
}

// answerOld answers with Microsoft's statuses and fields, in Microsoft's order. A
// store that fails is a 400, the only status that a client of ASP.NET does not take
// for an answer: with another it would go on with an empty session, or drop a save.
func (c *conn) answerOld(err error) {
	switch {
	case err == nil && c.req.method == methodGet && c.req.exclusive != exclusiveRelease:
		c.start(statusOK)
		c.appendFresh()
		if c.req.exclusive == exclusiveAcquire {
			c.out = append(c.out, "\r\nLockCookie: "...)
			c.out = strconv.AppendInt(c.out, int64(c.rec.Lock.Cookie), 10)
		}
		c.out = append(c.out, "\r\nTimeout: "...)
		c.out = strconv.AppendInt(c.out, int64(c.rec.Timeout/time.Minute), 10)
		c.finish(alias(c.rec.Body))
	case err == nil:
		c.start(statusOK)
		c.appendFresh()
		c.finish("")
	case errors.Is(err, store.ErrNotFound):
		c.start(statusNotFound)
		c.finish("")
	case err == errNoCookie:
		c.badHeader("Http_LockCookie")
	case err == errMemory:
		c.deny(refusedMemory)
	default:
		c.refuseOld(err)
	}
}

// refuseOld answers that another has the lock, or that the store failed.
func (c *conn) refuseOld(err error) {
	if locked := asLocked(err); locked != nil {
		c.start(statusLocked)
		c.out = append(c.out, "\r\nLockDate: "...)
		c.out = strconv.AppendInt(c.out, ticks(c.s.now().Add(-locked.Age)), 10)
		c.out = append(c.out, "\r\nLockAge: "...)
		c.out = strconv.AppendInt(c.out, int64(locked.Age/time.Second), 10)
		c.out = append(c.out, "\r\nLockCookie: "...)
		c.out = strconv.AppendInt(c.out, int64(locked.Lock.Cookie), 10)
		c.finish("")
		return
	}
	c.s.storeFailed(err)
	c.fail(statusBadRequest, err.Error())
	c.outcome = outcomeFailed
}

// appendFresh says if this request took the mark from an uninitialized session.
func (c *conn) appendFresh() {
	if c.fresh {
		c.out = append(c.out, "\r\nActionFlags: 1"...)
	}
}

// badHeader answers a field that has no value that it could have, by the name that
// Microsoft's server calls it, and closes the connection.
func (c *conn) badHeader(name string) {
	c.hangUp = true
	c.fail(statusBadRequest, "<html><head><title>Bad Request</title></head>\r\n"+
		"<body><h1>Http/1.1 400 Bad Request</h1>Invalid header <b>"+name+"</b></body></html>")
}

// ticks is t as LockDate has it: the 100 ns of .NET since the year 1, in the
// server's local time.
func ticks(t time.Time) int64 {
	const year1970 = 621355968000000000
	_, offset := t.Zone()
	return year1970 + (t.Unix()+int64(offset))*1e7 + int64(t.Nanosecond())/100
}
