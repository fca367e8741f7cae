package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-session/holdfast/store"
)

// Many clients of one session, and calls that fail: nothing is lost, nothing is
// there twice.
var crowdCases = []testCase{
	{"ExclusiveLosesNothing", nil, func(c *trial) { c.crowd(exclusive{}, nil) }},
	{"ExclusiveLosesNothing/Faults", []Feature{Versions, History, Owner}, func(c *trial) { c.crowd(exclusive{}, anyFault()) }},
	{"ExclusiveReplyLost", []Feature{Versions, History, Owner}, func(c *trial) { c.fours(exclusive{}) }},
	{"MergeLosesNothing", []Feature{Versions}, func(c *trial) { c.crowd(merging{}, nil) }},
	{"MergeLosesNothing/Faults", []Feature{Versions, History, Owner}, func(c *trial) { c.crowd(merging{}, anyFault()) }},
	{"MergeReplyLost", []Feature{Versions, History, Owner}, func(c *trial) { c.fours(merging{remembered: true}) }},
	{"MergeAndExclusiveLoseNothing", []Feature{Versions}, func(c *trial) { c.crowd(either{}, nil) }},
	{"MergeContentionBounded", []Feature{Versions}, mergeContentionBounded},
	{"ParallelReadersRaceFree", []Feature{Versions, ReadUnderLock}, parallelReadersRaceFree},
	{"ParallelSessions", []Feature{Versions}, parallelSessions},
}

// A way of updating a session: it appends n to the list that is its content, and
// repeats each call until the answer is definite. It returns false if its answers
// were lost for so long that the session may no longer know of it.
type way interface {
	update(c *trial, s store.Store, id store.ID, n int) (sure bool)
}

// again makes a call until its outcome is known, and says whether it ever was not.
func again(call func() error) (err error, unsure bool) {
	for {
		err = call()
		switch {
		case errors.Is(err, store.ErrUnsure):
			unsure = true
		case !errors.Is(err, store.ErrUnavailable):
			return err, unsure
		}
	}
}

func appended(rec *store.Record, n int) *store.Record {
	return with(rec, string(rec.Body)+strconv.Itoa(n)+" ")
}

// exclusive takes the lock.
type exclusive struct{}

func (exclusive) update(c *trial, s store.Store, id store.ID, n int) bool {
	rec := new(store.Record)
	o := store.LockOptions{Owner: store.NewOwner(), Wait: time.Minute}
	err, _ := again(func() error { return s.Lock(c.ctx, id, o, rec) })
	c.ok(err, "Lock")
	next := store.NewVersion()
	err, unsure := again(func() error { return s.Save(c.ctx, id, appended(rec, n), next, false) })
	if unsure && errors.Is(err, store.ErrLockLost) {
		return false
	}
	c.ok(err, "Save with a lock")
	return true
}

// merging compares versions, and takes the lock if there is a conflict.
type merging struct {
	// remembered: the session has had so few writers that a conflict is one, also if
	// an earlier reply was lost.
	remembered bool
}

func (w merging) update(c *trial, s store.Store, id store.ID, n int) bool {
	rec := new(store.Record)
	err, _ := again(func() error { return s.Load(c.ctx, id, rec) })
	if locked := new(store.LockedError); errors.As(err, &locked) && c.lacks(ReadUnderLock) {
		return exclusive{}.update(c, s, id, n)
	}
	c.ok(err, "Load")
	next := store.NewVersion()
	err, unsure := again(func() error { return s.Save(c.ctx, id, appended(merge(rec), n), next, false) })
	locked := new(store.LockedError)
	switch {
	case err == nil:
		return true
	case !errors.Is(err, store.ErrConflict) && !errors.As(err, &locked):
		c.Fatalf("Save without a lock: %v; want success, ErrConflict or a *LockedError", err)
	case unsure && !w.remembered:
		return false
	}
	return exclusive{}.update(c, s, id, n)
}

type either struct{}

func (either) update(c *trial, s store.Store, id store.ID, n int) bool {
	if n%2 == 0 {
		return exclusive{}.update(c, s, id, n)
	}
	return merging{}.update(c, s, id, n)
}

// pause delays a call or its reply, so that calls overlap also where a store is fast.
func pause(context.Context, Call) { time.Sleep(rand.N(2 * time.Millisecond)) }

// anyFault is a rule that loses many replies and refuses many calls.
func anyFault() func(Call) Fault { return Random(rand.Uint64(), 0.1, 0.2) }

// crowd has fifty clients update one session at once, each of them twice.
func (c *trial) crowd(w way, rule func(Call) Fault) {
	const clients, each = 50, 2
	inner, id := c.open(), c.id("s")
	c.create(inner, id, long, "")
	s := (&Faults{Rule: rule, Before: pause, After: pause}).Wrap(inner)
	var unsure sync.Map
	c.parallel(clients, func(i int) {
		for n := each * i; n < each*(i+1); n++ {
			if !w.update(c, s, id, n) {
				unsure.Store(n, true)
			}
		}
	})
	c.numbers(inner, id, clients*each, &unsure)
	if got := c.load(inner, id); got.Locked {
		c.Fatal("the session is still locked when all are done")
	}
}

// numbers checks that the session's list has each number below n once; those of
// which nobody knows may be missing.
func (c *trial) numbers(s store.Store, id store.ID, n int, unsure *sync.Map) {
	c.Helper()
	got := strings.Fields(string(c.load(s, id).Body))
	for i := range n {
		count := 0
		for _, field := range got {
			if field == strconv.Itoa(i) {
				count++
			}
		}
		_, free := unsure.Load(i)
		if count > 1 || count == 0 && !free {
			c.Errorf("the update %d is there %d times", i, count)
		}
	}
	if c.Failed() {
		c.Fatalf("the updates are %v; want each of %d once", got, n)
	}
}

// fours has four clients at a time, of whom each updates once, so that the session
// remembers all of their versions: no answer is lost for good, however often one is.
func (c *trial) fours(w way) {
	const rounds = 15
	inner, id := c.open(), c.id("s")
	c.create(inner, id, long, "")
	s := (&Faults{Rule: Random(rand.Uint64(), 0, 0.4), Before: pause, After: pause}).Wrap(inner)
	for round := range rounds {
		c.parallel(4, func(i int) {
			if !w.update(c, s, id, 4*round+i) {
				c.Errorf("the update %d was not recognised when it was repeated", 4*round+i)
			}
		})
	}
	c.numbers(inner, id, 4*rounds, new(sync.Map))
}

func mergeContentionBounded(c *trial) {
	const n, calls = 50, 500
	inner, id := c.open(), c.id("s")
	c.create(inner, id, long, "")
	f := &Faults{Before: pause, After: pause}
	s := f.Wrap(inner)
	c.parallel(n, func(i int) { merging{}.update(c, s, id, i) })
	c.numbers(inner, id, n, new(sync.Map))
	if got := f.Count(); got > calls {
		c.Fatalf("%d merges at once took %d calls; want at most %d", n, got, calls)
	}
}

// stamped is a body that names its version all over.
func stamped(v store.Version) string { return strings.Repeat(fmt.Sprintf("%016x ", uint64(v)), 200) }

func parallelReadersRaceFree(c *trial) {
	const readers = 8
	s, id := c.open(), c.id("s")
	first := store.NewVersion()
	rec := &store.Record{Version: first, Timeout: long, Body: []byte(stamped(first))}
	c.ok(s.Create(c.ctx, id, rec, false), "Create")
	var done atomic.Bool
	c.parallel(readers+2, func(i int) {
		rec := new(store.Record)
		if i < readers {
			for reads := 0; reads < 20 || !done.Load() && !c.Failed(); reads++ {
				c.ok(s.Load(c.ctx, id, rec), "Load")
				if string(rec.Body) != stamped(rec.Version) {
					c.Fatalf("Load returned the version %016x with the content %s", uint64(rec.Version), brief(rec.Body))
				}
				for i := range rec.Body { // it is the reader's own
					rec.Body[i] = byte(i)
				}
			}
			return
		}
		defer done.Store(true)
		for range 30 {
			o := store.LockOptions{Owner: store.NewOwner(), Wait: time.Minute}
			c.ok(s.Lock(c.ctx, id, o, rec), "Lock")
			if string(rec.Body) != stamped(rec.Version) {
				c.Fatalf("Lock returned the version %016x with the content %s", uint64(rec.Version), brief(rec.Body))
			}
			next := store.NewVersion()
			rec.Body = append(rec.Body[:0], stamped(next)...)
			c.ok(s.Save(c.ctx, id, rec, next, false), "Save")
			clear(rec.Body)
		}
	})
}

// parallelSessions has clients with sessions of their own, from beginning to end.
func parallelSessions(c *trial) {
	s := (&Faults{Before: pause, After: pause}).Wrap(c.open())
	c.parallel(20, func(i int) {
		for j := range 5 {
			id := c.id(fmt.Sprintf("s%d.%d", i, j))
			body := bytes.Repeat([]byte(id.Session+" "), 50)
			now := c.create(s, id, long, string(body))
			now = c.save(s, id, now, string(slices.Concat(body, body)), false)
			held := c.lock(s, id)
			if held.Version != now.Version {
				c.Fatalf("Lock of %v: the version is %d; want %d", id, held.Version, now.Version)
			}
			c.body(held, string(body)+string(body))
			c.save(s, id, held, string(body), false)
			c.body(c.load(s, id), string(body))
			c.ok(s.Touch(c.ctx, id), "Touch")
			c.remove(s, id, store.Abandoned)
			c.absent(s, id, store.Abandoned)
		}
	})
}
