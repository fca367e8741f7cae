package host

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"time"
)

const (
	probeEvery = 20 * time.Millisecond
	// A worker that ends sooner than this after its start ended early. The first
	// early end is taken for bad luck; from the second on there is a pause.
	earlyEnd   = 5 * time.Second
	firstPause = 100 * time.Millisecond
	lastPause  = 30 * time.Second
	// outputGrace is how long the output of a worker that has ended is waited for,
	// if a process that left its group still holds the pipe.
	outputGrace = time.Second
)

// A process is one run of a worker.
type process struct {
	worker    int
	pid       int
	addr      string
	cmd       *exec.Cmd
	began     time.Time
	transport *http.Transport
	printed   chan struct{} // closed at the end of its output
	gone      chan struct{} // closed when it is reaped and recorded

	// under Host.mu
	ready  bool
	reason Reason // set before the host itself ends it
	detail string
}

// A startError is a command that cannot be started.
type startError struct {
	worker int
	err    error
}

func (e *startError) Error() string {
	return fmt.Sprintf("host: cannot start worker %d: %v", e.worker, e.err)
}

func (e *startError) Unwrap() error { return e.err }

// supervise keeps worker n running until ctx is done. It returns an error only if
// there is no sense in trying again.
func (h *Host) supervise(ctx context.Context, n int) error {
	// The parent-death signal comes at the end of the thread that started the
	// process, so that thread stays until there is no process any more.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	early, started := 0, false
	for ctx.Err() == nil {
		p, err := h.start(n)
		if err != nil {
			if !started {
				return &startError{n, err}
			}
			h.log().Error("worker cannot be started", "worker", n, "err", err)
			early++
		} else {
			started = true
			exit := h.watch(ctx, p)
			select { // its last words come before the next one's first
			case <-p.printed:
			case <-time.After(2 * outputGrace):
			}
			switch {
			case exit.Reason == Killed:
				early = 0
			case exit.Ended.Sub(exit.Began) < earlyEnd, exit.Reason == NotReady:
				early++
			default:
				early = 0
			}
		}
		if pause := pauseAfter(early); pause > 0 && ctx.Err() == nil {
			h.log().Warn("worker keeps ending early; waiting before the next start", "worker", n, "times", early, "pause", pause)
			select {
			case <-time.After(pause):
			case <-ctx.Done():
			}
		}
	}
	return nil
}

// pauseAfter is the pause after that many early ends in a row.
func pauseAfter(early int) time.Duration {
	if early < 2 {
		return 0
	}
	return min(firstPause<<min(early-2, 20), lastPause)
}

// start starts a process of worker n.
func (h *Host) start(n int) (*process, error) {
	port, err := h.freePort()
	if err != nil {
		return nil, err
	}
	cmd := h.Command(n)
	if cmd.Env == nil {
		cmd.Env = os.Environ()
	}
	cmd.Env = append(cmd.Env, "PORT="+port, "HOLDFAST_WORKER="+strconv.Itoa(n))
	detach(cmd)

	// A pipe of our own: with one of cmd's, Wait would wait for every descendant
	// that holds it, and the end of the worker would be seen late.
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	if cmd.Stdout == nil {
		cmd.Stdout = w
	}
	if cmd.Stderr == nil {
		cmd.Stderr = w
	}
	err = cmd.Start()
	w.Close()
	if err != nil {
		r.Close()
		return nil, err
	}
	p := &process{
		worker: n, pid: cmd.Process.Pid, addr: net.JoinHostPort("127.0.0.1", port), cmd: cmd, began: time.Now(),
		transport: newTransport(),
		printed:   make(chan struct{}), gone: make(chan struct{}),
	}
	go h.passOn(p, r)
	h.mu.Lock()
	h.procs[n-1] = p
	h.mu.Unlock()
	h.log().Info("worker started", "worker", n, "pid", p.pid, "addr", p.addr)
	return p, nil
}

// watch waits until p is ready, and then until it ends, or ends it when ctx is done.
func (h *Host) watch(ctx context.Context, p *process) Exit {
	exited := make(chan error, 1)
	go func() { exited <- p.cmd.Wait() }()

	ready := make(chan struct{})
	probing, probed := context.WithCancel(context.Background())
	defer probed()
	go probe(probing, p.addr, ready)

	late := time.NewTimer(or(h.StartTimeout, 30*time.Second))
	defer late.Stop()
	var tooLong <-chan time.Time
	done := ctx.Done()
	for {
		select {
		case <-ready:
			ready = nil
			late.Stop()
			h.mu.Lock()
			p.ready = p.reason == ""
			h.notify()
			h.mu.Unlock()
			h.log().Info("worker ready", "worker", p.worker, "pid", p.pid, "after", time.Since(p.began).Round(time.Millisecond))
		case <-late.C:
			h.ending(p, NotReady, fmt.Sprintf("nothing listened on $PORT (%s) within %s", p.addr, or(h.StartTimeout, 30*time.Second)))
			p.kill()
		case <-done:
			done = nil
			h.ending(p, Stopped, "the host stopped")
			p.terminate()
			tooLong = time.After(or(h.StopTimeout, 10*time.Second))
		case <-tooLong:
			h.log().Warn("worker did not stop in time and is killed", "worker", p.worker, "pid", p.pid)
			p.kill()
		case err := <-exited:
			p.kill() // what it left behind in its group
			return h.ended(p, err)
		}
	}
}

// ending notes that the host is about to end p, and why.
func (h *Host) ending(p *process, why Reason, detail string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p.ready = false
	if p.reason == "" {
		p.reason, p.detail = why, detail
	}
}

// ended records that p has ended, with the error of Wait.
func (h *Host) ended(p *process, err error) Exit {
	p.transport.CloseIdleConnections()
	e := Exit{Worker: p.worker, PID: p.pid, Began: p.began, Ended: time.Now(), Reason: Crashed, Detail: "exit status 0"}
	if err != nil {
		e.Detail = err.Error()
	}
	h.mu.Lock()
	if p.reason != "" {
		e.Reason, e.Detail = p.reason, p.detail
	}
	p.ready = false
	h.procs[p.worker-1] = nil
	if len(h.exits) == keptExits {
		h.exits = append(h.exits[:0], h.exits[1:]...)
	}
	h.exits = append(h.exits, e)
	h.notify()
	h.mu.Unlock()
	close(p.gone)

	log := h.log().Warn
	if e.Reason == Stopped {
		log = h.log().Info
	}
	log("worker ended", "worker", p.worker, "pid", p.pid, "reason", e.Reason, "detail", e.Detail,
		"age", e.Ended.Sub(e.Began).Round(time.Millisecond))
	return e
}

// Workers' ports are below those that systems give to whoever asks for any (32768 or
// more): between the moment when one is found free and that when the worker listens,
// no connection of another program gets it.
const firstPort, ports = 20000, 12768

// freePort finds a port that no process listens on and no other worker was given.
func (h *Host) freePort() (string, error) {
	var last error
	for range 1000 {
		port := strconv.Itoa(firstPort + rand.IntN(ports))
		addr := net.JoinHostPort("127.0.0.1", port)
		l, err := net.Listen("tcp", addr)
		if err != nil {
			last = err
			continue
		}
		l.Close()
		taken := false
		h.mu.Lock()
		for _, p := range h.procs {
			taken = taken || p != nil && p.addr == addr
		}
		h.mu.Unlock()
		if !taken {
			return port, nil
		}
	}
	return "", fmt.Errorf("no port from %d to %d is free for a worker: %w", firstPort, firstPort+ports-1, last)
}

// probe closes ready as soon as addr accepts a connection.
func probe(ctx context.Context, addr string, ready chan<- struct{}) {
	every := time.NewTicker(probeEvery)
	defer every.Stop()
	for {
		if c, err := dial(ctx, "tcp", addr); err == nil {
			c.Close()
			close(ready)
			return
		}
		select {
		case <-every.C:
		case <-ctx.Done():
			return
		}
	}
}

var errSelf = errors.New("connected to itself")

// dial connects to a worker. Where nobody listens, the kernel may by chance connect
// a socket to itself, since workers' ports are from the range that it gives to
// clients; that is no worker.
func dial(ctx context.Context, network, addr string) (net.Conn, error) {
	d := net.Dialer{Timeout: 2 * time.Second}
	c, err := d.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	if c.LocalAddr().String() == c.RemoteAddr().String() {
		c.Close()
		return nil, errSelf
	}
	return c, nil
}

// longestLine is where a line that does not end is broken.
const longestLine = 64 << 10

// passOn writes what p prints to the host's output, line by line.
func (h *Host) passOn(p *process, r *os.File) {
	defer close(p.printed)
	defer r.Close()
	// Where a descendant keeps the pipe, or nobody takes the output, this ends a
	// little after p.
	go func() {
		<-p.gone
		select {
		case <-p.printed:
		case <-time.After(outputGrace):
			r.Close()
		}
	}()
	prefix := fmt.Sprintf("[worker %d, pid %d] ", p.worker, p.pid)
	b := bufio.NewReaderSize(r, longestLine)
	line := make([]byte, 0, 256)
	for {
		text, err := b.ReadSlice('\n')
		if len(text) > 0 {
			line = append(append(line[:0], prefix...), text...)
			if line[len(line)-1] != '\n' {
				line = append(line, '\n')
			}
			h.lines.Lock()
			_, _ = h.output().Write(line) // an output that is gone stops no worker
			h.lines.Unlock()
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return
		}
	}
}
