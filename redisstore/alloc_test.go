//go:build !race

package redisstore_test

import (
	"bytes"
	"context"
	"math"
	"testing"
	"time"

	"github.com/holdfast-session/holdfast/redisstore"
	"github.com/holdfast-session/holdfast/store"
)

// TestAllocates bounds what the calls of a request allocate, the client's part included:
// the key, the arguments, the command and the reply. Each has a bound of its own, so that
// one more is noticed.
func TestAllocates(t *testing.T) {
	limited, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	s := new(wiretap).open(t, single(t), redisstore.Options{Prefix: anyPrefix(), Ends: -1})
	id := testID("s")
	mustCreate(t, s, id, store.Record{Body: bytes.Repeat([]byte{'x'}, 4096), Subject: "anna"})
	var rec store.Record
	var err error
	for _, tc := range []struct {
		what string
		most float64
		call func() error
	}{
		{"Load of what has not changed", 5, func() error { return s.Load(limited, id, &rec) }},
		{"Touch", 3, func() error { return s.Touch(limited, id) }},
		{"Lock and Save", 18, func() error {
			if err := s.Lock(limited, id, store.LockOptions{Owner: store.NewOwner()}, &rec); err != nil {
				return err
			}
			return s.Save(limited, id, &rec, store.NewVersion(), false)
		}},
	} {
		for range 10 {
			err = tc.call()
		}
		n := math.Inf(1)
		for i := 0; i < 5 && n > tc.most; i++ { // what goes on in the background allocates, too
			n = min(n, testing.AllocsPerRun(200, func() { err = tc.call() }))
		}
		if n > tc.most || err != nil {
			t.Errorf("%s: %v allocations, %v; want %v at most", tc.what, n, err, tc.most)
		}
	}
}
