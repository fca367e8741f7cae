//go:build unix

package worker_test

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-session/holdfast/host"
)

// rounds is how many recycles a test causes: 6 or, with HOLDFAST_LONG=1, 100.
func rounds() int {
	if os.Getenv("HOLDFAST_LONG") == "1" {
		return 100
	}
	return 6
}

// A crowd of visitors counts its hits.
type crowd struct {
	requests atomic.Int64
	lost     atomic.Int64 // sessions that were gone
	stop     func()
}

// crowd sends visitors who ask for one page after another until stop. Every answer is
// to be a page, and the next number or, of a new session, 1.
func (r *rig) crowd(visitors int) *crowd {
	c := &crowd{}
	ctx, cancel := context.WithCancel(r.t.Context())
	var wg sync.WaitGroup
	for range visitors {
		wg.Go(func() {
			v := r.visitor()
			for n := 1; ctx.Err() == nil; n++ {
				a, err := v.get("/hit")
				switch {
				case err != nil || a.status != 200:
					r.t.Errorf("a request failed: %+v, %v", a, err)
					return
				case a.text == "1" && n > 1:
					c.lost.Add(1)
					n = 1
				case a.text != strconv.Itoa(n):
					r.t.Errorf("hit %d is counted as %s", n, a.text)
					return
				}
				c.requests.Add(1)
			}
		})
	}
	c.stop = sync.OnceFunc(func() { cancel(); wg.Wait() })
	r.t.Cleanup(c.stop)
	return c
}

// lost is how many sessions the journal says that processes have lost.
func (r *rig) lost() (n int) {
	for _, e := range r.Exits() {
		if e.Sessions != nil {
			n += e.Sessions.Lost
		}
	}
	return n
}

// Through recycle after recycle under load, each for another reason in turn, no request
// fails, and no session loses a hit.
func TestSessionsThroughEveryTrigger(t *testing.T) {
	for _, kind := range []string{"inproc", "folder", "state"} {
		t.Run(kind, func(t *testing.T) {
			role := kind
			switch kind {
			case "folder":
				role += " " + t.TempDir()
			case "state":
				role = stateServer(t)
			}
			config := filepath.Join(t.TempDir(), "config.yaml")
			write := func(text string) {
				t.Helper()
				if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			write("first")
			r := newRig(t, role, &host.Host{
				Workers: 2,
				Proxy:   host.Proxy{Routing: host.BySession},
				Watch:   host.Watch{Paths: []string{config}},
				Health:  host.Health{Path: "/healthz", Every: 50 * time.Millisecond, Timeout: 250 * time.Millisecond, Failures: 1},
			})
			r.ready()
			c := r.crowd(4)
			ended := func() map[host.Reason]int {
				n := map[host.Reason]int{}
				for _, e := range r.Exits() {
					n[e.Reason]++
				}
				return n
			}
			for n := range rounds() {
				served, before, reason, workers := c.requests.Load(), ended(), host.Requested, 2
				switch n % 3 {
				case 0:
					if err := r.Recycle(t.Context(), 0, "test"); err != nil {
						t.Fatal(err)
					}
				case 1:
					reason = host.FileChanged
					write(fmt.Sprint("change ", n))
				case 2:
					reason, workers = host.Unhealthy, 1
					r.visitor().ask("/sick")
				}
				r.eventually(fmt.Sprintf("%d workers are recycled: %s", workers, reason), func() bool {
					return ended()[reason] >= before[reason]+workers || t.Failed()
				})
				r.eventually("fifty requests more", func() bool { return c.requests.Load() > served+50 || t.Failed() })
				if t.Failed() {
					break
				}
			}
			c.stop()
			reasons := ended()
			for _, reason := range []host.Reason{host.Requested, host.FileChanged, host.Unhealthy} {
				if reasons[reason] == 0 {
					t.Errorf("no worker was recycled for %q: %v", reason, reasons)
				}
			}
			if len(reasons) != 3 {
				t.Errorf("workers have ended for %v", reasons)
			}
			t.Logf("%d requests, %v", c.requests.Load(), reasons)
			if n := c.lost.Load(); n != 0 || r.lost() != 0 {
				t.Errorf("%d sessions were lost, and %d by the journal", n, r.lost())
			}
		})
	}
}

// The same through a limit of requests, which is reached again and again.
func TestSessionsThroughRequestLimits(t *testing.T) {
	r := newRig(t, "inproc", &host.Host{Workers: 2, Proxy: host.Proxy{Routing: host.BySession}, Limits: host.Limits{Requests: 100}})
	r.ready()
	c := r.crowd(4)
	r.eventually("workers are recycled", func() bool { return len(r.Exits()) >= rounds() || t.Failed() })
	c.stop()
	for _, e := range r.Exits() {
		if e.Reason != host.RequestLimit {
			t.Errorf("%v", e)
		}
	}
	if n := c.lost.Load(); n != 0 || r.lost() != 0 {
		t.Errorf("%d sessions were lost, and %d by the journal", n, r.lost())
	}
}

// Where there is no successor, because the application is idle, sessions in memory are
// lost: as many as the journal says, and their visitors are told why.
func TestJournalHasWhatIsLost(t *testing.T) {
	const visitors = 9
	for _, role := range []string{"inproc", "folder " + t.TempDir()} {
		t.Run(role[:6], func(t *testing.T) {
			r := newRig(t, role, &host.Host{Workers: 2, Limits: host.Limits{Idle: 500 * time.Millisecond}, Proxy: host.Proxy{Routing: host.BySession}})
			r.ready()
			var all []*visitor
			for range visitors {
				v := r.visitor()
				v.ask("/hit")
				all = append(all, v)
			}
			r.eventually("the workers are stopped", func() bool { return len(r.Exits()) == 2 })
			lost := 0
			for _, v := range all {
				a := v.ask("/look")
				if strings.HasPrefix(a.text, "hits=1 ") {
					continue
				}
				lost++
				if !strings.HasPrefix(a.text, "hits=0 connected=false lost=restarted because of PID ") || !strings.Contains(a.text, ": idle") {
					t.Errorf("a visitor who has lost his session is told %q", a.text)
				}
			}
			carried := 0
			for _, e := range r.Exits()[:2] {
				if e.Sessions == nil {
					t.Fatalf("the journal does not know what was lost: %v", e)
				}
				carried += e.Sessions.Carried
			}
			want := 0
			if role == "inproc" {
				want = visitors
			}
			if lost != want || r.lost() != want || carried != visitors-want {
				t.Errorf("%d sessions were lost; by the journal %d, and %d carried over; want %d", lost, r.lost(), carried, want)
			}
		})
	}
}

// A crash loses what is in memory, and at least as much as the journal says. Next to it,
// a folder has all that was written there in time.
func TestCrashUnderLoad(t *testing.T) {
	t.Run("inproc", func(t *testing.T) {
		r := newRig(t, "inproc", &host.Host{Workers: 2, Proxy: host.Proxy{Routing: host.BySession}})
		r.ready()
		var all []*visitor
		for range 10 {
			v := r.visitor()
			v.ask("/hit")
			all = append(all, v)
		}
		r.eventually("the host knows of the sessions", func() bool {
			n := 0
			for _, s := range r.Status() {
				if s.Sessions != nil {
					n += *s.Sessions
				}
			}
			return n == len(all)
		})
		if err := syscall.Kill(r.Status()[0].PID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		r.eventually("the end is recorded", func() bool { return len(r.Exits()) == 1 })
		lost := 0
		for _, v := range all {
			if a := v.ask("/hit"); a.text == "1" {
				lost++
			}
		}
		if lost == 0 || lost == len(all) || lost != r.lost() {
			t.Errorf("%d of %d sessions were lost, and %d by the journal", lost, len(all), r.lost())
		}
	})
	t.Run("folder", func(t *testing.T) {
		dir := t.TempDir()
		r := newRig(t, "folder "+dir, &host.Host{})
		v := r.visitor()
		for n := 1; n <= 3; n++ {
			before := saves(t, dir)
			if a := v.ask("/hit"); a.text != strconv.Itoa(n) {
				t.Fatalf("hit %d is counted as %s", n, a.text)
			}
			r.eventually("it is written", func() bool { return saves(t, dir) > before })
			if err := syscall.Kill(r.Status()[0].PID, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			r.eventually("the end is recorded", func() bool { return len(r.Exits()) == n })
		}
	})
}

// saves is how often the files in a folder have a session with hits.
func saves(t *testing.T, dir string) (n int) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		n += bytes.Count(b, []byte("hits"))
		return err
	})
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return n
}
