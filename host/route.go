package host

import (
	"context"
	"errors"
	"fmt"
	"html"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// deathSeen is how long a request that failed waits to learn whether its worker died.
const deathSeen = 250 * time.Millisecond

var (
	errNoneReady = errors.New("no worker is ready")
	errStopped   = errors.New("the host is stopping")
)

// ServeHTTP passes the request on to a worker. Host stays as the client sent it;
// X-Forwarded-For, X-Forwarded-Host and X-Forwarded-Proto are set, and what the
// client sent of the kind is dropped.
func (h *Host) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.proxyOnce.Do(func() {
		h.proxy = &httputil.ReverseProxy{
			Rewrite:      rewrite,
			Transport:    roundRobin{h},
			ErrorHandler: h.failed,
			ErrorLog:     slog.NewLogLogger(h.log().Handler(), slog.LevelWarn),
		}
	})
	h.proxy.ServeHTTP(w, r)
}

func rewrite(r *httputil.ProxyRequest) {
	r.Out.URL.Scheme = "http" // the host comes with the worker
	r.Out.URL.RawQuery = r.In.URL.RawQuery
	for name := range r.Out.Header {
		if strings.HasPrefix(name, "X-Forwarded-") || name == "X-Real-Ip" {
			delete(r.Out.Header, name)
		}
	}
	r.SetXForwarded()
}

// roundRobin is the transport that takes the workers in turn.
type roundRobin struct{ h *Host }

func (t roundRobin) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	patience, cancel := context.WithTimeoutCause(ctx, or(t.h.WaitTimeout, 10*time.Second), errNoneReady)
	defer cancel()

	var body *keptBody
	if req.Body != nil && req.Body != http.NoBody {
		body = &keptBody{ReadCloser: req.Body}
	}
	var failed []*process
	repeated := false
	for {
		p, err := t.h.next(patience, failed)
		if err != nil {
			return nil, err
		}
		out, u := req.WithContext(ctx), *req.URL
		u.Host = p.addr
		out.URL = &u
		if body != nil {
			out.Body = body
		}
		resp, err := p.transport.RoundTrip(out)
		if err == nil || ctx.Err() != nil {
			return resp, err
		}
		failed = append(failed, p)
		if notReached := (*dialError)(nil); errors.As(err, &notReached) && (body == nil || !body.read.Load()) {
			continue
		}
		if repeated || body != nil || req.Method != http.MethodGet && req.Method != http.MethodHead || !p.died(ctx) {
			return nil, fmt.Errorf("worker %d (PID %d): %w", p.worker, p.pid, err)
		}
		repeated = true
	}
}

// next returns the ready worker whose turn it is, other than those that failed,
// waiting for one while patience lasts.
func (h *Host) next(patience context.Context, failed []*process) (*process, error) {
	for {
		h.mu.Lock()
		for range h.procs {
			p := h.procs[h.turn%len(h.procs)]
			h.turn = (h.turn + 1) % len(h.procs)
			if p != nil && p.ready && !slices.Contains(failed, p) {
				h.mu.Unlock()
				return p, nil
			}
		}
		stopped, change := h.stopped, h.change()
		h.mu.Unlock()
		if stopped {
			return nil, errStopped
		}
		select {
		case <-change:
		case <-patience.Done():
			return nil, context.Cause(patience)
		}
	}
}

// died reports whether p has ended, or does so in a moment.
func (p *process) died(ctx context.Context) bool {
	moment := time.NewTimer(deathSeen)
	defer moment.Stop()
	select {
	case <-p.gone:
		return true
	case <-moment.C:
	case <-ctx.Done():
	}
	return false
}

// A keptBody is a request's body that a transport which never read it cannot close,
// so that another worker can have it. ReverseProxy closes it in the end.
type keptBody struct {
	io.ReadCloser
	read atomic.Bool
}

func (b *keptBody) Read(p []byte) (int, error) {
	b.read.Store(true)
	return b.ReadCloser.Read(p)
}

func (b *keptBody) Close() error {
	if !b.read.Load() {
		return nil
	}
	return b.ReadCloser.Close()
}

// A dialError is a connection that did not come about: the worker knows nothing of
// the request.
type dialError struct{ err error }

func (e *dialError) Error() string { return e.err.Error() }
func (e *dialError) Unwrap() error { return e.err }

// newTransport returns the transport to one process.
func newTransport() *http.Transport {
	return &http.Transport{
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := dial(ctx, network, addr)
			if err != nil {
				return nil, &dialError{err}
			}
			return c, nil
		},
		MaxIdleConnsPerHost: 256,
		// Shorter than the servers of the usual frameworks keep an idle connection,
		// so that they do not close it just as a request is sent.
		IdleConnTimeout:    3 * time.Second,
		DisableCompression: true,
	}
}

// failed answers a request that no worker answered.
func (h *Host) failed(w http.ResponseWriter, r *http.Request, err error) {
	switch {
	case r.Context().Err() != nil: // the client is gone
		h.log().Debug("request given up by its client", "method", r.Method, "path", r.URL.Path)
		w.WriteHeader(http.StatusBadGateway)
	case errors.Is(err, errNoneReady), errors.Is(err, errStopped):
		h.log().Warn("request refused", "method", r.Method, "path", r.URL.Path, "err", err)
		w.Header().Set("Retry-After", "5")
		page(w, http.StatusServiceUnavailable, "No worker is ready",
			"The application is starting again. Please try again in a few seconds.")
	default:
		h.log().Warn("request lost with its worker", "method", r.Method, "path", r.URL.Path, "err", err)
		page(w, http.StatusBadGateway, "The worker that was answering has ended",
			"What you asked for was perhaps done, perhaps not. Please look, and try again.")
	}
}

// page writes an error page.
func page(w http.ResponseWriter, status int, title, text string) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	fmt.Fprintf(w, `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>%[1]s</title>
<body style="font: 1.1rem/1.5 system-ui, sans-serif; max-width: 34rem; margin: 15vh auto; padding: 0 1.5rem">
<h1 style="font-size: 1.6rem">%[1]s</h1>
<p>%[2]s</p>
<p><small>%[3]d %[4]s</small></p>
`, html.EscapeString(title), html.EscapeString(text), status, http.StatusText(status))
}
