package storetest

import (
	"fmt"

	"github.com/holdfast-session/holdfast/store"
)

// Save: the five rules in their order, and the caller's repeats.
var saveCases = []testCase{
	{"SaveRetrySameToken", []Feature{Versions, History}, saveRetrySameToken},
	{"SaveRetryHeld", []Feature{Versions, Hold, Owner, ReadUnderLock}, saveRetryHeld},
	{"SaveRetryBeatsLock", []Feature{Versions}, saveRetryBeatsLock},
	{"SaveReplyLost", []Feature{Versions, ReadUnderLock}, saveReplyLost},
	{"SaveConflict", []Feature{Versions}, saveConflict},
	{"SaveUnderLockRefused", []Feature{Versions, ReadUnderLock}, saveUnderLockRefused},
	{"SaveOfAnotherLock", []Feature{Versions, ReadUnderLock, Owner}, saveOfAnotherLock},
	{"SaveReleases", []Feature{Versions}, saveReleases},
	{"SaveKeepsLock", []Feature{Versions, Hold, Owner, Acquired, ReadUnderLock}, saveKeepsLock},
	{"SaveTakesLockAgain", []Feature{Versions, Hold, Owner, Acquired, ReadUnderLock}, saveTakesLockAgain},
	{"HoldWithoutLockIgnored", []Feature{Versions}, holdWithoutLockIgnored},
	{"SaveByOwnerOrCookie", []Feature{Versions, Owner}, saveByOwnerOrCookie},
	{"HistoryOfFour", []Feature{Versions, History}, historyOfFour},
	{"StaleHolderRefusedAfterWrite", []Feature{Versions}, staleHolderRefusedAfterWrite},
	{"StaleHolderMaySaveIfUnchanged", []Feature{Versions}, staleHolderMaySaveIfUnchanged},
	{"RecreateFencesOldIncarnation", []Feature{Versions}, recreateFencesOldIncarnation},
}

func saveRetrySameToken(c *trial) {
	s, id := c.open(), c.id("s")
	rec, next := with(c.create(s, id, long, "v0"), "v1"), store.NewVersion()
	c.ok(s.Save(c.ctx, id, rec, next, false), "Save")
	// The answer is the same for as long as the history remembers.
	for range 4 {
		before := c.load(s, id)
		c.ok(s.Save(c.ctx, id, with(rec, "v1 again"), next, false), "Save, repeated")
		c.same(c.load(s, id), before, "by a Save that was repeated")
		c.save(s, id, merge(before), "later", false)
	}
	before := c.load(s, id)
	c.is(s.Save(c.ctx, id, rec, next, false), store.ErrConflict, "Save, repeated after four others")
	c.same(c.load(s, id), before, "by a Save that was refused")

	// And with a lock.
	held, next := with(c.lock(s, id), "w1"), store.NewVersion()
	c.ok(s.Save(c.ctx, id, held, next, false), "Save with a lock")
	c.ok(s.Save(c.ctx, id, held, next, false), "Save with a lock, repeated")
	c.save(s, id, merge(c.load(s, id)), "later", false)
	before = c.load(s, id)
	c.ok(s.Save(c.ctx, id, held, next, false), "Save with a lock, repeated after another's Save")
	c.same(c.load(s, id), before, "by a Save that was repeated")
}

func saveRetryHeld(c *trial) {
	s, id := c.open(), c.id("s")
	c.create(s, id, long, "v0")
	held, next := with(c.lock(s, id), "v1"), store.NewVersion()
	c.ok(s.Save(c.ctx, id, held, next, true), "Save, held")
	before := c.load(s, id)
	c.ok(s.Save(c.ctx, id, held, next, true), "Save, held, repeated")
	after := c.load(s, id)
	c.same(after, before, "by a Save that was repeated")
	if !after.Locked {
		c.Fatal("the lock is gone after a Save with hold that was repeated")
	}
	held.Version = next
	c.save(s, id, held, "v2", false)
	c.body(c.load(s, id), "v2")
}

func saveRetryBeatsLock(c *trial) {
	s, id := c.open(), c.id("s")
	c.create(s, id, long, "v0")
	first, next := with(c.lock(s, id), "v1"), store.NewVersion()
	c.ok(s.Save(c.ctx, id, first, next, false), "Save")
	other := c.lock(s, id)
	c.ok(s.Save(c.ctx, id, first, next, false), "Save, repeated while another has the lock")
	c.ok(s.Save(c.ctx, id, merge(first), next, false), "Save without lock, repeated while another has the lock")
	c.save(s, id, other, "v2", false)
	c.body(c.load(s, id), "v2")
}

func saveReplyLost(c *trial) {
	s, id := c.open(), c.id("s")
	c.create(s, id, long, "v0")
	for i, hold := range []bool{false, true} {
		if hold && (c.lacks(Hold) || c.lacks(Owner)) {
			continue
		}
		// What the suite can lose is the reply. A caller whose context ends is in
		// the same place.
		f := &Faults{Rule: Nth("Save", 1, LoseReply)}
		lossy := f.Wrap(s)
		held, next := with(c.lock(s, id), "v1"), store.NewVersion()
		c.is(lossy.Save(c.ctx, id, held, next, hold), store.ErrUnsure, "Save whose reply is lost")
		before := c.load(s, id)
		if before.Version != next {
			c.Fatalf("round %d: the version is %d; want %d", i, before.Version, next)
		}
		c.ok(lossy.Save(c.ctx, id, held, next, hold), "Save, repeated")
		c.same(c.load(s, id), before, "by a Save that was repeated")
		if hold {
			c.unlock(s, id, held.Lock)
		}
	}
}

func saveConflict(c *trial) {
	s, id := c.open(), c.id("s")
	first := c.create(s, id, long, "v0")
	c.save(s, id, first, "v1", false)
	before := c.load(s, id)
	c.is(c.trySave(s, id, first, "lost update", false), store.ErrConflict, "Save of an old version")
	c.same(c.load(s, id), before, "by a Save that was refused")

	unknown := merge(before)
	unknown.Version = store.NewVersion()
	c.is(c.trySave(s, id, unknown, "x", false), store.ErrConflict, "Save of a version that never was")
	unknown.Version = 0
	c.is(c.trySave(s, id, unknown, "x", false), store.ErrConflict, "Save of the zero version")
	c.same(c.load(s, id), before, "by a Save that was refused")
}

func saveUnderLockRefused(c *trial) {
	s, id := c.open(), c.id("s")
	c.create(s, id, long, "v0")
	loaded := merge(c.load(s, id))
	held := c.lock(s, id)
	before := c.load(s, id)
	if !before.Locked {
		c.Fatal("Load while the session is locked: Locked is false")
	}
	c.advance(short)
	for _, hold := range []bool{false, true} {
		age := c.locked(c.trySave(s, id, loaded, "lost update", hold), held.Lock, "Save without a lock, while another has it")
		c.about(age, short, "the age of the lock")
	}
	old := merge(loaded)
	old.Version = store.NewVersion()
	c.locked(c.trySave(s, id, old, "x", false), held.Lock, "Save of an old version without a lock, while another has it")
	c.same(c.load(s, id), before, "by a Save that was refused")
	c.save(s, id, held, "v1", false)
	c.is(c.trySave(s, id, loaded, "lost update", false), store.ErrConflict, "Save without a lock, after the holder's")
	c.body(c.load(s, id), "v1")
}

func saveOfAnotherLock(c *trial) {
	s, id := c.open(), c.id("s")
	c.create(s, id, long, "v0")
	held := c.lock(s, id)
	before := c.load(s, id)
	wrong := []store.Lock{
		{Cookie: held.Lock.Cookie, Owner: store.NewOwner()},
		{Cookie: held.Lock.Cookie ^ 1, Owner: held.Lock.Owner},
		{Owner: store.NewOwner()},
		{Cookie: held.Lock.Cookie ^ 1},
	}
	for _, lock := range wrong {
		for _, hold := range []bool{false, true} {
			rec := with(held, "v1")
			rec.Lock = lock
			c.is(c.trySave(s, id, rec, "v1", hold), store.ErrLockLost, "Save with a lock that is not the one held")
		}
	}
	c.same(c.load(s, id), before, "by a Save that was refused")
	c.save(s, id, held, "v1", false)

	// A lock that is gone, of a version that is gone too.
	c.is(c.trySave(s, id, held, "late", false), store.ErrLockLost, "Save with a lock that was released, after a change")
	c.is(c.trySave(s, id, held, "late", true), store.ErrLockLost, "Save, held, with a lock that was released, after a change")
	c.body(c.load(s, id), "v1")
}

func saveReleases(c *trial) {
	s, id := c.open(), c.id("s")
	c.create(s, id, long, "v0")
	held := c.lock(s, id)
	c.save(s, id, held, "v1", false)
	got := c.load(s, id)
	if got.Locked || got.Lock.Owner != 0 || got.LockAge != 0 {
		c.Fatalf("after a Save: Locked %v, Lock %+v, LockAge %v; want no lock", got.Locked, got.Lock, got.LockAge)
	}
	if got.Lock.Cookie != held.Lock.Cookie {
		c.Fatalf("after a Save: the cookie is %d; want the last one issued, %d", got.Lock.Cookie, held.Lock.Cookie)
	}
	c.lock(s, id)
}

func saveKeepsLock(c *trial) {
	s, id := c.open(), c.id("s")
	c.create(s, id, long, "v0")
	now := c.lock(s, id)
	for range 2 {
		c.advance(short)
		now = c.save(s, id, now, "held", true)
		got := c.load(s, id)
		if !got.Locked || got.Lock.Cookie != now.Lock.Cookie {
			c.Fatalf("after a Save with hold: Locked %v, Lock %+v; want %+v", got.Locked, got.Lock, now.Lock)
		}
		if got.Acquired != now.Version {
			c.Fatalf("after a Save with hold: Acquired is %d; want the version, %d", got.Acquired, now.Version)
		}
		c.about(got.LockAge, 0, "the age of the lock after a Save with hold")
		err := s.Lock(c.ctx, id, store.LockOptions{Owner: store.NewOwner()}, new(store.Record))
		c.locked(err, now.Lock, "Lock by another")
	}
	now = c.save(s, id, now, "done", false)
	got := c.load(s, id)
	if got.Locked || got.Version != now.Version {
		c.Fatalf("after the last Save: Locked %v, version %d; want no lock, and %d", got.Locked, got.Version, now.Version)
	}
}

// breakLock takes the lock from whoever has it, and gives it up again.
func (c *trial) breakLock(s store.Store, id store.ID) {
	c.Helper()
	c.advance(pastShort)
	broken := c.lockAs(s, id, store.LockOptions{Owner: store.NewOwner(), Stale: short})
	c.unlock(s, id, broken.Lock)
}

func saveTakesLockAgain(c *trial) {
	s, id := c.open(), c.id("s")
	c.create(s, id, long, "v0")
	now := c.lock(s, id)
	c.breakLock(s, id)
	now = c.save(s, id, now, "v1", true)
	got := c.load(s, id)
	if !got.Locked || got.Acquired != now.Version {
		c.Fatalf("after a Save with hold: Locked %v, Acquired %d; want the lock again, and %d", got.Locked, got.Acquired, now.Version)
	}
	err := s.Lock(c.ctx, id, store.LockOptions{Owner: store.NewOwner()}, new(store.Record))
	c.locked(err, got.Lock, "Lock by another")
	c.save(s, id, now, "v2", false)
	got = c.load(s, id)
	c.body(got, "v2")
	if got.Locked {
		c.Fatal("the session is locked after a Save without hold")
	}
}

func holdWithoutLockIgnored(c *trial) {
	s, id := c.open(), c.id("s")
	rec := c.create(s, id, long, "v0")
	c.save(s, id, rec, "v1", true)
	got := c.load(s, id)
	c.body(got, "v1")
	if got.Locked {
		c.Fatal("a Save with hold and without a lock locked the session")
	}
	c.lock(s, id)
}

func saveByOwnerOrCookie(c *trial) {
	s, id := c.open(), c.id("s")
	c.create(s, id, long, "v0")
	byOwner := func(l store.Lock) store.Lock { return store.Lock{Owner: l.Owner} }
	byCookie := func(l store.Lock) store.Lock { return store.Lock{Cookie: l.Cookie} }
	for i, part := range []func(store.Lock) store.Lock{byOwner, byCookie} {
		held := c.lock(s, id)
		whole := held.Lock
		held.Lock = part(whole)
		if !c.lacks(Hold) {
			held = c.save(s, id, held, "held", true)
			c.locked(s.Lock(c.ctx, id, store.LockOptions{Owner: store.NewOwner()}, new(store.Record)), whole, "Lock by another")
		}
		body := fmt.Sprint("v", i+1)
		c.save(s, id, held, body, false)
		got := c.load(s, id)
		c.body(got, body)
		if got.Locked {
			c.Fatal("the session is locked after a Save without hold")
		}
		c.unlock(s, id, part(c.lock(s, id).Lock))
		c.ok(s.Remove(c.ctx, id, part(c.lock(s, id).Lock), store.Reason{Kind: store.Abandoned}), "Remove")
		c.create(s, id, long, "v0")
	}
}

func historyOfFour(c *trial) {
	s, id := c.open(), c.id("s")
	now := c.create(s, id, long, "v0")
	for i := range 6 {
		switch i % 3 {
		case 0:
			now = c.save(s, id, merge(now), "merged", false)
		case 1:
			now = c.save(s, id, c.lock(s, id), "locked", false)
		case 2:
			c.unlock(s, id, c.lock(s, id).Lock)
			c.ok(s.Touch(c.ctx, id), "Touch")
		}
		got := c.load(s, id)
		if got.Version != now.Version || got.History != now.History {
			c.Fatalf("after %d steps: version %d, history %v; want %d, %v", i+1, got.Version, got.History, now.Version, now.History)
		}
	}
}

func staleHolderRefusedAfterWrite(c *trial) {
	s, id := c.open(), c.id("s")
	c.create(s, id, long, "v0")
	late := c.lock(s, id)
	c.advance(pastShort)
	other := c.lockAs(s, id, store.LockOptions{Owner: store.NewOwner(), Stale: short})
	c.is(c.trySave(s, id, late, "late", false), store.ErrLockLost, "Save by who lost the lock, while another has it")
	other = c.save(s, id, other, "v1", !c.lacks(Hold))
	c.is(c.trySave(s, id, late, "late", false), store.ErrLockLost, "Save by who lost the lock, after a change")
	if !c.lacks(Hold) {
		c.unlock(s, id, other.Lock)
	}
	for _, hold := range []bool{false, true} {
		c.is(c.trySave(s, id, late, "late", hold), store.ErrLockLost, "Save by who lost the lock, after a change")
	}
	c.body(c.load(s, id), "v1")
	c.ok(s.Unlock(c.ctx, id, late.Lock), "Unlock by who lost the lock, of a free session")
}

func staleHolderMaySaveIfUnchanged(c *trial) {
	s, id := c.open(), c.id("s")
	c.create(s, id, long, "v0")
	late := c.lock(s, id)
	c.breakLock(s, id)
	now := c.save(s, id, late, "v1", false)
	got := c.load(s, id)
	c.body(got, "v1")
	if got.Version != now.Version || got.Locked {
		c.Fatalf("the version is %d, Locked %v; want %d, free", got.Version, got.Locked, now.Version)
	}
	c.is(c.trySave(s, id, late, "late", false), store.ErrLockLost, "a second Save with the same lock and version")
}

func recreateFencesOldIncarnation(c *trial) {
	s, id := c.open(), c.id("s")
	c.create(s, id, long, "old")
	merger := merge(c.load(s, id))
	holder := c.lock(s, id)
	c.remove(s, id, store.Abandoned)
	c.create(s, id, long, "new")
	before := c.load(s, id)

	refused := func() {
		c.Helper()
		c.is(c.trySave(s, id, holder, "old", false), store.ErrLockLost, "Save with the lock of a session that ended")
		c.is(c.trySave(s, id, holder, "old", true), store.ErrLockLost, "Save, held, with the lock of a session that ended")
		c.is(s.Remove(c.ctx, id, holder.Lock, store.Reason{Kind: store.Abandoned}), store.ErrLockLost, "Remove with the lock of a session that ended")
	}
	refused()
	c.is(c.trySave(s, id, merger, "old", false), store.ErrConflict, "Save with the version of a session that ended")
	c.ok(s.Unlock(c.ctx, id, holder.Lock), "Unlock with the lock of a session that ended, of a free one")
	c.same(c.load(s, id), before, "by those who knew the one before it")

	held := c.lock(s, id)
	refused()
	c.is(s.Unlock(c.ctx, id, holder.Lock), store.ErrLockLost, "Unlock with the lock of a session that ended")
	c.locked(c.trySave(s, id, merger, "old", false), held.Lock, "Save with the version of a session that ended")
	c.save(s, id, held, "newer", false)
	c.body(c.load(s, id), "newer")
}
