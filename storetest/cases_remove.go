package storetest

import (
	"fmt"
	"time"

	"github.com/holdfast-session/holdfast/store"
)

// What ends a session ends it for good, and is remembered.
var removeCases = []testCase{
	{"RemoveBeatsLock", []Feature{Versions}, removeBeatsLock},
	{"RemoveWithLock", []Feature{ReadUnderLock}, removeWithLock},
	{"RemoveRetry", nil, removeRetry},
	{"RemoveReplyLost", nil, removeReplyLost},
	{"TombstoneTellsReason", []Feature{Tombstones}, tombstoneTellsReason},
	{"TombstoneTellsAge", []Feature{Tombstones}, tombstoneTellsAge},
	{"TombstoneIsKept", []Feature{Tombstones}, tombstoneIsKept},
	{"SaveNeverCreates", []Feature{Versions}, saveNeverCreates},
	{"SaveNeverCreates/Evicted", []Feature{Versions}, saveNeverCreatesEvicted},
	{"FullStoreGoesOn", []Feature{Versions}, fullStoreGoesOn},
	{"RegenerateCrashPoints", []Feature{Versions, Metadata}, regenerateCrashPoints},
	{"RegenerateThenLogoutKillsBoth", []Feature{Versions}, regenerateThenLogoutKillsBoth},
	{"MoveCrashPoints", []Feature{Versions, History, Metadata, Owner}, moveCrashPoints},
}

func removeBeatsLock(c *trial) {
	s, id := c.open(), c.id("s")
	c.create(s, id, long, "v0")
	held := c.lock(s, id)
	waiter := c.queue(s, id, store.LockOptions{Wait: time.Minute})
	c.remove(s, id, store.Abandoned)
	c.gone(waiter.soon("Remove"), store.Abandoned, "Lock of a session that was removed meanwhile")
	for _, hold := range []bool{false, true} {
		c.gone(c.trySave(s, id, held, "late", hold), store.Abandoned, "Save by the holder, after Remove")
	}
	c.gone(s.Unlock(c.ctx, id, held.Lock), store.Abandoned, "Unlock by the holder, after Remove")
	c.absent(s, id, store.Abandoned)
}

func removeWithLock(c *trial) {
	s, id := c.open(), c.id("s")
	why := store.Reason{Kind: store.Abandoned}
	c.create(s, id, long, "v0")
	first := c.lock(s, id)
	c.unlock(s, id, first.Lock)
	c.is(s.Remove(c.ctx, id, first.Lock, why), store.ErrLockLost, "Remove with a lock, of a free session")
	held := c.lock(s, id)
	before := c.load(s, id)
	wrong := []store.Lock{first.Lock, {Cookie: held.Lock.Cookie ^ 1}}
	if !c.lacks(Owner) {
		wrong = append(wrong, store.Lock{Owner: store.NewOwner()}, store.Lock{Cookie: held.Lock.Cookie, Owner: store.NewOwner()})
	}
	for _, lock := range wrong {
		c.is(s.Remove(c.ctx, id, lock, why), store.ErrLockLost, "Remove with a lock that is not the one held")
	}
	c.same(c.load(s, id), before, "by a Remove that was refused")
	c.ok(s.Remove(c.ctx, id, held.Lock, why), "Remove by the holder")
	c.gone(s.Remove(c.ctx, id, held.Lock, why), store.Abandoned, "Remove by the holder, repeated")
}

func removeRetry(c *trial) {
	s, id := c.open(), c.id("s")
	remove := func(why store.Kind) error {
		return s.Remove(c.ctx, id, store.Lock{}, store.Reason{Kind: why})
	}
	c.gone(remove(store.Abandoned), store.Unknown, "Remove of a session that never was")
	c.create(s, id, long, "v0")
	c.ok(remove(store.Regenerated), "Remove")
	for range 3 {
		c.gone(remove(store.Abandoned), store.Regenerated, "Remove, repeated")
		c.absent(s, id, store.Regenerated)
	}
	c.create(s, id, short, "v0")
	c.advance(pastShort)
	c.gone(remove(store.Abandoned), store.Expired, "Remove of a session that expired")
	c.absent(s, id, store.Expired)
}

func removeReplyLost(c *trial) {
	inner, id := c.open(), c.id("s")
	s := (&Faults{Rule: Nth("Remove", 1, LoseReply)}).Wrap(inner)
	c.create(s, id, long, "v0")
	why := store.Reason{Kind: store.Abandoned}
	c.is(s.Remove(c.ctx, id, store.Lock{}, why), store.ErrUnsure, "Remove whose reply is lost")
	c.gone(s.Remove(c.ctx, id, store.Lock{}, why), store.Abandoned, "Remove, repeated")
}

func tombstoneTellsReason(c *trial) {
	s := c.open()
	for _, why := range []store.Reason{
		{Kind: store.Abandoned}, {Kind: store.Expired}, {Kind: store.Evicted}, {Kind: store.Damaged},
		{Kind: store.Regenerated}, {Kind: store.Regenerated, To: "abcdefghijklmnopqrst0123"},
		{Kind: store.Moved, To: "tcpip=10.0.0.1:42424 (é)"}, {Kind: store.Moved},
	} {
		id := c.id(why.Kind.String() + why.To)
		c.create(s, id, long, "v0")
		held := c.lock(s, id)
		why.Age = 99 * time.Hour // not to be read
		c.ok(s.Remove(c.ctx, id, store.Lock{}, why), "Remove")
		for call, err := range map[string]error{
			"Load":   s.Load(c.ctx, id, new(store.Record)),
			"Lock":   s.Lock(c.ctx, id, store.LockOptions{Owner: store.NewOwner()}, new(store.Record)),
			"Save":   c.trySave(s, id, held, "late", false),
			"Unlock": s.Unlock(c.ctx, id, held.Lock),
			"Remove": s.Remove(c.ctx, id, store.Lock{}, store.Reason{Kind: store.Evicted, To: "x"}),
			"Touch":  s.Touch(c.ctx, id),
		} {
			reason := c.gone(err, why.Kind, call)
			if reason.To != why.To {
				c.Fatalf("%s: the session went to %q; want %q, as Remove had it", call, reason.To, why.To)
			}
			c.about(reason.Age, 0, "the age of a tombstone just made")
		}
	}
}

func tombstoneTellsAge(c *trial) {
	s, removed, expired := c.open(), c.id("removed"), c.id("expired")
	c.create(s, removed, long, "v0")
	c.create(s, expired, short, "v0")
	c.remove(s, removed, store.Abandoned)
	for passed := pastShort; passed <= 2*pastShort; passed += pastShort {
		c.advance(pastShort)
		c.about(c.absent(s, removed, store.Abandoned).Age, passed, "the age of a tombstone")
	}
	c.gone(s.Remove(c.ctx, removed, store.Lock{}, store.Reason{Kind: store.Evicted}), store.Abandoned, "Remove, repeated")
	c.about(c.absent(s, removed, store.Abandoned).Age, 2*pastShort, "the age of a tombstone, after a Remove that was repeated")

	// A store may notice late that a session expired.
	most := 2*pastShort - short + grace
	if !c.Bubble {
		most += patience
	}
	if age := c.absent(s, expired, store.Expired).Age; age < 0 || age > most {
		c.Fatalf("the session expired %v ago; want %v at most", age, most)
	}
}

// tombstoneIsKept waits for the longer of the timeout and twice the lock timeout,
// nearly.
func tombstoneIsKept(c *trial) {
	s := c.open()
	c.create(s, c.id("timeout"), 2*short, "v0")
	c.remove(s, c.id("timeout"), store.Abandoned)

	c.create(s, c.id("lock"), time.Second, "v0")
	c.lockAs(s, c.id("lock"), store.LockOptions{Owner: store.NewOwner(), Stale: short})
	c.remove(s, c.id("lock"), store.Abandoned)

	c.advance(2*short - 500*time.Millisecond)
	c.absent(s, c.id("timeout"), store.Abandoned)
	c.absent(s, c.id("lock"), store.Abandoned)
	if c.Bubble {
		c.create(s, c.id("long"), long, "v0")
		c.remove(s, c.id("long"), store.Abandoned)
		c.advance(long - time.Second)
		c.absent(s, c.id("long"), store.Abandoned)
	}
}

// late makes every call that who held, or had read, a session could still be making
// when it ended, and checks that it stays ended.
func (c *trial) late(s store.Store, id store.ID, held *store.Record, why store.Kind) {
	c.Helper()
	for _, hold := range []bool{false, true} {
		c.gone(c.trySave(s, id, held, "late", hold), why, "Save with a lock, of a session that ended")
		c.gone(c.trySave(s, id, merge(held), "late", hold), why, "Save without a lock, of a session that ended")
	}
	c.gone(s.Unlock(c.ctx, id, held.Lock), why, "Unlock of a session that ended")
	c.gone(s.Touch(c.ctx, id), why, "Touch of a session that ended")
	o := store.LockOptions{Owner: held.Lock.Owner}
	if o.Owner == 0 {
		o.Owner = store.NewOwner()
	}
	c.gone(s.Lock(c.ctx, id, o, new(store.Record)), why, "Lock of a session that ended")
	c.absent(s, id, why)
}

func saveNeverCreates(c *trial) {
	s := c.open()
	id := c.id("never")
	never := &store.Record{Version: store.NewVersion(), Timeout: long, Lock: store.Lock{Cookie: 1, Owner: 1}}
	c.late(s, id, never, store.Unknown)
	never.Version = 0
	c.late(s, id, never, store.Unknown)

	for _, why := range []store.Kind{store.Abandoned, store.Regenerated, store.Moved, store.Evicted, store.Damaged} {
		id := c.id(why.String())
		c.create(s, id, long, "v0")
		held := c.lock(s, id)
		c.remove(s, id, why)
		c.late(s, id, held, why)
		// The version that it had, as the one to save.
		c.gone(s.Save(c.ctx, id, held, held.Version, false), why, "Save of a session that ended, with the version that it had")
		c.absent(s, id, why)
	}

	id = c.id("expired")
	c.create(s, id, short, "v0")
	held := c.lock(s, id)
	c.advance(pastShort)
	c.late(s, id, held, store.Expired)
}

func (c *trial) openSmall() store.Store {
	if c.OpenSmall == nil {
		c.skip("Harness.OpenSmall is nil")
	}
	return c.OpenSmall(c.TB)
}

// A filler is one of the sessions that fill a small store.
type filler struct {
	id  store.ID
	rec *store.Record
}

// fill creates sessions in a small store until it refuses one, or 2000.
func (c *trial) fill(s store.Store) (fillers []filler, full bool) {
	for i := range 2000 {
		f := filler{c.id(fmt.Sprint("filler", i)), &store.Record{Version: store.NewVersion(), Timeout: long, Body: make([]byte, 100)}}
		if err := s.Create(c.ctx, f.id, f.rec, false); err != nil {
			c.is(err, store.ErrFull, "Create in a small store")
			return fillers, true
		}
		fillers = append(fillers, f)
	}
	return fillers, false
}

func saveNeverCreatesEvicted(c *trial) {
	s := c.openSmall()
	fillers, full := c.fill(s)
	if full {
		c.skip("the small store refuses, and evicts nothing")
	}
	evicted := 0
	for _, f := range fillers {
		err := s.Touch(c.ctx, f.id)
		if err == nil {
			continue
		}
		evicted++
		c.is(err, store.ErrNotFound, "Touch")
		why := store.ReasonOf(err).Kind // the store may bound its tombstones too
		if why != store.Evicted && why != store.Unknown {
			c.Fatalf("Touch: %v; want the reason evicted", err)
		}
		c.late(s, f.id, f.rec, why)
	}
	if evicted < 1000 {
		c.Fatalf("%d of 2000 sessions are gone; want 1000, from a store with room for 1000", evicted)
	}
}

func fullStoreGoesOn(c *trial) {
	s, id := c.openSmall(), c.id("first")
	c.create(s, id, long, "v0")
	fillers, full := c.fill(s)
	if !full {
		c.skip("the small store evicts, and refuses nothing")
	}
	rec := &store.Record{Version: store.NewVersion(), Timeout: long, Body: make([]byte, 100)}
	c.is(s.Create(c.ctx, c.id("more"), rec, false), store.ErrFull, "Create in a full store")
	c.absent(s, c.id("more"), store.Unknown)
	for range 10 {
		now := c.save(s, id, c.lock(s, id), "v1", false)
		c.save(s, id, now, "v2", false)
		c.ok(s.Touch(c.ctx, id), "Touch in a full store")
	}
	for _, f := range fillers {
		c.remove(s, f.id, store.Abandoned)
	}
	c.body(c.load(s, id), "v2")
	c.create(s, c.id("room"), long, "v0")
}

// regenerateCrashPoints gives a session a new ID, as package holdfast does: create
// the new one, end the old. It stops after each step.
func regenerateCrashPoints(c *trial) {
	for steps := range 3 {
		s, old, fresh := c.open(), c.id("old"), c.id("new")
		rec := anyRecord()
		c.ok(s.Create(c.ctx, old, rec, false), "Create")
		held := c.lock(s, old)
		merger := merge(held)

		now := with(held, "new")
		now.Version, now.Lock, now.History = store.NewVersion(), store.Lock{}, [3]store.Version{}
		if steps > 0 {
			c.ok(s.Create(c.ctx, fresh, now, false), "Create of the new ID")
		}
		if steps > 1 {
			why := store.Reason{Kind: store.Regenerated, To: fresh.Session}
			c.ok(s.Remove(c.ctx, old, held.Lock, why), "Remove of the old ID")
		}
		if c.Restart != nil && !c.lacks(Durability) {
			s = c.Restart(c.TB, s, true)
		}

		if steps < 2 { // it stopped short: the visitor still has the old ID, which works
			c.save(s, old, held, "old", false)
			c.body(c.load(s, old), "old")
		} else {
			c.late(s, old, held, store.Regenerated)
			c.gone(c.trySave(s, old, merger, "late", false), store.Regenerated, "Save under the old ID")
		}
		if steps == 0 {
			c.absent(s, fresh, store.Unknown)
			continue
		}
		got := c.load(s, fresh)
		c.body(got, "new")
		if !got.Created.Equal(rec.Created) {
			c.Fatalf("under its new ID the session began at %v; want %v still", got.Created, rec.Created)
		}
		c.ok(s.Create(c.ctx, fresh, now, false), "Create of the new ID, repeated")
		c.is(c.trySave(s, fresh, merger, "late", false), store.ErrConflict, "Save of the old version under the new ID")
	}
}

func regenerateThenLogoutKillsBoth(c *trial) {
	for crashed := range 2 {
		s, old, fresh := c.open(), c.id("old"), c.id("new")
		c.create(s, old, long, "v0")
		late := c.lock(s, old)
		now := c.create(s, fresh, long, "v0")
		if crashed == 0 {
			c.ok(s.Remove(c.ctx, old, late.Lock, store.Reason{Kind: store.Regenerated, To: fresh.Session}), "Remove")
		}
		// The visitor logs out, with the old ID, before the new one reached them.
		err := s.Remove(c.ctx, old, store.Lock{}, store.Reason{Kind: store.Abandoned})
		why := store.Abandoned
		if crashed == 0 {
			why = store.Regenerated
			if to := c.gone(err, why, "Remove of the old ID").To; to != fresh.Session && !c.lacks(Tombstones) {
				c.Fatalf("Remove of the old ID: it went to %q; want %q", to, fresh.Session)
			}
		} else {
			c.ok(err, "Remove of the old ID")
		}
		c.remove(s, fresh, store.Abandoned)

		c.late(s, old, late, why)
		c.gone(c.trySave(s, fresh, now, "late", false), store.Abandoned, "Save under the new ID")
		c.late(s, fresh, late, store.Abandoned)
	}
}

// A mover takes sessions from one store to another, and can stop after any step.
type mover struct{ from, to store.Store }

// move makes the first so many of four steps. A mover that comes after one that
// stopped makes them all again.
func (m *mover) move(c *trial, id store.ID, steps int) {
	c.Helper()
	if steps == 0 {
		return
	}
	here := new(store.Record)
	err := m.from.Lock(c.ctx, id, store.LockOptions{Owner: store.NewOwner(), Stale: short}, here)
	if err != nil {
		c.gone(err, store.Moved, "Lock in the old place") // the mover before came that far
		m.settled(c, id)
		return
	}
	if steps > 1 {
		moving := *here
		moving.Lock, moving.Locked = store.Lock{}, false
		moving.Flags |= store.Moving
		c.ok(m.to.Create(c.ctx, id, &moving, false), "Create in the new place")
	}
	if steps > 2 {
		c.ok(m.from.Remove(c.ctx, id, here.Lock, store.Reason{Kind: store.Moved, To: "new"}), "Remove in the old place")
	}
	if steps > 3 {
		m.settled(c, id)
	}
}

// settled clears the flag, once the old place has nothing any more.
func (m *mover) settled(c *trial, id store.ID) {
	c.Helper()
	there := c.load(m.to, id)
	if there.Flags&store.Moving != 0 {
		there.Flags &^= store.Moving
		c.ok(m.to.Save(c.ctx, id, merge(there), store.NewVersion(), false), "Save in the new place")
	}
}

func moveCrashPoints(c *trial) {
	m := &mover{from: c.open(), to: c.open()}
	id := func(steps int) store.ID { return c.id(fmt.Sprint(steps)) }
	var before [5]*store.Record
	for steps := range before {
		rec := anyRecord()
		rec.Flags = 0
		c.ok(m.from.Create(c.ctx, id(steps), rec, false), "Create")
		before[steps] = merge(c.load(m.from, id(steps)))
		m.move(c, id(steps), steps)
	}
	if c.Restart != nil && !c.lacks(Durability) {
		m.from, m.to = c.Restart(c.TB, m.from, true), c.Restart(c.TB, m.to, true)
	}
	c.advance(pastShort)
	for steps, rec := range before {
		id := id(steps)
		m.move(c, id, 4)
		m.move(c, id, 4)
		if to := c.absent(m.from, id, store.Moved).To; to != "new" && !c.lacks(Tombstones) {
			c.Fatalf("after a crash at step %d: it went to %q; want the new place", steps, to)
		}
		c.gone(c.trySave(m.from, id, rec, "late", false), store.Moved, "Save in the old place")
		got := c.load(m.to, id)
		c.body(got, string(rec.Body))
		if got.Flags != 0 || !got.Seen(rec.Version) || !got.Seen(rec.History[0]) || !got.Created.Equal(rec.Created) || got.Subject != rec.Subject {
			c.Fatalf("after a crash at step %d: %+v; want what was moved, %+v", steps, got, rec)
		}
		// One whose Save in the old place got no reply repeats it in the new one.
		retry := with(rec, "late")
		retry.Version = rec.History[0]
		c.ok(m.to.Save(c.ctx, id, retry, rec.Version, false), "Save in the new place, repeated from the old")
		c.body(c.load(m.to, id), string(rec.Body))
	}
}
