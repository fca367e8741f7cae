//go:build unix

package worker_test

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/holdfast-session/holdfast/host"
)

// Sessions that nobody uses meanwhile go to the next process, and the journal counts
// them.
func TestIdleSessionsAreHandedOver(t *testing.T) {
	for _, role := range []string{"inproc", "folder " + t.TempDir()} {
		t.Run(role[:6], func(t *testing.T) {
			r := newRig(t, role, &host.Host{})
			const n = 50
			var visitors []*visitor
			for range n {
				v := r.visitor()
				v.ask("/hit")
				visitors = append(visitors, v)
			}
			for round := range 3 {
				r.recycle("test")
				exits := r.Exits()
				last := exits[len(exits)-1]
				if last.Sessions == nil || last.Sessions.Carried != n || last.Sessions.Lost != 0 {
					t.Errorf("recycle %d: the journal has %+v of %+v", round, last.Sessions, last)
				}
			}
			for _, v := range visitors {
				if a := v.ask("/hit"); a.text != "2" {
					t.Fatalf("after the recycles: %q hits, want 2", a.text)
				}
			}
		})
	}
}

// Every visitor counts his hits while workers are recycled under him: no request fails
// and no hit is lost.
func TestNoHitIsLostThroughRecycles(t *testing.T) {
	for _, role := range []string{"inproc", "folder " + t.TempDir()} {
		t.Run(role[:6], func(t *testing.T) {
			r := newRig(t, role, &host.Host{})
			ctx, cancel := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			var requests atomic.Int64
			for range 8 {
				wg.Go(func() {
					v := r.visitor()
					for n := 1; ctx.Err() == nil; n++ {
						path, want := "/hit", strconv.Itoa(n)
						if n%3 == 0 {
							path, want = "/merge", ""
						}
						if a, err := v.get(path); err != nil || a.status != 200 || a.text != want {
							t.Errorf("request %d of a visitor, %s: %+v, %v", n, path, a, err)
							return
						}
						requests.Add(1)
					}
				})
			}
			for range 4 {
				n := requests.Load()
				r.eventually("a hundred requests more", func() bool { return requests.Load() > n+100 || t.Failed() })
				r.recycle("test")
			}
			cancel()
			wg.Wait()
			for _, e := range r.Exits() {
				if e.Sessions == nil || e.Sessions.Lost != 0 {
					t.Errorf("the journal has %+v of %+v", e.Sessions, e)
				}
			}
		})
	}
}

// A request that the old process still works on when its visitor's next one comes to
// the new process keeps what it does: exclusive requests take turns over both, those
// that are merged save wherever the session is by then.
func TestLateSavesGoToTheNewHome(t *testing.T) {
	for _, slow := range []string{"/slow", "/slowmerge"} {
		t.Run(slow[1:], func(t *testing.T) {
			r := newRig(t, "inproc", &host.Host{})
			v := r.visitor()
			old := v.ask("/hit").pid
			late := make(chan answer, 1)
			go func() {
				a, _ := v.get(slow)
				late <- a
			}()
			r.eventually("the slow request is in", func() bool { return r.out.count("slow begins") > 0 })
			if err := r.Recycle(t.Context(), 0, "test"); err != nil {
				t.Fatal(err)
			}
			next := make(chan answer, 1)
			go func() {
				a, _ := v.get("/hit")
				next <- a
			}()
			if slow == "/slowmerge" { // it does not wait
				if a := <-next; a.text != "2" || a.pid == old {
					t.Errorf("meanwhile in the new process: %+v", a)
				}
			}
			if err := syscall.Kill(old, syscall.SIGUSR1); err != nil {
				t.Fatal(err)
			}
			if a := <-late; a.status != 200 || a.pid != old {
				t.Errorf("the slow request: %+v", a)
			}
			if slow == "/slow" {
				if a := <-next; a.text != "3" || a.pid == old {
					t.Errorf("after it in the new process: %+v", a)
				}
			}
			r.eventually("the old process is gone", func() bool { return len(r.Exits()) == 1 })
			if a := v.ask("/hit"); a.text != "4" {
				t.Errorf("in the end: %+v, want 4 hits", a)
			}
		})
	}
}

// A session that begins in the old process, because its first request was there, is in
// the new one.
func TestSessionsThatBeginLate(t *testing.T) {
	r := newRig(t, "inproc", &host.Host{})
	late := make(chan answer, 1)
	v := r.visitor()
	go func() {
		a, _ := v.get("/slow")
		late <- a
	}()
	r.eventually("the slow request is in", func() bool { return r.out.count("slow begins") > 0 })
	old := r.Status()[0].PID
	if err := r.Recycle(t.Context(), 0, "test"); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(old, syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	if a := <-late; a.text != "0 1" || a.pid != old {
		t.Errorf("the slow request: %+v", a)
	}
	if a := v.ask("/hit"); a.text != "2" || a.pid == old {
		t.Errorf("the next one: %+v", a)
	}
}

// Live values cannot be handed over. The session can, and says so, and why.
func TestLiveValuesAreLostAndSaySo(t *testing.T) {
	r := newRig(t, "inproc", &host.Host{})
	v := r.visitor()
	v.ask("/connect")
	if a := v.ask("/look"); a.text != "hits=1 connected=true lost=unknown" {
		t.Fatalf("before: %q", a.text)
	}
	old := v.ask("/look").pid
	r.recycle("config.yaml")
	want := fmt.Sprintf("hits=1 connected=false lost=restarted because of PID %d at ", old)
	if a := v.ask("/look"); !strings.HasPrefix(a.text, want) || !strings.HasSuffix(a.text, ": requested, config.yaml") {
		t.Errorf("after: %q, want %q…", a.text, want)
	}
}

// Without package worker, or when a process crashes, sessions in memory are lost, the
// journal has how many as far as it knows, and with the package the visitor is told
// why.
func TestWhatACrashLoses(t *testing.T) {
	t.Run("inproc", func(t *testing.T) {
		r := newRig(t, "inproc", &host.Host{})
		v := r.visitor()
		old := v.ask("/hit").pid
		r.eventually("the host knows of a session", func() bool { s := r.Status()[0].Sessions; return s != nil && *s == 1 })
		if err := r.Kill(t.Context(), old, "by the test"); err != nil {
			t.Fatal(err)
		}
		a := v.ask("/look")
		if want := fmt.Sprintf("hits=0 connected=false lost=restarted because of PID %d at ", old); !strings.HasPrefix(a.text, want) || !strings.HasSuffix(a.text, ": killed, by the test") {
			t.Errorf("%q, want %q…", a.text, want)
		}
		if e := r.Exits()[0]; e.Sessions == nil || e.Sessions.Lost != 1 {
			t.Errorf("the journal has %+v of %+v", e.Sessions, e)
		}
		// A recycle afterwards loses nothing, and does not hide why it was lost.
		r.recycle("test")
		if again := v.ask("/look"); again.text != a.text {
			t.Errorf("after a recycle %q, before it %q", again.text, a.text)
		}
	})
	t.Run("plain", func(t *testing.T) {
		r := newRig(t, "plain", &host.Host{})
		v := r.visitor()
		v.ask("/hit")
		r.recycle("test")
		if a := v.ask("/look"); !strings.HasPrefix(a.text, "hits=0 ") {
			t.Errorf("%q", a.text)
		}
		if e := r.Exits()[0]; e.Sessions != nil {
			t.Errorf("the journal has %+v of %+v", e.Sessions, e)
		}
	})
	t.Run("folder", func(t *testing.T) {
		r := newRig(t, "folder "+t.TempDir(), &host.Host{})
		v := r.visitor()
		old := v.ask("/hit").pid
		r.recycle("test") // what was handed over is kept, too
		r.eventually("it is written", func() bool { return v.ask("/look").pid != old })
		if err := syscall.Kill(r.Status()[0].PID, syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		r.eventually("the process is gone", func() bool { return len(r.Exits()) == 2 })
		if a := v.ask("/hit"); a.text != "2" {
			t.Errorf("after a crash: %+v, want 2 hits", a)
		}
	})
}
