package holdfast_test

import (
	"fmt"
	"net/http"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/holdfast-session/holdfast"
	"github.com/holdfast-session/holdfast/store"
)

// openFiles returns how many files and connections this process has open, or 0
// where that is not told.
func openFiles() int {
	all, _ := os.ReadDir("/proc/self/fd")
	return len(all)
}

// wantNoMore waits until n is not larger than before, as it is where nothing leaks.
func wantNoMore(t *testing.T, what string, before int, n func() int) {
	t.Helper()
	deadline := time.NewTimer(10 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for n() > before {
		select {
		case <-tick.C:
		case <-deadline.C:
			buf := make([]byte, 1<<20)
			t.Fatalf("%d %s before, %d after\n%s", before, what, n(), buf[:runtime.Stack(buf, true)])
		}
	}
}

// outageShop is a shop with a state server of its own, and a browser with a session
// of one hit.
func outageShop(t *testing.T, w way, o holdfast.Options) (*shop, *browser, *process) {
	t.Helper()
	server := run(t, "stateserver", programConfig{})
	o.StoreTimeout, o.LockTimeout = 3*time.Second, 5*time.Second
	st := openShop(t, dial(t, server.addr), w.with(&o))
	st.Handle("/", application(st.m))
	st.HandleFunc("/nothing", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "nothing") })
	b := st.browser()
	b.want("/Exclusive/hit", "1")
	return st, b, server
}

func TestStateServerDiesAndComesBack(t *testing.T) {
	for name, page := range map[string]func(w http.ResponseWriter, r *http.Request, status int, err error){
		"default page": nil,
		"own page": func(w http.ResponseWriter, r *http.Request, status int, err error) {
			w.WriteHeader(status)
			fmt.Fprint(w, "we are back soon")
		},
	} {
		t.Run(name, func(t *testing.T) {
			st, b, server := outageShop(t, cookies, holdfast.Options{ErrorPage: page})
			testOutage := func() {
				server.kill()
				for _, path := range []string{"/hits", "/look", "/Exclusive/hit", "/Merge/hit"} {
					start := time.Now()
					rp := b.get(path)
					wantBusy(t, rp)
					if page != nil && rp.body != "we are back soon" {
						t.Errorf("%s: %q", path, rp.body)
					}
					if rp.sessionCookie() != nil {
						t.Errorf("%s was sent the cookie %v", path, rp.sessionCookie())
					}
					if d := time.Since(start); d > patience/2 { // half of LockWait
						t.Errorf("%s took %v", path, d)
					}
				}
				for _, path := range []string{"/hits", "/Exclusive/hit", "/Merge/hit"} {
					if statuses := fifty([]*browser{b}, func(int) string { return path }); statuses[503] != 50 {
						t.Errorf("%s at once: statuses %v, want 50 times 503", path, statuses)
					}
				}
				b.want("/nothing", "nothing") // who needs no session has no outage
				if !st.errs.has(store.ErrUnavailable) {
					t.Errorf("the hook heard of %v", st.errs.all)
				}
				server = run(t, "stateserver", programConfig{Addr: server.addr})
				waitUntil(t, "the client reconnects", func() bool { return b.get("/Exclusive/hit").status == 200 })
				testNothingLost(t, holdfast.Exclusive, 0, b)
				testNothingLost(t, holdfast.Merge, 0, b)
			}
			settle := func() int {
				st.to.(*http.Transport).CloseIdleConnections()
				return runtime.NumGoroutine()
			}
			testOutage() // as many connections as will ever be needed
			goroutines, files := settle()+4, openFiles()+2
			for range 2 {
				testOutage()
			}
			wantNoMore(t, "goroutines", goroutines, settle)
			if files > 2 {
				wantNoMore(t, "open files", files, openFiles)
			}
		})
	}
}

// A request in flight when the server dies is not answered as if it had been saved.
func TestStateServerDiesUnderARequest(t *testing.T) {
	t.Parallel()
	for _, a := range changing {
		t.Run(a.String(), func(t *testing.T) {
			st, b, server := outageShop(t, cookies, holdfast.Options{})
			g := newGate()
			st.do("/slow", a, func(s *holdfast.Session) any {
				hits.Update(s, increment)
				g.pass()
				return "saved"
			})
			slow := b.begin("/slow")
			g.await(t)
			server.kill()
			g.open()
			rp := receive(t, slow)
			wantBusy(t, rp)
			if rp.body == "saved" {
				t.Error("the page lies")
			}
			start := time.Now()
			wantBusy(t, b.get("/look"))
			if d := time.Since(start); d > patience/2 { // half of LockWait
				t.Errorf("the next request was answered after %v", d)
			}
		})
	}
}

// A server that comes back before the deadline is not noticed at all, though it is
// a new one that has lost the session: the change is refused, not lost.
func TestStateServerComesBackUnderARequest(t *testing.T) {
	t.Parallel()
	for _, w := range ways {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			st, b, server := outageShop(t, w, holdfast.Options{})
			g := newGate()
			st.do("/slow", holdfast.Exclusive, func(s *holdfast.Session) any {
				hits.Update(s, increment)
				g.pass()
				return "saved"
			})
			old := b.id()
			slow := b.begin("/slow")
			g.await(t)
			server.kill()
			for _, path := range []string{"/hits", "/Merge/hit"} {
				rp := b.get(path)
				wantBusy(t, rp)
				if rp.told != nil || b.id() != old {
					t.Errorf("%s: while there was no server the visitor was told the ID %q", path, b.id())
				}
			}
			run(t, "stateserver", programConfig{Addr: server.addr})
			g.open()
			if rp := receive(t, slow); rp.status != 409 || rp.told != nil {
				t.Errorf("%d %q, want 409: the session has ended", rp.status, rp.body)
			}
			st.do("/lost", holdfast.ReadOnly, func(s *holdfast.Session) any { return s.Lost().Kind })
			b.want("/lost", "restarted")
			if rp := b.get("/Exclusive/hit"); rp.body != "1" || rp.told == nil || b.id() == old {
				t.Errorf("%d %q, ID %q, want a new session", rp.status, rp.body, b.id())
			}
		})
	}
}

// A client of a server that is not there yet waits for it.
func TestStateServerStartsLate(t *testing.T) {
	t.Parallel()
	first := run(t, "stateserver", programConfig{})
	first.kill() // now we have an address where nobody listens
	client := dial(t, first.addr)
	st := openShop(t, client, &holdfast.Options{StoreTimeout: 200 * time.Millisecond})
	st.Handle("/", application(st.m))
	b := st.browser()
	wantBusy(t, b.get("/Exclusive/hit"))
	if b.id() != "" {
		t.Errorf("an ID was sent of a session that is not stored: %q", b.id())
	}
	run(t, "stateserver", programConfig{Addr: first.addr})
	patient := openShop(t, client, nil)
	patient.Handle("/", application(patient.m))
	b = patient.browser()
	b.want("/Exclusive/hit", "1")
	b.want("/Exclusive/hit", "2")
}
