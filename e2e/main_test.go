package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-session/holdfast"
	"github.com/holdfast-session/holdfast/stateserver"
)

// patience is how long anything here may take that waits for nobody.
const patience = 30 * time.Second

// This test binary is also the web applications that the tests run as processes of
// their own: HOLDFAST_E2E_APP names one, HOLDFAST_E2E_STATE its state server.
var apps = map[string]func(m *holdfast.Manager) http.Handler{
	"shop": shop,
	"old":  oldBinary,
	"new":  newBinary,
}

func TestMain(m *testing.M) {
	app := os.Getenv("HOLDFAST_E2E_APP")
	if app == "" {
		code := m.Run()
		os.RemoveAll(programDir)
		os.Exit(code)
	}
	if err := serve(apps[app]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// serve is the main of such an application. It ends when its standard input does.
func serve(app func(*holdfast.Manager) http.Handler) error {
	s, err := stateserver.Dial(os.Getenv("HOLDFAST_E2E_STATE"), nil)
	if err != nil {
		return err
	}
	defer s.Close()
	m := holdfast.New(s, &holdfast.Options{
		LockTimeout: lockTimeout,
		OnError:     func(_ context.Context, err error) { fmt.Fprintln(os.Stderr, err) },
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: app(m)}
	go server.Serve(l)
	fmt.Println("ready on", l.Addr())
	io.Copy(io.Discard, os.Stdin)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := server.Shutdown(ctx); err != nil {
		return err
	}
	return m.Close(ctx)
}

// lockTimeout is so short because the tests wait for it.
const lockTimeout = time.Second

// A process is a program that runs until its test ends.
type process struct {
	t    testing.TB
	cmd  *exec.Cmd
	in   io.Closer
	addr string // where it listens
	once sync.Once
}

// start runs a program and waits for the line by which it says where it listens.
func start(t testing.TB, cmd *exec.Cmd) *process {
	t.Helper()
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &process{t: t, cmd: cmd, in: in}
	t.Cleanup(p.stop)
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("%s did not start: %v", cmd, err)
	}
	_, p.addr, _ = strings.Cut(strings.TrimSpace(line), "ready on ")
	return p
}

// stop ends the program in good order.
func (p *process) stop() {
	p.once.Do(func() {
		p.in.Close()
		kill := time.AfterFunc(patience, func() { p.cmd.Process.Kill() })
		defer kill.Stop()
		if err := p.cmd.Wait(); err != nil {
			p.t.Errorf("%s: %v", p.cmd, err)
		}
	})
}

// kill ends it as kill -9 does.
func (p *process) kill() {
	p.once.Do(func() {
		p.cmd.Process.Kill()
		p.cmd.Wait()
	})
}

// worker starts one of the apps.
func worker(t testing.TB, app, state string) *process {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), "HOLDFAST_E2E_APP="+app, "HOLDFAST_E2E_STATE="+state)
	return start(t, cmd)
}

var programDir string

// program is the holdfast command, built once, into programDir.
var program = sync.OnceValues(func() (path string, err error) {
	if programDir, err = os.MkdirTemp("", "holdfast-e2e"); err != nil {
		return "", err
	}
	path = filepath.Join(programDir, "holdfast")
	if runtime.GOOS == "windows" {
		path += ".exe"
	}
	cmd := exec.Command("go", "build", "-o", path, "./cmd/holdfast")
	cmd.Dir = ".."
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return path, nil
})

// stateServer starts holdfast serve.
func stateServer(t testing.TB) *process {
	t.Helper()
	path, err := program()
	if err != nil {
		t.Fatal(err)
	}
	return start(t, exec.Command(path, "serve", "--memory", "--listen", "127.0.0.1:0", "--until-stdin-ends"))
}

// A visitor has a browser: it keeps cookies, and sends them to all workers alike.
type visitor struct {
	t      testing.TB
	client *http.Client
}

func newVisitor(t testing.TB) *visitor {
	jar, err := cookiejar.New(nil) // does not look at ports
	if err != nil {
		t.Fatal(err)
	}
	return &visitor{t, &http.Client{Jar: jar, Timeout: patience}}
}

// try asks a worker for a page.
func (v *visitor) try(addr, path string) (status int, body string, err error) {
	res, err := v.client.Post("http://"+addr+path, "text/plain", nil)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return res.StatusCode, string(b), err
}

// cookies are the visitor's at addr, and send makes them what they were.
func (v *visitor) cookies(addr string) []*http.Cookie {
	return v.client.Jar.Cookies(&url.URL{Scheme: "http", Host: addr, Path: "/"})
}

func (v *visitor) send(addr string, cookies []*http.Cookie) {
	v.client.Jar.SetCookies(&url.URL{Scheme: "http", Host: addr, Path: "/"}, cookies)
}

// get is try where nothing may go wrong.
func (v *visitor) get(addr, path string) string {
	v.t.Helper()
	status, body, err := v.try(addr, path)
	if err != nil || status != 200 {
		v.t.Fatalf("%s: %d %q, %v", path, status, body, err)
	}
	return body
}
