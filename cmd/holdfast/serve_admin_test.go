package main

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// admin waits for the address of the admin listener.
func (p *program) admin() string {
	p.t.Helper()
	p.logs(`msg="health and metrics"`)
	return regexp.MustCompile(`msg="health and metrics" addr=(\S+)`).FindStringSubmatch(p.stderr.String())[1]
}

// ask asks the admin listener at addr, and returns the status and what it says.
func ask(t *testing.T, addr, path string) (int, string) {
	t.Helper()
	network := "tcp"
	if sock, ok := strings.CutPrefix(addr, "unix:"); ok {
		network, addr = "unix", sock
	}
	client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, addr)
		},
	}}
	resp, err := client.Get("http://holdfast" + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	said, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(said)
}

// figure is the sum of a metric over all its labels.
func figure(t *testing.T, addr, name string) (sum float64) {
	t.Helper()
	_, text := ask(t, addr, "/metrics")
	lines := bufio.NewScanner(strings.NewReader(text))
	for lines.Scan() {
		rest, ok := strings.CutPrefix(lines.Text(), name)
		if !ok || rest[0] != ' ' && rest[0] != '{' {
			continue
		}
		n, err := strconv.ParseFloat(rest[strings.LastIndexByte(rest, ' ')+1:], 64)
		if err != nil {
			t.Fatal(err)
		}
		sum += n
	}
	return sum
}

func TestServeAdmin(t *testing.T) {
	p := start(t, "serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--data", t.TempDir())
	c := dial(t, p.ready(ready))
	admin := p.admin()
	c.wants(put+"hello", http.StatusOK)
	c.wants("GET /app/s1 HTTP/1.1\r\nHost: h\r\nExclusive:acquire\r\n\r\n", http.StatusOK)
	c.wants("GET /app/s1 HTTP/1.1\r\nHost: h\r\nExclusive:acquire\r\n\r\n", http.StatusLocked)

	for path, want := range map[string]string{"/healthz": "ok\n", "/readyz": "ok\n"} {
		if status, said := ask(t, admin, path); status != http.StatusOK || said != want {
			t.Errorf("%s: %d %q", path, status, said)
		}
	}
	var version map[string]string
	_, said := ask(t, admin, "/version")
	if err := json.Unmarshal([]byte(said), &version); err != nil || version["version"] == "" || version["go"] == "" {
		t.Errorf("/version: %q, %v", said, err)
	}
	if status, _ := ask(t, admin, "/debug/pprof/"); status != http.StatusNotFound {
		t.Errorf("profiles without --pprof: %d", status)
	}
	for name, want := range map[string]float64{
		"holdfast_ready": 1, "holdfast_build_info": 1, "holdfast_connections": 1, "holdfast_requests_total": 3,
		"holdfast_request_seconds_count": 3, "holdfast_sessions": 1, "holdfast_locks_held": 1, "holdfast_lock_waiters": 0,
	} {
		if got := figure(t, admin, name); got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
	for _, name := range []string{"holdfast_sent_bytes_total", "holdfast_session_memory_bytes", "holdfast_log_bytes", "holdfast_log_segments", "go_goroutines"} {
		if got := figure(t, admin, name); got <= 0 {
			t.Errorf("%s is %v", name, got)
		}
	}
	_, text := ask(t, admin, "/metrics")
	for _, want := range []string{`holdfast_requests_total{call="put",outcome="ok"} 1`, `holdfast_requests_total{call="acquire",outcome="locked"} 1`} {
		if !strings.Contains(text, want) {
			t.Errorf("the figures lack %s", want)
		}
	}
	p.stop()
}

func TestServeCountsEnds(t *testing.T) {
	for _, keep := range [][]string{{"--memory"}, {"--data", t.TempDir()}} {
		p := start(t, append([]string{"serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"}, keep...)...)
		c := dial(t, p.ready(ready))
		c.wants(put+"hello", http.StatusOK)
		c.wants("DELETE /app/s1 HTTP/1.1\r\nHost: h\r\n\r\n", http.StatusOK)
		if _, text := ask(t, p.admin(), "/metrics"); !strings.Contains(text, `holdfast_sessions_ended_total{reason="abandoned"} 1`) {
			t.Errorf("%s: the figures lack the end of a session", keep[0])
		}
		p.stop()
	}
}

func TestServePprof(t *testing.T) {
	p := start(t, "serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--memory", "--pprof")
	if status, said := ask(t, p.admin(), "/debug/pprof/goroutine?debug=1"); status != http.StatusOK || !strings.Contains(said, "goroutine profile") {
		t.Errorf("%d %.100s", status, said)
	}
	p.stop()
}

func TestHealth(t *testing.T) {
	dir := t.TempDir()
	p := start(t, "serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--data", dir)
	p.ready(ready)
	h := start(t, "health", "--admin", p.admin())
	if status := h.wait(); status != 0 || h.stdout.String() != "ok\n" {
		t.Errorf("status %d: %s%s", status, h.stdout, h.stderr)
	}
	p.stop()
}
