package host_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-session/holdfast/host"
)

// The test binary is its own worker: with this variable it behaves as one.
const roleVar = "HOLDFAST_HOST_TEST_ROLE"

func TestMain(m *testing.M) {
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
	default:
		serve(role)
	}
}

// serve is a small web application.
func serve(role string) {
	if role == "stubborn" {
		signal.Ignore(syscall.SIGTERM)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Worker-Pid", strconv.Itoa(os.Getpid()))
		fmt.Fprintf(w, "host=%s\nquery=%s\nbody=%s\n", r.Host, r.URL.RawQuery, body)
		for _, name := range []string{"X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Port", "X-Real-Ip", "Forwarded"} {
			fmt.Fprintf(w, "%s=%s\n", name, r.Header.Get(name))
		}
	})
	mux.HandleFunc("/hang", func(_ http.ResponseWriter, r *http.Request) {
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
	mux.HandleFunc("/child", func(w http.ResponseWriter, _ *http.Request) {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), roleVar+"=sleeper")
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr // it holds the worker's output
		if err := cmd.Start(); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		fmt.Fprint(w, cmd.Process.Pid)
	})
	srv := &http.Server{Addr: "127.0.0.1:" + os.Getenv("PORT"), Handler: mux}
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
	srv.ListenAndServe()
	select {}
}

var stopping = make(chan struct{})

// runHost is a process with a host of its own, for the test that kills it.
func runHost() {
	h := &host.Host{Command: command("app"), Workers: 2, Output: os.Stdout, Logger: slog.New(slog.DiscardHandler)}
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
func (r *rig) pids(n int) []int {
	r.t.Helper()
	seen := map[int]bool{}
	eventually(r.t, fmt.Sprintf("%d workers answer", n), func() bool {
		if _, pid, _ := r.ask("GET", "/", ""); pid != 0 {
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
