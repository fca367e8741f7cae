// Package host runs a web application as one or more worker processes behind one
// handler, as IIS runs its worker processes: it starts them, watches them, starts
// them again when they end, and shares the requests out among those that are ready.
//
// A worker is any program that serves HTTP on 127.0.0.1 at the port named by the
// environment variable PORT. It is ready when that port accepts a connection. What
// it prints is passed on line by line, with the worker's number and PID.
//
// # Requests
//
// Requests go to the ready workers in turn. One that meets a worker which has just
// ended goes to another, and if there is none, waits for one ([Host.WaitTimeout];
// then 503 and Retry-After). It is repeated only where that is safe: if the worker
// never accepted the connection, or once if it is a GET or HEAD whose worker died
// before a byte of the answer came. Any other request that was in flight on a
// worker that dies is answered by 502, or, once its answer had begun, cut off.
//
// # Ends
//
// Every end of a worker is kept with its reason ([Host.Exits]), so that a session
// lost with it can be explained. A worker that ends is started again at once; one
// that keeps ending early is started again after growing pauses.
package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http/httputil"
	"os"
	"os/exec"
	"slices"
	"sync"
	"time"
)

// ErrNoWorker means that a PID is none of the host's workers, or no more.
var ErrNoWorker = errors.New("host: no worker has this PID")

// A Host runs workers and is the [net/http.Handler] in front of them. Set its fields
// before [Host.Run] or ServeHTTP, and do not change or copy it afterwards.
type Host struct {
	// Command returns the command of a worker; they are numbered from 1. It is
	// called for every start and returns a new command each time. The host adds
	// PORT and HOLDFAST_WORKER (the number) to its environment, and takes Stdout
	// and Stderr where they are nil.
	Command func(worker int) *exec.Cmd

	// Workers is how many there are; 1 if zero.
	Workers int

	// StartTimeout is how long a worker may take until its port accepts
	// connections, before it is killed and started anew; 30 seconds if zero.
	StartTimeout time.Duration

	// StopTimeout is how long a worker may take to end after SIGTERM, before it is
	// killed; 10 seconds if zero.
	StopTimeout time.Duration

	// WaitTimeout is how long a request waits while no worker is ready; 10 seconds
	// if zero.
	WaitTimeout time.Duration

	// Output takes the lines that workers print; os.Stderr if nil.
	Output io.Writer

	// Logger takes what the host has to say; slog.Default() if nil.
	Logger *slog.Logger

	proxyOnce sync.Once
	proxy     *httputil.ReverseProxy
	lines     sync.Mutex // one line at a time to Output

	mu      sync.Mutex
	running bool
	stopped bool
	procs   []*process    // by worker number less one; nil while there is none
	turn    int           // where the next search for a ready worker starts
	changed chan struct{} // closed and replaced when a worker gets ready or ends
	exits   []Exit
}

// A Reason says why a worker ended.
type Reason string

const (
	// Crashed: it ended by itself, or somebody outside of the host ended it.
	Crashed Reason = "crashed"
	// Killed: by [Host.Kill].
	Killed Reason = "killed"
	// NotReady: it did not listen in time, and was killed.
	NotReady Reason = "not ready"
	// Stopped: the host stopped.
	Stopped Reason = "stopped"
)

// An Exit is the end of a worker process.
type Exit struct {
	Worker int
	PID    int
	// Began and Ended are when it was started and when its end was seen.
	Began, Ended time.Time
	Reason       Reason
	// Detail is what was given to [Host.Kill], else how the process ended, such as
	// "exit status 2" or "signal: killed".
	Detail string
}

// String describes the exit in a line.
func (e Exit) String() string {
	return fmt.Sprintf("worker %d (PID %d) %s at %s: %s", e.Worker, e.PID, e.Reason, e.Ended.Format(time.TimeOnly), e.Detail)
}

// keptExits bounds how many exits are remembered.
const keptExits = 1000

// Exits returns how workers ended, the oldest first. The last 1,000 are kept.
func (h *Host) Exits() []Exit {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.exits)
}

// Run starts the workers and keeps them running until ctx is done. Then it sends
// each SIGTERM, kills those that are still there after StopTimeout, and returns nil
// when all have ended. Whoever serves the host's handler stops doing so first, so
// that requests are finished.
//
// It fails if the command of a worker cannot be started the first time; a later
// failure is tried again, after pauses. It is called once.
func (h *Host) Run(ctx context.Context) error {
	if h.Command == nil {
		return errors.New("host: no Command")
	}
	h.mu.Lock()
	if h.running {
		h.mu.Unlock()
		return errors.New("host: Run called twice")
	}
	h.running = true
	h.procs = make([]*process, max(h.Workers, 1))
	h.mu.Unlock()

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for i := range h.procs {
		wg.Go(func() {
			if err := h.supervise(ctx, i+1); err != nil {
				cancel(err)
			}
		})
	}
	<-ctx.Done()
	h.mu.Lock()
	h.stopped = true
	h.notify()
	h.mu.Unlock()
	wg.Wait()
	if failed := (*startError)(nil); errors.As(context.Cause(ctx), &failed) {
		return failed
	}
	return nil
}

// Kill ends the worker with this PID by SIGKILL, as a crash would, and returns when
// it is gone and gets no more requests, or when ctx is done. why is kept as the
// Detail of its [Exit]. The worker is then started again, without a pause.
func (h *Host) Kill(ctx context.Context, pid int, why string) error {
	h.mu.Lock()
	var p *process
	for _, q := range h.procs {
		if q != nil && q.pid == pid {
			p = q
		}
	}
	if p == nil {
		h.mu.Unlock()
		return ErrNoWorker
	}
	p.ready = false
	if p.reason == "" {
		p.reason, p.detail = Killed, why
	}
	h.mu.Unlock()

	p.kill()
	select {
	case <-p.gone:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("host: killing PID %d: %w", pid, context.Cause(ctx))
	}
}

// notify wakes the requests that wait for a worker. The caller holds mu.
func (h *Host) notify() {
	if h.changed != nil {
		close(h.changed)
		h.changed = nil
	}
}

// change returns a channel that is closed at the next change. The caller holds mu.
func (h *Host) change() <-chan struct{} {
	if h.changed == nil {
		h.changed = make(chan struct{})
	}
	return h.changed
}

func (h *Host) log() *slog.Logger {
	if h.Logger != nil {
		return h.Logger
	}
	return slog.Default()
}

func (h *Host) output() io.Writer {
	if h.Output != nil {
		return h.Output
	}
	return os.Stderr
}

// or returns d, or def if d is zero.
func or(d, def time.Duration) time.Duration {
	if d > 0 {
		return d
	}
	return def
}
