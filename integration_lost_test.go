package holdfast_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-session/holdfast"
	"github.com/holdfast-session/holdfast/store"
)

// lostPages adds /begin, which begins a session, /keep, which does not look at it,
// and /lost, which tells why it is not there.
func (st *shop) lostPages() {
	st.do("/begin", holdfast.Exclusive, func(s *holdfast.Session) any {
		user.Set(s, "alice")
		return nil
	})
	st.HandleFunc("/keep", func(http.ResponseWriter, *http.Request) {})
	st.do("/lost", holdfast.ReadOnly, func(s *holdfast.Session) any {
		return fmt.Sprint(s.Lost().Kind, " ", s.Lost().Age.Round(time.Second), " ", user.Get(s))
	})
}

func TestLostIsExpired(t *testing.T) {
	inFakeTime(t, func(t *testing.T, w way) {
		st := fakeShop(t, w.with(&holdfast.Options{Timeout: time.Minute}))
		st.lostPages()
		b := st.browser()
		b.get("/begin")
		for range 10 { // each request restarts the timeout
			advance(time.Minute)
			b.want("/lost", "unknown 0s alice")
		}
		advance(67 * time.Second) // a tenth later at the latest
		b.want("/lost", "expired 1s ")
		advance(10 * time.Second)
		b.want("/lost", "expired 11s ")
	})
}

func TestLostIsExpiredByTheStateServersClock(t *testing.T) {
	t.Parallel()
	st := newShop(t, stateServer, &holdfast.Options{Timeout: time.Second})
	st.lostPages()
	b := st.browser()
	begin := time.Now()
	b.get("/begin")
	rp := b.get("/lost")
	last := time.Now()
	if rp.body != "unknown 0s alice" && last.Sub(begin) < time.Second {
		t.Errorf("%q, want the session", rp.body)
	}
	<-time.After(2500 * time.Millisecond)
	// The store has it a tenth longer, which is a second here. The age is rounded.
	least := time.Since(last) - 3*time.Second
	rp = b.get("/lost")
	most := time.Since(begin) - 1500*time.Millisecond
	text, _ := strings.CutPrefix(rp.body, "expired ")
	if age, err := time.ParseDuration(strings.TrimSpace(text)); err != nil || age < least || age > most {
		t.Errorf("%q, want expired between %v and %v ago", rp.body, least, most)
	}
}

func TestLostIsAbandoned(t *testing.T) {
	byEveryIdentity(t, func(t *testing.T, md mode) {
		st := newShop(t, md, nil)
		st.lostPages()
		st.signInPages(holdfast.ReadOnly)
		b := st.browser()
		b.get("/begin")
		tab := b.withID(b.id())
		rp := b.get("/out")
		if !st.way.urls {
			if rp.told == nil || *rp.told != "" {
				t.Errorf("the ID was not taken away: %v", rp.header)
			}
			b.want("/lost", "unknown 0s ") // who has no ID has lost nothing
		}
		tab.want("/lost", "abandoned 0s ")
	})
}

func TestLostIsRegenerated(t *testing.T) {
	byEveryIdentity(t, func(t *testing.T, md mode) {
		_, visitor, attacker := fixationShop(t, md, holdfast.Exclusive)
		visitor.get("/in")
		attacker.want("/who", "  true regenerated")
	})
}

// Long after, the dead ID is that of any visitor who comes back: he gets a session.
func TestLostIsRegeneratedOnlyStopsWritesForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := fakeShop(t, &holdfast.Options{LockTimeout: 10 * time.Second})
		st.lostPages()
		st.do("/in", holdfast.Exclusive, func(s *holdfast.Session) any { s.RegenerateID(); return nil })
		b := st.browser()
		b.get("/begin")
		late := b.withID(b.id())
		b.wantStatus("/in", 200)
		late.wantStatus("/begin", 409)
		advance(19 * time.Second)
		late.wantStatus("/begin", 409)
		advance(time.Second)
		old := late.id()
		late.wantStatus("/begin", 200)
		if late.id() == old || late.id() == b.id() {
			t.Errorf("the visitor who came back has the ID %q", late.id())
		}
	})
}

// In a URL the age of the loss grows as well, and the dead ID does not stop writes for
// as long as the visitor goes on with the URL that he was sent to.
func TestLostIsRegeneratedOnlyForAWhileInAURL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := fakeShop(t, cookieless.with(&holdfast.Options{LockTimeout: 10 * time.Second}))
		st.lostPages()
		st.moves("/in", holdfast.Exclusive, func(s *holdfast.Session) any { s.RegenerateID(); return nil })
		b := st.browser()
		b.get("/begin")
		dead := b.id()
		b.wantStatus("/in", 200)
		late := st.browser()
		late.way = cookies // it stays at its URL, as a tab does that is loaded again
		to := late.wantStatus("/(S("+dead+"))/begin", 302).header.Get("Location")
		late.wantStatus(to, 409)
		advance(19 * time.Second)
		late.wantStatus(to, 409)
		page := strings.Replace(to, "/begin", "/lost", 1)
		late.want(page, "regenerated 18s ")
		advance(2 * time.Second)
		late.want(page, "regenerated 20s ")
		late.wantStatus(to, 200)
		late.want(page, "unknown 0s alice")
	})
}

func TestLostIsPerhapsRestarted(t *testing.T) {
	inFakeTime(t, func(t *testing.T, w way) {
		o := holdfast.Options{App: "/app", Timeout: time.Minute}
		before, after := fakeShop(t, w.with(&o)), fakeShop(t, w.with(&o)) // the process before a recycle, and after
		before.lostPages()
		after.lostPages()
		b := before.browser()
		b.get("/begin")
		late := after.browser()
		late.setID(b.id())
		advance(10 * time.Second)
		late.want("/lost", "restarted 10s ")
		advance(time.Minute)
		// By now it would have expired in any case.
		late.want("/lost", "unknown 0s ")
	})
}

func TestSetTimeoutIsKept(t *testing.T) {
	byEveryIdentity(t, func(t *testing.T, md mode) {
		st := newShop(t, md, nil)
		st.lostPages()
		st.page("/timeout", holdfast.Exclusive, func(w http.ResponseWriter, r *http.Request, s *holdfast.Session) {
			if d, err := time.ParseDuration(r.FormValue("d")); err == nil {
				s.SetTimeout(d)
			}
			fmt.Fprint(w, s.Timeout())
		})
		b := st.browser()
		b.get("/begin")
		b.want("/timeout", "20m0s")
		for _, d := range []string{"1s", "9s", "10s", "11s", "59s", "1m0s", "1m1s", "1m30s", "7h0m3s", "8760h0m0s"} {
			b.want("/timeout?d="+d, d)
			b.want("/timeout", d)
			b.get("/begin") // another change leaves it
			b.want("/timeout", d)
		}
		b.want("/timeout?d=1500ms", "2s") // never shorter
	})
}

// A session with a timeout of its own is kept by requests that do not look at it,
// and ends by that timeout without.
func TestSetTimeoutCounts(t *testing.T) {
	for name, own := range map[string]time.Duration{"shorter": time.Minute, "longer": 5 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				st := fakeShop(t, nil)
				st.lostPages()
				st.do("/own", holdfast.Exclusive, func(s *holdfast.Session) any { s.SetTimeout(own); return nil })
				b := st.browser()
				b.get("/begin")
				b.get("/own")
				for range 10 * 6 {
					advance(own / 6)
					b.get("/keep")
				}
				advance(own - time.Second)
				b.want("/lost", "unknown 0s alice")
				advance(own + own/10 + time.Second)
				b.want("/lost", "expired 1s ")
			})
		})
	}
}

func TestTimeoutIsRestartedByRequestsThatNeverAsk(t *testing.T) {
	inFakeTime(t, func(t *testing.T, w way) {
		st := fakeShop(t, w.with(&holdfast.Options{Timeout: 10 * time.Minute}))
		st.lostPages()
		st.Handle("/disabled", st.m.With(holdfast.Disabled).Handler(http.NotFoundHandler()))
		b := st.browser()
		b.get("/begin")
		for range 3 {
			for _, path := range []string{"/keep", "/disabled"} {
				advance(9*time.Minute + 59*time.Second)
				b.get(path)
			}
		}
		advance(9*time.Minute + 59*time.Second)
		b.want("/lost", "unknown 0s alice")
	})
}

func TestTouchesAreCoalesced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := fakeShop(t, &holdfast.Options{Timeout: 10 * time.Minute})
		st.lostPages()
		b := st.browser()
		b.get("/begin")
		for range 600 { // one a second for ten minutes
			b.get("/keep")
			advance(time.Second)
		}
		if n := st.faults.Count("Touch"); n < 9 || n > 11 {
			t.Errorf("%d Touches in ten tenths of the timeout", n)
		}
		before := st.faults.Count()
		for range 100 { // of a visitor without a session
			st.browser().get("/keep")
		}
		if n := st.faults.Count() - before; n != 0 {
			t.Errorf("%d calls for visitors without sessions", n)
		}
		advance(9*time.Minute + 50*time.Second)
		b.want("/lost", "unknown 0s alice")
	})
}

func TestTouchesAreCoalescedAtTheStateServer(t *testing.T) {
	t.Parallel()
	st := newShop(t, stateServer, nil)
	st.lostPages()
	b := st.browser()
	b.get("/begin")
	if statuses := fifty([]*browser{b}, func(int) string { return "/keep" }); statuses[200] != 50 {
		t.Errorf("statuses %v", statuses)
	}
	waitUntil(t, "the timeout is restarted", func() bool { return st.faults.Count("Touch") > 0 })
	if n := st.faults.Count("Touch"); n != 1 {
		t.Errorf("%d Touches for 50 requests at once", n)
	}
}

// Nothing brings an ended session back: not a request that never asks for it.
func TestTouchAfterEndChangesNothing(t *testing.T) {
	byEveryIdentity(t, func(t *testing.T, md mode) {
		st := newShop(t, md, nil)
		st.lostPages()
		st.signInPages(holdfast.ReadOnly)
		b := st.browser()
		b.get("/begin")
		tab := b.withID(b.id())
		b.get("/out")
		tab.get("/keep")
		waitUntil(t, "the timeout is restarted", func() bool { return st.faults.Count("Touch") > 0 })
		tab.want("/lost", "abandoned 0s ")
		if st.errs.len() != 0 {
			t.Errorf("the hook heard of %v", st.errs.all)
		}
	})
}

// ExpiryVersusHolder: a session does not expire while a request has its lock.
func TestSessionDoesNotExpireUnderItsLock(t *testing.T) {
	inFakeTime(t, func(t *testing.T, w way) {
		st := fakeShop(t, w.with(&holdfast.Options{Timeout: time.Minute}))
		st.lostPages()
		st.do("/slow", holdfast.Exclusive, func(s *holdfast.Session) any {
			<-time.After(10 * time.Minute)
			note.Set(s, "done")
			return nil
		})
		b := st.browser()
		b.get("/begin")
		b.wantStatus("/slow", 200)
		advance(59 * time.Second)
		b.want("/lost", "unknown 0s alice")
	})
}

// A request without a lock may outlive its session; it does not bring it back.
func TestExpiryVersusMerge(t *testing.T) {
	inFakeTime(t, func(t *testing.T, w way) {
		st := fakeShop(t, w.with(&holdfast.Options{Timeout: time.Minute}))
		st.lostPages()
		st.do("/slow", holdfast.Merge, func(s *holdfast.Session) any {
			<-time.After(10 * time.Minute)
			note.Set(s, "done")
			return nil
		})
		b := st.browser()
		b.get("/begin")
		rp := b.wantStatus("/slow", 409)
		if rp.told != nil || !st.errs.has(holdfast.ErrEnded) {
			t.Errorf("%v, errors %v", rp.header, st.errs.all)
		}
		if rp := b.get("/lost"); rp.body[:len(store.Expired.String())] != "expired" {
			t.Errorf("%q, want expired", rp.body)
		}
	})
}
