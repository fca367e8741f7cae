package storetest_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-session/holdfast/inproc"
	"github.com/holdfast-session/holdfast/store"
	"github.com/holdfast-session/holdfast/storetest"
)

// A reply that is lost leaves the caller unsure; the same call again, with the same
// next version, is recognised.
func ExampleFaults() {
	faults := &storetest.Faults{Rule: storetest.Nth("Save", 1, storetest.LoseReply)}
	s := faults.Wrap(inproc.New(nil))

	ctx, id := context.Background(), store.ID{App: "/", Session: "abcdefghijklmnopqrst0123"}
	rec := &store.Record{Version: store.NewVersion(), Timeout: 20 * time.Minute, Body: []byte("empty cart")}
	fmt.Println(s.Create(ctx, id, rec, false))

	rec.Body = []byte("one book")
	next := store.NewVersion()
	for {
		err := s.Save(ctx, id, rec, next, false)
		fmt.Println(err)
		if !errors.Is(err, store.ErrUnsure) {
			break
		}
	}
	fmt.Println(s.Load(ctx, id, rec), string(rec.Body))
	fmt.Println("saved", faults.Count("Save"), "times")
	// Output:
	// <nil>
	// store: outcome unknown
	// <nil>
	// <nil> one book
	// saved 2 times
}

// A hook sees every call that is made, and may wait, to make the store slow.
func ExampleFaults_before() {
	faults := &storetest.Faults{Before: func(_ context.Context, call storetest.Call) {
		fmt.Println(call.Method, call.N, "of", call.ID.Session)
	}}
	s := faults.Wrap(inproc.New(nil))

	ctx, id := context.Background(), store.ID{App: "/", Session: "abcdefghijklmnopqrst0123"}
	for range 2 {
		fmt.Println(s.Unlock(ctx, id, store.Lock{}) != nil)
	}
	// Output:
	// Unlock 1 of abcdefghijklmnopqrst0123
	// true
	// Unlock 2 of abcdefghijklmnopqrst0123
	// true
}
