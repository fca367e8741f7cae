// Package servers starts real servers for tests: private instances of PostgreSQL,
// MariaDB, Redis and so on, each in a folder of its own, on a socket or a port of its
// own, that a test may kill, stop, pause and start again.
//
//	db := servers.StartPostgres(t, nil)   // ends with t
//
// An instance that all tests of a package share is declared with [Shared] and ends with
// [Main]. A server never outlives the process of the test: Linux kills it then.
//
// A server whose program is not installed fails the test, and says that scripts/install
// installs it.
package servers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/shirou/gopsutil/v4/process"
)

const (
	// readyWithin is how long a server may take until it is ready, on a machine that
	// has much else to do.
	readyWithin = 90 * time.Second
	// stopWithin is how long it may take to stop.
	stopWithin = 60 * time.Second
	// logShown is how much of its log is shown when the test failed.
	logShown = 16 << 10
)

// A Command says how a server is started.
type Command struct {
	// Program is the path of the binary ([Program] finds it), Args its arguments, and
	// Env what its environment has besides that of the test.
	Program string
	Args    []string
	Env     []string
	// Dir is where it runs, and keeps its log; a [Folder].
	Dir string
	// StopSignal asks it to stop; SIGTERM if it is 0.
	StopSignal syscall.Signal
	// Ready returns nil once the server answers. It is called again and again, and
	// should not block for longer than its context says.
	Ready func(ctx context.Context) error
}

// A Process is a server that a test started. Its methods are safe for concurrent use;
// they fail the test where they cannot do what they say.
type Process struct {
	t testing.TB
	c Command

	mu     sync.Mutex
	cmd    *exec.Cmd     // nil while it does not run
	exited chan struct{} // closed once cmd has ended
	err    error         // how it ended, then
}

// Start starts a server, waits until it is ready, and kills it when t ends. Its log is
// shown if t has failed by then.
func Start(t testing.TB, c Command) *Process {
	t.Helper()
	p := &Process{t: t, c: c}
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() {
			t.Logf("the log of %s ends:\n%s", filepath.Base(c.Program), p.logTail())
		}
	})
	p.Restart()
	return p
}

// PID returns the number of the server's process, or 0 while it does not run.
func (p *Process) PID() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return 0
	}
	return p.cmd.Process.Pid
}

// Restart starts the server again, on the data that it has, and waits until it is
// ready. It does nothing if the server runs.
func (p *Process) Restart() {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd != nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), readyWithin)
	defer cancel()
	if err := p.start(ctx); err != nil {
		p.t.Fatalf("starting %s: %v\n%s", filepath.Base(p.c.Program), err, p.logTail())
	}
}

func (p *Process) start(ctx context.Context) error {
	log, err := os.OpenFile(p.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close() // the server has its own
	cmd := exec.Command(p.c.Program, p.c.Args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = p.c.Dir, log, log
	cmd.Env = append(os.Environ(), p.c.Env...)
	owner, err := serverUser()
	if err != nil {
		return err
	}
	cmd.SysProcAttr = attributes(owner)
	if err := cmd.Start(); err != nil {
		return err
	}
	exited := make(chan struct{})
	p.cmd, p.exited = cmd, exited
	go func() {
		p.err = cmd.Wait()
		close(exited)
	}()

	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	for {
		err := p.c.Ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-exited:
			p.cmd = nil
			return fmt.Errorf("it ended before it was ready: %w", p.err)
		case <-ctx.Done():
			return fmt.Errorf("it is not ready after %v: %w", readyWithin, err)
		case <-again.C:
		}
	}
}

// Kill kills the server and all its descendants with SIGKILL, and waits until they are
// gone. It does nothing if the server does not run.
func (p *Process) Kill() {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd != nil {
		p.kill()
	}
}

func (p *Process) kill() {
	p.t.Helper()
	tree := p.tree()
	// Stopped first, so that none of them sees the others die, and cleans up.
	each(tree, (*process.Process).Suspend)
	tree = p.tree()
	each(tree, (*process.Process).Kill)
	p.gone(tree, stopWithin)
}

// Stop asks the server to stop, and waits until it has. It does nothing if the server
// does not run.
func (p *Process) Stop() {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return
	}
	signal := p.c.StopSignal
	if signal == 0 {
		signal = syscall.SIGTERM
	}
	tree := p.tree()
	if err := p.cmd.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.t.Errorf("stopping %s: %v", filepath.Base(p.c.Program), err)
	}
	p.gone(tree, stopWithin)
}

// gone waits until all processes of a tree have ended.
func (p *Process) gone(tree []*process.Process, within time.Duration) {
	p.t.Helper()
	deadline := time.NewTimer(within)
	defer deadline.Stop()
	select {
	case <-p.exited:
		p.cmd = nil
	case <-deadline.C:
		p.t.Fatalf("%s has not ended after %v", filepath.Base(p.c.Program), within)
	}
	again := time.NewTicker(time.Millisecond)
	defer again.Stop()
	for _, d := range tree {
		for alive(d) {
			select {
			case <-again.C:
			case <-deadline.C:
				p.t.Fatalf("process %d of %s has not ended after %v", d.Pid, filepath.Base(p.c.Program), within)
			}
		}
	}
}

// alive reports whether a process is there and more than a zombie.
func alive(p *process.Process) bool {
	if there, err := p.IsRunning(); err != nil || !there {
		return false
	}
	status, err := p.Status()
	return err == nil && len(status) > 0 && status[0] != process.Zombie
}

// Pause stops the server and all its descendants where they are (SIGSTOP): connections
// stay, and nothing is answered. Resume lets them go on.
func (p *Process) Pause() {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.must(p.running().Suspend(), "pausing") // first, so that it makes no more of them
	each(p.tree(), (*process.Process).Suspend)
}

// Resume lets a paused server go on.
func (p *Process) Resume() {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	each(p.tree(), (*process.Process).Resume)
}

// CPUTime returns how much processor time the server and its descendants that live
// have had.
func (p *Process) CPUTime() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	var sum float64
	each(p.tree(), func(d *process.Process) error {
		times, err := d.Times()
		if err == nil {
			sum += times.User + times.System
		}
		return err
	})
	return time.Duration(sum * float64(time.Second))
}

func (p *Process) must(err error, doing string) {
	p.t.Helper()
	if err != nil {
		p.t.Fatalf("%s %s: %v", doing, filepath.Base(p.c.Program), err)
	}
}

func (p *Process) running() *process.Process {
	p.t.Helper()
	if p.cmd == nil {
		p.t.Fatalf("%s does not run", filepath.Base(p.c.Program))
	}
	return &process.Process{Pid: int32(p.cmd.Process.Pid)}
}

// tree returns the server's process and its descendants, which with some servers are in
// process groups of their own.
func (p *Process) tree() []*process.Process {
	if p.cmd == nil {
		return nil
	}
	children := make(map[int32][]*process.Process)
	all, err := process.Processes()
	if err != nil {
		p.t.Fatal(err)
	}
	for _, one := range all {
		if parent, err := one.Ppid(); err == nil { // else it is gone
			children[parent] = append(children[parent], one)
		}
	}
	tree := []*process.Process{p.running()}
	for i := 0; i < len(tree); i++ {
		tree = append(tree, children[tree[i].Pid]...)
	}
	return tree
}

// each does something with all processes of a tree, some of which may be gone.
func each(tree []*process.Process, do func(*process.Process) error) {
	for _, d := range tree {
		_ = do(d)
	}
}

func (p *Process) logFile() string { return filepath.Join(p.c.Dir, "log") }

// logTail returns the end of what the server wrote.
func (p *Process) logTail() string {
	f, err := os.Open(p.logFile())
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	if size, err := f.Seek(0, io.SeekEnd); err == nil {
		_, _ = f.Seek(max(0, size-logShown), io.SeekStart)
	}
	b, err := io.ReadAll(f)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// Program returns the path of a server's binary: what PATH has under one of these
// names, or else what matches one of these patterns as filepath.Glob has them. The test
// fails if there is none.
func Program(t testing.TB, patterns ...string) string {
	t.Helper()
	for _, pattern := range patterns {
		if path, err := exec.LookPath(pattern); err == nil {
			return path
		}
		if found, err := filepath.Glob(pattern); err == nil && len(found) > 0 {
			return found[len(found)-1] // the newest version, mostly
		}
	}
	t.Fatalf("%s is not installed: run scripts/install", patterns[0])
	return ""
}

// Run runs a command as the user that servers run as, in a folder, and fails the test if
// it fails.
func Run(t testing.TB, dir, program string, args ...string) {
	t.Helper()
	owner, err := serverUser()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, args...)
	cmd.Dir, cmd.SysProcAttr = dir, attributes(owner)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", filepath.Base(program), err, out)
	}
}

// Folder makes an empty folder which belongs to the user that servers run as, with a
// path that is short enough for a socket in it. It is removed when t ends.
func Folder(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "holdfast-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	owner, err := serverUser()
	if err == nil && owner != nil {
		err = os.Chown(dir, owner.uid, owner.gid)
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// Port returns a TCP port of the loopback interface that was free a moment ago. It is
// none that the kernel gives to outgoing connections.
func Port(t testing.TB) int {
	t.Helper()
	for range 100 {
		port := 20_000 + rand.IntN(12_767)
		if l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port))); err == nil {
			l.Close()
			return port
		}
	}
	t.Fatal("there is no free port from 20000 to 32767")
	return 0
}

// A serverOwner is the user that servers run as.
type serverOwner struct{ uid, gid int }

// serverUser returns the user that servers run as: nil for that of the test, unless that
// is root, as which some of them refuse to run.
var serverUser = sync.OnceValues(func() (*serverOwner, error) {
	if os.Getuid() != 0 {
		return nil, nil
	}
	u, err := user.Lookup("nobody")
	if err != nil {
		return nil, err
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.Atoi(u.Gid)
	return &serverOwner{uid, gid}, err
})
