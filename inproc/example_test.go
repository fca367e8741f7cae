package inproc_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-session/holdfast/inproc"
	"github.com/holdfast-session/holdfast/store"
)

// Applications pass the store to holdfast.New and never call it themselves. This is
// what happens then: one request takes the session's lock, changes the content and
// saves it, which gives the lock up.
func Example() {
	s := inproc.New(nil)
	defer s.Close()

	ctx := context.Background()
	id := store.ID{App: "/", Session: "xk3vbbsoamqhpobn3ujz4ljc"}
	first := store.Record{Version: store.NewVersion(), Timeout: 20 * time.Minute, Items: 1}
	fmt.Println("create:", s.Create(ctx, id, &first, false))

	var rec store.Record
	lock := store.LockOptions{Owner: store.NewOwner(), Wait: 30 * time.Second, Stale: 20 * time.Second}
	fmt.Println("lock:", s.Lock(ctx, id, lock, &rec))
	rec.Items = rec.Items.(int) + 1
	fmt.Println("save:", s.Save(ctx, id, &rec, store.NewVersion(), false))

	fmt.Println("load:", s.Load(ctx, id, &rec), rec.Items)
	// Output:
	// create: <nil>
	// lock: <nil>
	// save: <nil>
	// load: <nil> 2
}

// A session that has ended says how, also to a request that still works on it.
func ExampleStore_Remove() {
	s := inproc.New(nil)
	defer s.Close()

	ctx := context.Background()
	id := store.ID{App: "/", Session: "xk3vbbsoamqhpobn3ujz4ljc"}
	rec := store.Record{Version: store.NewVersion(), Timeout: 20 * time.Minute}
	rec.Lock.Owner = store.NewOwner()
	_ = s.Create(ctx, id, &rec, true)

	_ = s.Remove(ctx, id, store.Lock{}, store.Reason{Kind: store.Abandoned})
	err := s.Save(ctx, id, &rec, store.NewVersion(), false)
	fmt.Println(errors.Is(err, store.ErrNotFound), store.ReasonOf(err).Kind)
	// Output:
	// true abandoned
}

// Options fit the store to a special place: here, as one behind a state server that
// old clients count on.
func ExampleOptions() {
	s := inproc.New(&inproc.Options{CountCookies: true, Tombstones: 1 << 20})
	defer s.Close()

	ctx := context.Background()
	id := store.ID{App: "/", Session: "xk3vbbsoamqhpobn3ujz4ljc"}
	rec := store.Record{Version: store.NewVersion(), Timeout: 20 * time.Minute, Body: []byte("content")}
	_ = s.Create(ctx, id, &rec, false)
	_ = s.Lock(ctx, id, store.LockOptions{Owner: store.NewOwner()}, &rec)
	fmt.Println(rec.Lock.Cookie, string(rec.Body))
	// Output:
	// 2 content
}

// Whoever wants to know of ends says so before the first session, and asks from time
// to time. What is not acknowledged within the lease comes again.
func ExampleStore_Ended() {
	s := inproc.New(nil)
	defer s.Close()

	ctx := context.Background()
	_, _ = s.Ended(ctx, "/", 0, time.Minute) // from now on
	id := store.ID{App: "/", Session: "xk3vbbsoamqhpobn3ujz4ljc"}
	rec := store.Record{Version: store.NewVersion(), Timeout: 20 * time.Minute, Items: "a cart", Subject: "alice"}
	_ = s.Create(ctx, id, &rec, false)
	_ = s.Remove(ctx, id, store.Lock{}, store.Reason{Kind: store.Abandoned})

	ends, _ := s.Ended(ctx, "/", 100, time.Minute)
	for _, end := range ends {
		fmt.Println(end.Reason.Kind, end.Record.Subject, end.Record.Items)
		_ = s.Ack(ctx, "/", []string{end.Key})
	}
	// Output:
	// abandoned alice a cart
}

// All sessions of a user, wherever they are signed in.
func ExampleStore_List() {
	s := inproc.New(nil)
	defer s.Close()

	ctx := context.Background()
	for name, user := range map[string]string{"phone": "alice", "desktop": "alice", "tablet": "bob"} {
		rec := store.Record{Version: store.NewVersion(), Timeout: 20 * time.Minute, Subject: user}
		_ = s.Create(ctx, store.ID{App: "/", Session: name}, &rec, false)
	}
	page, _, _ := s.List(ctx, store.Query{App: "/", Subject: "alice"})
	for _, one := range page {
		fmt.Println(one.ID.Session, one.Record.Subject)
	}
	// Unordered output:
	// phone alice
	// desktop alice
}

// A full store refuses new sessions instead of ending others.
func ExamplePolicy() {
	s := inproc.New(&inproc.Options{MaxSessions: 1, Full: inproc.RefuseNew})
	defer s.Close()

	ctx := context.Background()
	for _, name := range []string{"first", "second"} {
		rec := store.Record{Version: store.NewVersion(), Timeout: 20 * time.Minute}
		fmt.Println(s.Create(ctx, store.ID{App: "/", Session: name}, &rec, false))
	}
	// Output:
	// <nil>
	// store: full
}
