package storetest

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-session/holdfast/store"
)

// Sliding timeouts: what restarts them, and what an end is when they pass.
var timeCases = []testCase{
	{"TimeoutSlides", []Feature{Versions}, timeoutSlides},
	{"TimeoutSetBySave", []Feature{Versions}, timeoutSetBySave},
	{"TouchKeepsVersion", []Feature{Versions, ReadUnderLock}, touchKeepsVersion},
	{"TouchAfterEnd", nil, touchAfterEnd},
	{"TouchSameSecond", []Feature{Versions}, touchSameSecond},
	{"ExpiryVersusHolder", []Feature{ReadUnderLock}, expiryVersusHolder},
	{"ExpiryUnderLock", nil, expiryUnderLock},
	{"ExpiryClaimVersusTouch", nil, expiryClaimVersusTouch},
}

func timeoutSlides(c *trial) {
	const timeout = 2 * short // long enough for all these calls
	const step = timeout * 6 / 10
	s := c.open()
	known := make(map[store.ID]*store.Record)
	calls := map[string]func(id store.ID) error{
		"Load":  func(id store.ID) error { return s.Load(c.ctx, id, new(store.Record)) },
		"Touch": func(id store.ID) error { return s.Touch(c.ctx, id) },
		"Lock": func(id store.ID) error {
			return s.Lock(c.ctx, id, store.LockOptions{Owner: store.NewOwner()}, new(store.Record))
		},
		"Unlock":              func(id store.ID) error { return s.Unlock(c.ctx, id, known[id].Lock) },
		"Save with a lock":    func(id store.ID) error { return c.trySave(s, id, known[id], "v1", false) },
		"Save without a lock": func(id store.ID) error { return c.trySave(s, id, known[id], "v1", false) },
	}
	if !c.lacks(Hold) {
		calls["Save with hold"] = func(id store.ID) error { return c.trySave(s, id, known[id], "v1", true) }
	}
	for name := range calls {
		id := c.id(name)
		known[id] = c.create(s, id, timeout, "v0")
		switch name {
		case "Unlock", "Save with a lock", "Save with hold":
			known[id] = c.lock(s, id)
		}
	}
	nothing := c.id("nothing")
	c.create(s, nothing, timeout, "v0")
	c.advance(step)
	for name, call := range calls {
		c.ok(call(c.id(name)), name)
	}
	c.advance(step)
	for name := range calls {
		c.ok(s.Touch(c.ctx, c.id(name)), "Touch of a session whose timeout was restarted by "+name)
	}
	c.advance(timeout + grace)
	c.absent(s, nothing, store.Expired)
	for name := range calls {
		c.absent(s, c.id(name), store.Expired)
	}
}

func timeoutSetBySave(c *trial) {
	s, longer, shorter := c.open(), c.id("longer"), c.id("shorter")
	rec := *c.create(s, longer, short, "")
	rec.Timeout = long
	c.save(s, longer, &rec, "v1", false)
	rec = *c.create(s, shorter, long, "")
	rec.Timeout = short
	c.save(s, shorter, &rec, "v1", false)
	c.advance(pastShort)
	if got := c.load(s, longer).Timeout; got != long {
		c.Fatalf("the timeout is %v; want %v, as Save had it", got, long)
	}
	c.absent(s, shorter, store.Expired)
}

func touchKeepsVersion(c *trial) {
	s, id := c.open(), c.id("s")
	rec := anyRecord()
	c.ok(s.Create(c.ctx, id, rec, false), "Create")
	merger := merge(c.load(s, id))
	before := c.load(s, id)
	for range 3 {
		c.ok(s.Touch(c.ctx, id), "Touch")
	}
	c.same(c.load(s, id), before, "by Touch")

	held := c.lock(s, id)
	before = c.load(s, id)
	c.advance(short)
	c.ok(s.Touch(c.ctx, id), "Touch of a session that is locked")
	got := c.load(s, id)
	c.same(got, before, "by Touch")
	c.about(got.LockAge, short, "the age of a lock after Touch")
	c.unlock(s, id, held.Lock)
	c.save(s, id, merger, "v1", false)
}

func touchAfterEnd(c *trial) {
	s := c.open()
	c.gone(s.Touch(c.ctx, c.id("never")), store.Unknown, "Touch of a session that never was")
	c.create(s, c.id("removed"), long, "")
	c.remove(s, c.id("removed"), store.Abandoned)
	c.create(s, c.id("expired"), short, "")
	c.advance(pastShort)
	for range 2 {
		c.gone(s.Touch(c.ctx, c.id("removed")), store.Abandoned, "Touch of a session that was removed")
		c.gone(s.Touch(c.ctx, c.id("expired")), store.Expired, "Touch of a session that expired")
	}
	c.absent(s, c.id("never"), store.Unknown)
	c.absent(s, c.id("removed"), store.Abandoned)
	c.absent(s, c.id("expired"), store.Expired)
}

// touchSameSecond repeats calls so fast that they write nothing new, which is no
// reason not to find the session.
func touchSameSecond(c *trial) {
	s, id := c.open(), c.id("s")
	c.create(s, id, long, "same")
	for range 10 {
		c.ok(s.Touch(c.ctx, id), "Touch, repeated at once")
	}
	for range 5 {
		held := c.lock(s, id)
		c.save(s, id, held, "same", false)
		now := c.load(s, id)
		c.save(s, id, merge(now), "same", false)
		held = c.lock(s, id)
		if !c.lacks(Owner) {
			c.lockAs(s, id, store.LockOptions{Owner: held.Lock.Owner})
		}
		c.unlock(s, id, held.Lock)
	}
}

// expiryVersusHolder has a holder whose lock timeout is longer than the session's.
func expiryVersusHolder(c *trial) {
	s := c.open()
	held := make(map[store.ID]*store.Record)
	reads := map[string]func(id store.ID) error{
		"nobody": func(store.ID) error { return nil },
		"Load":   func(id store.ID) error { return s.Load(c.ctx, id, new(store.Record)) },
		"Touch":  func(id store.ID) error { return s.Touch(c.ctx, id) },
		"Lock": func(id store.ID) error {
			err := s.Lock(c.ctx, id, store.LockOptions{Owner: store.NewOwner(), Stale: 2 * time.Second}, new(store.Record))
			c.locked(err, held[id].Lock, "Lock by another")
			return nil
		},
	}
	for name, read := range reads {
		id := c.id(name)
		c.create(s, id, time.Second, "v0")
		held[id] = c.lockAs(s, id, store.LockOptions{Owner: store.NewOwner(), Stale: 2 * pastShort})
		c.ok(read(id), name)
	}
	c.advance(pastShort)
	for name := range reads {
		id := c.id(name)
		c.save(s, id, held[id], "v1", false)
		c.body(c.load(s, id), "v1")
	}

	// The longer of them counts.
	id := c.id("longer")
	c.create(s, id, 2*pastShort, "v0")
	first := c.lockAs(s, id, store.LockOptions{Owner: store.NewOwner(), Stale: time.Second})
	c.advance(pastShort)
	c.save(s, id, first, "v1", false)
}

// expiryUnderLock has a holder who does nothing: a lock is no reason to live on.
func expiryUnderLock(c *trial) {
	s := c.open()
	for name, stale := range map[string]time.Duration{"no lock timeout": 0, "a lock timeout": short} {
		id := c.id(name)
		c.create(s, id, short, "v0")
		c.lockAs(s, id, store.LockOptions{Owner: store.NewOwner(), Stale: stale})
	}
	c.advance(pastShort)
	c.absent(s, c.id("no lock timeout"), store.Expired)
	c.absent(s, c.id("a lock timeout"), store.Expired)
}

// expiryClaimVersusTouch has sessions touched as they expire: each is there
// afterwards, or has ended, and is not both.
func expiryClaimVersusTouch(c *trial) {
	const n = 50
	s := c.open()
	ids := make([]store.ID, n)
	for i := range ids {
		ids[i] = c.id(fmt.Sprint(i))
		c.create(s, ids[i], short, "v0")
	}
	ender, _ := s.(store.Ender)
	var mu sync.Mutex
	ended, touched, began := make(map[store.ID]bool), make(map[store.ID]bool), make(map[store.ID]time.Time)
	claim := func(limit int) {
		ends, err := ender.Ended(c.ctx, c.app, limit, time.Hour)
		c.ok(err, "Ended")
		mu.Lock()
		defer mu.Unlock()
		for _, e := range ends {
			ended[e.ID] = true
		}
	}
	c.advance(short) // neither certainly there nor certainly not
	if ender != nil {
		claim(n / 2)
	}
	c.parallel(n+2, func(i int) {
		switch {
		case i >= n:
			if ender != nil {
				claim(2 * n)
			}
		default:
			now := time.Now()
			err := s.Touch(c.ctx, ids[i])
			if err != nil {
				c.gone(err, store.Expired, "Touch")
			}
			mu.Lock()
			touched[ids[i]], began[ids[i]] = err == nil, now
			mu.Unlock()
		}
	})
	// On a machine that is busy, one that was touched may have expired since.
	old := func(id store.ID) bool { return time.Since(began[id]) >= short }
	there := slices.Collect(func(yield func(store.ID) bool) {
		for _, id := range ids {
			now := time.Now()
			if err := s.Touch(c.ctx, id); err == nil {
				began[id] = now
				yield(id)
			} else if !errors.Is(err, store.ErrNotFound) {
				c.Fatalf("Touch: %v", err)
			} else if old(id) {
				touched[id] = false
			}
		}
	})
	if ender != nil {
		claim(2 * n)
	}
	for _, id := range ids {
		switch here := slices.Contains(there, id); {
		case here != touched[id]:
			c.Errorf("%v: Touch succeeded is %v; but it is there is %v", id, touched[id], here)
		case here && old(id):
		case ender != nil && !c.lacks(ReliableEnds) && ended[id] == here:
			c.Errorf("%v: it is there is %v, and it has ended is %v", id, here, ended[id])
		}
	}
}
