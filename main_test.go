package holdfast_test

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-session/holdfast"
	"github.com/holdfast-session/holdfast/inproc"
	"github.com/holdfast-session/holdfast/stateserver"
	"github.com/holdfast-session/holdfast/store"
	"github.com/holdfast-session/holdfast/storetest"
)

// This test binary is also the programs that the tests run in processes of their
// own: a state server, and a worker of a web application.
const (
	programVar = "HOLDFAST_TEST_PROGRAM"
	configVar  = "HOLDFAST_TEST_CONFIG"
)

func TestMain(m *testing.M) {
	var err error
	switch program := os.Getenv(programVar); program {
	case "":
		flag.Parse()
		if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue {
			f.Value.Set("8") // these tests wait more than they work
		}
		code := m.Run()
		sharedServer.stop()
		os.Exit(code)
	case "stateserver":
		err = runStateServer()
	case "worker":
		err = runWorker()
	default:
		err = fmt.Errorf("there is no program %q", program)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0) // with the race detector's code instead, if it has found anything
}

// A programConfig is what a program is told when it starts.
type programConfig struct {
	Addr        string        // to listen on; empty: any
	Server      string        // a worker's state server
	App         string        // a worker's application
	LockTimeout time.Duration // a worker's
	Seed        uint64        // of a worker's faults
	LoseReplies float64       // how many of the store's replies a worker does not get
}

// begin reads the configuration, listens, and says where.
func begin() (c programConfig, l net.Listener, err error) {
	if err = json.Unmarshal([]byte(os.Getenv(configVar)), &c); err != nil {
		return c, nil, err
	}
	if l, err = listen(c.Addr); err == nil {
		fmt.Println(l.Addr())
	}
	return c, l, err
}

// untilTheEnd waits until the test that started this process lets go of its input,
// or dies.
func untilTheEnd() { io.Copy(io.Discard, os.Stdin) }

func runStateServer() error {
	_, l, err := begin()
	if err != nil {
		return err
	}
	server := &stateserver.Server{Store: inproc.New(nil)}
	go server.Serve(l)
	untilTheEnd()
	return server.Close()
}

func runWorker() error {
	c, l, err := begin()
	if err != nil {
		return err
	}
	s, err := stateserver.Dial(c.Server, nil)
	if err != nil {
		return err
	}
	defer s.Close()
	faults := &storetest.Faults{Rule: storetest.Random(c.Seed, 0, c.LoseReplies)}
	m := holdfast.New(faults.Wrap(s), &holdfast.Options{App: c.App, LockTimeout: c.LockTimeout})
	server := &http.Server{Handler: application(m)}
	go server.Serve(l)
	untilTheEnd()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	server.Close()
	return m.Close(ctx)
}

// A process is one of those programs, running.
type process struct {
	cmd   *exec.Cmd
	addr  string // where it listens
	input io.Closer
	once  sync.Once
	err   error // how it ended
}

// launch starts a program and waits until it listens.
func launch(program string, c programConfig) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	config, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), programVar+"="+program, configVar+"="+string(config),
		"GORACE=atexit_sleep_ms=0 "+os.Getenv("GORACE")) // else the race detector waits a second
	cmd.Stderr = os.Stderr
	input, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	output, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{cmd: cmd, input: input}
	addr, err := bufio.NewReader(output).ReadString('\n')
	if err != nil {
		p.kill()
		return nil, fmt.Errorf("%s: %w", program, err)
	}
	p.addr = strings.TrimSpace(addr)
	return p, nil
}

// stop ends p in good order; its error tells of data races too.
func (p *process) stop() error {
	if p == nil {
		return nil
	}
	p.once.Do(func() {
		p.input.Close()
		patience := time.AfterFunc(10*time.Second, func() { p.cmd.Process.Kill() })
		p.err = p.cmd.Wait()
		patience.Stop()
	})
	return p.err
}

// kill ends p at once, as kill -9 does.
func (p *process) kill() {
	p.once.Do(func() {
		p.cmd.Process.Kill()
		p.cmd.Wait()
		p.input.Close()
	})
}

// listen listens on addr or, if that is empty, on a port that no connection is given:
// a server that ends and is started again still finds it free.
func listen(addr string) (l net.Listener, err error) {
	if addr != "" {
		return net.Listen("tcp", addr)
	}
	for range 1000 {
		if l, err = net.Listen("tcp", fmt.Sprint("127.0.0.1:", 20000+rand.IntN(12768))); err == nil {
			break
		}
	}
	return l, err
}

// run starts a program for one test.
func run(t testing.TB, program string, c programConfig) *process {
	t.Helper()
	p, err := launch(program, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.stop(); err != nil {
			t.Errorf("%s: %v", program, err)
		}
	})
	return p
}

// sharedServer serves all the tests that do not harm it; each has an application of
// its own there.
var sharedServer lazyServer

type lazyServer struct {
	once sync.Once
	p    *process
	err  error
}

func (l *lazyServer) addr(t testing.TB) string {
	t.Helper()
	l.once.Do(func() { l.p, l.err = launch("stateserver", programConfig{}) })
	if l.err != nil {
		t.Fatal(l.err)
	}
	return l.p.addr
}

func (l *lazyServer) stop() {
	if err := l.p.stop(); err != nil {
		fmt.Fprintln(os.Stderr, "FAIL: the shared state server:", err)
		os.Exit(1)
	}
}

// dial returns a client of the state server at addr.
func dial(t testing.TB, addr string) store.Store {
	t.Helper()
	s, err := stateserver.Dial(addr, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}
