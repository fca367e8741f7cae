package inproc

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-session/holdfast/store"
)

// names lists all that q selects, page by page, in order.
func names(t testing.TB, s *Store, q store.Query) (names []string) {
	t.Helper()
	for {
		page, next, err := s.List(ctx, q)
		if err != nil {
			t.Fatalf("List: %v", err)
		}
		if q.Limit > 0 && len(page) > q.Limit || next != "" && len(page) == 0 {
			t.Fatalf("a page of %d for the limit %d, with the next after %q", len(page), q.Limit, next)
		}
		for _, one := range page {
			names = append(names, one.ID.Session)
		}
		if next == "" {
			return names
		}
		q.After = next
	}
}

func createOf(t testing.TB, s *Store, id store.ID, subject string) store.Record {
	t.Helper()
	rec := store.Record{Version: store.NewVersion(), Timeout: time.Hour, Subject: subject, Items: 1}
	wantErr(t, "Create", s.Create(ctx, id, &rec, false), nil)
	return rec
}

func TestSubjects(t *testing.T) {
	s := open(t, nil)
	alice := store.Query{App: "/", Subject: "alice"}
	want := func(what string, names ...string) {
		t.Helper()
		for _, alice.Limit = range []int{0, 1, 2} {
			wantNames(t, what, s, alice, names...)
		}
	}
	want("nobody")
	for _, name := range []string{"a", "b", "c", "d"} {
		createOf(t, s, sid(name), "alice")
		createOf(t, s, sid("bob's "+name), "bob")
		createOf(t, s, sid("nobody's "+name), "")
	}
	other := store.ID{App: "/other", Session: "e"}
	createOf(t, s, other, "alice")
	want("in order of their coming", "a", "b", "c", "d")
	remove(t, s, sid("c"))
	rec := load(t, s, sid("a"))
	rec.Subject = "bob"
	rec.Version = save(t, s, sid("a"), rec, false)
	want("after one ended, and one became another's", "b", "d")
	save(t, s, sid("a"), rec, false)
	wantNames(t, "bob", s, store.Query{App: "/", Subject: "bob"}, "bob's a", "bob's b", "bob's c", "bob's d", "a")
	rec = load(t, s, sid("a"))
	rec.Subject = "alice"
	rec.Version = save(t, s, sid("a"), rec, false)
	want("after one came back", "b", "d", "a")
	rec.Subject = ""
	save(t, s, sid("a"), rec, false)
	want("after one became nobody's", "b", "d")
	wantNames(t, "in all applications", s, store.Query{Subject: "alice"}, "b", "d", "e")

	if n := len(s.subjects.byName); n != 2 {
		t.Errorf("%d subjects, want 2", n)
	}
	for _, id := range []store.ID{sid("b"), sid("d"), other} {
		remove(t, s, id)
	}
	want("after all ended")
	checkCounts(t, s)
}

func wantNames(t testing.TB, what string, s *Store, q store.Query, want ...string) {
	t.Helper()
	if got := names(t, s, q); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%s, %+v: %v, want %v", what, q, got, want)
	}
}

// TestSubjectOfAnEnd: the index forgets an ended session, its end keeps the name.
func TestSubjectOfAnEnd(t *testing.T) {
	s := open(t, &Options{Ends: 10})
	createOf(t, s, sid("a"), "alice")
	remove(t, s, sid("a"))
	checkIdle(t, s)
	if e := ended(t, s, "/", 1, time.Minute); len(e) != 1 || e[0].Record.Subject != "alice" {
		t.Errorf("the ends %+v", e)
	}
}

func TestListEverything(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, nil)
		const n = 5000
		for i := range n {
			createOf(t, s, store.ID{App: fmt.Sprint(i % 3), Session: fmt.Sprint(i)}, "")
		}
		create(t, s, store.ID{App: "1", Session: "expired"}, time.Second)
		advance(time.Second) // before a sweep
		for _, limit := range []int{0, 1, 64, n} {
			for _, q := range []store.Query{{Limit: limit}, {App: "1", Limit: limit}, {App: "none", Limit: limit}} {
				seen := map[string]bool{}
				for _, name := range names(t, s, q) {
					if seen[name] {
						t.Fatalf("%+v: %s twice", q, name)
					}
					seen[name] = true
				}
				if want := map[string]int{"": n, "1": (n + 1) / 3, "none": 0}[q.App]; len(seen) != want || seen["expired"] {
					t.Errorf("%+v: %d sessions, want %d", q, len(seen), want)
				}
			}
		}
	})
}

// TestListOfOneKey: sessions whose IDs have the same hash.
func TestListOfOneKey(t *testing.T) {
	s := open(t, nil)
	var all []string
	for i := range 8 {
		e := newEntry(sid(fmt.Sprint(i)), &store.Record{Version: 1, Timeout: time.Hour})
		key := uint64(5)<<shardShift + 42
		e.deadline = never
		s.of(key).sessions.put(key, e)
		all = append(all, fmt.Sprint(i))
	}
	for limit := range 10 {
		wantNames(t, "all", s, store.Query{Limit: limit}, all...)
		wantNames(t, "all of one application", s, store.Query{App: "/", Limit: limit}, all...)
	}
}

func TestListFromNowhere(t *testing.T) {
	s := open(t, nil)
	createOf(t, s, sid("a"), "alice")
	for _, q := range []store.Query{{After: "x"}, {After: "0000000000000000.0"}, {After: "1.zz."}, {Subject: "alice", After: "?"}} {
		if page, next, err := s.List(ctx, q); err == nil {
			t.Errorf("%+v: %v, %q", q, page, next)
		}
	}
}

// BenchmarkListSubject finds the two sessions of a subject among a million.
func BenchmarkListSubject(b *testing.B) {
	s := New(nil)
	defer s.Close()
	const n = 1 << 20
	for i, id := range benchIDs(n) {
		createOf(b, s, id, fmt.Sprint(i/2))
	}
	b.ReportAllocs()
	for b.Loop() {
		page, _, err := s.List(ctx, store.Query{App: "/", Subject: fmt.Sprint(rand.IntN(n / 2))})
		if len(page) != 2 || err != nil {
			b.Fatal(page, err)
		}
	}
}

// BenchmarkListAll goes through a million sessions.
func BenchmarkListAll(b *testing.B) {
	s := benchStore(b, benchIDs(1<<20), func() any { return nil })
	for b.Loop() {
		if n := len(names(b, s, store.Query{App: "/"})); n != 1<<20 {
			b.Fatal(n)
		}
	}
}
