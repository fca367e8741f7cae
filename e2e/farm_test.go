package e2e

import (
	"fmt"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-session/holdfast"
)

// shop is an application with a cart.
func shop(m *holdfast.Manager) http.Handler {
	cart := holdfast.NewKey[[]string]("cart")
	visits := holdfast.NewKey[int]("visits")
	put := func(w http.ResponseWriter, r *http.Request) {
		cart.Update(holdfast.From(r), func(c []string) []string { return append(c, r.FormValue("article")) })
		fmt.Fprint(w, strings.Join(cart.Get(holdfast.From(r)), " "))
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/put", put)
	mux.HandleFunc("/show", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, strings.Join(cart.Get(holdfast.From(r)), " "))
	})
	mux.HandleFunc("/visit", func(w http.ResponseWriter, r *http.Request) {
		visits.Update(holdfast.From(r), func(n int) int { return n + 1 })
		fmt.Fprint(w, visits.Get(holdfast.From(r)))
	})
	resume := make(chan struct{})
	mux.HandleFunc("/hang", func(w http.ResponseWriter, r *http.Request) { // with the session, half way through
		defer put(w, r)
		holdfast.From(r)
		w.WriteHeader(http.StatusEarlyHints) // says so
		<-resume
	})
	mux.HandleFunc("/resume", func(w http.ResponseWriter, r *http.Request) { resume <- struct{}{} })
	all := http.NewServeMux()
	all.Handle("/", m.Handler(mux))
	// Signing out waits for nobody.
	all.Handle("/signout", m.With(holdfast.ReadOnly).Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := holdfast.From(r).Abandon(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		}
	})))
	all.Handle("/merge/", http.StripPrefix("/merge", m.With(holdfast.Merge).Handler(mux)))
	return all
}

// TestFarm: two workers in turn, and the cart is one. A worker that is killed takes
// nothing with it, and one that comes new finds everything there.
func TestFarm(t *testing.T) {
	state := stateServer(t)
	workers := []*process{worker(t, "shop", state.addr), worker(t, "shop", state.addr)}
	v := newVisitor(t)
	var want []string
	put := func(n int) {
		t.Helper()
		article := fmt.Sprint("a", len(want))
		want = append(want, article)
		if got := v.get(workers[n%len(workers)].addr, "/put?article="+article); got != strings.Join(want, " ") {
			t.Fatalf("the cart is %q, want %q", got, want)
		}
	}
	for n := range 10 {
		put(n)
	}
	workers[0].kill()
	if _, _, err := v.try(workers[0].addr, "/show"); err == nil {
		t.Error("the worker that was killed answers")
	}
	put(1)
	put(1)
	workers[0] = worker(t, "shop", state.addr)
	for n := range 10 {
		put(n)
	}
}

// TestWorkerKilledUnderTheLock: the session comes free when the lock is stale, with
// all that was saved and nothing of what the dead worker was doing.
func TestWorkerKilledUnderTheLock(t *testing.T) {
	state := stateServer(t)
	dying, living := worker(t, "shop", state.addr), worker(t, "shop", state.addr)
	v := newVisitor(t)
	v.get(dying.addr, "/put?article=rope")

	hanging := v.hang(dying.addr, "/hang?article=lost")
	// A page that merges and only reads does not wait: it sees what is saved.
	if got := v.get(living.addr, "/merge/show"); got != "rope" {
		t.Errorf("under the lock the cart is %q", got)
	}
	dying.kill()
	if got := <-hanging; got.err == nil {
		t.Errorf("the request of the dead worker was answered: %d", got.status)
	}
	began := time.Now()
	if got := v.get(living.addr, "/put?article=lamp"); got != "rope lamp" {
		t.Errorf("the cart is %q, want rope and lamp", got)
	}
	if took := time.Since(began); took > 10*lockTimeout {
		t.Errorf("the lock of the dead worker was broken after %v", took)
	}
}

// TestParallelVisits: two workers, one visitor with many tabs, and every visit counts.
func TestParallelVisits(t *testing.T) {
	for _, page := range []string{"/visit", "/merge/visit"} {
		t.Run(strings.Trim(page, "/"), func(t *testing.T) {
			state := stateServer(t)
			workers := []*process{worker(t, "shop", state.addr), worker(t, "shop", state.addr)}
			v := newVisitor(t)
			v.get(workers[0].addr, page)
			const tabs, each = 8, 10
			var wg sync.WaitGroup
			for tab := range tabs {
				wg.Go(func() {
					for range each {
						if status, body, err := v.try(workers[tab%2].addr, page); err != nil || status != 200 {
							t.Errorf("%d %q, %v", status, body, err)
						}
					}
				})
			}
			wg.Wait()
			if got, want := v.get(workers[0].addr, "/visit"), fmt.Sprint(tabs*each+2); got != want {
				t.Errorf("%s visits, want %s", got, want)
			}
		})
	}
}

// TestSignOutHoldsEverywhere: one worker signs the visitor out while another still
// works for him, with the lock or without.
func TestSignOutHoldsEverywhere(t *testing.T) {
	state := stateServer(t)
	a, b := worker(t, "shop", state.addr), worker(t, "shop", state.addr)
	for _, access := range []string{"", "/merge"} {
		v := newVisitor(t)
		v.get(a.addr, "/put?article=rope")
		id := v.cookies(a.addr)
		hanging := v.hang(a.addr, access+"/hang?article=late")
		v.get(b.addr, "/signout")
		v.get(a.addr, "/resume")
		if got := <-hanging; got.err != nil || got.status != http.StatusConflict || got.cookie {
			t.Errorf("the request that was still running: %+v, want 409 without a cookie", got)
		}
		for _, p := range []*process{a, b} {
			v.send(a.addr, id) // as if the browser had kept it
			if got := v.get(p.addr, "/show"); got != "" {
				t.Errorf("after the sign-out the cart is %q", got)
			}
		}
	}
}

// An answer is what came of a request that hung.
type answer struct {
	status int
	cookie bool
	err    error
}

// hang asks for a page and returns when it hangs.
func (v *visitor) hang(addr, path string) <-chan answer {
	v.t.Helper()
	hangs, answered := make(chan struct{}), make(chan answer, 1)
	ctx := httptrace.WithClientTrace(v.t.Context(), &httptrace.ClientTrace{
		Got1xxResponse: func(int, textproto.MIMEHeader) error {
			close(hangs)
			return nil
		},
	})
	req, err := http.NewRequestWithContext(ctx, "POST", "http://"+addr+path, nil)
	if err != nil {
		v.t.Fatal(err)
	}
	go func() {
		res, err := v.client.Do(req)
		if err != nil {
			answered <- answer{err: err}
			return
		}
		res.Body.Close()
		answered <- answer{status: res.StatusCode, cookie: len(res.Cookies()) > 0}
	}()
	select {
	case <-hangs:
	case got := <-answered:
		v.t.Fatalf("%s did not hang: %+v", path, got)
	}
	return answered
}
