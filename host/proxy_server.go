package host

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/holdfast-session/holdfast/internal/certs"
)

// Serve takes requests on l, as [Host.Proxy] says, until ctx is done. Then it takes no
// more, lets those finish that have begun, for as long as Drain, and returns nil. It
// closes l. It may be called for several listeners.
func (h *Host) Serve(ctx context.Context, l net.Listener) error {
	defer l.Close()
	if err := h.Proxy.check(); err != nil {
		return err
	}
	o := &h.Proxy
	srv := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 20 * time.Second,
		IdleTimeout:       or(o.IdleTimeout, 2*time.Minute),
		MaxHeaderBytes:    or(o.MaxHeader, 64<<10),
		ErrorLog:          slog.NewLogLogger(h.log().Handler(), slog.LevelDebug),
		Protocols:         new(http.Protocols),
	}
	srv.Protocols.SetHTTP1(true)
	srv.Protocols.SetUnencryptedHTTP2(o.H2C)
	serve := func() error { return srv.Serve(patientListener{l, o.stall()}) }
	if o.Certificate != "" {
		files, err := certs.Read(o.Certificate, o.Key, "", h.log())
		if err != nil {
			return err
		}
		srv.Protocols.SetHTTP2(true)
		srv.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: files.Certificate}
		serve = func() error { return srv.ServeTLS(patientListener{l, o.stall()}, "", "") }
	}
	failed := make(chan error, 1)
	go func() { failed <- serve() }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	patience, cancel := context.WithTimeout(context.Background(), or(h.Drain, 30*time.Second))
	defer cancel()
	err := srv.Shutdown(patience)
	if errors.Is(err, context.DeadlineExceeded) {
		h.log().Warn("some requests did not finish in time and are cut off")
		err = srv.Close()
	}
	return err
}

// A patientListener ends connections whose peers do not take what is written.
type patientListener struct {
	net.Listener
	patience time.Duration
}

func (l patientListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &patientConn{Conn: c, patience: l.patience}, nil
}

// A patientConn gives each write at least seven eighths of its patience.
type patientConn struct {
	net.Conn
	patience time.Duration
	until    time.Time // the deadline that is set; by who writes
}

func (c *patientConn) Write(b []byte) (int, error) {
	if now := time.Now(); c.until.Sub(now) < c.patience/8*7 {
		c.until = now.Add(c.patience)
		if err := c.Conn.SetWriteDeadline(c.until); err != nil {
			return 0, err
		}
	}
	return c.Conn.Write(b)
}

// SetWriteDeadline does nothing if there is to be no deadline, as the server says
// after each request: there is always one.
func (c *patientConn) SetWriteDeadline(t time.Time) error {
	if t.IsZero() {
		return nil
	}
	return c.Conn.SetWriteDeadline(t)
}
