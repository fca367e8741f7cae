package stateserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-session/holdfast/inproc"
	"github.com/holdfast-session/holdfast/store"
)

var shopID = store.ID{App: "/shop", Session: "s"}

// A flakyNet makes connections whose replies can be cut off.
type flakyNet struct {
	lose  atomic.Int32 // how many replies to cut off, and their connections with them
	dials atomic.Int32
}

func (f *flakyNet) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	f.dials.Add(1)
	nc, err := new(net.Dialer).DialContext(ctx, network, addr)
	return &flakyConn{nc, f}, err
}

type flakyConn struct {
	net.Conn
	f *flakyNet
}

func (c *flakyConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 && c.f.lose.Add(-1) >= 0 {
		c.Close()
		return 0, io.ErrUnexpectedEOF
	}
	return n, err
}

// TestRepliesLost: every call is repeated until its answer comes, and is done once.
func TestRepliesLost(t *testing.T) {
	noLeaks(t)
	f := new(flakyNet)
	c := dial(t, serve(t, &Server{Store: inproc.New(nil)}), &ClientOptions{DialContext: f.dial})
	ctx := testContext(t)
	rec := &store.Record{Version: store.NewVersion(), Timeout: time.Minute, Body: []byte("0"), Lock: store.Lock{Owner: 5}}
	for _, step := range []struct {
		name string
		call func() error
	}{
		{"Create", func() error { return c.Create(ctx, shopID, rec, true) }},
		{"Load", func() error { return c.Load(ctx, shopID, rec) }},
		{"Unlock", func() error { return c.Unlock(ctx, shopID, rec.Lock) }},
		{"Lock", func() error { return c.Lock(ctx, shopID, store.LockOptions{Owner: 6}, rec) }},
		{"Save", func() error { return c.Save(ctx, shopID, rec, store.NewVersion(), false) }},
		{"Touch", func() error { return c.Touch(ctx, shopID) }},
	} {
		f.lose.Store(3)
		if err := step.call(); err != nil {
			t.Fatalf("%s with three replies lost: %v", step.name, err)
		}
	}
	got := mustLoad(t, c, shopID)
	if got.Locked || got.History[0] == 0 || got.History[1] != 0 {
		t.Errorf("after one Create and one Save: %+v", got)
	}
	// That there is no session is no answer to whether this call has ended it.
	f.lose.Store(1)
	for _, want := range []error{store.ErrUnsure, store.ErrNotFound} {
		if err := c.Remove(ctx, shopID, store.Lock{}, store.Reason{Kind: store.Abandoned}); !errors.Is(err, want) {
			t.Errorf("Remove: %v; want %v", err, want)
		}
	}
}

// A hookedStore calls before and after, which may be nil, around calls of Lock, Save and
// Unlock, by name. An error of before is that of the call.
type hookedStore struct {
	store.Store
	before func(call string) error
	after  func(call string)
}

func (s *hookedStore) do(name string, call func() error) error {
	if s.before != nil {
		if err := s.before(name); err != nil {
			return err
		}
	}
	err := call()
	if s.after != nil {
		s.after(name)
	}
	return err
}

func (s *hookedStore) Lock(ctx context.Context, id store.ID, o store.LockOptions, rec *store.Record) error {
	return s.do("Lock", func() error { return s.Store.Lock(ctx, id, o, rec) })
}

func (s *hookedStore) Save(ctx context.Context, id store.ID, rec *store.Record, next store.Version, hold bool) error {
	return s.do("Save", func() error { return s.Store.Save(ctx, id, rec, next, hold) })
}

func (s *hookedStore) Unlock(ctx context.Context, id store.ID, lock store.Lock) error {
	return s.do("Unlock", func() error { return s.Store.Unlock(ctx, id, lock) })
}

// TestRefusedRepeatsAreUnsure: a call was made and its reply lost. What the repeat is
// refused for says nothing of that.
func TestRefusedRepeatsAreUnsure(t *testing.T) {
	for _, refusal := range []error{store.ErrUnavailable, store.ErrConflict, store.ErrFull, store.ErrTooLarge, store.ErrNotFound} {
		for _, name := range []string{"Save", "Lock", "Unlock"} {
			if name != "Save" && refusal != store.ErrUnavailable {
				continue // there is no such, or it tells that the lock is nobody's
			}
			t.Run(fmt.Sprint(name, refusal), func(t *testing.T) {
				noLeaks(t)
				kept, f := inproc.New(nil), new(flakyNet)
				var calls atomic.Int32
				s := &hookedStore{
					Store: kept,
					before: func(call string) error {
						if call != name {
							return nil
						}
						if calls.Add(1) == 2 {
							return refusal
						}
						return nil
					},
					after: func(call string) {
						if call == name && calls.Load() == 1 {
							f.lose.Store(1)
						}
					},
				}
				c := dial(t, serve(t, &Server{Store: s}), &ClientOptions{DialContext: f.dial})
				ctx := testContext(t)
				rec := mustCreate(t, c, shopID, "old")
				var err error
				switch name {
				case "Save":
					rec.Body = []byte("new")
					err = c.Save(ctx, shopID, rec, store.NewVersion(), false)
				case "Lock":
					err = c.Lock(ctx, shopID, store.LockOptions{Owner: 7, Stale: time.Minute}, rec)
				case "Unlock":
					rec = mustLock(t, c, shopID, store.LockOptions{Stale: time.Minute})
					err = c.Unlock(ctx, shopID, rec.Lock)
				}
				if !errors.Is(err, store.ErrUnsure) || errors.Is(err, refusal) {
					t.Errorf("%v; want ErrUnsure and nothing else", err)
				}
				// A lock that it may have got is given back.
				mustLock(t, c, shopID, store.LockOptions{Wait: limit, Owner: 8})
			})
		}
	}
}

// TestUnsure: a reply that never comes is ErrUnsure when the time is over, and
// a Lock among them holds nothing.
func TestUnsure(t *testing.T) {
	noLeaks(t)
	kept := inproc.New(nil)
	mustCreate(t, kept, targetID, "")
	f := new(flakyNet)
	c := dial(t, serve(t, &Server{Store: kept}), &ClientOptions{DialContext: f.dial})
	id := store.ID{App: "/LM/W3SVC/1/ROOT", Session: targetID.Session}
	f.lose.Store(1 << 20)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err := c.Lock(ctx, id, store.LockOptions{Owner: 5}, new(store.Record))
	if !errors.Is(err, store.ErrUnsure) || !errors.Is(err, context.DeadlineExceeded) && ctx.Err() != nil {
		t.Errorf("Lock: %v; want ErrUnsure", err)
	}
	f.lose.Store(0)
	if err := kept.Lock(testContext(t), targetID, store.LockOptions{Owner: 6, Wait: limit}, new(store.Record)); err != nil {
		t.Errorf("Lock by another: %v", err)
	}
}

// TestServerGoneAndBack: without a server the error is ErrUnavailable, at once; with
// one again all is well, on new connections.
func TestServerGoneAndBack(t *testing.T) {
	noLeaks(t)
	kept := inproc.New(nil)
	addr := "unix:" + filepath.Join(t.TempDir(), "s.sock") // a port could be another's meanwhile
	l, err := Listen(addr)
	if err != nil {
		t.Fatal(err)
	}
	first := &Server{Store: kept, Logger: quiet}
	served := make(chan error)
	go func() { served <- first.Serve(l) }()
	c := dial(t, addr, nil)
	ctx := testContext(t)
	mustCreate(t, c, shopID, "kept")
	var wg sync.WaitGroup
	for range 8 { // several idle connections
		wg.Go(func() { mustLoad(t, c, shopID) })
	}
	wg.Wait()
	first.Close()
	<-served
	for range 3 {
		// The first calls may meet connections that died under them and try for long.
		short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
		err = c.Load(short, shopID, new(store.Record))
		cancel()
		if err == nil {
			t.Fatal("Load without a server: no error")
		}
	}
	if !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("Load without a server: %v; want ErrUnavailable", err)
	}
	if l, err = Listen(addr); err != nil {
		t.Fatal(err)
	}
	serve(t, &Server{Store: kept}, l)
	if got := mustLoad(t, c, shopID); string(got.Body) != "kept" {
		t.Errorf("after the server came back: %+v", got)
	}
}

// TestRestartUnseen: a lock that is waited for, and a server that shuts down and is
// followed by another over the same store, are not noticed.
func TestRestartUnseen(t *testing.T) {
	noLeaks(t)
	kept := watched(inproc.New(nil))
	addr := "unix:" + filepath.Join(t.TempDir(), "s.sock")
	l, err := Listen(addr)
	if err != nil {
		t.Fatal(err)
	}
	first := &Server{Store: kept, Logger: quiet}
	served := make(chan error)
	go func() { served <- first.Serve(l) }()
	c := dial(t, addr, nil)
	ctx := testContext(t)
	mustCreate(t, c, shopID, "")
	held := mustLock(t, c, shopID, store.LockOptions{})
	got := make(chan error)
	go func() {
		got <- c.Lock(ctx, shopID, store.LockOptions{Owner: 7, Wait: limit}, new(store.Record))
	}()
	<-kept.waiting
	if err := first.Shutdown(ctx); err != nil {
		t.Fatal(err)
	}
	<-served
	if l, err = Listen(addr); err != nil {
		t.Fatal(err)
	}
	serve(t, &Server{Store: kept}, l)
	<-kept.waiting // again
	if err := c.Unlock(ctx, shopID, held.Lock); err != nil {
		t.Errorf("Unlock: %v", err)
	}
	if err := <-got; err != nil {
		t.Errorf("Lock over a restart: %v", err)
	}
}

// TestLockCancelled: a Lock whose context ends leaves nothing behind, whether it
// waits or its reply is on its way.
func TestLockCancelled(t *testing.T) {
	t.Run("waiting", func(t *testing.T) {
		noLeaks(t)
		kept := watched(inproc.New(nil))
		c := dial(t, serve(t, &Server{Store: kept}), nil)
		mustCreate(t, c, shopID, "")
		held := mustLock(t, c, shopID, store.LockOptions{})
		ctx, cancel := context.WithCancel(t.Context())
		got := make(chan error)
		go func() {
			got <- c.Lock(ctx, shopID, store.LockOptions{Owner: 7, Wait: limit}, new(store.Record))
		}()
		<-kept.waiting
		cancel()
		if err := <-got; !errors.Is(err, context.Canceled) {
			t.Errorf("Lock: %v; want %v", err, context.Canceled)
		}
		if err := <-kept.over; !errors.Is(err, context.Canceled) {
			t.Errorf("the server's Lock: %v; want it cancelled", err)
		}
		if err := c.Unlock(t.Context(), shopID, held.Lock); err != nil {
			t.Fatal(err)
		}
		mustLock(t, c, shopID, store.LockOptions{})
	})
	t.Run("granted", func(t *testing.T) {
		noLeaks(t)
		kept := inproc.New(nil)
		granted, release := make(chan struct{}), make(chan struct{})
		c := dial(t, serve(t, &Server{Store: &slowStore{Store: kept, before: func() { close(granted); <-release }}}), nil)
		mustCreate(t, c, shopID, "")
		ctx, cancel := context.WithCancel(t.Context())
		got := make(chan error)
		go func() { got <- c.Lock(ctx, shopID, store.LockOptions{Owner: 7}, new(store.Record)) }()
		<-granted
		cancel()
		if err := <-got; !errors.Is(err, context.Canceled) || !errors.Is(err, store.ErrUnsure) {
			t.Errorf("Lock: %v; want %v, unsure", err, context.Canceled)
		}
		// The same owner again waits until the first call is settled.
		again := make(chan error)
		var rec store.Record
		go func() {
			again <- c.Lock(testContext(t), shopID, store.LockOptions{Owner: 7}, &rec)
		}()
		close(release)
		if err := <-again; err != nil {
			t.Fatalf("Lock, repeated: %v", err)
		}
		if now := mustLoad(t, c, shopID); !now.Locked || now.Lock != rec.Lock {
			t.Errorf("the lock is %+v; want that of the second call, %+v", now.Lock, rec.Lock)
		}
	})
}

// TestWithdrawalRefused: a release behind a Lock that was given up is repeated until it
// is done.
func TestWithdrawalRefused(t *testing.T) {
	for _, waits := range []bool{false, true} { // on a connection that is shared, and on one of its own
		t.Run(fmt.Sprint(waits), func(t *testing.T) {
			noLeaks(t)
			kept := watched(inproc.New(nil))
			granted, release := make(chan struct{}), make(chan struct{})
			var locks, unlocks atomic.Int32
			s := &hookedStore{
				Store: kept,
				before: func(call string) error {
					if call == "Unlock" && unlocks.Add(1) == 1 {
						return store.ErrUnavailable
					}
					return nil
				},
				after: func(call string) {
					if call == "Lock" && locks.Add(1) == 1 && !waits {
						close(granted)
						<-release
					}
				},
			}
			c := dial(t, serve(t, &Server{Store: s}), nil)
			mustCreate(t, c, shopID, "")
			o := store.LockOptions{Owner: 7, Stale: time.Minute}
			if waits {
				mustLock(t, c, shopID, store.LockOptions{Owner: 6})
				o.Wait = limit
			}
			ctx, cancel := context.WithCancel(t.Context())
			got := make(chan error)
			go func() { got <- c.Lock(ctx, shopID, o, new(store.Record)) }()
			if waits {
				<-kept.waiting
			} else {
				<-granted
			}
			cancel()
			if err := <-got; !errors.Is(err, store.ErrUnsure) {
				t.Errorf("Lock: %v; want ErrUnsure", err)
			}
			close(release)
			waitFor(t, "another release", func() bool { return unlocks.Load() == 2 })
			if !waits {
				mustLock(t, c, shopID, store.LockOptions{Owner: 8, Wait: limit})
			}
		})
	}
}

// TestRenewalCancelled: a renewal that is given up leaves the lock with who has it.
func TestRenewalCancelled(t *testing.T) {
	for _, name := range []string{"on a connection that is shared", "on a new one"} {
		t.Run(name, func(t *testing.T) {
			noLeaks(t)
			kept := inproc.New(nil)
			renewed, release := make(chan struct{}), make(chan struct{})
			var calls atomic.Int32
			s := &hookedStore{Store: kept, after: func(call string) {
				if call == "Lock" && calls.Add(1) == 2 {
					close(renewed)
					<-release
				}
			}}
			addr := serve(t, &Server{Store: s})
			c := dial(t, addr, &ClientOptions{Conns: 1})
			mustCreate(t, c, shopID, "")
			held := mustLock(t, c, shopID, store.LockOptions{Owner: 7, Stale: time.Minute})
			if name == "on a new one" {
				c = dial(t, addr, nil)
			}
			ctx, cancel := context.WithCancel(t.Context())
			got := make(chan error)
			go func() {
				got <- c.Lock(ctx, shopID, store.LockOptions{Owner: 7, Stale: time.Minute, Renew: true}, new(store.Record))
			}()
			<-renewed
			cancel()
			if err := <-got; !errors.Is(err, store.ErrUnsure) {
				t.Errorf("Lock: %v; want ErrUnsure", err)
			}
			if c.takings.Load() != 0 {
				t.Error("the lock is being taken back")
			}
			close(release)
			if now := mustLoad(t, c, shopID); !now.Locked || now.Lock.Cookie != held.Lock.Cookie {
				t.Errorf("the lock is %+v; want %+v", now.Lock, held.Lock)
			}
		})
	}
}

// TestWaitsDoNotStarve: those who wait for a lock do not take the connections that
// its holder needs.
func TestWaitsDoNotStarve(t *testing.T) {
	noLeaks(t)
	kept := watched(inproc.New(nil))
	c := dial(t, serve(t, &Server{Store: kept}), &ClientOptions{MaxConns: 1})
	ctx := testContext(t)
	mustCreate(t, c, shopID, "")
	held := mustLock(t, c, shopID, store.LockOptions{})
	const n = 10
	got := make(chan error, n)
	for range n {
		go func() {
			rec := new(store.Record)
			err := c.Lock(ctx, shopID, store.LockOptions{Owner: store.NewOwner(), Wait: limit}, rec)
			if err == nil {
				err = c.Unlock(ctx, shopID, rec.Lock)
			}
			got <- err
		}()
	}
	for range n {
		<-kept.waiting
	}
	if err := c.Unlock(ctx, shopID, held.Lock); err != nil {
		t.Fatal(err)
	}
	for range n {
		if err := <-got; err != nil {
			t.Error(err)
		}
	}
}

// TestMaxConnsOfClient: calls past the limit wait for their turn, and no longer than
// they may.
func TestMaxConnsOfClient(t *testing.T) {
	f := new(flakyNet)
	kept := inproc.New(nil)
	mustCreate(t, kept, targetID, "")
	working, release := make(chan struct{}), make(chan struct{})
	addr := serve(t, &Server{Store: &slowStore{Store: kept, before: func() { close(working); <-release }}})
	c := dial(t, addr, &ClientOptions{MaxConns: 2, DialContext: f.dial})
	id := store.ID{App: "/LM/W3SVC/1/ROOT", Session: targetID.Session}
	var wg sync.WaitGroup
	wg.Go(func() { mustLock(t, c, id, store.LockOptions{}) })
	<-working
	for range 20 {
		wg.Go(func() { mustLoad(t, c, id) })
	}
	close(release)
	wg.Wait()
	if n := f.dials.Load(); n > 2 {
		t.Errorf("%d connections; want at most 2", n)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Touch(ctx, id); !errors.Is(err, context.Canceled) || !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("with a context that has ended: %v", err)
	}
}

// TestAlive: an idle connection that the server has closed is seen to be so.
func TestAlive(t *testing.T) {
	if runtime.GOOS == "windows" {
		return // cannot be seen there, see alive_other.go
	}
	accepted := make(chan net.Conn, 1)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		nc, _ := l.Accept()
		accepted <- nc
	}()
	near, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	far := <-accepted
	if !alive(near) {
		t.Error("an open connection is taken for closed")
	}
	far.Close()
	for end := time.Now().Add(limit); alive(near); {
		if time.Now().After(end) {
			t.Fatal("a closed connection is taken for open")
		}
	}
}

// TestTimeout: a server that does not answer costs the timeout and no more.
func TestTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newPipes()
		defer net.Close()
		c := dial(t, "localhost:42424", &ClientOptions{Timeout: 3 * time.Second, DialContext: net.dial})
		go func() {
			for nc, err := net.Accept(); err == nil; nc, err = net.Accept() {
				go io.Copy(io.Discard, nc)
			}
		}()
		start := time.Now()
		err := c.Touch(t.Context(), shopID)
		if !errors.Is(err, store.ErrUnsure) || !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 3*time.Second {
			t.Errorf("%v after %v; want ErrUnsure after 3s", err, time.Since(start))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start = time.Now()
		if err := c.Touch(ctx, shopID); !errors.Is(err, store.ErrUnsure) || time.Since(start) != time.Second {
			t.Errorf("%v after %v; want ErrUnsure after the context's 1s", err, time.Since(start))
		}
	})
}

// TestTokenThatCannotBeSent: one that would end its line, and begin another, is
// refused at the start.
func TestTokenThatCannotBeSent(t *testing.T) {
	for token, good := range map[string]bool{
		"": true, "hf_3q2+7w==": true, "a.b-c_d~e/f": true,
		"two words": false, "line\r\nHoldfast: 1": false, "tökén": false, "\x00": false,
	} {
		c, err := Dial("localhost:42424", &ClientOptions{Token: token})
		if good != (err == nil) {
			t.Errorf("token %q: %v; want it good: %v", token, err, good)
		}
		if err == nil {
			c.Close()
		}
	}
}

func TestClientClosed(t *testing.T) {
	noLeaks(t)
	kept := watched(inproc.New(nil))
	c := dial(t, serve(t, &Server{Store: kept}), nil)
	mustCreate(t, c, shopID, "")
	mustLock(t, c, shopID, store.LockOptions{})
	got := make(chan error)
	go func() {
		got <- c.Lock(context.Background(), shopID, store.LockOptions{Owner: 7, Wait: limit}, new(store.Record))
	}()
	<-kept.waiting
	c.Close()
	if err := <-got; err == nil {
		t.Error("a call under way did not fail")
	}
	<-kept.over
	if err := c.Touch(t.Context(), shopID); !errors.Is(err, store.ErrUnavailable) || !errors.Is(err, errClientClosed) {
		t.Errorf("after Close: %v", err)
	}
	c.Close()
}

// A failingStore fails in one way.
type failingStore struct {
	store.Store
	err error
}

func (s failingStore) Load(context.Context, store.ID, *store.Record) error { return s.err }
func (s failingStore) Lock(context.Context, store.ID, store.LockOptions, *store.Record) error {
	return s.err
}
func (s failingStore) Create(context.Context, store.ID, *store.Record, bool) error { return s.err }
func (s failingStore) Save(context.Context, store.ID, *store.Record, store.Version, bool) error {
	return s.err
}
func (s failingStore) Unlock(context.Context, store.ID, store.Lock) error               { return s.err }
func (s failingStore) Remove(context.Context, store.ID, store.Lock, store.Reason) error { return s.err }
func (s failingStore) Touch(context.Context, store.ID) error                            { return s.err }

// TestErrorsTravel: what the server's store says is what the client's caller gets.
func TestErrorsTravel(t *testing.T) {
	lock := store.Lock{Cookie: 3, Owner: 4}
	rec := &store.Record{Version: 1, Timeout: time.Minute}
	withLock := &store.Record{Version: 1, Timeout: time.Minute, Lock: lock}
	calls := map[string]func(c *Client) error{
		"Load": func(c *Client) error { return c.Load(t.Context(), shopID, new(store.Record)) },
		"Lock": func(c *Client) error {
			return c.Lock(t.Context(), shopID, store.LockOptions{Owner: 1}, new(store.Record))
		},
		"Create": func(c *Client) error { return c.Create(t.Context(), shopID, rec, false) },
		"Save":   func(c *Client) error { return c.Save(t.Context(), shopID, rec, 2, false) },
		"Save under a lock": func(c *Client) error {
			return c.Save(t.Context(), shopID, withLock, 2, false)
		},
		"Unlock": func(c *Client) error { return c.Unlock(t.Context(), shopID, lock) },
		"Remove": func(c *Client) error { return c.Remove(t.Context(), shopID, lock, store.Reason{}) },
		"Touch":  func(c *Client) error { return c.Touch(t.Context(), shopID) },
	}
	all := []string{"Load", "Lock", "Create", "Save", "Save under a lock", "Unlock", "Remove", "Touch"}
	for _, tc := range []struct {
		err   error
		calls []string
		is    error
	}{
		{store.ErrNotFound, all, store.ErrNotFound},
		{store.ErrUnavailable, all, store.ErrUnavailable},
		{fmt.Errorf("disk: %w", store.ErrUnavailable), all, store.ErrUnavailable},
		{store.ErrUnsure, all, store.ErrUnsure},
		{errors.New("a bug"), all, store.ErrUnsure},
		{store.ErrFull, []string{"Create", "Save"}, store.ErrFull},
		{store.ErrTooLarge, []string{"Create", "Save"}, store.ErrTooLarge},
		{store.ErrExists, []string{"Create"}, store.ErrExists},
		{store.ErrConflict, []string{"Save"}, store.ErrConflict},
		{store.ErrLockLost, []string{"Save under a lock", "Unlock", "Remove"}, store.ErrLockLost},
	} {
		c := dial(t, serve(t, &Server{Store: failingStore{err: tc.err}}), nil)
		for _, name := range tc.calls {
			if err := calls[name](c); !errors.Is(err, tc.is) {
				t.Errorf("%s, where the store says %q: %v; want %v", name, tc.err, err, tc.is)
			}
		}
	}

	c := dial(t, serve(t, &Server{Store: failingStore{err: &store.LockedError{Lock: lock, Age: 1500 * time.Millisecond}}}), nil)
	for _, name := range []string{"Load", "Lock", "Save"} {
		var got *store.LockedError
		if err := calls[name](c); !errors.As(err, &got) || got.Lock != lock || got.Age != 1500*time.Millisecond {
			t.Errorf("%s: %v; want the lock %v, 1.5s", name, err, lock)
		}
	}
	for k := store.Expired; k <= store.Restarted; k++ {
		want := store.Reason{Kind: k, Age: 90*time.Second + 1, To: "näxt one/%"}
		c := dial(t, serve(t, &Server{Store: failingStore{err: &store.NotFoundError{Reason: want}}}), nil)
		for _, name := range all {
			if err := calls[name](c); store.ReasonOf(err) != want {
				t.Errorf("%s: %+v; want %+v", name, store.ReasonOf(err), want)
			}
		}
	}
}

// TestLargeBodies go both ways, and those that are too large are told so.
func TestLargeBodies(t *testing.T) {
	c := dial(t, serve(t, &Server{Store: inproc.New(nil), MaxBody: 3 << 20}), nil)
	ctx := testContext(t)
	rec := mustCreate(t, c, shopID, strings.Repeat("0123456789abcdef", 3<<16))
	if got := mustLoad(t, c, shopID); string(got.Body) != string(rec.Body) {
		t.Errorf("%d bytes came back; want the %d that were sent", len(got.Body), len(rec.Body))
	}
	rec.Body = append(rec.Body, 'x')
	for range 3 {
		if err := c.Save(ctx, shopID, rec, store.NewVersion(), false); !errors.Is(err, store.ErrTooLarge) {
			t.Errorf("Save of a byte too much: %v; want ErrTooLarge", err)
		}
	}
	rec.Body = make([]byte, 20<<20)
	if err := c.Create(ctx, store.ID{App: "/", Session: "other"}, rec, false); !errors.Is(err, store.ErrTooLarge) {
		t.Errorf("Create of 20 MiB: %v; want ErrTooLarge", err)
	}
	if got := mustLoad(t, c, shopID); len(got.Body) != 3<<20 {
		t.Errorf("%d bytes afterwards; want %d", len(got.Body), 3<<20)
	}
}

// TestNoStateServer: who does not speak the protocol is told apart at once.
func TestNoStateServer(t *testing.T) {
	for _, says := range []string{
		"220 mail.example.org ESMTP\r\n",
		"HTTP/1.1 200 OK\r\nServer: nginx\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 404 Not Found\r\nX-AspNet-Version: 1.1.4322\r\nContent-Length: 0\r\n\r\n",
		"-ERR unknown command\r\n",
	} {
		addr := fakeServer(t, func(string) string { return says + "\r\n" })
		c := dial(t, addr, nil)
		for _, call := range []func() error{
			func() error { return c.Load(testContext(t), shopID, new(store.Record)) },
			func() error {
				return c.Create(testContext(t), shopID, &store.Record{Version: 1, Timeout: time.Minute}, false)
			},
		} {
			start := time.Now()
			if err := call(); err == nil || errors.Is(err, store.ErrNotFound) || time.Since(start) > limit/2 {
				t.Errorf("%q: %v after %v; want an error at once", says, err, time.Since(start))
			}
		}
	}
}

// fakeServer answers every request by a function of its head.
func fakeServer(t *testing.T, answer func(head string) string) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() { l.Close(); wg.Wait() })
	wg.Go(func() {
		for nc, err := l.Accept(); err == nil; nc, err = l.Accept() {
			wg.Go(func() {
				defer nc.Close()
				var in []byte
				buf := make([]byte, 4096)
				for {
					n, err := nc.Read(buf)
					if err != nil {
						return
					}
					in = append(in, buf[:n]...)
					var r request
					size, err := r.parse(in, testLimits)
					if err == errShort {
						continue
					}
					if _, err := io.WriteString(nc, answer(string(in[:size]))); err != nil {
						return
					}
					in = in[size:]
				}
			})
		}
	})
	return l.Addr().String()
}
