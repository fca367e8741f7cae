package logstore

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-session/holdfast/stateserver"
	"github.com/holdfast-session/holdfast/store"
)

// This test binary is also the state server that TestKill kills.
const (
	serveVar = "HOLDFAST_TEST_SERVE" // the folder; its socket is beside it
	syncVar  = "HOLDFAST_TEST_SYNC"
)

func init() {
	dir := os.Getenv(serveVar)
	if dir == "" {
		return
	}
	if err := serveUntilStdinEnds(dir, os.Getenv(syncVar)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func serveUntilStdinEnds(dir, mode string) error {
	n, err := strconv.Atoi(mode)
	if err != nil {
		return err
	}
	fmt.Println("opening")
	// Small segments and bodies that are read back from disk, so that the kill also
	// meets compactions.
	s, err := Open(dir, &Options{Sync: Sync(n), Interval: 50 * time.Millisecond, SegmentSize: 1 << 20, MaxMemory: 1 << 20})
	if err != nil {
		return err
	}
	l, err := stateserver.Listen("unix:" + dir + ".sock")
	if err != nil {
		return err
	}
	srv := &stateserver.Server{Store: s}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	fmt.Println("ready")
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		return err
	}
	if err := srv.Shutdown(context.Background()); err != nil {
		return err
	}
	if err := <-served; err != stateserver.ErrServerClosed {
		return err
	}
	return s.Close()
}

// A server is a state server in a process of its own.
type server struct {
	t     *testing.T
	cmd   *exec.Cmd
	stdin io.Closer
	lines *bufio.Scanner
}

func startServer(t *testing.T, dir string, mode Sync) *server {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &server{t: t, cmd: exec.Command(exe)}
	p.cmd.Env = append(os.Environ(), serveVar+"="+dir, fmt.Sprintf("%s=%d", syncVar, mode))
	p.cmd.Stderr = os.Stderr
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.lines = bufio.NewScanner(stdout)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if p.cmd.ProcessState == nil {
			p.kill()
		}
	})
	return p
}

// says waits until the server has printed the line.
func (p *server) says(line string) {
	p.t.Helper()
	for p.lines.Scan() {
		if p.lines.Text() == line {
			return
		}
	}
	p.t.Fatalf("the server ended before it was %s (%v)", line, p.lines.Err())
}

func (p *server) kill() {
	p.t.Helper()
	if err := p.cmd.Process.Kill(); err != nil {
		p.t.Errorf("kill: %v", err)
	}
	_ = p.cmd.Wait() // it says "killed"
}

// stop ends the server in good order.
func (p *server) stop() {
	p.t.Helper()
	if err := p.stdin.Close(); err != nil {
		p.t.Errorf("stdin: %v", err)
	}
	if err := p.cmd.Wait(); err != nil {
		p.t.Errorf("the server ended with %v", err)
	}
}

// TestKill kills a state server under load, again and again, sometimes while it
// opens its folder. Nothing that it acknowledged may be missing: a killed process
// leaves what it wrote to the operating system, synced or not.
func TestKill(t *testing.T) {
	for _, mode := range []Sync{Always, Interval} {
		t.Run(fmt.Sprint(mode), func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "data")
			c := &crowd{t: t, dir: dir, witness: newWitness(), rand: rand.New(rand.NewPCG(4, uint64(mode)))}
			for range runs(10, 100) {
				if c.rand.IntN(4) == 0 {
					p := startServer(t, dir, mode)
					p.says("opening")
					p.kill()
				}
				p := startServer(t, dir, mode)
				p.says("ready")
				c.check()
				c.load(p)
				c.witness.crashed(time.Now())
			}
			c.finish(mode)
		})
	}
}

// A crowd is the clients of a server that is killed.
type crowd struct {
	t       *testing.T
	dir     string
	rand    *rand.Rand
	witness *witness
}

func (c *crowd) dial() *stateserver.Client {
	c.t.Helper()
	client, err := stateserver.Dial("unix:"+c.dir+".sock", nil)
	if err != nil {
		c.t.Fatal(err)
	}
	return client
}

func (c *crowd) check() {
	c.t.Helper()
	client := c.dial()
	defer func() { _ = client.Close() }()
	if err := c.witness.check(c.t.Context(), client, acknowledged); err != nil {
		c.t.Fatal(err)
	}
}

// load works with the server from many clients and kills it in the middle.
func (c *crowd) load(p *server) {
	c.t.Helper()
	client := c.dial()
	defer func() { _ = client.Close() }()
	ctx, cancel := context.WithCancel(c.t.Context())
	defer cancel()
	var (
		left   atomic.Int64
		killed atomic.Bool
		moment = make(chan struct{})
		wg     sync.WaitGroup
	)
	left.Store(1 + c.rand.Int64N(4000))
	for w := range 16 {
		v := &visitor{rand: rand.New(rand.NewPCG(c.rand.Uint64(), 0)), witness: c.witness, short: func(store.ID) bool { return false }}
		wg.Go(func() {
			for {
				id := store.ID{App: "app", Session: fmt.Sprintf("%c%d", 'a'+w, v.rand.IntN(6))}
				err := v.visit(ctx, client, id)
				if left.Add(-1) == 0 {
					close(moment)
				}
				if err == nil {
					continue
				}
				if !killed.Load() || !trouble(err) {
					c.t.Errorf("killed: %v; %v", killed.Load(), err)
				}
				return
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	select {
	case <-moment:
	case <-done: // they have all failed
	}
	killed.Store(true)
	p.kill()
	cancel()
	wg.Wait()
	if c.t.Failed() {
		c.t.FailNow()
	}
}

// finish stops a last server in good order, and starts one more.
func (c *crowd) finish(mode Sync) {
	c.t.Helper()
	for range 2 {
		p := startServer(c.t, c.dir, mode)
		p.says("ready")
		c.check()
		p.stop()
	}
}
