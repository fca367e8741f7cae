package stateserver

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/holdfast-session/holdfast/inproc"
	"github.com/holdfast-session/holdfast/store"
	"github.com/holdfast-session/holdfast/storetest"
)

// named returns a client that is called name, of a server that is not there.
func named(t testing.TB, name string) *Client {
	return dial(t, "localhost:1", &ClientOptions{Name: name})
}

func mustServer(t testing.TB, p *Partitions, id store.ID) *Client {
	t.Helper()
	c, err := p.Server(id)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestPartitionsStayWhereTheyAre fixes where sessions are: a version that puts them
// elsewhere would lose them all.
func TestPartitionsStayWhereTheyAre(t *testing.T) {
	p := Partitioned(named(t, "c:42424"), named(t, "a:42424"), named(t, "b:42424"))
	for _, want := range []struct{ app, session, server string }{
		{"/", "", "b:42424"},
		{"/", "s", "c:42424"},
		{"/", "lit3py55t21z5v55vlm25s55", "c:42424"},
		{"/", "xk3vbbsoamqhpobn3ujz4ljc", "b:42424"},
		{"/", "é", "c:42424"},
		{"/shop", "", "b:42424"},
		{"/shop", "s", "a:42424"},
		{"/shop", "lit3py55t21z5v55vlm25s55", "a:42424"},
		{"/shop", "xk3vbbsoamqhpobn3ujz4ljc", "c:42424"},
		{"/shop", "é", "b:42424"},
	} {
		if got := mustServer(t, p, store.ID{App: want.app, Session: want.session}).options.Name; got != want.server {
			t.Errorf("%s of %s is on %s; want %s", want.session, want.app, got, want.server)
		}
	}
}

// TestPartitionsShare: each server has about as many sessions as any other, and one
// that is added takes only what it is to have.
func TestPartitionsShare(t *testing.T) {
	const n = 20_000
	a, b, c, d := named(t, "a"), named(t, "b"), named(t, "c"), named(t, "d")
	three, four := Partitioned(a, b, c), Partitioned(d, c, b, a)
	counts := make(map[*Client]int)
	for i := range n {
		id := store.ID{App: "/shop", Session: fmt.Sprint(i)}
		before, after := mustServer(t, three, id), mustServer(t, four, id)
		counts[after]++
		if after != before && after != d {
			t.Fatalf("session %d moved from %s to %s", i, before.options.Name, after.options.Name)
		}
	}
	for c, got := range counts {
		if want := n / 4; got < want*95/100 || got > want*105/100 {
			t.Errorf("%s has %d sessions of %d; want about %d", c.options.Name, got, n, want)
		}
	}
}

func TestPartitionResolver(t *testing.T) {
	b, a := named(t, "b"), named(t, "a")
	p := Partitioned(b, a)
	p.Resolve = func(id store.ID) int { return len(id.Session) - 1 }
	if !slices.Equal(p.Servers(), []*Client{a, b}) || mustServer(t, p, store.ID{Session: "1"}) != a || mustServer(t, p, store.ID{Session: "12"}) != b {
		t.Error("Resolve is not asked, or its index is another's")
	}
	for _, session := range []string{"", "123"} {
		if err := p.Touch(t.Context(), store.ID{Session: session}); !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("where Resolve names no server: %v; want ErrUnavailable", err)
		}
	}
	for what, servers := range map[string][]*Client{"no servers": nil, "two of one name": {a, named(t, "a")}} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("Partitioned with %s does not panic", what)
				}
			}()
			Partitioned(servers...)
		}()
	}
}

// partitions starts n servers, each with a store of its own, that a and b share.
func partitions(t testing.TB, n int) (a, b *Partitions, servers []*Server) {
	var as, bs []*Client
	for i := range n {
		kept := inproc.New(&inproc.Options{Ends: 10_000})
		s := &Server{Store: kept}
		o := &ClientOptions{Name: fmt.Sprint("server ", i), OpenAfter: 500 * time.Millisecond}
		addr := serve(t, s)
		t.Cleanup(func() { kept.Close() })
		as, bs, servers = append(as, dial(t, addr, o)), append(bs, dial(t, addr, o)), append(servers, s)
	}
	return Partitioned(as...), Partitioned(bs...), servers
}

// TestPartitionedContract runs the conformance suite over three servers.
func TestPartitionedContract(t *testing.T) {
	second := make(map[store.Store]*Partitions)
	storetest.Run(t, storetest.Harness{
		Bubble: true,
		Open: func(t testing.TB) store.Store {
			var as, bs []*Client
			for i := range 3 {
				kept, net := inproc.New(&inproc.Options{Ends: 10_000}), newPipes()
				t.Cleanup(func() { kept.Close() })
				serve(t, &Server{Store: kept}, net)
				o := &ClientOptions{Name: fmt.Sprint(i), DialContext: net.dial}
				as, bs = append(as, dial(t, "localhost:42424", o)), append(bs, dial(t, "localhost:42424", o))
			}
			p := Partitioned(as...)
			second[p] = Partitioned(bs...)
			return p
		},
		Second: func(t testing.TB, s store.Store) store.Store { return second[s] },
	})
}

// TestDeadPartition: one server that is gone takes its own sessions with it, and is
// the last to be missed in a list.
func TestDeadPartition(t *testing.T) {
	noLeaks(t)
	p, _, servers := partitions(t, 3)
	ctx := testContext(t)
	if _, err := p.Ended(ctx, "/shop", 0, time.Minute); err != nil {
		t.Fatal(err)
	}
	const n = 60
	ids := make([]store.ID, n)
	on := make(map[*Client]int)
	for i := range ids {
		ids[i] = store.ID{App: "/shop", Session: fmt.Sprint(i)}
		mustCreate(t, p, ids[i], ids[i].Session)
		on[mustServer(t, p, ids[i])]++
	}
	dead := p.Servers()[1]
	servers[1].Close()
	for _, id := range ids {
		err := p.Load(ctx, id, new(store.Record))
		if isDead := mustServer(t, p, id) == dead; isDead != (err != nil) || err != nil && !errors.Is(err, store.ErrUnavailable) && !errors.Is(err, store.ErrUnsure) {
			t.Errorf("Load of a session on a server that is gone, %v: %v", isDead, err)
		}
	}

	seen := make(map[store.ID]bool)
	var err error
	for q := (store.Query{App: "/shop", Limit: 7}); ; {
		var page []store.Listed
		if page, q.After, err = p.List(ctx, q); err != nil {
			break
		}
		for _, l := range page {
			if seen[l.ID] {
				t.Errorf("%v is listed twice", l.ID)
			}
			seen[l.ID] = true
		}
		if q.After == "" {
			t.Fatal("the list is complete although a server is gone")
		}
	}
	if want := n - on[dead]; !errors.Is(err, store.ErrUnavailable) || len(seen) != want {
		t.Errorf("%d sessions were listed before %v; want the %d of the others, and ErrUnavailable", len(seen), err, want)
	}

	ended := 0
	for _, id := range ids {
		if mustServer(t, p, id) != dead {
			if err := p.Remove(ctx, id, store.Lock{}, store.Reason{Kind: store.Abandoned}); err != nil {
				t.Fatal(err)
			}
			ended++
		}
	}
	for round := 0; ended > 0 && round < 100; round++ {
		ends, err := p.Ended(ctx, "/shop", 7, time.Minute)
		if err != nil || len(ends) > 7 {
			t.Fatalf("Ended: %d, %v", len(ends), err)
		}
		keys := make([]string, len(ends))
		for i := range ends {
			keys[i] = ends[i].Key
		}
		if err := p.Ack(ctx, "/shop", keys); err != nil {
			t.Errorf("Ack: %v", err)
		}
		ended -= len(ends)
	}
	if ended != 0 {
		t.Errorf("%d ends were not delivered", ended)
	}
	servers[0].Close()
	servers[2].Close()
	if _, err := p.Ended(ctx, "/shop", 7, time.Minute); err == nil {
		t.Error("Ended without a server: no error")
	}
}

func FuzzPlaces(f *testing.F) {
	p := Partitioned(named(f, "a"), named(f, "b"), named(f, "c"))
	f.Add("")
	f.Add(p.places([]place{{1, "x;:!%", false}, {2, "", true}}))
	f.Add("!0:;")
	f.Fuzz(func(t *testing.T, s string) {
		todo, err := p.parsePlaces(s)
		if err != nil {
			return
		}
		if again, err := p.parsePlaces(p.places(todo)); err != nil || !slices.Equal(again, todo) {
			t.Errorf("%q reads as %v, and that, written, as %v, %v", s, todo, again, err)
		}
	})
}
