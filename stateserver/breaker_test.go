package stateserver

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-session/holdfast/store"
)

var errRefused = errors.New("connection refused")

// TestBreaker is its rule, step by step.
func TestBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(2 * time.Second)
		enter := func(wantProbe, want bool) {
			t.Helper()
			if probe, ok := b.enter(time.Now()); probe != wantProbe || ok != want {
				t.Fatalf("after %v: probe %v, let in %v; want %v, %v", time.Since(b.begun), probe, ok, wantProbe, want)
			}
		}
		pass := func(d time.Duration) { time.Sleep(d) }
		pass(time.Hour)
		b.failed(time.Now(), false, errRefused)
		pass(2*time.Second - 1)
		b.failed(time.Now(), false, errRefused)
		enter(false, true) // not yet

		// An answer in between begins anew.
		b.heard(time.Now())
		pass(1)
		b.failed(time.Now(), false, errRefused)
		pass(2 * time.Second)
		enter(false, true)
		b.failed(time.Now(), false, errRefused)
		enter(false, false)
		if err := b.err(); !errors.Is(err, errGone) || !errors.Is(err, errRefused) {
			t.Errorf("err is %v; want it to say why", err)
		}

		// One probe at a time, in intervals that grow.
		for _, pause := range []time.Duration{firstProbe, 2 * firstProbe, 4 * firstProbe} {
			pass(pause/2 - 1)
			enter(false, false)
			pass(pause/2 + 1)
			enter(true, true)
			enter(false, false)
			b.withdrew(true) // given up by its caller: the next one may
			enter(true, true)
			b.failed(time.Now(), false, errRefused) // of an attempt begun before
			enter(false, false)
			b.failed(time.Now(), true, errRefused)
			enter(false, false)
		}
		for range 10 {
			pass(lastProbe)
			enter(true, true)
			b.failed(time.Now(), true, errRefused)
		}
		pass(lastProbe)
		enter(true, true)
		b.heard(time.Now())
		enter(false, true)
		enter(false, true)

		// One long attempt that fails is as good as many: but not if others were
		// answered meanwhile.
		begun := time.Now()
		pass(3 * time.Second)
		b.heard(time.Now())
		b.failed(begun, false, errRefused)
		enter(false, true)
		begun = time.Now()
		pass(3 * time.Second)
		b.failed(begun, false, errRefused)
		enter(false, false)

		b = newBreaker(0)
		b.failed(time.Now().Add(-time.Hour), false, errRefused)
		enter(false, true)
	})
}

// outage is a network whose server is there or not.
type outage struct {
	*pipes
	gone  atomic.Bool
	dials atomic.Int32

	mu    sync.Mutex
	conns []net.Conn
}

func (o *outage) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	o.dials.Add(1)
	if o.gone.Load() {
		return nil, errRefused
	}
	nc, err := o.pipes.dial(ctx, network, addr)
	if err == nil {
		o.mu.Lock()
		o.conns = append(o.conns, nc)
		o.mu.Unlock()
	}
	return nc, err
}

func (o *outage) begin() {
	o.gone.Store(true)
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, nc := range o.conns {
		nc.Close()
	}
	o.conns = nil
}

// withOutage runs f in a bubble with a server that answers every request by 200.
func withOutage(t *testing.T, f func(t *testing.T, o *outage, c *Client)) {
	synctest.Test(t, func(t *testing.T) {
		o := &outage{pipes: newPipes()}
		defer o.Close()
		go func() {
			for nc, err := o.Accept(); err == nil; nc, err = o.Accept() {
				go answerSome(nc, false)
			}
		}()
		c := dial(t, "localhost:42424", &ClientOptions{DialContext: o.dial})
		defer c.Close()
		f(t, o, c)
	})
}

// TestShortRestartUnseen: a server that is back within a second or so fails no call,
// of those that were under way and those that came meanwhile.
func TestShortRestartUnseen(t *testing.T) {
	withOutage(t, func(t *testing.T, o *outage, c *Client) {
		var wg sync.WaitGroup
		for i := range 50 {
			wg.Go(func() {
				for range 40 {
					if err := c.Touch(t.Context(), shopID); err != nil {
						t.Errorf("caller %d: %v", i, err)
						return
					}
					time.Sleep(50 * time.Millisecond)
				}
			})
		}
		time.Sleep(200 * time.Millisecond)
		o.begin()
		time.Sleep(1200 * time.Millisecond)
		o.gone.Store(false)
		wg.Wait()
		if n := o.dials.Load(); n > 100 { // 50 callers share each try
			t.Errorf("%d connections were tried", n)
		}
	})
}

// TestOutageFailsFast: calls find out once that the server is gone; then they fail at
// once, few are tried, and all is well when it is back.
func TestOutageFailsFast(t *testing.T) {
	withOutage(t, func(t *testing.T, o *outage, c *Client) {
		if err := c.Touch(t.Context(), shopID); err != nil {
			t.Fatal(err)
		}
		o.begin()
		time.Sleep(time.Minute) // nobody asks
		start := time.Now()
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				err := c.Touch(t.Context(), shopID)
				took := time.Since(start)
				// One or the other was sent on the connection that broke.
				if !errors.Is(err, store.ErrUnavailable) && !errors.Is(err, store.ErrUnsure) || !errors.Is(err, errRefused) || took < DefaultOpenAfter || took > 2*DefaultOpenAfter {
					t.Errorf("while it finds out: %v after %v; want ErrUnavailable after %v", err, took, DefaultOpenAfter)
				}
			})
		}
		wg.Wait()
		before := o.dials.Load()
		start = time.Now()
		for range 6000 { // for a minute
			begun := time.Now()
			if err := c.Touch(t.Context(), shopID); !errors.Is(err, store.ErrUnavailable) || time.Since(begun) != 0 {
				t.Fatalf("while it is gone: %v after %v; want ErrUnavailable at once", err, time.Since(begun))
			}
			time.Sleep(10 * time.Millisecond)
		}
		if n := o.dials.Load() - before; n < 40 || n > 100 {
			t.Errorf("%d connections were tried in a minute", n)
		}
		o.gone.Store(false)
		for start = time.Now(); c.Touch(t.Context(), shopID) != nil; time.Sleep(10 * time.Millisecond) {
		}
		if took := time.Since(start); took > lastProbe {
			t.Errorf("back after %v; want at most %v", took, lastProbe)
		}
		for range 100 {
			if err := c.Touch(t.Context(), shopID); err != nil {
				t.Errorf("after it is back: %v", err)
			}
		}
	})
}
