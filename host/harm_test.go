//go:build unix

package host_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-session/holdfast/host"
)

// A thousand touches recycle nothing, and are recorded; then one byte recycles once.
func TestThousandTouches(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var files []string
	for i := range 10 {
		files = append(files, filepath.Join(dir, fmt.Sprintf("%d.yaml", i)))
		write(t, files[i], "the same")
	}
	r := newRig(t, &host.Host{Command: command("app"), Watch: host.Watch{Paths: []string{dir}}})
	pid := r.pids(1)[0]
	for i := range 1000 {
		if i%2 == 0 {
			write(t, files[i%10], "the same")
			continue
		}
		now := time.Now().Add(time.Duration(i) * time.Second)
		if err := os.Chtimes(files[i%10], now, now); err != nil {
			t.Fatal(err)
		}
	}
	ignored := func() []host.Entry {
		return slices.DeleteFunc(r.Journal(), func(e host.Entry) bool { return e.Event != host.Ignored })
	}
	eventually(t, "it is recorded", func() bool { return len(ignored()) > 0 })
	if e := ignored()[0]; !strings.Contains(e.Detail, "0.yaml") || !strings.Contains(e.Detail, "7 more") {
		t.Errorf("ignored: %v", e)
	}
	if all := r.recycled(host.FileChanged); len(all) > 0 || r.pids(1)[0] != pid {
		t.Errorf("recycled: %v", all)
	}
	write(t, files[3], "the sane")
	eventually(t, "it is recycled", func() bool { return len(r.recycled(host.FileChanged)) == 1 })
	if e := r.recycled(host.FileChanged)[0]; !strings.HasSuffix(e.Detail, "3.yaml has changed") {
		t.Errorf("recycled: %v", e)
	}
	eventually(t, "the old one ends", func() bool { return len(r.Exits()) == 1 })
	if r.pids(1)[0] == pid {
		t.Error("the old one still answers")
	}
}

// A worker that leaks faster than its successor starts is killed.
func TestRunawayLeak(t *testing.T) {
	t.Parallel()
	r := newRig(t, &host.Host{Command: command("app"), Workers: 2, Limits: host.Limits{Memory: 120 << 20}, Drain: time.Hour, WaitTimeout: 30 * time.Second})
	r.pids(2)
	hang := make(chan struct{}) // keeps the leaking one from ending by itself
	go func() {
		defer close(hang)
		r.client.Post(r.url+"/hang?leak=1", "", nil)
	}()
	eventually(t, "the leaking one ends", func() bool { return len(r.Exits()) == 1 })
	<-hang
	e := r.Exits()[0]
	if e.Reason != host.MemoryLimit || !strings.Contains(e.Detail, "twice the limit") && len(r.recycled(host.MemoryLimit)) != 1 {
		t.Errorf("ended: %v", e)
	}
	if took := e.Time.Sub(e.Began); took > 15*time.Second {
		t.Errorf("it took %s", took)
	}
	r.pids(2)
}

// A worker that floods its output takes no memory from the host, and no time from the
// other worker.
func TestFlood(t *testing.T) {
	out := &discard{}
	r := newRig(t, &host.Host{Workers: 2, Output: out, WaitTimeout: 30 * time.Second, StartTimeout: time.Hour, Command: func(n int) *exec.Cmd {
		return command([]string{"app", "flood"}[n-1])(n)
	}})
	r.pids(1)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	from := out.n.Load()
	eventually(t, "100 MiB of output", func() bool { return out.n.Load()-from > 100<<20 })
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 16<<20 {
		t.Errorf("the host's heap has grown by %d bytes", grown)
	}
	if longest := out.longest.Load(); longest > 256<<10 {
		t.Errorf("a write of %d bytes", longest)
	}
	for range 50 {
		began := time.Now()
		if status, _, _ := r.ask("GET", "/", ""); status != 200 || time.Since(began) > 5*time.Second {
			t.Errorf("status %d after %s", status, time.Since(began))
		}
	}
}

// discard counts what is written to it.
type discard struct{ n, longest atomic.Int64 }

func (d *discard) Write(p []byte) (int, error) {
	d.n.Add(int64(len(p)))
	d.longest.Store(max(d.longest.Load(), int64(len(p))))
	return len(p), nil
}

// Workers whose output nobody takes are served on.
func TestOutputThatBlocks(t *testing.T) {
	t.Parallel()
	r, w := io.Pipe()
	defer r.Close()
	rig := newRig(t, &host.Host{Command: command("app"), Workers: 2, Output: w})
	rig.pids(2)
	pid := rig.pids(1)[0]
	if err := rig.Kill(t.Context(), pid, "a test"); err != nil {
		t.Fatal(err)
	}
	rig.pids(2)
}

// A worker that takes its listener by systemd's convention.
func TestSockets(t *testing.T) {
	t.Parallel()
	r := newRig(t, &host.Host{Command: command("app"), Workers: 2, Sockets: true, WaitTimeout: 30 * time.Second})
	before := r.pids(2)
	if err := r.Recycle(t.Context(), 0, "a test"); err != nil {
		t.Fatal(err)
	}
	if err := r.Kill(t.Context(), r.pids(1)[0], "a test"); err != nil {
		t.Fatal(err)
	}
	for _, pid := range r.pids(2) {
		if slices.Contains(before, pid) {
			t.Errorf("worker %d is still there", pid)
		}
	}
}

// A hostProcess is a host that is a process of its own, and can be killed.
type hostProcess struct {
	cmd  *exec.Cmd
	pids []int // of its workers
	addr string
}

func startHost(t *testing.T, addr, journal string) *hostProcess {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), roleVar+"=host", listenVar+"="+addr, journalVar+"="+journal)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	h := &hostProcess{cmd: cmd, addr: addr}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	lines := bufio.NewScanner(out)
	for len(h.pids) < 2 && lines.Scan() {
		var n, pid int
		if _, err := fmt.Sscanf(lines.Text(), "[worker %d, pid %d] serving", &n, &pid); err == nil {
			h.pids = append(h.pids, pid)
		}
	}
	if len(h.pids) != 2 {
		t.Fatalf("two workers did not start; %v", lines.Err())
	}
	go io.Copy(io.Discard, out)
	return h
}

// get asks until the host answers.
func (h *hostProcess) get(t *testing.T, path string) string {
	t.Helper()
	var text []byte
	eventually(t, "the host answers", func() bool {
		resp, err := http.Get("http://" + h.addr + path)
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		text, _ = io.ReadAll(resp.Body)
		return resp.StatusCode == http.StatusOK
	})
	return string(text)
}

// kill -9 of the host ends its workers and what they have started, also what has left
// their process groups, and the next host serves within a second and knows why.
func TestHostIsKilled(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := fmt.Sprintf("127.0.0.1:%d", 20000+l.Addr().(*net.TCPAddr).Port%12768)
	l.Close()
	journal := filepath.Join(t.TempDir(), "journal")
	h := startHost(t, addr, journal)
	eventually(t, "both workers are ready", func() bool {
		text, err := os.ReadFile(journal)
		return err == nil && bytes.Count(text, []byte(`"started"`)) == 2
	})
	all := slices.Clone(h.pids)
	for _, path := range []string{"/child", "/child?leave=1"} {
		pid, err := strconv.Atoi(h.get(t, path))
		if err != nil {
			t.Fatal(err)
		}
		if path == "/child" || runtime.GOOS == "linux" {
			all = append(all, pid)
		}
	}
	next, took := h, time.Duration(0)
	for range 3 { // this machine may have other things to do
		if err := next.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = next.cmd.Wait()
		began := time.Now()
		next = startHost(t, addr, journal)
		next.get(t, "/")
		if took = time.Since(began); took <= time.Second {
			break
		}
	}
	if took > time.Second {
		t.Errorf("the next host served after %s", took)
	}
	for _, pid := range all {
		eventually(t, fmt.Sprintf("process %d ends", pid), func() bool { return !alive(pid) })
	}
	text, err := os.ReadFile(journal)
	if err != nil {
		t.Fatal(err)
	}
	for _, pid := range h.pids {
		if want := fmt.Sprintf(`"pid":%d,`, pid); !slices.ContainsFunc(strings.Split(string(text), "\n"), func(line string) bool {
			return strings.Contains(line, want) && strings.Contains(line, `"event":"ended"`) && strings.Contains(line, `"reason":"host died"`)
		}) {
			t.Errorf("the journal does not say that worker %d ended with the host:\n%s", pid, text)
		}
	}
}

// After 5 failures within 5 minutes a worker is not started any more; the others go
// on, and a recycle by hand starts it again.
func TestRapidFail(t *testing.T) {
	t.Parallel()
	var s switching
	s.role.Store("early")
	r := newRig(t, &host.Host{Workers: 2, WaitTimeout: 30 * time.Second, Command: func(n int) *exec.Cmd {
		if n == 1 {
			return command("app")(n)
		}
		return s.command(n)
	}})
	r.pids(1)
	givenUp := func() bool {
		return slices.ContainsFunc(r.Status(), func(s host.Status) bool { return s.Worker == 2 && s.State == host.GivenUp })
	}
	eventually(t, "it is given up", givenUp)
	if n := len(r.Exits()); n != 5 {
		t.Errorf("after %d failures", n)
	}
	last := r.Journal()[len(r.Journal())-1]
	if last.Event != host.GaveUp || last.Worker != 2 || !strings.Contains(last.Detail, "5 failures within 5m0s, the last one: exit status 3") {
		t.Errorf("the journal's last: %v", last)
	}
	for range 10 {
		if status, _, _ := r.ask("GET", "/", ""); status != 200 {
			t.Errorf("status %d", status)
		}
	}
	s.role.Store("app")
	if err := r.Recycle(t.Context(), 2, "mended"); err != nil {
		t.Fatal(err)
	}
	r.pids(2)
}

// If all workers are given up, a request gets 503 at once.
func TestEveryWorkerIsGivenUp(t *testing.T) {
	t.Parallel()
	r := newRig(t, &host.Host{Command: command("early"), WaitTimeout: time.Hour, RapidFail: host.RapidFail{Failures: 2, Within: time.Minute}})
	status, _, text := r.ask("GET", "/", "") // waits until it is clear
	if status != http.StatusServiceUnavailable || !strings.Contains(text, "503") {
		t.Errorf("%d %s", status, text)
	}
	if n := len(r.Exits()); n != 2 {
		t.Errorf("after %d failures", n)
	}
}

// What is asked of a host that has stopped is refused.
func TestStoppedHost(t *testing.T) {
	r := newRig(t, &host.Host{Command: command("app")})
	r.pids(1)
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := r.Recycle(ctx, 0, "too late"); err == nil || ctx.Err() != nil {
		t.Errorf("Recycle: %v", err)
	}
	if s := r.Status(); len(s) > 0 {
		t.Errorf("Status: %v", s)
	}
}
