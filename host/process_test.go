//go:build unix

package host_test

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-session/holdfast/host"
)

// alive reports whether pid runs. One that has ended and is not reaped (a zombie)
// does not.
func alive(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return runtime.GOOS != "linux"
	}
	_, state, _ := bytes.Cut(stat, []byte(") "))
	return len(state) > 0 && state[0] != 'Z' && state[0] != 'X'
}

func TestKillFromOutside(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
		t.Run(sig.String(), func(t *testing.T) {
			r := newRig(t, &host.Host{Command: command("app"), Workers: 2, WaitTimeout: 30 * time.Second})
			r.pids(2)
			_, pid, _ := r.ask("GET", "/", "")
			if err := syscall.Kill(pid, sig); err != nil {
				t.Fatal(err)
			}
			for range 20 {
				if status, _, text := r.ask("GET", "/", ""); status != 200 {
					t.Errorf("status %d: %s", status, text)
				}
			}
			eventually(t, "the exit is recorded", func() bool { return len(r.Exits()) == 1 })
			e := r.Exits()[0]
			want := "signal: killed"
			if sig == syscall.SIGTERM {
				want = "exit status 0" // it stopped as it should, but nobody had asked the host
			}
			if e.PID != pid || e.Reason != host.Crashed || e.Detail != want {
				t.Errorf("exit: %v, want %q", e, want)
			}
			r.pids(2)
		})
	}
}

func TestStopLetsWorkersFinish(t *testing.T) {
	r := newRig(t, &host.Host{Command: command("app"), Workers: 2})
	pids := r.pids(2)
	answer := make(chan string, 1)
	go func() {
		_, _, text := r.ask("GET", "/slow", "")
		answer <- text
	}()
	eventually(t, "the slow request is in", func() bool { return strings.Contains(r.out.String(), "slow begins") })
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	if text := <-answer; text != "finished" {
		t.Errorf("the slow request: %q", text)
	}
	for _, pid := range pids {
		if alive(pid) {
			t.Errorf("worker %d is still there", pid)
		}
	}
	for _, e := range r.Exits() {
		if e.Reason != host.Stopped {
			t.Errorf("exit: %v", e)
		}
	}
	if status, _, _ := r.ask("GET", "/", ""); status != http.StatusServiceUnavailable {
		t.Errorf("status after the stop: %d", status)
	}
}

func TestStopKillsTheStubborn(t *testing.T) {
	r := newRig(t, &host.Host{Command: command("stubborn"), StopTimeout: 50 * time.Millisecond})
	pids := r.pids(1)
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	if alive(pids[0]) {
		t.Error("the worker is still there")
	}
}

// leaveGroup starts cmd where no signal to the worker's group reaches it.
func leaveGroup(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} }

// What a worker started ends with it, and does not hold its successor up.
func TestDescendantsEndWithTheirWorker(t *testing.T) {
	r := newRig(t, &host.Host{Command: command("app"), WaitTimeout: 30 * time.Second})
	_, pid, _ := r.ask("GET", "/", "")
	children := []int{r.child("/child")}
	if runtime.GOOS == "linux" {
		children = append(children, r.child("/child?leave=1"))
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for _, child := range children {
		eventually(t, "the child ends", func() bool { return !alive(child) })
	}
	eventually(t, "there is a successor", func() bool { _, now, _ := r.ask("GET", "/", ""); return now != 0 && now != pid })
}

// child has a worker start a process, and returns its PID.
func (r *rig) child(path string) int {
	r.t.Helper()
	_, _, text := r.ask("POST", path, "")
	pid, err := strconv.Atoi(text)
	if err != nil {
		r.t.Fatalf("no PID: %q", text)
	}
	if !alive(pid) {
		r.t.Fatalf("process %d does not run", pid)
	}
	return pid
}
