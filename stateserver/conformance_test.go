package stateserver_test

import (
	"log/slog"
	"net"
	"testing"

	"github.com/holdfast-session/holdfast/inproc"
	"github.com/holdfast-session/holdfast/stateserver"
	"github.com/holdfast-session/holdfast/store"
	"github.com/holdfast-session/holdfast/storetest"
)

// TestContract runs the whole suite on a client whose server keeps the sessions in
// its memory.
func TestContract(t *testing.T) {
	storetest.Run(t, storetest.Harness{
		Open: func(t testing.TB) store.Store {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			kept := inproc.New(nil)
			s := &stateserver.Server{Store: kept, Logger: slog.New(slog.DiscardHandler)}
			served := make(chan error, 1)
			go func() { served <- s.Serve(l) }()
			c, err := stateserver.Dial(l.Addr().String(), nil)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				c.Close()
				s.Close()
				kept.Close()
				if err := <-served; err != stateserver.ErrServerClosed {
					t.Errorf("Serve: %v; want ErrServerClosed", err)
				}
			})
			return c
		},
	})
}
