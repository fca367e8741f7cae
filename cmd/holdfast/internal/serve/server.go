// Package serve is what `holdfast serve` does around a [stateserver.Server]: its
// configuration and its reload, the store, certificates, the admin listener, systemd,
// and handing over to a new process.
package serve

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-session/holdfast/internal/certs"
	"github.com/holdfast-session/holdfast/logstore"
	"github.com/holdfast-session/holdfast/mode"
	"github.com/holdfast-session/holdfast/stateserver"
)

// A Server is a state server in a process of its own. Set all fields that are not
// said to be optional, and call Run once.
type Server struct {
	Config *Config
	// Reload reads the configuration again.
	Reload func() (*Config, error)
	// Reloads tells when to.
	Reloads <-chan os.Signal
	// Hurry is closed when a stop is not to wait for requests any more; optional.
	Hurry <-chan struct{}
	// Takeover is how long the process that serves the folder now may take to let it
	// go; 0 is for the usual start, which takes over from nobody.
	Takeover time.Duration
	Version  string
	Log      *slog.Logger
	// Level is Log's.
	Level *slog.LevelVar
	// Ready is called with the addresses when clients can connect.
	Ready func(addrs []string)

	certificates *certs.Files // nil without TLS
	listeners    []*listener
	engine       *engine
	state        *stateserver.Server
	served       chan error // what Serve returned, once for each listener of state
	admin        *admin
	control      *control // nil where nobody can take over
}

// Run serves until ctx ends, then stops gracefully: requests that have begun finish,
// and everything is on disk when it returns nil.
func (s *Server) Run(ctx context.Context) (err error) {
	s.Level.Set(s.Config.LogLevel)
	if s.certificates, err = s.Config.certificates(s.Log); err != nil {
		return err
	}
	access, err := s.Config.access()
	if err != nil {
		return err
	}
	heir, err := s.open(ctx)
	if err != nil {
		return err
	}
	defer func() {
		s.closeListeners()
		if heir != nil && !errors.Is(err, errHurried) { // who hurries has the folder for as long as it lives
			heir.cancel()
		}
	}()
	s.admin = newAdmin(s)
	defer s.admin.close()
	if heir == nil {
		s.admin.serve() // readiness tells that the folder is being opened
	} else {
		s.Log.Info("taking over", "from", heir.pid, "version", heir.version)
		if err := heir.release(ctx); err != nil {
			return err
		}
	}
	if err := s.openEngine(); err != nil {
		return err
	}
	defer func() {
		if s.engine != nil {
			err = errors.Join(err, s.closeEngine())
		}
	}()
	s.openControl()
	defer s.closeControl(false)
	s.serve(access)
	s.warn()
	if heir != nil {
		s.inherit(heir)
		s.admin.serve()
	}
	s.ready()
	return s.loop(ctx)
}

// open opens the listeners: those of systemd, those of the process to take over from,
// and others.
func (s *Server) open(ctx context.Context) (*succession, error) {
	open, err := activated()
	if err != nil {
		return nil, err
	}
	if err := s.Config.adopt(open); err != nil {
		closeAll(open)
		return nil, err
	}
	if s.Takeover == 0 {
		if hint := s.Config.occupied(); hint != "" {
			closeAll(open)
			return nil, fmt.Errorf("another server has the folder %s%s", s.Config.Data, hint)
		}
	}
	var heir *succession
	if path, ok := strings.CutPrefix(s.Config.inData(controlSocket), "unix:"); s.Takeover > 0 {
		if !ok {
			closeAll(open)
			return nil, s.Config.noTakeover()
		}
		switch heir, err = succeed(ctx, path, s.Takeover, s.Version); {
		case errors.Is(err, errNobody):
			s.Log.Info("there is nobody to take over from", "data", s.Config.Data)
		case err != nil:
			closeAll(open)
			return nil, err
		default:
			open = append(open, heir.listeners...)
		}
	}
	if s.listeners, err = s.Config.listen(open); err != nil && heir != nil {
		heir.cancel()
	}
	return heir, err
}

var errHurried = errors.New("stopped while the store was being opened; nothing in it has changed")

// openEngine opens the store. Who hurries does not wait for it.
func (s *Server) openEngine() error {
	start := time.Now()
	type opened struct {
		e   *engine
		err error
	}
	done := make(chan opened, 1)
	go func() {
		e, err := s.Config.openEngine(s.Log)
		done <- opened{e, err}
	}()
	select {
	case o := <-done:
		if o.err != nil {
			return o.err
		}
		s.engine = o.e
		attrs := []any{"in", time.Since(start).Round(time.Millisecond)}
		if s.engine.sessions != nil {
			attrs = append(attrs, "sessions", s.engine.sessions())
		}
		s.Log.Info("the store is open", attrs...)
		return nil
	case <-s.Hurry:
		return errHurried
	}
}

// reopenEngine opens the store that a successor has left. A process that dies may leave
// the connection, which tells of it, a little before the folder.
func (s *Server) reopenEngine(ctx context.Context) error {
	until := time.Now().Add(leftWithin)
	for told := false; ; told = true {
		err := s.openEngine()
		if !errors.Is(err, logstore.ErrInUse) || time.Now().After(until) {
			return err
		}
		if !told {
			s.Log.Warn("the other process still has the folder; trying again", "err", err)
		}
		select {
		case <-time.After(leftWithin / 200):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// leftWithin is how long a process may take to end once it has given up.
const leftWithin = 10 * time.Second

func (s *Server) closeEngine() error {
	start := time.Now()
	e := s.engine
	s.engine = nil
	s.admin.watch(nil, nil)
	if err := e.close(); err != nil {
		return fmt.Errorf("closing the store: %w", err)
	}
	s.Log.Info("the store is closed", "in", time.Since(start).Round(time.Millisecond))
	return nil
}

// openControl lets others take over, where that can be.
func (s *Server) openControl() {
	path, ok := strings.CutPrefix(s.Config.inData(controlSocket), "unix:")
	if !ok {
		return
	}
	c, err := newControl(path, s.Log)
	if err != nil {
		s.Log.Warn("no other process will be able to take over from this one", "err", err)
		return
	}
	s.control = c
}

func (s *Server) closeControl(keep bool) {
	if s.control != nil {
		s.control.close(keep)
		s.control = nil
	}
}

// serve begins to accept clients on all listeners.
func (s *Server) serve(access *stateserver.Access) {
	s.state = s.Config.stateServer(s.engine, access, s.Log)
	var all []net.Listener
	for _, l := range s.listeners {
		if l.role == roleState {
			all = append(all, s.accepting(l))
		}
	}
	s.served = make(chan error, len(all))
	for _, l := range all {
		go func() { s.served <- s.state.Serve(l) }()
	}
	s.admin.watch(s.state, s.engine)
	s.admin.setReady("")
}

// accepting is l as the state server has it.
func (s *Server) accepting(l *listener) net.Listener {
	var accepting net.Listener = resume(l.Listener)
	if _, tcp := l.Addr().(*net.TCPAddr); tcp && s.certificates != nil {
		accepting = tls.NewListener(accepting, s.certificates.Config())
	}
	return accepting
}

// A pausable is a listener that Close does not close but keep from accepting, so that
// connections wait in its queue: for a successor, or for [resume].
type pausable struct{ net.Listener }

type deadliner interface{ SetDeadline(time.Time) error }

func resume(l net.Listener) net.Listener {
	if d, ok := l.(deadliner); ok && d.SetDeadline(time.Time{}) == nil {
		return pausable{l}
	}
	return l
}

func (p pausable) Close() error { return p.Listener.(deadliner).SetDeadline(time.Unix(1, 0)) }

// inherit makes what the old process handed over this one's own, and lets it end.
func (s *Server) inherit(heir *succession) {
	var ours []string
	for _, l := range s.listeners {
		if u, ok := l.Listener.(*net.UnixListener); ok {
			u.SetUnlinkOnClose(true)
			ours = append(ours, u.Addr().String())
		}
	}
	for _, l := range heir.listeners {
		if path := l.Addr().String(); l.Addr().Network() == "unix" && !slices.Contains(ours, path) {
			_ = os.Remove(path) // nobody listens there any more
		}
	}
	if err := heir.serving(); err != nil {
		s.Log.Warn("the process before this one has not heard that it is over", "pid", heir.pid, "err", err)
	}
}

// warn says what the configuration gives up.
func (s *Server) warn() {
	c := s.Config
	if c.Memory {
		s.Log.Warn("sessions are kept in memory only: nothing survives a restart of this server")
	}
	if c.Exact {
		s.Log.Warn("--exact: updates are lost, and ended sessions brought back, wherever Microsoft's server does it")
	}
	for _, l := range s.listeners {
		tcp, ok := l.Addr().(*net.TCPAddr)
		switch {
		case l.role != roleState || !ok || tcp.IP.IsLoopback():
		case !c.protected():
			s.Log.Warn("--allow-remote: whoever can reach the port can read and change every session", "addr", tcp)
		case s.certificates == nil:
			s.Log.Warn("tokens and sessions travel unencrypted; give the server a certificate with --tls-cert and --tls-key", "addr", tcp)
		}
	}
}

func (s *Server) ready() {
	var addrs []string
	for _, l := range s.listeners {
		if l.role == roleState {
			addrs = append(addrs, addrName(l.Addr()))
		} else {
			s.Log.Info("health and metrics", "addr", addrName(l.Addr()))
		}
	}
	where := "in memory"
	switch {
	case s.Config.Store != "":
		where = mode.Redact(s.Config.Store)
	case s.Config.hasFolder():
		where = s.Config.Data
	}
	s.Log.Info("state server ready", "addr", strings.Join(addrs, " "), "sessions", where, "tls", s.certificates != nil,
		"tokens", len(s.Config.Tokens), "pid", os.Getpid(), "version", s.Version)
	s.Ready(addrs)
	s.notify(fmt.Sprintf("READY=1\nMAINPID=%d\nSTATUS=Serving on %s", os.Getpid(), strings.Join(addrs, " ")))
}

func (s *Server) notify(state string) {
	if err := notify(state); err != nil {
		s.Log.Warn("systemd cannot be told how this service is", "err", err)
	}
}

// loop is a server's life once it serves.
func (s *Server) loop(ctx context.Context) error {
	for {
		var requests chan *bequest
		if s.control != nil {
			requests = s.control.requests
		}
		select {
		case <-ctx.Done():
			return s.stop()
		case err := <-s.served:
			return errors.Join(fmt.Errorf("a listener has failed: %w", err), s.state.Close())
		case <-s.Reloads:
			s.reload()
		case b := <-requests:
			if gone, err := s.handOver(ctx, b); gone || err != nil {
				return err
			}
		}
	}
}

// stop is the graceful end.
func (s *Server) stop() error {
	s.Log.Info("state server stopping", "drain", s.Config.Drain)
	s.notify("STOPPING=1\nSTATUS=Finishing requests")
	s.admin.setReady("stopping")
	s.closeControl(false)
	s.closeListeners() // who comes now is refused
	patience, cancel := context.WithTimeout(context.Background(), s.Config.Drain)
	defer cancel()
	var hurrying sync.WaitGroup
	hurrying.Go(func() {
		select {
		case <-s.Hurry:
			s.Log.Warn("asked to stop a second time: cutting requests that are not finished; once more kills")
			cancel()
		case <-patience.Done():
		}
	})
	err := s.drain(patience)
	cancel()
	hurrying.Wait()
	s.notify("STATUS=Writing sessions")
	err = errors.Join(err, s.closeEngine())
	if err == nil {
		s.Log.Info("state server stopped")
	}
	return err
}

// drain lets the requests that have begun finish until ctx ends, and cuts the others.
func (s *Server) drain(ctx context.Context) error {
	err := s.state.Shutdown(ctx)
	if err != nil {
		s.Log.Warn("some connections were still busy and are cut", "err", err)
		err = s.state.Close()
	}
	for range cap(s.served) {
		e := <-s.served
		if !errors.Is(e, stateserver.ErrServerClosed) && !errors.Is(e, net.ErrClosed) { // by stop
			err = errors.Join(err, e)
		}
	}
	return err
}

func (s *Server) closeListeners() {
	for _, l := range s.listeners {
		if l.role == roleState { // the other is the admin's
			l.Close()
		}
	}
}

// handOver lets a successor take over. gone means that it serves, and that this
// process has nothing left to do; without it this one serves on.
func (s *Server) handOver(ctx context.Context, b *bequest) (gone bool, err error) {
	over := sync.OnceFunc(func() { close(b.over) })
	defer over()
	s.Log.Info("another process wants to take over", "pid", b.pid, "version", b.version)
	if err := b.hand(s.listeners, s.Version); err != nil {
		s.Log.Warn("it did not after all; serving on", "pid", b.pid, "err", err)
		return false, nil
	}
	said := b.await()
	start := time.Now()
	s.admin.setReady("handing over")

	limit := s.Config.Drain
	if b.within > 0 {
		limit = min(limit, b.within/2) // the store is to be closed in that time, too
	}
	patience, cancel := context.WithTimeout(ctx, limit)
	var gaveUp error
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case gaveUp = <-said:
			cancel()
		case <-patience.Done():
		}
	}()
	err = s.drain(patience)
	cancel()
	<-watched
	if err != nil {
		return false, err
	}
	s.state = nil // it has the store, whose memory is to go
	if ctx.Err() != nil {
		return true, s.closeEngine()
	}
	access, err := s.Config.access()
	if err != nil {
		return false, err
	}
	if gaveUp == nil {
		if err := s.closeEngine(); err != nil {
			// The log has every session. The successor reads it from there.
			s.Log.Error("handing over", "err", err)
		}
		if gaveUp = b.peer.send(message{Op: opReleased}); gaveUp == nil {
			s.Log.Info("the folder is free for the other process", "pid", b.pid, "after", time.Since(start).Round(time.Millisecond))
			go debug.FreeOSMemory() // which the other one needs now
			select {
			case gaveUp = <-said:
			case <-ctx.Done():
				s.left(over)
				return true, nil
			}
		}
		if gaveUp == nil {
			s.Log.Info("handed over", "pid", b.pid, "after", time.Since(start).Round(time.Millisecond))
			s.left(over)
			return true, nil
		}
		switch err := s.reopenEngine(ctx); {
		case errors.Is(err, context.Canceled): // told to stop meanwhile; everything is on disk
			return true, nil
		case err != nil:
			return false, fmt.Errorf("process %d did not take over (%w), and the folder cannot be had back: %w", b.pid, gaveUp, err)
		}
	}
	s.Log.Warn("the other process did not take over; serving on", "pid", b.pid, "err", gaveUp, "after", time.Since(start).Round(time.Millisecond))
	over()
	if s.control.replaced() {
		s.closeControl(true)
		s.openControl()
	}
	s.serve(access)
	return false, nil
}

// left leaves the sockets' files to the successor.
func (s *Server) left(over func()) {
	for _, l := range s.listeners {
		if u, ok := l.Listener.(*net.UnixListener); ok {
			u.SetUnlinkOnClose(false)
		}
	}
	over()
	s.closeControl(true)
}
