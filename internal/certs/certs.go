// Package certs keeps the certificate of a server up to date with its files.
package certs

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"time"
)

// checkEvery is how often at most the files are looked at.
const checkEvery = time.Second

// Files are what a server shows and asks for in TLS. They are looked at when somebody
// connects, and read again when they have changed. Files that cannot be used change
// nothing: what was read before stays in force. It is safe for concurrent use.
type Files struct {
	log *slog.Logger
	now func() time.Time

	mu       sync.Mutex
	cert     string // file names
	key      string
	clientCA string
	stamps   [3]stamp // of the files when they were last read, or tried
	checked  time.Time
	current  *tls.Config
}

// A stamp tells one content of a file from another.
type stamp struct {
	modified time.Time
	size     int64
	inode    any
}

// Read reads the files for the first time. clientCA may be empty.
func Read(cert, key, clientCA string, log *slog.Logger) (*Files, error) {
	c := &Files{log: log, now: time.Now}
	return c, c.Use(cert, key, clientCA)
}

// Use reads other files from now on, if they are in order.
func (c *Files) Use(cert, key, clientCA string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	stamps := stampsOf(cert, key, clientCA)
	next, err := readTLS(cert, key, clientCA)
	if err != nil {
		return err
	}
	c.cert, c.key, c.clientCA = cert, key, clientCA
	c.stamps, c.current, c.checked = stamps, next, c.now()
	return nil
}

// Config is the configuration of a listener.
func (c *Files) Config() *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return c.latest(), nil },
	}
}

// Certificate returns the certificate in force, for [tls.Config].GetCertificate.
func (c *Files) Certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return &c.latest().Certificates[0], nil
}

// latest returns what is in force, after a look at the files if the last one was a
// while ago.
func (c *Files) latest() *tls.Config {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := c.now(); now.Sub(c.checked) >= checkEvery {
		c.checked = now
		c.check()
	}
	return c.current
}

// check reads the files again if they have changed. c.mu is held.
func (c *Files) check() {
	stamps := stampsOf(c.cert, c.key, c.clientCA)
	if stamps == c.stamps {
		return
	}
	// Not tried again before they change again: a certificate and its key are often
	// written one after the other, and in between they do not fit.
	c.stamps = stamps
	next, err := readTLS(c.cert, c.key, c.clientCA)
	if err != nil {
		c.log.Error("the TLS files have changed and cannot be used; those from before stay in force", "err", err)
		return
	}
	c.current = next
	c.log.Info("the TLS files have changed and were read again", "cert", c.cert, "expires", next.Certificates[0].Leaf.NotAfter)
}

// Expires returns when the certificate in force does.
func (c *Files) Expires() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.current.Certificates[0].Leaf.NotAfter
}

func stampsOf(names ...string) (stamps [3]stamp) {
	for i, name := range names {
		if info, err := os.Stat(name); err == nil {
			stamps[i] = stamp{info.ModTime(), info.Size(), inode(info)}
		}
	}
	return stamps
}

func readTLS(cert, key, clientCA string) (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(cert, key)
	var missing *fs.PathError
	switch {
	case errors.As(err, &missing):
		return nil, fmt.Errorf("the certificate or its key cannot be read: %w", err)
	case err != nil:
		return nil, fmt.Errorf("%s and %s are no certificate and its key in PEM: %w", cert, key, err)
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}}
	if clientCA == "" {
		return config, nil
	}
	text, err := os.ReadFile(clientCA)
	if err != nil {
		return nil, fmt.Errorf("the authorities of clients' certificates cannot be read: %w", err)
	}
	config.ClientCAs = x509.NewCertPool()
	if !config.ClientCAs.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s has no certificate in PEM in it", clientCA)
	}
	config.ClientAuth = tls.RequireAndVerifyClientCert
	// A resumed connection would be let in by the authorities of its first one.
	config.SessionTicketsDisabled = true
	return config, nil
}
