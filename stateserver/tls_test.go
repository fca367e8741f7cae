package stateserver

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"math/big"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-session/holdfast/inproc"
	"github.com/holdfast-session/holdfast/store"
)

// An authority issues certificates.
type authority struct {
	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB) *authority {
	a := &authority{t: t}
	var der []byte
	der, a.key = a.issue(&x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, time.Hour)
	var err error
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return a
}

// issue signs a certificate that is valid from two hours ago until then.
func (a *authority) issue(c *x509.Certificate, until time.Duration) ([]byte, *ecdsa.PrivateKey) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	c.SerialNumber, c.Subject = big.NewInt(1), pkix.Name{CommonName: "test"}
	c.NotBefore, c.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(until)
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	return der, key
}

func (a *authority) pair(until time.Duration) tls.Certificate {
	der, key := a.issue(&x509.Certificate{
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, until)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func (a *authority) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

// server is a configuration that asks for a client's certificate as auth says.
func (a *authority) server(auth tls.ClientAuthType) *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{a.pair(time.Hour)}, ClientCAs: a.pool(), ClientAuth: auth}
}

// client is a configuration that shows the certificates.
func (a *authority) client(certs ...tls.Certificate) *tls.Config {
	return &tls.Config{Certificates: certs, RootCAs: a.pool(), ServerName: "localhost"}
}

func listenTLS(t testing.TB, config *tls.Config) net.Listener {
	l, err := tls.Listen("tcp", "127.0.0.1:0", config)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// TestTLS does over TLS what hangs on how connections end.
func TestTLS(t *testing.T) {
	noLeaks(t)
	ca := newAuthority(t)
	kept := watched(inproc.New(nil))
	s := &Server{Store: kept, MaxBody: 1 << 20, Access: Access{ClientCerts: true}}
	addr := serve(t, s, listenTLS(t, ca.server(tls.RequireAndVerifyClientCert)))
	config := ca.client(ca.pair(time.Hour))
	c := dial(t, addr, &ClientOptions{TLS: config})
	id, _ := clientID(targetID)
	mustCreate(t, c, id, "body")
	held := mustLock(t, c, id, store.LockOptions{})

	// A wait that is given up leaves nothing behind.
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		err := c.Lock(ctx, id, store.LockOptions{Owner: 9, Wait: time.Minute}, new(store.Record))
		if !errors.Is(err, context.Canceled) {
			t.Errorf("Lock, given up: %v", err)
		}
	})
	<-kept.waiting
	cancel()
	wg.Wait()
	if err := <-kept.over; !errors.Is(err, context.Canceled) {
		t.Errorf("the wait ended with %v; want it cancelled", err)
	}
	if err := c.Unlock(t.Context(), id, held.Lock); err != nil {
		t.Errorf("Unlock: %v", err)
	}
	held = mustLock(t, c, id, store.LockOptions{})

	// Idle connections are looked at before they are used again, and closed ones
	// found out.
	nc, err := tls.Dial("tcp", addr, config)
	if err != nil {
		t.Fatal(err)
	}
	w := wireOver(t, nc)
	if got := status(w.ask("", "HEAD "+target+" HTTP/1.1")); got != ok {
		t.Error(got)
	}
	if !alive(nc) {
		t.Error("an open connection is taken for closed")
	}

	// An answer reaches one who is still sending.
	large := wireOver(t, mustDialTLS(t, addr, config))
	large.send(lines("", "PUT /a HTTP/1.1", "Holdfast: 1", "Content-Length: 9000000"))
	if got := status(large.receive(methodPut)); got != "413 Content Too Large" {
		t.Errorf("answered %q; want 413", got)
	}
	large.send(strings.Repeat("x", 1000000)) // a reset would make it fail
	large.ends()

	// Shutdown closes what is idle, and lets a waiter go without an answer.
	waiter := wireOver(t, mustDialTLS(t, addr, config))
	waiter.send(lockLine(2))
	<-kept.waiting
	if err := s.Shutdown(testContext(t)); err != nil {
		t.Errorf("Shutdown: %v", err)
	}
	w.ends()
	waiter.ends()
	if alive(nc) {
		t.Error("a closed connection is taken for open")
	}
	if got := mustLoad(t, kept, targetID); !got.Locked || got.Lock.Owner != held.Lock.Owner {
		t.Errorf("the lock is %+v; want it kept by its holder", got.Lock)
	}
}

func mustDialTLS(t testing.TB, addr string, config *tls.Config) net.Conn {
	t.Helper()
	nc, err := tls.Dial("tcp", addr, config)
	if err != nil {
		t.Fatal(err)
	}
	return nc
}

// TestClientCerts: whoever has no right certificate learns nothing, and is in the log
// once.
func TestClientCerts(t *testing.T) {
	ca, others := newAuthority(t), newAuthority(t)
	log := new(logBuffer)
	s := &Server{Store: inproc.New(nil), Logger: log.logger(), Access: Access{ClientCerts: true}}
	addr := serve(t, s, listenTLS(t, ca.server(tls.RequireAndVerifyClientCert)))
	for name, config := range map[string]*tls.Config{
		"none":                ca.client(),
		"expired":             ca.client(ca.pair(-time.Hour)),
		"another authority's": ca.client(others.pair(time.Hour)),
	} {
		nc, err := tls.Dial("tcp", addr, config)
		if err != nil {
			continue // TLS 1.2 tells at once
		}
		nc.SetDeadline(time.Now().Add(limit))
		io.WriteString(nc, "HEAD /a HTTP/1.1\r\nHoldfast: 1\r\n\r\n")
		if b, err := io.ReadAll(nc); len(b) > 0 || err == nil || isTimeout(err) {
			t.Errorf("%s: answered %q, %v", name, b, err)
		}
		nc.Close()
	}
	plain := connect(t, addr)
	plain.send("HEAD /a HTTP/1.1\r\nHoldfast: 1\r\n\r\n")
	if b, _ := io.ReadAll(plain); strings.Contains(string(b), "Holdfast") {
		t.Errorf("without TLS: answered %q", b)
	}
	waitFor(t, "the handshakes to be refused", func() bool { return s.Stats().Refused["handshake"] == 4 })
	if n := log.count("refused", "why=handshake"); n != 1 {
		t.Errorf("%d lines in the log; want one:\n%s", n, log)
	}
	if got := s.Stats().Requests; len(got) != 0 {
		t.Errorf("requests of the refused were counted: %v", got)
	}

	// A listener that does not insist is no way around.
	lax := serve(t, &Server{Store: inproc.New(nil), Access: Access{ClientCerts: true}}, listenTLS(t, ca.server(tls.VerifyClientCertIfGiven)))
	nc := mustDialTLS(t, lax, ca.client())
	io.WriteString(nc, "HEAD /a HTTP/1.1\r\nHoldfast: 1\r\n\r\n")
	if b, _ := io.ReadAll(nc); len(b) > 0 {
		t.Errorf("a connection without a certificate was answered %q", b)
	}
	nc.Close()
	c := dial(t, lax, &ClientOptions{TLS: ca.client(ca.pair(time.Hour))})
	if err := c.Touch(testContext(t), targetID); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("with a certificate: %v; want ErrNotFound", err)
	}
}

// TestSlowHandshake: who does not get on with it is not kept.
func TestSlowHandshake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newAuthority(t)
		kept := inproc.New(nil)
		defer kept.Close()
		net := newPipes()
		config := ca.server(tls.NoClientCert)
		config.SessionTicketsDisabled = true // which a pipe without a buffer cannot take
		s := &Server{Store: kept, ReadTimeout: 10 * time.Second}
		serve(t, s, tls.NewListener(net, config))
		start := time.Now()
		w := net.connect(t)
		w.ends()
		if d := time.Since(start); d != 10*time.Second {
			t.Errorf("a handshake that does not begin kept its connection for %v; want 10s", d)
		}
		w = net.connect(t)
		good := tls.Client(w.Conn, ca.client())
		secure := &wire{t, good, bufio.NewReader(good)}
		<-time.After(5 * time.Second)
		if got := status(secure.ask("", "HEAD /a HTTP/1.1")); got != notFound {
			t.Errorf("after a handshake in time: %s", got)
		}
		<-time.After(time.Minute) // the handshake's deadline is not that of what follows
		if got := status(secure.ask("", "HEAD /a HTTP/1.1")); got != notFound {
			t.Errorf("a minute later: %s", got)
		}
		good.Close()
	})
}
