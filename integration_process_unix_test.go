//go:build unix

package holdfast_test

import (
	"net/http"
	"net/http/httptest"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-session/holdfast"
)

// A gateServer is a gate for handlers in other processes: they ask its URL.
type gateServer struct {
	*gate
	url string
}

func newGateServer(t *testing.T) gateServer {
	g := newGate()
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { g.pass() }))
	t.Cleanup(server.Close)
	return gateServer{g, server.URL}
}

func (p *process) signal(t *testing.T, s syscall.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// patientWorker returns a browser at another worker of the session with that ID. It takes
// no lock for stale, so a lock that was left is an answer that does not come in time.
func patientWorker(t *testing.T, id string) *browser {
	t.Helper()
	st := openShop(t, dial(t, sharedServer.addr(t)), &holdfast.Options{App: "/" + t.Name(), LockTimeout: time.Hour, LockWait: patience / 2})
	st.Handle("/", application(st.m))
	b := st.browser()
	b.setID(id)
	return b
}

const workersLockTimeout = 2 * time.Second

func TestKilledWorkersLockComesFree(t *testing.T) {
	t.Parallel()
	for _, method := range []string{"/Exclusive/hit", "/Merge/hit", "/look"} {
		t.Run(method[1:], func(t *testing.T) {
			t.Parallel()
			p, b := startWorkers(t, programConfig{LockTimeout: workersLockTimeout})
			g := newGateServer(t)
			held := make(chan *answer, 1)
			go func() { held <- b[0].fetch(t.Context(), "/Exclusive/hold?gate="+g.url, nil) }()
			g.await(t)
			defer g.open()
			start := time.Now()
			p[0].kill()
			if rp := receive(t, held); rp.err == nil {
				t.Errorf("the killed worker answered %d %q", rp.status, rp.body)
			}
			want := "2" // what the killed worker had added was not saved
			if method == "/look" {
				want = "1"
			}
			b[1].want(method, want)
			if d := time.Since(start); d > workersLockTimeout+10*time.Second {
				t.Errorf("the next request waited %v, the lock timeout is %v", d, workersLockTimeout)
			}
			patientWorker(t, b[1].id()).want("/look", want) // it has left no lock
		})
	}
}

// pausedHolder starts a worker that holds the lock, and stops it.
func pausedHolder(t *testing.T) (p [2]*process, b [2]*browser, g gateServer, held <-chan *answer) {
	t.Helper()
	p, b = startWorkers(t, programConfig{LockTimeout: time.Second})
	g = newGateServer(t)
	held = b[0].begin("/Exclusive/hold?gate=" + g.url)
	g.await(t)
	p[0].signal(t, syscall.SIGSTOP)
	t.Cleanup(func() { p[0].signal(t, syscall.SIGCONT) }) // else it could not be stopped in good order
	return p, b, g, held
}

func TestPausedWorkerIsRefusedItsSaveIfAnotherHasSaved(t *testing.T) {
	t.Parallel()
	p, b, g, held := pausedHolder(t)
	b[1].want("/Exclusive/hit", "2")
	p[0].signal(t, syscall.SIGCONT)
	g.open()
	if rp := receive(t, held); rp.status != 409 {
		t.Errorf("the worker that was paused: %d %q, want 409", rp.status, rp.body)
	}
	patientWorker(t, b[1].id()).want("/Exclusive/hit", "3") // neither has left a lock
	b[0].want("/Exclusive/hit", "4")
}

func TestPausedWorkerMaySaveIfNobodyHas(t *testing.T) {
	t.Parallel()
	p, b, g, held := pausedHolder(t)
	<-time.After(1500 * time.Millisecond)
	p[0].signal(t, syscall.SIGCONT)
	g.open()
	if rp := receive(t, held); rp.status != 200 || rp.body != "2" {
		t.Errorf("the worker that was paused: %d %q, want 200", rp.status, rp.body)
	}
	b[1].want("/Exclusive/hit", "3")
}

// Who has had the lock meanwhile without saving is no reason to refuse, unless he
// still has it: he gives it up when his reply is on its way already.
func TestPausedWorkerAfterAReader(t *testing.T) {
	t.Parallel()
	p, b, g, held := pausedHolder(t)
	b[1].want("/look", "1")
	p[0].signal(t, syscall.SIGCONT)
	g.open()
	rp := receive(t, held)
	want := map[int]string{200: "3", 409: "2"}[rp.status]
	if want == "" {
		t.Errorf("the worker that was paused: %d %q, want 200 or 409", rp.status, rp.body)
	}
	patientWorker(t, b[1].id()).want("/Exclusive/hit", want) // neither has left a lock
}

func TestPausedWorkerAfterSignOut(t *testing.T) {
	t.Parallel()
	// Signing out waits for no lock, so nor does it wait for the pause to end.
	p, b, g, held := pausedHolder(t)
	old := b[0].id()
	patientWorker(t, old).wantStatus("/out", 200)
	p[0].signal(t, syscall.SIGCONT)
	g.open()
	if rp := receive(t, held); rp.status != 409 || rp.sessionCookie() != nil {
		t.Errorf("the worker that was paused: %d %q, want 409", rp.status, rp.body)
	}
	b[1].withID(old).want("/hits", "0")
}
