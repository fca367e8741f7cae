package holdfast_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-session/holdfast"
	"github.com/holdfast-session/holdfast/store"
)

// spoil changes all that a handler can change of its session: by Update, in place,
// its timeout and its ID.
func spoil(r *http.Request) {
	s := holdfast.From(r)
	siteHits.Update(s, func(n int) int { return n + 1000 })
	bag := siteBag.Get(s)
	if bag == nil {
		siteBag.Set(s, map[string]string{"a": "spoilt"})
	} else {
		bag["a"] = "spoilt"
	}
	s.SetTimeout(time.Hour)
	s.SetSubject("somebody")
	s.RegenerateID()
}

// recoverer is chi's middleware.Recoverer, as far as a client can tell.
func recoverer(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			if p := recover(); p != nil {
				if p == http.ErrAbortHandler {
					panic(p)
				}
				if r.Header.Get("Connection") != "Upgrade" {
					w.WriteHeader(http.StatusInternalServerError)
				}
			}
		}()
		next.ServeHTTP(w, r)
	})
}

// naive answers every panic itself, also those that are meant for net/http.
func naive(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			if p := recover(); p != nil {
				http.Error(w, fmt.Sprint("recovered: ", p), http.StatusInternalServerError)
			}
		}()
		next.ServeHTTP(w, r)
	})
}

// silent swallows every panic.
func silent(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() { recover() }()
		next.ServeHTTP(w, r)
	})
}

func plain(next http.Handler) http.Handler { return next }

// TestFailureIsDiscardedWhole fails in every way that the middleware can see. The
// next request finds the values as they were, under the ID that it was, and its
// lock free.
func TestFailureIsDiscardedWhole(t *testing.T) {
	const cut = 0
	for _, c := range []struct {
		name            string
		inside, outside func(http.Handler) http.Handler
		h               http.HandlerFunc
		status          int
		body            string
	}{
		{"panic", plain, plain, func(w http.ResponseWriter, r *http.Request) {
			spoil(r)
			panic("sorry")
		}, cut, ""},
		{"panic after a write", plain, plain, func(w http.ResponseWriter, r *http.Request) {
			spoil(r)
			fmt.Fprint(w, "all is well")
			panic("sorry")
		}, cut, ""},
		{"ErrAbortHandler", plain, plain, func(w http.ResponseWriter, r *http.Request) {
			spoil(r)
			panic(http.ErrAbortHandler)
		}, cut, ""},
		{"Goexit", plain, plain, func(w http.ResponseWriter, r *http.Request) {
			spoil(r)
			fmt.Fprint(w, "all is well")
			runtime.Goexit()
		}, cut, ""},
		{"nil dereference", plain, plain, func(w http.ResponseWriter, r *http.Request) {
			spoil(r)
			var p *site
			p.mux = nil
		}, cut, ""},
		{"status 500", plain, plain, func(w http.ResponseWriter, r *http.Request) {
			spoil(r)
			http.Error(w, "sorry", http.StatusInternalServerError)
		}, 500, "sorry\n"},
		{"status 503 without a body", plain, plain, func(w http.ResponseWriter, r *http.Request) {
			spoil(r)
			w.WriteHeader(http.StatusServiceUnavailable)
		}, 503, ""},
		{"status 500, larger than the buffer", plain, plain, func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusInternalServerError)
			io.WriteString(w, big)
			spoil(r)
		}, 500, big},
		{"status 500, flushed", plain, plain, func(w http.ResponseWriter, r *http.Request) {
			spoil(r)
			w.WriteHeader(http.StatusInternalServerError)
			fmt.Fprint(w, "sorry")
			http.NewResponseController(w).Flush()
			siteHits.Update(holdfast.From(r), func(n int) int { return n + 1000 })
		}, 500, "sorry"},
		{"status 500, flushed again", plain, plain, func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusInternalServerError)
			fmt.Fprint(w, "sorry")
			w.(http.Flusher).Flush()
			spoil(r)
			w.(http.Flusher).Flush()
		}, 500, "sorry"},
		{"panic after a flush, recovered inside and flushed again", func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				recoverer(h).ServeHTTP(w, r)
				w.(http.Flusher).Flush()
			})
		}, plain, func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, "half of it")
			w.(http.Flusher).Flush()
			spoil(r)
			panic("sorry")
		}, 200, "half of it"},
		{"panic, recovered inside", recoverer, plain, func(w http.ResponseWriter, r *http.Request) {
			spoil(r)
			panic("sorry")
		}, 500, ""},
		{"panic, recovered outside", plain, recoverer, func(w http.ResponseWriter, r *http.Request) {
			spoil(r)
			w.Header().Set("Content-Disposition", "attachment")
			http.SetCookie(w, &http.Cookie{Name: "a", Value: "1"})
			fmt.Fprint(w, "all is well")
			panic("sorry")
		}, 500, ""},
		{"panic, naively recovered inside", naive, plain, func(w http.ResponseWriter, r *http.Request) {
			spoil(r)
			panic("sorry")
		}, 500, "recovered: sorry\n"},
		{"panic, naively recovered outside", plain, naive, func(w http.ResponseWriter, r *http.Request) {
			spoil(r)
			fmt.Fprint(w, "all is well")
			panic("sorry")
		}, 500, "recovered: sorry\n"},
		{"panic, silently recovered outside", plain, silent, func(w http.ResponseWriter, r *http.Request) {
			spoil(r)
			fmt.Fprint(w, "all is well")
			panic("sorry")
		}, 200, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			everywhere(t, func(t *testing.T, on setting) {
				s := newSite(t, on, holdfast.Options{}, nil)
				s.mux.Handle("/fail", c.outside(s.within(c.inside(c.h))))
				check := func(got reply) {
					t.Helper()
					if c.status == cut && got.cut == nil || c.status != cut && (got.cut != nil || got.status != c.status) {
						t.Errorf("the visitor saw status %d (%v), want %d", got.status, got.cut, c.status)
					}
					if got.body != c.body {
						t.Errorf("the visitor saw %.100q, want %.100q", got.body, c.body)
					}
					for _, h := range []string{"Set-Cookie", "Content-Disposition"} {
						if got.header.Get(h) != "" {
							t.Errorf("the visitor got %s: %s", h, got.header.Get(h))
						}
					}
				}
				check(s.post("/fail")) // of a visitor without a session
				if n := s.store.creates.Load(); n != 0 {
					t.Errorf("a session was stored")
				}
				s.begin()
				for range 2 {
					check(s.post("/fail"))
					s.shows(begun)
				}
				if n := s.store.saves.Load(); n != 0 {
					t.Errorf("%d saves", n)
				}
			})
		})
	}
}

// A deadline is a request's context whose time runs out when the test says so:
// http.TimeoutHandler gives its handler up then, however long anything has taken.
type deadline struct {
	context.Context
	passed chan struct{}
}

func (d deadline) Done() <-chan struct{} { return d.passed }

func (d deadline) Err() error {
	select {
	case <-d.passed:
		return context.DeadlineExceeded
	default:
		return nil
	}
}

// givenUp is h within an http.TimeoutHandler that gives it up when passed is closed.
func givenUp(h http.HandlerFunc, passed chan struct{}) http.Handler {
	inner := http.TimeoutHandler(h, time.Hour, "too slow")
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		inner.ServeHTTP(w, r.WithContext(deadline{r.Context(), passed}))
	})
}

// TestTimeoutHandlerInside: the handler that is given up runs on, but has its
// session no more.
func TestTimeoutHandlerInside(t *testing.T) {
	everywhere(t, func(t *testing.T, on setting) {
		s := newSite(t, on, holdfast.Options{}, nil)
		passed, proceed, late := make(chan struct{}), make(chan struct{}), make(chan error, 1)
		s.mux.Handle("/fail", s.within(givenUp(func(w http.ResponseWriter, r *http.Request) {
			defer close(late)
			session := holdfast.From(r)
			spoil(r)
			fmt.Fprint(w, "all is well")
			close(passed)
			<-proceed
			siteHits.Set(session, 5000)
			late <- session.Save(r.Context())
		}, passed)))
		s.begin()
		if got := s.post("/fail"); got.status != 503 || got.body != "too slow" || got.header.Get("Set-Cookie") != "" {
			t.Errorf("the visitor saw %d %q %v", got.status, got.body, got.header)
		}
		s.shows(begun) // while the handler still runs
		close(proceed)
		if err := <-late; !errors.Is(err, holdfast.ErrFinished) {
			t.Errorf("a Save by the handler that was given up: %v, want ErrFinished", err)
		}
		s.shows(begun)
	})
}

// TestTimeoutHandlerInsideWhileWaiting: a handler that is given up while it waits
// for the lock does not make the visitor wait for it.
func TestTimeoutHandlerInsideWhileWaiting(t *testing.T) {
	everywhere(t, func(t *testing.T, on setting) {
		if on.access != holdfast.Exclusive {
			return // Merge waits for nobody
		}
		s := newSite(t, on, holdfast.Options{}, nil)
		holding, proceed := make(chan struct{}), make(chan struct{})
		goOn := sync.OnceFunc(func() { close(proceed) })
		defer goOn()
		s.page("/hold", func(w http.ResponseWriter, r *http.Request) {
			holdfast.From(r)
			close(holding)
			<-proceed
		})
		s.mux.Handle("/fail", s.within(http.TimeoutHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			spoil(r)
		}), 50*time.Millisecond, "too slow")))
		s.begin()
		held := make(chan reply)
		go func() { held <- s.post("/hold") }()
		<-holding
		// Of the two pages, TimeoutHandler's and that of a session that is not to be
		// had, either may be the first.
		if got := s.post("/fail"); got.status != 503 {
			t.Errorf("the visitor saw %d %q", got.status, got.body)
		}
		goOn()
		if got := <-held; got.status != 200 {
			t.Errorf("the holder of the lock: %d", got.status)
		}
		s.shows(begun)
	})
}

// TestTimeoutHandlerOutside: what a handler does whose visitor has been told that
// it failed is not saved, unless it was saved before.
func TestTimeoutHandlerOutside(t *testing.T) {
	for _, c := range []struct {
		name string
		h    func(w http.ResponseWriter, r *http.Request, tooLate func())
		want string
	}{
		{"changed before", func(w http.ResponseWriter, r *http.Request, tooLate func()) {
			spoil(r)
			fmt.Fprint(w, "all is well")
			tooLate()
		}, begun},
		{"changed after", func(w http.ResponseWriter, r *http.Request, tooLate func()) {
			holdfast.From(r)
			tooLate()
			spoil(r)
			io.WriteString(w, big)
		}, begun},
		{"panics after", func(w http.ResponseWriter, r *http.Request, tooLate func()) {
			spoil(r)
			tooLate()
			panic(http.ErrAbortHandler)
		}, begun},
		{"saved before", func(w http.ResponseWriter, r *http.Request, tooLate func()) {
			siteHits.Set(holdfast.From(r), 2)
			if err := holdfast.From(r).Save(r.Context()); err != nil {
				panic(err)
			}
			tooLate()
			spoil(r)
		}, "2 map[a:1]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			everywhere(t, func(t *testing.T, on setting) {
				s := newSite(t, on, holdfast.Options{}, nil)
				passed, answered, returned := make(chan struct{}), make(chan struct{}), make(chan struct{})
				inner := s.within(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					c.h(w, r, func() {
						close(passed)
						<-r.Context().Done()
						<-answered
					})
				}))
				s.mux.Handle("/fail", givenUp(func(w http.ResponseWriter, r *http.Request) {
					defer close(returned)
					inner.ServeHTTP(w, r)
				}, passed))
				s.begin()
				if got := s.post("/fail"); got.status != 503 || got.body != "too slow" || got.header.Get("Set-Cookie") != "" {
					t.Errorf("the visitor saw %d %q %v", got.status, got.body, got.header)
				}
				close(answered)
				<-returned
				s.shows(c.want)
			})
		})
	}
}

// TestTimeoutHandlerThatIsFastEnough changes nothing.
func TestTimeoutHandlerThatIsFastEnough(t *testing.T) {
	everywhere(t, func(t *testing.T, on setting) {
		s := newSite(t, on, holdfast.Options{}, nil)
		h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			siteHits.Update(holdfast.From(r), func(n int) int { return n + 1 })
			fmt.Fprint(w, "well")
		})
		s.mux.Handle("/inside", s.within(http.TimeoutHandler(h, time.Hour, "too slow")))
		s.mux.Handle("/outside", http.TimeoutHandler(s.within(h), time.Hour, "too slow"))
		for i, path := range []string{"/inside", "/outside"} {
			if got := s.post(path); got.status != 200 || got.body != "well" {
				t.Errorf("%s: the visitor saw %d %q", path, got.status, got.body)
			}
			s.shows(fmt.Sprint(i+1, " map[]"))
		}
	})
}

// TestDeadlineOutside: where a middleware only sets a deadline, nobody but us tells the
// visitor that what he did came too late to be saved.
func TestDeadlineOutside(t *testing.T) {
	late := func(r *http.Request) { <-r.Context().Done() }
	for _, c := range []struct {
		name   string
		h      http.HandlerFunc
		status int // 0: cut
		body   string
		saved  string
	}{
		{"changed before", func(w http.ResponseWriter, r *http.Request) {
			spoil(r)
			fmt.Fprint(w, "all is well")
			late(r)
		}, 503, "", begun},
		{"changed after", func(w http.ResponseWriter, r *http.Request) {
			holdfast.From(r)
			late(r)
			siteBag.Get(holdfast.From(r))["a"] = "spoilt"
			fmt.Fprint(w, "all is well")
		}, 503, "", begun},
		{"only its subject changed", func(w http.ResponseWriter, r *http.Request) {
			holdfast.From(r).SetSubject("somebody")
			late(r)
		}, 503, "", begun},
		{"changed, and larger than the buffer", func(w http.ResponseWriter, r *http.Request) {
			spoil(r)
			late(r)
			io.WriteString(w, big)
		}, 503, "", begun},
		{"flushed, then changed", func(w http.ResponseWriter, r *http.Request) {
			siteHits.Set(holdfast.From(r), 2)
			fmt.Fprint(w, "half of it")
			w.(http.Flusher).Flush()
			siteHits.Set(holdfast.From(r), 3)
			late(r)
		}, 0, "half of it", "2 map[a:1]"},
		{"not changed", func(w http.ResponseWriter, r *http.Request) {
			session := holdfast.From(r)
			late(r)
			fmt.Fprint(w, siteHits.Get(session), " ", siteBag.Get(session))
		}, 200, begun, begun},
		{"saved in time", func(w http.ResponseWriter, r *http.Request) {
			siteHits.Set(holdfast.From(r), 2)
			if err := holdfast.From(r).Save(r.Context()); err != nil {
				t.Error(err)
			}
			late(r)
			fmt.Fprint(w, "all is well")
		}, 200, "all is well", "2 map[a:1]"},
		{"failed besides", func(w http.ResponseWriter, r *http.Request) {
			spoil(r)
			late(r)
			http.Error(w, "too slow", http.StatusGatewayTimeout)
		}, 504, "too slow\n", begun},
	} {
		t.Run(c.name, func(t *testing.T) {
			everywhere(t, func(t *testing.T, on setting) {
				s := newSite(t, on, holdfast.Options{}, nil)
				inner := s.within(c.h)
				s.mux.HandleFunc("/late", func(w http.ResponseWriter, r *http.Request) {
					ctx, cancel := context.WithTimeout(r.Context(), 100*time.Millisecond)
					defer cancel()
					inner.ServeHTTP(w, r.WithContext(ctx))
				})
				s.begin()
				got := s.post("/late")
				switch {
				case c.status == 0 && got.cut == nil, c.status != 0 && (got.cut != nil || got.status != c.status):
					t.Errorf("the visitor saw %d %.100q (%v), want %d", got.status, got.body, got.cut, c.status)
				case c.status == 503:
					if got.header.Get("Set-Cookie") != "" || got.header.Get("Retry-After") == "" || strings.Contains(got.body, "all is well") {
						t.Errorf("the visitor saw %.100q %v", got.body, got.header)
					}
				case got.body != c.body:
					t.Errorf("the visitor saw %.100q, want %q", got.body, c.body)
				}
				if c.status == 0 || c.status == 503 {
					s.hears(context.DeadlineExceeded)
				}
				if len(s.heard) > 0 {
					t.Errorf("OnError heard %v", <-s.heard)
				}
				s.shows(c.saved)
			})
		})
	}
}

// TestVisitorWhoLeaves leaves no lock behind, and what the handler did is saved.
func TestVisitorWhoLeaves(t *testing.T) {
	everywhere(t, func(t *testing.T, on setting) {
		s := newSite(t, on, holdfast.Options{}, nil)
		at, returned := make(chan struct{}), make(chan struct{})
		inner := s.within(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			siteHits.Update(holdfast.From(r), func(n int) int { return n + 1 })
			close(at)
			<-r.Context().Done()
		}))
		s.mux.HandleFunc("/leave", func(w http.ResponseWriter, r *http.Request) {
			defer close(returned)
			inner.ServeHTTP(w, r)
		})
		s.begin()
		ctx, leave := context.WithCancel(t.Context())
		req, err := http.NewRequestWithContext(ctx, "POST", s.srv.URL+"/leave", nil)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			<-at
			leave()
		}()
		if _, err := s.srv.Client().Do(req); err == nil {
			t.Error("the visitor got an answer")
		}
		<-returned
		s.shows("2 map[a:1]")
	})
}

// TestFromFailsBehindRecover: whatever is between the middleware and the handler,
// the visitor gets the error page.
func TestFromFailsBehindRecover(t *testing.T) {
	between := map[string]func(http.Handler) http.Handler{"nothing": plain, "recoverer": recoverer, "naive": naive, "silent": silent,
		"TimeoutHandler": func(h http.Handler) http.Handler { return http.TimeoutHandler(h, time.Hour, "too slow") }}
	for name, inside := range between {
		t.Run(name, func(t *testing.T) {
			everywhere(t, func(t *testing.T, on setting) {
				var down atomic.Bool
				s := newSite(t, on, holdfast.Options{}, func(method string) error {
					if down.Load() {
						return store.ErrUnavailable
					}
					return nil
				})
				outside := s.m.Handler // so that From is what fails
				if on.access == holdfast.Merge {
					outside = s.within
				}
				s.mux.Handle("/fail", outside(inside(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("Content-Type", "application/secret")
					fmt.Fprint(w, "what comes before")
					spoil(r)
					t.Error("the handler went on without its session")
				}))))
				s.begin()
				down.Store(true)
				got := s.post("/fail")
				if got.status != 503 || !strings.HasPrefix(got.body, "Your session is not available") {
					t.Errorf("the visitor saw %d %q", got.status, got.body)
				}
				want := http.Header{"Retry-After": {"2"}, "Cache-Control": {"no-store"}, "Content-Type": {"text/plain; charset=utf-8"}}
				for k := range want {
					if !slices.Equal(got.header[k], want[k]) {
						t.Errorf("%s: %q, want %q", k, got.header[k], want[k])
					}
				}
				s.hears(store.ErrUnavailable)
				down.Store(false)
				s.shows(begun)
			})
		})
	}
}

// TestFromFailsAfterFlush: there is no place for the error page any more.
func TestFromFailsAfterFlush(t *testing.T) {
	everywhere(t, func(t *testing.T, on setting) {
		if on.access != holdfast.Exclusive {
			return // With acquires the session before the handler runs
		}
		for _, inside := range []func(http.Handler) http.Handler{plain, recoverer, naive, silent} {
			var down atomic.Bool
			s := newSite(t, on, holdfast.Options{}, func(method string) error {
				if down.Load() {
					return store.ErrUnavailable
				}
				return nil
			})
			s.mux.Handle("/fail", s.within(inside(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				fmt.Fprint(w, "first")
				http.NewResponseController(w).Flush()
				spoil(r)
			}))))
			s.begin()
			down.Store(true)
			if got := s.post("/fail"); got.status != 200 || got.cut == nil {
				t.Errorf("the visitor saw %d %q, and an end of %v", got.status, got.body, got.cut)
			}
			s.hears(store.ErrUnavailable)
			down.Store(false)
			s.shows(begun)
		}
	})
}

// TestSaveOutlastsFailure: what was saved by Save stays, whatever comes after.
func TestSaveOutlastsFailure(t *testing.T) {
	save := func(r *http.Request) {
		s := holdfast.From(r)
		siteHits.Update(s, func(n int) int { return n + 1 })
		siteBag.Get(s)["b"] = "2"
		if err := s.Save(r.Context()); err != nil {
			panic(err)
		}
	}
	for _, c := range []struct {
		name string
		h    http.HandlerFunc
		want string
		cut  bool
	}{
		{"status 500", func(w http.ResponseWriter, r *http.Request) {
			save(r)
			w.WriteHeader(http.StatusInternalServerError)
		}, "2 map[a:1 b:2]", false},
		{"changed, status 500", func(w http.ResponseWriter, r *http.Request) {
			save(r)
			siteBag.Get(holdfast.From(r))["c"] = "3" // Save says that the failure is dealt with
			w.WriteHeader(http.StatusInternalServerError)
		}, "2 map[a:1 b:2 c:3]", false},
		{"changed, panic", func(w http.ResponseWriter, r *http.Request) {
			save(r)
			siteHits.Update(holdfast.From(r), func(n int) int { return n + 1000 })
			siteBag.Get(holdfast.From(r))["c"] = "3"
			panic("sorry")
		}, "2 map[a:1 b:2]", true},
		{"changed, Goexit", func(w http.ResponseWriter, r *http.Request) {
			save(r)
			siteBag.Get(holdfast.From(r))["c"] = "3"
			runtime.Goexit()
		}, "2 map[a:1 b:2]", true},
		{"Discard, status 200", func(w http.ResponseWriter, r *http.Request) {
			save(r)
			spoil(r)
			holdfast.From(r).Discard()
		}, "2 map[a:1 b:2]", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			everywhere(t, func(t *testing.T, on setting) {
				s := newSite(t, on, holdfast.Options{}, nil)
				s.page("/save", c.h)
				s.begin()
				if got := s.post("/save"); (got.cut != nil) != c.cut {
					t.Errorf("the visitor saw %d, cut: %v", got.status, got.cut)
				}
				s.shows(c.want)
			})
		})
	}
}

// TestNewSessionSavedThenStatus500 keeps the session, so the visitor gets its ID.
func TestNewSessionSavedThenStatus500(t *testing.T) {
	everywhere(t, func(t *testing.T, on setting) {
		s := newSite(t, on, holdfast.Options{}, nil)
		s.page("/save", func(w http.ResponseWriter, r *http.Request) {
			siteHits.Set(holdfast.From(r), 7)
			if err := holdfast.From(r).Save(r.Context()); err != nil {
				t.Error(err)
			}
			http.Error(w, "sorry", http.StatusInternalServerError)
		})
		if got := s.post("/save"); got.status != 500 || got.body != "sorry\n" {
			t.Errorf("the visitor saw %d %q", got.status, got.body)
		}
		s.shows("7 map[]")
	})
}

// TestAbandonIsNeverTakenBack: a failure after it does not sign the visitor in again.
func TestAbandonIsNeverTakenBack(t *testing.T) {
	for _, c := range []struct {
		name string
		then func(w http.ResponseWriter, r *http.Request)
		gone bool // the cookie is taken away
	}{
		{"status 200", func(w http.ResponseWriter, r *http.Request) {}, true},
		{"status 500", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(500) }, true},
		{"new values, status 500", func(w http.ResponseWriter, r *http.Request) {
			siteHits.Set(holdfast.From(r), 5000)
			w.WriteHeader(500)
		}, true},
		{"panic", func(w http.ResponseWriter, r *http.Request) { panic("sorry") }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			everywhere(t, func(t *testing.T, on setting) {
				s := newSite(t, on, holdfast.Options{}, nil)
				s.page("/out", func(w http.ResponseWriter, r *http.Request) {
					siteBag.Get(holdfast.From(r))["a"] = "spoilt"
					if err := holdfast.From(r).Abandon(); err != nil {
						t.Error(err)
					}
					if n := holdfast.From(r).Len(); n != 0 {
						t.Errorf("%d values after Abandon", n)
					}
					c.then(w, r)
				})
				s.begin()
				got := s.post("/out")
				if cookie := got.header.Get("Set-Cookie"); c.gone && !strings.Contains(cookie, "Max-Age=0") {
					t.Errorf("status %d, Set-Cookie: %q", got.status, cookie)
				}
				s.shows("0 map[]")
				if n := s.store.creates.Load(); n != 1 {
					t.Errorf("%d sessions were stored", n)
				}
			})
		})
	}
}
