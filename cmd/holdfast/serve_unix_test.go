//go:build unix

package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-session/holdfast/stateserver"
	"github.com/holdfast-session/holdfast/store"
)

// What needs signals and sockets in the file system.

// The first start makes the folder, with the sockets in it, and the second finds what
// was saved.
func TestServeMakesItsFolder(t *testing.T) {
	dir, err := os.MkdirTemp("", "holdfast") // t.TempDir is too long a path for a socket on some systems
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	data := filepath.Join(dir, "state", "holdfast")
	for _, saved := range []bool{false, true} {
		p := start(t, "serve", "--listen", "unix:"+filepath.Join(data, "state.sock"), "--data", data)
		c := dial(t, p.ready(ready))
		if !saved {
			c.wants(put+"hello", http.StatusOK)
		}
		c.wants("GET /app/s1 HTTP/1.1\r\nHost: h\r\n\r\n", http.StatusOK)
		if info, err := os.Stat(data); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("the folder: %v, %v", info, err)
		}
		p.stop()
	}
}

func TestServeListensOnSeveral(t *testing.T) {
	dir := t.TempDir()
	sock := "unix:" + filepath.Join(dir, "s.sock")
	p := start(t, "serve", "--listen", "127.0.0.1:0", "--listen", sock, "--data", dir)
	addrs := strings.Fields(p.ready(ready))
	if len(addrs) != 2 || addrs[1] != sock {
		t.Fatalf("ready on %q", addrs)
	}
	dial(t, addrs[0]).wants(put+"hello", http.StatusOK)
	dial(t, addrs[1]).wants("GET /app/s1 HTTP/1.1\r\nHost: h\r\n\r\n", http.StatusOK)
	info, err := os.Stat(filepath.Join(dir, "control.sock"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the control socket: %v, %v", info, err)
	}
	p.stop()
}

func TestServeReload(t *testing.T) {
	file := filepath.Join(t.TempDir(), "holdfast.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("drain: 5s\n")
	p := start(t, "serve", "--listen", "127.0.0.1:0", "--memory", "--config", file)
	addr := p.ready(ready)
	c := dial(t, addr)
	c.wants(put+"hello", http.StatusOK)

	write("drain: 7s\nmax-conns: 5\nallow: 192.0.2.1\n")
	p.signal(syscall.SIGHUP)
	p.logs("setting=drain from=5s to=7s")
	p.logs(`this takes a restart" setting=max-conns is=0 "will be"=5`)
	p.logs("setting=allow")
	c.wants(put+"hello", http.StatusBadRequest) // this address is not among them

	write("drian: 7s\n")
	p.signal(syscall.SIGHUP)
	p.logs("is it drain?")
	p.logs("the settings from before stay in force")
	dial(t, addr).wants(put+"hello", http.StatusBadRequest)

	write("log-level: debug\n")
	p.signal(syscall.SIGHUP)
	p.logs("setting=log-level from=info to=debug")
	dial(t, addr).wants(put+"hello", http.StatusOK)
	p.signal(syscall.SIGHUP)
	p.logs("no setting has changed")
	p.stop()
	p.logs(`msg="state server stopping" drain=10s`) // what the last file has, which is nothing
}

// What a reload says of a store has no password in it.
func TestServeReloadsNoSecrets(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "holdfast.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("data: " + filepath.Join(dir, "data") + "\n")
	p := start(t, "serve", "--listen", "127.0.0.1:0", "--config", file)
	p.ready(ready)
	write("store: postgres://holdfast:geheim@db/sessions\n")
	p.signal(syscall.SIGHUP)
	p.logs(`this takes a restart" setting=store is="" "will be"=postgres://…@db/sessions`)
	p.stop()
	if log := p.stderr.String(); strings.Contains(log, "geheim") {
		t.Errorf("the password is in the log: %s", log)
	}
}

// Tokens come and go with a reload, but the last one stays where else everybody could
// come in.
func TestServeReloadsTokens(t *testing.T) {
	file := filepath.Join(t.TempDir(), "holdfast.yaml")
	write := func(secrets ...string) {
		t.Helper()
		text := "tokens:\n"
		for i, secret := range secrets {
			text += fmt.Sprintf("  - {name: t%d, hash: %s, right: write}\n", i, stateserver.HashToken(secret))
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("one")
	p := start(t, "serve", "--listen", "0.0.0.0:0", "--memory", "--config", file)
	_, port, err := net.SplitHostPort(p.ready(ready))
	if err != nil {
		t.Fatal(err)
	}
	client := func(token string) *stateserver.Client {
		t.Helper()
		c, err := stateserver.Dial("127.0.0.1:"+port, &stateserver.ClientOptions{Token: token})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	id := store.ID{App: "shop", Session: "nobody"}
	wants := func(c *stateserver.Client, want error) {
		t.Helper()
		if err := c.Touch(context.Background(), id); !errors.Is(err, want) {
			t.Errorf("%v, want %v", err, want)
		}
	}
	one, two := client("one"), client("two")
	wants(one, store.ErrNotFound)
	wants(two, fs.ErrPermission)
	write("one", "two")
	p.signal(syscall.SIGHUP)
	p.logs("setting=tokens from=1 to=2")
	wants(one, store.ErrNotFound)
	wants(two, store.ErrNotFound)
	write("two")
	p.signal(syscall.SIGHUP)
	p.logs("setting=tokens from=2 to=1")
	wants(one, fs.ErrPermission)
	wants(two, store.ErrNotFound)
	write()
	p.signal(syscall.SIGHUP)
	p.logs("can be reached from other machines")
	p.logs("the settings from before stay in force")
	wants(one, fs.ErrPermission)
	wants(two, store.ErrNotFound)
	p.stop()
}

// Tokens do not make way for certificates that nobody is asked for before a restart.
func TestServeReloadsTokensToCertificates(t *testing.T) {
	dir := t.TempDir()
	ours := newAuthority(t, "ours")
	cert, key := ours.sign(dir, "server", time.Now().Add(time.Hour))
	file := filepath.Join(dir, "holdfast.yaml")
	write := func(format string, a ...any) {
		t.Helper()
		text := fmt.Sprintf("tls-cert: %s\ntls-key: %s\n", cert, key) + fmt.Sprintf(format, a...)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("tokens:\n  - {name: t, hash: %s, right: write}\n", stateserver.HashToken("one"))
	p := start(t, "serve", "--listen", "0.0.0.0:0", "--memory", "--config", file)
	_, port, err := net.SplitHostPort(p.ready(ready))
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := stateserver.Dial("127.0.0.1:"+port, &stateserver.ClientOptions{TLS: &tls.Config{RootCAs: ours.pool()}})
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	for i, more := range []string{
		"tls-client-ca: " + ours.file(dir, "ca") + "\n",
		"allow-remote: true\n", // which takes a restart, too
	} {
		write("%s", more)
		p.signal(syscall.SIGHUP)
		eventually(t, "the reload is refused", func() bool {
			return strings.Count(p.stderr.String(), "the settings from before stay in force") > i
		})
		if err := stranger.Touch(context.Background(), store.ID{App: "shop", Session: "nobody"}); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("after a reload without tokens and with %q a stranger gets %v", more, err)
		}
	}
	p.stop()
}
