package host

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"
)

// Health is how the host asks a worker whether it is well, by GET, at its start and as
// long as it gets requests. A status of 200 to 399 is well.
type Health struct {
	// Path is what is asked for, such as /healthz. If empty, a worker is ready when
	// its port accepts a connection, and it is not asked again.
	Path string
	// Every is the time between two checks; 10 seconds if zero.
	Every time.Duration
	// Timeout is how long an answer may take; 5 seconds if zero.
	Timeout time.Duration
	// Failures in a row have a worker recycled; 3 if zero.
	Failures int
}

func (c *Health) check() error {
	if c.Path != "" && !strings.HasPrefix(c.Path, "/") {
		return fmt.Errorf("host: the health check's path %q does not begin with /", c.Path)
	}
	return nil
}

func (c *Health) timeout() time.Duration { return or(c.Timeout, 5*time.Second) }

// ask checks p once.
func (c *Health) ask(ctx context.Context, p *process) error {
	status, err := answers(ctx, p, http.MethodGet, c.Path, c.timeout())
	if err == nil && (status < 200 || status > 399) {
		err = fmt.Errorf("%s answers %d %s", c.Path, status, http.StatusText(status))
	}
	return err
}

// answers returns the status with which p answers, whatever it is.
func answers(ctx context.Context, p *process, method, path string, within time.Duration) (int, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, within, fmt.Errorf("no answer to %s %s within %s", method, path, within))
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "http://"+p.addr, nil)
	if err != nil {
		return 0, err
	}
	req.URL.Path = path
	if path == "*" {
		req.URL.Path, req.URL.Opaque = "", "*"
	} else if i := strings.IndexByte(path, '?'); i >= 0 {
		req.URL.Path, req.URL.RawQuery = path[:i], path[i+1:]
	}
	resp, err := p.transport.RoundTrip(req)
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return 0, err
	}
	resp.Body.Close()
	return resp.StatusCode, nil
}

const (
	firstProbe = 10 * time.Millisecond
	lastProbe  = 250 * time.Millisecond
)

// await waits until p is well: it passes the check, or accepts a connection. Where the
// host has opened the port (socket), anything that it answers is well.
func (c *Health) await(ctx context.Context, p *process, socket bool) error {
	began, last := time.Now(), error(nil)
	next := time.NewTimer(0)
	defer next.Stop()
	for {
		select {
		case <-next.C:
		case <-ctx.Done():
			if last == nil {
				last = context.Cause(ctx)
			}
			return last
		}
		var err error
		switch {
		case c.Path != "":
			err = c.ask(ctx, p)
		case socket:
			_, err = answers(ctx, p, http.MethodOptions, "*", lastProbe)
		default:
			err = accepts(ctx, p)
		}
		if err == nil {
			return nil
		}
		if ctx.Err() == nil || last == nil {
			last = err
		}
		// Soon at first; a worker that starts slowly may be found ready a little late.
		next.Reset(min(max(time.Since(began)/4, firstProbe), lastProbe))
	}
}

// accepts connects to p.
func accepts(ctx context.Context, p *process) error {
	conn, err := dial(ctx, "tcp", p.addr)
	if err != nil {
		return fmt.Errorf("nothing listens on $PORT: %w", err)
	}
	return conn.Close()
}

var errSelf = errors.New("connected to itself")

// dial connects to a worker. Where nobody listens and workers' ports are in the range
// that the kernel gives to clients, which somebody must have set lower than it is by
// default, it may by chance connect a socket to itself; that is no worker.
func dial(ctx context.Context, network, addr string) (net.Conn, error) {
	d := net.Dialer{Timeout: 2 * time.Second}
	c, err := d.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	if c.LocalAddr().String() == c.RemoteAddr().String() {
		c.Close()
		return nil, errSelf
	}
	return c, nil
}

// watchHealth checks p as long as it gets requests.
func (h *Host) watchHealth(p *process) {
	every := time.NewTicker(or(h.Health.Every, 10*time.Second))
	defer every.Stop()
	most := h.Health.Failures
	if most <= 0 {
		most = 3
	}
	failed := 0
	for {
		select {
		case <-every.C:
		case <-p.gone:
			return
		}
		h.mu.Lock()
		serving := p.ready
		h.mu.Unlock()
		if !serving {
			return
		}
		err := h.Health.ask(context.Background(), p)
		if err == nil {
			failed = 0
			continue
		}
		if failed++; failed == 1 || failed%most == 0 {
			h.log().Warn("worker fails its health check", "worker", p.worker, "pid", p.pid, "times", failed, "err", err)
		}
		if failed >= most {
			h.askFor(p, Unhealthy, fmt.Sprintf("%d health checks in a row have failed: %v", failed, unwrapped(err)))
		}
	}
}

// unwrapped is the innermost error, which says what is wrong without repeating where.
func unwrapped(err error) error {
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			return err
		}
		err = inner
	}
}
