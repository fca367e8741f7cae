package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// The test binary is the program itself where this variable is set, so that the
// tests run real processes.
const programVar = "HOLDFAST_TEST_PROGRAM"

// The test binary is a web application where this variable is set.
const appVar = "HOLDFAST_TEST_APP"

func application() {
	fmt.Println("application begins")
	http.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, os.Getpid()) })
	fmt.Println(http.ListenAndServe("127.0.0.1:"+os.Getenv("PORT"), nil))
	os.Exit(1)
}

func TestMain(m *testing.M) {
	if os.Getenv(appVar) != "" {
		application()
	}
	if os.Getenv(programVar) != "" {
		os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

// A program is a running holdfast.
type program struct {
	t      *testing.T
	cmd    *exec.Cmd
	stdout *output
	stderr *output
	ended  chan struct{}
	err    error // of Wait, once ended is closed
}

// start starts holdfast. It is killed at the end of the test, if it is still there.
func start(t *testing.T, args ...string) *program {
	t.Helper()
	return startWith(t, nil, args...)
}

// startWith is start for a process whose command set changes before it runs. Without
// --data or --memory it keeps its state in a folder of its own.
func startWith(t *testing.T, set func(*exec.Cmd), args ...string) *program {
	t.Helper()
	p := &program{t: t, cmd: exec.Command(os.Args[0], args...), stdout: &output{}, stderr: &output{}, ended: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), programVar+"=1", "GORACE=atexit_sleep_ms=0", "STATE_DIRECTORY="+t.TempDir())
	if set != nil {
		set(p.cmd)
	}
	p.cmd.Stdout, p.cmd.Stderr = p.stdout, p.stderr
	p.cmd.WaitDelay = 5 * time.Second
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.ended)
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.ended
		if t.Failed() {
			t.Logf("holdfast %s\n%s%s", strings.Join(args, " "), p.stdout, p.stderr)
		}
	})
	return p
}

// ready waits for the line that begins with prefix and returns its rest.
func (p *program) ready(prefix string) string {
	p.t.Helper()
	var rest string
	eventually(p.t, prefix, func() bool {
		select {
		case <-p.ended:
			p.t.Fatalf("it ended: %v", p.err)
		default:
		}
		for line := range strings.Lines(p.stdout.String()) {
			if after, ok := strings.CutPrefix(line, prefix); ok && strings.HasSuffix(after, "\n") {
				rest = strings.TrimSpace(after)
				return true
			}
		}
		return false
	})
	return rest
}

// wait returns the exit status.
func (p *program) wait() int {
	p.t.Helper()
	select {
	case <-p.ended:
	case <-time.After(30 * time.Second):
		p.t.Fatal("it does not end")
	}
	return p.cmd.ProcessState.ExitCode()
}

// logs waits for its log to have text.
func (p *program) logs(text string) {
	p.t.Helper()
	eventually(p.t, "in the log: "+text, func() bool {
		select {
		case <-p.ended:
			if !strings.Contains(p.stderr.String(), text) {
				p.t.Fatalf("it ended (%v) without %q in its log", p.err, text)
			}
		default:
		}
		return strings.Contains(p.stderr.String(), text)
	})
}

// signal sends it a signal.
func (p *program) signal(s os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// kill kills it and returns when it is gone, and with it whoever still wrote to its output.
func (p *program) kill() {
	p.t.Helper()
	if err := p.cmd.Process.Kill(); err != nil {
		p.t.Fatal(err)
	}
	<-p.ended
}

// stop stops it by SIGTERM and wants it to end well.
func (p *program) stop() {
	p.t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		p.t.Fatal(err)
	}
	if status := p.wait(); status != 0 {
		p.t.Errorf("exit status %d (%v) after SIGTERM", status, p.err)
	}
}

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
	every := time.NewTicker(10 * time.Millisecond)
	defer every.Stop()
	deadline := time.After(30 * time.Second)
	for !ok() {
		select {
		case <-every.C:
		case <-deadline:
			t.Fatalf("did not come about: %s", what)
		}
	}
}

func TestVersion(t *testing.T) {
	var out, errs bytes.Buffer
	if status := run([]string{"version"}, &out, &errs); status != 0 {
		t.Errorf("status %d, %s", status, &errs)
	}
	if !regexp.MustCompile(`^holdfast \S.* \(go\S+, \w+/\w+\)\n$`).MatchString(out.String()) {
		t.Errorf("version: %q", &out)
	}
}

func TestMistakesOnTheCommandLine(t *testing.T) {
	for _, c := range []struct{ args, want string }{
		{"surf", `unknown command "surf"`},
		{"serve now", `unknown command "now"`},
		{"sessions lsit", `holdfast sessions has no command "lsit"; it has list, show, end`},
		{"sql instal", `holdfast sql has no command "instal"; it has install, export, status, sweep, remove`},
		{"serve --listen 42424", "--listen 42424"},
		{"serve --sync perhaps", "there is always, interval and never"},
		{"serve --memory --listen 0.0.0.0:0", "listen on 127.0.0.1, or give the applications tokens"},
		{"serve --memory --listen 127.0.0.1:0 --admin 0.0.0.0:0", "use 127.0.0.1, or add --admin-remote"},
		{"serve --memory --takeover", "sessions in memory cannot be handed over"},
		{"serve --memory --verbose --log-level info", "none of the others can be"},
		{"serve --config /no/such/file", "/no/such/file"},
		{"serve --check --memory --tls-cert /no/a --tls-key /no/b", "the certificate or its key cannot be read"},
		{"serve --check --memory --listen :0", "can be reached from other machines"},
		{"token", "NAME, what the server's log calls the application, is missing; write holdfast token NAME"},
		{"token shop bank", `"bank" is too much`},
		{"webconfig", "FILE, the application's web.config, is missing"},
		{"token shop --right all", "there is read, write and admin"},
		{"token shop --right admin --app shop", "for all applications"},
		{"health --memory", "no admin listener to ask"},
		{"health --admin 127.0.0.1:1", "nothing answers on 127.0.0.1:1"},
		{"sessions list --server nowhere", "--server nowhere"},
		{"sessions list --server 127.0.0.1:1", "no state server can be reached on 127.0.0.1:1"},
		{"sessions show", "HASH, the beginning of a session's hash as holdfast sessions list prints it, is missing"},
		{"sessions show xyz", "the first 4 digits or more"},
		{"sessions end", "Name them, or write --subject, --app or --all"},
		{"sessions end abcd --all", "leave it or the names out"},
		{"demo --mode sql", "--mode sql: there is inproc and stateserver"},
		{"demo --workers 100", "from 1 to 64"},
		{"demo --timeout 1ms", "at least a second"},
		{"demo-worker", "run that instead"},
	} {
		t.Run(c.args, func(t *testing.T) {
			var out, errs bytes.Buffer
			if status := run(strings.Fields(c.args), &out, &errs); status != 1 {
				t.Errorf("status %d", status)
			}
			if !strings.HasPrefix(errs.String(), "holdfast: ") || !strings.Contains(errs.String(), c.want) {
				t.Errorf("said %q, want %q", errs.String(), c.want)
			}
		})
	}
}

// A browser, as far as the demo needs one.
type browser struct {
	t    *testing.T
	base string
	http *http.Client
}

func open(t *testing.T, base string) *browser {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &browser{t, strings.TrimSuffix(base, "/"), &http.Client{Jar: jar, Transport: &http.Transport{}, Timeout: 30 * time.Second}}
}

// A page of the shop.
type page struct {
	t    *testing.T
	text string
}

func (b *browser) read(resp *http.Response, err error) page {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK {
		b.t.Fatalf("%s: %s\n%s", resp.Request.URL, resp.Status, text)
	}
	return page{b.t, string(text)}
}

func (b *browser) get(path string) page {
	b.t.Helper()
	return b.read(b.http.Get(b.base + path))
}

func (b *browser) post(path string, pairs ...string) page {
	b.t.Helper()
	form := url.Values{}
	for i := 0; i < len(pairs); i += 2 {
		form.Set(pairs[i], pairs[i+1])
	}
	return b.read(b.http.PostForm(b.base+path, form))
}

// kill presses the button of p.
func (b *browser) kill(p page) page {
	b.t.Helper()
	return b.post("/kill", "pid", fmt.Sprint(p.pid()), "back", "/cart")
}

// find returns what the first group of the pattern matches.
func (p page) find(pattern string) string {
	p.t.Helper()
	m := regexp.MustCompile(pattern).FindStringSubmatch(p.text)
	if m == nil {
		p.t.Fatalf("no %s on the page:\n%s", pattern, p.text)
	}
	return m[1]
}

func (p page) number(pattern string) (n int) {
	p.t.Helper()
	if _, err := fmt.Sscan(p.find(pattern), &n); err != nil {
		p.t.Fatal(err)
	}
	return n
}

func (p page) pid() int        { p.t.Helper(); return p.number(`id="pid">(\d+)<`) }
func (p page) articles() int   { p.t.Helper(); return p.number(`id="cart-count">(\d+)<`) }
func (p page) session() string { p.t.Helper(); return p.find(`id="session">(?:<code>)?([^<]+)<`) }

func (p page) says(texts ...string) {
	p.t.Helper()
	for _, text := range texts {
		if !strings.Contains(p.text, text) {
			p.t.Errorf("the page lacks %q:\n%s", text, p.text)
		}
	}
}
