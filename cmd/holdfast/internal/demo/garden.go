// Package demo is the shop that `holdfast demo` runs: two worker processes behind
// one port, with their sessions in a state server, or whatever else its options say.
//
// The parent process ([Garden]) listens, starts and watches the workers by package
// host, and kills one when a visitor presses the button for it. A worker ([Work])
// is the shop itself, an ordinary web application over package holdfast.
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
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"time"

	"github.com/holdfast-session/holdfast/host"
)

// A Garden is a demo: its parent process.
type Garden struct {
	// Mode is InProc or StateServer.
	Mode string
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

	var state *stateProcess
	if g.Mode == StateServer {
		if state, err = startState(ctx, g.Program, g.Stderr, g.Log); err != nil {
			return err
		}
		defer state.stop()
	}

	h := &host.Host{Workers: g.Workers, Output: g.Stderr, Logger: g.Log, StopTimeout: 8 * time.Second}
	h.Command = func(n int) *exec.Cmd {
		w := Worker{Mode: g.Mode, Number: n, Of: g.Workers, Timeout: g.Timeout}
		if state != nil {
			w.StateServer = state.addr
		}
		for _, e := range h.Exits() {
			if e.Worker == n {
				w.Before = endedOf(e)
			}
		}
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

	mux := http.NewServeMux()
	button := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { kill(h, w, r) })
	mux.Handle("POST /kill", http.NewCrossOriginProtection().Handler(button))
	mux.Handle("/", h)
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	serving, stopServing := context.WithCancel(ctx)
	defer stopServing()
	served := make(chan error, 1)
	go func() { served <- serveUntil(serving, srv, g.Listener) }()
	g.announce(state)

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
func (g *Garden) announce(state *stateProcess) {
	fmt.Fprintf(g.Stdout, "holdfast: demo shop ready on http://%s/\n", shown(g.Listener.Addr()))
	what := "1 worker process"
	if g.Workers > 1 {
		what = fmt.Sprintf("%d worker processes behind one port", g.Workers)
	}
	if state != nil {
		fmt.Fprintf(g.Stdout, "  %s, sessions in a state server process at %s\n", what, state.addr)
	} else {
		fmt.Fprintf(g.Stdout, "  %s, sessions in the memory of each (InProc)\n", what)
	}
	fmt.Fprintf(g.Stdout, "  Open it in a browser, fill the cart, and kill the worker that answered. Ctrl-C stops the demo.\n")
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

// kill ends the worker that the form names and, when it is gone, leads back to the
// page.
func kill(h *host.Host, w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, 4<<10)
	pid, err := strconv.Atoi(r.PostFormValue("pid"))
	if err != nil {
		http.Error(w, "The form names no worker (pid).", http.StatusBadRequest)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), 10*time.Second)
	defer cancel()
	said := url.Values{"killed": {strconv.Itoa(pid)}}
	if err := h.Kill(ctx, pid, "by the button on the page"); err != nil {
		if !errors.Is(err, host.ErrNoWorker) {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		said = nil // somebody was faster; the page has the workers of now
	}
	http.Redirect(w, r, backTo(r.PostFormValue("back"), said), http.StatusSeeOther)
}
