package sqlstore

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-session/holdfast/store"
)

// Of two processes, each tells of the sessions that it removes, and one of them of each
// that expires.
func TestASPStateEnds(t *testing.T) {
	d := openSQLServer(t)
	ctx := t.Context()
	a, b := openASPState(t, d, nil), openASPState(t, d, &ASPStateOptions{Compress: true})
	content := func(id store.ID) string { // one of them is in the other column
		if id.Session == "abandoned" {
			return strings.Repeat("x", 2*aspShortItem)
		}
		return "content of " + id.Session
	}
	id := func(app, session string) store.ID { return store.ID{App: app, Session: session} }
	create := func(s *ASPState, id store.ID, flags store.Flags) {
		t.Helper()
		rec := &store.Record{Version: store.NewVersion(), Timeout: time.Minute, Body: []byte(content(id)), Flags: flags}
		if err := s.Create(ctx, id, rec, false); err != nil {
			t.Fatal(err)
		}
	}
	ended := func(s *ASPState, app string, limit int) (ends []store.End) {
		t.Helper()
		ends, err := s.Ended(ctx, app, limit, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		for i := range ends {
			e := &ends[i]
			if want := content(e.ID); string(e.Record.Body) != want || e.ID.App != app || e.Record.Timeout != time.Minute || e.Record.Locked {
				t.Errorf("%v ended as %+v; want %q", e.ID, e.Record, want)
			}
		}
		return ends
	}
	remove := func(s *ASPState, id store.ID, lock store.Lock, kind store.Kind) {
		t.Helper()
		if err := s.Remove(ctx, id, lock, store.Reason{Kind: kind}); err != nil {
			t.Fatal(err)
		}
	}

	create(a, id("shop", "before"), 0)
	remove(a, id("shop", "before"), store.Lock{}, store.Abandoned)
	if ends := ended(a, "shop", 0); len(ends) != 0 {
		t.Errorf("%d ends with the limit 0", len(ends))
	}

	create(a, id("shop", "abandoned"), 0)
	rec := new(store.Record)
	if err := a.Lock(ctx, id("shop", "abandoned"), store.LockOptions{Owner: 1}, rec); err != nil {
		t.Fatal(err)
	}
	if err := a.Remove(ctx, id("shop", "abandoned"), store.Lock{Cookie: rec.Lock.Cookie + 1, Owner: 2}, store.Reason{Kind: store.Abandoned}); err == nil {
		t.Error("a lock that nobody has removed the session")
	}
	remove(a, id("shop", "abandoned"), rec.Lock, store.Abandoned)
	create(a, id("shop", "moved"), 0)
	remove(a, id("shop", "moved"), store.Lock{}, store.Moved)
	create(a, id("shop", "untouched"), store.Uninitialized)
	remove(a, id("shop", "untouched"), store.Lock{}, store.Abandoned)
	create(a, id("bank", "other"), 0)
	remove(a, id("bank", "other"), store.Lock{}, store.Abandoned)
	ends := ended(a, "shop", 10)
	if len(ends) != 1 || ends[0].ID.Session != "abandoned" || ends[0].Reason.Kind != store.Abandoned {
		t.Fatalf("ended: %+v; want the one that was abandoned", ends)
	}
	if err := a.Ack(ctx, "shop", []string{ends[0].Key}); err != nil {
		t.Fatal(err)
	}

	ended(b, "bank", 0)
	var want []string
	for i := range 25 {
		create(a, id("shop", fmt.Sprint("expires ", i)), 0)
		want = append(want, fmt.Sprint("expires ", i))
	}
	create(a, id("shop", "expires untouched"), store.Uninitialized)
	create(b, id("bank", "expires"), 0)
	d.advance(2 * time.Minute)
	create(a, id("shop", "lives"), 0)
	var got []string
	for _, s := range []*ASPState{a, openASPState(t, d, nil), a, a} {
		for _, e := range ended(s, "shop", 10) {
			if got = append(got, e.ID.Session); e.Reason.Kind != store.Expired || e.Reason.Age < 59*time.Second || e.Reason.Age > 3*time.Minute {
				t.Errorf("%s ended as %+v; want a minute ago", e.ID.Session, e.Reason)
			}
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("ended: %q; want %q", got, want)
	}
	if ends := ended(b, "bank", 10); len(ends) != 1 || ends[0].ID.Session != "expires" {
		t.Errorf("ended: %+v; want the bank's", ends)
	}
	var left int
	d.scan(t, "SELECT COUNT(*) FROM dbo.ASPStateTempSessions", &left)
	if left != 1 {
		t.Errorf("%d sessions are left; want the one that lives", left)
	}
}

// What a process knows of ends: each is claimed by one at a time, until it is acknowledged,
// and the oldest are dropped when they are too many.
func TestASPEndsRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var x aspEnds
		if x.wants("shop") {
			t.Error("wanted before anybody asked")
		}
		x.want("shop")
		if !x.wants("shop") || x.wants("bank") {
			t.Error("wanted is another application's")
		}
		for i := range 3 {
			x.add(store.End{ID: store.ID{App: "shop", Session: fmt.Sprint(i)}, Reason: store.Reason{Age: time.Second}, Record: store.Record{Body: make([]byte, 10)}})
		}
		sessions := func(ends []store.End) (all string) {
			for _, e := range ends {
				all += e.ID.Session
			}
			return all
		}
		first := x.claim("shop", 2, time.Minute)
		if got := sessions(first); got != "01" {
			t.Errorf("claimed %s; want 01", got)
		}
		if got := sessions(x.claim("shop", 2, time.Minute)) + sessions(x.claim("bank", 2, time.Minute)); got != "2" {
			t.Errorf("claimed %s; want 2", got)
		}
		x.forget("bank", []string{first[0].Key})
		x.forget("shop", []string{first[1].Key, "unknown"})
		time.Sleep(time.Minute)
		again := x.claim("shop", 9, time.Minute)
		if got := sessions(again); got != "02" {
			t.Errorf("claimed after the lease %s; want 02", got)
		}
		if again[0].Key != first[0].Key || again[0].Reason.Age != time.Minute+time.Second {
			t.Errorf("claimed again as %s, %v ago; want %s, 61 s", again[0].Key, again[0].Reason.Age, first[0].Key)
		}
		if x.bytes != 20 {
			t.Errorf("%d bytes; want 20", x.bytes)
		}
		for i := range maxASPEnds {
			x.add(store.End{ID: store.ID{App: "shop", Session: fmt.Sprint(i)}})
		}
		if len(x.all) != maxASPEnds || x.bytes != 0 {
			t.Errorf("%d ends, %d bytes; want the last %d", len(x.all), x.bytes, maxASPEnds)
		}
		x.add(store.End{Record: store.Record{Body: make([]byte, maxASPEndBytes)}})
		if x.add(store.End{ID: store.ID{Session: "last"}, Record: store.Record{Body: make([]byte, 1)}}); len(x.all) != 1 || x.all[0].ID.Session != "last" {
			t.Errorf("%d ends; want the last", len(x.all))
		}
	})
}
