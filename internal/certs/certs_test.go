package certs

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A rig is the files of a server, a clock and a log.
type rig struct {
	*testing.T
	*Files
	cert, key, ca string
	clock         time.Time
	log           bytes.Buffer
}

func newRig(t *testing.T) *rig {
	t.Helper()
	dir := t.TempDir()
	r := &rig{T: t, cert: filepath.Join(dir, "cert.pem"), key: filepath.Join(dir, "key.pem"), ca: filepath.Join(dir, "ca.pem"), clock: time.Unix(1e9, 0)}
	r.put(r.pair(1))
	var err error
	if r.Files, err = Read(r.cert, r.key, "", slog.New(slog.NewTextHandler(&r.log, nil))); err != nil {
		t.Fatal(err)
	}
	r.now = func() time.Time { return r.clock }
	r.checked = r.clock
	return r
}

// pair makes a certificate of that serial number, which signs itself, and its key, in PEM.
func (r *rig) pair(serial int64) (cert, key []byte) {
	r.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		r.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "test"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Duration(serial) * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		r.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		r.Fatal(err)
	}
	block := func(kind string, der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}) }
	return block("CERTIFICATE", der), block("PRIVATE KEY", pkcs8)
}

// put replaces the files, as tools that renew certificates do.
func (r *rig) put(cert, key []byte) {
	r.Helper()
	r.write(r.cert, cert)
	r.write(r.key, key)
}

func (r *rig) write(path string, text []byte) {
	r.Helper()
	next := path + ".new"
	if err := os.WriteFile(next, text, 0o600); err != nil {
		r.Fatal(err)
	}
	if err := os.Rename(next, path); err != nil {
		r.Fatal(err)
	}
}

// wants wants the certificate of that serial number to be in force.
func (r *rig) wants(serial int64) {
	r.Helper()
	c, err := r.Certificate(nil)
	if err != nil {
		r.Fatal(err)
	}
	if got := c.Leaf.SerialNumber.Int64(); got != serial {
		r.Errorf("certificate %d is in force, want %d", got, serial)
	}
	if in := time.Until(r.Expires()); in > time.Duration(serial)*time.Hour || in < time.Duration(serial)*time.Hour-time.Minute {
		r.Errorf("it expires in %v, want %d hours", in, serial)
	}
}

func (r *rig) logged(text string) int { return strings.Count(r.log.String(), text) }

func TestFilesThatChange(t *testing.T) {
	r := newRig(t)
	r.wants(1)
	r.put(r.pair(2))
	r.wants(1) // they were looked at a moment ago
	r.clock = r.clock.Add(checkEvery)
	r.wants(2)
	if n := r.logged("were read again"); n != 1 {
		t.Errorf("%d times in the log: %s", n, &r.log)
	}
	r.clock = r.clock.Add(time.Hour)
	r.wants(2)
	if n := r.logged("were read again"); n != 1 {
		t.Errorf("what has not changed was read again: %s", &r.log)
	}
}

func TestFilesThatCannotBeUsed(t *testing.T) {
	r := newRig(t)
	// One of the pair is written before the other.
	cert, key := r.pair(2)
	r.write(r.cert, cert)
	for range 3 {
		r.clock = r.clock.Add(checkEvery)
		r.wants(1)
	}
	const complaint = "cannot be used; those from before stay in force"
	if n := r.logged(complaint); n != 1 {
		t.Errorf("%d times in the log: %s", n, &r.log)
	}
	r.write(r.key, key)
	r.clock = r.clock.Add(checkEvery)
	r.wants(2)

	r.write(r.cert, []byte("rubbish"))
	r.clock = r.clock.Add(checkEvery)
	r.wants(2)
	if err := os.Remove(r.cert); err != nil {
		t.Fatal(err)
	}
	r.clock = r.clock.Add(checkEvery)
	r.wants(2)
	if n := r.logged(complaint); n != 3 {
		t.Errorf("%d times in the log: %s", n, &r.log)
	}
	r.put(r.pair(3))
	r.clock = r.clock.Add(checkEvery)
	r.wants(3)
}

func TestUse(t *testing.T) {
	r := newRig(t)
	cert, key := r.pair(2)
	other := filepath.Join(t.TempDir(), "other")
	r.write(other+".pem", cert)
	if err := r.Use(other+".pem", other+".key", ""); err == nil || !strings.Contains(err.Error(), "the certificate or its key cannot be read") {
		t.Errorf("without a key: %v", err)
	}
	r.wants(1)
	r.write(other+".key", key)
	if err := r.Use(other+".pem", r.key, ""); err == nil || !strings.Contains(err.Error(), "are no certificate and its key in PEM") {
		t.Errorf("with another's key: %v", err)
	}
	r.wants(1)
	if err := r.Use(other+".pem", other+".key", ""); err != nil {
		t.Fatal(err)
	}
	r.wants(2)
}

// Clients' certificates are asked for where there are authorities for them, and those
// follow their file, too.
func TestAuthoritiesOfClients(t *testing.T) {
	r := newRig(t)
	if err := r.Use(r.cert, r.key, r.ca); err == nil || !strings.Contains(err.Error(), "the authorities of clients' certificates cannot be read") {
		t.Errorf("without their file: %v", err)
	}
	r.write(r.ca, []byte("none"))
	if err := r.Use(r.cert, r.key, r.ca); err == nil || !strings.Contains(err.Error(), "has no certificate in PEM in it") {
		t.Errorf("with rubbish: %v", err)
	}
	first, firstKey := r.pair(4)
	r.write(r.ca, first)
	if err := r.Use(r.cert, r.key, r.ca); err != nil {
		t.Fatal(err)
	}
	letIn := func(cert, key []byte) bool {
		t.Helper()
		client := &tls.Config{InsecureSkipVerify: true}
		if cert != nil {
			pair, err := tls.X509KeyPair(cert, key)
			if err != nil {
				t.Fatal(err)
			}
			client.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
		}
		ours, theirs := net.Pipe()
		defer ours.Close()
		_ = ours.SetDeadline(time.Now().Add(30 * time.Second))
		go func() {
			c := tls.Client(theirs, client)
			_, _ = io.Copy(io.Discard, c) // shakes hands first
			theirs.Close()
		}()
		return tls.Server(ours, r.Config()).Handshake() == nil
	}
	second, secondKey := r.pair(5)
	if letIn(nil, nil) || !letIn(first, firstKey) || letIn(second, secondKey) {
		t.Error("others than those of the authority are let in, or they are not")
	}
	r.write(r.ca, second)
	r.clock = r.clock.Add(checkEvery)
	if letIn(nil, nil) || letIn(first, firstKey) || !letIn(second, secondKey) {
		t.Error("the authority of before is in force")
	}
}
