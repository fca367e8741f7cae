package serve

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/holdfast-session/holdfast/inproc"
)

// Readiness says what the server is at, and whether its store can be written.
func TestReadiness(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a := newAdmin(&Server{
		Config: &Config{}, Log: slog.New(slog.DiscardHandler), Version: "1",
		listeners: []*listener{{Listener: l, role: roleAdmin}},
	})
	a.serve()
	t.Cleanup(a.close)
	wants := func(path string, status int, want string) {
		t.Helper()
		resp, err := http.Get("http://" + l.Addr().String() + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		said, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != status || !strings.Contains(string(said), want) {
			t.Errorf("%s: %d %q, want %d %q", path, resp.StatusCode, said, status, want)
		}
	}
	wants("/readyz", http.StatusServiceUnavailable, "opening the store")
	wants("/healthz", http.StatusOK, "ok")
	wants("/metrics", http.StatusOK, "holdfast_ready 0\n")

	sessions := inproc.New(nil)
	t.Cleanup(func() { sessions.Close() })
	e := memoryEngine(sessions)
	var failing error
	e.failing = func() error { return failing }
	a.watch(nil, e)
	a.setReady("")
	wants("/readyz", http.StatusOK, "ok")
	wants("/metrics", http.StatusOK, "holdfast_sessions 0\n")
	failing = errors.New("the disk is gone")
	wants("/readyz", http.StatusServiceUnavailable, "the disk is gone")
	failing = nil
	a.setReady("stopping")
	wants("/readyz", http.StatusServiceUnavailable, "stopping")
}
