package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-session/holdfast/stateserver"
	"github.com/holdfast-session/holdfast/store"
)

// An authority signs certificates.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{t, cert, key}
}

// sign writes a certificate and its key to files in dir, and returns their names.
func (a *authority) sign(dir, name string, until time.Time) (cert, key string) {
	a.t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		a.t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: until,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, a.cert, &private.PublicKey, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, key = filepath.Join(dir, name+".pem"), filepath.Join(dir, name+".key")
	write(a.t, key, "PRIVATE KEY", pkcs8)
	write(a.t, cert, "CERTIFICATE", der)
	return cert, key
}

func (a *authority) file(dir, name string) string {
	path := filepath.Join(dir, name+".pem")
	write(a.t, path, "CERTIFICATE", a.cert.Raw)
	return path
}

// pool has a alone.
func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

// write replaces a file as tools that renew certificates do.
func write(t *testing.T, path, kind string, der []byte) {
	t.Helper()
	next := path + ".new"
	if err := os.WriteFile(next, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, path); err != nil {
		t.Fatal(err)
	}
}

// shown returns the certificate that the server shows.
func shown(t *testing.T, addr string, config *tls.Config) (*x509.Certificate, error) {
	t.Helper()
	c, err := tls.Dial("tcp", addr, config)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	// A server of TLS 1.3 refuses a client's certificate after the client is done.
	if _, err := c.Write([]byte("HEAD /app/nobody HTTP/1.1\r\nHost: h\r\n\r\n")); err != nil {
		return nil, err
	}
	if err := c.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return nil, err
	}
	if _, err := c.Read(make([]byte, 100)); err != nil {
		return nil, err
	}
	return c.ConnectionState().PeerCertificates[0], nil
}

func TestServeTLS(t *testing.T) {
	dir, hour := t.TempDir(), time.Now().Add(time.Hour)
	ours, theirs := newAuthority(t, "ours"), newAuthority(t, "theirs")
	cert, key := ours.sign(dir, "server", hour)
	p := start(t, "serve", "--listen", "127.0.0.1:0", "--memory", "--tls-cert", cert, "--tls-key", key, "--tls-client-ca", ours.file(dir, "ca"), "--admin", "127.0.0.1:0")
	addr := p.ready(ready)

	pair := func(a *authority, name string, until time.Time) []tls.Certificate {
		t.Helper()
		pair, err := tls.LoadX509KeyPair(a.sign(dir, name, until))
		if err != nil {
			t.Fatal(err)
		}
		return []tls.Certificate{pair}
	}
	good := &tls.Config{RootCAs: ours.pool(), Certificates: pair(ours, "client", hour)}
	first, err := shown(t, addr, good)
	if err != nil {
		t.Fatal(err)
	}
	for name, config := range map[string]*tls.Config{
		"no certificate":              {RootCAs: ours.pool()},
		"a certificate of others":     {RootCAs: ours.pool(), Certificates: pair(theirs, "stranger", hour)},
		"a certificate that is over":  {RootCAs: ours.pool(), Certificates: pair(ours, "late", time.Now().Add(-time.Minute))},
		"TLS 1.1":                     {RootCAs: ours.pool(), Certificates: good.Certificates, MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10},
		"a server that is not theirs": {RootCAs: theirs.pool(), Certificates: good.Certificates},
	} {
		if _, err := shown(t, addr, config); err == nil {
			t.Errorf("with %s it is let in", name)
		}
	}

	c, err := stateserver.Dial(addr, &stateserver.ClientOptions{TLS: good})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	rec := store.Record{Version: store.NewVersion(), Timeout: time.Minute, Body: []byte("x")}
	if err := c.Create(context.Background(), store.ID{App: "a", Session: "s"}, &rec, false); err != nil {
		t.Fatal(err)
	}

	// A new certificate is shown to who connects from then on, without a signal.
	ours.sign(dir, "server", time.Now().Add(2*time.Hour))
	eventually(t, "the new certificate is shown", func() bool {
		next, err := shown(t, addr, good)
		return err == nil && next.SerialNumber.Cmp(first.SerialNumber) != 0
	})
	if got := figure(t, p.admin(), "holdfast_certificate_expires_seconds"); got < float64(time.Now().Add(90*time.Minute).Unix()) {
		t.Errorf("the figures have the old certificate's end: %v", got)
	}
	if err := c.Touch(context.Background(), store.ID{App: "a", Session: "s"}); err != nil {
		t.Errorf("on a connection from before: %v", err)
	}
	// One that cannot be used changes nothing.
	if err := os.WriteFile(cert, []byte("rubbish"), 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the log says so", func() bool {
		if _, err := shown(t, addr, good); err != nil {
			t.Fatalf("nobody can connect any more: %v", err)
		}
		return strings.Contains(p.stderr.String(), "the TLS files have changed and cannot be used")
	})
	p.stop()
}

// The entries of several applications go into one file as the comment says.
func TestTokensOfSeveral(t *testing.T) {
	var file strings.Builder
	for _, app := range []string{"shop", "bank"} {
		made := start(t, "token", app, "--app", app)
		if made.wait() != 0 {
			t.Fatal(made.stderr)
		}
		comment, entry, ok := strings.Cut(made.stderr.String(), "\ntokens:\n")
		if !ok || !strings.Contains(comment, `# entry below "tokens:" there, without that line`) {
			t.Fatalf("printed %s", made.stderr)
		}
		if file.Len() == 0 {
			file.WriteString("tokens:\n")
		}
		file.WriteString(entry)
	}
	name := filepath.Join(t.TempDir(), "holdfast.yaml")
	if err := os.WriteFile(name, []byte(file.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	if p := start(t, "serve", "--check", "--memory", "--config", name); p.wait() != 0 || strings.Count(p.stdout.String(), "name: ") != 2 {
		t.Errorf("%s%s", p.stdout, p.stderr)
	}
}

// Tokens let other machines in, and keep strangers out. (0.0.0.0 stands for an
// address that others reach.)
func TestServeTokens(t *testing.T) {
	made := start(t, "token", "shop", "--app", "shop", "--right", "write")
	if made.wait() != 0 {
		t.Fatal(made.stderr)
	}
	secret := strings.TrimSpace(made.stdout.String())
	if len(secret) < 26 || strings.Contains(made.stderr.String(), secret) {
		t.Fatalf("token %q, entry %s", secret, made.stderr)
	}
	file := filepath.Join(t.TempDir(), "holdfast.yaml")
	if err := os.WriteFile(file, []byte(made.stderr.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	p := start(t, "serve", "--listen", "0.0.0.0:0", "--memory", "--config", file)
	_, port, err := net.SplitHostPort(p.ready(ready))
	if err != nil {
		t.Fatal(err)
	}
	addr := "127.0.0.1:" + port
	p.logs("tokens and sessions travel unencrypted")
	create := func(token, app string) error {
		c, err := stateserver.Dial(addr, &stateserver.ClientOptions{Token: token})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		rec := store.Record{Version: store.NewVersion(), Timeout: time.Minute, Body: []byte("x")}
		return c.Create(context.Background(), store.ID{App: app, Session: fmt.Sprint(rec.Version)}, &rec, false)
	}
	if err := create(secret, "shop"); err != nil {
		t.Errorf("with the token: %v", err)
	}
	for name, err := range map[string]error{
		"without a token": create("", "shop"), "with a wrong token": create("wrong", "shop"), "on another application": create(secret, "bank"),
	} {
		if !errors.Is(err, fs.ErrPermission) {
			t.Errorf("%s: %v", name, err)
		}
	}
	dial(t, addr).wants(put+"hello", http.StatusBadRequest) // an old client has no token
	if strings.Contains(p.stderr.String(), secret) {
		t.Error("the token is in the log")
	}
	p.stop()
}
