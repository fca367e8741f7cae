package serve

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/pprof"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/holdfast-session/holdfast/stateserver"
)

// An admin is the listener for those who look after the server:
//
//	/healthz   200 as long as the process does anything
//	/readyz    200 while it serves, else 503; the body says why
//	/metrics   figures for Prometheus
//	/version   what this is, in JSON
//
// and Go's profiles under /debug/pprof/, where the configuration has them.
type admin struct {
	listener *listener // nil for none
	http     *http.Server
	log      *slog.Logger
	done     sync.WaitGroup

	notReady atomic.Pointer[string] // why; empty if it is
	observed atomic.Pointer[observed]
}

// What the figures are taken from.
type observed struct {
	state  *stateserver.Server
	engine *engine
}

// newAdmin makes the admin listener of s, which is not ready yet.
func newAdmin(s *Server) *admin {
	a := &admin{log: s.Log}
	a.setReady("opening the store")
	a.observed.Store(&observed{})
	for _, l := range s.listeners {
		if l.role == roleAdmin {
			a.listener = l
		}
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		&figures{admin: a, certificates: s.certificates, version: s.Version},
	)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { text(w, http.StatusOK, "ok") })
	mux.HandleFunc("GET /readyz", a.readyz)
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{ErrorLog: slog.NewLogLogger(s.Log.Handler(), slog.LevelError)}))
	mux.HandleFunc("GET /version", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]string{
			"version": s.Version, "go": runtime.Version(), "platform": runtime.GOOS + "/" + runtime.GOARCH,
		})
	})
	if s.Config.Pprof {
		mux.HandleFunc("/debug/pprof/", pprof.Index)
		mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
		mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	}
	a.http = &http.Server{
		Handler: mux, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(s.Log.Handler(), slog.LevelDebug),
	}
	return a
}

// serve begins to answer.
func (a *admin) serve() {
	if a.listener == nil {
		return
	}
	a.done.Go(func() {
		if err := a.http.Serve(a.listener); !errors.Is(err, http.ErrServerClosed) {
			a.log.Error("the admin listener has failed; sessions are served on", "err", err)
		}
	})
}

// close lets requests for figures finish for a moment.
func (a *admin) close() {
	if a.listener == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if a.http.Shutdown(ctx) != nil {
		a.http.Close()
	}
	a.listener.Close() // if it was never served
	a.done.Wait()
}

// setReady sets why the server is not ready, or that it is.
func (a *admin) setReady(why string) { a.notReady.Store(&why) }

// watch takes the figures from state and e from now on; nil for none.
func (a *admin) watch(state *stateserver.Server, e *engine) { a.observed.Store(&observed{state, e}) }

func (a *admin) readyz(w http.ResponseWriter, _ *http.Request) {
	if why := *a.notReady.Load(); why != "" {
		text(w, http.StatusServiceUnavailable, why)
		return
	}
	if e := a.observed.Load().engine; e != nil {
		if err := e.failing(); err != nil {
			text(w, http.StatusServiceUnavailable, "the store is failing: "+err.Error())
			return
		}
	}
	text(w, http.StatusOK, "ok")
}

func text(w http.ResponseWriter, status int, s string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(s + "\n"))
}
