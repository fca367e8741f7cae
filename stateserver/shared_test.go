package stateserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-session/holdfast/inproc"
	"github.com/holdfast-session/holdfast/store"
)

// until waits for something that happens soon.
func until(t testing.TB, what string, happened func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); !happened(); runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatalf("it did not happen: %s", what)
		}
	}
}

// A gateStore holds the Loads of some sessions back.
type gateStore struct {
	store.Store
	gates map[string]chan struct{} // by session
}

func (s *gateStore) Load(ctx context.Context, id store.ID, rec *store.Record) error {
	if gate := s.gates[id.Session]; gate != nil {
		<-gate
	}
	return s.Store.Load(ctx, id, rec)
}

// inFlight is how many requests are on the shared connections of c.
func inFlight(c *Client) (n int) {
	for _, cn := range *c.shared.conns.Load() {
		n += int(cn.load.Load())
	}
	return n
}

// TestManyCallersFewConnections: each gets the answer to his own request.
func TestManyCallersFewConnections(t *testing.T) {
	noLeaks(t)
	f := new(flakyNet)
	c := dial(t, serve(t, &Server{Store: inproc.New(nil)}), &ClientOptions{Conns: 2, DialContext: f.dial})
	ctx := testContext(t)
	var wg sync.WaitGroup
	for i := range 200 {
		id := store.ID{App: "/shop", Session: fmt.Sprint(i)}
		body := strings.Repeat(fmt.Sprint(i, " "), i)
		wg.Go(func() {
			rec := mustCreate(t, c, id, body)
			for n := range 20 {
				if err := c.Load(ctx, id, rec); err != nil || string(rec.Body) != body {
					t.Errorf("Load of session %d: %d bytes, %v; want its own %d", i, len(rec.Body), err, len(body))
					return
				}
				if n%5 == 0 {
					if err := c.Touch(ctx, id); err != nil {
						t.Errorf("Touch of session %d: %v", i, err)
					}
				}
				none := store.ID{App: "/shop", Session: "none"}
				if err := c.Touch(ctx, none); !errors.Is(err, store.ErrNotFound) {
					t.Errorf("Touch of none: %v", err)
				}
			}
		})
	}
	wg.Wait()
	if n := f.dials.Load(); n > 2 {
		t.Errorf("%d connections; want at most 2", n)
	}
	if n := inFlight(c); n != 0 {
		t.Errorf("%d requests are left", n)
	}
}

// TestGivenUpDisturbsNobody: those behind a call that was given up, whether it was
// the one who read or one who waited, get their answers on the same connection.
func TestGivenUpDisturbsNobody(t *testing.T) {
	for _, tc := range []struct {
		name string
		ctx  func() (context.Context, context.CancelFunc)
		want error
	}{
		{"cancelled", func() (context.Context, context.CancelFunc) { return context.WithCancel(context.Background()) }, context.Canceled},
		{"late", func() (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
			return ctx, func() { <-ctx.Done(); cancel() }
		}, context.DeadlineExceeded},
	} {
		t.Run(tc.name, func(t *testing.T) {
			noLeaks(t)
			kept := &gateStore{inproc.New(nil), map[string]chan struct{}{targetID.Session: make(chan struct{})}}
			f := new(flakyNet)
			c := dial(t, serve(t, &Server{Store: kept}), &ClientOptions{Conns: 1, DialContext: f.dial})
			slow := store.ID{App: "/shop", Session: targetID.Session}
			mustCreate(t, c, slow, "slow")
			ids := make([]store.ID, 4)
			for i := range ids {
				ids[i] = store.ID{App: "/shop", Session: fmt.Sprint(i)}
				mustCreate(t, c, ids[i], fmt.Sprint("body ", i))
			}
			given := make(chan error)
			giveUp := make([]context.CancelFunc, 2)
			for i := range giveUp { // the one who reads, and one who waits
				var ctx context.Context
				ctx, giveUp[i] = tc.ctx()
				go func() { given <- c.Load(ctx, slow, new(store.Record)) }()
				until(t, "the request is sent", func() bool { return inFlight(c) == 3*i+1 })
				for _, id := range ids[2*i:][:2] {
					go func() {
						rec := new(store.Record)
						err := c.Load(context.Background(), id, rec)
						if want := "body " + id.Session; err != nil || string(rec.Body) != want {
							err = fmt.Errorf("Load behind it: %q, %v; want %q", rec.Body, err, want)
						}
						given <- err
					}()
				}
				until(t, "the requests are sent", func() bool { return inFlight(c) == 3*i+3 })
			}
			for _, end := range giveUp {
				end()
				if err := <-given; !errors.Is(err, tc.want) || !errors.Is(err, store.ErrUnsure) {
					t.Errorf("given up: %v; want %v, unsure", err, tc.want)
				}
			}
			close(kept.gates[targetID.Session])
			for range ids {
				if err := <-given; err != nil {
					t.Error(err)
				}
			}
			if got := mustLoad(t, c, slow); string(got.Body) != "slow" {
				t.Errorf("afterwards: %q", got.Body)
			}
			if n := f.dials.Load(); n != 1 {
				t.Errorf("%d connections; want the one", n)
			}
		})
	}
}

// TestLockGivenUpIsReleasedBehind: a Lock that is given up on a shared connection is
// released on the same one, which therefore cannot be read before it.
func TestLockGivenUpIsReleasedBehind(t *testing.T) {
	noLeaks(t)
	kept := inproc.New(nil)
	granted, release := make(chan struct{}), make(chan struct{})
	f := new(flakyNet)
	addr := serve(t, &Server{Store: &slowStore{Store: kept, before: func() { close(granted); <-release }}})
	c := dial(t, addr, &ClientOptions{Conns: 1, DialContext: f.dial})
	mustCreate(t, c, shopID, "")
	other := store.ID{App: "/shop", Session: "other"}
	mustCreate(t, c, other, "other's")
	ctx, cancel := context.WithCancel(t.Context())
	got := make(chan error)
	go func() { got <- c.Lock(ctx, shopID, store.LockOptions{Owner: 7}, new(store.Record)) }()
	<-granted
	go func() {
		rec := new(store.Record)
		err := c.Load(context.Background(), other, rec)
		if string(rec.Body) != "other's" {
			err = fmt.Errorf("Load behind it: %q, %v", rec.Body, err)
		}
		got <- err
	}()
	until(t, "both are sent", func() bool { return inFlight(c) == 2 })
	cancel()
	if err := <-got; !errors.Is(err, context.Canceled) || !errors.Is(err, store.ErrUnsure) {
		t.Errorf("Lock: %v; want %v, unsure", err, context.Canceled)
	}
	until(t, "the release is sent", func() bool { return inFlight(c) == 3 })
	close(release)
	if err := <-got; err != nil {
		t.Error(err)
	}
	mustLock(t, c, shopID, store.LockOptions{Wait: limit})
	if n := f.dials.Load(); n > 2 { // one more if the Lock had to wait
		t.Errorf("%d connections", n)
	}
}

// TestStalledConnectionIsLeft: after a call that got nothing for long, later ones do
// not queue up behind it.
func TestStalledConnectionIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newPipes()
		defer net.Close()
		go func() {
			for n := 0; ; n++ {
				nc, err := net.Accept()
				if err != nil {
					return
				}
				go answerSome(nc, n == 0)
			}
		}()
		c := dial(t, "localhost:42424", &ClientOptions{Timeout: 3 * time.Second, Conns: 1, DialContext: net.dial})
		if err := c.Touch(t.Context(), shopID); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		errs := make(chan error)
		for i := range 3 {
			go func() {
				time.Sleep(time.Duration(i) * 100 * time.Millisecond)
				errs <- c.Touch(t.Context(), shopID)
			}()
		}
		for i := range 3 {
			err, after := <-errs, time.Since(start)
			if want := 3*time.Second + time.Duration(i)*100*time.Millisecond; !errors.Is(err, store.ErrUnsure) || after != want {
				t.Errorf("on the stalled connection: %v after %v; want ErrUnsure after %v", err, after, want)
			}
		}
		start = time.Now()
		if err := c.Touch(t.Context(), shopID); err != nil || time.Since(start) > 0 {
			t.Errorf("after it: %v after %v; want none, at once", err, time.Since(start))
		}
		c.Close()
	})
}

// answerSome answers requests without a body by 200, or only the first of them.
func answerSome(nc net.Conn, first bool) {
	defer nc.Close()
	var in []byte
	buf := make([]byte, 4096)
	for n := 0; ; {
		k, err := nc.Read(buf)
		if err != nil {
			return
		}
		in = append(in, buf[:k]...)
		for {
			var r request
			size, err := r.parse(in, testLimits)
			if err != nil {
				break
			}
			in = in[size:]
			if n++; first && n > 1 {
				continue
			}
			io.WriteString(nc, "HTTP/1.1 200 OK\r\nHoldfast: 1\r\nX-AspNet-Version: 4.0\r\nContent-Length: 0\r\n\r\n")
		}
	}
}

// TestIdleConnections: one that the server has closed is found out before a request
// is lost on it, and one that is open is used again, however long ago its last
// deadline was.
func TestIdleConnections(t *testing.T) {
	for _, closed := range []bool{false, true} {
		t.Run(fmt.Sprint("closed=", closed), func(t *testing.T) {
			if closed && runtime.GOOS == "windows" {
				return // cannot be seen there, see alive_other.go
			}
			noLeaks(t)
			accepted := make(chan net.Conn, 2)
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			go func() {
				for nc, err := l.Accept(); err == nil; nc, err = l.Accept() {
					accepted <- nc
					go answerSome(nc, false)
				}
			}()
			c := dial(t, l.Addr().String(), nil)
			for range 2 {
				if err := c.Touch(testContext(t), shopID); err != nil {
					t.Fatal(err)
				}
			}
			cn := (*c.shared.conns.Load())[0]
			cn.heardAt.Add(-int64(time.Second))
			cn.readBy = time.Time{}
			cn.nc.SetReadDeadline(aLongTimeAgo)
			far := <-accepted
			if closed {
				far.Close()
				until(t, "the end is seen", func() bool { cn.nc.SetReadDeadline(time.Time{}); return !alive(cn.nc) })
			}
			if err := c.Touch(testContext(t), shopID); err != nil {
				t.Fatal(err)
			}
			if again := (*c.shared.conns.Load())[0]; (again != cn) != closed || len(accepted) > 0 != closed {
				t.Errorf("another connection: %v; want %v", again != cn, closed)
			}
		})
	}
}

// TestCountUnderFaults: however replies and connections are lost, every increment
// under a lock counts once.
func TestCountUnderFaults(t *testing.T) {
	noLeaks(t)
	f := new(flakyNet)
	c := dial(t, serve(t, &Server{Store: inproc.New(nil)}), &ClientOptions{Conns: 2, DialContext: f.dial})
	ctx := testContext(t)
	const sessions, callers, each = 4, 16, 20
	id := func(i int) store.ID { return store.ID{App: "/shop", Session: fmt.Sprint(i % sessions)} }
	for i := range sessions {
		mustCreate(t, c, id(i), "0000")
	}
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			for range each {
				if rand.N(4) == 0 {
					f.lose.Add(1)
				}
				var rec store.Record
				if err := c.Lock(ctx, id(i), store.LockOptions{Owner: store.NewOwner(), Wait: limit}, &rec); err != nil {
					t.Errorf("Lock: %v", err)
					return
				}
				n, err := strconv.Atoi(string(rec.Body))
				if err != nil {
					t.Error(err)
				}
				rec.Body = fmt.Appendf(rec.Body[:0], "%04d", n+1)
				if err := c.Save(ctx, id(i), &rec, store.NewVersion(), false); err != nil {
					t.Errorf("Save: %v", err)
				}
			}
		})
	}
	wg.Wait()
	f.lose.Store(0)
	for i := range sessions {
		got := mustLoad(t, c, id(i))
		if want := fmt.Sprintf("%04d", callers*each/sessions); string(got.Body) != want || got.Locked {
			t.Errorf("counted to %s, locked: %v; want %s", got.Body, got.Locked, want)
		}
	}
}
