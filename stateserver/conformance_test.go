package stateserver_test

import (
	"log/slog"
	"net"
	"sync"
	"testing"

	"github.com/holdfast-session/holdfast/inproc"
	"github.com/holdfast-session/holdfast/stateserver"
	"github.com/holdfast-session/holdfast/store"
	"github.com/holdfast-session/holdfast/storetest"
)

// TestContract runs the whole suite on clients of servers that keep the sessions in
// their memory.
func TestContract(t *testing.T) {
	var mu sync.Mutex
	addrs := make(map[store.Store]string)
	open := func(o inproc.Options) func(testing.TB) store.Store {
		return func(t testing.TB) store.Store {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			kept := inproc.New(&o)
			s := &stateserver.Server{Store: kept, Logger: slog.New(slog.DiscardHandler)}
			served := make(chan error, 1)
			go func() { served <- s.Serve(l) }()
			t.Cleanup(func() {
				s.Close()
				kept.Close()
				if err := <-served; err != stateserver.ErrServerClosed {
					t.Errorf("Serve: %v; want ErrServerClosed", err)
				}
			})
			c := dial(t, l.Addr().String())
			mu.Lock()
			defer mu.Unlock()
			addrs[c] = l.Addr().String()
			return c
		}
	}
	storetest.Run(t, storetest.Harness{
		Open:      open(inproc.Options{Ends: 10000}),
		OpenSmall: open(inproc.Options{Ends: 1000, MaxSessions: 1000}),
		Second: func(t testing.TB, s store.Store) store.Store {
			mu.Lock()
			defer mu.Unlock()
			return dial(t, addrs[s])
		},
	})
}

func dial(t testing.TB, addr string) store.Store {
	t.Helper()
	c, err := stateserver.Dial(addr, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}
