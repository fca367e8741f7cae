package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/holdfast-session/holdfast/cmd/holdfast/internal/serve"
	"github.com/holdfast-session/holdfast/host"
	"github.com/holdfast-session/holdfast/stateserver"
)

// A hostStatus is what GET /status answers.
type hostStatus struct {
	Workers []host.Status `json:"workers"`
	Journal []host.Entry  `json:"journal"` // the newest last
}

// adminHandler answers those who look after the host:
//
//	GET  /readyz              200 while a worker is ready, else 503
//	GET  /status              a hostStatus
//	GET  /metrics             figures for Prometheus
//	POST /recycle             recycles all workers, or that of ?worker=
//
// POST /recycle answers when it is done. ?why= is for the journal.
func adminHandler(h *host.Host, log *slog.Logger) http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), hostFigures{h})
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelError)}))
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		for _, s := range h.Status() {
			if s.State == host.Ready || s.State == host.Sleeping {
				fmt.Fprintln(w, "ok")
				return
			}
		}
		http.Error(w, "no worker is ready", http.StatusServiceUnavailable)
	})
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(hostStatus{h.Status(), h.Journal()})
	})
	mux.HandleFunc("POST /recycle", func(w http.ResponseWriter, r *http.Request) {
		worker, err := 0, error(nil)
		if n := r.FormValue("worker"); n != "" {
			worker, err = strconv.Atoi(n)
		}
		if err != nil {
			http.Error(w, "worker is a number", http.StatusBadRequest)
			return
		}
		why := "by an admin call"
		if text := r.FormValue("why"); text != "" {
			why += ": " + text
		}
		switch err := h.Recycle(r.Context(), worker, why); {
		case err == nil:
			fmt.Fprintln(w, "recycled")
		case errors.Is(err, host.ErrNoWorker):
			http.Error(w, err.Error(), http.StatusNotFound)
		default:
			http.Error(w, err.Error(), http.StatusConflict)
		}
	})
	return http.NewCrossOriginProtection().Handler(mux)
}

// serveAdmin begins to serve the admin listener, where there is one. What it returns
// ends that.
func (s *hostFlags) serveAdmin(h *host.Host, log *slog.Logger) (stop func(), err error) {
	if s.place.admin == serve.AdminOff {
		return func() {}, nil
	}
	l, err := stateserver.Listen(s.place.admin)
	if err != nil {
		return nil, fmt.Errorf("%w; give each host a --name of its own", listenError(s.place.admin, "--admin", err, "Another host"))
	}
	if tcp, ok := l.Addr().(*net.TCPAddr); ok && !tcp.IP.IsLoopback() && !s.remote {
		l.Close()
		return nil, fmt.Errorf("--admin: %s can be reached from other machines, which could recycle the workers: use 127.0.0.1, or add --admin-remote", l.Addr())
	}
	srv := &http.Server{
		Handler: adminHandler(h, log), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	go func() {
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			log.Error("the admin listener has failed; requests are served on", "err", err)
		}
	}()
	return func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if srv.Shutdown(ctx) != nil {
			srv.Close()
		}
	}, nil
}

// hostFigures are what Prometheus collects of a host, read when somebody asks.
type hostFigures struct{ h *host.Host }

func hostDesc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("holdfast_host_"+name, help, labels, nil)
}

var (
	descWorkers  = hostDesc("workers", "Worker processes by what they do.", "state")
	descInFlight = hostDesc("requests_in_flight", "Requests that a worker has.", "worker")
	descMemory   = hostDesc("worker_memory_bytes", "Private memory of a worker.", "worker")
	descSessions = hostDesc("worker_sessions", "Sessions in the memory of a worker, as it reports them.", "worker")
	descEvents   = hostDesc("events_total", "Entries of the journal since the host began.", "event", "reason")
	descCarried  = hostDesc("sessions_carried_total", "Sessions that were carried over when their worker ended.")
	descLost     = hostDesc("sessions_lost_total", "Sessions that were lost with their worker.")
)

// Describe implements [prometheus.Collector].
func (f hostFigures) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descWorkers, descInFlight, descMemory, descSessions, descEvents, descCarried, descLost} {
		to <- d
	}
}

// Collect implements [prometheus.Collector].
func (f hostFigures) Collect(to chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	count := func(d *prometheus.Desc, v int64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	states := map[host.State]int{host.Starting: 0, host.Ready: 0, host.Draining: 0, host.Sleeping: 0, host.GivenUp: 0}
	for _, s := range f.h.Status() {
		states[s.State]++
		if s.State != host.Ready { // of an old and a new process, the new one
			continue
		}
		worker := strconv.Itoa(s.Worker)
		gauge(descInFlight, float64(s.InFlight), worker)
		gauge(descMemory, float64(s.Memory), worker)
		if s.Sessions != nil {
			gauge(descSessions, float64(*s.Sessions), worker)
		}
	}
	for state, n := range states {
		gauge(descWorkers, float64(n), string(state))
	}
	t := f.h.Totals()
	for cause, n := range t.Entries {
		count(descEvents, n, string(cause.Event), string(cause.Reason))
	}
	count(descCarried, t.Carried)
	count(descLost, t.Lost)
}
