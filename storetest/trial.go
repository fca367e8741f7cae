package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-session/holdfast/store"
)

const (
	// long is the timeout of sessions that are not to expire, short of those that
	// are, long enough for a busy machine that really waits.
	long  = 20 * time.Minute
	short = 2 * time.Second
	// grace is how late a store may be: it may keep time in whole seconds, rounded up.
	grace = 1200 * time.Millisecond
	// pastShort is the time after which short has certainly passed.
	pastShort = short + grace
	// patience is how long something may take that is to happen at once.
	patience = 5 * time.Second
)

// A trial is one run of one case: where failures go, and the calls that most cases
// make, which end the case where they fail.
type trial struct {
	testing.TB
	suite
	ctx     context.Context
	app     string
	later   []func(testing.TB) // checks to make outside of the bubble
	skipped string
}

// start runs the case on a goroutine of its own, so that a call that never returns
// does not keep it from ending.
func (c *trial) start(t testing.TB, tc testCase) {
	limit := callLimit
	if c.Bubble {
		limit = bubbleLimit
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	c.TB, c.ctx, c.app = c.report(t), ctx, fmt.Sprintf("/storetest/%016x", rand.Uint64())
	done := make(chan struct{})
	go func() {
		defer close(done)
		tc.run(c)
	}()
	select {
	case <-done:
	case <-time.After(limit + time.Minute):
		c.Errorf("a call has not returned, although its context ended\n%s", stacks())
	}
}

// skip ends the case as not checked.
func (c *trial) skip(why string) {
	c.skipped = "not checked: " + why
	runtime.Goexit()
}

func (c *trial) open() store.Store { return c.Open(c.TB) }

func (c *trial) id(session string) store.ID { return store.ID{App: c.app, Session: session} }

// advance lets d pass.
func (c *trial) advance(d time.Duration) {
	if c.Advance != nil && !c.Bubble {
		c.Advance(d)
		return
	}
	time.Sleep(d)
}

// settle gives other goroutines the time to arrive where they wait.
func (c *trial) settle() {
	if c.Bubble {
		synctest.Wait()
		return
	}
	time.Sleep(150 * time.Millisecond)
}

// A pending is a call that runs on a goroutine of its own.
type pending struct {
	c    *trial
	what string
	done chan struct{}
	rec  store.Record
	err  error
}

// async starts f, and gives it the time to get where it has to wait.
func (c *trial) async(what string, f func(p *pending) error) *pending {
	p := &pending{c: c, what: what, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		p.err = f(p)
	}()
	c.settle()
	return p
}

// queue starts a Lock that has to wait.
func (c *trial) queue(s store.Store, id store.ID, o store.LockOptions) *pending {
	return c.queueCtx(c.ctx, s, id, o)
}

func (c *trial) queueCtx(ctx context.Context, s store.Store, id store.ID, o store.LockOptions) *pending {
	if o.Owner == 0 {
		o.Owner = store.NewOwner()
	}
	return c.async("Lock", func(p *pending) error { return s.Lock(ctx, id, o, &p.rec) })
}

// waits checks that the call has not returned.
func (p *pending) waits(when string) {
	p.c.Helper()
	p.c.settle()
	select {
	case <-p.done:
		p.c.Fatalf("%s returned (%v) %s; want it to wait", p.what, p.err, when)
	default:
	}
}

// soon returns the call's error once it has returned, which must be at once.
func (p *pending) soon(when string) error {
	p.c.Helper()
	return p.within(patience, when)
}

func (p *pending) within(d time.Duration, when string) error {
	p.c.Helper()
	select {
	case <-p.done:
	case <-time.After(d):
		p.c.Fatalf("%s still waits %v after %s", p.what, d, when)
	}
	return p.err
}

// parallel runs f n times at once and returns when all are done.
func (c *trial) parallel(n int, f func(i int)) {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { f(i) })
	}
	wg.Wait()
	if c.Failed() {
		c.FailNow()
	}
}

// create makes a session that is not there.
func (c *trial) create(s store.Store, id store.ID, timeout time.Duration, body string) *store.Record {
	c.Helper()
	rec := &store.Record{Version: store.NewVersion(), Timeout: timeout, Body: []byte(body)}
	c.ok(s.Create(c.ctx, id, rec, false), "Create")
	return rec
}

func (c *trial) load(s store.Store, id store.ID) *store.Record {
	c.Helper()
	rec := new(store.Record)
	c.ok(s.Load(c.ctx, id, rec), "Load")
	return rec
}

// lock takes the lock without waiting.
func (c *trial) lock(s store.Store, id store.ID) *store.Record {
	c.Helper()
	return c.lockAs(s, id, store.LockOptions{Owner: store.NewOwner()})
}

func (c *trial) lockAs(s store.Store, id store.ID, o store.LockOptions) *store.Record {
	c.Helper()
	rec := new(store.Record)
	c.ok(s.Lock(c.ctx, id, o, rec), "Lock")
	if rec.Lock.IsZero() {
		c.Fatalf("Lock: rec.Lock is zero; want the lock that was taken")
	}
	return rec
}

// save puts body into the session that rec was read from, and returns what its
// writer then knows of it.
func (c *trial) save(s store.Store, id store.ID, rec *store.Record, body string, hold bool) *store.Record {
	c.Helper()
	next := store.NewVersion()
	now := with(rec, body)
	c.ok(s.Save(c.ctx, id, now, next, hold), "Save")
	now.Advance(next)
	if !hold {
		now.Lock = store.Lock{}
	}
	return now
}

func (c *trial) unlock(s store.Store, id store.ID, lock store.Lock) {
	c.Helper()
	c.ok(s.Unlock(c.ctx, id, lock), "Unlock")
}

func (c *trial) remove(s store.Store, id store.ID, why store.Kind) {
	c.Helper()
	c.ok(s.Remove(c.ctx, id, store.Lock{}, store.Reason{Kind: why}), "Remove")
}

// trySave is a Save of body that may fail.
func (c *trial) trySave(s store.Store, id store.ID, rec *store.Record, body string, hold bool) error {
	return s.Save(c.ctx, id, with(rec, body), store.NewVersion(), hold)
}

// with returns a copy of rec with another body.
func with(rec *store.Record, body string) *store.Record {
	now := *rec
	now.Body = []byte(body)
	return &now
}

// merge returns a copy of rec as one who never locked it would save it.
func merge(rec *store.Record) *store.Record {
	now := *rec
	now.Lock, now.Locked = store.Lock{}, false
	return &now
}

func (c *trial) ok(err error, what string) {
	c.Helper()
	if err != nil {
		c.Fatalf("%s: %v; want success", what, err)
	}
}

func (c *trial) is(err, want error, what string) {
	c.Helper()
	if !errors.Is(err, want) {
		c.Fatalf("%s: %v; want %v", what, err, want)
	}
}

// gone checks that err is ErrNotFound and says why, if the store can.
func (c *trial) gone(err error, why store.Kind, what string) store.Reason {
	c.Helper()
	c.is(err, store.ErrNotFound, what)
	reason := store.ReasonOf(err)
	if why == store.Unknown && reason.Kind == store.Restarted && c.forgets() {
		return reason
	}
	if !c.lacks(Tombstones) && reason.Kind != why {
		c.Fatalf("%s: %v; want the reason %v", what, err, why)
	}
	return reason
}

// forgets says whether what the store knows nothing of may have ended in a restart.
func (c *trial) forgets() bool { return c.Restart == nil || c.lacks(Durability) }

// absent checks that the session is not there, and why.
func (c *trial) absent(s store.Store, id store.ID, why store.Kind) store.Reason {
	c.Helper()
	return c.gone(s.Load(c.ctx, id, new(store.Record)), why, "Load")
}

// locked checks that err is a *LockedError that names the holder's lock.
func (c *trial) locked(err error, holder store.Lock, what string) time.Duration {
	c.Helper()
	var locked *store.LockedError
	if !errors.As(err, &locked) {
		c.Fatalf("%s: %v; want a *LockedError", what, err)
	}
	if locked.Lock.Cookie != holder.Cookie {
		c.Fatalf("%s: *LockedError with the cookie %d; want the holder's, %d", what, locked.Lock.Cookie, holder.Cookie)
	}
	return locked.Age
}

// about checks a duration that the store measured, when passed is what really did.
// It may be kept in whole seconds, and a waiting suite is itself late.
func (c *trial) about(got, passed time.Duration, what string) {
	c.Helper()
	late := grace
	if !c.Bubble {
		late += patience
	}
	if got < 0 || got < passed-grace || got > passed+late {
		c.Fatalf("%s is %v; want about %v", what, got, passed)
	}
}

func (c *trial) body(got *store.Record, want string) {
	c.Helper()
	if string(got.Body) != want {
		c.Fatalf("the body is %s; want %s", brief(got.Body), brief([]byte(want)))
	}
}

// same checks that two readings of a session are equal, but for the age of its lock.
func (c *trial) same(got, want *store.Record, when string) {
	c.Helper()
	if d := diff(got, want); len(d) > 0 {
		c.Fatalf("the session changed %s: %v", when, d)
	}
}

// diff describes the fields in which two records differ, but for LockAge and Items.
func diff(got, want *store.Record) (d []string) {
	add := func(differ bool, name string, got, want any) {
		if differ {
			d = append(d, fmt.Sprintf("%s is %v, want %v", name, got, want))
		}
	}
	add(got.Version != want.Version, "Version", got.Version, want.Version)
	add(got.Lock != want.Lock, "Lock", got.Lock, want.Lock)
	add(got.Locked != want.Locked, "Locked", got.Locked, want.Locked)
	add(got.Timeout != want.Timeout, "Timeout", got.Timeout, want.Timeout)
	add(!got.Created.Equal(want.Created), "Created", got.Created, want.Created)
	add(got.Flags != want.Flags, "Flags", got.Flags, want.Flags)
	add(got.History != want.History, "History", got.History, want.History)
	add(got.Acquired != want.Acquired, "Acquired", got.Acquired, want.Acquired)
	add(got.Subject != want.Subject, "Subject", got.Subject, want.Subject)
	add(!bytes.Equal(got.Body, want.Body), "Body", brief(got.Body), brief(want.Body))
	return d
}

func clone(rec *store.Record) *store.Record {
	now := *rec
	now.Body = slices.Clone(rec.Body)
	return &now
}

// brief quotes a body, or the beginning of a long one.
func brief(b []byte) string {
	if len(b) > 64 {
		return fmt.Sprintf("%q… (%d bytes)", b[:64], len(b))
	}
	return fmt.Sprintf("%q", b)
}

// lockOf returns the lock that a *LockedError names.
func lockOf(err error) store.Lock {
	var locked *store.LockedError
	if errors.As(err, &locked) {
		return locked.Lock
	}
	return store.Lock{}
}

// cancelled checks that err is what a call may return whose context has ended.
func (c *trial) cancelled(err error, ctx context.Context, what string) {
	c.Helper()
	if !errors.Is(err, ctx.Err()) && !errors.Is(err, store.ErrUnsure) && !errors.Is(err, store.ErrUnavailable) {
		c.Fatalf("%s whose context ended: %v; want %v", what, err, ctx.Err())
	}
}
