package stateserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/holdfast-session/holdfast/inproc"
	"github.com/holdfast-session/holdfast/store"
)

// A countingNet counts the bytes that come.
type countingNet struct{ came atomic.Int64 }

func (n *countingNet) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	nc, err := new(net.Dialer).DialContext(ctx, network, addr)
	return &countingConn{nc, n}, err
}

type countingConn struct {
	net.Conn
	n *countingNet
}

func (c *countingConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.n.came.Add(int64(n))
	return n, err
}

// TestUnchangedBodyDoesNotTravel: but what has changed does, at once.
func TestUnchangedBodyDoesNotTravel(t *testing.T) {
	noLeaks(t)
	addr := serve(t, &Server{Store: inproc.New(nil)})
	net := new(countingNet)
	near, far := dial(t, addr, &ClientOptions{DialContext: net.dial}), dial(t, addr, &ClientOptions{NearCache: -1})
	ctx := testContext(t)
	const size = 50_000
	body := func(n byte) []byte { return bytes.Repeat([]byte{n}, size) }
	mustCreate(t, far, shopID, string(body('a')))

	var rec store.Record
	lock := func() error { return near.Lock(ctx, shopID, store.LockOptions{Owner: 7}, &rec) }
	load := func() error { return near.Load(ctx, shopID, &rec) }
	check := func(what string, call func() error, want byte, travels bool) {
		t.Helper()
		before := net.came.Load()
		rec = store.Record{Body: rec.Body[:0]}
		if err := call(); err != nil || !bytes.Equal(rec.Body, body(want)) {
			t.Fatalf("%s: %.3q, %v; want %d of %q", what, rec.Body, err, size, want)
		}
		if came := net.came.Load() - before; came > size != travels {
			t.Errorf("%s: %d bytes came for a body of %d; want it to travel: %v", what, came, size, travels)
		}
	}
	check("the first Load", load, 'a', true)
	check("the second Load", load, 'a', false)
	check("Lock", lock, 'a', false)
	if now := mustLoad(t, far, shopID); !now.Locked || now.Lock.Cookie != rec.Lock.Cookie || rec.Lock.Owner != 7 || !rec.Locked || rec.Acquired != rec.Version {
		t.Errorf("a Lock without a body locks %+v and returns %+v", now.Lock, rec.Lock)
	}
	rec.Body = append(rec.Body[:0], body('b')...)
	if err := near.Save(ctx, shopID, &rec, store.NewVersion(), false); err != nil {
		t.Fatal(err)
	}
	check("Load of what was saved", load, 'b', false)

	other := mustLoad(t, far, shopID)
	other.Lock, other.Body = store.Lock{}, body('c')
	if err := far.Save(ctx, shopID, other, store.NewVersion(), false); err != nil {
		t.Fatal(err)
	}
	check("Load of what another saved", load, 'c', true)
	check("Load of that again", load, 'c', false)

	// A session that ended is not found, and one that has taken its place is another.
	if err := far.Remove(ctx, shopID, store.Lock{}, store.Reason{Kind: store.Abandoned}); err != nil {
		t.Fatal(err)
	}
	for _, call := range []func() error{load, lock} {
		if err := call(); !errors.Is(err, store.ErrNotFound) || store.ReasonOf(err).Kind != store.Abandoned {
			t.Errorf("after the end: %v; want ErrNotFound, abandoned", err)
		}
	}
	mustCreate(t, far, shopID, string(body('d')))
	check("Load of the next session", load, 'd', true)
}

// TestNearCacheNeverMixes: a body and its version stay together while others write.
func TestNearCacheNeverMixes(t *testing.T) {
	noLeaks(t)
	addr := serve(t, &Server{Store: inproc.New(nil)})
	clients := []*Client{dial(t, addr, &ClientOptions{NearCache: 64 << 10}), dial(t, addr, nil)}
	ctx := testContext(t)
	content := func(v store.Version) []byte { return bytes.Repeat(fmt.Appendf(nil, "%016x", uint64(v)), 100) }
	ids := make([]store.ID, 8)
	for i := range ids {
		ids[i] = store.ID{App: "/", Session: fmt.Sprint(i)}
		rec := store.Record{Version: store.NewVersion(), Timeout: 1e12}
		rec.Body = content(rec.Version)
		if err := clients[0].Create(ctx, ids[i], &rec, false); err != nil {
			t.Fatal(err)
		}
	}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			var rec store.Record
			for n := range 100 {
				c, id := clients[(i+n)%2], ids[(i*n)%len(ids)]
				if err := c.Load(ctx, id, &rec); err != nil || !bytes.Equal(rec.Body, content(rec.Version)) {
					t.Errorf("Load: version %x with %.16q, %v", rec.Version, rec.Body, err)
					return
				}
				if n%4 == 0 {
					next := store.NewVersion()
					rec.Lock, rec.Body = store.Lock{}, content(next)
					if err := c.Save(ctx, id, &rec, next, false); err != nil && !errors.Is(err, store.ErrConflict) {
						t.Errorf("Save: %v", err)
					}
				}
			}
		})
	}
	wg.Wait()
}
