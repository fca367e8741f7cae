//go:build !race

package stateserver

import (
	"bytes"
	"context"
	"testing"

	"github.com/holdfast-session/holdfast/inproc"
	"github.com/holdfast-session/holdfast/store"
)

// TestClientAllocates checks that steady calls allocate nothing: neither the client
// nor the server, which are both in this process.
func TestClientAllocates(t *testing.T) {
	for _, size := range []int{500, 5000} { // one that is not kept near, and one that is
		c := dial(t, serve(t, &Server{Store: inproc.New(nil)}), nil)
		mustCreate(t, c, shopID, string(bytes.Repeat([]byte("x"), size)))
		limited, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		for name, ctx := range map[string]context.Context{"no deadline": context.Background(), "a deadline": limited} {
			var rec store.Record
			var err error
			check := func(what string, call func() error) {
				t.Helper()
				for range 10 {
					err = call()
				}
				if n := testing.AllocsPerRun(200, func() { err = call() }); n != 0 || err != nil {
					t.Errorf("%s of %d bytes with %s: %v allocations, %v; want none", what, size, name, n, err)
				}
			}
			check("Load", func() error { return c.Load(ctx, shopID, &rec) })
			check("Touch", func() error { return c.Touch(ctx, shopID) })
			check("Lock and Save", func() error {
				if err := c.Lock(ctx, shopID, store.LockOptions{Owner: store.NewOwner()}, &rec); err != nil {
					return err
				}
				return c.Save(ctx, shopID, &rec, store.NewVersion(), false)
			})
			check("Lock and Unlock", func() error {
				if err := c.Lock(ctx, shopID, store.LockOptions{Owner: store.NewOwner()}, &rec); err != nil {
					return err
				}
				return c.Unlock(ctx, shopID, rec.Lock)
			})
		}
	}
}
