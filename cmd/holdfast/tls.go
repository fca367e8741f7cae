package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"

	"github.com/spf13/pflag"
)

// tlsFlags say how a client of a state server encrypts.
type tlsFlags struct {
	on            bool
	ca, cert, key string
}

func (t *tlsFlags) addTo(f *pflag.FlagSet) {
	f.BoolVar(&t.on, "tls", false, "encrypt; implied by the following")
	f.StringVar(&t.ca, "tls-ca", "", "`file` with the authorities of the server's certificate (default the system's)")
	f.StringVar(&t.cert, "tls-cert", "", "`file` with a certificate to show the server")
	f.StringVar(&t.key, "tls-key", "", "`file` with its private key")
}

// config is what the flags mean; nil if it is not to encrypt.
func (t *tlsFlags) config() (*tls.Config, error) {
	if *t == (tlsFlags{}) {
		return nil, nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if t.ca != "" {
		text, err := os.ReadFile(t.ca)
		if err != nil {
			return nil, err
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("--tls-ca: %s has no certificate in PEM in it", t.ca)
		}
	}
	if (t.cert == "") != (t.key == "") {
		return nil, errors.New("--tls-cert and --tls-key belong together")
	}
	if t.cert != "" {
		pair, err := tls.LoadX509KeyPair(t.cert, t.key)
		if err != nil {
			return nil, err
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

// hint says which of the flags may help against an error of a connection; empty if none.
func (t *tlsFlags) hint(err error) string {
	var (
		unknown x509.UnknownAuthorityError
		invalid *tls.CertificateVerificationError
		plain   tls.RecordHeaderError
		op      *net.OpError
	)
	switch {
	case errors.As(err, &unknown):
		return "the server's certificate is of an authority that is not known here; name the file of the right one with --tls-ca"
	case errors.As(err, &invalid):
		return "the server's certificate is not good"
	case errors.As(err, &plain):
		return "the server does not encrypt; leave --tls out"
	case errors.As(err, &op) && op.Op == "remote error" && t.cert == "" && strings.Contains(op.Error(), "certificate"):
		return "the server wants a certificate; name its file with --tls-cert, and that of its key with --tls-key"
	case errors.As(err, &op) && op.Op == "remote error":
		return "the server does not take what it was shown"
	case *t == (tlsFlags{}) && (errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET)):
		return "the connection was closed without an answer; if the server encrypts, add --tls"
	}
	return ""
}
