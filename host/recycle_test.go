package host_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-session/holdfast/host"
)

// An open request is answered when its body ends.
type openRequest struct {
	body   *io.PipeWriter
	answer chan *http.Response
}

func (r *rig) open() *openRequest {
	r.t.Helper()
	body, w := io.Pipe()
	o := &openRequest{w, make(chan *http.Response, 1)}
	go func() {
		resp, err := r.client.Post(r.url, "text/plain", body)
		if err != nil {
			r.t.Errorf("the open request: %v", err)
			close(o.answer)
			return
		}
		resp.Body.Close()
		o.answer <- resp
	}()
	if _, err := io.WriteString(w, "begins"); err != nil {
		r.t.Fatal(err)
	}
	return o
}

// states are those of the processes by PID.
func (r *rig) states() map[int]host.State {
	all := make(map[int]host.State)
	for _, s := range r.Status() {
		all[s.PID] = s.State
	}
	return all
}

func TestRecycleOverlaps(t *testing.T) {
	t.Parallel()
	r := newRig(t, &host.Host{Command: command("app")})
	old := r.pids(1)[0]
	o := r.open()
	eventually(t, "the request is in flight", func() bool { return r.Status()[0].InFlight == 1 })
	if err := r.Recycle(t.Context(), 0, "a test"); err != nil {
		t.Fatal(err)
	}
	// Both run: the old one for the request that it has, the new one for all others.
	_, pid, _ := r.ask("GET", "/", "")
	if states := r.states(); pid == old || states[old] != host.Draining || states[pid] != host.Ready {
		t.Errorf("%d answers, states %v", pid, states)
	}
	o.body.Close()
	if resp := <-o.answer; resp == nil || resp.StatusCode != 200 || resp.Header.Get("Worker-Pid") != fmt.Sprint(old) {
		t.Errorf("the open request: %v", resp)
	}
	eventually(t, "the old one ends", func() bool { return len(r.Exits()) == 1 })
	var events []string
	for _, e := range r.Journal() {
		if e.Worker == 1 {
			events = append(events, fmt.Sprint(e.Event, " ", e.PID, " ", e.Reason, " ", e.Detail))
		}
	}
	want := []string{
		fmt.Sprint("started ", old, "  "),
		fmt.Sprint("recycled ", old, " requested a test"),
		fmt.Sprint("started ", pid, "  "),
		fmt.Sprint("ended ", old, " requested a test"),
	}
	if !slices.Equal(events, want) {
		t.Errorf("the journal has\n%s\nwant\n%s", strings.Join(events, "\n"), strings.Join(want, "\n"))
	}
	if err := r.Recycle(t.Context(), 2, ""); !errors.Is(err, host.ErrNoWorker) {
		t.Errorf("recycling a worker that there is not: %v", err)
	}
}

func TestDrainEnds(t *testing.T) {
	for _, role := range []string{"app", "stubborn"} {
		t.Run(role, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, &host.Host{Command: command(role), Drain: 50 * time.Millisecond, StopTimeout: 50 * time.Millisecond})
			old := r.pids(1)[0]
			done := make(chan int, 1)
			go func() {
				status, _, _ := r.ask("POST", "/hang", "")
				done <- status
			}()
			eventually(t, "the request hangs", func() bool { return strings.Contains(r.out.String(), "hanging") })
			if err := r.Recycle(t.Context(), 1, "a test"); err != nil {
				t.Fatal(err)
			}
			if status := <-done; status != http.StatusBadGateway {
				t.Errorf("the request that would not finish: %d", status)
			}
			eventually(t, "the old one ends", func() bool { return len(r.Exits()) == 1 })
			if e := r.Exits()[0]; e.PID != old || e.Reason != host.Requested {
				t.Errorf("exit: %v", e)
			}
		})
	}
}

// switching makes workers of the role that it has at that moment.
type switching struct{ role atomic.Value }

func (s *switching) command(n int) *exec.Cmd { return command(s.role.Load().(string))(n) }

func TestSuccessorThatDoesNotComeUp(t *testing.T) {
	for role, why := range map[string]string{"early": "exit status 3", "deaf": "not ready within 2s"} {
		t.Run(role, func(t *testing.T) {
			t.Parallel()
			var s switching
			s.role.Store("app")
			r := newRig(t, &host.Host{Command: s.command, StartTimeout: 2 * time.Second})
			pid := r.pids(1)[0]
			s.role.Store(role)
			if err := r.Recycle(t.Context(), 0, "a test"); !errors.Is(err, host.ErrKept) {
				t.Fatalf("Recycle: %v", err)
			}
			if now := r.pids(1)[0]; now != pid {
				t.Errorf("%d answers, %d had", now, pid)
			}
			last := r.Journal()[len(r.Journal())-1]
			if last.Event != host.Kept || last.PID != pid || last.Reason != host.Requested || !strings.Contains(last.Detail, why) {
				t.Errorf("the journal's last: %v", last)
			}
			s.role.Store("app")
			if err := r.Recycle(t.Context(), 0, "mended"); err != nil {
				t.Fatal(err)
			}
			if now := r.pids(1)[0]; now == pid {
				t.Error("not recycled after that")
			}
		})
	}
}

// load asks for something all the time, until the test ends or stop is called.
type load struct {
	asked, failed atomic.Int64
	said          sync.Map // what the failed were answered
	cancel        context.CancelFunc
	done          sync.WaitGroup
}

const loaders = 4

// load puts a steady load on the host: each of the loaders asks, waits and asks again.
func (r *rig) load() *load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{cancel: cancel}
	for i := range loaders {
		l.done.Go(func() {
			every := time.NewTicker(20 * time.Millisecond)
			defer every.Stop()
			for n := i; ; n++ {
				select {
				case <-every.C:
				case <-ctx.Done():
					return
				}
				l.asked.Add(1)
				status, _, text := r.ask([]string{"GET", "POST"}[n%2], "/", "order")
				if status != http.StatusOK {
					l.failed.Add(1)
					l.said.Store(fmt.Sprintf("%d %s", status, text), true)
				}
			}
		})
	}
	r.t.Cleanup(l.stop)
	return l
}

func (l *load) stop() {
	l.cancel()
	l.done.Wait()
}

// A trigger has a host recycle its workers: once for each time it is pulled.
type trigger struct {
	reason host.Reason
	detail string // part of the journal's
	set    func(*testing.T, *host.Host)
	pull   func(*testing.T, *rig)
	times  int // of a recycle in its short version
	idle   bool
}

// triggers are all that are planned.
func triggers() []trigger {
	var watched, program string
	return []trigger{
		{reason: host.Requested, detail: "by hand", times: 2,
			pull: func(t *testing.T, r *rig) {
				if err := r.Recycle(t.Context(), 0, "by hand"); err != nil {
					t.Error(err)
				}
			}},
		{reason: host.MemoryLimit, detail: "MiB used, the limit is 150.0 MiB", times: 2,
			set:  func(_ *testing.T, h *host.Host) { h.Limits.Memory = 150 << 20 },
			pull: func(_ *testing.T, r *rig) { r.each(r.Workers, "/hog?mib=160") }},
		{reason: host.RequestLimit, detail: "50 requests", times: 2,
			set: func(_ *testing.T, h *host.Host) { h.Limits.Requests = 50 }},
		{reason: host.AgeLimit, detail: "700ms old", times: 2,
			set: func(_ *testing.T, h *host.Host) { h.Limits.Age = 700 * time.Millisecond }},
		{reason: host.Scheduled, detail: "at ", times: 1,
			set: func(_ *testing.T, h *host.Host) {
				now := time.Now()
				midnight := time.Date(now.Year(), now.Month(), now.Day(), 0, 0, 0, 0, now.Location())
				for i := range 60 { // every other second from now on
					h.Limits.Times = append(h.Limits.Times, (now.Sub(midnight)+time.Duration(2*i)*time.Second+time.Second)%(24*time.Hour))
				}
			}},
		{reason: host.Idle, detail: "no request for 200ms", times: 2, idle: true,
			set: func(_ *testing.T, h *host.Host) { h.Limits.Idle = 200 * time.Millisecond }},
		{reason: host.FileChanged, detail: "app.yaml has changed", times: 2,
			set: func(t *testing.T, h *host.Host) {
				watched = filepath.Join(t.TempDir(), "app.yaml")
				write(t, watched, "first")
				h.Watch.Paths = []string{watched}
			},
			pull: func(t *testing.T, _ *rig) { write(t, watched, time.Now().String()) }},
		{reason: host.ProgramChanged, detail: "app has changed", times: 2,
			set: func(t *testing.T, h *host.Host) {
				program = filepath.Join(t.TempDir(), "app")
				replaceProgram(t, program, 0)
				h.Watch.Program = true
				inner := h.Command
				h.Command = func(n int) *exec.Cmd {
					cmd := inner(n)
					cmd.Path = program
					return cmd
				}
			},
			pull: func(t *testing.T, _ *rig) { replaceProgram(t, program, time.Now().UnixNano()) }},
		{reason: host.Unhealthy, detail: "2 health checks in a row have failed", times: 1,
			set: func(_ *testing.T, h *host.Host) {
				h.Health = host.Health{Path: "/healthz", Every: 100 * time.Millisecond, Timeout: 200 * time.Millisecond, Failures: 2}
			},
			pull: func(_ *testing.T, r *rig) { r.each(r.Workers, "/sick") }},
	}
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Error(err)
	}
}

// replaceProgram deploys this test's program anew, as another version of it.
func replaceProgram(t *testing.T, name string, version int64) {
	t.Helper()
	text, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	text = fmt.Appendf(text, "%d", version) // behind what is loaded
	if err := os.WriteFile(name+".new", text, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(name+".new", name); err != nil {
		t.Fatal(err)
	}
}

// Under a steady load through every planned trigger, no request fails: some twenty
// recycles, and a hundred in the long version.
func TestTriggersUnderLoad(t *testing.T) {
	for _, c := range triggers() {
		t.Run(string(c.reason), func(t *testing.T) {
			t.Parallel()
			const workers = 2
			h := &host.Host{Command: command("app"), Workers: workers, WaitTimeout: 30 * time.Second}
			if c.set != nil {
				c.set(t, h)
			}
			times := c.times
			if os.Getenv("HOLDFAST_LONG") != "" {
				times = 6 // of two workers each, nine times
			}
			r := newRig(t, h)
			if c.idle {
				r.idle(c, times)
				return
			}
			r.pids(workers)
			l := r.load()
			for i := range times {
				if c.pull != nil {
					c.pull(t, r)
				}
				eventually(t, fmt.Sprintf("recycle %d", i+1), func() bool { return len(r.recycled(c.reason)) >= workers*(i+1) })
				if c.pull != nil { // and only that
					eventually(t, "they have ended", func() bool { return len(r.Exits()) >= workers*(i+1) })
				}
			}
			l.stop()
			l.said.Range(func(text, _ any) bool {
				t.Errorf("%d of %d requests have failed, one with %s", l.failed.Load(), l.asked.Load(), text)
				return false
			})
			all := r.recycled(c.reason)
			if c.pull != nil && len(all) != workers*times {
				t.Errorf("%d recycles, want %d", len(all), workers*times)
			}
			for _, e := range all {
				if !strings.Contains(e.Detail, c.detail) || e.Successor == 0 {
					t.Errorf("the journal has %v, with successor %d; want the detail %q", e, e.Successor, c.detail)
				}
			}
			for _, e := range r.Exits() {
				if e.Reason != c.reason {
					t.Errorf("the journal has %v", e)
				}
			}
			t.Logf("%d recycles, %d requests", len(all), l.asked.Load())
		})
	}
}

// recycled are the recycles for a reason.
func (r *rig) recycled(reason host.Reason) []host.Entry {
	return slices.DeleteFunc(r.Journal(), func(e host.Entry) bool { return e.Event != host.Recycled || e.Reason != reason })
}

// idle wants workers stopped that have nothing to do, and started by the next request,
// which waits for it.
func (r *rig) idle(c trigger, times int) {
	r.t.Helper()
	for i := range times {
		before := r.pids(r.Workers)
		eventually(r.t, "the workers sleep", func() bool {
			for _, s := range r.Status() {
				if s.State != host.Sleeping {
					return false
				}
			}
			return true
		})
		for _, pid := range before {
			if alive(pid) {
				r.t.Errorf("worker %d is still there", pid)
			}
		}
		status, pid, text := r.ask("POST", "/", "order")
		if status != 200 || slices.Contains(before, pid) {
			r.t.Fatalf("the request that wakes them: %d from %d: %s", status, pid, text)
		}
		if all := r.recycled(c.reason); len(all) < r.Workers*(i+1) || !strings.Contains(all[0].Detail, c.detail) || all[0].Successor != 0 {
			r.t.Errorf("the journal has %v", all)
		}
	}
}

// At a crash, only those requests are lost that were in flight on that worker.
func TestCrashesUnderLoad(t *testing.T) {
	t.Parallel()
	times := 3
	if os.Getenv("HOLDFAST_LONG") != "" {
		times = 8 // the pauses after them grow
	}
	r := newRig(t, &host.Host{Command: command("app"), Workers: 2, WaitTimeout: 30 * time.Second, RapidFail: host.RapidFail{Failures: -1}})
	r.pids(2)
	l := r.load()
	for i := range times {
		r.ask("POST", "/exit", "") // its own request is lost, and not counted
		eventually(t, "the crash is recorded", func() bool { return len(r.Exits()) == i+1 })
		r.pids(2)
	}
	l.stop()
	if n := l.failed.Load(); n > int64(times*loaders) {
		t.Errorf("%d requests were lost at %d crashes", n, times)
	}
	l.said.Range(func(text, _ any) bool {
		if !strings.HasPrefix(text.(string), "502 ") {
			t.Errorf("a request was answered by %s", text)
		}
		return true
	})
	for _, e := range r.Exits() {
		if e.Reason != host.Crashed || e.Detail != "exit status 4" {
			t.Errorf("exit: %v", e)
		}
	}
	t.Logf("%d crashes, %d requests, %d lost", times, l.asked.Load(), l.failed.Load())
}

// A change while a worker starts is seen when it is ready.
func TestChangeWhileStarting(t *testing.T) {
	watched := filepath.Join(t.TempDir(), "app.yaml")
	write(t, watched, "first")
	t.Setenv(watchedVar, watched)
	r := newRig(t, &host.Host{Command: command("slowstart"), Watch: host.Watch{Paths: []string{watched}}})
	eventually(t, "the first one is starting", func() bool { return strings.Contains(r.out.String(), "starting slowly") })
	write(t, watched, "second")
	eventually(t, "it is recycled", func() bool { return len(r.recycled(host.FileChanged)) == 1 })
	r.pids(1)
}
