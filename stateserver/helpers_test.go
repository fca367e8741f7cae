package stateserver

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-session/holdfast/store"
)

// quiet drops what a server logs.
var quiet = slog.New(slog.DiscardHandler)

// limit bounds what a test waits for.
const limit = 20 * time.Second

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	t.Cleanup(cancel)
	return ctx
}

// serve starts s on a loopback port, or on the listener l, until the test ends.
func serve(t testing.TB, s *Server, ls ...net.Listener) string {
	t.Helper()
	if len(ls) == 0 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ls = append(ls, l)
	}
	if s.Logger == nil {
		s.Logger = quiet
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(ls[0]) }()
	t.Cleanup(func() {
		s.Close()
		if err := <-done; err != ErrServerClosed {
			t.Errorf("Serve: %v; want ErrServerClosed", err)
		}
	})
	return ls[0].Addr().String()
}

func dial(t testing.TB, addr string, o *ClientOptions) *Client {
	t.Helper()
	c, err := Dial(addr, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// A wire is a connection that speaks the protocol by hand.
type wire struct {
	t testing.TB
	net.Conn
	r *bufio.Reader
}

func connect(t testing.TB, addr string) *wire {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	nc.SetDeadline(time.Now().Add(limit))
	t.Cleanup(func() { nc.Close() })
	return &wire{t, nc, bufio.NewReader(nc)}
}

// wireOver speaks it on a connection that is there.
func wireOver(t testing.TB, nc net.Conn) *wire {
	nc.SetDeadline(time.Now().Add(limit))
	t.Cleanup(func() { nc.Close() })
	return &wire{t, nc, bufio.NewReader(nc)}
}

func (w *wire) send(s string) {
	w.t.Helper()
	if _, err := io.WriteString(w, s); err != nil {
		w.t.Fatalf("send: %v", err)
	}
}

// receive reads one answer to a request of method m.
func (w *wire) receive(m method) string {
	w.t.Helper()
	var b []byte
	for {
		c, err := w.r.ReadByte()
		if err != nil {
			w.t.Fatalf("the connection ended after %q: %v", b, err)
		}
		b = append(b, c)
		var r response
		if _, err := r.parse(b, m, responseLimits); err == nil {
			return string(b)
		} else if err != errShort {
			w.t.Fatalf("%q: %v", b, err)
		}
	}
}

// ask sends one request, of lines without their ends, and returns the answer.
func (w *wire) ask(body string, lines ...string) string {
	w.t.Helper()
	w.send(strings.Join(lines, "\r\n") + "\r\n\r\n" + body)
	m := methodGet
	if strings.HasPrefix(lines[0], "HEAD") {
		m = methodHead
	}
	return w.receive(m)
}

// ends checks that the peer closes the connection without another byte.
func (w *wire) ends() {
	w.t.Helper()
	if b, err := io.ReadAll(w.r); len(b) > 0 || err != nil && !errors.Is(err, net.ErrClosed) && !isReset(err) {
		w.t.Fatalf("got %q, %v; want the connection's end", b, err)
	}
}

// waitFor waits until something is so.
func waitFor(t testing.TB, what string, so func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); !so(); runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func isReset(err error) bool { return strings.Contains(err.Error(), "reset") }

// status is the first line of an answer.
func status(answer string) string {
	line, _, _ := strings.Cut(answer, "\r\n")
	return strings.TrimPrefix(line, "HTTP/1.1 ")
}

// value is that of a header field in an answer, or empty.
func value(answer, name string) string {
	_, rest, ok := strings.Cut(answer, "\r\n"+name+": ")
	if !ok {
		return ""
	}
	v, _, _ := strings.Cut(rest, "\r\n")
	return v
}

// mustCreate makes a session.
func mustCreate(t testing.TB, s store.Store, id store.ID, body string) *store.Record {
	t.Helper()
	rec := &store.Record{Version: store.NewVersion(), Timeout: 20 * time.Minute, Body: []byte(body)}
	if err := s.Create(context.Background(), id, rec, false); err != nil {
		t.Fatalf("Create: %v", err)
	}
	return rec
}

func mustLoad(t testing.TB, s store.Store, id store.ID) *store.Record {
	t.Helper()
	rec := new(store.Record)
	if err := s.Load(context.Background(), id, rec); err != nil {
		t.Fatalf("Load: %v", err)
	}
	return rec
}

func mustLock(t testing.TB, s store.Store, id store.ID, o store.LockOptions) *store.Record {
	t.Helper()
	if o.Owner == 0 {
		o.Owner = store.NewOwner()
	}
	rec := new(store.Record)
	if err := s.Lock(context.Background(), id, o, rec); err != nil {
		t.Fatalf("Lock: %v", err)
	}
	return rec
}

// pipes are a network in this process, for tests in a bubble of fake time.
type pipes struct {
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), done: make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case nc := <-p.conns:
		return nc, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.done) })
	return nil
}

func (p *pipes) Addr() net.Addr { return pipeAddr{} }

func (p *pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	near, far := net.Pipe()
	select {
	case p.conns <- far:
		return near, nil
	case <-p.done:
		return nil, errors.New("connection refused")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (p *pipes) connect(t testing.TB) *wire {
	nc, err := p.dial(context.Background(), "", "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	return &wire{t, nc, bufio.NewReader(nc)}
}

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "localhost:42424" }
