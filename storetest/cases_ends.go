package storetest

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-session/holdfast/store"
)

// What an Ender remembers of sessions that ended.
var endCases = []testCase{
	{"EndsAtLeastOnce", []Feature{ReliableEnds}, endsAtLeastOnce},
	{"EndsAtLeastOnce/Crash", []Feature{ReliableEnds, Durability}, endsOverCrash},
	{"EndsOnceWithoutCrash", []Feature{ReliableEnds}, endsOnceWithoutCrash},
	{"EndsOnceWithoutCrash/TwoNodes", []Feature{ReliableEnds}, endsOnceAtTwoNodes},
	{"EndCarriesItems", []Feature{ReliableEnds, Versions, Metadata}, endCarriesItems},
	{"EndsOfEveryReason", []Feature{ReliableEnds, Metadata}, endsOfEveryReason},
	{"EndsOfUntouched", []Feature{ReliableEnds}, endsOfUntouched},
	{"EndsOfOneApp", []Feature{ReliableEnds}, endsOfOneApp},
	{"EndsLimited", []Feature{ReliableEnds}, endsLimited},
	{"EndsOfTwoLives", []Feature{ReliableEnds}, endsOfTwoLives},
	{"EndsBounded", []Feature{ReliableEnds}, endsBounded},
}

// ender opens a store that remembers ends.
func (c *trial) ender(s store.Store) store.Ender {
	e, ok := s.(store.Ender)
	if !ok {
		c.skip("the store is no store.Ender")
	}
	return e
}

// ended claims all ends that nobody has claimed.
func (c *trial) ended(e store.Ender, lease time.Duration) (ends []store.End) {
	c.Helper()
	for {
		some, err := e.Ended(c.ctx, c.app, 100, lease)
		c.ok(err, "Ended")
		if len(some) == 0 {
			return ends
		}
		if len(some) > 100 {
			c.Fatalf("Ended with the limit 100 returned %d", len(some))
		}
		ends = append(ends, some...)
		if len(ends) > 10000 {
			c.Fatal("Ended never stops")
		}
	}
}

func (c *trial) ack(e store.Ender, ends []store.End) {
	c.Helper()
	keys := make([]string, len(ends))
	for i := range ends {
		keys[i] = ends[i].Key
	}
	c.ok(e.Ack(c.ctx, c.app, keys), "Ack")
}

// one checks that there is one end, and returns it.
func (c *trial) one(ends []store.End, when string) store.End {
	c.Helper()
	if len(ends) != 1 {
		c.Fatalf("%d ends %s; want one", len(ends), when)
	}
	return ends[0]
}

func (c *trial) none(ends []store.End, when string) {
	c.Helper()
	if len(ends) != 0 {
		c.Fatalf("%d ends %s, the first %+v; want none", len(ends), when, ends[0])
	}
}

func endsAtLeastOnce(c *trial) {
	s, id := c.open(), c.id("s")
	e := c.ender(s)
	c.none(c.ended(e, short), "of an empty store")
	c.create(s, id, long, "v0")
	c.none(c.ended(e, short), "before the session ended")
	c.remove(s, id, store.Abandoned)

	first := c.one(c.ended(e, 2*short), "after Remove")
	if first.ID != id || first.Reason.Kind != store.Abandoned || first.Key == "" {
		c.Fatalf("the end is %+v; want that of %v, abandoned, with a key", first, id)
	}
	c.advance(short)
	c.none(c.ended(e, 2*short), "while the claim is younger than its lease")
	c.advance(pastShort)
	second := c.one(c.ended(e, 2*short), "after the lease of one who did not acknowledge")
	if second.Key != first.Key || second.ID != id || second.Reason.Kind != first.Reason.Kind {
		c.Fatalf("the end, delivered again, is %+v; want %+v", second, first)
	}
	c.ack(e, []store.End{{Key: "not known"}, second})
	c.advance(2*short + grace)
	c.none(c.ended(e, 2*short), "after Ack")
	c.ack(e, []store.End{second}) // whose reply was lost
	c.ok(e.Ack(c.ctx, c.app, nil), "Ack of nothing")

	c.gone(s.Remove(c.ctx, id, store.Lock{}, store.Reason{Kind: store.Abandoned}), store.Abandoned, "Remove, repeated")
	c.none(c.ended(e, 2*short), "after a Remove that was repeated")
}

func endsOverCrash(c *trial) {
	s := c.restartable()
	c.ender(s)
	for i := range 3 {
		c.create(s, c.id(fmt.Sprint(i)), long, "v0")
		c.remove(s, c.id(fmt.Sprint(i)), store.Abandoned)
	}
	some, err := c.ender(s).Ended(c.ctx, c.app, 2, short)
	c.ok(err, "Ended")
	if len(some) != 2 {
		c.Fatalf("Ended with the limit 2 returned %d of 3", len(some))
	}
	c.ack(c.ender(s), some[:1])
	s = c.restart(s, true)
	c.advance(pastShort)
	want := map[string]bool{"0": true, "1": true, "2": true}
	delete(want, some[0].ID.Session)
	left := c.ended(c.ender(s), short)
	for _, end := range left {
		if !want[end.ID.Session] {
			c.Errorf("after a crash, the end of %v; it was acknowledged", end.ID)
		}
		delete(want, end.ID.Session)
	}
	if len(want) > 0 {
		c.Errorf("after a crash, no end of %v", slices.Collect(maps.Keys(want)))
	}
	c.ack(c.ender(s), left)
	s = c.restart(s, true)
	c.advance(pastShort)
	c.none(c.ended(c.ender(s), short), "after Ack and a crash")
}

func endsOnceWithoutCrash(c *trial) {
	s := c.open()
	c.endsOnce([]store.Store{s})
}

func endsOnceAtTwoNodes(c *trial) {
	s := c.open()
	c.ender(s)
	c.endsOnce([]store.Store{s, c.second(s)})
}

// endsOnce has claimers side by side while sessions end.
func (c *trial) endsOnce(nodes []store.Store) {
	const sessions, claimers = 60, 4
	first, last := c.ender(nodes[0]), c.ender(nodes[len(nodes)-1])
	c.create(nodes[0], c.id("one"), long, "v0")
	c.remove(nodes[0], c.id("one"), store.Abandoned)
	ends, err := first.Ended(c.ctx, c.app, 10, long)
	c.ok(err, "Ended")
	c.one(ends, "after Remove")
	c.none(c.ended(last, long), "while the claim is younger than its lease")
	c.ack(last, ends)
	var mu sync.Mutex
	seen := make(map[store.ID]int)
	claim := func(e store.Ender) int {
		ends, err := e.Ended(c.ctx, c.app, 7, long)
		c.ok(err, "Ended")
		mu.Lock()
		for _, end := range ends {
			seen[end.ID]++
		}
		mu.Unlock()
		c.ack(e, ends)
		return len(ends)
	}
	expiring := c.id("expiring")
	c.create(nodes[0], expiring, short, "v0")
	for i := range sessions {
		c.create(nodes[0], c.id(fmt.Sprint(i)), long, "v0")
	}
	c.advance(pastShort)
	c.parallel(sessions+claimers, func(i int) {
		at := nodes[i%len(nodes)]
		if i < sessions {
			c.remove(at, c.id(fmt.Sprint(i)), store.Abandoned)
			c.gone(at.Touch(c.ctx, expiring), store.Expired, "Touch of a session that expired")
			return
		}
		for range 10 {
			claim(c.ender(at))
		}
	})
	for claim(c.ender(nodes[0])) > 0 {
	}
	c.advance(pastShort)
	for claim(c.ender(nodes[0])) > 0 {
	}
	for i := range sessions {
		if n := seen[c.id(fmt.Sprint(i))]; n != 1 {
			c.Errorf("the end of session %d came %d times; want once", i, n)
		}
	}
	if n := seen[expiring]; n != 1 {
		c.Errorf("the end of the session that expired came %d times; want once", n)
	}
	if len(seen) != sessions+1 {
		c.Errorf("%d sessions ended; want %d", len(seen), sessions+1)
	}
}

func endCarriesItems(c *trial) {
	s, id := c.open(), c.id("s")
	e := c.ender(s)
	rec := anyRecord()
	rec.Flags, rec.Timeout = 0, short
	c.ok(s.Create(c.ctx, id, rec, false), "Create")
	held := c.lock(s, id)
	now := c.save(s, id, held, "as last saved", false)
	c.lock(s, id) // and somebody was about to change it
	c.advance(pastShort)
	c.absent(s, id, store.Expired)
	removed := c.id("removed")
	c.ok(s.Create(c.ctx, removed, with(rec, "as created"), false), "Create")
	c.remove(s, removed, store.Abandoned)

	ends := c.ended(e, long)
	if len(ends) != 2 {
		c.Fatalf("%d ends; want two", len(ends))
	}
	for _, end := range ends {
		want := now
		if end.ID == removed {
			want = with(rec, "as created")
		}
		got := end.Record
		c.body(&got, string(want.Body))
		if got.Version != want.Version || got.Subject != rec.Subject || !got.Created.Equal(rec.Created) {
			c.Fatalf("the end of %v has the record %+v; want %+v", end.ID, got, want)
		}
	}
	c.ack(e, ends)

	if k, ok := s.(store.ItemKeeper); ok && k.KeepsItems() {
		items := &struct{ n int }{1}
		rec := &store.Record{Version: store.NewVersion(), Timeout: long, Items: items}
		c.ok(s.Create(c.ctx, id, rec, false), "Create")
		c.remove(s, id, store.Abandoned)
		if end := c.one(c.ended(e, long), "after Remove"); end.Record.Items != any(items) {
			c.Fatalf("the end has the items %v; want those of the session, %v", end.Record.Items, items)
		}
	}
}

func endsOfEveryReason(c *trial) {
	s := c.open()
	e := c.ender(s)
	want := make(map[store.ID]store.Kind)
	for _, kind := range []store.Kind{store.Abandoned, store.Expired, store.Regenerated, store.Evicted, store.Damaged, store.Moved} {
		id := c.id(kind.String())
		c.create(s, id, long, "v0")
		c.remove(s, id, kind)
		want[id] = kind
	}
	delete(want, c.id(store.Moved.String()))

	c.create(s, c.id("reported"), short, "v0")
	c.create(s, c.id("uninitialized expired"), short, "v0")
	for _, session := range []string{"uninitialized", "uninitialized expired"} {
		rec := &store.Record{Version: store.NewVersion(), Timeout: short, Flags: store.Uninitialized}
		id := c.id(session + "'")
		c.ok(s.Create(c.ctx, id, rec, false), "Create")
	}
	c.remove(s, c.id("uninitialized'"), store.Abandoned)
	c.advance(pastShort)
	c.absent(s, c.id("reported"), store.Expired)
	c.absent(s, c.id("uninitialized expired"), store.Expired)
	c.absent(s, c.id("uninitialized expired'"), store.Expired)
	want[c.id("reported")], want[c.id("uninitialized expired")] = store.Expired, store.Expired

	got := make(map[store.ID]store.Kind)
	for _, end := range c.ended(e, long) {
		got[end.ID] = end.Reason.Kind
	}
	if !maps.Equal(got, want) {
		c.Fatalf("the ends are %v; want %v", got, want)
	}
}

// endsOfUntouched has sessions expire that nobody ever asks for again.
func endsOfUntouched(c *trial) {
	s := c.open()
	e := c.ender(s)
	const n = 5
	for i := range n {
		c.create(s, c.id(fmt.Sprint(i)), short, "v0")
	}
	var got []store.End
	for wait := time.Duration(0); len(got) < n && wait < 10*time.Minute; wait += pastShort {
		if wait > 30*time.Second && !c.Bubble && c.Advance == nil {
			break
		}
		c.advance(pastShort)
		got = append(got, c.ended(e, long)...)
	}
	if len(got) != n {
		c.Fatalf("%d ends of %d sessions that expired", len(got), n)
	}
	for _, end := range got {
		if end.Reason.Kind != store.Expired {
			c.Errorf("the end is %+v; want the reason expired", end)
		}
		c.absent(s, end.ID, store.Expired)
	}
}

func endsOfOneApp(c *trial) {
	s := c.open()
	e := c.ender(s)
	mine, other := c.id("s"), store.ID{App: c.app + "2", Session: "s"}
	for _, id := range []store.ID{mine, other} {
		c.create(s, id, long, id.App)
		c.remove(s, id, store.Abandoned)
	}
	end := c.one(c.ended(e, short), "of one application")
	if end.ID != mine || string(end.Record.Body) != c.app {
		c.Fatalf("the end is of %v, with %s; want %v", end.ID, brief(end.Record.Body), mine)
	}
	// The other's keys are not known to it.
	c.ok(e.Ack(c.ctx, other.App, []string{end.Key}), "Ack")
	ends, err := e.Ended(c.ctx, other.App, 10, short)
	c.ok(err, "Ended")
	if end := c.one(ends, "of the other application"); end.ID != other {
		c.Fatalf("the end is of %v; want %v", end.ID, other)
	}
	c.advance(pastShort)
	c.one(c.ended(e, short), "after an Ack by another application")
}

func endsLimited(c *trial) {
	s := c.open()
	e := c.ender(s)
	const n = 10
	for i := range n {
		c.create(s, c.id(fmt.Sprint(i)), long, "v0")
		c.remove(s, c.id(fmt.Sprint(i)), store.Abandoned)
	}
	keys := make(map[string]bool)
	for _, limit := range []int{1, 3, 4, 5} {
		ends, err := e.Ended(c.ctx, c.app, limit, long)
		c.ok(err, "Ended")
		if want := min(limit, n-len(keys)); len(ends) != want {
			c.Fatalf("Ended with the limit %d returned %d; want %d", limit, len(ends), want)
		}
		for _, end := range ends {
			if keys[end.Key] {
				c.Fatalf("the key %q came twice", end.Key)
			}
			keys[end.Key] = true
		}
	}
}

// endsOfTwoLives has one ID end twice before anybody takes notice.
func endsOfTwoLives(c *trial) {
	s, id := c.open(), c.id("s")
	e := c.ender(s)
	for _, body := range []string{"first", "second"} {
		c.create(s, id, long, body)
		c.remove(s, id, store.Abandoned)
	}
	ends := c.ended(e, short)
	if len(ends) != 2 || ends[0].Key == ends[1].Key || string(ends[0].Record.Body) == string(ends[1].Record.Body) {
		c.Fatalf("the ends are %+v; want one of each life", ends)
	}
	c.ack(e, ends[:1])
	c.advance(pastShort)
	if left := c.one(c.ended(e, short), "after an Ack of the other life's"); left.Key != ends[1].Key {
		c.Fatalf("the end left is %+v; want %+v", left, ends[1])
	}
}

func endsBounded(c *trial) {
	const n = 2000
	s := c.openSmall()
	e := c.ender(s)
	for i := range n {
		id := c.id(fmt.Sprint(i))
		c.create(s, id, long, "v0")
		c.remove(s, id, store.Abandoned)
	}
	seen := make(map[string]bool)
	for _, end := range c.ended(e, long) {
		seen[end.ID.Session] = true
	}
	if len(seen) == 0 || len(seen) > 1000 {
		c.Fatalf("the small store remembers %d of %d ends; want some, and 1000 at most", len(seen), n)
	}
	for i := n - len(seen); i < n; i++ {
		if !seen[fmt.Sprint(i)] {
			c.Fatalf("the small store remembers %d ends, but not that of session %d of %d; want the newest", len(seen), i, n)
		}
	}
}
