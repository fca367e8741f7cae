package storetest

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/holdfast-session/holdfast/store"
)

// Lock and Unlock, where nobody waits.
var lockCases = []testCase{
	{"LockReadsRecord", []Feature{Versions}, lockReadsRecord},
	{"LockHeldByAnother", nil, lockHeldByAnother},
	{"LoadUnderLock", []Feature{Versions, ReadUnderLock}, loadUnderLock},
	{"AcquiredIsVersionAtLock", []Feature{Versions, Acquired}, acquiredIsVersionAtLock},
	{"CookiesAreRandom", []Feature{RandomCookies}, cookiesAreRandom},
	{"LockRetrySameOwner", []Feature{Owner}, lockRetrySameOwner},
	{"LockReplyLost", []Feature{Owner}, lockReplyLost},
	{"LockRenewed", []Feature{Owner}, lockRenewed},
	{"LockTakenOver", nil, lockTakenOver},
	{"TakeoverIsAtomic", nil, takeoverIsAtomic},
	{"OneLockWins", nil, oneLockWins},
	{"LockOfAbsent", nil, lockOfAbsent},
	{"LockCancelledLeavesNothing", nil, lockCancelledLeavesNothing},
	{"ContextEnded", nil, contextEnded},
	{"Unlock", nil, unlock},
	{"UnlockOfAnother", []Feature{ReadUnderLock}, unlockOfAnother},
}

func lockReadsRecord(c *trial) {
	s, id := c.open(), c.id("s")
	rec := anyRecord()
	c.ok(s.Create(c.ctx, id, rec, false), "Create")
	want := c.load(s, id)
	owner := store.NewOwner()
	got := c.lockAs(s, id, store.LockOptions{Owner: owner})
	if !got.Locked || got.Lock.Owner != owner || got.Lock.Cookie <= 0 {
		c.Fatalf("Lock: Locked %v, Lock %+v; want the owner %d and a positive cookie", got.Locked, got.Lock, owner)
	}
	c.about(got.LockAge, 0, "the age of a lock just taken")
	if !c.lacks(Acquired) && got.Acquired != got.Version {
		c.Fatalf("Lock: Acquired is %d; want the version, %d", got.Acquired, got.Version)
	}
	want.Lock, want.Locked, want.Acquired = got.Lock, got.Locked, got.Acquired
	c.same(got, want, "by Lock")
}

func lockHeldByAnother(c *trial) {
	s, id := c.open(), c.id("s")
	c.create(s, id, long, "v0")
	held := c.lock(s, id)
	c.advance(short)
	for range 3 {
		err := s.Lock(c.ctx, id, store.LockOptions{Owner: store.NewOwner()}, new(store.Record))
		age := c.locked(err, held.Lock, "Lock while another has it")
		c.about(age, short, "the age of the lock")
	}
	c.unlock(s, id, held.Lock)
	c.lock(s, id)
}

func loadUnderLock(c *trial) {
	s, id := c.open(), c.id("s")
	c.create(s, id, long, "v0")
	held := c.lock(s, id)
	c.advance(short)
	got := c.load(s, id)
	if !got.Locked || got.Lock.Cookie != held.Lock.Cookie {
		c.Fatalf("Load under a lock: Locked %v, Lock %+v; want %+v", got.Locked, got.Lock, held.Lock)
	}
	if o := got.Lock.Owner; o != 0 && o != held.Lock.Owner {
		c.Fatalf("Load under a lock: the owner is %d; want %d", o, held.Lock.Owner)
	}
	c.about(got.LockAge, short, "LockAge")
	c.body(got, "v0")
	held = c.save(s, id, held, "v1", !c.lacks(Hold))
	c.body(c.load(s, id), "v1")
	if !c.lacks(Hold) {
		c.unlock(s, id, held.Lock)
	}
	got = c.load(s, id)
	if got.Locked || got.LockAge != 0 || got.Lock.Owner != 0 || got.Lock.Cookie == 0 {
		c.Fatalf("Load after the lock: Locked %v, LockAge %v, Lock %+v; want none but the last cookie", got.Locked, got.LockAge, got.Lock)
	}
}

func acquiredIsVersionAtLock(c *trial) {
	s, id := c.open(), c.id("s")
	c.create(s, id, long, "v0")
	held := c.lock(s, id)
	v0 := held.Version
	check := func(want store.Version, when string) {
		c.Helper()
		if got := c.load(s, id).Acquired; got != want {
			c.Fatalf("Acquired is %d %s; want %d", got, when, want)
		}
	}
	c.save(s, id, held, "v1", false)
	check(v0, "after the holder saved v1")
	now := c.save(s, id, merge(c.load(s, id)), "v2", false)
	check(v0, "after a Save without a lock")
	held = c.lock(s, id)
	if held.Acquired != now.Version {
		c.Fatalf("Lock: Acquired is %d; want the version, %d", held.Acquired, now.Version)
	}
	c.unlock(s, id, held.Lock)
	check(now.Version, "after a Lock and an Unlock")
}

func cookiesAreRandom(c *trial) {
	s := c.open()
	seen := make(map[int32]int)
	steps := make(map[int32]int)
	for i := range 10 {
		id := c.id(string(rune('a' + i)))
		c.create(s, id, long, "v0")
		var last int32
		for j := range 4 {
			held := c.lock(s, id)
			if held.Lock.Cookie <= 0 {
				c.Fatalf("the cookie is %d; want a positive one", held.Lock.Cookie)
			}
			seen[held.Lock.Cookie]++
			if j > 0 {
				steps[held.Lock.Cookie-last]++
			}
			last = held.Lock.Cookie
			c.unlock(s, id, held.Lock)
		}
	}
	// Of 40 random numbers two are equal once in 2.7 million runs.
	if len(seen) < 39 {
		c.Fatalf("40 locks had %d cookies; want random ones", len(seen))
	}
	for step, n := range steps {
		if n > 2 {
			c.Fatalf("%d times a cookie was %d more than the one before; want random ones", n, step)
		}
	}
}

func lockRetrySameOwner(c *trial) {
	s, id := c.open(), c.id("s")
	c.create(s, id, long, "v0")
	o := store.LockOptions{Owner: store.NewOwner()}
	first := c.lockAs(s, id, o)
	for range 3 {
		again := c.lockAs(s, id, o)
		c.same(again, first, "by a Lock that was repeated")
	}
	c.locked(s.Lock(c.ctx, id, store.LockOptions{Owner: store.NewOwner()}, new(store.Record)), first.Lock, "Lock by another")

	// Those who wait do not come before the holder's repeat.
	waiter := c.queue(s, id, store.LockOptions{Wait: time.Minute})
	again := c.lockAs(s, id, o)
	if again.Lock != first.Lock {
		c.Fatalf("Lock, repeated while another waits: %+v; want %+v", again.Lock, first.Lock)
	}
	waiter.waits("although the lock was not given up")
	c.unlock(s, id, first.Lock)
	c.ok(waiter.soon("the lock was given up"), "Lock")
	c.unlock(s, id, waiter.rec.Lock)

	// Both the call and its repeat wait, when the connection of the first broke.
	held := c.lock(s, id)
	o = store.LockOptions{Owner: store.NewOwner(), Wait: time.Minute}
	one := c.queue(s, id, o)
	two := c.queue(s, id, o)
	c.unlock(s, id, held.Lock)
	c.ok(one.soon("the lock was given up"), "Lock")
	c.ok(two.soon("the lock was given to its owner"), "Lock, repeated while it waited")
	if one.rec.Lock != two.rec.Lock {
		c.Fatalf("a Lock and its repeat got %+v and %+v; want the same lock", one.rec.Lock, two.rec.Lock)
	}
	c.unlock(s, id, two.rec.Lock)
	c.lock(s, id)
}

func lockReplyLost(c *trial) {
	inner, id := c.open(), c.id("s")
	s := (&Faults{Rule: Nth("Lock", 1, LoseReply)}).Wrap(inner)
	c.create(s, id, long, "v0")
	o := store.LockOptions{Owner: store.NewOwner()}
	c.is(s.Lock(c.ctx, id, o, new(store.Record)), store.ErrUnsure, "Lock whose reply is lost")
	if !c.lacks(ReadUnderLock) && !c.load(s, id).Locked {
		c.Fatal("the session is not locked after a Lock whose reply was lost")
	}
	held := c.lockAs(s, id, o)
	c.unlock(s, id, held.Lock)
	// Who never learns its cookie gives the lock up by its owner.
	c.ok(inner.Lock(c.ctx, id, o, new(store.Record)), "Lock")
	c.unlock(s, id, store.Lock{Owner: o.Owner})
	c.lock(s, id)
}

func lockRenewed(c *trial) {
	s, id := c.open(), c.id("s")
	c.create(s, id, short, "v0")
	o := store.LockOptions{Owner: store.NewOwner(), Stale: short}
	first := c.lockAs(s, id, o)
	other := store.LockOptions{Owner: store.NewOwner(), Stale: short}
	for range 4 {
		c.advance(short * 6 / 10)
		o.Renew = !o.Renew // with or without it
		again := c.lockAs(s, id, o)
		if again.Lock != first.Lock {
			c.Fatalf("Lock by its owner: %+v; want the same lock, %+v", again.Lock, first.Lock)
		}
		c.about(again.LockAge, 0, "the age of a lock just renewed")
		c.locked(s.Lock(c.ctx, id, other, new(store.Record)), first.Lock, "Lock by another, after a renewal")
	}
	c.save(s, id, first, "v1", false)
	c.body(c.load(s, id), "v1")
}

func lockTakenOver(c *trial) {
	s, id := c.open(), c.id("s")
	c.create(s, id, long, "v0")
	first := c.lock(s, id)
	stale := func() store.LockOptions { return store.LockOptions{Owner: store.NewOwner(), Stale: 2 * short} }
	c.advance(short)
	c.locked(s.Lock(c.ctx, id, stale(), new(store.Record)), first.Lock, "Lock by another, before the lock is stale")
	c.advance(pastShort)
	c.locked(s.Lock(c.ctx, id, store.LockOptions{Owner: store.NewOwner()}, new(store.Record)), first.Lock, "Lock by another with Stale 0")
	second := c.lockAs(s, id, stale())
	if second.Lock.Cookie == first.Lock.Cookie {
		c.Fatal("a lock that was taken over has the cookie of the one before it")
	}
	c.about(second.LockAge, 0, "the age of a lock just taken over")
	c.body(second, "v0")
	c.locked(s.Lock(c.ctx, id, stale(), new(store.Record)), second.Lock, "Lock by another, after a takeover")
	c.is(s.Unlock(c.ctx, id, first.Lock), store.ErrLockLost, "Unlock by who lost the lock")
	c.unlock(s, id, second.Lock)
}

func takeoverIsAtomic(c *trial) {
	s, id := c.open(), c.id("s")
	c.create(s, id, long, "v0")
	c.lock(s, id)
	for range 2 {
		c.advance(pastShort)
		var won atomic.Int32
		c.parallel(20, func(int) {
			rec := new(store.Record)
			switch err := s.Lock(c.ctx, id, store.LockOptions{Owner: store.NewOwner(), Stale: short}, rec); {
			case err == nil:
				won.Add(1)
			default:
				c.about(c.locked(err, lockOf(err), "Lock"), 0, "the age of a lock just taken over")
			}
		})
		if n := won.Load(); n != 1 {
			c.Fatalf("%d of 20 took one stale lock over; want one", n)
		}
	}
}

func oneLockWins(c *trial) {
	s := c.open()
	for i := range 5 {
		id := c.id(string(rune('a' + i)))
		c.create(s, id, long, "v0")
		var won atomic.Int32
		c.parallel(20, func(int) {
			rec := new(store.Record)
			switch err := s.Lock(c.ctx, id, store.LockOptions{Owner: store.NewOwner()}, rec); {
			case err == nil:
				won.Add(1)
			default:
				c.locked(err, lockOf(err), "Lock")
			}
		})
		if n := won.Load(); n != 1 {
			c.Fatalf("%d of 20 got one lock; want one", n)
		}
	}
}

func lockOfAbsent(c *trial) {
	s, id := c.open(), c.id("s")
	o := store.LockOptions{Owner: store.NewOwner()}
	lock := func() error { return s.Lock(c.ctx, id, o, new(store.Record)) }
	c.gone(lock(), store.Unknown, "Lock of a session that never was")
	o.Wait = time.Minute
	p := c.queue(s, id, o)
	c.gone(p.soon("a Lock of a session that never was"), store.Unknown, "Lock of a session that never was")
	c.absent(s, id, store.Unknown)

	c.create(s, id, long, "v0")
	c.remove(s, id, store.Abandoned)
	o.Wait = 0
	c.gone(lock(), store.Abandoned, "Lock of a session that was removed")
	c.create(s, id, long, "v0") // and the Locks that failed hold nothing
	c.lock(s, id)
}

func lockCancelledLeavesNothing(c *trial) {
	s, id := c.open(), c.id("s")
	c.create(s, id, long, "v0")
	free := func(when string) {
		c.Helper()
		// A store elsewhere may need a moment to learn that its caller is gone.
		p := c.queue(s, id, store.LockOptions{Wait: patience})
		c.ok(p.within(2*patience, when), "Lock after "+when)
		c.unlock(s, id, p.rec.Lock)
	}

	ended, cancel := context.WithCancel(c.ctx)
	cancel()
	rec := new(store.Record)
	if err := s.Lock(ended, id, store.LockOptions{Owner: store.NewOwner(), Wait: time.Minute}, rec); err == nil {
		c.unlock(s, id, rec.Lock)
	}
	free("a Lock whose context had ended")

	held := c.lock(s, id)
	ctx, cancel := context.WithCancel(c.ctx)
	waiter := c.queueCtx(ctx, s, id, store.LockOptions{Wait: time.Minute})
	behind := c.queue(s, id, store.LockOptions{Wait: time.Minute})
	waiter.waits("while another has the lock")
	cancel()
	c.cancelled(waiter.soon("its context ended"), ctx, "Lock")
	behind.waits("while another has the lock")
	c.unlock(s, id, held.Lock)
	c.ok(behind.soon("the lock was given up, past one whose context ended"), "Lock")
	c.unlock(s, id, behind.rec.Lock)
	free("a Lock whose context ended while it waited")

	held = c.lock(s, id)
	ctx, cancel = context.WithTimeout(c.ctx, time.Second)
	defer cancel()
	waiter = c.queueCtx(ctx, s, id, store.LockOptions{Wait: time.Minute})
	c.cancelled(waiter.soon("its deadline"), ctx, "Lock")
	c.unlock(s, id, held.Lock)
	free("a Lock whose deadline passed while it waited")
}

// contextEnded makes every call for a caller who has left: it is made, or it is not.
func contextEnded(c *trial) {
	s := c.open()
	ctx, cancel := context.WithCancel(c.ctx)
	cancel()
	for method, call := range map[string]func(id store.ID, held *store.Record) error{
		"Load":  func(id store.ID, _ *store.Record) error { return s.Load(ctx, id, new(store.Record)) },
		"Touch": func(id store.ID, _ *store.Record) error { return s.Touch(ctx, id) },
		"Save": func(id store.ID, held *store.Record) error {
			return s.Save(ctx, id, held, store.NewVersion(), false)
		},
		"Unlock": func(id store.ID, held *store.Record) error { return s.Unlock(ctx, id, held.Lock) },
		"Remove": func(id store.ID, held *store.Record) error {
			return s.Remove(ctx, id, held.Lock, store.Reason{Kind: store.Abandoned})
		},
		"Create": func(id store.ID, _ *store.Record) error {
			rec := &store.Record{Version: store.NewVersion(), Timeout: long}
			return s.Create(ctx, store.ID{App: id.App, Session: id.Session + "2"}, rec, false)
		},
	} {
		id := c.id(method)
		c.create(s, id, long, "v0")
		held := c.lock(s, id)
		if method == "Load" {
			c.unlock(s, id, held.Lock)
		}
		if err := call(id, held); err != nil {
			c.cancelled(err, ctx, method)
		}
		if method != "Remove" {
			c.ok(s.Touch(c.ctx, id), "Touch, after a "+method+" whose context had ended")
		}
	}
}

func unlock(c *trial) {
	s, id := c.open(), c.id("s")
	c.gone(s.Unlock(c.ctx, id, store.Lock{Cookie: 1, Owner: 1}), store.Unknown, "Unlock of a session that never was")
	c.create(s, id, long, "v0")
	c.ok(s.Unlock(c.ctx, id, store.Lock{Cookie: 1, Owner: 1}), "Unlock of a session that nobody locked")
	before := c.load(s, id)
	for range 3 {
		held := c.lock(s, id)
		c.unlock(s, id, held.Lock)
		c.ok(s.Unlock(c.ctx, id, held.Lock), "Unlock, repeated")
		got := c.load(s, id)
		if got.Locked || got.Lock.Owner != 0 || got.Lock.Cookie != held.Lock.Cookie {
			c.Fatalf("after Unlock: Locked %v, Lock %+v; want the last cookie, %d, alone", got.Locked, got.Lock, held.Lock.Cookie)
		}
		got.Lock, got.Acquired = before.Lock, before.Acquired
		if c.lacks(Versions) {
			got.Version = before.Version
		}
		c.same(got, before, "by Lock and Unlock")
	}
	held := c.lock(s, id)
	c.remove(s, id, store.Abandoned)
	c.gone(s.Unlock(c.ctx, id, held.Lock), store.Abandoned, "Unlock of a session that was removed")
}

func unlockOfAnother(c *trial) {
	s, id := c.open(), c.id("s")
	c.create(s, id, long, "v0")
	first := c.lock(s, id)
	c.unlock(s, id, first.Lock)
	held := c.lock(s, id)
	before := c.load(s, id)
	wrong := []store.Lock{first.Lock, {Cookie: held.Lock.Cookie ^ 1}, {}}
	if !c.lacks(Owner) {
		wrong = append(wrong, store.Lock{Owner: store.NewOwner()}, store.Lock{Cookie: held.Lock.Cookie, Owner: store.NewOwner()},
			store.Lock{Cookie: held.Lock.Cookie ^ 1, Owner: held.Lock.Owner})
	}
	for _, lock := range wrong {
		c.is(s.Unlock(c.ctx, id, lock), store.ErrLockLost, "Unlock of another's lock")
	}
	c.same(c.load(s, id), before, "by an Unlock that was refused")
	c.unlock(s, id, held.Lock)
	c.lock(s, id)
}
