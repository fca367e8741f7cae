package worker

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"testing"

	"github.com/holdfast-session/holdfast/inproc"
	"github.com/holdfast-session/holdfast/migrate"
	"github.com/holdfast-session/holdfast/stateserver"
	"github.com/holdfast-session/holdfast/store"
	"github.com/holdfast-session/holdfast/storetest"
)

// A pipes is a listener whose connections are in memory, as synctest wants them.
type pipes struct {
	accept chan net.Conn
	done   chan struct{}
	once   sync.Once
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.accept:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { p.once.Do(func() { close(p.done) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Net: "unix", Name: "pipe"} }

func (p *pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	select {
	case p.accept <- theirs:
		return ours, nil
	case <-p.done:
		return nil, errors.New("closed")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// process returns the sessions of a process, and how another one reaches them.
func process(t testing.TB, o inproc.Options) (*sessions, entrance) {
	s := newSessions(&o)
	p := &pipes{accept: make(chan net.Conn), done: make(chan struct{})}
	srv := &stateserver.Server{Store: exit{leaving{s.local, s}}, Logger: slog.New(slog.DiscardHandler)}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(p) }()
	c, err := stateserver.Dial("unix:pipe", &stateserver.ClientOptions{DialContext: p.dial, NearCache: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		srv.Close()
		if err := <-served; !errors.Is(err, stateserver.ErrServerClosed) && !errors.Is(err, io.EOF) {
			t.Errorf("Serve: %v", err)
		}
		s.local.Close()
	})
	return s, entrance{c}
}

// TestContract runs the suite on a process that has a predecessor, with that one, which
// still works on requests, as the second node.
func TestContract(t *testing.T) {
	var mu sync.Mutex
	before := make(map[store.Store]store.Store)
	open := func(o inproc.Options) func(testing.TB) store.Store {
		return func(t testing.TB) store.Store {
			old, toOld := process(t, o)
			next, toNext := process(t, o)
			old.move(migrate.New(leaving{old.local, old}, toNext, moving), false)
			next.move(migrate.New(toOld, next.local, moving), true)
			mu.Lock()
			defer mu.Unlock()
			before[next] = old
			return next
		}
	}
	storetest.Run(t, storetest.Harness{
		Bubble:    true,
		Open:      open(inproc.Options{Ends: 10000}),
		OpenSmall: open(inproc.Options{Ends: 500, MaxSessions: 500}),
		Second: func(t testing.TB, s store.Store) store.Store {
			mu.Lock()
			defer mu.Unlock()
			return before[s]
		},
	})
}
