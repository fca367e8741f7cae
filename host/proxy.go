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
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Proxy says how requests come to the workers. The zero value of each field is a good
// default.
type Proxy struct {
	// Routing chooses among the workers that are ready; default [RoundRobin].
	Routing Routing

	// Cookie is the name of the cookie that names a session, for [BySession]. The host
	// notes which worker has given which session out (the last half a million of them).
	// Empty: the host sets a cookie of its own, holdfast_worker, which survives a
	// restart of the host too.
	Cookie string

	// Prefer is how long a request whose worker is away, by [ByIP] or [BySession], waits
	// for it to be started again before another one has it; default 5 seconds.
	Prefer time.Duration

	// MaxWaiting is how many requests wait at a time while no worker is ready; the next
	// one is answered with 503 at once. Default 1,000.
	MaxWaiting int

	// Trusted are the addresses of proxies in front of this one, whose X-Forwarded-For,
	// -Proto and -Host are believed. What others send of the kind is dropped. Who
	// connects over a Unix socket is trusted. Default none.
	Trusted []netip.Prefix

	// MaxBody is how many bytes the body of a request may have; others are answered
	// with 413. Default 0, any number.
	MaxBody int64

	// MaxHeader is how many bytes the header of a request may have; default 64 KiB.
	MaxHeader int

	// ResponseTimeout is how long a worker may take from the end of a request to the
	// header of its answer, before the visitor is told 504; default 0, any time.
	ResponseTimeout time.Duration

	// StallTimeout ends a request whose client has neither sent nor taken a byte of
	// what it is to send or take for that long; default 2 minutes.
	StallTimeout time.Duration

	// IdleTimeout ends a connection of a client that asks for nothing; default 2
	// minutes.
	IdleTimeout time.Duration

	// Certificate and Key are files in PEM; with them [Host.Serve] speaks TLS, and
	// HTTP/2 to whoever knows it. They are read again when they have changed.
	Certificate, Key string

	// H2C allows HTTP/2 without TLS.
	H2C bool
}

func (p *Proxy) stall() time.Duration { return or(p.StallTimeout, 2*time.Minute) }

// check reports what cannot work.
func (p *Proxy) check() error {
	switch p.Routing {
	case "", RoundRobin, LeastBusy, ByIP, BySession:
	default:
		return fmt.Errorf("host: the routing %q is none of %s, %s, %s and %s", p.Routing, RoundRobin, LeastBusy, ByIP, BySession)
	}
	if p.Cookie != "" && p.Routing != BySession {
		return fmt.Errorf("host: a Cookie has no meaning with the routing %q, only with %q", p.Routing, BySession)
	}
	if (p.Certificate == "") != (p.Key == "") {
		return errors.New("host: a Certificate needs its Key, and a Key its Certificate")
	}
	return nil
}

// A front is what stands between the clients and the workers.
type front struct {
	once    sync.Once
	h       *Host
	router  router
	proxy   httputil.ReverseProxy
	sticky  *sticky // with BySession
	buffers buffers
}

// made returns the host's front, which is made at the first call.
func (h *Host) made() *front {
	f := &h.front
	f.once.Do(func() {
		f.h = h
		f.router = router{
			routing: h.Proxy.Routing,
			limit:   or(h.Proxy.MaxWaiting, 1000),
			patient: or(h.WaitTimeout, 10*time.Second),
			prefers: or(h.Proxy.Prefer, 5*time.Second),
			places:  make([]place, max(h.Workers, 1)),
		}
		f.proxy = httputil.ReverseProxy{
			Rewrite:      rewrite,
			Transport:    f,
			BufferPool:   &f.buffers,
			ErrorHandler: f.fail,
			ErrorLog:     slog.NewLogLogger(h.log().Handler(), slog.LevelWarn),
		}
		if h.Proxy.Routing == BySession {
			f.sticky = newSticky(h.Proxy.Cookie)
			f.proxy.ModifyResponse = f.sticky.answered
		}
	})
	return f
}

// router is where the rest of the host says who is ready. It may be called at any time.
func (h *Host) router() *router { return &h.made().router }

// ServeHTTP passes the request on to a worker. Host stays as the client sent it;
// X-Forwarded-For, X-Forwarded-Host and X-Forwarded-Proto are set, and what the
// client sent of the kind is dropped, unless it is one of [Proxy.Trusted].
func (h *Host) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f, o := h.made(), &h.Proxy
	if o.MaxBody > 0 && r.ContentLength > o.MaxBody {
		f.fail(w, r, &http.MaxBytesError{Limit: o.MaxBody})
		return
	}
	x := &exchange{Context: r.Context(), front: f, origin: o.originOf(r)}
	defer x.end()
	switch o.Routing {
	case ByIP:
		x.wish.key = x.origin.key()
	case BySession:
		f.sticky.wish(r, &x.wish)
	}
	r = r.WithContext(x)
	if r.ContentLength != 0 {
		if o.MaxBody > 0 {
			r.Body = http.MaxBytesReader(w, r.Body, o.MaxBody)
		}
		r.Body = &clientBody{ReadCloser: r.Body, x: x, control: http.NewResponseController(w)}
	}
	f.proxy.ServeHTTP(w, r)
}

// An exchange is a request with its answer, and the context of both.
type exchange struct {
	context.Context
	front   *front
	origin  origin
	wish    wish
	backend *backend    // that has it
	read    atomic.Bool // some of the body
	stalled atomic.Bool // its client did not send the rest
}

type exchangeKey struct{}

// Value finds the exchange in its context.
func (x *exchange) Value(key any) any {
	if key == (exchangeKey{}) {
		return x
	}
	return x.Context.Value(key)
}

func exchangeOf(ctx context.Context) *exchange { return ctx.Value(exchangeKey{}).(*exchange) }

func (x *exchange) end() {
	if x.backend != nil {
		x.front.router.release(x.backend)
		x.backend = nil
	}
}

// deathSeen is how long a request that failed waits to learn whether its worker died.
const deathSeen = 250 * time.Millisecond

// RoundTrip takes the request to a worker, and to another where that is safe.
func (f *front) RoundTrip(req *http.Request) (*http.Response, error) {
	x := exchangeOf(req.Context())
	hasBody := req.Body != nil && req.Body != http.NoBody
	if hasBody {
		req.Body = &keptBody{req.Body, x}
	}
	repeated := false
	for {
		b, err := f.router.take(x.Context, &x.wish)
		if err != nil {
			return nil, err
		}
		x.backend = b
		req.URL.Host = b.addr // the request is ours: ReverseProxy has made it
		resp, err := b.transport.RoundTrip(req)
		if err == nil || x.Err() != nil {
			return resp, err
		}
		x.end()
		x.wish.failed = append(x.wish.failed, b)
		notReached := (*dialError)(nil)
		if !errors.As(err, &notReached) || x.read.Load() {
			harmless := req.Method == http.MethodGet || req.Method == http.MethodHead
			if repeated || hasBody || !harmless || !b.died(x) {
				return nil, fmt.Errorf("worker %d (PID %d): %w", b.worker, b.pid, err)
			}
			repeated = true
		}
		again, u := *req, *req.URL // the transport may still look at the other
		again.URL = &u
		req = &again
	}
}

// died reports whether b has ended, or does so in a moment.
func (b *backend) died(ctx context.Context) bool {
	moment := time.NewTimer(deathSeen)
	defer moment.Stop()
	select {
	case <-b.gone:
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
	x *exchange
}

func (b *keptBody) Close() error {
	if !b.x.read.Load() {
		return nil
	}
	return b.ReadCloser.Close()
}

// A clientBody is a request's body that its client must go on sending.
type clientBody struct {
	io.ReadCloser
	x       *exchange
	control *http.ResponseController
	until   time.Time // the deadline that is set
}

func (b *clientBody) Read(p []byte) (int, error) {
	b.x.read.Store(true)
	stall := b.x.front.h.Proxy.stall()
	if now := time.Now(); b.until.Sub(now) < stall/8*7 {
		b.until = now.Add(stall)
		_ = b.control.SetReadDeadline(b.until) // where a server has none, it has another rule
	}
	n, err := b.ReadCloser.Read(p)
	switch {
	case err == io.EOF:
		_ = b.control.SetReadDeadline(time.Time{}) // the client may wait for its answer
	case errors.Is(err, os.ErrDeadlineExceeded):
		b.x.stalled.Store(true)
	}
	return n, err
}

// A dialError is a connection that did not come about: the worker knows nothing of
// the request.
type dialError struct{ err error }

func (e *dialError) Error() string { return e.err.Error() }
func (e *dialError) Unwrap() error { return e.err }

// newTransport returns the transport to one process.
func newTransport(patience time.Duration) *http.Transport {
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
		IdleConnTimeout:       3 * time.Second,
		DisableCompression:    true,
		ExpectContinueTimeout: time.Second,
		ResponseHeaderTimeout: patience,
	}
}

// buffers are what bodies are copied through.
type buffers struct{ pool sync.Pool }

const bufferSize = 32 << 10

func (b *buffers) Get() []byte {
	if p, ok := b.pool.Get().(*[bufferSize]byte); ok {
		return p[:]
	}
	return make([]byte, bufferSize)
}

func (b *buffers) Put(p []byte) { b.pool.Put((*[bufferSize]byte)(p)) }

// fail answers a request that no worker answered.
func (f *front) fail(w http.ResponseWriter, r *http.Request, err error) {
	tooLarge, timeout := (*http.MaxBytesError)(nil), net.Error(nil)
	log, what := f.h.log().Warn, "request refused"
	status, title, text := http.StatusServiceUnavailable, "No worker is ready",
		"The application is starting again. Please try again in a few seconds."
	x, _ := r.Context().Value(exchangeKey{}).(*exchange)
	switch {
	case x != nil && x.stalled.Load():
		status, title, text = http.StatusRequestTimeout, "The request did not arrive", "Nothing more of it came for too long. Please try again."
	case r.Context().Err() != nil: // the client is gone
		log, what = f.h.log().Debug, "request given up by its client"
		status = http.StatusBadGateway
	case errors.Is(err, errCrowded):
		title = "Too many requests are waiting"
	case errors.Is(err, errGivenUp):
		title, text = "The application has failed", "It ended too often and is not started again by itself. Its operator knows from the log."
	case errors.Is(err, errNoneReady), errors.Is(err, errStopped):
	case errors.As(err, &tooLarge):
		status, title = http.StatusRequestEntityTooLarge, "This is too large"
		text = fmt.Sprintf("What was to be sent is larger than %d bytes.", tooLarge.Limit)
	case errors.As(err, &timeout) && timeout.Timeout():
		what = "request took a worker too long"
		status, title = http.StatusGatewayTimeout, "The application takes too long"
		text = "What you asked for was perhaps done, perhaps not. Please look, and try again."
	default:
		what = "request lost with its worker"
		status, title = http.StatusBadGateway, "The worker that was answering has ended"
		text = "What you asked for was perhaps done, perhaps not. Please look, and try again."
	}
	log(what, "method", r.Method, "path", r.URL.Path, "status", status, "err", err)
	if status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "5")
	}
	page(w, status, title, text)
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
