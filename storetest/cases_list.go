package storetest

import (
	"fmt"
	"time"

	"github.com/holdfast-session/holdfast/store"
)

// What a Lister lists.
var listCases = []testCase{
	{"ListPages", []Feature{Versions, Metadata}, listPages},
	{"ListBySubject", []Feature{Versions, Metadata}, listBySubject},
	{"ListOfAllApps", nil, listOfAllApps},
	{"ListWithoutEnded", nil, listWithoutEnded},
	{"ListRestartsNothing", nil, listRestartsNothing},
	{"ListWhileSessionsComeAndGo", nil, listWhileSessionsComeAndGo},
}

func (c *trial) lister(s store.Store) store.Lister {
	l, ok := s.(store.Lister)
	if !ok {
		c.skip("the store is no store.Lister")
	}
	return l
}

// list returns every session that q selects, page by page.
func (c *trial) list(l store.Lister, q store.Query) map[store.ID]store.Record {
	c.Helper()
	all := make(map[store.ID]store.Record)
	for {
		page, next, err := l.List(c.ctx, q)
		c.ok(err, "List")
		if q.Limit > 0 && len(page) > q.Limit {
			c.Fatalf("List with the limit %d returned %d", q.Limit, len(page))
		}
		for _, one := range page {
			if _, twice := all[one.ID]; twice {
				c.Fatalf("List returned %v twice", one.ID)
			}
			all[one.ID] = one.Record
		}
		if next == "" {
			return all
		}
		if next == q.After {
			c.Fatalf("List after %q continues there", next)
		}
		q.After = next
	}
}

// onlyThese checks that the sessions listed are those.
func (c *trial) onlyThese(got map[store.ID]store.Record, want []store.ID, what string) {
	c.Helper()
	for _, id := range want {
		if _, ok := got[id]; !ok {
			c.Errorf("the list of %s lacks %v", what, id)
		}
	}
	if len(got) != len(want) {
		c.Errorf("the list of %s has %d sessions; want %d", what, len(got), len(want))
	}
}

func listPages(c *trial) {
	s := c.open()
	l := c.lister(s)
	c.onlyThese(c.list(l, store.Query{App: c.app}), nil, "an empty application")
	var ids []store.ID
	want := make(map[store.ID]*store.Record)
	for i := range 25 {
		id := c.id(fmt.Sprint("s", i, " (%/é)"))
		rec := anyRecord()
		c.ok(s.Create(c.ctx, id, rec, false), "Create")
		if i == 7 {
			rec = c.save(s, id, c.lock(s, id), "saved", false)
			rec.Created = anyRecord().Created
		}
		ids, want[id] = append(ids, id), rec
	}
	held := c.lock(s, ids[3])
	for _, limit := range []int{0, 1, 7, 25, 100} {
		got := c.list(l, store.Query{App: c.app, Limit: limit})
		c.onlyThese(got, ids, fmt.Sprint("the application, with the limit ", limit))
		for id, rec := range got {
			if len(rec.Body) != 0 || rec.Items != nil {
				c.Fatalf("List: %v comes with its content", id)
			}
			w := want[id]
			if rec.Version != w.Version || rec.Timeout != w.Timeout || rec.Subject != w.Subject || rec.Flags != w.Flags || !rec.Created.Equal(w.Created) {
				c.Fatalf("List: %v is %+v; want %+v", id, rec, w)
			}
			if rec.Locked != (id == ids[3]) {
				c.Fatalf("List: %v has Locked %v", id, rec.Locked)
			}
		}
	}
	c.unlock(s, ids[3], held.Lock)
}

func listBySubject(c *trial) {
	s := c.open()
	l := c.lister(s)
	of := make(map[string][]store.ID)
	subjects := []string{"", "anna", "anna b", "Anna", "zoë", "%", "_nna"}
	for i := range 21 {
		subject := subjects[i%len(subjects)]
		id := c.id(fmt.Sprint("s", i))
		rec := &store.Record{Version: store.NewVersion(), Timeout: long, Subject: subject}
		c.ok(s.Create(c.ctx, id, rec, false), "Create")
		of[subject] = append(of[subject], id)
	}
	for _, subject := range subjects[1:] {
		for _, limit := range []int{0, 2} {
			c.onlyThese(c.list(l, store.Query{App: c.app, Subject: subject, Limit: limit}), of[subject], "the subject "+subject)
		}
	}
	c.onlyThese(c.list(l, store.Query{App: c.app, Subject: "nobody"}), nil, "nobody")

	// Save changes whose it is.
	id := of["anna"][0]
	rec := merge(c.load(s, id))
	rec.Subject = "Anna"
	c.save(s, id, rec, "v1", false)
	c.onlyThese(c.list(l, store.Query{App: c.app, Subject: "anna"}), of["anna"][1:], "the subject anna, who lost one")
	c.onlyThese(c.list(l, store.Query{App: c.app, Subject: "Anna"}), append(of["Anna"], id), "the subject Anna, who got one")
}

func listOfAllApps(c *trial) {
	s := c.open()
	l := c.lister(s)
	mine, other := c.id("s"), store.ID{App: c.app + "2", Session: "s"}
	c.create(s, mine, long, "v0")
	c.create(s, other, long, "v0")
	c.onlyThese(c.list(l, store.Query{App: mine.App}), []store.ID{mine}, "one application")
	c.onlyThese(c.list(l, store.Query{App: other.App}), []store.ID{other}, "the other application")
	all := c.list(l, store.Query{})
	for _, id := range []store.ID{mine, other} {
		if _, ok := all[id]; !ok {
			c.Errorf("the list of all applications lacks %v", id)
		}
	}
}

func listWithoutEnded(c *trial) {
	s := c.open()
	l := c.lister(s)
	c.create(s, c.id("there"), long, "v0")
	c.create(s, c.id("removed"), long, "v0")
	c.create(s, c.id("expired"), short, "v0")
	c.remove(s, c.id("removed"), store.Abandoned)
	c.advance(pastShort)
	c.onlyThese(c.list(l, store.Query{App: c.app}), []store.ID{c.id("there")}, "what is left")
}

func listRestartsNothing(c *trial) {
	s, id := c.open(), c.id("s")
	l := c.lister(s)
	c.create(s, id, short, "v0")
	const before = 200 * time.Millisecond
	c.advance(short - before)
	c.list(l, store.Query{App: c.app})
	c.advance(grace + 2*before)
	c.absent(s, id, store.Expired)
}

func listWhileSessionsComeAndGo(c *trial) {
	s := c.open()
	l := c.lister(s)
	stay := make(map[store.ID]int)
	var others []store.ID
	for i := range 20 {
		id := c.id(fmt.Sprint("stay", i))
		c.create(s, id, long, "v0")
		stay[id] = 0
		others = append(others, c.id(fmt.Sprint("go", i)))
		c.create(s, others[i], long, "v0")
	}
	q := store.Query{App: c.app, Limit: 3}
	for i := 0; ; i++ {
		page, next, err := l.List(c.ctx, q)
		c.ok(err, "List")
		for _, one := range page {
			if _, ok := stay[one.ID]; ok {
				stay[one.ID]++
			}
		}
		if next == "" {
			break
		}
		if i < len(others) {
			c.remove(s, others[i], store.Abandoned)
			c.create(s, c.id(fmt.Sprint("then", i)), long, "v0")
			at := c.id(fmt.Sprint("stay", i))
			c.unlock(s, at, c.lock(s, at).Lock)
		}
		q.After = next
	}
	for id, n := range stay {
		if n != 1 {
			c.Errorf("%v, which was there all the time, is in the list %d times; want once", id, n)
		}
	}
}
