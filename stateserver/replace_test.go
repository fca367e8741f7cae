package stateserver

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-session/holdfast/inproc"
	"github.com/holdfast-session/holdfast/store"
)

// TestReplaced has servers follow each other on one socket, over one store, while many
// clients lock, wait, save and read: no call fails, and no update is lost.
func TestReplaced(t *testing.T) {
	noLeaks(t)
	const clients, callers, sessions, replacements = 4, 8, 6, 15
	kept := inproc.New(nil)
	t.Cleanup(func() { kept.Close() })
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	start := func(l net.Listener) (*Server, <-chan error) {
		s := &Server{Store: kept, Logger: quiet}
		served := make(chan error, 1)
		go func() { served <- s.Serve(l) }()
		return s, served
	}
	// again is the same socket once more, as a new process inherits it.
	again := func(l net.Listener) net.Listener {
		f, err := l.(*net.TCPListener).File()
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		next, err := net.FileListener(f)
		if err != nil {
			t.Fatal(err)
		}
		return next
	}
	s, served := start(l)
	first := dial(t, l.Addr().String(), nil)
	for i := range sessions {
		mustCreate(t, first, store.ID{App: "/", Session: fmt.Sprint(i)}, string(make([]byte, 8)))
	}

	var wg sync.WaitGroup
	var stop atomic.Bool
	var saved [sessions]atomic.Uint64
	var longest atomic.Int64
	done := func(what string, began time.Time, err error) bool {
		for d := int64(time.Since(began)); ; {
			if was := longest.Load(); was >= d || longest.CompareAndSwap(was, d) {
				break
			}
		}
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
		return err == nil
	}
	for range clients {
		c := dial(t, l.Addr().String(), nil)
		for i := range callers {
			wg.Go(func() {
				ctx := context.Background()
				var rec store.Record
				for n := i; !stop.Load(); n++ {
					id := store.ID{App: "/", Session: fmt.Sprint(n % sessions)}
					began := time.Now()
					if !done("Lock", began, c.Lock(ctx, id, store.LockOptions{Owner: store.NewOwner(), Wait: limit}, &rec)) {
						return
					}
					binary.LittleEndian.PutUint64(rec.Body, binary.LittleEndian.Uint64(rec.Body)+1)
					if !done("Save", time.Now(), c.Save(ctx, id, &rec, store.NewVersion(), false)) {
						return
					}
					saved[n%sessions].Add(1)
					if !done("Touch", time.Now(), c.Touch(ctx, id)) || !done("Load", time.Now(), c.Load(ctx, id, &rec)) {
						return
					}
				}
			})
		}
	}
	for range replacements {
		before := s.Stats().Latency.Count()
		waitFor(t, "the server to be busy", func() bool { return s.Stats().Latency.Count() > before+200 || t.Failed() })
		l = again(l)
		next, nextServed := start(l)
		if err := s.Shutdown(testContext(t)); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
		if err := <-served; !errors.Is(err, ErrServerClosed) {
			t.Errorf("Serve: %v", err)
		}
		s, served = next, nextServed
	}
	stop.Store(true)
	wg.Wait()
	for i := range sessions {
		rec := mustLoad(t, first, store.ID{App: "/", Session: fmt.Sprint(i)})
		if got, want := binary.LittleEndian.Uint64(rec.Body), saved[i].Load(); got != want || rec.Locked {
			t.Errorf("session %d counts %d, locked %v; want %d, the updates that were acknowledged", i, got, rec.Locked, want)
		}
	}
	t.Logf("the longest call took %v", time.Duration(longest.Load()).Round(time.Millisecond))
	first.Close()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	<-served
}
