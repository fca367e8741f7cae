package stateserver

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-session/holdfast/inproc"
	"github.com/holdfast-session/holdfast/store"
)

// foreign starts a server that knows nothing of Holdfast.
func foreign(t *testing.T) string {
	return serve(t, &Server{Store: inproc.New(&inproc.Options{CountCookies: true}), Exact: true})
}

// TestForeignServerDetected: on a foreign server nothing is written, not even by the
// first call, unless that was asked for.
func TestForeignServerDetected(t *testing.T) {
	addr := foreign(t)
	o := oldClient{connect(t, addr), targetOf(shopID)}
	ctx := testContext(t)
	for range 2 {
		c := dial(t, addr, nil) // new: it knows nothing of the server yet
		rec := &store.Record{Version: 1, Timeout: time.Minute, Body: []byte("mine")}
		for name, err := range map[string]error{
			"Create": c.Create(ctx, shopID, rec, false),
			"Save":   c.Save(ctx, shopID, rec, 2, false),
		} {
			if err == nil || !strings.Contains(err.Error(), "Compat") {
				t.Errorf("%s: %v; want an error that names Compat", name, err)
			}
		}
		o.is(notFound, o.get())
	}
	o.is(ok, o.put("0", "theirs"))
	c := dial(t, addr, nil)
	if err := c.Create(ctx, shopID, &store.Record{Version: 1, Timeout: time.Minute}, false); err == nil {
		t.Error("Create over a foreign server's session: no error")
	}
	if got := mustLoad(t, c, shopID); got.Version != 0 || string(got.Body) != "theirs" || got.Timeout != 20*time.Minute {
		t.Errorf("Load: %+v; want theirs, without a version", got)
	}
	cookie := value(o.is(ok, o.acquire()), "LockCookie")
	var le *store.LockedError
	if err := c.Load(ctx, shopID, new(store.Record)); !errors.As(err, &le) || le.Lock.Cookie == 0 {
		t.Errorf("Load under a lock: %v; want a *LockedError", err)
	}
	o.is(ok, o.release(cookie))

	// The server is replaced by one of ours: found out by the next answer.
	ours := dial(t, serve(t, &Server{Store: inproc.New(nil)}), nil)
	mustCreate(t, ours, shopID, "mine")
}

// TestCompat is a Client on Microsoft's server.
func TestCompat(t *testing.T) {
	addr := foreign(t)
	c := dial(t, addr, &ClientOptions{Compat: true})
	ctx := testContext(t)
	rec := &store.Record{Version: 1, Timeout: 90 * time.Second, Body: []byte("0"), Lock: store.Lock{Owner: 5}}
	check := func(what string, err, want error) {
		t.Helper()
		if !errors.Is(err, want) {
			t.Fatalf("%s: %v; want %v", what, err, want)
		}
	}
	check("Load", c.Load(ctx, shopID, rec), store.ErrNotFound)
	check("Lock", c.Lock(ctx, shopID, store.LockOptions{Owner: 5}, rec), store.ErrNotFound)
	check("Create", c.Create(ctx, shopID, rec, true), nil)
	check("Create again", c.Create(ctx, shopID, rec, false), store.ErrExists)
	check("Unlock", c.Unlock(ctx, shopID, rec.Lock), nil)
	check("Create again", c.Create(ctx, shopID, rec, false), store.ErrExists)
	got := mustLoad(t, c, shopID)
	if string(got.Body) != "0" || got.Timeout != 2*time.Minute || got.Locked || got.Flags != 0 {
		t.Errorf("after Create: %+v", got)
	}
	got.Lock = store.Lock{}
	if err := c.Save(ctx, shopID, got, 2, false); err == nil {
		t.Error("Save without a lock: no error")
	}

	// With hold the lock goes on, under the name that its holder knows.
	got = mustLock(t, c, shopID, store.LockOptions{})
	got.Body = []byte("1")
	check("Save, holding", c.Save(ctx, shopID, got, 3, true), nil)
	var le *store.LockedError
	if err := c.Lock(ctx, shopID, store.LockOptions{Owner: 6, Wait: time.Millisecond}, new(store.Record)); !errors.As(err, &le) {
		t.Errorf("Lock by another: %v; want a *LockedError", err)
	}
	got.Body = []byte("2")
	check("Save", c.Save(ctx, shopID, got, 4, false), nil)
	if now := mustLoad(t, c, shopID); string(now.Body) != "2" {
		t.Errorf("after Save: %+v", now)
	}

	// Counting under the lock, with those who wait for it.
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 2 {
				var rec store.Record
				if err := c.Lock(ctx, shopID, store.LockOptions{Owner: store.NewOwner(), Wait: limit}, &rec); err != nil {
					t.Errorf("Lock: %v", err)
					return
				}
				rec.Body[0]++
				if err := c.Save(ctx, shopID, &rec, store.NewVersion(), false); err != nil {
					t.Errorf("Save: %v", err)
				}
			}
		})
	}
	wg.Wait()
	if now := mustLoad(t, c, shopID); string(now.Body) != ":" { // "2" and eight more
		t.Errorf("counted to %q; want %q", now.Body, ":")
	}

	// A stale lock is taken over; its holder finds out.
	old := mustLock(t, c, shopID, store.LockOptions{})
	taken := mustLock(t, c, shopID, store.LockOptions{Stale: time.Second, Wait: limit})
	check("Save by who lost the lock", c.Save(ctx, shopID, old, 5, false), store.ErrLockLost)
	check("Unlock by who lost the lock", c.Unlock(ctx, shopID, old.Lock), store.ErrLockLost)
	check("Remove by who lost the lock", c.Remove(ctx, shopID, old.Lock, store.Reason{}), store.ErrLockLost)
	check("Touch", c.Touch(ctx, shopID), nil)
	check("Remove over the holder", c.Remove(ctx, shopID, store.Lock{}, store.Reason{}), nil)
	check("Remove", c.Remove(ctx, shopID, taken.Lock, store.Reason{}), store.ErrNotFound)

	// An uninitialized session is one that ASP.NET takes for new.
	rec = &store.Record{Version: 1, Timeout: time.Minute, Flags: store.Uninitialized}
	check("Create uninitialized", c.Create(ctx, shopID, rec, false), nil)
	check("Create uninitialized again", c.Create(ctx, shopID, rec, false), store.ErrExists)
	if got := mustLoad(t, c, shopID); got.Flags != store.Uninitialized {
		t.Errorf("Flags are %d; want Uninitialized", got.Flags)
	}
}

// TestForeignLockCancelled: a lock that a foreign server grants to one who has given
// up is given back by its cookie, which is all that such a server knows.
func TestForeignLockCancelled(t *testing.T) {
	noLeaks(t)
	kept := inproc.New(&inproc.Options{CountCookies: true})
	granted, release := make(chan struct{}), make(chan struct{})
	addr := serve(t, &Server{Store: &slowStore{Store: kept, before: func() { close(granted); <-release }}, Exact: true})
	o := oldClient{connect(t, addr), targetOf(shopID)}
	o.is(ok, o.put("0", ""))
	c := dial(t, addr, &ClientOptions{Compat: true})
	mustLoad(t, c, shopID) // meets the server
	ctx, cancel := context.WithCancel(t.Context())
	got := make(chan error)
	go func() { got <- c.Lock(ctx, shopID, store.LockOptions{Owner: 7}, new(store.Record)) }()
	<-granted
	cancel()
	if err := <-got; !errors.Is(err, context.Canceled) {
		t.Errorf("Lock: %v; want %v", err, context.Canceled)
	}
	close(release)
	mustLock(t, c, shopID, store.LockOptions{Owner: 7}) // waits until that is settled
}
