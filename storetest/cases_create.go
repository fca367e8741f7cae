package storetest

import (
	"sync/atomic"

	"github.com/holdfast-session/holdfast/store"
)

// Create: the only call that makes a session, and makes it once.
var createCases = []testCase{
	{"CreateRetrySameToken", []Feature{Versions}, createRetrySameToken},
	{"CreateRecognisedByHistory", []Feature{Versions, History}, createRecognisedByHistory},
	{"CreateMeetsAnother", []Feature{Versions, ReadUnderLock}, createMeetsAnother},
	{"CreateHeld", []Feature{Versions, Hold, Owner, ReadUnderLock}, createHeld},
	{"CreateHeldReplyLost", []Feature{Versions, Hold, Owner, ReadUnderLock}, createHeldReplyLost},
	{"CreateOverTombstone", []Feature{Versions}, createOverTombstone},
	{"OneCreateWins", []Feature{Versions}, oneCreateWins},
}

func createRetrySameToken(c *trial) {
	s, id := c.open(), c.id("s")
	rec := c.create(s, id, long, "first")
	before := c.load(s, id)
	again := with(rec, "another body, not to be written")
	c.ok(s.Create(c.ctx, id, again, false), "Create, repeated")
	c.same(c.load(s, id), before, "by a Create that was repeated")
}

func createRecognisedByHistory(c *trial) {
	s, id := c.open(), c.id("s")
	rec := c.create(s, id, long, "v1")
	now := rec
	for range 3 {
		now = c.save(s, id, now, "later", false)
		before := c.load(s, id)
		c.ok(s.Create(c.ctx, id, with(rec, "v1"), false), "Create, repeated after a Save")
		c.same(c.load(s, id), before, "by a Create that was repeated")
	}
	c.save(s, id, now, "latest", false)
	c.is(s.Create(c.ctx, id, with(rec, "v1"), false), store.ErrExists, "Create, repeated after four Saves")
	c.body(c.load(s, id), "latest")

	// A session that moves here brings its history along.
	id = c.id("moved")
	moved := anyRecord()
	c.ok(s.Create(c.ctx, id, moved, false), "Create")
	old := &store.Record{Version: moved.History[2], Timeout: long}
	c.ok(s.Create(c.ctx, id, old, false), "Create with a version of the history that Create was given")
	c.body(c.load(s, id), string(moved.Body))
}

func createMeetsAnother(c *trial) {
	s, id := c.open(), c.id("s")
	c.create(s, id, long, "first")
	refused := func(when string) {
		c.Helper()
		before := c.load(s, id)
		other := &store.Record{Version: store.NewVersion(), Timeout: long, Body: []byte("second")}
		c.is(s.Create(c.ctx, id, other, false), store.ErrExists, "Create of a session that is "+when)
		if !c.lacks(Hold) {
			other.Lock.Owner = store.NewOwner()
			c.is(s.Create(c.ctx, id, other, true), store.ErrExists, "Create, held, of a session that is "+when)
		}
		// The version that it has is no history of the one that is created.
		other.History[0] = before.Version
		c.is(s.Create(c.ctx, id, other, false), store.ErrExists, "Create with the other's version in its history")
		c.same(c.load(s, id), before, "by a Create that was refused")
	}
	refused("there")
	held := c.lock(s, id)
	refused("locked")
	c.save(s, id, held, "saved", false)
	refused("saved")
}

func createHeld(c *trial) {
	s, id := c.open(), c.id("s")
	rec := &store.Record{Version: store.NewVersion(), Timeout: long, Body: []byte("first"), Lock: store.Lock{Owner: store.NewOwner()}}
	owner := rec.Lock.Owner
	c.ok(s.Create(c.ctx, id, rec, true), "Create, held")
	if rec.Lock.Cookie <= 0 || rec.Lock.Owner != owner {
		c.Fatalf("Create, held: rec.Lock is %+v; want a cookie and the owner %d", rec.Lock, owner)
	}
	got := c.load(s, id)
	if !got.Locked || got.Lock.Cookie != rec.Lock.Cookie {
		c.Fatalf("after Create, held: Locked %v with %+v; want %+v", got.Locked, got.Lock, rec.Lock)
	}
	err := s.Lock(c.ctx, id, store.LockOptions{Owner: store.NewOwner()}, new(store.Record))
	c.locked(err, rec.Lock, "Lock of a session that was created held")

	c.save(s, id, rec, "second", false)
	got = c.load(s, id)
	c.body(got, "second")
	if got.Locked {
		c.Fatal("the session is still locked after a Save without hold")
	}
}

func createHeldReplyLost(c *trial) {
	inner, id := c.open(), c.id("s")
	s := (&Faults{Rule: Nth("Create", 1, LoseReply)}).Wrap(inner)
	rec := &store.Record{Version: store.NewVersion(), Timeout: long, Body: []byte("first"), Lock: store.Lock{Owner: store.NewOwner()}}
	c.is(s.Create(c.ctx, id, rec, true), store.ErrUnsure, "Create whose reply is lost")
	held := c.load(s, id)
	c.ok(s.Create(c.ctx, id, rec, true), "Create, held, repeated")
	if rec.Lock.Cookie != held.Lock.Cookie {
		c.Fatalf("Create, held, repeated: the cookie is %d; want %d, as the first reply had it", rec.Lock.Cookie, held.Lock.Cookie)
	}
	c.same(c.load(s, id), held, "by a Create that was repeated")
	c.save(s, id, rec, "second", false)
	c.body(c.load(s, id), "second")
}

func createOverTombstone(c *trial) {
	s, id := c.open(), c.id("s")
	for _, why := range []store.Kind{store.Abandoned, store.Regenerated, store.Moved} {
		c.create(s, id, long, "before")
		held := c.lock(s, id)
		c.remove(s, id, why)
		c.absent(s, id, why)
		rec := c.create(s, id, long, "after")
		got := c.load(s, id)
		if got.Version != rec.Version || got.History != rec.History || got.Locked {
			c.Fatalf("over a tombstone: version %d, history %v, Locked %v; want nothing of the session that ended", got.Version, got.History, got.Locked)
		}
		c.body(got, "after")
		c.is(c.trySave(s, id, held, "late", false), store.ErrLockLost, "Save by who held the session that ended")
		c.remove(s, id, store.Abandoned)
	}

	// Those that expired, whether somebody noticed or not.
	noticed, unnoticed := c.id("noticed"), c.id("unnoticed")
	for _, id := range []store.ID{noticed, unnoticed} {
		c.create(s, id, short, "before")
		c.lock(s, id)
	}
	c.advance(pastShort)
	c.absent(s, noticed, store.Expired)
	for _, id := range []store.ID{noticed, unnoticed} {
		c.create(s, id, long, "after")
		got := c.load(s, id)
		c.body(got, "after")
		if got.Locked {
			c.Fatal("the new session is locked, by who held the one that expired")
		}
	}
}

func oneCreateWins(c *trial) {
	s := c.open()
	for i := range 5 {
		id := c.id(string(rune('a' + i)))
		var won atomic.Pointer[store.Record]
		c.parallel(20, func(int) {
			rec := &store.Record{Version: store.NewVersion(), Timeout: long, Body: []byte("x")}
			switch err := s.Create(c.ctx, id, rec, false); {
			case err == nil && !won.CompareAndSwap(nil, rec):
				c.Error("two parallel Creates of one session succeeded")
			case err != nil:
				c.is(err, store.ErrExists, "Create")
			}
		})
		if got := c.load(s, id); got.Version != won.Load().Version {
			c.Fatalf("the session has the version %d; want that of the Create that succeeded", got.Version)
		}
	}
}
