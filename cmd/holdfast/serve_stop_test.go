package main

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

const put = "PUT /app/s1 HTTP/1.1\r\nHost: h\r\nTimeout:20\r\nContent-Length:5\r\n\r\n"

// Without --memory it keeps what was saved in a folder, over a restart.
func TestServeKeepsSessions(t *testing.T) {
	dir := t.TempDir()
	p := start(t, "serve", "--listen", "127.0.0.1:0", "--data", dir, "--sync", "always", "--max-memory", "64MB", "--max-disk", "50%")
	dial(t, p.ready(ready)).wants(put+"hello", http.StatusOK)
	p.stop()
	p = start(t, "serve", "--listen", "127.0.0.1:0", "--data", dir)
	if resp := dial(t, p.ready(ready)).wants("GET /app/s1 HTTP/1.1\r\nHost: h\r\n\r\n", http.StatusOK); resp.ContentLength != 5 {
		t.Errorf("%d bytes came back", resp.ContentLength)
	}
	second := start(t, "serve", "--listen", "127.0.0.1:0", "--data", dir)
	if status := second.wait(); status != 1 || !strings.Contains(second.stderr.String(), "--takeover") {
		t.Errorf("a second one on the same folder: status %d, %s", status, second.stderr)
	}
	p.stop()
	left, err := filepath.Glob(filepath.Join(dir, "*.sock"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// A second SIGTERM cuts the request that the first one waits for.
func TestServeStopsInAHurry(t *testing.T) {
	p := start(t, "serve", "--listen", "127.0.0.1:0", "--memory", "--drain", "1h", "--admin", "127.0.0.1:0")
	c := dial(t, p.ready(ready))
	admin := p.admin()
	if _, err := c.c.Write([]byte(put + "hel")); err != nil { // and no more
		t.Fatal(err)
	}
	eventually(t, "the request's beginning is read", func() bool { return figure(t, admin, "holdfast_received_bytes_total") > 0 })
	p.signal(syscall.SIGTERM)
	p.logs("state server stopping")
	p.signal(syscall.SIGTERM)
	if status := p.wait(); status != 0 {
		t.Errorf("status %d", status)
	}
	p.logs("asked to stop a second time")
}

func TestServeCheck(t *testing.T) {
	file := filepath.Join(t.TempDir(), "holdfast.yaml")
	const hash = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"
	if err := os.WriteFile(file, []byte("max-disk: 3GiB\ntokens:\n  - {name: shop, hash: "+hash+", right: write}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := start(t, "serve", "--check", "--config", file, "--data", "/nowhere", "--drain", "1m")
	if status := p.wait(); status != 0 {
		t.Fatalf("status %d: %s", status, p.stderr)
	}
	for _, want := range []string{"max-disk: 3GiB\n", "data: /nowhere\n", "# from --drain\ndrain: 1m0s\n", "name: shop"} {
		if !strings.Contains(p.stdout.String(), want) {
			t.Errorf("%q is not in\n%s", want, p.stdout)
		}
	}
	if strings.Contains(p.stdout.String(), hash) {
		t.Error("a hash is printed")
	}
	if _, err := os.Stat("/nowhere"); err == nil {
		t.Error("the folder was made")
	}
}
