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
	"time"

	"github.com/holdfast-session/holdfast/host/worker"
	"github.com/holdfast-session/holdfast/inproc"
	"github.com/holdfast-session/holdfast/stateserver"
	"github.com/holdfast-session/holdfast/store"
)

// The modes of the demo.
const (
	InProc      = "inproc"
	StateServer = "stateserver"
)

// workerVar is the environment variable that has a [Worker] as JSON.
const workerVar = "HOLDFAST_DEMO_WORKER"

// A Worker is what a worker process is told by its parent.
type Worker struct {
	Mode        string
	Handover    bool // InProc: sessions go to the next process at a recycle
	Number, Of  int
	StateServer string // its address
	Timeout     time.Duration
	Config      string // the shop's configuration, which the host watches
	Host        string // the URL of the host's report
}

// Work is a worker process of the demo. It serves the shop until ctx is done, or
// until its standard input, which the parent holds open, ends with the parent.
func Work(ctx context.Context, log *slog.Logger) error {
	var w Worker
	text := os.Getenv(workerVar)
	if text == "" || os.Getenv("PORT") == "" {
		return errors.New("this command is started by `holdfast demo`; run that instead")
	}
	if err := json.Unmarshal([]byte(text), &w); err != nil {
		return fmt.Errorf("%s: %w", workerVar, err)
	}
	ctx, cancel := WithStdin(ctx)
	defer cancel()

	var (
		st       store.Store
		joined   *worker.Worker
		endStore func(context.Context) error
	)
	switch {
	case w.Mode == StateServer:
		client, err := stateserver.Dial(w.StateServer, nil)
		if err != nil {
			return err
		}
		st, endStore = client, func(context.Context) error { return client.Close() }
	case w.Handover:
		var err error
		if joined, err = worker.Join(&worker.Options{Logger: log}); err != nil {
			return err
		}
		st, endStore = joined.Store(), joined.Close
	default:
		memory := inproc.New(nil)
		st, endStore = memory, func(context.Context) error { return memory.Close() }
	}
	s, err := newShop(w, st, log)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", os.Getenv("PORT")))
	if err != nil {
		return err
	}
	if joined != nil {
		s.why = joined.Why
		if err := joined.Ready(); err != nil {
			return err
		}
	}
	srv := &http.Server{Handler: s.handler(), ReadHeaderTimeout: 10 * time.Second}
	err = serveUntil(ctx, srv, l)
	closing, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return errors.Join(err, s.sessions.Close(closing), endStore(closing))
}

// serveUntil serves until ctx is done, and then lets the requests finish that have
// begun.
func serveUntil(ctx context.Context, srv *http.Server, l net.Listener) error {
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(l) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	patience, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := srv.Shutdown(patience); err != nil {
		return srv.Close()
	}
	return nil
}

// WithStdin returns a context that is done when standard input ends. A child whose
// parent holds the other end learns in this way that the parent has died, on every
// platform.
func WithStdin(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	return ctx, cancel
}
