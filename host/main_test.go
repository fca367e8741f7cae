package host_test

import (
	"bytes"
	"context"
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

	"github.com/holdfast-session/holdfast/host"
)

// The test binary is its own worker: with this variable it behaves as one.
const roleVar = "HOLDFAST_HOST_TEST_ROLE"

func TestMain(m *testing.M) {
	if run := roles[os.Getenv(roleVar)]; run != nil {
		run()
		return
	}
	switch role := os.Getenv(roleVar); role {
	case "":
		os.Exit(m.Run())
	case "early":
		fmt.Println("ending early")
		os.Exit(3)
	case "deaf":
		select {}
	case "host":
		runHost()
	case "sleeper":
		select {}
	case "flood":
		flood()
	default:
		serve(role)
	}
}

// flood prints lines as fast as they are taken, some of them without an end.
func flood() {
	long := bytes.Repeat([]byte("x"), 1<<20)
	for {
		os.Stdout.Write(long)
		for range 1000 {
			fmt.Println("a line of a flood, one of very many that nobody wants to read")
		}
	}
}

// serve is a small web application.
func serve(role string) {
	if role == "stubborn" {
		signal.Ignore(syscall.SIGTERM)
	}
	if role == "slowstart" {
		fmt.Println("starting slowly")
		for range time.Tick(5 * time.Millisecond) {
			if text, _ := os.ReadFile(os.Getenv(watchedVar)); string(text) == "second" {
				break
			}
		}
	}
	mux := http.NewServeMux()
	proxyPages(mux)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "host=%s\nquery=%s\nbody=%s\n", r.Host, r.URL.RawQuery, body)
		for _, name := range []string{"X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Port", "X-Real-Ip", "Forwarded"} {
			fmt.Fprintf(w, "%s=%s\n", name, r.Header.Get(name))
		}
	})
	mux.HandleFunc("/hang", func(_ http.ResponseWriter, r *http.Request) {
		if r.FormValue("leak") != "" {
			go leak()
		}
		fmt.Println("hanging")
		<-r.Context().Done()
	})
	mux.HandleFunc("/begin", func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "the first part")
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	mux.HandleFunc("/slow", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Println("slow begins")
		<-stopping
		io.WriteString(w, "finished")
	})
	mux.HandleFunc("/abort", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	mux.HandleFunc("/exit", func(http.ResponseWriter, *http.Request) {
		fmt.Fprint(os.Stderr, "the last words")
		os.Exit(4)
	})
	var sick atomic.Bool
	mux.HandleFunc("/sick", func(http.ResponseWriter, *http.Request) { sick.Store(true) })
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, r *http.Request) {
		if sick.Load() {
			<-r.Context().Done()
		}
	})
	mux.HandleFunc("/hog", func(_ http.ResponseWriter, r *http.Request) {
		mib, _ := strconv.Atoi(r.FormValue("mib"))
		hogOnce.Do(func() { hog(mib) })
	})
	mux.HandleFunc("/child", func(w http.ResponseWriter, r *http.Request) {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), roleVar+"=sleeper")
		if r.FormValue("leave") != "" {
			leaveGroup(cmd)
		}
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr // it holds the worker's output
		if err := cmd.Start(); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		fmt.Fprint(w, cmd.Process.Pid)
	})
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Worker-Pid", strconv.Itoa(os.Getpid()))
		mux.ServeHTTP(w, r)
	})}
	if role != "stubborn" {
		term := make(chan os.Signal, 1)
		signal.Notify(term, syscall.SIGTERM)
		go func() {
			<-term
			close(stopping)
			srv.Shutdown(context.Background())
			os.Exit(0)
		}()
	}
	fmt.Println("serving as worker", os.Getenv("HOLDFAST_WORKER"))
	if role == "talker" || role == "mute" {
		link := sayHello()
		if role == "talker" {
			go talk(link)
		}
	}
	l, err := listen()
	if err != nil {
		fmt.Println(err)
		os.Exit(2)
	}
	srv.Serve(l)
	select {}
}

// listen takes the socket that was passed on, or the port that was named.
func listen() (net.Listener, error) {
	if os.Getenv("LISTEN_PID") == strconv.Itoa(os.Getpid()) && os.Getenv("LISTEN_FDS") == "1" {
		return net.FileListener(os.NewFile(3, "socket"))
	}
	return net.Listen("tcp", "127.0.0.1:"+os.Getenv("PORT"))
}

// leak uses up memory, some 100 MiB in a second.
func leak() {
	for range time.Tick(10 * time.Millisecond) {
		hog(1)
	}
}

var (
	hogOnce sync.Once
	hogged  [][]byte
)

// hog keeps memory.
func hog(mib int) {
	if raceDetector { // which keeps as much for itself
		mib = (mib + 1) / 2
	}
	b := make([]byte, mib<<20)
	for i := 0; i < len(b); i += 4096 { // a page at least is that
		b[i] = 1
	}
	hogged = append(hogged, b)
}

var stopping = make(chan struct{})

// watchedVar names a file that a worker which starts slowly waits for.
const watchedVar = "HOLDFAST_HOST_TEST_WATCHED"

// Variables of a host that is a process of its own.
const (
	listenVar  = "HOLDFAST_HOST_TEST_LISTEN"
	journalVar = "HOLDFAST_HOST_TEST_JOURNAL"
)

// runHost is such a process, for tests that kill it.
func runHost() {
	h := &host.Host{
		Command: command("app"), Workers: 2, JournalFile: os.Getenv(journalVar),
		Health: host.Health{Path: "/healthz"}, Watch: host.Watch{Paths: []string{os.Args[0]}},
		Output: os.Stdout, Logger: slog.New(slog.DiscardHandler),
	}
	if addr := os.Getenv(listenVar); addr != "" {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			fmt.Println(err)
			os.Exit(2)
		}
		go h.Serve(context.Background(), l)
	}
	fmt.Println(h.Run(context.Background()))
}

func command(role string) func(int) *exec.Cmd {
	return func(int) *exec.Cmd {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), roleVar+"="+role, "GORACE=atexit_sleep_ms=0")
		return cmd
	}
}

// output collects lines and lets tests wait for them.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// eventually polls until ok, or fails the test.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	every := time.NewTicker(5 * time.Millisecond)
	defer every.Stop()
	deadline := time.After(20 * time.Second)
	for !ok() {
		select {
		case <-every.C:
		case <-deadline:
			t.Fatalf("did not come about: %s", what)
		}
	}
}

// A rig is a host that runs behind a server, until the test ends.
type rig struct {
	*host.Host
	t      *testing.T
	url    string
	out    *output
	client *http.Client
	stop   func() error // stops the host, once
}

func newRig(t *testing.T, h *host.Host) *rig {
	t.Helper()
	out := &output{}
	if h.Output == nil {
		h.Output = out
	}
	h.Logger = slog.New(slog.NewTextHandler(testLog{t}, nil))
	srv := httptest.NewServer(h)
	jar, _ := cookiejar.New(nil)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.Run(ctx) }()
	stop := sync.OnceValue(func() error { cancel(); return <-done })
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
		srv.CloseClientConnections()
		srv.Close()
	})
	return &rig{h, t, srv.URL, out, &http.Client{Jar: jar, Transport: &http.Transport{}}, stop}
}

// ask makes a request and returns the status, the worker's PID and the body.
func (r *rig) ask(method, path, body string) (status, pid int, text string) {
	r.t.Helper()
	req, err := http.NewRequest(method, r.url+path, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	resp, err := r.client.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	pid, _ = strconv.Atoi(resp.Header.Get("Worker-Pid"))
	return resp.StatusCode, pid, string(b)
}

// pids asks until n workers have answered.
func (r *rig) pids(n int) []int { return r.each(n, "/") }

// each asks for path until n workers have answered.
func (r *rig) each(n int, path string) []int {
	r.t.Helper()
	seen := map[int]bool{}
	eventually(r.t, fmt.Sprintf("%d workers answer", n), func() bool {
		if _, pid, _ := r.ask("GET", path, ""); pid != 0 {
			seen[pid] = true
		}
		return len(seen) >= n
	})
	var all []int
	for pid := range seen {
		all = append(all, pid)
	}
	return all
}

// testLog is the host's log in the test's.
type testLog struct{ t *testing.T }

func (l testLog) Write(p []byte) (int, error) {
	l.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}
