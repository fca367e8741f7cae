package storetest

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/holdfast-session/holdfast/store"
)

// What is left after a restart, and what another node sees.
var restartCases = []testCase{
	{"RestartDropsOrKeepsLocks/Graceful", []Feature{Versions, Durability, LocksOverRestart}, gracefulRestartKeepsLocks},
	{"RestartDropsOrKeepsLocks/Crash", []Feature{Versions, Durability}, crashMayDropLocks},
	{"ReplyIsDurable", []Feature{Versions, Durability}, replyIsDurable},
	{"EndedStaysEndedOverRestart", []Feature{Durability}, endedStaysEnded},
	{"RestartIsTold", []Feature{Tombstones}, restartIsTold},
	{"TwoNodesReadYourWrites", []Feature{Versions, ReadUnderLock}, twoNodesReadYourWrites},
	{"TwoNodesQueue", nil, twoNodesQueue},
	{"TwoNodesInOrder", []Feature{OrderAcross}, twoNodesInOrder},
	{"TwoNodesNobodyStarves", nil, twoNodesNobodyStarves},
}

// restartable opens a store that can be restarted.
func (c *trial) restartable() store.Store {
	if c.Restart == nil {
		c.skip("Harness.Restart is nil")
	}
	return c.open()
}

func (c *trial) restart(s store.Store, crash bool) store.Store { return c.Restart(c.TB, s, crash) }

func (c *trial) second(s store.Store) store.Store {
	if c.Second == nil {
		c.skip("Harness.Second is nil")
	}
	return c.Second(c.TB, s)
}

func gracefulRestartKeepsLocks(c *trial) {
	s, free, locked := c.restartable(), c.id("free"), c.id("locked")
	c.create(s, free, long, "v0")
	c.unlock(s, free, c.lock(s, free).Lock)
	c.create(s, locked, long, "v0")
	held := c.lock(s, locked)
	if !c.lacks(Hold) {
		held = c.save(s, locked, held, "v1", true)
	}
	before := map[store.ID]*store.Record{free: c.load(s, free)}
	if !c.lacks(ReadUnderLock) {
		before[locked] = c.load(s, locked)
	}
	s = c.restart(s, false)
	for id, rec := range before {
		c.same(c.load(s, id), rec, "by a graceful restart")
	}
	c.locked(s.Lock(c.ctx, locked, store.LockOptions{Owner: store.NewOwner()}, new(store.Record)), held.Lock, "Lock by another, after a restart")
	if !c.lacks(Owner) {
		again := c.lockAs(s, locked, store.LockOptions{Owner: held.Lock.Owner})
		if again.Lock != held.Lock {
			c.Fatalf("Lock by its owner, after a restart: %+v; want %+v still", again.Lock, held.Lock)
		}
	}
	c.save(s, locked, held, "v2", false)
	c.body(c.load(s, locked), "v2")
}

func crashMayDropLocks(c *trial) {
	s, unseen, fenced := c.restartable(), c.id("unseen"), c.id("fenced")
	c.create(s, unseen, long, "v0")
	c.create(s, fenced, long, "v0")
	one, two := c.lock(s, unseen), c.lock(s, fenced)
	s = c.restart(s, true)

	// Nobody was there in between: the holder does not notice.
	c.save(s, unseen, one, "v1", false)
	c.body(c.load(s, unseen), "v1")

	// Somebody was there in between.
	c.advance(pastShort)
	other := c.lockAs(s, fenced, store.LockOptions{Owner: store.NewOwner(), Stale: short})
	c.body(other, "v0")
	c.is(c.trySave(s, fenced, two, "late", false), store.ErrLockLost, "Save by a holder of before the crash, while another has the lock")
	c.save(s, fenced, other, "v1", false)
	c.is(c.trySave(s, fenced, two, "late", false), store.ErrLockLost, "Save by a holder of before the crash, after a change")
	c.body(c.load(s, fenced), "v1")
}

func replyIsDurable(c *trial) {
	s := c.restartable()
	want := make(map[store.ID]*store.Record)
	for round := range 5 {
		id := c.id(fmt.Sprint("s", round))
		c.ok(s.Create(c.ctx, id, anyRecord(), false), "Create")
		want[id] = c.load(s, id)
		if round == 0 {
			s = c.restart(s, true)
		}
		for id := range want {
			c.save(s, id, c.lock(s, id), fmt.Sprint("saved in round ", round), false)
			c.save(s, id, merge(c.load(s, id)), fmt.Sprint("merged in round ", round), false)
			want[id] = c.load(s, id)
		}
		s = c.restart(s, round%2 == 0)
		for id, before := range want {
			got := c.load(s, id)
			got.Lock, got.Acquired = before.Lock, before.Acquired
			c.same(got, before, "by a restart")
		}
	}
	// What the last call of all did is there too, whatever it was.
	id := c.id("last")
	now := c.create(s, id, long, "v0")
	s = c.restart(s, true)
	c.body(c.load(s, id), "v0")
	next := store.NewVersion()
	c.ok(s.Save(c.ctx, id, with(now, "v1"), next, false), "Save")
	s = c.restart(s, true)
	c.body(c.load(s, id), "v1")
	c.ok(s.Save(c.ctx, id, with(now, "v1"), next, false), "Save, repeated after a crash")
	c.remove(s, id, store.Abandoned)
	s = c.restart(s, true)
	c.is(s.Load(c.ctx, id, new(store.Record)), store.ErrNotFound, "Load of a session that was removed before a crash")
}

// endedStaysEnded restarts several times, in between with so many calls that a
// store has reason to compact what it wrote.
func endedStaysEnded(c *trial) {
	s := c.restartable()
	body := string(make([]byte, 1000))
	var ended []store.ID
	for round := range 4 {
		for i := range 20 {
			id := c.id(fmt.Sprint(round, ".", i))
			c.create(s, id, long, body)
			for range i % 3 {
				c.save(s, id, c.lock(s, id), body, false)
			}
			if i%2 == 0 {
				c.lock(s, id)
			}
			if i%4 == 3 { // a session that lived before, and is made again
				c.remove(s, id, store.Regenerated)
				c.create(s, id, long, body)
			}
			c.remove(s, id, store.Abandoned)
			ended = append(ended, id)
		}
		if round == 0 {
			id := c.id("expired")
			c.create(s, id, short, body)
			c.advance(pastShort)
			c.absent(s, id, store.Expired)
			ended = append(ended, id)
		}
		s = c.restart(s, round%2 == 1)
		for _, id := range ended {
			c.is(s.Load(c.ctx, id, new(store.Record)), store.ErrNotFound, "Load of a session that had ended before a restart")
		}
	}
}

// restartIsTold is for stores that keep nothing.
func restartIsTold(c *trial) {
	if !c.lacks(Durability) {
		c.skip("the store keeps its sessions over a restart")
	}
	s, id := c.restartable(), c.id("s")
	c.create(s, id, long, "v0")
	held := c.lock(s, id)
	c.advance(short)
	s = c.restart(s, false)
	c.advance(short)
	c.about(c.absent(s, id, store.Restarted).Age, short, "the time since the restart")
	c.gone(c.trySave(s, id, held, "late", false), store.Restarted, "Save of a session of before the restart")
	c.create(s, id, long, "v0")
	c.remove(s, id, store.Abandoned)
	c.absent(s, id, store.Abandoned)
}

func twoNodesReadYourWrites(c *trial) {
	a := c.open()
	b := c.second(a)
	id := c.id("s")
	nodes := []store.Store{a, b}
	rec := anyRecord()
	c.ok(a.Create(c.ctx, id, rec, false), "Create")
	c.body(c.load(b, id), "content")
	for i := range 10 {
		here, there := nodes[i%2], nodes[1-i%2]
		body := fmt.Sprint("merged ", i)
		now := c.save(here, id, merge(c.load(here, id)), body, false)
		got := c.load(there, id)
		c.body(got, body)
		if got.Version != now.Version {
			c.Fatalf("the other node has the version %d; want %d", got.Version, now.Version)
		}
		merger := merge(got)
		body = fmt.Sprint("locked ", i)
		held := c.lock(here, id)
		if !c.load(there, id).Locked {
			c.Fatal("the other node does not see the lock")
		}
		c.locked(there.Lock(c.ctx, id, store.LockOptions{Owner: store.NewOwner()}, new(store.Record)), held.Lock, "Lock at the other node")
		c.locked(c.trySave(there, id, merger, "x", false), held.Lock, "Save without a lock at the other node")
		c.save(there, id, held, body, false) // the holder's next request came to the other node
		c.same(c.load(here, id), c.load(there, id), "between two nodes")
		c.is(c.trySave(here, id, merger, "x", false), store.ErrConflict, "Save of an old version at the other node")
		c.body(c.load(here, id), body)
	}
	held := c.lock(a, id)
	c.load(b, id)
	c.remove(b, id, store.Abandoned)
	c.absent(a, id, store.Abandoned)
	c.gone(a.Touch(c.ctx, id), store.Abandoned, "Touch of a session that was removed at the other node")
	c.gone(c.trySave(a, id, held, "late", false), store.Abandoned, "Save of a session that was removed at the other node")
	c.create(a, id, long, "again")
	c.body(c.load(b, id), "again")
}

func twoNodesQueue(c *trial) {
	a := c.open()
	b := c.second(a)
	id := c.id("s")
	c.create(a, id, long, "v0")
	held := c.lock(a, id)
	waiter := c.queue(b, id, store.LockOptions{Wait: time.Minute})
	waiter.waits("while another has the lock")
	c.save(a, id, held, "v1", false)
	c.ok(waiter.soon("Save at the other node"), "Lock")
	c.body(&waiter.rec, "v1")

	behind := c.queue(a, id, store.LockOptions{Wait: time.Minute})
	behind.waits("while another has the lock")
	c.unlock(b, id, waiter.rec.Lock)
	c.ok(behind.soon("Unlock at the other node"), "Lock")

	waiter = c.queue(b, id, store.LockOptions{Wait: time.Minute, Stale: short})
	c.advance(pastShort)
	c.ok(waiter.soon("the lock became stale"), "Lock")
	c.is(a.Unlock(c.ctx, id, behind.rec.Lock), store.ErrLockLost, "Unlock by who lost the lock at the other node")

	waiter = c.queue(b, id, store.LockOptions{Wait: time.Minute})
	c.remove(a, id, store.Abandoned)
	c.gone(waiter.soon("Remove at the other node"), store.Abandoned, "Lock")

	c.create(a, id, long, "v0")
	var won atomic.Int32
	c.parallel(20, func(i int) {
		at := a
		if i%2 == 1 {
			at = b
		}
		err := at.Lock(c.ctx, id, store.LockOptions{Owner: store.NewOwner()}, new(store.Record))
		if err == nil {
			won.Add(1)
		} else if locked := new(store.LockedError); !errors.As(err, &locked) {
			c.Errorf("Lock: %v; want a *LockedError", err)
		}
	})
	if n := won.Load(); n != 1 {
		c.Fatalf("%d of 20, at two nodes, got one lock; want one", n)
	}
}

func twoNodesInOrder(c *trial) {
	a := c.open()
	b := c.second(a)
	c.inOrder(c.id("s"), func(i int) store.Store {
		if i%2 == 1 {
			return b
		}
		return a
	})
}

func twoNodesNobodyStarves(c *trial) {
	a := c.open()
	b := c.second(a)
	c.create(a, c.id("s"), long, "v0")
	c.starve(c.id("s"), a, b)
}
