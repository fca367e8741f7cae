package load

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-session/holdfast/inproc"
	"github.com/holdfast-session/holdfast/stateserver"
	"github.com/holdfast-session/holdfast/store"
)

// serve starts a state server and returns its store and address.
func serve(t *testing.T, exact bool) (*inproc.Store, string) {
	l, err := stateserver.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	st := inproc.New(&inproc.Options{CountCookies: exact})
	srv := &stateserver.Server{Store: st, Exact: exact, Logger: slog.New(slog.DiscardHandler)}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	t.Cleanup(func() {
		srv.Close()
		if err := <-done; !errors.Is(err, stateserver.ErrServerClosed) {
			t.Error(err)
		}
		st.Close()
	})
	return st, l.Addr().String()
}

func open(t *testing.T, addr string, o Options) *Sessions {
	t.Helper()
	o.Network, o.Address, o.App, o.Size = "tcp", addr, "/bench", 100
	s, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func mix(t *testing.T, text string) Mix {
	t.Helper()
	m, err := ParseMix(text)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func list(t *testing.T, st *inproc.Store) []store.Listed {
	t.Helper()
	var all []store.Listed
	for q := (store.Query{}); ; {
		page, next, err := st.List(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, page...)
		if next == "" {
			return all
		}
		q.After = next
	}
}

// run puts a mix on and returns what was measured, having checked what is so
// whatever was asked for.
func run(t *testing.T, st *inproc.Store, s *Sessions, m Mix) Result {
	t.Helper()
	res, err := s.Run(t.Context(), m, Config{Warmup: 5 * time.Millisecond, Duration: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if len(res.Ops) != len(m.uses()) {
		t.Errorf("%d kinds of requests, want %d", len(res.Ops), len(m.uses()))
	}
	for _, o := range res.Ops {
		if o.Latency.Count() == 0 {
			t.Errorf("no request to %s was counted", o.Name)
		}
	}
	for _, l := range list(t, st) {
		if l.Record.Locked {
			t.Errorf("%s is locked", l.ID.Session)
		}
	}
	return res
}

func TestSessions(t *testing.T) {
	for _, exact := range []bool{false, true} {
		st, addr := serve(t, exact)
		s := open(t, addr, Options{Connections: 3, Depth: 4, Count: 20})
		if s.Foreign() != exact {
			t.Errorf("foreign: %v", s.Foreign())
		}
		if err := s.Fill(t.Context()); err != nil {
			t.Fatal(err)
		}
		if all := list(t, st); len(all) != 20 {
			t.Errorf("%d sessions were created", len(all))
		}
		for _, text := range []string{"load", "lock+save", "load:3,lock+unlock,lock+save,create+touch+remove", "save,load+save"} {
			res := run(t, st, s, mix(t, text))
			if all := res.All(); all.Refused != 0 {
				t.Errorf("exact %v: %s: %d of %d were refused", exact, text, all.Refused, all.Latency.Count())
			}
			if res.RequestBytes < 100 || res.AnswerBytes < 50 {
				t.Errorf("%.0f bytes asked, %.0f answered", res.RequestBytes, res.AnswerBytes)
			}
		}
		if err := s.Remove(t.Context()); err != nil {
			t.Fatal(err)
		}
		if all := list(t, st); len(all) != 0 {
			t.Errorf("%d sessions were left", len(all))
		}
	}
}

// A lock that is taken over and over stays the connection's own, and goes with the
// session.
func TestLockAgain(t *testing.T) {
	st, addr := serve(t, false)
	s := open(t, addr, Options{Connections: 2, Depth: 2, Count: 4})
	if err := s.Fill(t.Context()); err != nil {
		t.Fatal(err)
	}
	res, err := s.Run(t.Context(), mix(t, "lock,load"), Config{Duration: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if all := res.All(); all.Refused != 0 || all.Latency.Count() == 0 {
		t.Errorf("%d of %d were refused", all.Refused, all.Latency.Count())
	}
	if err := s.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	if all := list(t, st); len(all) != 0 {
		t.Errorf("%d sessions were left", len(all))
	}
}

// All connections queue for one session, and each gets its turn.
func TestHot(t *testing.T) {
	st, addr := serve(t, false)
	s := open(t, addr, Options{Connections: 8, Depth: 1, Count: 8, Hot: 1, Wait: time.Minute})
	if err := s.Fill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if all := list(t, st); len(all) != 9 {
		t.Errorf("%d sessions were created", len(all))
	}
	res := run(t, st, s, mix(t, "lock+save"))
	if all := res.All(); all.Refused != 0 {
		t.Errorf("%d of %d were refused", all.Refused, all.Latency.Count())
	}
	if err := s.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	if all := list(t, st); len(all) != 0 {
		t.Errorf("%d sessions were left", len(all))
	}
}

// times is a driver that ends after so many rounds.
type times struct {
	Driver
	left int
}

func (d *times) Next(b []byte, _ bool) ([]byte, int) {
	d.left--
	return d.Driver.Next(b, d.left < 0)
}

// More under way, in both directions, than sockets have room for.
func TestLarge(t *testing.T) {
	_, addr := serve(t, false)
	const depth, rounds = 64, 3
	s, err := Open(t.Context(), Options{Network: "tcp", Address: addr, App: "/", Connections: 1, Depth: depth, Count: depth, Size: 128 << 10})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Fill(t.Context()); err != nil {
		t.Fatal(err)
	}
	c := s.conns[0]
	c.mix, c.index = mix(t, "load,save"), [len(opNames)]int{opLoad: 0, opSave: 1}
	res, err := Run(t.Context(), Config{Dial: s.dial, Drivers: []Driver{&times{c, rounds}}, Ops: []string{"load", "save"}})
	if err != nil {
		t.Fatal(err)
	}
	if all := res.All(); all.Latency.Count() != depth*rounds || all.Refused != 0 {
		t.Errorf("%d answers, %d refused", all.Latency.Count(), all.Refused)
	}
}

func TestProgress(t *testing.T) {
	_, addr := serve(t, false)
	s := open(t, addr, Options{Connections: 1, Depth: 1, Count: 1})
	if err := s.Fill(t.Context()); err != nil {
		t.Fatal(err)
	}
	var seen []time.Duration
	var counts []uint64
	_, err := s.Run(t.Context(), mix(t, "load"), Config{Duration: 100 * time.Millisecond, Every: 20 * time.Millisecond,
		Progress: func(r Result) {
			all := r.All()
			seen, counts = append(seen, r.Elapsed), append(counts, all.Latency.Count())
		}})
	if err != nil {
		t.Fatal(err)
	}
	if len(seen) == 0 || len(seen) > 5 {
		t.Errorf("progress at %v", seen)
	}
	for i := 1; i < len(counts); i++ {
		if counts[i] < counts[i-1] {
			t.Errorf("counts %v", counts)
		}
	}
}

func TestCancelled(t *testing.T) {
	_, addr := serve(t, false)
	s := open(t, addr, Options{Connections: 2, Depth: 1, Count: 2})
	if err := s.Fill(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	_, err := s.Run(ctx, mix(t, "load"), Config{Duration: time.Hour, Every: time.Millisecond, Progress: func(Result) { cancel() }})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

// say is a server that answers whatever comes with one text, and hangs up.
func say(t *testing.T, text string) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			io.ReadAtLeast(nc, make([]byte, 4096), 1)
			io.WriteString(nc, text)
			nc.Close()
		}
	}()
	return l.Addr().String()
}

func TestStrangers(t *testing.T) {
	for text, want := range map[string]string{
		"": "without an answer",
		"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n": "name a token",
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi":         "answered 200: hi",
		"+OK\r\n\r\n": "no state server",
	} {
		_, err := Open(t.Context(), Options{Network: "tcp", Address: say(t, text), Connections: 1, Depth: 1, Count: 1})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func TestTooFewSessions(t *testing.T) {
	if _, err := Open(t.Context(), Options{Connections: 4, Depth: 2, Count: 7}); err == nil || !strings.Contains(err.Error(), "too few") {
		t.Error(err)
	}
}

// The kernel's figures of this very process.
func TestProcess(t *testing.T) {
	if runtime.GOOS != "linux" {
		if _, err := CPUTime(os.Getpid()); err != errNoProc {
			t.Error(err)
		}
		return
	}
	before, err := CPUTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for begin := time.Now(); time.Since(begin) < 20*time.Millisecond; {
	}
	after, err := CPUTime(os.Getpid())
	if err != nil || after <= before {
		t.Errorf("processor time %v, then %v, %v", before, after, err)
	}
	if n, err := Resident(os.Getpid()); n < 1<<20 || err != nil {
		t.Errorf("resident %d, %v", n, err)
	}
	if _, err := CPUTime(1 << 30); err == nil {
		t.Error("a process that is not there has processor time")
	}

	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	path := filepath.Join(t.TempDir(), "s")
	unix, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close()
	for _, l := range []net.Listener{tcp, unix} {
		a := l.Addr()
		if pid, err := ListenerPID(a.Network(), a.String()); pid != os.Getpid() || err != nil {
			t.Errorf("%s: process %d, %v", a, pid, err)
		}
		l.Close()
		if _, err := ListenerPID(a.Network(), a.String()); err != ErrNoProcess {
			t.Errorf("%s, closed: %v", a, err)
		}
	}
	if _, err := ListenerPID("tcp", "192.0.2.1:80"); err != ErrNoProcess {
		t.Errorf("another machine: %v", err)
	}
}
