package holdfast_test

import (
	"context"
	"io"
	"log/slog"
	"net"
	"sync/atomic"
	"testing"

	"github.com/holdfast-session/holdfast"
	"github.com/holdfast-session/holdfast/inproc"
	"github.com/holdfast-session/holdfast/stateserver"
	"github.com/holdfast-session/holdfast/store"
	"github.com/holdfast-session/holdfast/storetest"
)

// A cutConn is a connection whose next reply is cut off, and itself with it, when cut
// is set.
type cutConn struct {
	net.Conn
	cut *atomic.Bool
}

func (c cutConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 && c.cut.CompareAndSwap(true, false) {
		c.Close()
		return 0, io.ErrUnexpectedEOF
	}
	return n, err
}

// cutShop is a shop whose sessions are on a state server, and loses the reply to a call
// that applied, called when it was made, wants to be lost. The client repeats that call
// by itself.
func cutShop(t *testing.T, applied func(kept store.Store, call storetest.Call) (lose bool)) *shop {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var cut atomic.Bool
	kept := inproc.New(nil)
	faults := &storetest.Faults{After: func(_ context.Context, call storetest.Call) {
		if applied(kept, call) {
			cut.Store(true)
		}
	}}
	server := &stateserver.Server{Store: faults.Wrap(kept), Logger: slog.New(slog.DiscardHandler)}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	client, err := stateserver.Dial(l.Addr().String(), &stateserver.ClientOptions{
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			nc, err := new(net.Dialer).DialContext(ctx, network, addr)
			return cutConn{nc, &cut}, err
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		client.Close()
		server.Close()
		<-served
		kept.Close()
	})
	return openShop(t, client, nil)
}

// A session survives its new ID although the reply to the end of the old one was lost:
// that there is no old one any more is our own doing.
func TestRegeneratedWhileTheClientRepeats(t *testing.T) {
	var lost atomic.Bool
	st := cutShop(t, func(_ store.Store, call storetest.Call) bool {
		return call.Method == "Remove" && lost.CompareAndSwap(false, true)
	})
	st.Handle("/", application(st.m))
	st.do("/renew", holdfast.Exclusive, func(s *holdfast.Session) any {
		s.RegenerateID()
		return "renewed"
	})
	b := st.browser()
	b.want("/Exclusive/hit", "1")
	old := b.id()
	b.want("/renew", "renewed")
	if b.id() == old || !lost.Load() {
		t.Errorf("the ID was %s and is %s; a reply was lost: %v", old, b.id(), lost.Load())
	}
	b.want("/Exclusive/hit", "2")
}

// A function of Update runs once for each write, also where the reply to a Save was
// lost and so many others have saved before the client's repeat that this is refused.
func TestUpdateRunsOnceWhileTheClientRepeats(t *testing.T) {
	var armed, lost atomic.Bool
	st := cutShop(t, func(kept store.Store, call storetest.Call) bool {
		if call.Method != "Save" || !armed.CompareAndSwap(true, false) {
			return false
		}
		for range 4 {
			var rec store.Record
			if err := kept.Load(context.Background(), call.ID, &rec); err != nil {
				t.Error(err)
			}
			rec.Lock = store.Lock{}
			if err := kept.Save(context.Background(), call.ID, &rec, store.NewVersion(), false); err != nil {
				t.Error(err)
			}
		}
		lost.Store(true)
		return true
	})
	st.Handle("/", application(st.m))
	b := st.browser()
	b.want("/Merge/hit", "1")
	armed.Store(true)
	wantBusy(t, b.get("/Merge/hit")) // nobody knows
	if !lost.Load() {
		t.Error("no reply was lost")
	}
	b.want("/Merge/hit", "3")
}
