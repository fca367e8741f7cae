package stateserver

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
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

// noLeaks checks, at the end of a test, that no goroutine of this package is left.
// Call it before anything that has a cleanup.
func noLeaks(t *testing.T) {
	t.Cleanup(func() {
		buf := make([]byte, 1<<20)
		var stacks string
		for end := time.Now().Add(limit); time.Now().Before(end); runtime.Gosched() {
			stacks = string(buf[:runtime.Stack(buf, true)])
			left := strings.Count(stacks, "stateserver.(*")
			if left == 0 {
				return
			}
		}
		t.Errorf("goroutines are left:\n%s", stacks)
	})
}

// ping checks that the server at addr serves others.
func ping(t *testing.T, addr string) {
	t.Helper()
	if got := status(connect(t, addr).ask("", "HEAD /ping HTTP/1.1")); got != notFound {
		t.Errorf("another peer is answered %q; want 404", got)
	}
}

func TestMisbehavingPeers(t *testing.T) {
	noLeaks(t)
	s := &Server{Store: inproc.New(nil), MaxBody: 100 << 10, MaxHeader: 1 << 10}
	addr := serve(t, s)
	good := connect(t, addr)
	for _, tc := range []struct{ name, send, want string }{
		{"TLS", "\x16\x03\x01\x02\x00\x01\x00", "400 Bad Request"},
		{"garbage", "hello\r\n", "400 Bad Request"},
		{"endless head", "GET /" + strings.Repeat("a", 2000), "400 Bad Request"},
		{"many lines", "GET /a HTTP/1.1\r\n" + strings.Repeat("X:\r\n", 200), "400 Bad Request"},
		{"large body of an old client", "PUT /a HTTP/1.1\r\nContent-Length: 102401\r\n\r\n" + strings.Repeat("x", 102401), "400 Bad Request"},
		{"large body", "PUT /a HTTP/1.1\r\nHoldfast: 1\r\nContent-Length: 10000000\r\n\r\n" + strings.Repeat("x", 1000000), "413 Content Too Large"},
		{"a mark of the future", "GET /a HTTP/1.1\r\nHoldfast: 2\r\n\r\n", "400 Bad Request"},
		{"lock without an owner", "GET /a HTTP/1.1\r\nHoldfast: 1\r\nExclusive: acquire\r\n\r\n", "400 Bad Request"},
		{"unlock of nothing", "GET /a HTTP/1.1\r\nHoldfast: 1\r\nExclusive: release\r\n\r\n", "400 Bad Request"},
		{"save without a condition", "PUT /a HTTP/1.1\r\nHoldfast: 1\r\nContent-Length: 0\r\nIdempotency-Key: \"1\"\r\n\r\n", "400 Bad Request"},
		{"save with two", "PUT /a HTTP/1.1\r\nHoldfast: 1\r\nContent-Length: 0\r\nIdempotency-Key: \"1\"\r\nIf-Match: \"1\"\r\nIf-None-Match: *\r\n\r\n", "400 Bad Request"},
		{"save without a version", "PUT /a HTTP/1.1\r\nHoldfast: 1\r\nContent-Length: 0\r\nIf-None-Match: *\r\n\r\n", "400 Bad Request"},
		{"delete without a condition", "DELETE /a HTTP/1.1\r\nHoldfast: 1\r\n\r\n", "400 Bad Request"},
		{"a version that is none", "GET /a HTTP/1.1\r\nHoldfast: 1\r\nIf-None-Match: 1\r\n\r\n", "400 Bad Request"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := connect(t, addr)
			w.send(tc.send)
			if got := status(w.receive(methodGet)); got != tc.want {
				t.Errorf("answered %q; want %q", got, tc.want)
			}
			w.Conn.(*net.TCPConn).CloseWrite()
			w.ends()
			if got := status(good.ask("", "HEAD /ping HTTP/1.1")); got != notFound {
				t.Errorf("another peer is answered %q; want 404", got)
			}
		})
	}
}

// TestRefusedWhileSending: a peer that is still sending is answered, and not reset
// before it can read that.
func TestRefusedWhileSending(t *testing.T) {
	w := connect(t, serve(t, &Server{Store: inproc.New(nil), MaxBody: 1 << 10}))
	w.send("PUT /a HTTP/1.1\r\nHoldfast: 1\r\nContent-Length: 4000000\r\n\r\n")
	if got := status(w.receive(methodPut)); got != "413 Content Too Large" {
		t.Errorf("answered %q; want 413", got)
	}
	w.ends()
	for range 4 {
		w.send(strings.Repeat("x", 1000000)) // a reset would make it fail
	}
}

// TestSlowPeers: time is taken from those who waste it, and from nobody else.
func TestSlowPeers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kept := inproc.New(nil)
		defer kept.Close()
		net := newPipes()
		serve(t, &Server{Store: kept, ReadTimeout: 10 * time.Second, IdleTimeout: time.Minute}, net)
		ended := func(w *wire) time.Duration {
			start := time.Now()
			w.ends()
			return time.Since(start)
		}
		drip := net.connect(t)
		drip.send("GET /a HT")
		if d := ended(drip); d != 10*time.Second {
			t.Errorf("a request that does not end kept its connection for %v; want 10s", d)
		}
		body := net.connect(t)
		body.send("PUT /a HTTP/1.1\r\nContent-Length: 10\r\n\r\n12345")
		if d := ended(body); d != 10*time.Second {
			t.Errorf("a body that does not end kept its connection for %v; want 10s", d)
		}
		idle := net.connect(t)
		for range 10 {
			<-time.After(50 * time.Second)
			if got := status(idle.ask("", "HEAD /a HTTP/1.1")); got != notFound {
				t.Fatal(got)
			}
		}
		if d := ended(idle); d < time.Minute || d > 90*time.Second {
			t.Errorf("an idle connection was kept for %v; want a minute to a minute and a half", d)
		}
		deaf := net.connect(t) // it reads no answer
		start := time.Now()
		deaf.send("HEAD /a HTTP/1.1\r\n\r\n")
		synctest.Wait()
		<-time.After(DefaultWriteTimeout * 3 / 2)
		synctest.Wait()
		if _, err := deaf.Write([]byte("x")); err == nil {
			t.Errorf("a peer that reads nothing is still served after %v", time.Since(start))
		}
	})
}

func TestPipelined(t *testing.T) {
	const n = 300
	addr := serve(t, &Server{Store: inproc.New(nil)})
	w := connect(t, addr)
	var all strings.Builder
	for i := range n {
		body := strings.Repeat(fmt.Sprintf("%4d", i), 300)
		fmt.Fprintf(&all, "PUT /s%d HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s", i, len(body), body)
		fmt.Fprintf(&all, "GET /s%d HTTP/1.1\r\n\r\n", i)
	}
	var wg sync.WaitGroup
	wg.Go(func() { w.Write([]byte(all.String())) })
	for i := range n {
		if got := status(w.receive(methodPut)); got != ok {
			t.Fatalf("PUT %d: %s", i, got)
		}
		if got := w.receive(methodGet); !strings.HasSuffix(got, strings.Repeat(fmt.Sprintf("%4d", i), 300)) {
			t.Fatalf("GET %d: %q", i, got)
		}
	}
	wg.Wait()
}

// lockLine is a request for a lock that waits.
func lockLine(owner uint64) string {
	return lines("", "GET "+target+" HTTP/1.1", "Holdfast: 1", "Exclusive: acquire", fmt.Sprintf("Lock-Token: %016x", owner), "Prefer: wait=60")
}

// A watched store tells when a Lock begins to wait, and when it is over.
type watchedStore struct {
	store.Store
	waiting chan struct{}
	over    chan error
}

func watched(s store.Store) *watchedStore {
	return &watchedStore{s, make(chan struct{}, 100), make(chan error, 100)}
}

func (s *watchedStore) Lock(ctx context.Context, id store.ID, o store.LockOptions, rec *store.Record) error {
	if o.Wait == 0 {
		return s.Store.Lock(ctx, id, o, rec)
	}
	s.waiting <- struct{}{}
	err := s.Store.Lock(ctx, id, o, rec)
	s.over <- err
	return err
}

// TestWaitersGone: one that goes away while it waits for a lock never gets it.
func TestWaitersGone(t *testing.T) {
	for _, tc := range []struct {
		name  string
		leave func(w *wire)
	}{
		{"closed", func(w *wire) { w.Close() }},
		{"reset", func(w *wire) { w.Conn.(*net.TCPConn).SetLinger(0); w.Close() }},
		{"half closed", func(w *wire) { w.Conn.(*net.TCPConn).CloseWrite() }},
		{"withdrawn", func(w *wire) {
			w.send(lines("", "GET "+target+" HTTP/1.1", "Holdfast: 1", "Exclusive: release", "Lock-Token: 0000000000000002"))
			w.Conn.(*net.TCPConn).CloseWrite()
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			noLeaks(t)
			kept := watched(inproc.New(nil))
			mustCreate(t, kept, targetID, "")
			held := mustLock(t, kept, targetID, store.LockOptions{})
			addr := serve(t, &Server{Store: kept})
			w := connect(t, addr)
			w.send(lockLine(2))
			<-kept.waiting
			tc.leave(w)
			if err := <-kept.over; !errors.Is(err, context.Canceled) {
				t.Errorf("the wait ended with %v; want it cancelled", err)
			}
			if err := kept.Unlock(t.Context(), targetID, held.Lock); err != nil {
				t.Fatal(err)
			}
			mustLock(t, kept, targetID, store.LockOptions{})
			ping(t, addr)
		})
	}
}

// TestGrantUndeliverable: a lock that was granted to one who is gone is given back.
func TestGrantUndeliverable(t *testing.T) {
	kept := watched(inproc.New(nil))
	mustCreate(t, kept, targetID, "")
	granted, gone := make(chan struct{}), make(chan struct{})
	slow := &slowStore{Store: kept, before: func() { close(granted); <-gone }}
	addr := serve(t, &Server{Store: slow})
	w := connect(t, addr)
	w.send(lines("", "GET "+target+" HTTP/1.1", "Holdfast: 1", "Exclusive: acquire", "Lock-Token: 0000000000000002"))
	<-granted // by the store, while the answer has not left
	w.Conn.(*net.TCPConn).SetLinger(0)
	w.Close()
	close(gone)
	ctx := testContext(t)
	if err := kept.Lock(ctx, targetID, store.LockOptions{Owner: 3, Wait: limit}, new(store.Record)); err != nil {
		t.Errorf("Lock after the holder went away: %v", err)
	}
}

// TestRenewalUndeliverable: who renews a lock has it, whether he hears of that or not.
func TestRenewalUndeliverable(t *testing.T) {
	renewal := lines("", "GET "+target+" HTTP/1.1", "Holdfast: 1", "Exclusive: acquire", "Lock-Token: 0000000000000002", "Holdfast-Hold: 1")
	o := store.LockOptions{Owner: 2}
	t.Run("gone", func(t *testing.T) {
		kept := inproc.New(nil)
		mustCreate(t, kept, targetID, "")
		held := mustLock(t, kept, targetID, o)
		renewed, gone := make(chan struct{}), make(chan struct{})
		s := &Server{Store: &slowStore{Store: kept, before: func() { close(renewed); <-gone }}}
		w := connect(t, serve(t, s))
		w.send(renewal)
		<-renewed
		w.Conn.(*net.TCPConn).SetLinger(0)
		w.Close()
		close(gone)
		waitFor(t, "the connection's end", func() bool { return s.Stats().Conns == 0 })
		if now := mustLoad(t, kept, targetID); !now.Locked || now.Lock.Cookie != held.Lock.Cookie {
			t.Errorf("after a renewal by one who is gone: %+v", now)
		}
	})
	t.Run("no memory", func(t *testing.T) {
		kept := inproc.New(nil)
		mustCreate(t, kept, targetID, strings.Repeat("x", 2*keepBuffer))
		mustLock(t, kept, targetID, o)
		// Enough for the large request, whatever buffers the pool has for the others, and
		// not for the session besides.
		s := &Server{Store: kept, MaxBuffered: 200 << 10}
		addr := serve(t, s)
		big := connect(t, addr)
		big.send(lines(strings.Repeat("y", 80<<10), "PUT /other HTTP/1.1", "Content-Length: 100000"))
		waitFor(t, "a large request", func() bool { return s.Stats().Buffered > 90000 })
		if got := status(connect(t, addr).ask("", strings.TrimSuffix(renewal, "\r\n\r\n"))); got != "504 Gateway Timeout" {
			t.Errorf("%s; want 504, since it is renewed", got)
		}
		if now := mustLoad(t, kept, targetID); !now.Locked {
			t.Error("the lock was taken from who has it")
		}
	})
}

// A slowStore holds the reply of the first Lock back.
type slowStore struct {
	store.Store
	held   atomic.Bool
	before func()
}

func (s *slowStore) Lock(ctx context.Context, id store.ID, o store.LockOptions, rec *store.Record) error {
	err := s.Store.Lock(ctx, id, o, rec)
	if s.held.CompareAndSwap(false, true) {
		s.before()
	}
	return err
}

// TestWaitersKeepTheirPlace: what a waiter sends ahead is answered afterwards.
func TestWaitersKeepTheirPlace(t *testing.T) {
	kept := watched(inproc.New(nil))
	mustCreate(t, kept, targetID, "body")
	held := mustLock(t, kept, targetID, store.LockOptions{})
	w := connect(t, serve(t, &Server{Store: kept}))
	w.send(lines("", "HEAD /other HTTP/1.1") + lockLine(2))
	if got := status(w.receive(methodHead)); got != notFound { // not held up by the wait
		t.Error(got)
	}
	<-kept.waiting
	w.send(lines("", "HEAD "+target+" HTTP/1.1"))
	if err := kept.Unlock(t.Context(), targetID, held.Lock); err != nil {
		t.Fatal(err)
	}
	if got := w.receive(methodGet); status(got) != ok || value(got, "Lock-Token") != "0000000000000002" || !strings.HasSuffix(got, "body") {
		t.Errorf("the waiter got %q", got)
	}
	if got := status(w.receive(methodHead)); got != ok {
		t.Error(got)
	}
	if got := status(w.ask("", "HEAD "+target+" HTTP/1.1")); got != ok {
		t.Error(got)
	}
}

func TestShutdown(t *testing.T) {
	noLeaks(t)
	kept := watched(inproc.New(nil))
	mustCreate(t, kept, targetID, "")
	held := mustLock(t, kept, targetID, store.LockOptions{})
	working, release := make(chan struct{}), make(chan struct{})
	s := &Server{Store: &slowStore{Store: kept, before: func() { close(working); <-release }}}
	addr := serve(t, s)

	idle := connect(t, addr)
	idle.ask("", "HEAD /a HTTP/1.1")
	busy := connect(t, addr)
	busy.send(lines("", "GET "+target+" HTTP/1.1", "Holdfast: 1", "Exclusive: acquire", fmt.Sprintf("Lock-Token: %016x", held.Lock.Owner)))
	<-working
	waiter := connect(t, addr)
	waiter.send(lockLine(2))
	<-kept.waiting

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Shutdown(ctx); err != context.Canceled {
		t.Errorf("Shutdown without time: %v; want %v", err, context.Canceled)
	}
	idle.ends()
	waiter.ends() // without an answer: it waits on elsewhere
	done := make(chan error)
	go func() { done <- s.Shutdown(testContext(t)) }()
	if _, err := net.DialTimeout("tcp", addr, time.Second); err == nil {
		t.Error("the server still listens")
	}
	close(release)
	if got := status(busy.receive(methodGet)); got != ok {
		t.Errorf("the request in flight was answered %q; want 200", got)
	}
	busy.ends()
	if err := <-done; err != nil {
		t.Errorf("Shutdown: %v", err)
	}
	if got := mustLoad(t, kept, targetID); !got.Locked || got.Lock.Owner != held.Lock.Owner {
		t.Errorf("the lock is %+v; want it kept by its holder", got.Lock)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Serve(l); err != ErrServerClosed {
		t.Errorf("Serve after Shutdown: %v; want %v", err, ErrServerClosed)
	}
}

func TestRemotePeers(t *testing.T) {
	for _, addr := range []string{":0", "0.0.0.0:0", "[::]:0"} {
		s := &Server{Store: inproc.New(nil)}
		if err := s.ListenAndServe(addr); err == nil || !strings.Contains(err.Error(), "AllowRemote") {
			t.Errorf("%s: %v; want an error that names AllowRemote", addr, err)
		}
	}
	// A listener that hides where it listens still serves none but local peers.
	l := newPipes()
	s := &Server{Store: inproc.New(nil)}
	serve(t, s, l)
	near, far := net.Pipe()
	l.conns <- remoteConn{far}
	if _, err := near.Read(make([]byte, 1)); err == nil {
		t.Error("a remote peer was served")
	}
	if err := (&Server{}).ListenAndServe("127.0.0.1:0"); err == nil || !strings.Contains(err.Error(), "Store is nil") {
		t.Errorf("without a Store: %v", err)
	}
}

type remoteConn struct{ net.Conn }

func (remoteConn) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(10, 0, 0, 9), Port: 1} }

// TestLongWaitOfALargeSession: the time to read an answer begins with the answer, also
// after a wait that is longer.
func TestLongWaitOfALargeSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kept := inproc.New(nil)
		defer kept.Close()
		net := newPipes()
		serve(t, &Server{Store: kept}, net)
		mustCreate(t, kept, targetID, strings.Repeat("x", 2*keepBuffer))
		held := mustLock(t, kept, targetID, store.LockOptions{})
		w := net.connect(t)
		if got := status(w.ask("", "HEAD "+target+" HTTP/1.1", "Holdfast: 1")); got != ok {
			t.Error(got)
		}
		w.send(lockLine(2))
		<-time.After(DefaultWriteTimeout * 9 / 5) // the HEAD's is over
		if err := kept.Unlock(t.Context(), targetID, held.Lock); err != nil {
			t.Fatal(err)
		}
		if answer := w.receive(methodGet); status(answer) != ok || len(answer) < 2*keepBuffer {
			t.Errorf("%s, %d bytes", status(answer), len(answer))
		}
	})
}

func TestMaxConns(t *testing.T) {
	addr := serve(t, &Server{Store: inproc.New(nil), MaxConns: 1})
	first := connect(t, addr)
	if got := status(first.ask("", "HEAD /a HTTP/1.1")); got != notFound {
		t.Error(got)
	}
	second := connect(t, addr)
	second.send(lines("", "HEAD /a HTTP/1.1"))
	if got := status(first.ask("", "HEAD /a HTTP/1.1")); got != notFound {
		t.Error(got)
	}
	first.Close()
	if got := status(second.receive(methodHead)); got != notFound {
		t.Errorf("the second connection is answered %q; want 404, after the first ended", got)
	}
}

// TestMaxConnsOfListeners: a listener at which nobody connects takes no place from others.
func TestMaxConnsOfListeners(t *testing.T) {
	s := &Server{Store: inproc.New(nil), MaxConns: 1}
	addrs := []string{serve(t, s), serve(t, s)}
	for range 3 {
		for _, addr := range addrs {
			w := connect(t, addr)
			if got := status(w.ask("", "HEAD /a HTTP/1.1")); got != notFound {
				t.Errorf("on %s: %s", addr, got)
			}
			w.Close()
		}
	}
	// Whoever comes next waits for his turn, wherever he comes.
	first := connect(t, addrs[0])
	if got := status(first.ask("", "HEAD /a HTTP/1.1")); got != notFound {
		t.Error(got)
	}
	others := []*wire{connect(t, addrs[0]), connect(t, addrs[1])}
	for _, w := range others {
		w.send(lines("", "HEAD /a HTTP/1.1"))
	}
	if got := status(first.ask("", "HEAD /a HTTP/1.1")); got != notFound || s.Stats().Conns != 1 {
		t.Errorf("%s, with %d connections; want 404, and no other connection", got, s.Stats().Conns)
	}
	first.Close()
	done := make(chan string)
	for _, w := range others {
		go func() {
			done <- status(w.receive(methodHead))
			w.Close()
		}()
	}
	for range others {
		if got := <-done; got != notFound {
			t.Error(got)
		}
	}
}

func TestUnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.sock")
	// What a server that was killed leaves behind.
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	if _, err := os.Stat(path); err != nil {
		t.Fatal(err)
	}
	s := &Server{Store: inproc.New(nil), Logger: quiet}
	served := make(chan error, 1)
	go func() { served <- s.ListenAndServe("unix:" + path) }()
	c := dial(t, "unix:"+path, nil)
	id := store.ID{App: "/", Session: "s"}
	rec := &store.Record{Version: 1, Timeout: time.Minute, Body: []byte("over a socket")}
	for {
		err := c.Create(testContext(t), id, rec, false)
		if err == nil {
			break
		}
		if !errors.Is(err, store.ErrUnavailable) {
			t.Fatal(err)
		}
	}
	if got := mustLoad(t, c, id); string(got.Body) != "over a socket" {
		t.Errorf("%+v", got)
	}
	if err := (&Server{Store: s.Store}).ListenAndServe("unix:" + path); err == nil {
		t.Error("a second server took the socket of the first")
	}
	s.Close()
	if err := <-served; err != ErrServerClosed {
		t.Errorf("ListenAndServe: %v", err)
	}
}

// TestNotModified is Load for one who has the content already.
func TestNotModified(t *testing.T) {
	kept := inproc.New(nil)
	rec := mustCreate(t, kept, targetID, "body")
	w := connect(t, serve(t, &Server{Store: kept}))
	etag := fmt.Sprintf("%q", fmt.Sprintf("%016x", uint64(rec.Version)))
	w.send(lines("", "GET "+target+" HTTP/1.1", "Holdfast: 1", "If-None-Match: "+etag))
	if got := w.receive(methodGet); status(got) != "304 Not Modified" || value(got, "ETag") != etag || !strings.HasSuffix(got, "\r\n\r\n") {
		t.Errorf("with its version: %q", got)
	}
	if got := w.ask("", "GET "+target+" HTTP/1.1", "Holdfast: 1", `If-None-Match: "1"`); status(got) != ok || !strings.HasSuffix(got, "body") {
		t.Errorf("with another: %q", got)
	}
}

// TestItemsDoNotTravel: a store that a Manager of this process fills cannot be
// served, and nothing in it is harmed.
func TestItemsDoNotTravel(t *testing.T) {
	kept := inproc.New(nil)
	if err := kept.Create(t.Context(), targetID, &store.Record{Version: 1, Timeout: time.Minute, Items: 7}, false); err != nil {
		t.Fatal(err)
	}
	w := connect(t, serve(t, &Server{Store: kept}))
	for _, l := range []string{"GET " + target + " HTTP/1.1", "GET " + target + " HTTP/1.1\r\nExclusive: acquire",
		"PUT " + target + " HTTP/1.1\r\nContent-Length: 0"} {
		if got := w.ask("", l); status(got) != "400 Bad Request" || !strings.Contains(got, "items") {
			t.Errorf("%s: %q; want a 400 that says why", l, got)
		}
	}
	if got := w.ask("", "GET "+target+" HTTP/1.1", "Holdfast: 1", "Exclusive: acquire", "Lock-Token: 1"); !strings.HasPrefix(got, "HTTP/1.1 503 ") {
		t.Errorf("%q; want 503", got)
	}
	if got := mustLoad(t, kept, targetID); got.Locked || got.Items != 7 {
		t.Errorf("the session is %+v; want it as it was", got)
	}
}

// TestFragments: requests of both kinds are answered however the network cuts them, so
// no wait for more begins while something is there to be read.
func TestFragments(t *testing.T) {
	addr := serve(t, &Server{Store: inproc.New(nil)})
	for _, seed := range []uint64{1, 2, 3, 4, 5, 6, 7, 8} {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			random := rand.New(rand.NewPCG(seed, 0))
			w := connect(t, addr)
			const all = 2000
			ahead := make(chan struct{}, 1+random.IntN(40)) // requests that are under way
			var wg sync.WaitGroup
			wg.Go(func() {
				var unsent []byte
				for range all {
					ahead <- struct{}{}
					if random.IntN(5) > 0 {
						unsent = append(unsent, "GET /none HTTP/1.1\r\nHoldfast: 1\r\n\r\n"...)
					} else {
						unsent = append(unsent, "GET /none HTTP/1.1\r\n\r\n"...)
					}
					for len(unsent) > 0 && (len(ahead) == cap(ahead) || random.IntN(3) > 0) {
						n := 1 + random.IntN(len(unsent))
						if _, err := w.Write(unsent[:n]); err != nil {
							t.Errorf("write: %v", err)
							return
						}
						unsent = unsent[n:]
					}
				}
				w.Write(unsent)
			})
			for i := range all {
				if got := status(w.receive(methodGet)); got != notFound {
					t.Fatalf("answer %d: %s", i, got)
				}
				<-ahead
			}
			wg.Wait()
		})
	}
}

// TestLeavesWithItsLastRequest: a connection ends whose end came together with a request.
func TestLeavesWithItsLastRequest(t *testing.T) {
	s := &Server{Store: inproc.New(nil)}
	addr := serve(t, s)
	for range 50 {
		w := connect(t, addr)
		for range 3 {
			if got := status(w.ask("", "GET /none HTTP/1.1", "Holdfast: 1")); got != notFound {
				t.Fatal(got)
			}
		}
		w.send("GET /none HTTP/1.1\r\nHoldfast: 1\r\n\r\n")
		w.Close()
	}
	waitFor(t, "the connections to end", func() bool { return s.Stats().Conns == 0 })
}
