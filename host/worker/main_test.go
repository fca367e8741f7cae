//go:build unix

package worker_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-session/holdfast"
	"github.com/holdfast-session/holdfast/host"
	"github.com/holdfast-session/holdfast/host/worker"
	"github.com/holdfast-session/holdfast/inproc"
	"github.com/holdfast-session/holdfast/logstore"
	"github.com/holdfast-session/holdfast/stateserver"
	"github.com/holdfast-session/holdfast/store"
)

// The test binary is its own worker: with this variable it is an application, whose
// sessions are where it says: "inproc" (with package worker), "plain" (without it),
// "folder DIR", or "state ADDRESS".
const roleVar = "HOLDFAST_WORKER_TEST_ROLE"

func TestMain(m *testing.M) {
	if role := os.Getenv(roleVar); role != "" {
		if err := application(role); err != nil {
			fmt.Fprintln(os.Stderr, "application:", err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

var (
	hits = holdfast.NewKey[int]("hits")
	conn = holdfast.NewLiveKey[*strings.Builder]("conn")
)

// application is a small web application with sessions.
func application(role string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	kind, where, _ := strings.Cut(role, " ")
	o := worker.Options{}
	if kind == "folder" {
		o.Folder = where
		o.Open = func(dir string) (store.Store, error) {
			return logstore.Open(dir, &logstore.Options{SegmentSize: 1 << 20})
		}
	}
	var st store.Store
	w := &worker.Worker{}
	switch kind {
	case "plain":
		st = inproc.New(nil)
	case "state":
		c, err := stateserver.Dial(where, nil)
		if err != nil {
			return err
		}
		st = c
	default:
		joined, err := worker.Join(&o)
		if err != nil {
			return err
		}
		w, st = joined, joined.Store()
	}
	sessions := holdfast.New(st, &holdfast.Options{AllowLiveKeys: true})
	mux := http.NewServeMux()
	mux.HandleFunc("/hit", func(rw http.ResponseWriter, r *http.Request) {
		s := holdfast.From(r)
		hits.Update(s, func(n int) int { return n + 1 })
		fmt.Fprint(rw, hits.Get(s))
	})
	mux.Handle("/merge", sessions.With(holdfast.Merge).Handler(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		hits.Update(holdfast.From(r), func(n int) int { return n + 1 })
	})))
	// A request that works on its session until somebody asks for /go on.
	goOn := make(chan struct{})
	for path, access := range map[string]holdfast.Access{"/slow": holdfast.Exclusive, "/slowmerge": holdfast.Merge} {
		mux.Handle(path, sessions.With(access).Handler(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			s := holdfast.From(r)
			n := hits.Get(s)
			fmt.Println("slow begins")
			<-goOn
			hits.Update(s, func(n int) int { return n + 1 })
			fmt.Fprint(rw, n, " ", hits.Get(s))
		})))
	}
	signalled := make(chan os.Signal, 1)
	signal.Notify(signalled, syscall.SIGUSR1)
	go func() {
		<-signalled
		close(goOn)
	}()
	mux.HandleFunc("/connect", func(rw http.ResponseWriter, r *http.Request) {
		s := holdfast.From(r)
		hits.Set(s, 1)
		conn.Set(s, new(strings.Builder))
	})
	mux.HandleFunc("/look", func(rw http.ResponseWriter, r *http.Request) {
		s := holdfast.From(r)
		lost := s.Lost()
		fmt.Fprintf(rw, "hits=%d connected=%t lost=%s", hits.Get(s), conn.Get(s) != nil, lost.Kind)
		if end, ok := w.Why(r.Context(), lost); ok {
			fmt.Fprintf(rw, " because of PID %d %s", end.PID, end)
		}
	})
	var sick atomic.Bool
	mux.HandleFunc("/sick", func(http.ResponseWriter, *http.Request) { sick.Store(true) })
	mux.HandleFunc("/healthz", func(rw http.ResponseWriter, r *http.Request) {
		if sick.Load() {
			<-r.Context().Done()
		}
	})
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", os.Getenv("PORT")))
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Worker", os.Getenv("HOLDFAST_WORKER"))
		rw.Header().Set("Worker-Pid", strconv.Itoa(os.Getpid()))
		sessions.Handler(mux).ServeHTTP(rw, r)
	})}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	if kind != "plain" && kind != "state" {
		if err := w.Ready(); err != nil {
			return err
		}
	}
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	err = errors.Join(srv.Shutdown(ctx), sessions.Close(ctx))
	if kind != "plain" && kind != "state" {
		err = errors.Join(err, w.Close(ctx))
	}
	return err
}

// A rig is a host that runs the application until the test ends.
type rig struct {
	*host.Host
	t   *testing.T
	url string
	out *lines
}

// newRig runs h with the application in a role.
func newRig(t *testing.T, role string, h *host.Host) *rig {
	t.Helper()
	r := run(t, role, h)
	srv := httptest.NewServer(h)
	t.Cleanup(func() {
		srv.CloseClientConnections()
		srv.Close()
	})
	r.url = srv.URL
	return r
}

// run is newRig without a server in front.
func run(t *testing.T, role string, h *host.Host) *rig {
	t.Helper()
	out := &lines{}
	h.Command = func(int) *exec.Cmd {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), roleVar+"="+role, "GORACE=atexit_sleep_ms=0")
		return cmd
	}
	h.Output = io.MultiWriter(out, testLog{t})
	h.Logger = slog.New(slog.NewTextHandler(testLog{t}, nil))
	if h.WaitTimeout == 0 {
		h.WaitTimeout = 30 * time.Second
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- h.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return &rig{Host: h, t: t, out: out}
}

// recycle recycles all workers and waits until the old ones are gone.
func (r *rig) recycle(why string) {
	r.t.Helper()
	before := len(r.Exits())
	if err := r.Recycle(r.t.Context(), 0, why); err != nil {
		r.t.Fatalf("Recycle: %v", err)
	}
	r.eventually("the old processes are gone", func() bool { return len(r.Exits()) >= before+max(r.Workers, 1) })
}

func (r *rig) eventually(what string, ok func() bool) {
	r.t.Helper()
	every := time.NewTicker(5 * time.Millisecond)
	defer every.Stop()
	deadline := time.After(30 * time.Second)
	for !ok() {
		select {
		case <-every.C:
		case <-deadline:
			r.t.Fatalf("did not come about: %s", what)
		}
	}
}

// A visitor has a cookie jar and, if a proxy is to say so, an address.
type visitor struct {
	r      *rig
	client *http.Client
	addr   string
}

func (r *rig) visitor() *visitor {
	jar, _ := cookiejar.New(nil)
	return &visitor{r: r, client: &http.Client{Jar: jar, Transport: shared}}
}

var shared = &http.Transport{MaxIdleConnsPerHost: 64}

// An answer is what a visitor sees.
type answer struct {
	status int
	worker string
	pid    int
	text   string
}

func (v *visitor) get(path string) (answer, error) {
	req, err := http.NewRequest("GET", v.r.url+path, nil)
	if err != nil {
		return answer{}, err
	}
	if v.addr != "" {
		req.Header.Set("X-Forwarded-For", v.addr)
	}
	resp, err := v.client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	pid, _ := strconv.Atoi(resp.Header.Get("Worker-Pid"))
	return answer{resp.StatusCode, resp.Header.Get("Worker"), pid, string(b)}, err
}

// ask is get of a page that has to be there.
func (v *visitor) ask(path string) answer {
	v.r.t.Helper()
	a, err := v.get(path)
	if err != nil || a.status != http.StatusOK {
		v.r.t.Fatalf("GET %s: %+v, %v", path, a, err)
	}
	return a
}

// lines collects what the workers print.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *lines) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *lines) count(text string) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return bytes.Count(o.buf.Bytes(), []byte(text))
}

// testLog is the host's log in the test's.
type testLog struct{ t *testing.T }

func (l testLog) Write(p []byte) (int, error) {
	l.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}
