//go:build unix

package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A manager hears what a service tells systemd.
type manager struct {
	t    *testing.T
	conn *net.UnixConn
	path string
}

func newManager(t *testing.T) *manager {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &manager{t, conn, path}
}

// hears waits for a message with that line in it.
func (m *manager) hears(line string) {
	m.t.Helper()
	if err := m.conn.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		m.t.Fatal(err)
	}
	buf := make([]byte, 4096)
	for {
		n, err := m.conn.Read(buf)
		if err != nil {
			m.t.Fatalf("systemd does not hear %q: %v", line, err)
		}
		if slices.Contains(strings.Split(string(buf[:n]), "\n"), line) {
			return
		}
	}
}

// The socket unit's sockets are served, and systemd hears how the service is.
func TestServeUnderSystemd(t *testing.T) {
	m := newManager(t)
	var files []*os.File
	open := func(network, addr string) net.Addr {
		l, err := net.Listen(network, addr)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if u, ok := l.(*net.UnixListener); ok {
			u.SetUnlinkOnClose(false)
		}
		f, err := l.(interface{ File() (*os.File, error) }).File()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		files = append(files, f)
		return l.Addr()
	}
	tcp := open("tcp", "127.0.0.1:0").String()
	sock := open("unix", filepath.Join(t.TempDir(), "s.sock")).String()
	admin := open("tcp", "127.0.0.1:0").String()

	p := startWith(t, func(cmd *exec.Cmd) {
		// LISTEN_PID is known to the process itself only.
		args := append([]string{"-c", `LISTEN_PID=$$ exec "$0" "$@"`}, cmd.Args...)
		cmd.Path, cmd.Args = "/bin/sh", append([]string{"sh"}, args...)
		cmd.ExtraFiles = files
		cmd.Env = append(cmd.Env, "LISTEN_FDS=3", "LISTEN_FDNAMES=holdfast.socket:holdfast.socket:admin", "NOTIFY_SOCKET="+m.path)
	}, "serve", "--memory")
	if addrs := p.ready(ready); addrs != tcp+" unix:"+sock {
		t.Errorf("ready on %q", addrs)
	}
	m.hears("READY=1")
	dial(t, tcp).wants(put+"hello", http.StatusOK)
	dial(t, "unix:"+sock).wants("GET /app/s1 HTTP/1.1\r\nHost: h\r\n\r\n", http.StatusOK)
	if status, _ := ask(t, admin, "/readyz"); status != http.StatusOK {
		t.Errorf("ready: %d", status)
	}
	p.signal(syscall.SIGHUP)
	m.hears("RELOADING=1")
	m.hears("READY=1")
	p.logs("no setting has changed") // systemd's sockets in place of the defaults are no change
	p.signal(syscall.SIGTERM)
	m.hears("STOPPING=1")
	if status := p.wait(); status != 0 {
		t.Errorf("status %d", status)
	}
	if _, err := os.Stat(sock); err != nil {
		t.Errorf("the socket unit's file is gone: %v", err)
	}
	// systemd has the listener still: who comes now waits for the next process.
	c, err := net.Dial("tcp", tcp)
	if err != nil {
		t.Errorf("between two processes: %v", err)
	} else {
		c.Close()
	}
}

// Sockets of systemd and --listen are not for the same service.
func TestServeUnderSystemdAndListen(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	f, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p := startWith(t, func(cmd *exec.Cmd) {
		args := append([]string{"-c", `LISTEN_PID=$$ exec "$0" "$@"`}, cmd.Args...)
		cmd.Path, cmd.Args = "/bin/sh", append([]string{"sh"}, args...)
		cmd.ExtraFiles = []*os.File{f}
		cmd.Env = append(cmd.Env, "LISTEN_FDS=1")
	}, "serve", "--memory", "--listen", "127.0.0.1:0")
	if status := p.wait(); status != 1 || !strings.Contains(p.stderr.String(), fmt.Sprintf("systemd passes %s on, and --listen", l.Addr())) {
		t.Errorf("status %d: %s", status, p.stderr)
	}
}
