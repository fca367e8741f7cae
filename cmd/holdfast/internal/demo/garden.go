// Package demo is the shop that `holdfast demo` runs: worker processes behind one
// port, with their sessions in a state server, or wherever else its options say.
//
// The parent process ([Garden]) listens, runs the workers by package host, and does to
// them what a visitor presses a button for. A worker ([Work]) is the shop itself, an
// ordinary web application over package holdfast.
package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/holdfast-session/holdfast/host"
)

// A Garden is a demo: its parent process.
type Garden struct {
	// Mode is InProc or StateServer.
	Mode string
	// Handover, with InProc, hands sessions to the next process at a recycle, and
	// leads each visitor to the worker that has his.
	Handover bool
	// Workers is how many worker processes there are.
	Workers int
	// Listener takes the visitors' connections.
	Listener net.Listener
	// Timeout is the sessions' timeout.
	Timeout time.Duration
	// Program is the holdfast executable, for the child processes.
	Program string
	// Stdout gets what to open, Stderr the processes' lines.
	Stdout, Stderr io.Writer
	Log            *slog.Logger
}

// memoryLimit is at how many private bytes a worker is recycled. It is far from what
// the shop needs, and far enough above that for the host to see a leak in time, which
// it looks for every ten seconds while nothing happens.
const memoryLimit = 128 << 20

// Run runs the demo until ctx is done.
func (g *Garden) Run(ctx context.Context) error {
	defer g.Listener.Close()

	// Children hold the reading end, and end with us.
	lifeline, ours, err := os.Pipe()
	if err != nil {
		return err
	}
	defer lifeline.Close()
	defer ours.Close()

	dir, remove, err := newFolder()
	if err != nil {
		return err
	}
	defer remove()
	config := filepath.Join(dir, configName)
	if err := writeConfig(config, mottos[0]); err != nil {
		return err
	}

	tell := Worker{
		Mode: g.Mode, Handover: g.Handover, Of: g.Workers, Timeout: g.Timeout, Config: config,
		Host: "http://" + shown(g.Listener.Addr()) + reportPath,
	}
	if g.Mode == StateServer {
		state, err := startState(ctx, g.Program, g.Stderr, g.Log)
		if err != nil {
			return err
		}
		defer state.stop()
		tell.StateServer = state.addr
	}

	h := &host.Host{
		Workers: g.Workers, Output: g.Stderr, Logger: g.Log, StopTimeout: 8 * time.Second,
		Limits: host.Limits{Memory: memoryLimit},
		Watch:  host.Watch{Paths: []string{config}},
	}
	if g.Handover {
		h.Proxy.Routing = host.BySession
	}
	h.Command = func(n int) *exec.Cmd {
		w := tell
		w.Number = n
		text, err := json.Marshal(w)
		if err != nil {
			panic(err) // it has nothing that could fail
		}
		cmd := exec.Command(g.Program, "demo-worker")
		cmd.Env = append(os.Environ(), workerVar+"="+string(text))
		cmd.Stdin = lifeline
		return cmd
	}
	running, stopWorkers := context.WithCancel(context.Background())
	defer stopWorkers()
	ended := make(chan error, 1)
	go func() { ended <- h.Run(running) }()

	desk := &desk{h: h, workers: g.Workers, config: config}
	srv := &http.Server{Handler: desk.handler(), ReadHeaderTimeout: 10 * time.Second}
	serving, stopServing := context.WithCancel(ctx)
	defer stopServing()
	served := make(chan error, 1)
	go func() { served <- serveUntil(serving, srv, g.Listener) }()
	g.announce(tell.StateServer)

	var failure error
	select {
	case failure = <-ended:
		stopServing()
		return errors.Join(failure, <-served)
	case failure = <-served: // because ctx is done, or the listener failed
	}
	stopWorkers()
	return errors.Join(failure, <-ended)
}

// announce says what to open.
func (g *Garden) announce(stateServer string) {
	fmt.Fprintf(g.Stdout, "holdfast: demo shop ready on http://%s/\n", shown(g.Listener.Addr()))
	what := "1 worker process"
	if g.Workers > 1 {
		what = fmt.Sprintf("%d worker processes behind one port", g.Workers)
	}
	where := "in a state server process at " + stateServer
	switch {
	case g.Handover:
		where = "in the memory of each (InProc), handed over at a recycle"
	case g.Mode == InProc:
		where = "in the memory of each (InProc)"
	}
	fmt.Fprintf(g.Stdout, "  %s, sessions %s\n", what, where)
	fmt.Fprintf(g.Stdout, "  Open it in a browser, fill the cart, and kill or recycle the worker that answered. Ctrl-C stops the demo.\n")
}

// shown is an address that a browser on this machine can open.
func shown(a net.Addr) string {
	host, port, err := net.SplitHostPort(a.String())
	if err != nil {
		return a.String()
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}
