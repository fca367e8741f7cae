package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	testservers "github.com/holdfast-session/holdfast/internal/servers"
)

const ready = "holdfast: state server ready on "

func TestServe(t *testing.T) {
	p := start(t, "serve", "--listen", "127.0.0.1:0", "--memory")
	addr := p.ready(ready)
	c := dial(t, addr)
	c.wants("PUT /app/s1 HTTP/1.1\r\nHost: h\r\nTimeout:20\r\nContent-Length:5\r\n\r\nhello", http.StatusOK)
	resp := c.wants("GET /app/s1 HTTP/1.1\r\nHost: h\r\n\r\n", http.StatusOK)
	if resp.ContentLength != 5 {
		t.Errorf("%d bytes came back", resp.ContentLength)
	}
	p.stop()
	if got := p.stdout.String(); got != ready+addr+"\n" {
		t.Errorf("standard output: %q", got)
	}
	for _, want := range []string{"nothing survives a restart of this server", "state server stopped", "level=INFO"} {
		if !strings.Contains(p.stderr.String(), want) {
			t.Errorf("the log lacks %q", want)
		}
	}
}

// With --exact, lock cookies count, as Microsoft's do: a new session has 1.
func TestServeExact(t *testing.T) {
	p := start(t, "serve", "--listen", "127.0.0.1:0", "--exact", "--memory")
	c := dial(t, p.ready(ready))
	c.wants("PUT /app/s1 HTTP/1.1\r\nHost: h\r\nTimeout:20\r\nContent-Length:5\r\n\r\nhello", http.StatusOK)
	for i := 2; i <= 4; i++ {
		want := fmt.Sprint(i)
		if got := c.wants("GET /app/s1 HTTP/1.1\r\nHost: h\r\nExclusive:acquire\r\n\r\n", http.StatusOK).Header.Get("LockCookie"); got != want {
			t.Errorf("lock cookie %q, want %q", got, want)
		}
		if got := c.wants("GET /app/s1 HTTP/1.1\r\nHost: h\r\nExclusive:acquire\r\n\r\n", http.StatusLocked).Header.Get("LockCookie"); got != want {
			t.Errorf("while locked: lock cookie %q, want %q", got, want)
		}
		c.wants("GET /app/s1 HTTP/1.1\r\nHost: h\r\nExclusive:release\r\nLockCookie:"+want+"\r\n\r\n", http.StatusOK)
	}
	p.stop()
}

func TestPortTaken(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, command := range []string{"serve", "demo"} {
		p := start(t, command, "--listen", l.Addr().String())
		if status := p.wait(); status != 1 {
			t.Errorf("%s: status %d", command, status)
		}
		for _, want := range []string{"holdfast: cannot listen on " + l.Addr().String(), "the port is taken", "choose another port with --listen"} {
			if !strings.Contains(p.stderr.String(), want) {
				t.Errorf("%s: said %q, want %q", command, p.stderr, want)
			}
		}
		if p.stdout.String() != "" {
			t.Errorf("%s: standard output: %q", command, p.stdout)
		}
	}
}

// A wire is a connection of an old client.
type wire struct {
	t *testing.T
	c net.Conn
	r *bufio.Reader
}

func dial(t *testing.T, addr string) *wire {
	t.Helper()
	network := "tcp"
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		network, addr = "unix", path
	}
	c, err := net.Dial(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return &wire{t, c, bufio.NewReader(c)}
}

// wants sends a request and checks the status of its answer, whose body is then there to
// be read.
func (w *wire) wants(request string, status int) *http.Response {
	w.t.Helper()
	if _, err := w.c.Write([]byte(request)); err != nil {
		w.t.Fatal(err)
	}
	resp, err := http.ReadResponse(w.r, nil)
	if err != nil {
		w.t.Fatalf("%q: %v", request, err)
	}
	body := make([]byte, max(resp.ContentLength, 0))
	if _, err := io.ReadFull(w.r, body); err != nil {
		w.t.Fatal(err)
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	if resp.StatusCode != status {
		w.t.Fatalf("%q: %s, want %d", request, resp.Status, status)
	}
	return resp
}

// What a store has to say is in the server's log, of the levels that are asked for.
func TestServeLogsWhatTheStoreSays(t *testing.T) {
	redis := testservers.StartRedis(t, nil)
	const warning = `level=WARN msg="redisstore: `
	p := start(t, "serve", "--listen", "127.0.0.1:0", "--store", redis.URL())
	p.logs(warning)
	p.stop()
	p = start(t, "serve", "--listen", "127.0.0.1:0", "--store", redis.URL(), "--log-level", "error")
	p.ready(ready)
	p.stop()
	if strings.Contains(p.stderr.String(), "redisstore: ") {
		t.Errorf("with --log-level error: %s", p.stderr)
	}
}
