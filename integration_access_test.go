package holdfast_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-session/holdfast"
	"github.com/holdfast-session/holdfast/store"
)

// panicOf returns what f panics with, as text.
func panicOf(f func()) (text string) {
	defer func() {
		if p := recover(); p != nil {
			text = fmt.Sprint(p)
		}
	}()
	f()
	return ""
}

func TestFromWithoutSessionPanicsNamingWhatToAdd(t *testing.T) {
	r := httptest.NewRequest("GET", "/", nil)
	if p := panicOf(func() { holdfast.From(r) }); !strings.Contains(p, "sessions.Handler(") {
		t.Errorf("From outside the middleware panics with %q", p)
	}
	st := newShop(t, inProc, nil)
	if p := panicOf(func() { st.m.From(r) }); !strings.Contains(p, "sessions.Handler(") {
		t.Errorf("Manager.From outside the middleware panics with %q", p)
	}
	if _, err := holdfast.FromContext(context.Background()); !errors.Is(err, holdfast.ErrNoSession) {
		t.Errorf("FromContext outside the middleware: %v", err)
	}
	st.Handle("/disabled", st.m.With(holdfast.Disabled).Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if p := panicOf(func() { holdfast.From(r) }); !strings.Contains(p, "With(Exclusive)") {
			t.Errorf("From where access is Disabled panics with %q", p)
		}
		_, err := holdfast.FromContext(r.Context())
		fmt.Fprint(w, errors.Is(err, holdfast.ErrNoSession))
	})))
	st.browser().want("/disabled", "true")
}

func TestManagersAreNestedWithoutMixing(t *testing.T) {
	inEveryMode(t, func(t *testing.T, md mode) {
		s := md.open(t)
		outer := buildShop(t, s, &holdfast.Options{App: "/outer" + t.Name(), Cookie: holdfast.Cookie{Name: "outer-session"}})
		inner := buildShop(t, s, &holdfast.Options{App: "/inner" + t.Name(), Cookie: holdfast.Cookie{Name: "inner-session"}})
		h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			o, i := outer.m.From(r), inner.m.From(r)
			hits.Update(o, increment)
			hits.Update(i, func(n int) int { return n + 10 })
			fmt.Fprint(w, hits.Get(o), " ", hits.Get(i), " ", holdfast.From(r) == i, " ", o != i)
		})
		server := httptest.NewServer(outer.m.Handler(inner.m.With(holdfast.Merge).Handler(h)))
		defer server.Close()
		b := newBrowser(t, server.Client().Transport, server.URL)
		rp := b.want("/", "1 10 true true")
		if n := len(rp.header["Set-Cookie"]); n != 2 {
			t.Errorf("%d cookies, want one of each Manager: %q", n, rp.header["Set-Cookie"])
		}
		b.want("/", "2 20 true true")
	})
}

// nested runs a request through a handler inside another one of the same Manager.
func nested(t *testing.T, outer, inner holdfast.Access, early bool, h func(s *holdfast.Session) any) *answer {
	t.Helper()
	st := newShop(t, inProc, nil)
	in := st.m.With(inner).Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, h(holdfast.From(r)))
	}))
	lazy := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if early {
			holdfast.From(r)
		}
		if p := panicOf(func() { in.ServeHTTP(w, r) }); p != "" {
			fmt.Fprint(w, "panic: ", p)
		}
	})
	if outer == holdfast.Exclusive {
		st.Handle("/", st.m.Handler(st.m.Handler(lazy))) // lazy; twice is once
	} else {
		st.Handle("/", st.m.With(outer).Handler(lazy))
	}
	return st.browser().get("/")
}

func TestNestedAccess(t *testing.T) {
	access := func(s *holdfast.Session) any { return s.Access() }
	write := func(s *holdfast.Session) any {
		hits.Set(s, 1)
		return fmt.Sprint(s.Access(), s.Err())
	}
	for _, c := range []struct {
		name         string
		outer, inner holdfast.Access
		early        bool
		h            func(s *holdfast.Session) any
		body         string
	}{
		{"the inner access counts before the first From", holdfast.Exclusive, holdfast.ReadOnly, false, access, "ReadOnly"},
		{"the inner access counts, Merge", holdfast.Exclusive, holdfast.Merge, false, write, "Merge <nil>"},
		{"Disabled outside is no obstacle", holdfast.Disabled, holdfast.Exclusive, false, write, "Exclusive <nil>"},
		{"a weaker one changes nothing afterwards", holdfast.Exclusive, holdfast.ReadOnly, true, write, "Exclusive <nil>"},
		{"Disabled changes nothing afterwards", holdfast.Exclusive, holdfast.Disabled, true, write, "Exclusive <nil>"},
		{"the same one is well", holdfast.Merge, holdfast.Merge, true, write, "Merge <nil>"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if rp := nested(t, c.outer, c.inner, c.early, c.h); rp.status != 200 || rp.body != c.body {
				t.Errorf("%d %q, want %q", rp.status, rp.body, c.body)
			}
		})
	}
	for _, c := range [][2]holdfast.Access{{holdfast.ReadOnly, holdfast.Merge}, {holdfast.ReadOnly, holdfast.Exclusive}, {holdfast.Merge, holdfast.Exclusive}} {
		rp := nested(t, c[0], c[1], false, access)
		if !strings.HasPrefix(rp.body, "panic: ") || !strings.Contains(rp.body, "give the outer one "+c[1].String()) {
			t.Errorf("%v inside %v: %q, want a panic that says what to do", c[1], c[0], rp.body)
		}
	}
}

func TestReadOnlyWriteIsRefused(t *testing.T) {
	byEveryIdentity(t, func(t *testing.T, md mode) {
		st := newShop(t, md, nil)
		st.do("/begin", holdfast.Exclusive, func(s *holdfast.Session) any {
			tags.Set(s, map[string]int{"a": 1})
			return nil
		})
		st.do("/show", holdfast.ReadOnly, func(s *holdfast.Session) any { return fmt.Sprint(tags.Get(s), hits.Get(s)) })
		for path, change := range map[string]func(s *holdfast.Session){
			"/set":        func(s *holdfast.Session) { hits.Set(s, 1) },
			"/update":     func(s *holdfast.Session) { hits.Update(s, increment) },
			"/delete":     func(s *holdfast.Session) { tags.Delete(s) },
			"/clear":      func(s *holdfast.Session) { s.Clear() },
			"/regenerate": func(s *holdfast.Session) { s.RegenerateID() },
			"/timeout":    func(s *holdfast.Session) { s.SetTimeout(time.Hour) },
			"/subject":    func(s *holdfast.Session) { s.SetSubject("bob") },
		} {
			st.do(path, holdfast.ReadOnly, func(s *holdfast.Session) any {
				change(s)
				if !errors.Is(s.Err(), holdfast.ErrReadOnly) {
					t.Errorf("%s: Err is %v", path, s.Err())
				}
				return "not to be seen"
			})
		}
		st.do("/mutate", holdfast.ReadOnly, func(s *holdfast.Session) any {
			tags.Get(s)["b"] = 2 // is not seen, so it is no error; nor is it saved
			return nil
		})
		b := st.browser()
		b.get("/begin")
		for _, path := range []string{"/set", "/update", "/delete", "/clear", "/regenerate", "/timeout", "/subject"} {
			rp := b.wantStatus(path, 500)
			if strings.Contains(rp.body, "not to be seen") || rp.told != nil {
				t.Errorf("%s was answered with %q, %v", path, rp.body, rp.header)
			}
		}
		if !st.errs.has(holdfast.ErrReadOnly) {
			t.Error("the hook did not hear of it")
		}
		b.want("/mutate", "")
		b.want("/show", "map[a:1] 0")
	})
}

func TestReadOnlyReadsTheLastSavedStateUnderALock(t *testing.T) {
	inEveryMode(t, func(t *testing.T, md mode) {
		st := newShop(t, md, nil)
		st.Handle("/", application(st.m))
		g := newGate()
		st.do("/slow", holdfast.Exclusive, func(s *holdfast.Session) any {
			hits.Set(s, 100)
			g.pass()
			return nil
		})
		b := st.browser()
		b.want("/Exclusive/hit", "1")
		slow := b.begin("/slow")
		g.await(t)
		b.want("/hits", "1")
		g.open()
		receive(t, slow)
		b.want("/hits", "100")
	})
}

// FromContext leaves the answer to the handler; From never lets it go on.
func TestFromContextReturnsWhyThereIsNoSession(t *testing.T) {
	byEveryIdentity(t, func(t *testing.T, md mode) {
		st := newShop(t, md, &holdfast.Options{LockWait: 300 * time.Millisecond})
		st.Handle("/", application(st.m))
		g := newGate()
		st.do("/slow", holdfast.Exclusive, func(*holdfast.Session) any { g.pass(); return nil })
		st.HandleFunc("/ask", func(w http.ResponseWriter, r *http.Request) {
			_, err := holdfast.FromContext(r.Context())
			_, again := holdfast.FromContext(r.Context())
			w.WriteHeader(http.StatusTeapot)
			fmt.Fprint(w, errors.Is(err, holdfast.ErrBusy), errors.Is(err, store.ErrUnavailable), err == again)
		})
		reached := false
		st.HandleFunc("/insist", func(w http.ResponseWriter, r *http.Request) {
			holdfast.From(r)
			reached = true
		})
		b := st.browser()
		b.want("/Exclusive/hit", "1")
		slow := b.begin("/slow")
		g.await(t)
		if rp := b.wantStatus("/ask", http.StatusTeapot); rp.body != "true false true" {
			t.Errorf("a locked session: %q", rp.body)
		}
		b.wantStatus("/insist", 503)
		g.open()
		receive(t, slow)

		st.fail(refuse())
		if rp := b.wantStatus("/ask", http.StatusTeapot); rp.body != "false true true" {
			t.Errorf("a store that is down: %q", rp.body)
		}
		b.wantStatus("/insist", 503)
		if reached {
			t.Error("a handler ran on without its session")
		}
		st.fail(nil)
		b.want("/Exclusive/hit", "2")
	})
}

func TestErrorPageIsTheApplicationsOwn(t *testing.T) {
	byEveryIdentity(t, func(t *testing.T, md mode) {
		st := newShop(t, md, &holdfast.Options{ErrorPage: func(w http.ResponseWriter, r *http.Request, status int, err error) {
			w.Header().Set("Content-Type", "text/x-own")
			w.WriteHeader(status)
			fmt.Fprint(w, "own page of ", r.URL.Path, " ", errors.Is(err, store.ErrUnavailable))
		}})
		st.Handle("/", application(st.m))
		st.page("/dressed", holdfast.Exclusive, func(w http.ResponseWriter, _ *http.Request, s *holdfast.Session) {
			w.Header().Set("Content-Type", "image/png")
			w.Header().Set("Cache-Control", "public, max-age=60")
			w.Header().Set("X-Kept", "yes")
			http.SetCookie(w, &http.Cookie{Name: "dropped", Value: "x"})
			s.Clear()
			s.Abandon()
			hits.Set(s, 1)
			fmt.Fprint(w, "dropped")
		})
		b := st.browser()
		b.want("/Exclusive/hit", "1")
		st.fail(refuse("Load", "Lock"))
		for _, path := range []string{"/hits", "/Exclusive/hit"} {
			rp := b.wantStatus(path, 503)
			if rp.body != "own page of "+path+" true" || rp.header.Get("Content-Type") != "text/x-own" ||
				rp.header.Get("Cache-Control") != "no-store" || rp.header.Get("Retry-After") == "" {
				t.Errorf("%s: %q %v", path, rp.body, rp.header)
			}
		}
	})
}
