//go:build unix

package worker_test

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/holdfast-session/holdfast/host"
	"github.com/holdfast-session/holdfast/inproc"
	"github.com/holdfast-session/holdfast/stateserver"
)

// stateServer starts one and returns the role of applications that use it.
func stateServer(t *testing.T) (role string) {
	t.Helper()
	st := inproc.New(nil)
	srv := &stateserver.Server{Store: st, Logger: slog.New(slog.DiscardHandler)}
	addr := "unix:" + filepath.Join(t.TempDir(), "state.sock")
	l, err := stateserver.Listen(addr)
	if err != nil {
		t.Fatal(err)
	}
	go srv.Serve(l)
	t.Cleanup(func() {
		srv.Close()
		st.Close()
	})
	return "state " + addr
}

// counts has v count to n, and returns which processes have answered.
func (v *visitor) counts(n int) map[int]bool {
	v.r.t.Helper()
	pids := make(map[int]bool)
	for i := 1; i <= n; i++ {
		a := v.ask("/hit")
		if a.text != strconv.Itoa(i) {
			v.r.t.Fatalf("hit %d is counted as %s, by worker %s", i, a.text, a.worker)
		}
		pids[a.pid] = true
	}
	return pids
}

// ready waits until all workers get requests.
func (r *rig) ready() {
	r.t.Helper()
	r.eventually("all workers are ready", func() bool {
		n := 0
		for _, s := range r.Status() {
			if s.State == host.Ready {
				n++
			}
		}
		return n == r.Workers
	})
}

// A web garden over a state server: whichever worker answers has the session.
func TestGardenOverAStateServer(t *testing.T) {
	r := newRig(t, stateServer(t), &host.Host{Workers: 4})
	r.ready()
	if pids := r.visitor().counts(40); len(pids) != 4 {
		t.Errorf("%d workers have answered, want 4", len(pids))
	}
}

// A web farm: two hosts, of two workers each, at two addresses that a visitor is led
// to in turn.
func TestFarmOverAStateServer(t *testing.T) {
	role := stateServer(t)
	hosts := []*rig{run(t, role, &host.Host{Workers: 2}), run(t, role, &host.Host{Workers: 2})}
	port := farmPort(t, hosts)
	for _, r := range hosts {
		r.ready()
	}
	var turn atomic.Int64
	jar, _ := cookiejar.New(nil)
	v := &visitor{r: hosts[0], client: &http.Client{Jar: jar, Transport: &http.Transport{
		DisableKeepAlives: true, // so that each request looks the name up
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, farmAddr(int(turn.Add(1)%2), port))
		},
	}}}
	hosts[0].url = "http://shop.example:" + port
	if pids := v.counts(40); len(pids) != 4 {
		t.Errorf("%d workers have answered, want all 4 of both hosts", len(pids))
	}
	for _, r := range hosts {
		r.recycle("test")
	}
	if a := v.ask("/hit"); a.text != "41" {
		t.Errorf("after both hosts have recycled their workers: hit 41 is counted as %s", a.text)
	}
}

// farmAddr is the address of host i.
func farmAddr(i int, port string) string { return fmt.Sprintf("127.0.0.%d:%s", i+1, port) }

// farmPort serves the hosts, all on one port that is free.
func farmPort(t *testing.T, hosts []*rig) (port string) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, len(hosts))
	listeners := make([]net.Listener, len(hosts))
	for try := 0; ; try++ {
		port = strconv.Itoa(20000 + rand.IntN(12768))
		var err error
		for i := range hosts {
			if listeners[i], err = net.Listen("tcp", farmAddr(i, port)); err != nil {
				break
			}
		}
		if err == nil {
			break
		}
		for _, l := range listeners {
			if l != nil {
				l.Close()
			}
		}
		if try == 100 {
			t.Fatal(err)
		}
	}
	for i, r := range hosts {
		go func() { served <- r.Serve(ctx, listeners[i]) }()
	}
	t.Cleanup(func() {
		cancel()
		for range hosts {
			if err := <-served; err != nil {
				t.Errorf("Serve: %v", err)
			}
		}
	})
	return port
}

// A web garden over InProc, in turn: the session is there on one worker, and missing on
// the next ones.
func TestGardenOverInProcFlickers(t *testing.T) {
	for _, role := range []string{"plain", "inproc"} {
		t.Run(role, func(t *testing.T) {
			r := newRig(t, role, &host.Host{Workers: 4})
			r.ready()
			v := r.visitor()
			home := v.ask("/hit").worker
			for range 12 {
				a := v.ask("/look")
				if there := strings.HasPrefix(a.text, "hits=1 "); there != (a.worker == home) {
					t.Errorf("the session of worker %s, seen on worker %s: %s", home, a.worker, a.text)
				}
			}
		})
	}
}

// With a routing that leads a visitor to the worker that he has been to, sessions hold
// until a recycle; and over it where the application uses package worker.
func TestGardenOverInProcHoldsByRouting(t *testing.T) {
	for _, routing := range []host.Routing{host.ByIP, host.BySession} {
		for _, role := range []string{"plain", "inproc"} {
			t.Run(fmt.Sprint(routing, " ", role), func(t *testing.T) {
				r := newRig(t, role, &host.Host{Workers: 4, Proxy: host.Proxy{
					Routing: routing, Trusted: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
				}})
				r.ready()
				var visitors []*visitor
				all := make(map[int]bool)
				for i := range 12 {
					v := r.visitor()
					v.addr = fmt.Sprintf("192.0.2.%d", i)
					pids := v.counts(10)
					if len(pids) != 1 {
						t.Errorf("visitor %d was with %d workers", i, len(pids))
					}
					for pid := range pids {
						all[pid] = true
					}
					visitors = append(visitors, v)
				}
				if len(all) < 2 {
					t.Error("one worker has all visitors")
				}
				r.recycle("test")
				want := "11"
				if role == "plain" {
					want = "1"
				}
				for i, v := range visitors {
					if a := v.ask("/hit"); a.text != want {
						t.Errorf("visitor %d after the recycle: %s hits, want %s", i, a.text, want)
					}
				}
			})
		}
	}
}
