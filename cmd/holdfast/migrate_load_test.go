package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/holdfast-session/holdfast"
	"github.com/holdfast-session/holdfast/migrate"
	"github.com/holdfast-session/holdfast/store"
)

var migrated = holdfast.NewKey[int]("migrated-visits")

// A worker is a process of an application, as far as its sessions go: it is deployed
// again and again with another store, and finishes its requests before.
type worker struct {
	mu       sync.RWMutex
	sessions *holdfast.Manager
}

func (p *worker) deploy(s store.Store) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.sessions != nil {
		p.sessions.Close(context.Background())
	}
	p.sessions = holdfast.New(s, nil)
}

func (p *worker) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	p.sessions.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := holdfast.From(r)
		migrated.Update(s, func(n int) int { return n + 1 })
		fmt.Fprint(w, migrated.Get(s))
	})).ServeHTTP(w, r)
}

// A shopper visits an application's workers, and knows how often.
type shopper struct {
	cookie *http.Cookie
	visits int
}

// visit returns an error if it was not the next visit of the same session.
func (v *shopper) visit(at http.Handler) error {
	r, w := httptest.NewRequest("GET", "/", nil), httptest.NewRecorder()
	if v.cookie != nil {
		r.AddCookie(v.cookie)
	}
	at.ServeHTTP(w, r)
	v.visits++
	if want := fmt.Sprint(v.visits); w.Code != http.StatusOK || w.Body.String() != want {
		return fmt.Errorf("visit %s: %d %q", want, w.Code, w.Body)
	}
	if all := w.Result().Cookies(); len(all) > 0 {
		v.cookie = all[0]
	}
	return nil
}

// TestMigrateUnderLoad moves the sessions of an application from one state server to
// another and back, by the steps that the command's help gives, while visitors go on. No
// request fails, and no visit is lost or counted twice.
func TestMigrateUnderLoad(t *testing.T) {
	one, old := stateServer(t)
	two, fresh := stateServer(t)
	workers := []*worker{{}, {}, {}}
	deploy := func(s func() store.Store) {
		for _, p := range workers {
			p.deploy(s())
		}
	}
	deploy(func() store.Store { return old })
	idle := make([]*shopper, 200) // come at the beginning and at the end
	everybody := func(when string) {
		t.Helper()
		for i, v := range idle {
			if err := v.visit(workers[i%len(workers)]); err != nil {
				t.Fatalf("%s, an idle visitor: %v", when, err)
			}
		}
	}
	for i := range idle {
		idle[i] = new(shopper)
	}
	everybody("at first")

	var requests atomic.Int64
	ctx, stop := context.WithCancelCause(t.Context())
	var busy sync.WaitGroup
	for range 12 {
		busy.Go(func() {
			for v := new(shopper); ctx.Err() == nil; requests.Add(1) {
				if err := v.visit(workers[rand.N(len(workers))]); err != nil {
					stop(err)
				}
			}
		})
	}
	goOn := func() {
		t.Helper()
		after := requests.Load() + 300
		eventually(t, "requests go on", func() bool { return requests.Load() > after || ctx.Err() != nil })
		if ctx.Err() != nil {
			t.Fatal(context.Cause(ctx))
		}
	}
	goOn()
	move := func(fromAddr, toAddr string, from, to store.Store) {
		t.Helper()
		for _, phase := range []migrate.Phase{migrate.Prepare, migrate.Move} {
			deploy(func() store.Store { return migrate.New(from, to, &migrate.Options{Phase: phase}) })
			goOn()
		}
		migrates(t, 0, "verified:", "--from", "stateserver://"+fromAddr, "--to", "stateserver://"+toAddr, "--verify", "--rate", "400")
		if left := list(t, from); len(left) != 0 {
			t.Fatalf("%d sessions are left", len(left))
		}
		if there := list(t, to); len(there) != len(idle)+12 {
			t.Errorf("%d sessions arrived, want %d", len(there), len(idle)+12)
		}
		deploy(func() store.Store { return to })
		goOn()
	}
	move(one, two, old, fresh)
	everybody("after the move")
	move(two, one, fresh, old)
	everybody("back again")
	stop(nil)
	busy.Wait()
	if err := context.Cause(ctx); err != context.Canceled {
		t.Error(err)
	}
	t.Logf("%d requests", requests.Load())
}
