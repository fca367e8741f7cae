package demo

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// ReadyLine begins the line by which `holdfast serve` says that it is ready; the
// address follows.
const ReadyLine = "holdfast: state server ready on "

const (
	stateStart = 15 * time.Second // to say that it is ready
	stateStop  = 8 * time.Second  // to end after its input did
	statePause = 500 * time.Millisecond
)

// A stateProcess is a state server in a process of its own. If it ends it is started
// again at its address; its sessions are gone then.
type stateProcess struct {
	program string
	out     io.Writer
	log     *slog.Logger
	addr    string
	quit    context.CancelFunc
	over    chan struct{}
}

// startState starts one and returns when it is ready.
func startState(ctx context.Context, program string, out io.Writer, log *slog.Logger) (*stateProcess, error) {
	running, quit := context.WithCancel(context.WithoutCancel(ctx))
	p := &stateProcess{program: program, out: out, log: log, addr: "127.0.0.1:0", quit: quit, over: make(chan struct{})}
	run, err := p.start(ctx)
	if err != nil {
		quit()
		return nil, err
	}
	p.addr = run.addr
	go p.keep(running, ctx, run)
	return p, nil
}

// stop ends it.
func (p *stateProcess) stop() {
	p.quit()
	<-p.over
}

// keep waits for the end of run after run, until ctx is done. When the demo is stopping,
// none is started again.
func (p *stateProcess) keep(ctx, stopping context.Context, run *stateRun) {
	defer close(p.over)
	for {
		select {
		case err := <-run.ended:
			run.stdin.Close()
			if stopping.Err() != nil { // Ctrl-C is for all processes of the terminal
				return
			}
			p.log.Error("the state server has ended, and with it every session; starting it again", "pid", run.pid, "err", err)
		case <-ctx.Done():
			run.stop()
			return
		}
		for run = nil; run == nil; {
			next, err := p.start(ctx)
			if err == nil {
				run = next
				break
			}
			p.log.Error("the state server cannot be started", "err", err)
			select {
			case <-time.After(statePause):
			case <-ctx.Done():
				return
			}
		}
	}
}

// A stateRun is one process.
type stateRun struct {
	pid   int
	addr  string
	cmd   *exec.Cmd
	stdin io.Closer // it ends when this is closed
	ended chan error
}

func (p *stateProcess) start(ctx context.Context) (*stateRun, error) {
	cmd := exec.Command(p.program, "serve", "--memory", "--listen", p.addr, "--until-stdin-ends")
	cmd.WaitDelay = time.Second
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd.Stdout, cmd.Stderr = w, w
	err = cmd.Start()
	w.Close()
	if err != nil {
		r.Close()
		return nil, fmt.Errorf("starting the state server: %w", err)
	}
	run := &stateRun{pid: cmd.Process.Pid, cmd: cmd, stdin: stdin, ended: make(chan error, 1)}
	ready := make(chan string, 1)
	var printed sync.WaitGroup
	printed.Go(func() {
		defer r.Close()
		lines := bufio.NewScanner(r)
		for lines.Scan() {
			if addr, ok := strings.CutPrefix(lines.Text(), ReadyLine); ok {
				ready <- addr
				continue
			}
			fmt.Fprintf(p.out, "[state server, pid %d] %s\n", run.pid, lines.Text())
		}
	})
	go func() {
		printed.Wait()
		run.ended <- cmd.Wait()
	}()
	late := time.NewTimer(stateStart)
	defer late.Stop()
	select {
	case run.addr = <-ready:
		p.log.Info("state server ready", "pid", run.pid, "addr", run.addr)
		return run, nil
	case err := <-run.ended:
		return nil, fmt.Errorf("the state server ended at its start (%v); the lines above say why", err)
	case <-late.C:
		run.stop()
		return nil, fmt.Errorf("the state server was not ready within %s", stateStart)
	case <-ctx.Done():
		run.stop()
		return nil, context.Cause(ctx)
	}
}

// stop lets the process end.
func (r *stateRun) stop() {
	r.stdin.Close()
	late := time.NewTimer(stateStop)
	defer late.Stop()
	select {
	case <-r.ended:
	case <-late.C:
		_ = r.cmd.Process.Kill()
		<-r.ended
	}
}
