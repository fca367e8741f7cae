package host_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-session/holdfast/host"
)

func TestWorkersTakeTurns(t *testing.T) {
	r := newRig(t, &host.Host{Command: command("app"), Workers: 3})
	r.pids(3)
	count := map[int]int{}
	for range 30 {
		_, pid, _ := r.ask("GET", "/", "")
		count[pid]++
	}
	if len(count) != 3 {
		t.Fatalf("answered: %v, want three workers", count)
	}
	for pid, n := range count {
		if n != 10 {
			t.Errorf("worker %d answered %d of 30, want 10", pid, n)
		}
	}
	for n := 1; n <= 3; n++ {
		if want := fmt.Sprintf("serving as worker %d\n", n); !strings.Contains(r.out.String(), want) {
			t.Errorf("output lacks %q:\n%s", want, r.out)
		}
	}
}

func TestRequestIsPassedOnAsItCame(t *testing.T) {
	r := newRig(t, &host.Host{Command: command("app")})
	req, _ := http.NewRequest("POST", r.url+"/?a=1;b=2&c=%zz", strings.NewReader("the body"))
	req.Host = "shop.example"
	for _, name := range []string{"X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Port", "X-Real-Ip", "Forwarded"} {
		req.Header.Set(name, "forged")
	}
	resp, err := r.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	want := "host=shop.example\nquery=a=1;b=2&c=%zz\nbody=the body\n" +
		"X-Forwarded-For=127.0.0.1\nX-Forwarded-Host=shop.example\nX-Forwarded-Proto=http\nX-Forwarded-Port=\nX-Real-Ip=\nForwarded=\n"
	if string(b) != want {
		t.Errorf("the worker saw\n%s\nwant\n%s", b, want)
	}
}

// Kill after kill, no visitor sees anything but 200: whoever comes next is answered
// by the other worker, or waits for the new one.
func TestKilledWorkersAreNotSeen(t *testing.T) {
	for _, workers := range []int{1, 2} {
		t.Run(fmt.Sprint(workers), func(t *testing.T) {
			r := newRig(t, &host.Host{Command: command("app"), Workers: workers, WaitTimeout: 30 * time.Second})
			for i := range 6 {
				_, pid, _ := r.ask("GET", "/", "")
				if err := r.Kill(context.Background(), pid, fmt.Sprint("kill ", i)); err != nil {
					t.Fatal(err)
				}
				if status, now, _ := r.ask("POST", "/", "order"); status != 200 || now == pid {
					t.Fatalf("after the kill of %d: status %d from %d", pid, status, now)
				}
			}
			exits := r.Exits()
			if len(exits) != 6 {
				t.Fatalf("%d exits, want 6: %v", len(exits), exits)
			}
			for i, e := range exits {
				if e.Reason != host.Killed || e.Detail != fmt.Sprint("kill ", i) || e.Time.Before(e.Began) {
					t.Errorf("exit %d: %+v", i, e)
				}
			}
		})
	}
}

func TestKillOfAStranger(t *testing.T) {
	r := newRig(t, &host.Host{Command: command("app")})
	r.pids(1)
	if err := r.Kill(context.Background(), os.Getpid(), "no"); !errors.Is(err, host.ErrNoWorker) {
		t.Errorf("killing the host itself: %v, want ErrNoWorker", err)
	}
}

func TestCrashIsRecordedAndItsOutputKept(t *testing.T) {
	r := newRig(t, &host.Host{Command: command("app")})
	_, pid, _ := r.ask("GET", "/", "")
	if status, _, text := r.ask("POST", "/exit", ""); status != http.StatusBadGateway || !strings.Contains(text, "The worker that was answering has ended") {
		t.Errorf("in flight on a worker that ended: %d\n%s", status, text)
	}
	if status, now, _ := r.ask("GET", "/", ""); status != 200 || now == pid {
		t.Errorf("next request: %d from %d", status, now)
	}
	exits := r.Exits()
	if len(exits) != 1 || exits[0].PID != pid || exits[0].Worker != 1 || exits[0].Reason != host.Crashed || exits[0].Detail != "exit status 4" {
		t.Errorf("exits: %v", exits)
	}
	if want := fmt.Sprintf("[worker 1, pid %d] the last words\n", pid); !strings.Contains(r.out.String(), want) {
		t.Errorf("output lacks %q:\n%s", want, r.out)
	}
}

func TestInFlightRequests(t *testing.T) {
	t.Run("post", func(t *testing.T) { // perhaps done: never repeated
		r := newRig(t, &host.Host{Command: command("app")})
		_, pid, _ := r.ask("GET", "/", "")
		status := make(chan int, 1)
		go func() {
			s, _, _ := r.ask("POST", "/hang", "")
			status <- s
		}()
		eventually(t, "the request hangs", func() bool { return strings.Contains(r.out.String(), "hanging") })
		if err := r.Kill(context.Background(), pid, "test"); err != nil {
			t.Fatal(err)
		}
		if s := <-status; s != http.StatusBadGateway {
			t.Errorf("status %d, want 502", s)
		}
		if n := strings.Count(r.out.String(), "hanging"); n != 1 {
			t.Errorf("the request was made %d times", n)
		}
	})
	t.Run("get", func(t *testing.T) { // harmless: repeated, but once only
		r := newRig(t, &host.Host{Command: command("app"), WaitTimeout: 30 * time.Second})
		status := make(chan int, 1)
		go func() {
			s, _, _ := r.ask("GET", "/hang", "")
			status <- s
		}()
		for n := range 2 {
			eventually(t, "the request hangs", func() bool { return strings.Count(r.out.String(), "hanging") == n+1 })
			pid := lastPID(t, r.out.String(), "hanging")
			if err := r.Kill(context.Background(), pid, "test"); err != nil {
				t.Fatal(err)
			}
		}
		if s := <-status; s != http.StatusBadGateway {
			t.Errorf("status %d, want 502", s)
		}
	})
	t.Run("begun", func(t *testing.T) { // never made to look complete
		r := newRig(t, &host.Host{Command: command("app")})
		_, pid, _ := r.ask("GET", "/", "")
		resp, err := r.client.Get(r.url + "/begin")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if err := r.Kill(context.Background(), pid, "test"); err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(resp.Body); err == nil {
			t.Errorf("a cut answer was read to its end: %q", b)
		}
	})
	t.Run("aborted", func(t *testing.T) { // by a worker that lives on
		r := newRig(t, &host.Host{Command: command("app")})
		_, pid, _ := r.ask("GET", "/", "")
		if status, _, _ := r.ask("GET", "/abort", ""); status != http.StatusBadGateway {
			t.Errorf("status %d, want 502", status)
		}
		if _, now, _ := r.ask("GET", "/", ""); now != pid {
			t.Errorf("worker %d became %d", pid, now)
		}
	})
}

// lastPID is the PID before the last line that ends in text.
func lastPID(t *testing.T, out, text string) int {
	t.Helper()
	pid := 0
	for line := range strings.Lines(out) {
		var n, p int
		if strings.HasSuffix(line, "] "+text+"\n") {
			if _, err := fmt.Sscanf(line, "[worker %d, pid %d]", &n, &p); err == nil {
				pid = p
			}
		}
	}
	if pid == 0 {
		t.Fatalf("no line %q in\n%s", text, out)
	}
	return pid
}

func TestCrashLoopDoesNotSpin(t *testing.T) {
	r := newRig(t, &host.Host{Command: command("early"), WaitTimeout: 50 * time.Millisecond})
	eventually(t, "four starts", func() bool { return len(r.Exits()) >= 4 })
	exits := r.Exits()
	// The second is at once, the third after 100 ms, the fourth after 200 ms.
	if took := exits[3].Began.Sub(exits[0].Time); took < 300*time.Millisecond {
		t.Errorf("four starts within %s", took)
	}
	if e := exits[0]; e.Reason != host.Crashed || e.Detail != "exit status 3" {
		t.Errorf("exit: %+v", e)
	}
	req, _ := http.NewRequest("GET", r.url, nil)
	resp, err := r.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" {
		t.Errorf("without a worker: %s, Retry-After %q", resp.Status, resp.Header.Get("Retry-After"))
	}
}

func TestWorkerThatNeverListens(t *testing.T) {
	r := newRig(t, &host.Host{Command: command("deaf"), StartTimeout: 100 * time.Millisecond})
	eventually(t, "it is killed", func() bool { return len(r.Exits()) > 0 })
	if e := r.Exits()[0]; e.Reason != host.NotReady || !strings.Contains(e.Detail, "nothing listens on $PORT") {
		t.Errorf("exit: %+v", e)
	}
}

func TestCommandThatCannotStart(t *testing.T) {
	h := &host.Host{
		Command: func(int) *exec.Cmd { return exec.Command("/nonexistent/app") },
		Workers: 2,
		Logger:  slog.New(slog.DiscardHandler),
	}
	err := h.Run(context.Background())
	if err == nil || !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "cannot start worker") {
		t.Errorf("Run: %v", err)
	}
}

// Under load through kill after kill, every GET is answered by 200.
func TestLoadThroughKills(t *testing.T) {
	r := newRig(t, &host.Host{Command: command("app"), Workers: 2, WaitTimeout: 30 * time.Second})
	r.pids(2)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for ctx.Err() == nil {
				if status, _, text := r.ask("GET", "/", ""); status != 200 {
					t.Errorf("status %d: %s", status, text)
				}
			}
		})
	}
	for range 5 {
		_, pid, _ := r.ask("GET", "/", "")
		if err := r.Kill(context.Background(), pid, "under load"); err != nil && !errors.Is(err, host.ErrNoWorker) {
			t.Error(err)
		}
		r.pids(2)
	}
	cancel()
	wg.Wait()
}
