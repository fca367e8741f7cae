package main

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	testservers "github.com/holdfast-session/holdfast/internal/servers"
	"github.com/holdfast-session/holdfast/stateserver"
)

// Each mistake has advice of its own, and the server's own words with it.
func TestWhatSessionsSays(t *testing.T) {
	says := func(t *testing.T, want, addr string, args ...string) {
		t.Run(want, func(t *testing.T) {
			t.Parallel() // some try for a while
			q := start(t, append([]string{"sessions", "list", "--server", addr}, args...)...)
			if q.wait() != 1 || !strings.Contains(q.stderr.String(), want) {
				t.Errorf("%s: status %d, %q; want %q", strings.Join(args, " "), q.wait(), q.stderr, want)
			}
		})
	}

	t.Run("tokens", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "holdfast.yaml")
		text := "tokens:\n  - {name: shop, hash: " + stateserver.HashToken("secret") + ", apps: [shop], right: read}\n"
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		addr := start(t, "serve", "--listen", "127.0.0.1:0", "--memory", "--config", file).ready(ready)
		says(t, "the server wants a token; give it in the variable HOLDFAST_TOKEN", addr)
		says(t, "the server does not know this token", addr, "--token", "guessed")
		says(t, "the token does not allow this; name the application", addr, "--token", "secret")
		says(t, "the token does not allow this; name the application", addr, "--token", "secret", "--app", "bank")
	})
	t.Run("address", func(t *testing.T) {
		addr := start(t, "serve", "--listen", "127.0.0.1:0", "--memory", "--allow", "192.0.2.1").ready(ready)
		for _, args := range [][]string{nil, {"--token", "any"}} {
			says(t, "the server lets nobody in from here; its --allow says from where", addr, args...)
			says(t, "this address may not connect", addr, args...)
		}
	})
	t.Run("store", func(t *testing.T) {
		redis := testservers.StartRedis(t, nil)
		addr := start(t, "serve", "--listen", "127.0.0.1:0", "--store", redis.URL()).ready(ready)
		redis.Kill()
		says(t, "the state server on "+addr+" is running, and refuses this or cannot do it at the moment", addr)
		says(t, "connection refused", addr) // what the server says of its store
	})
	t.Run("TLS", func(t *testing.T) {
		dir, hour := t.TempDir(), time.Now().Add(time.Hour)
		ours := newAuthority(t, "ours")
		ca := ours.file(dir, "ca")
		cert, key := ours.sign(dir, "server", hour)
		addr := start(t, "serve", "--listen", "127.0.0.1:0", "--memory", "--tls-cert", cert, "--tls-key", key, "--tls-client-ca", ca).ready(ready)
		says(t, "if the server encrypts, add --tls", addr)
		says(t, "name the file of the right one with --tls-ca", addr, "--tls")
		says(t, "the server wants a certificate; name its file with --tls-cert", addr, "--tls-ca", ca)
		says(t, "the server's certificate is not good", strings.Replace(addr, "127.0.0.1", "localhost", 1), "--tls-ca", ca)
		mine, mineKey := ours.sign(dir, "mine", hour)
		q := start(t, "sessions", "list", "--server", addr, "--tls-ca", ca, "--tls-cert", mine, "--tls-key", mineKey)
		if q.wait() != 0 {
			t.Errorf("with all of it: %s", q.stderr)
		}
		theirs, theirsKey := newAuthority(t, "theirs").sign(dir, "theirs", hour)
		says(t, "the server does not take what it was shown", addr, "--tls-ca", ca, "--tls-cert", theirs, "--tls-key", theirsKey)
		plain := start(t, "serve", "--listen", "127.0.0.1:0", "--memory").ready(ready)
		says(t, "the server does not encrypt; leave --tls out", plain, "--tls")
	})
	t.Run("others", func(t *testing.T) {
		web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") }))
		t.Cleanup(web.Close)
		addr := web.Listener.Addr().String()
		says(t, "there is no answer of a state server on "+addr+"; is --server right? ("+addr+": ", addr)
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
		says(t, "is it running, and is --server right?", l.Addr().String())
	})
}
