package holdfast_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-session/holdfast"
	"github.com/holdfast-session/holdfast/inproc"
	"github.com/holdfast-session/holdfast/stateserver"
	"github.com/holdfast-session/holdfast/store"
)

// pipes are a network in this process, for a state server in fake time.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case nc := <-p.conns:
		return nc, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.done) })
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Net: "pipe"} }

func (p *pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	near, far := net.Pipe()
	select {
	case p.conns <- far:
		return near, nil
	case <-p.done:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// inFakeTime is md for a test in a bubble: its state server is in this process.
func (md mode) inFakeTime(t *testing.T) mode {
	if !md.remote {
		return md
	}
	network := &pipes{conns: make(chan net.Conn), done: make(chan struct{})}
	server := &stateserver.Server{Store: inproc.New(nil)}
	served := make(chan error, 1)
	go func() { served <- server.Serve(network) }()
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
		<-served
	})
	md.open = func(t testing.TB) store.Store {
		s, err := stateserver.Dial("pipe:1", &stateserver.ClientOptions{DialContext: network.dial})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return s
	}
	return md
}

// Two processes have a hundred requests each that wait for one session. Those of a
// process have their turn in order of arrival. Only the first of each waits at the
// store, which serves these in the order in which they came there, so the processes
// take turns. Each request costs the store two calls, Lock and Save, and none while it
// waits.
func TestTwoHundredRequestsHaveTheirTurn(t *testing.T) {
	inEveryMode(t, func(t *testing.T, md mode) {
		synctest.Test(t, func(t *testing.T) {
			const each = 100
			md := md.inFakeTime(t)
			o := holdfast.Options{App: "/queue", MaxWaiters: each, LockTimeout: time.Minute}
			st := buildShop(t, md.open(t), &o)
			far := st.store
			if md.remote {
				far = md.open(t)
			}
			shops := []*shop{st, buildShop(t, far, &o)}
			g := newGate()
			var browsers []*browser
			for i, sh := range shops {
				sh.url, sh.to = "http://shop.test", directly{sh.m.Handler(sh)}
				sh.do("/first", holdfast.Exclusive, func(s *holdfast.Session) any { note.Set(s, "first"); g.pass(); return nil })
				sh.page("/next", holdfast.Exclusive, func(_ http.ResponseWriter, r *http.Request, s *holdfast.Session) {
					<-time.After(time.Millisecond) // until everybody else waits
					note.Update(s, func(v string) string { return v + " " + r.FormValue("n") })
				})
				sh.do("/begin", holdfast.Exclusive, func(s *holdfast.Session) any { note.Set(s, ""); return nil })
				sh.do("/show", holdfast.ReadOnly, func(s *holdfast.Session) any { return note.Get(s) })
				b := sh.browser()
				if i == 0 {
					b.get("/begin")
				} else {
					b.setID(browsers[0].id())
				}
				browsers = append(browsers, b)
			}
			calls := func() int { return shops[0].faults.Count() + shops[1].faults.Count() }

			first := browsers[0].begin("/first")
			g.await(t)
			before := calls()
			var all sync.WaitGroup
			want := []string{"first"}
			for n := range each {
				for i, b := range browsers {
					all.Go(func() { b.wantStatus(fmt.Sprintf("/next?n=%c%d", 'a'+i, n), 200) })
					synctest.Wait()
				}
				want = append(want, fmt.Sprint("b", n), fmt.Sprint("a", n)) // b's first is at the store before a's
			}
			advance(5 * time.Second)
			if n := calls() - before; n != 1 { // the Lock of b's first
				t.Errorf("%d calls of the store while all wait, want 1", n)
			}
			g.open()
			<-first
			all.Wait()
			if n, most := calls()-before, 2*2*each+1; n > most { // and the first's Save
				t.Errorf("%d calls of the store for %d requests, want %d at most", n, 2*each, most)
			}
			browsers[1].want("/show", strings.Join(want, " "))
			if st.errs.len()+shops[1].errs.len() != 0 {
				t.Errorf("the hooks heard of %v and %v", st.errs.all, shops[1].errs.all)
			}
		})
	})
}
