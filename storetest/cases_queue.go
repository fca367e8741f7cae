package storetest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-session/holdfast/store"
)

// Lock, where it has to wait.
var queueCases = []testCase{
	{"WaitIsServed", nil, waitIsServed},
	{"WaitEnds", nil, waitEnds},
	{"WaitInOrder", []Feature{Order}, waitInOrder},
	{"WaitTakesOver", nil, waitTakesOver},
	{"WaitOfRemoved", nil, waitOfRemoved},
	{"WaitOfRecreated", nil, waitOfRecreated},
	{"WaitOfExpired", nil, waitOfExpired},
	{"NobodyStarves", nil, nobodyStarves},
	{"GrantUndeliverableIsReleased", nil, grantUndeliverableIsReleased},
	{"MergeWaitsForLock", []Feature{Versions}, mergeWaitsForLock},
}

func waitIsServed(c *trial) {
	s, id := c.open(), c.id("s")
	c.create(s, id, long, "v0")
	other := c.id("other")
	c.create(s, other, long, "v0")

	held := c.lock(s, id)
	waiter := c.queue(s, id, store.LockOptions{Wait: time.Minute})
	waiter.waits("while another has the lock")
	c.unlock(s, other, c.lock(s, other).Lock)
	c.ok(s.Touch(c.ctx, id), "Touch")
	waiter.waits("while another has the lock")
	c.unlock(s, id, held.Lock)
	c.ok(waiter.soon("Unlock"), "Lock")

	for i, hold := range []bool{true, false} {
		if hold && c.lacks(Hold) {
			continue
		}
		held = &waiter.rec
		waiter = c.queue(s, id, store.LockOptions{Wait: time.Minute})
		body := fmt.Sprint("v", i+1)
		held = c.save(s, id, held, body, hold)
		if hold {
			waiter.waits("after a Save with hold")
			c.unlock(s, id, held.Lock)
		}
		c.ok(waiter.soon("Save"), "Lock")
		c.body(&waiter.rec, body)
		if !c.lacks(Versions) && waiter.rec.Version != held.Version {
			c.Fatalf("the lock came with the version %d; want the holder's, %d", waiter.rec.Version, held.Version)
		}
	}
	c.locked(s.Lock(c.ctx, id, store.LockOptions{Owner: store.NewOwner()}, new(store.Record)), waiter.rec.Lock, "Lock by another")
	c.save(s, id, &waiter.rec, "last", false)
	c.body(c.load(s, id), "last")
}

func waitEnds(c *trial) {
	s, id := c.open(), c.id("s")
	c.create(s, id, long, "v0")
	held := c.lock(s, id)
	waiter := c.queue(s, id, store.LockOptions{Wait: short})
	waiter.waits("before its Wait is over")
	c.advance(pastShort)
	age := c.locked(waiter.soon("its Wait is over"), held.Lock, "Lock")
	c.about(age, pastShort, "the age of the lock")

	behind := c.queue(s, id, store.LockOptions{Wait: time.Minute})
	c.unlock(s, id, held.Lock)
	c.ok(behind.soon("the lock was given up"), "Lock, behind one whose Wait is over")
	if c.Bubble {
		start := time.Now()
		err := s.Lock(c.ctx, id, store.LockOptions{Owner: store.NewOwner(), Wait: time.Minute}, new(store.Record))
		c.locked(err, behind.rec.Lock, "Lock")
		if d := time.Since(start); d < time.Minute || d > time.Minute+patience {
			c.Fatalf("a Wait of a minute took %v", d)
		}
	}
}

func waitInOrder(c *trial) {
	s, id := c.open(), c.id("s")
	c.inOrder(id, func(int) store.Store { return s })
}

// inOrder checks that those who wait get the lock in order of arrival; the i-th of
// them asks the store that at returns.
func (c *trial) inOrder(id store.ID, at func(i int) store.Store) {
	const n = 6
	c.create(at(0), id, long, "v0")
	held := c.lock(at(0), id)
	ctx, cancel := context.WithCancel(c.ctx)
	defer cancel()
	var mu sync.Mutex
	var order []int
	var waiters []*pending
	for i := range n {
		wait, in := time.Minute, c.ctx
		if i == 2 {
			in = ctx // leaves the queue
		}
		waiters = append(waiters, c.async("Lock", func(p *pending) error {
			err := at(i).Lock(in, id, store.LockOptions{Owner: store.NewOwner(), Wait: wait}, &p.rec)
			if err == nil {
				mu.Lock()
				order = append(order, i)
				mu.Unlock()
				c.settle()
				err = at(i).Unlock(c.ctx, id, p.rec.Lock)
			}
			return err
		}))
	}
	cancel()
	c.cancelled(waiters[2].soon("its context ended"), ctx, "Lock")
	c.unlock(at(0), id, held.Lock)
	for i, w := range waiters {
		if i != 2 {
			c.ok(w.within(2*patience, "those before it had the lock"), "Lock and Unlock")
		}
	}
	if want := []int{0, 1, 3, 4, 5}; !slices.Equal(order, want) {
		c.Fatalf("the lock came in the order %v; want the order of arrival, %v", order, want)
	}
}

func waitTakesOver(c *trial) {
	s, id := c.open(), c.id("s")
	c.create(s, id, long, "v0")
	first := c.lock(s, id)
	waiter := c.queue(s, id, store.LockOptions{Wait: time.Minute, Stale: short})
	waiter.waits("before the lock is stale")
	c.advance(pastShort)
	c.ok(waiter.soon("the lock became stale"), "Lock")
	second := waiter.rec.Lock
	if second.Cookie == first.Lock.Cookie {
		c.Fatal("a lock that was taken over has the cookie of the one before it")
	}

	// A second waiter counts from the takeover.
	waiter = c.queue(s, id, store.LockOptions{Wait: time.Minute, Stale: 2 * short})
	c.advance(short / 2)
	waiter.waits("before the lock is stale")
	c.is(s.Unlock(c.ctx, id, first.Lock), store.ErrLockLost, "Unlock by who lost the lock")
	if !c.lacks(Owner) { // and from a renewal
		c.lockAs(s, id, store.LockOptions{Owner: second.Owner})
		c.advance(short)
		waiter.waits("before the renewed lock is stale")
	}
	c.advance(short + pastShort)
	c.ok(waiter.soon("the lock became stale"), "Lock")
}

func waitOfRemoved(c *trial) {
	s, id := c.open(), c.id("s")
	c.create(s, id, long, "v0")
	held := c.lock(s, id)
	waiters := []*pending{c.queue(s, id, store.LockOptions{Wait: time.Minute}), c.queue(s, id, store.LockOptions{Wait: time.Minute})}
	c.ok(s.Remove(c.ctx, id, held.Lock, store.Reason{Kind: store.Abandoned}), "Remove by the holder")
	for _, w := range waiters {
		c.gone(w.soon("Remove"), store.Abandoned, "Lock of a session that was removed meanwhile")
	}
}

func waitOfRecreated(c *trial) {
	s, id := c.open(), c.id("s")
	c.create(s, id, long, "v0")
	c.lock(s, id)
	waiter := c.queue(s, id, store.LockOptions{Wait: time.Minute})
	c.remove(s, id, store.Abandoned)
	c.gone(waiter.soon("Remove"), store.Abandoned, "Lock of a session that was removed meanwhile")
	c.create(s, id, long, "v1")
	c.body(c.lock(s, id), "v1")
}

func waitOfExpired(c *trial) {
	s, id := c.open(), c.id("s")
	c.create(s, id, short, "v0")
	c.lock(s, id)
	waiter := c.queue(s, id, store.LockOptions{Wait: 2 * pastShort})
	c.advance(2 * pastShort)
	c.gone(waiter.soon("its Wait is over"), store.Expired, "Lock of a session that expired meanwhile")
}

// nobodyStarves has some take the lock again and again, and others come once.
func nobodyStarves(c *trial) {
	s, id := c.open(), c.id("s")
	c.create(s, id, long, "v0")
	c.starve(id, s, s)
}

func (c *trial) starve(id store.ID, greedy, patient store.Store) {
	done := make(chan struct{})
	var wg sync.WaitGroup
	turn := func(s store.Store) {
		rec := new(store.Record)
		if err := s.Lock(c.ctx, id, store.LockOptions{Owner: store.NewOwner(), Wait: time.Minute}, rec); err != nil {
			c.Errorf("Lock: %v; want a turn", err)
			return
		}
		time.Sleep(5 * time.Millisecond)
		if err := s.Unlock(c.ctx, id, rec.Lock); err != nil {
			c.Errorf("Unlock: %v", err)
		}
	}
	for range 2 {
		wg.Go(func() {
			for !c.Failed() {
				select {
				case <-done:
					return
				default:
					turn(greedy)
				}
			}
		})
	}
	c.settle()
	var once sync.WaitGroup
	for range 5 {
		once.Go(func() { turn(patient) })
	}
	once.Wait()
	close(done)
	wg.Wait()
}

// grantUndeliverableIsReleased ends the context of the one who waits at the moment
// when the lock is given up.
func grantUndeliverableIsReleased(c *trial) {
	s, id := c.open(), c.id("s")
	c.create(s, id, long, "v0")
	rounds := 200
	if !c.Bubble {
		rounds = 20
	}
	for round := range rounds {
		held := c.lock(s, id)
		ctx, cancel := context.WithCancel(c.ctx)
		waiter := c.queueCtx(ctx, s, id, store.LockOptions{Wait: time.Minute})
		switch round % 3 {
		case 0:
			c.unlock(s, id, held.Lock)
			cancel()
		case 1:
			cancel()
			c.unlock(s, id, held.Lock)
		default:
			var wg sync.WaitGroup
			wg.Go(cancel)
			c.unlock(s, id, held.Lock)
			wg.Wait()
		}
		if waiter.soon("its context ended") == nil {
			c.unlock(s, id, waiter.rec.Lock)
		}
		next := c.queue(s, id, store.LockOptions{Wait: 2 * patience})
		c.ok(next.within(3*patience, "the one before it left"), "Lock, after one whose context ended as it was granted")
		c.unlock(s, id, next.rec.Lock)
	}
}

func mergeWaitsForLock(c *trial) {
	s, id := c.open(), c.id("s")
	c.create(s, id, long, "")
	merger := merge(c.load(s, id))
	held := c.lock(s, id)
	c.locked(c.trySave(s, id, merger, "m", false), held.Lock, "Save without a lock, while another has it")
	waiter := c.queue(s, id, store.LockOptions{Wait: time.Minute})
	waiter.waits("while another has the lock")
	c.save(s, id, held, "h", false)
	c.ok(waiter.soon("Save"), "Lock")
	c.save(s, id, &waiter.rec, string(waiter.rec.Body)+"m", false)
	c.body(c.load(s, id), "hm")
}
