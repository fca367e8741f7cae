package host

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strconv"
	"time"

	"github.com/holdfast-session/holdfast/host/internal/control"
)

// handingOver is how long a worker may take to hand over its sessions.
const handingOver = 30 * time.Second

// outputGrace is how long the output and the last message of a worker that has ended
// are waited for, if a process that left its group still holds the pipe.
const outputGrace = time.Second

// A process is one run of a worker.
type process struct {
	*backend
	run     string // its name on the control socket
	cmd     *exec.Cmd
	began   time.Time
	started int64         // when that was, as startTime tells
	printed chan struct{} // closed at the end of its output

	// What it says of itself, where it does.
	joined   chan struct{} // closed at its hello
	said     chan struct{} // closed when it says that it is ready
	prepared chan struct{} // closed when it knows of its successor
	settled  chan struct{} // closed when it has handed over, or its link has ended

	// under Host.mu
	predecessor *process // whom it replaces; nil from its end on
	ready       bool     // it gets requests
	reason      Reason   // set before the host itself ends it
	detail      string
	asked       bool // its recycling was asked for
	link        *control.Link
	live        int // sessions to lose, as it said last
	sessions    *Sessions
}

func (h *Host) newProcess(n int, addr string, predecessor *process) *process {
	p := &process{
		backend: h.newBackend(n, addr), cmd: h.Command(n), run: strconv.FormatUint(rand.Uint64(), 36),
		predecessor: predecessor, printed: make(chan struct{}),
		joined: make(chan struct{}), said: make(chan struct{}), prepared: make(chan struct{}), settled: make(chan struct{}),
	}
	if limit := h.Limits.Requests; limit > 0 {
		p.most = limit
		p.full = func() {
			h.askFor(p, RequestLimit, fmt.Sprintf("%d requests", limit))
		}
	}
	return p
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

// start starts a process of worker n, which replaces predecessor where there is one.
func (h *Host) start(n int, predecessor *process) (*process, error) {
	l, err := h.freePort()
	if err != nil {
		return nil, err
	}
	defer l.Close()
	addr := l.Addr().(*net.TCPAddr)
	p := h.newProcess(n, addr.String(), predecessor)
	cmd := p.cmd
	if cmd.Env == nil {
		cmd.Env = os.Environ()
	}
	cmd.Env = append(cmd.Env, control.WorkerVar+"="+strconv.Itoa(n))
	cmd.Env = append(cmd.Env, h.control.environment(p)...)
	if h.Sockets {
		f, err := passListener(cmd, l)
		if err != nil {
			return nil, err
		}
		defer f.Close()
	} else {
		cmd.Env = append(cmd.Env, "PORT="+strconv.Itoa(addr.Port))
		l.Close() // the worker opens it again
	}
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
	p.began = time.Now()
	h.mu.Lock()
	h.all[p.run] = p // before it can say hello
	h.mu.Unlock()
	err = cmd.Start()
	w.Close()
	if err != nil {
		r.Close()
		h.mu.Lock()
		delete(h.all, p.run)
		h.mu.Unlock()
		return nil, err
	}
	h.mu.Lock()
	p.pid = cmd.Process.Pid
	h.mu.Unlock()
	h.guard.add(p.pid)
	p.started = startTime(p.pid)
	go h.passOn(p, r)
	go h.reap(p)
	h.log().Info("worker started", "worker", n, "pid", p.pid, "addr", p.addr)
	return p, nil
}

// Workers' ports are below those that systems give to whoever asks for any (32768 or
// more): between the moment when one is found free and that when the worker listens,
// no connection of another program gets it.
const firstPort, ports = 20000, 12768

// freePort finds a port that no process listens on and no other worker was given.
func (h *Host) freePort() (net.Listener, error) {
	var last error
	for range 1000 {
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(firstPort+rand.IntN(ports)))
		l, err := net.Listen("tcp", addr)
		if err != nil {
			last = err
			continue
		}
		taken := false
		h.mu.Lock()
		for _, p := range h.all {
			taken = taken || p.addr == addr
		}
		h.mu.Unlock()
		if !taken {
			return l, nil
		}
		l.Close()
	}
	return nil, fmt.Errorf("no port from %d to %d is free for a worker: %w", firstPort, firstPort+ports-1, last)
}

// await waits until p is ready to get requests, and reports whether it is. If not, it
// is gone.
func (h *Host) await(ctx context.Context, p *process) bool {
	patience := or(h.StartTimeout, 30*time.Second)
	probing, stop := context.WithTimeout(ctx, patience)
	defer stop()
	go func() {
		select {
		case <-p.gone:
			stop()
		case <-probing.Done():
		}
	}()
	err := h.Health.await(probing, p, h.Sockets)
	if err == nil {
		// Who says hello says ready, too.
		select {
		case <-p.joined:
			select {
			case <-p.said:
			case <-probing.Done():
				err = errors.New("it did not say that it is ready")
			}
		default:
		}
	}
	select {
	case <-p.gone: // by itself
		return false
	default:
	}
	switch {
	case err == nil:
		return true
	case ctx.Err() != nil:
		h.retireNow(p)
	default:
		h.ending(p, NotReady, fmt.Sprintf("not ready within %s: %v", patience, err))
		p.kill()
	}
	<-p.gone
	return false
}

// ending notes that the host is about to end p, and why.
func (h *Host) ending(p *process, why Reason, detail string) {
	h.router().drain(p.backend)
	h.mu.Lock()
	defer h.mu.Unlock()
	p.ready = false
	if p.reason == "" {
		p.reason, p.detail = why, detail
	}
}

// retire lets p, which gets no requests any more, finish those that it has and hand
// over its sessions, and ends it. It returns when p is gone.
func (h *Host) retire(ctx context.Context, p *process) {
	late := time.NewTimer(or(h.Drain, 30*time.Second))
	defer late.Stop()
	select {
	case <-h.router().drain(p.backend):
	case <-p.gone:
	case <-late.C:
		requests, _, _ := h.router().traffic(p.backend)
		h.log().Warn("worker did not finish its requests in time", "worker", p.worker, "pid", p.pid, "requests", requests)
	case <-ctx.Done():
	}
	p.transport.CloseIdleConnections()
	if h.tell(p, control.Message{Kind: control.Handover}) {
		late.Reset(handingOver)
		select {
		case <-p.settled:
		case <-late.C:
			h.log().Warn("worker did not hand its sessions over in time", "worker", p.worker, "pid", p.pid)
		case <-ctx.Done():
		}
	}
	h.stop(p)
}

// retireNow ends p without waiting for its requests: the host stops.
func (h *Host) retireNow(p *process) {
	h.ending(p, Stopped, "the host stopped")
	h.tell(p, control.Message{Kind: control.Handover})
	h.stop(p)
}

// stop ends p by SIGTERM and, after StopTimeout, SIGKILL. It returns when p is gone.
func (h *Host) stop(p *process) {
	p.terminate()
	late := time.NewTimer(or(h.StopTimeout, 10*time.Second))
	defer late.Stop()
	select {
	case <-p.gone:
	case <-late.C:
		h.log().Warn("worker did not stop in time and is killed", "worker", p.worker, "pid", p.pid)
		p.kill()
		<-p.gone
	}
}

// reap waits for the end of p and records it.
func (h *Host) reap(p *process) {
	err := p.cmd.Wait()
	p.kill()    // what it left behind in its group,
	p.killRun() // and out of it
	h.guard.remove(p.pid)
	h.router().drain(p.backend)
	p.transport.CloseIdleConnections()
	h.lastWords(p)

	e := Entry{Event: Ended, Worker: p.worker, PID: p.pid, Began: p.began, Time: time.Now(), Reason: Crashed, Detail: "exit status 0"}
	if err != nil {
		e.Detail = err.Error()
	}
	h.mu.Lock()
	if p.reason != "" {
		e.Reason, e.Detail = p.reason, p.detail
	}
	if e.Sessions = p.sessions; e.Sessions == nil && p.link != nil {
		e.Sessions = &Sessions{Lost: p.live}
	}
	p.ready = false
	clean := p.sessions != nil
	delete(h.all, p.run)
	var successors []*process
	for _, q := range h.all {
		if q.predecessor == p {
			q.predecessor = nil
			successors = append(successors, q)
		}
	}
	h.mu.Unlock()
	h.book.add(e)
	log := h.log().Warn
	if e.Reason.planned() {
		log = h.log().Info
	}
	log("worker ended", "worker", p.worker, "pid", p.pid, "reason", e.Reason, "detail", e.Detail,
		"age", e.Time.Sub(e.Began).Round(time.Millisecond))
	close(p.gone)
	for _, q := range successors {
		h.tell(q, control.Message{Kind: control.Gone, Peer: h.control.peer(p), Clean: clean, Ends: h.ends(p.worker, p.began, 1)})
	}
}
