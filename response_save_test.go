package holdfast_test

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-session/holdfast"
	"github.com/holdfast-session/holdfast/store"
)

// failures is a rule of siteStore: the next saves fail with what is put in.
type failures struct{ err atomic.Pointer[error] }

func (f *failures) set(err error) { f.err.Store(&err) }

func (f *failures) rule(method string) error {
	if err := f.err.Load(); err != nil && (method == "Save" || method == "Create") {
		return *err
	}
	return nil
}

// fails are the ways in which a store fails, and what the visitor is told.
var fails = []struct {
	err    error
	status int
	text   string
}{
	{store.ErrUnavailable, 503, "Your session is not available"},
	{store.ErrUnsure, 503, "Your session is not available"},
	{store.ErrFull, 503, "Your session is not available"},
	{store.ErrTooLarge, 500, "The server could not handle the session"},
	{errors.New("broken"), 500, "The server could not handle the session"},
}

// TestFailedSaveIsAnErrorPage: while the response is held back, nothing of it is
// seen when the session could not be saved, however it was about to leave.
func TestFailedSaveIsAnErrorPage(t *testing.T) {
	page := func(w http.ResponseWriter, r *http.Request) {
		add(r, 10)
		siteBag.Get(holdfast.From(r))["a"] = "spoilt"
		http.SetCookie(w, &http.Cookie{Name: "a", Value: "1"})
		for k, v := range map[string]string{"Content-Type": "application/secret", "Content-Disposition": "attachment", "Content-Language": "de",
			"Etag": `"secret"`, "Last-Modified": "Sat, 21 Nov 2026 00:00:00 GMT", "Location": "/secret", "Cache-Control": "public", "Trailer": "Sum"} {
			w.Header().Set(k, v)
		}
	}
	for _, c := range []struct {
		name string
		h    func(w http.ResponseWriter, r *http.Request) error
	}{
		{"at the end", func(w http.ResponseWriter, r *http.Request) error {
			w.WriteHeader(http.StatusCreated)
			io.WriteString(w, "secret")
			return nil
		}},
		{"nothing written", func(w http.ResponseWriter, r *http.Request) error { return nil }},
		{"redirect", func(w http.ResponseWriter, r *http.Request) error {
			http.Redirect(w, r, "/secret", http.StatusSeeOther)
			return nil
		}},
		{"buffer full", func(w http.ResponseWriter, r *http.Request) error {
			io.WriteString(w, "secret")
			_, err := io.WriteString(w, big)
			return err
		}},
		{"copied", func(w http.ResponseWriter, r *http.Request) error {
			_, err := io.Copy(w, strings.NewReader("secret"+big))
			return err
		}},
		{"flushed", func(w http.ResponseWriter, r *http.Request) error {
			io.WriteString(w, "secret")
			return http.NewResponseController(w).Flush()
		}},
		{"hijacked", func(w http.ResponseWriter, r *http.Request) error {
			if r.ProtoMajor == 2 {
				return errors.New("not there")
			}
			_, _, err := w.(http.Hijacker).Hijack()
			return err
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			everywhere(t, func(t *testing.T, on setting) {
				var fault failures
				s := newSite(t, on, holdfast.Options{StoreTimeout: 50 * time.Millisecond}, fault.rule)
				told := make(chan error, 1)
				s.page("/page", func(w http.ResponseWriter, r *http.Request) {
					page(w, r)
					told <- c.h(w, r)
				})
				s.begin()
				for _, f := range fails {
					fault.set(f.err)
					got := s.post("/page")
					if got.status != f.status || !strings.HasPrefix(got.body, f.text) || strings.Contains(got.body, "secret") || got.cut != nil {
						t.Errorf("%v: the visitor saw %d %.100q (%v)", f.err, got.status, got.body, got.cut)
					}
					for _, h := range []string{"Set-Cookie", "Content-Disposition", "Content-Language", "Etag", "Last-Modified", "Location", "Trailer"} {
						if got.header.Get(h) != "" {
							t.Errorf("%v: the visitor got %s: %s", f.err, h, got.header.Get(h))
						}
					}
					if !slices.Equal(got.header["Cache-Control"], []string{"no-store"}) || (got.header.Get("Retry-After") != "") != (f.status == 503) {
						t.Errorf("%v: the visitor got %v", f.err, got.header)
					}
					s.hears(f.err)
					if err := <-told; err == nil && (c.name == "buffer full" || c.name == "copied" || c.name == "flushed" || c.name == "hijacked") {
						t.Errorf("%v: the handler was not told", f.err)
					}
					fault.set(nil)
					s.shows(begun)
				}
			})
		})
	}
}

// What the default error page says.
const (
	unavailable = "Your session is not available at the moment. What you have just done may not have been saved; please look again in a few seconds.\n"
	conflict    = "Your session has changed or ended in another request. What you have just done may not have been saved; please load the page again.\n"
)

// TestErrorPageClaimsNothingUntrue: it says the same of what was not saved, and of what
// was, by a Save before or by one whose reply was lost.
func TestErrorPageClaimsNothingUntrue(t *testing.T) {
	everywhere(t, func(t *testing.T, on setting) {
		var fault failures
		s := newSite(t, on, holdfast.Options{StoreTimeout: 50 * time.Millisecond}, fault.rule)
		var then error
		s.page("/saved", func(w http.ResponseWriter, r *http.Request) {
			add(r, 1)
			if err := holdfast.From(r).Save(r.Context()); err != nil {
				t.Error(err)
			}
			add(r, 1000)
			fault.set(then)
		})
		s.begin()
		for i, c := range []struct {
			err  error
			text string
		}{
			{store.ErrUnavailable, unavailable},
			{store.ErrUnsure, unavailable},
			{store.ErrConflict, conflict},
		} {
			then = c.err
			if got := s.post("/saved"); got.body != c.text {
				t.Errorf("%v: the visitor saw %d %q, want %q", c.err, got.status, got.body, c.text)
			}
			s.hears(c.err)
			fault.set(nil)
			s.shows(fmt.Sprint(i+2, " map[a:1]"))
		}
	})
}

// TestErrorPageThroughMiddlewareOutside: the error page goes through what is around
// us, and is described as that described it.
func TestErrorPageThroughMiddlewareOutside(t *testing.T) {
	compress := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			http.SetCookie(w, &http.Cookie{Name: "csrf", Value: "1"})
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			defer z.Close()
			next.ServeHTTP(zipped{w, z}, r)
		})
	}
	everywhere(t, func(t *testing.T, on setting) {
		var fault failures
		s := newSite(t, on, holdfast.Options{StoreTimeout: 50 * time.Millisecond}, fault.rule)
		s.mux.Handle("/page", compress(s.within(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			add(r, 10)
			w.Header().Set("X-A", "1")
			http.SetCookie(w, &http.Cookie{Name: "a", Value: "1"})
			io.WriteString(w, "secret")
		}))))
		s.begin()
		for _, f := range fails {
			fault.set(f.err)
			got := s.post("/page") // its client unpacks what is said to be packed
			if got.status != f.status || !strings.HasPrefix(got.body, f.text) {
				t.Errorf("%v: the visitor saw %d %.100q", f.err, got.status, got.body)
			}
			if want := []string{"csrf=1"}; !slices.Equal(got.header["Set-Cookie"], want) {
				t.Errorf("%v: the visitor got the cookies %q, want %q", f.err, got.header["Set-Cookie"], want)
			}
			s.hears(f.err)
			fault.set(nil)
			s.shows(begun)
		}
	})
}

// zipped is the writer of middleware that compresses.
type zipped struct {
	http.ResponseWriter
	z *gzip.Writer
}

func (w zipped) Write(p []byte) (int, error) { return w.z.Write(p) }

// TestFailedCreateIsAnErrorPage: the same where the session is new. There is no
// cookie.
func TestFailedCreateIsAnErrorPage(t *testing.T) {
	everywhere(t, func(t *testing.T, on setting) {
		var fault failures
		s := newSite(t, on, holdfast.Options{StoreTimeout: 50 * time.Millisecond}, fault.rule)
		s.page("/page", func(w http.ResponseWriter, r *http.Request) {
			add(r, 10)
			fmt.Fprint(w, "secret")
		})
		for _, f := range fails {
			fault.set(f.err)
			got := s.post("/page")
			if got.status != f.status || !strings.HasPrefix(got.body, f.text) || got.header.Get("Set-Cookie") != "" {
				t.Errorf("%v: the visitor saw %d %q %v", f.err, got.status, got.body, got.header)
			}
			s.hears(f.err)
		}
	})
}

// TestFailedSaveAfterTheFirstByte: the visitor sees that the response is not whole,
// and the hook hears of the change that was lost.
func TestFailedSaveAfterTheFirstByte(t *testing.T) {
	for _, c := range []struct {
		name string
		h    func(w http.ResponseWriter, r *http.Request, fail func())
	}{
		{"buffer full, at the end", func(w http.ResponseWriter, r *http.Request, fail func()) {
			io.WriteString(w, big)
			add(r, 100)
			fail()
		}},
		{"flushed, at the end", func(w http.ResponseWriter, r *http.Request, fail func()) {
			w.(http.Flusher).Flush()
			add(r, 100)
			io.WriteString(w, "secret")
			fail()
		}},
		{"flushed, at the next flush", func(w http.ResponseWriter, r *http.Request, fail func()) {
			w.(http.Flusher).Flush()
			add(r, 100)
			io.WriteString(w, "secret")
			fail()
			if err := http.NewResponseController(w).Flush(); err == nil {
				panic("Flush did not fail")
			}
			if _, err := io.WriteString(w, "secret"); err == nil {
				panic("Write after it did not fail")
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			everywhere(t, func(t *testing.T, on setting) {
				var fault failures
				s := newSite(t, on, holdfast.Options{StoreTimeout: 50 * time.Millisecond}, fault.rule)
				var now error
				s.page("/page", func(w http.ResponseWriter, r *http.Request) {
					add(r, 10)
					c.h(w, r, func() { fault.set(now) })
				})
				s.begin()
				for i, f := range fails {
					now = f.err
					got := s.post("/page")
					if got.status != 200 || got.cut == nil {
						t.Errorf("%v: the visitor saw %d %.10q, and no cut", f.err, got.status, got.body)
					}
					s.hears(f.err)
					fault.set(nil)
					s.shows(fmt.Sprint(11+10*i, " map[a:1]"))
				}
			})
		})
	}
}

// A grenade is a value that explodes when it is armed and encoded.
type grenade struct{ N int }

var armed atomic.Bool

func (g grenade) MarshalText() ([]byte, error) {
	if armed.Load() {
		panic("boom")
	}
	return fmt.Appendf(nil, "%d", g.N), nil
}

func (g *grenade) UnmarshalText(b []byte) error {
	_, err := fmt.Sscan(string(b), &g.N)
	return err
}

var siteGrenade = holdfast.NewKey[map[string]grenade]("site-grenade")

// TestPanicInTheApplicationsOwnCode that the middleware calls is a failure as any
// other.
func TestPanicInTheApplicationsOwnCode(t *testing.T) {
	for _, c := range []struct {
		name string
		h    http.HandlerFunc
	}{
		{"encoding at the end", func(w http.ResponseWriter, r *http.Request) {
			spoil(r)
			siteGrenade.Get(holdfast.From(r))["a"] = grenade{2}
			armed.Store(true)
		}},
		{"encoding at a flush", func(w http.ResponseWriter, r *http.Request) {
			spoil(r)
			siteGrenade.Get(holdfast.From(r))["a"] = grenade{2}
			armed.Store(true)
			w.(http.Flusher).Flush()
		}},
		{"encoding in Set", func(w http.ResponseWriter, r *http.Request) {
			spoil(r)
			armed.Store(true)
			siteGrenade.Set(holdfast.From(r), map[string]grenade{"a": {2}})
		}},
		{"encoding in Update, of a change in place", func(w http.ResponseWriter, r *http.Request) {
			spoil(r)
			siteGrenade.Get(holdfast.From(r))["a"] = grenade{2}
			armed.Store(true)
			siteGrenade.Update(holdfast.From(r), func(g map[string]grenade) map[string]grenade { return g })
		}},
		{"Update's function", func(w http.ResponseWriter, r *http.Request) {
			spoil(r)
			siteGrenade.Update(holdfast.From(r), func(g map[string]grenade) map[string]grenade { panic("boom") })
		}},
		{"range over All", func(w http.ResponseWriter, r *http.Request) {
			spoil(r)
			for range holdfast.From(r).All() {
				panic("boom")
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			everywhere(t, func(t *testing.T, on setting) {
				s := newSite(t, on, holdfast.Options{}, nil)
				s.page("/arm", func(w http.ResponseWriter, r *http.Request) {
					siteGrenade.Set(holdfast.From(r), map[string]grenade{"a": {1}})
				})
				s.page("/fail", c.h)
				s.begin()
				s.post("/arm")
				got := s.post("/fail")
				armed.Store(false)
				if got.cut == nil {
					t.Errorf("the visitor saw %d %q", got.status, got.body)
				}
				s.shows(begun)
			})
		})
	}
}

// TestPanicAtTheEndIsAnsweredByOthers: a panic in what the application does at the last
// save, after the handler has returned, leaves those around us a header that is ready for
// their page, and goes on as what it is.
func TestPanicAtTheEndIsAnsweredByOthers(t *testing.T) {
	for _, signOut := range []bool{false, true} {
		everywhere(t, func(t *testing.T, on setting) {
			explode := false
			s := newSite(t, on, holdfast.Options{OnStart: func(*holdfast.Session) {
				if explode {
					panic("boom")
				}
			}}, nil)
			s.mux.Handle("/fail", naive(s.within(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				session := holdfast.From(r)
				if signOut {
					if err := session.Abandon(); err != nil {
						t.Error(err)
					}
				}
				siteHits.Set(session, 2)
				w.Header().Set("Content-Length", "11")
				w.Header().Set("ETag", `"x"`)
				http.SetCookie(w, &http.Cookie{Name: "a", Value: "1"})
				fmt.Fprint(w, "all is well")
			}))))
			if signOut {
				s.begin()
			}
			explode = true
			got := s.post("/fail")
			if got.status != 500 || got.body != "recovered: boom\n" || got.header.Get("ETag") != "" {
				t.Errorf("signed out: %v: the visitor saw %d %q (%v) %v", signOut, got.status, got.body, got.cut, got.header)
			}
			cookies := got.header.Values("Set-Cookie")
			if signOut && (len(cookies) != 1 || !strings.Contains(cookies[0], "Max-Age=0")) || !signOut && len(cookies) != 0 {
				t.Errorf("signed out: %v: Set-Cookie %q", signOut, cookies)
			}
			s.shows("0 map[]")
		})
	}
}

// TestPanicInUpdateAtTheMerge: an Update's function that fails when it is run again
// leaves neither its lock nor half of the changes behind.
func TestPanicInUpdateAtTheMerge(t *testing.T) {
	everywhere(t, func(t *testing.T, on setting) {
		s := newSite(t, on, holdfast.Options{}, nil)
		var other func()
		s.page("/fail", func(w http.ResponseWriter, r *http.Request) {
			if err := holdfast.From(r).Release(r.Context()); err != nil {
				t.Error(err)
			}
			siteBag.Get(holdfast.From(r))["b"] = "2"
			runs := 0
			siteHits.Update(holdfast.From(r), func(n int) int {
				if runs++; runs > 1 {
					panic("boom")
				}
				return n + 1000
			})
			other()
		})
		s.begin()
		other = func() { s.post("/add") }
		if got := s.post("/fail"); got.cut == nil {
			t.Errorf("the visitor saw %d %q", got.status, got.body)
		}
		s.shows("2 map[a:1]")
	})
}

// TestPanicInErrorPage goes on its way, and leaves no lock behind.
func TestPanicInErrorPage(t *testing.T) {
	for _, p := range []any{"boom", http.ErrAbortHandler} {
		everywhere(t, func(t *testing.T, on setting) {
			var fault failures
			s := newSite(t, on, holdfast.Options{ErrorPage: func(http.ResponseWriter, *http.Request, int, error) { panic(p) }}, fault.rule)
			s.page("/fail", func(w http.ResponseWriter, r *http.Request) { spoil(r) })
			s.begin()
			fault.set(store.ErrFull)
			if got := s.post("/fail"); got.cut == nil {
				t.Errorf("the visitor saw %d %q", got.status, got.body)
			}
			s.hears(store.ErrFull)
			fault.set(nil)
			s.shows(begun)
		})
	}
}
