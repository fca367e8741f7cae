package holdfast_test

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-session/holdfast"
)

// A way is how the session ID travels: what the Manager has for it, and what its
// clients do.
type way struct {
	name     string
	identity holdfast.Identity // nil: a cookie
	ids      holdfast.IDs
	carry    func(r *http.Request, id string)  // puts the client's ID into a request
	learn    func(resp *http.Response) *string // what a response says of the client's ID; nil: nothing
	urls     bool                              // the ID is part of every URL
}

var (
	cookies = way{name: "cookie", learn: func(resp *http.Response) *string {
		for _, c := range resp.Cookies() {
			if strings.HasSuffix(c.Name, "session") {
				return &c.Value
			}
		}
		return nil
	}}
	header = way{name: "header", identity: holdfast.Header("X-Session"),
		carry: func(r *http.Request, id string) { r.Header.Set("X-Session", id) },
		learn: learnFrom("X-Session"),
	}
	cookieless = way{name: "cookieless", identity: holdfast.Cookieless(), urls: true, learn: func(resp *http.Response) *string {
		if m := segment.FindStringSubmatch(resp.Header.Get("Location")); m != nil && m[1] != segmentOf(resp.Request.URL.Path) {
			return &m[1]
		}
		return nil
	}}
	own = way{name: "own", identity: bearer{},
		carry: func(r *http.Request, id string) { r.Header.Set("Authorization", "Bearer "+id) },
		learn: learnFrom("Session-Token"),
	}
	hexIDs = way{name: "hex IDs", learn: cookies.learn, ids: holdfast.IDs{
		New: func() string {
			var b [12]byte
			rand.Read(b[:])
			return hex.EncodeToString(b[:])
		},
		Parse: func(s string) (string, bool) { return s, hexID.MatchString(s) },
	}}
	query = way{name: "query", identity: parameter{},
		carry: func(r *http.Request, id string) { r.URL.RawQuery += "&sid=" + id },
		learn: learnFrom("Session-Token"),
	}
	ways = []way{cookies, header, cookieless, own, query, hexIDs}
)

var (
	segment = regexp.MustCompile(`^/\((?:L\([^)]*\))?S\(([^)]*)\)\)`)
	hexID   = regexp.MustCompile(`^[0-9a-f]{24}$`)
)

// segmentOf returns the ID in a path, or "".
func segmentOf(path string) string {
	if m := segment.FindStringSubmatch(path); m != nil {
		return m[1]
	}
	return ""
}

func learnFrom(name string) func(resp *http.Response) *string {
	return func(resp *http.Response) *string {
		if v := resp.Header[name]; len(v) > 0 {
			return &v[0]
		}
		return nil
	}
}

// bearer is the Identity of an application with tokens.
type bearer struct{}

func (bearer) Read(r *http.Request) []string {
	if id, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok {
		return []string{id}
	}
	return nil
}

func (bearer) Write(h http.Header, _ *http.Request, id string) { h.Set("Session-Token", id) }

func (bearer) Vary() string { return "Authorization" }

// parameter is the Identity of an application whose clients send the ID in the query,
// which is a part of the URL: caches need not be told of it.
type parameter struct{}

func (parameter) Read(r *http.Request) []string { return r.URL.Query()["sid"] }

func (parameter) Write(h http.Header, _ *http.Request, id string) { h.Set("Session-Token", id) }

func (parameter) Vary() string { return "" }

// wayOf returns the way of an Identity's clients.
func wayOf(id holdfast.Identity) way {
	for _, w := range ways {
		if w.identity == id {
			return w
		}
	}
	panic("no client has this Identity")
}

// with returns options with w's.
func (w way) with(o *holdfast.Options) *holdfast.Options {
	var own holdfast.Options
	if o != nil {
		own = *o
	}
	if w.identity != nil {
		own.Identity = w.identity
	}
	if w.ids.New != nil {
		own.IDs = w.ids
	}
	return &own
}

// byEveryIdentity runs test in each mode with each way for the ID to travel, side by
// side, also with other tests.
func byEveryIdentity(t *testing.T, test func(t *testing.T, md mode)) {
	t.Helper()
	t.Parallel()
	for _, md := range modes {
		for _, w := range ways {
			md := md
			md.way = w
			t.Run(md.name+"/"+md.way.name, func(t *testing.T) {
				t.Parallel()
				test(t, md)
			})
		}
	}
}

// inFakeTime runs test with each way for the ID to travel, in a bubble of fake time.
func inFakeTime(t *testing.T, test func(t *testing.T, w way)) {
	t.Helper()
	for _, w := range ways {
		t.Run(w.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { test(t, w) })
		})
	}
}

// A form that is the first thing to be sent, or is sent to a session that has ended,
// arrives whole.
func TestFormsArriveWhole(t *testing.T) {
	byEveryIdentity(t, func(t *testing.T, md mode) {
		st := newShop(t, md, nil)
		st.signInPages(holdfast.Exclusive)
		for _, a := range changing {
			st.page("POST /"+a.String(), a, func(w http.ResponseWriter, r *http.Request, s *holdfast.Session) {
				note.Set(s, r.PostFormValue("text"))
				to, _, _ := strings.Cut(r.URL.String(), "&sid=")
				fmt.Fprint(w, r.Method, " ", to, " ", len(note.Get(s)))
			})
		}
		st.do("/length", holdfast.ReadOnly, func(s *holdfast.Session) any { return len(note.Get(s)) })
		gone := st.browser()
		gone.get("/in")
		dead := gone.id()
		gone.get("/out")
		for _, n := range []int{5, 500_000} {
			for _, a := range changing {
				for name, b := range map[string]*browser{"a new visitor": st.browser(), "one whose session has ended": gone.withID(dead), "one with an ID of his own": gone.withID(strings.Repeat("a", 24))} {
					path := "/" + a.String() + "?q=%2F&text=not"
					rp := b.send(t.Context(), "POST", path, "text="+strings.Repeat("x", n), nil)
					if want := fmt.Sprintf("POST %s %d", path, n); rp.err != nil || rp.status != 200 || rp.body != want {
						t.Errorf("%s: %d %q, %v, want %q", name, rp.status, rp.body, rp.err, want)
					}
					b.want("/length", fmt.Sprint(n))
				}
			}
		}
	})
}

// What a cookieless page, or one that sends the visitor away, tells another site.
func TestNoOtherSiteLearnsTheID(t *testing.T) {
	md := inProc
	md.way = cookieless
	st := newShop(t, md, nil)
	st.hitPages()
	st.signInPages(holdfast.Exclusive)
	places := []string{"https://bank.example/", "//bank.example/x", `/\bank.example/`, "http://bank.example/?back=/cart"}
	for i, to := range places {
		st.HandleFunc(fmt.Sprint("/untouched", i), func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, to, http.StatusFound) })
		for _, a := range accesses[1:] {
			st.page(fmt.Sprintf("/%v%d", a, i), a, func(w http.ResponseWriter, r *http.Request, s *holdfast.Session) {
				if a != holdfast.ReadOnly {
					hits.Update(s, increment)
				}
				http.Redirect(w, r, to, http.StatusFound)
			})
		}
		st.page(fmt.Sprint("/leave", i), holdfast.Exclusive, func(w http.ResponseWriter, r *http.Request, s *holdfast.Session) {
			s.Abandon()
			http.Redirect(w, r, to, http.StatusFound)
		})
	}
	st.page("/500", holdfast.ReadOnly, func(_ http.ResponseWriter, _ *http.Request, s *holdfast.Session) { hits.Set(s, 1) })
	b := st.browser()
	b.want("/hit", "1")
	id := b.id()
	visit := func(path string, status int, to string) {
		rp := b.wantStatus(path, status)
		if rp.header.Get("Referrer-Policy") != "same-origin" {
			t.Errorf("%s: the browser tells other sites its URL: %v", path, rp.header)
		}
		if got := rp.header.Get("Location"); got != to || strings.Contains(got, id) {
			t.Errorf("%s: sent on to %q, want %q", path, got, to)
		}
	}
	for _, path := range []string{"/hit", "/read", "/nothing"} {
		visit(path, 200, "")
	}
	visit("/500", 500, "")
	visit("/nowhere", 404, "")
	for i, to := range places {
		for _, path := range []string{"/untouched", "/ReadOnly", "/Merge", "/Exclusive"} {
			visit(fmt.Sprint(path, i), 302, to)
		}
	}
	b.want("/read", "10")
	for i, to := range places {
		b := st.browser()
		b.get("/hit")
		if rp := b.get(fmt.Sprint("/leave", i)); rp.header.Get("Location") != to || rp.header.Get("Referrer-Policy") != "same-origin" {
			t.Errorf("signed out: %v", rp.header)
		}
	}
}

// A redirect into the application keeps the visitor in his session, whoever sends it.
func TestRedirectsKeepTheSession(t *testing.T) {
	byEveryIdentity(t, func(t *testing.T, md mode) {
		st := newShop(t, md, nil)
		st.hitPages()
		st.Handle("/untouched", http.RedirectHandler("/hit", http.StatusFound))
		st.Handle("/disabled", st.m.With(holdfast.Disabled).Handler(http.RedirectHandler("/hit", http.StatusFound)))
		st.page("/dir/", holdfast.Exclusive, func(w http.ResponseWriter, _ *http.Request, s *holdfast.Session) {
			hits.Update(s, increment)
			fmt.Fprint(w, hits.Get(s))
		})
		for _, a := range accesses[1:] {
			st.page("/"+a.String(), a, func(w http.ResponseWriter, r *http.Request, s *holdfast.Session) {
				hits.Get(s)
				http.Redirect(w, r, "hit", http.StatusFound)
			})
		}
		b := st.browser()
		if !st.way.urls {
			b.client.CheckRedirect = func(r *http.Request, _ []*http.Request) error {
				if st.way.carry != nil {
					st.way.carry(r, b.id())
				}
				return nil
			}
		}
		b.want("/hit", "1")
		for i, path := range []string{"/untouched", "/disabled", "/dir", "/ReadOnly", "/Merge", "/Exclusive"} {
			b.want(path, fmt.Sprint(i+2))
		}
	})
}

// tab is a browser's tab that is loaded again and again, at the URL where it is.
type tab struct {
	b  *browser
	at string
}

func (tb *tab) load() *answer {
	for range 8 {
		rp := tb.b.get(tb.at)
		if rp.status != http.StatusFound {
			return rp
		}
		tb.at = rp.header.Get("Location")
	}
	tb.b.t.Fatal("sent in circles")
	return nil
}

// A visitor whose sessions end one after the other is always sent on to another.
func TestCookielessTabThatStaysOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := fakeShop(t, cookieless.with(&holdfast.Options{Timeout: 10 * time.Minute}))
		st.hitPages()
		b := st.browser()
		b.way = cookies
		tb := &tab{b, "/hit"}
		for i := range 20 {
			if rp := tb.load(); rp.status != 200 || rp.body != "1" {
				t.Fatalf("session %d: %d %q", i, rp.status, rp.body)
			}
			if rp := tb.load(); rp.status != 200 || rp.body != "2" {
				t.Errorf("session %d, again: %d %q", i, rp.status, rp.body)
			}
			advance(time.Duration(20*(i+1)) * time.Minute)
		}
	})
}

// Two workers that do not share their sessions are an error, not a loop.
func TestCookielessVisitorIsNotSentInCircles(t *testing.T) {
	md := inProc
	md.way = cookieless
	var workers [2]*shop
	for i := range workers {
		workers[i] = newShop(t, md, &holdfast.Options{App: "/app"})
		workers[i].hitPages()
	}
	n := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n++
		workers[n%2].m.Handler(workers[n%2]).ServeHTTP(w, r)
	}))
	defer server.Close()
	b := newBrowser(t, server.Client().Transport, server.URL)
	b.way = cookieless
	b.wantStatus("/hit", 500)
	if n > 5 { // one of his own accord, three more, and the error
		t.Errorf("the visitor was sent on %d times", n-1)
	}
}

// The requests that a page begins with come at once, before anything is in the session
// that its visitor was sent on to.
func TestCookielessFirstRequestsInParallel(t *testing.T) {
	inEveryMode(t, func(t *testing.T, md mode) {
		md.way = cookieless
		for _, a := range changing {
			st := newShop(t, md, nil)
			st.Handle("/", application(st.m))
			b := st.browser()
			b.want("/look", "0")
			testNothingLost(t, a, 0, b)
		}
	})
}

// No ID of another form is shown to the store, nor taken over.
func TestIDsOfAnotherFormAreNoIDs(t *testing.T) {
	byEveryIdentity(t, func(t *testing.T, md mode) {
		st := newShop(t, md, nil)
		st.hitPages()
		for _, id := range []string{"x", strings.Repeat("a", 23), strings.Repeat("a", 25), strings.Repeat("-", 24), strings.Repeat("x", 10_000)} {
			b := st.browser()
			b.setID(id)
			before := st.faults.Count()
			b.want("/read", "0")
			if n := st.faults.Count() - before; n != 0 {
				t.Errorf("%.30q: %d calls of the store", id, n)
			}
			b.want("/hit", "1")
			b.want("/hit", "2")
			if form := md.way.ids.Parse; b.id() == id || form != nil && !hexID.MatchString(b.id()) {
				t.Errorf("%.30q: the visitor has the ID %q", id, b.id())
			}
		}
	})
}
