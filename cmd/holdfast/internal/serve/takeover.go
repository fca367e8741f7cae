package serve

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"
)

// A new process takes the listeners and the data folder from the one that serves now,
// through a socket in the folder, which only this user can open:
//
//	new  takeover    who it is; it has read and checked its configuration
//	old  listeners   their names, and their descriptors beside the message
//	new  release     it has every listener it wants; nothing else can go wrong but
//	                 the folder
//	old  released    it has finished its requests, closed the store and left the folder
//	new  serving     it has opened the folder and accepts connections
//
// Connections that come in between wait in the listeners' queues, which both have. If
// the dialog ends before its last line, the old process opens the folder again and
// goes on: it ends only when the new one is known to serve.
const (
	opTakeover  = "takeover"
	opListeners = "listeners"
	opRelease   = "release"
	opReleased  = "released"
	opServing   = "serving"
	opRefused   = "refused"
)

// A message is one line of the dialog, in JSON.
type message struct {
	Op        string   `json:"op"`
	PID       int      `json:"pid,omitempty"`
	Version   string   `json:"version,omitempty"`
	Listeners []handed `json:"listeners,omitempty"` // in the order of the descriptors
	Error     string   `json:"error,omitempty"`
	// Within is how long all of it may take, in nanoseconds.
	Within time.Duration `json:"within,omitempty"`
}

// A handed is what is said about a listener that is handed over.
type handed struct {
	Role string `json:"role"`
	Name string `json:"name"`
}

const (
	maxMessage   = 64 << 10
	answerWithin = 5 * time.Second // of an answer that needs no work
)

// A peer is one end of the dialog. It may be closed while somebody receives.
type peer struct {
	conn *net.UnixConn
	in   []byte

	mu     sync.Mutex
	closed bool
	files  []*os.File // received and not asked for yet
}

func (p *peer) close() {
	p.conn.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	p.drop()
}

// keep remembers files that were received.
func (p *peer) keep(files []*os.File) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.files = append(p.files, files...)
	if p.closed {
		p.drop()
	}
}

// drop closes the files. Called with mu held.
func (p *peer) drop() {
	for _, f := range p.files {
		f.Close()
	}
	p.files = nil
}

// send writes m, with the descriptors of files beside it.
func (p *peer) send(m message, files ...*os.File) error {
	line, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if err := p.conn.SetWriteDeadline(time.Now().Add(answerWithin)); err != nil {
		return err
	}
	return writeFiles(p.conn, append(line, '\n'), files)
}

// receive reads the next message, and wants it to be op.
func (p *peer) receive(op string) (message, error) {
	for {
		if line, rest, ok := strings.Cut(string(p.in), "\n"); ok {
			p.in = []byte(rest)
			var m message
			if err := json.Unmarshal([]byte(line), &m); err != nil {
				return m, fmt.Errorf("it does not speak as a holdfast does: %w", err)
			}
			switch m.Op {
			case op:
				return m, nil
			case opRefused:
				return m, errors.New(m.Error)
			}
			return m, fmt.Errorf("it says %q where %q is expected", m.Op, op)
		}
		if len(p.in) > maxMessage {
			return message{}, errors.New("its message has no end")
		}
		buf := make([]byte, 4096)
		n, files, err := readFiles(p.conn, buf)
		p.in = append(p.in, buf[:max(n, 0)]...) // n is -1 on errors
		p.keep(files)
		if n == 0 && err == nil {
			err = io.EOF
		}
		if err != nil {
			return message{}, err
		}
	}
}

// An errNobody means that there is nobody to take over from.
var errNobody = errors.New("nobody serves this folder")

// A succession is a takeover as the new process sees it.
type succession struct {
	peer      *peer
	pid       int
	version   string
	listeners []*listener
	until     time.Time
}

// succeed asks the process that serves the folder of the control socket at path for its
// listeners. It goes on serving. The error is errNobody if there is none.
func succeed(ctx context.Context, path string, limit time.Duration, version string) (*succession, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return nil, errNobody
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("taking over: this user may not ask the server that has the folder; run this as the user that it runs as: %w", err)
	case err != nil:
		return nil, err
	}
	s := &succession{peer: &peer{conn: conn.(*net.UnixConn)}, until: time.Now().Add(limit)}
	fail := func(err error) (*succession, error) {
		s.peer.close()
		closeAll(s.listeners)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			err = fmt.Errorf("it does not answer within %s", limit)
		}
		return nil, fmt.Errorf("taking over: the process that serves now does not hand over, and goes on: %w", err)
	}
	if err := conn.SetReadDeadline(s.until); err != nil {
		return fail(err)
	}
	if err := s.peer.send(message{Op: opTakeover, PID: os.Getpid(), Version: version, Within: limit}); err != nil {
		return fail(err)
	}
	m, err := s.peer.receive(opListeners)
	if err != nil {
		return fail(err)
	}
	s.pid, s.version = m.PID, m.Version
	if len(m.Listeners) != len(s.peer.files) {
		return fail(fmt.Errorf("it names %d listeners and hands %d over", len(m.Listeners), len(s.peer.files)))
	}
	for i, h := range m.Listeners {
		l, err := net.FileListener(s.peer.files[i])
		if err != nil {
			return fail(err)
		}
		if u, ok := l.(*net.UnixListener); ok {
			u.SetUnlinkOnClose(false) // until it is ours
		}
		s.listeners = append(s.listeners, &listener{l, h.Role, h.Name})
	}
	return s, nil
}

// release makes the old process let the folder go, and returns when it has. If ctx
// ends before, the old one keeps it.
func (s *succession) release(ctx context.Context) error {
	defer context.AfterFunc(ctx, func() { s.peer.conn.Close() })()
	err := s.peer.send(message{Op: opRelease})
	if err == nil {
		_, err = s.peer.receive(opReleased)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = errors.New("it did not let the folder go in time")
	}
	if err != nil {
		return fmt.Errorf("taking over from process %d: %w; it goes on serving", s.pid, err)
	}
	return nil
}

// serving lets the old process end.
func (s *succession) serving() error {
	defer s.peer.close()
	return s.peer.send(message{Op: opServing, PID: os.Getpid()})
}

// cancel leaves everything to the old process.
func (s *succession) cancel() { s.peer.close() }

// A control is the socket through which a successor asks.
type control struct {
	l        *net.UnixListener
	path     string
	file     fs.FileInfo // at path, when it was made
	log      *slog.Logger
	requests chan *bequest // one at a time
	done     sync.WaitGroup
	closing  chan struct{}
}

// A bequest is a takeover as the old process sees it. The successor has asked, and
// waits for the listeners.
type bequest struct {
	peer    *peer
	pid     int
	version string
	within  time.Duration // how long the successor is ready to wait; 0 if it does not say
	over    chan struct{} // closed when the process that serves is done with it
}

// newControl listens at path. Whoever has the folder may replace what is there.
func newControl(path string, log *slog.Logger) (*control, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, err
	}
	file, err := os.Lstat(path)
	if err != nil {
		l.Close()
		return nil, err
	}
	c := &control{l: l, path: path, file: file, log: log, requests: make(chan *bequest), closing: make(chan struct{})}
	c.done.Go(c.accept)
	return c, nil
}

// replaced reports whether the socket's file is another's by now.
func (c *control) replaced() bool {
	file, err := os.Lstat(c.path)
	return err != nil || !os.SameFile(file, c.file)
}

// accept reads what those who connect ask for, one after the other.
func (c *control) accept() {
	for {
		conn, err := c.l.AcceptUnix()
		if err != nil {
			if !errors.Is(err, net.ErrClosed) {
				c.log.Error("nobody can take over from this process any more", "err", err)
			}
			return
		}
		p := &peer{conn: conn}
		stop := make(chan struct{})
		c.done.Go(func() { // a peer that says nothing must not keep close waiting
			select {
			case <-c.closing:
				conn.SetReadDeadline(time.Now())
			case <-stop:
			}
		})
		conn.SetReadDeadline(time.Now().Add(answerWithin))
		m, err := p.receive(opTakeover)
		close(stop)
		if err != nil {
			if len(p.in) > 0 || !errors.Is(err, io.EOF) { // else somebody looked whether we are here
				c.log.Warn("somebody asked for something else than to take over", "err", err)
			}
			_ = p.send(message{Op: opRefused, Error: "this process knows takeover only"})
			p.close()
			continue
		}
		b := &bequest{peer: p, pid: m.PID, version: m.Version, within: m.Within, over: make(chan struct{})}
		select {
		case c.requests <- b:
			<-b.over
		case <-c.closing:
			_ = p.send(message{Op: opRefused, PID: os.Getpid(), Error: "it is about to end by itself"})
		}
		p.close()
	}
}

// close stops listening. If keep is set the socket's file stays, because it is
// another's.
func (c *control) close(keep bool) {
	c.l.SetUnlinkOnClose(!keep)
	close(c.closing)
	c.l.Close()
	c.done.Wait()
}

// hand gives the listeners over and returns when the successor wants the folder. On
// an error it has given up, and nothing has changed.
func (b *bequest) hand(all []*listener, version string) error {
	m := message{Op: opListeners, PID: os.Getpid(), Version: version}
	var files []*os.File
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	for _, l := range all {
		f, err := l.file()
		if err != nil {
			return err
		}
		files = append(files, f)
		m.Listeners = append(m.Listeners, handed{l.role, l.name})
	}
	if err := b.peer.send(m, files...); err != nil {
		return err
	}
	b.peer.conn.SetReadDeadline(time.Now().Add(answerWithin))
	_, err := b.peer.receive(opRelease)
	return err
}

// await returns a channel that tells when the successor serves (nil) or has given up.
func (b *bequest) await() <-chan error {
	b.peer.conn.SetReadDeadline(time.Time{})
	said := make(chan error, 1)
	go func() {
		_, err := b.peer.receive(opServing)
		said <- err
	}()
	return said
}

// file returns another descriptor of the listener.
func (l *listener) file() (*os.File, error) {
	f, ok := l.Listener.(interface{ File() (*os.File, error) })
	if !ok {
		return nil, fmt.Errorf("%s cannot be handed over", l.name)
	}
	return f.File()
}
