// Package host runs a web application as one or more worker processes behind one
// handler, as IIS runs its worker processes: it starts them, watches them, replaces
// them when one of its limits is reached or a file has changed, starts them again
// when they end, and shares the requests out among those that are ready.
//
// A worker is any program that serves HTTP on 127.0.0.1 at the port named by the
// environment variable PORT (or on a socket that it gets, see [Host.Sockets]). It is
// ready when that port accepts a connection or, with [Host.Health], when the check
// passes. What it prints is passed on line by line, with the worker's number and PID.
//
// # Recycling
//
// A recycle is planned, and overlaps: a new process starts, and once it is ready it
// gets the requests. The old one gets no more, finishes those that it has within
// [Host.Drain], and is then ended by SIGTERM and, after [Host.StopTimeout], SIGKILL,
// with everything that it has started. If the new one does not come up, the old one
// goes on. [Limits], [Health] and [Watch] say when; [Host.Recycle] does it by hand.
// Workers are recycled one after another, so that there is never more than one
// process more than there are workers, but for those that finish.
//
// # Ends
//
// Everything that happens to a worker is in the journal with its reason
// ([Host.Journal]), so that a session lost with it can be explained. A worker that
// ends by itself is started again at once; one that keeps ending early is started
// again after growing pauses, and one that fails too often ([RapidFail]) not at all.
//
// If the host itself is killed, its workers and their descendants end, too: on Unix
// a small shell process waits for the end of a pipe that only the host holds. (Where
// there is no shell, Linux still ends the workers themselves.)
//
// # Requests
//
// Requests go to the ready workers in turn, or as [Proxy] says. One that meets a
// worker which has just ended goes to another, and if there is none, waits for one
// ([Host.WaitTimeout]; then 503 and Retry-After). It is repeated only where that is
// safe: if the worker never accepted the connection, or once if it is a GET or HEAD
// whose worker died before a byte of the answer came. Any other request that was in
// flight on a worker that dies is answered by 502, or, once its answer had begun, cut
// off.
package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math"
	"os"
	"os/exec"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-session/holdfast/internal/certs"
)

var (
	// ErrNoWorker means that a number or PID is none of the host's workers, or no
	// more.
	ErrNoWorker = errors.New("host: there is no such worker")
	// ErrKept means that a worker was not recycled, because its successor did not
	// come up. The worker goes on. The journal says more.
	ErrKept = errors.New("host: the successor did not come up; the worker goes on")
)

// A Host runs workers and is the [net/http.Handler] in front of them. Set its fields
// before [Host.Run] or ServeHTTP, and do not change or copy it afterwards. Its methods
// may be called by several goroutines at a time.
type Host struct {
	// Command returns the command of a worker; they are numbered from 1. It is
	// called for every start and returns a new command each time. The host adds
	// PORT and HOLDFAST_WORKER (the number) to its environment, and takes Stdout
	// and Stderr where they are nil.
	Command func(worker int) *exec.Cmd

	// Workers is how many there are; 1 if zero.
	Workers int

	// Sockets makes workers take a listener by systemd's convention (descriptor 3,
	// LISTEN_FDS and LISTEN_PID) instead of PORT. It needs a Unix system with a
	// shell.
	Sockets bool

	// Limits, Health and Watch recycle workers by themselves.
	Limits Limits
	Health Health
	Watch  Watch

	// RapidFail bounds the restarts of a worker that fails.
	RapidFail RapidFail

	// StartTimeout is how long a worker may take until it is ready, before it is
	// killed and started anew; 30 seconds if zero.
	StartTimeout time.Duration

	// Drain is how long a worker that is recycled may take to finish the requests
	// that it has; 30 seconds if zero.
	Drain time.Duration

	// StopTimeout is how long a worker may take to end after SIGTERM, before it is
	// killed; 10 seconds if zero.
	StopTimeout time.Duration

	// WaitTimeout is how long a request waits while no worker is ready; 10 seconds
	// if zero.
	WaitTimeout time.Duration

	// Proxy is how requests get to the workers.
	Proxy Proxy

	// JournalFile is where the journal is kept over restarts of the host, for one
	// host alone. It does not grow past a mebibyte. If empty, the journal is in
	// memory only.
	JournalFile string

	// Output takes the lines that workers print; os.Stderr if nil.
	Output io.Writer

	// Logger takes what the host has to say; slog.Default() if nil.
	Logger *slog.Logger

	front front
	lines sync.Mutex // one write at a time to Output

	// Set by Run before the first worker is started.
	book    *journal
	control *controlServer
	guard   *guard
	turns   chan struct{} // holds a value while a worker is recycled

	mu    sync.Mutex // may be held when the router's is taken, not the other way round
	began bool
	slots []*slot
	all   map[string]*process // by run: those that start, get requests, or drain
}

// Run starts the workers and keeps them running until ctx is done. Then it sends
// each SIGTERM, kills those that are still there after StopTimeout, and returns nil
// when all have ended. Whoever serves the host's handler stops doing so first, so
// that requests are finished.
//
// It fails if the settings make no sense, if what is to be watched cannot be, or if
// the command of a worker cannot be started the first time; a later failure is tried
// again, after pauses. It is called once.
func (h *Host) Run(ctx context.Context) error {
	if err := h.check(); err != nil {
		return err
	}
	book, err := openJournal(h.JournalFile, h.log())
	if err != nil {
		return err
	}
	defer book.close()
	h.mu.Lock()
	if h.began {
		h.mu.Unlock()
		return errors.New("host: Run called twice")
	}
	h.began, h.book = true, book
	h.all, h.turns = make(map[string]*process), make(chan struct{}, 1)
	for i := range max(h.Workers, 1) {
		h.slots = append(h.slots, &slot{worker: i + 1, poke: make(chan struct{}, 1)})
	}
	h.mu.Unlock()
	h.router().wake = func(int) { h.wakeAll() }

	if h.control, err = listenControl(h); err != nil {
		h.log().Warn("workers cannot talk to the host, and sessions in their memory cannot be counted or handed over", "err", err)
	}
	defer h.control.close()
	h.guard = newGuard(h.control.folder(), h.log())
	defer h.guard.close()

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	background, err := h.triggers()
	if err != nil {
		return err
	}
	h.book.add(Entry{Event: HostStarted, PID: os.Getpid()})
	var wg sync.WaitGroup
	for _, run := range background {
		wg.Go(func() { run(ctx) })
	}
	for _, s := range h.slots {
		wg.Go(func() {
			if err := h.supervise(ctx, s); err != nil {
				cancel(err)
			}
		})
	}
	<-ctx.Done()
	h.router().stop()
	wg.Wait()
	h.book.add(Entry{Event: HostStopped, PID: os.Getpid()})
	if failed := (*startError)(nil); errors.As(context.Cause(ctx), &failed) {
		return failed
	}
	return nil
}

// Check reports what [Host.Run] and [Host.Serve] would not begin with: settings that make no
// sense, and a certificate that cannot be read.
func (h *Host) Check() error {
	if err := h.check(); err != nil || h.Proxy.Certificate == "" {
		return err
	}
	_, err := certs.Read(h.Proxy.Certificate, h.Proxy.Key, "", h.log())
	return err
}

// check finds settings that make no sense.
func (h *Host) check() error {
	if h.Command == nil {
		return errors.New("host: no Command")
	}
	return errors.Join(h.Limits.check(), h.Health.check(), h.Proxy.check())
}

// triggers returns what runs beside the workers, and recycles them.
func (h *Host) triggers() ([]func(context.Context), error) {
	var all []func(context.Context)
	if limit := h.Limits.memory(); limit > 0 {
		all = append(all, func(ctx context.Context) { h.watchMemory(ctx, limit) })
	}
	if len(h.Limits.Times) > 0 {
		all = append(all, h.followSchedule)
	}
	if h.Limits.Idle > 0 {
		all = append(all, h.watchIdle)
	}
	roots := h.Watch.roots(h.Command)
	if len(roots) > 0 {
		w, err := newWatcher(roots, h.Watch.Except, h.JournalFile, h.log())
		if err != nil {
			return nil, err
		}
		all = append(all, func(ctx context.Context) { h.watchFiles(ctx, w) })
	}
	return all, nil
}

// Recycle replaces the process of a worker, or of all of them, one after another, if
// worker is 0. It returns when the new ones are ready, or the first of the errors:
// [ErrNoWorker], [ErrKept], or that of ctx, which does not stop what has begun. A
// worker that is stopped for idleness stays so, one that was given up is started
// again. detail is for the journal.
func (h *Host) Recycle(ctx context.Context, worker int, detail string) error {
	h.mu.Lock()
	if worker < 0 || worker > len(h.slots) || len(h.slots) == 0 {
		h.mu.Unlock()
		return ErrNoWorker
	}
	slots := h.slots
	if worker > 0 {
		slots = slots[worker-1 : worker]
	}
	done := make(chan error, len(slots))
	for _, s := range slots {
		h.ask(s, &ask{reason: Requested, detail: detail, at: time.Now(), done: []chan<- error{done}})
	}
	h.mu.Unlock()
	var first error
	for range slots {
		select {
		case err := <-done:
			if first == nil {
				first = err
			}
		case <-ctx.Done():
			return fmt.Errorf("host: recycling: %w", context.Cause(ctx))
		}
	}
	return first
}

// Kill ends the process with this PID by SIGKILL, as a crash would, and returns when
// it is gone and gets no more requests, or when ctx is done. why is kept as the
// Detail of its [Entry]. The worker is then started again, without a pause.
func (h *Host) Kill(ctx context.Context, pid int, why string) error {
	h.mu.Lock()
	var p *process
	for _, q := range h.all {
		if q.pid == pid && pid > 0 {
			p = q
		}
	}
	h.mu.Unlock()
	if p == nil {
		return ErrNoWorker
	}
	h.ending(p, Killed, why)
	p.kill()
	select {
	case <-p.gone:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("host: killing PID %d: %w", pid, context.Cause(ctx))
	}
}

// Journal returns what happened, the oldest first: the last 1,000 entries, those of
// earlier hosts with the same JournalFile among them.
func (h *Host) Journal() []Entry {
	h.mu.Lock()
	book := h.book
	h.mu.Unlock()
	if book == nil {
		return nil
	}
	return book.all()
}

// Exits returns how processes ended: the entries of the journal whose event is
// [Ended], the oldest first.
func (h *Host) Exits() []Entry {
	return slices.DeleteFunc(h.Journal(), func(e Entry) bool { return e.Event != Ended })
}

// A State is what a worker process does.
type State string

const (
	Starting State = "starting" // it is not ready yet
	Ready    State = "ready"    // it gets requests
	Draining State = "draining" // it finishes requests, and ends
	Sleeping State = "idle"     // it was stopped until somebody asks for something
	GivenUp  State = "given up" // it failed too often
)

// A Status is how a worker process is. A worker whose process is replaced has two.
type Status struct {
	Worker   int       `json:"worker"`
	PID      int       `json:"pid,omitempty"`
	State    State     `json:"state"`
	Addr     string    `json:"addr,omitempty"`
	Began    time.Time `json:"began,omitzero"`
	Requests uint64    `json:"requests"`  // that have begun
	InFlight int       `json:"in_flight"` // that have not ended
	// Memory is private bytes, of descendants too where that is known; 0 where not.
	Memory int64 `json:"memory,omitempty"`
	// Sessions is how many InProc sessions it has, or nil if it does not say.
	Sessions *int `json:"sessions,omitempty"`
}

// Status returns how the workers are, in their order.
func (h *Host) Status() []Status {
	h.mu.Lock()
	var all []Status
	for _, p := range h.all {
		s := Status{Worker: p.worker, PID: p.pid, State: Starting, Addr: p.addr, Began: p.began}
		s.InFlight, s.Requests, _ = h.router().traffic(p.backend)
		if p.link != nil {
			n := p.live
			s.Sessions = &n
		}
		switch {
		case p.ready:
			s.State = Ready
		case p.reason != "":
			s.State = Draining
		}
		all = append(all, s)
	}
	for _, s := range h.slots {
		switch {
		case s.asleep:
			all = append(all, Status{Worker: s.worker, State: Sleeping})
		case s.givenUp:
			all = append(all, Status{Worker: s.worker, State: GivenUp})
		}
	}
	h.mu.Unlock()
	groups := processGroups()
	for i := range all {
		if s := &all[i]; s.PID != 0 {
			s.Memory = privateMemory(s.PID, groups[s.PID], math.MaxInt64)
		}
	}
	slices.SortFunc(all, func(a, b Status) int {
		if a.Worker != b.Worker {
			return a.Worker - b.Worker
		}
		return a.Began.Compare(b.Began)
	})
	return all
}

// Totals are counts since the host began.
type Totals struct {
	Entries map[Cause]int64 // of the journal
	// Carried and Lost are sessions in the memory of workers that have ended, as far
	// as they report them.
	Carried, Lost int64
}

// A Cause is what entries of the journal are counted by.
type Cause struct {
	Event  Event
	Reason Reason
}

// Totals returns what has been counted.
func (h *Host) Totals() Totals {
	h.mu.Lock()
	book := h.book
	h.mu.Unlock()
	if book == nil {
		return Totals{}
	}
	book.mu.Lock()
	defer book.mu.Unlock()
	t := book.totals
	t.Entries = maps.Clone(t.Entries)
	return t
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

// or returns v, or def if v is zero.
func or[T ~int | ~int64](v, def T) T {
	if v > 0 {
		return v
	}
	return def
}
