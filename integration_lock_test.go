package holdfast_test

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-session/holdfast"
	"github.com/holdfast-session/holdfast/store"
	"github.com/holdfast-session/holdfast/storetest"
)

// advance lets d of fake time pass.
func advance(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// wantBusy checks that rp is a 503 that says when to try again.
func wantBusy(t *testing.T, rp *answer) {
	t.Helper()
	if after, err := strconv.Atoi(rp.header.Get("Retry-After")); rp.status != 503 || err != nil || after < 1 {
		t.Errorf("%d %q, Retry-After %q, want 503 and a number of seconds", rp.status, rp.body, rp.header.Get("Retry-After"))
	}
}

func TestRequestsHaveTheirTurnInOrderOfArrival(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := fakeShop(t, nil)
		g := newGate()
		st.do("/first", holdfast.Exclusive, func(s *holdfast.Session) any { note.Set(s, "."); g.pass(); return nil })
		st.page("/next", holdfast.Exclusive, func(_ http.ResponseWriter, r *http.Request, s *holdfast.Session) {
			note.Update(s, func(v string) string { return v + r.FormValue("n") })
		})
		st.do("/show", holdfast.ReadOnly, func(s *holdfast.Session) any { return note.Get(s) })
		st.do("/begin", holdfast.Exclusive, func(s *holdfast.Session) any { note.Set(s, ""); return nil })
		b := st.browser()
		b.get("/begin")
		first := b.begin("/first")
		g.await(t)
		var all sync.WaitGroup
		for _, n := range "0123456789abcdefghij" {
			all.Go(func() { b.wantStatus("/next?n="+string(n), 200) })
			synctest.Wait()
		}
		g.open()
		<-first
		all.Wait()
		b.want("/show", ".0123456789abcdefghij")
	})
}

func TestMaxWaitersIsAnswered503AtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := fakeShop(t, &holdfast.Options{MaxWaiters: 2})
		st.Handle("/", application(st.m))
		g := newGate()
		st.do("/slow", holdfast.Exclusive, func(*holdfast.Session) any { g.pass(); return nil })
		b := st.browser()
		b.get("/Exclusive/hit")
		slow := b.begin("/slow")
		g.await(t)
		waiting := []<-chan *answer{b.begin("/Exclusive/hit"), b.begin("/Exclusive/hit")}
		synctest.Wait()
		start := time.Now()
		wantBusy(t, b.get("/Exclusive/hit"))
		if d := time.Since(start); d != 0 {
			t.Errorf("the one too many waited %v", d)
		}
		b.want("/hits", "1") // who only reads waits for nobody
		stranger := st.browser()
		stranger.want("/Exclusive/hit", "1")
		g.open()
		<-slow
		for _, w := range waiting {
			if rp := <-w; rp.status != 200 {
				t.Errorf("one who waited: %d %q", rp.status, rp.body)
			}
		}
		b.want("/hits", "3")
	})
}

func TestLockWaitIsAnswered503(t *testing.T) {
	byEveryIdentity(t, func(t *testing.T, md mode) {
		st := newShop(t, md, &holdfast.Options{LockWait: 100 * time.Millisecond})
		other := st.sibling(&holdfast.Options{LockWait: 100 * time.Millisecond})
		g := newGate()
		for _, sh := range []*shop{st, other} {
			sh.Handle("/", application(sh.m))
			sh.do("/slow", holdfast.Exclusive, func(*holdfast.Session) any { g.pass(); return nil })
		}
		patient := st.sibling(nil)
		patient.Handle("/", application(patient.m))
		b := st.browser()
		last := patient.browser()
		last.want("/Exclusive/hit", "1")
		last.want("/glance", "1") // and the lock is free
		b.setID(last.id())
		far := other.browser()
		far.setID(b.id())
		slow := b.begin("/slow")
		g.await(t)
		wantBusy(t, b.get("/Exclusive/hit"))   // waits in line
		wantBusy(t, far.get("/Exclusive/hit")) // waits at the store
		wantBusy(t, far.get("/Merge/hit"))
		if !st.errs.has(holdfast.ErrBusy) || !other.errs.has(holdfast.ErrBusy) {
			t.Error("the hooks did not hear of it")
		}
		g.open()
		receive(t, slow)
		last.want("/Exclusive/hit", "2") // none of them has left a lock, or added a hit
		last.want("/Exclusive/hit", "3")
	})
}

// leaveLockFor holds a session's lock for d, much longer than LockTimeout, while
// another Manager waits for it.
func leaveLockFor(t *testing.T, st, other *shop, d time.Duration) {
	t.Helper()
	started := make(chan struct{})
	for _, sh := range []*shop{st, other} {
		sh.do("/begin", holdfast.Exclusive, func(s *holdfast.Session) any { note.Set(s, ""); return nil })
		sh.do("/long", holdfast.Exclusive, func(s *holdfast.Session) any {
			close(started)
			<-time.After(d)
			note.Set(s, note.Get(s)+"long ")
			return nil
		})
		sh.do("/short", holdfast.Exclusive, func(s *holdfast.Session) any {
			note.Set(s, note.Get(s)+"short ")
			return note.Get(s)
		})
	}
	b := st.browser()
	b.get("/begin")
	far := other.browser()
	far.setID(b.id())
	long := b.begin("/long")
	<-started
	short := far.begin("/short")
	if rp := <-long; rp.status != 200 {
		t.Errorf("the long request: %d %q", rp.status, rp.body)
	}
	if rp := <-short; rp.body != "long short " {
		t.Errorf("the short request saw %q", rp.body)
	}
	if n := st.faults.Count("Lock"); n < 4 {
		t.Errorf("%d Locks, so nothing was renewed", n)
	}
}

func TestLongHandlerKeepsItsLock(t *testing.T) {
	inEveryMode(t, func(t *testing.T, md mode) {
		o := holdfast.Options{LockTimeout: time.Second}
		st := newShop(t, md, &o)
		leaveLockFor(t, st, st.sibling(&o), 5*time.Second)
	})
}

func TestLongHandlerKeepsItsLockForAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := holdfast.Options{App: "/app", LockTimeout: time.Second, LockWait: 2 * time.Minute}
		st := fakeShop(t, &o)
		other := buildShop(t, st.store, &o)
		other.url, other.to = st.url, directly{other.m.Handler(other)}
		leaveLockFor(t, st, other, time.Minute)
	})
}

// brokenLock lets a handler's lock not be renewed, and another have it meanwhile,
// who does what between says. Then the handler ends. It returns the handler's
// reply, and how long the next visitor waited for the lock.
func brokenLock(t *testing.T, between func(s store.Store, id store.ID, rec *store.Record) error) (rp *answer, waited time.Duration, body string) {
	t.Helper()
	st := fakeShop(t, &holdfast.Options{LockTimeout: 20 * time.Second})
	st.Handle("/", application(st.m))
	g := newGate()
	st.do("/slow", holdfast.Exclusive, func(s *holdfast.Session) any {
		hits.Set(s, 100)
		g.pass()
		return nil
	})
	b := st.browser()
	b.get("/Exclusive/hit")
	slow := b.begin("/slow")
	g.await(t)
	id := *st.last.Load()
	st.fail(refuse("Lock"))
	var rec store.Record
	o := store.LockOptions{Owner: store.NewOwner(), Wait: time.Minute, Stale: 20 * time.Second}
	err := st.store.Lock(t.Context(), id, o, &rec)
	if err == nil {
		err = between(st.store, id, &rec)
	}
	if err != nil {
		t.Fatal(err)
	}
	st.fail(nil)
	advance(30 * time.Second) // the renewal works again
	g.open()
	rp = <-slow
	start := time.Now()
	body = b.get("/look").body
	return rp, time.Since(start), body
}

func TestBrokenLockIsRefusedItsSaveIfAnotherHasSaved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rp, waited, hits := brokenLock(t, func(s store.Store, id store.ID, rec *store.Record) error {
			return s.Save(t.Context(), id, rec, store.NewVersion(), false)
		})
		if rp.status != 409 || hits != "1" {
			t.Errorf("%d %q, then %s hits; want 409 and 1", rp.status, rp.body, hits)
		}
		if waited != 0 {
			t.Errorf("the next visitor waited %v for a lock that nobody has", waited)
		}
	})
}

func TestBrokenLockMaySaveIfNobodyHas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rp, waited, hits := brokenLock(t, func(s store.Store, id store.ID, rec *store.Record) error {
			return s.Unlock(t.Context(), id, rec.Lock)
		})
		if rp.status != 200 || hits != "100" {
			t.Errorf("%d %q, then %s hits; want 200 and 100", rp.status, rp.body, hits)
		}
		if waited != 0 {
			t.Errorf("the next visitor waited %v for a lock that nobody has", waited)
		}
	})
}

func TestBrokenLockUnderAnotherHolder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rp, waited, hits := brokenLock(t, func(store.Store, store.ID, *store.Record) error { return nil })
		// His lock is 30 s old when the handler ends, and is not renewed.
		if rp.status != 409 && rp.status != 200 || hits != map[int]string{200: "100", 409: "1"}[rp.status] {
			t.Errorf("%d %q, then %s hits", rp.status, rp.body, hits)
		}
		if waited > 20*time.Second {
			t.Errorf("the next visitor waited %v", waited)
		}
	})
}

func TestVisitorWhoDisconnectsLeavesNoLock(t *testing.T) {
	byEveryIdentity(t, func(t *testing.T, md mode) {
		for _, how := range []string{"in the handler", "waiting in line", "waiting at the store"} {
			t.Run(how, func(t *testing.T) {
				st := newShop(t, md, nil)
				other := st.sibling(nil)
				g := newGate()
				arrived, gone := make(chan struct{}), make(chan struct{}) // begin and end of the handler of who leaves
				for _, sh := range []*shop{st, other} {
					sh.Handle("/", application(sh.m))
					sh.HandleFunc("/wait", func(_ http.ResponseWriter, r *http.Request) {
						defer close(gone)
						close(arrived)
						hits.Update(holdfast.From(r), increment)
					})
				}
				st.page("/slow", holdfast.Exclusive, func(_ http.ResponseWriter, r *http.Request, s *holdfast.Session) {
					hits.Update(s, increment)
					g.pass()
					if how == "in the handler" {
						<-r.Context().Done() // the server has seen that he is gone
						close(gone)
					}
				})
				b := st.browser()
				b.want("/Exclusive/hit", "1")
				far := other.browser()
				far.setID(b.id())

				ctx, leave := context.WithCancel(t.Context())
				defer leave()
				slow := make(chan *answer, 1)
				if how == "in the handler" {
					go func() { slow <- b.fetch(ctx, "/slow", nil) }()
					g.await(t)
					leave()
				} else {
					go func() { slow <- b.get("/slow") }()
					g.await(t)
					who := map[string]*browser{"waiting in line": b, "waiting at the store": far}[how]
					asked := other.faults.Count("Lock")
					waiter := make(chan *answer, 1)
					go func() { waiter <- who.fetch(ctx, "/wait", nil) }()
					if who == far { // his request is at the store before he leaves
						waitUntil(t, "he waits", func() bool { return other.faults.Count("Lock") > asked })
					}
					receive(t, arrived)
					leave()
					if rp := receive(t, waiter); rp.err == nil {
						t.Errorf("who left was answered with %d", rp.status)
					}
					receive(t, gone)
				}
				g.open()
				receive(t, slow)
				receive(t, gone)
				// What was changed for him is saved, and the session is free.
				start := time.Now()
				far.want("/Exclusive/hit", "3")
				b.want("/Exclusive/hit", "4")
				if d := time.Since(start); d > 10*time.Second {
					t.Errorf("the next two requests took %v", d)
				}
			})
		}
	})
}

// A lock whose grant is lost is given back: nobody waits for one that nobody has.
func TestLostGrantIsGivenBack(t *testing.T) {
	byEveryIdentity(t, func(t *testing.T, md mode) {
		st := newShop(t, md, &holdfast.Options{LockWait: 500 * time.Millisecond, StoreTimeout: 500 * time.Millisecond})
		other := st.sibling(nil)
		for _, sh := range []*shop{st, other} {
			sh.Handle("/", application(sh.m))
		}
		far := other.browser()
		far.want("/Exclusive/hit", "1")
		b := st.browser()
		b.setID(far.id())
		st.fail(func(c storetest.Call) storetest.Fault {
			if c.Method == "Lock" {
				return storetest.LoseReply
			}
			return storetest.None
		})
		wantBusy(t, b.get("/Exclusive/hit"))
		st.fail(nil)
		start := time.Now()
		far.want("/Exclusive/hit", "2")
		if d := time.Since(start); d > 10*time.Second {
			t.Errorf("the next request waited %v", d)
		}
	})
}

// A store that goes while a lock is asked for is an error page after StoreTimeout, not
// after LockWait.
func TestStoreThatGoesDuringLockIsAnsweredSoon(t *testing.T) {
	inEveryMode(t, func(t *testing.T, md mode) {
		st := newShop(t, md, &holdfast.Options{StoreTimeout: time.Second})
		st.Handle("/", application(st.m))
		b := st.browser()
		b.want("/Exclusive/hit", "1")
		first := st.faults.Count("Lock") + 1
		st.fail(func(c storetest.Call) storetest.Fault {
			if c.Method == "Lock" && c.N == first {
				return storetest.LoseReply
			}
			return storetest.Refuse
		})
		start := time.Now()
		wantBusy(t, b.get("/Exclusive/hit"))
		if d := time.Since(start); d > 5*time.Second {
			t.Errorf("it was answered after %v", d)
		}
		st.fail(nil)
		b.want("/Exclusive/hit", "2")
	})
}

// A panic, a Goexit and a failed save leave no lock either.
func TestFailureLeavesNoLock(t *testing.T) {
	byEveryIdentity(t, func(t *testing.T, md mode) {
		st := newShop(t, md, &holdfast.Options{StoreTimeout: time.Second})
		st.Handle("/", application(st.m))
		st.do("/panic", holdfast.Exclusive, func(s *holdfast.Session) any { hits.Set(s, 99); panic("on purpose") })
		st.page("/500", holdfast.Exclusive, func(w http.ResponseWriter, _ *http.Request, s *holdfast.Session) {
			hits.Set(s, 99)
			http.Error(w, "on purpose", 500)
		})
		st.do("/abort", holdfast.Exclusive, func(s *holdfast.Session) any { hits.Set(s, 99); panic(http.ErrAbortHandler) })
		b := st.browser()
		b.want("/Exclusive/hit", "1")
		other := st.sibling(nil)
		other.Handle("/", application(other.m))
		far := other.browser()
		far.setID(b.id())
		start := time.Now()
		for i, path := range []string{"/panic", "/500", "/abort", "/Exclusive/hit"} {
			if path == "/Exclusive/hit" {
				st.fail(refuse("Save"))
			}
			rp := b.fetch(t.Context(), path, nil)
			if rp.err == nil && rp.status < 500 {
				t.Errorf("%s: %d", path, rp.status)
			}
			st.fail(nil)
			far.want("/Exclusive/hit", fmt.Sprint(i+2))
		}
		if d := time.Since(start); d > 15*time.Second {
			t.Errorf("it took %v: somebody waited for a lock", d)
		}
	})
}

// A Release lets the others go on while the handler is still running, and what it
// changes later is merged.
func TestReleaseLetsOthersGoOn(t *testing.T) {
	byEveryIdentity(t, func(t *testing.T, md mode) {
		st := newShop(t, md, nil)
		st.Handle("/", application(st.m))
		for _, how := range []string{"release", "flush"} {
			g := newGate()
			st.page("/"+how, holdfast.Exclusive, func(w http.ResponseWriter, r *http.Request, s *holdfast.Session) {
				hits.Update(s, increment)
				if how == "release" {
					if err := s.Release(r.Context()); err != nil {
						t.Error(err)
					}
				} else if err := http.NewResponseController(w).Flush(); err != nil {
					t.Error(err)
				}
				g.pass()
				hits.Update(s, func(n int) int { return n + 100 })
				fmt.Fprint(w, hits.Get(s))
			})
			b := st.browser()
			b.want("/Exclusive/hit", "1")
			slow := b.begin("/" + how)
			g.await(t)
			b.want("/hits", "2")
			b.want("/Exclusive/hit", "3")
			g.open()
			if rp := receive(t, slow); rp.err != nil || !strings.HasPrefix(rp.body, "10") {
				t.Errorf("%s: %q, %v", how, rp.body, rp.err)
			}
			b.want("/hits", "103")
		}
	})
}
