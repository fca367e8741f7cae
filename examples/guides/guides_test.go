// Package guides tests the code that the guides in docs show.
package guides

import (
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/holdfast-session/holdfast"
	gorillaafter "github.com/holdfast-session/holdfast/examples/guides/gorilla/after"
	gorillabefore "github.com/holdfast-session/holdfast/examples/guides/gorilla/before"
	scsafter "github.com/holdfast-session/holdfast/examples/guides/scs/after"
	scsbefore "github.com/holdfast-session/holdfast/examples/guides/scs/before"
	"github.com/holdfast-session/holdfast/inproc"
	"github.com/holdfast-session/holdfast/store"
	"github.com/holdfast-session/holdfast/storetest"
)

// A library that people come from.
type library struct {
	before, after func() http.Handler
	both          func(store.Store) http.Handler
	cookie        string // its name in the old application
	endsAtServer  bool   // an ended session is ended for whoever has a copy of the cookie
}

var libraries = map[string]library{
	"scs": {
		scsbefore.Pages, scsafter.Pages,
		func(s store.Store) http.Handler { return scsafter.Both(scsbefore.Manager(), s) },
		"session", true,
	},
	"gorilla": {
		gorillabefore.Pages, gorillaafter.Pages,
		func(s store.Store) http.Handler { return gorillaafter.Both(gorillabefore.Store(), s) },
		"shop", false,
	},
}

func each(t *testing.T, test func(t *testing.T, l library)) {
	for name, l := range libraries {
		t.Run(name, func(t *testing.T) { test(t, l) })
	}
}

// TestSamePages: the old application, the new one, and that of the time between do
// the same for a new visitor.
func TestSamePages(t *testing.T) {
	each(t, func(t *testing.T, l library) {
		for name, h := range map[string]http.Handler{
			"before": l.before(),
			"after":  holdfast.New(inproc.New(nil), nil).Handler(l.after()),
			"both":   l.both(inproc.New(nil)),
		} {
			b := newBrowser(t, h)
			b.get("/", name, `"", visit 1, cart [], `)
			b.post("/cart", "article", "rope", name, `"", visit 2, cart [{rope 1}], It is in your cart.`)
			b.post("/signin", "name", "Ann", name, `"Ann", visit 3, cart [{rope 1}], `)
			b.post("/cart", "article", "lamp", name, `"Ann", visit 4, cart [{rope 1} {lamp 1}], It is in your cart.`)
			b.post("/signout", "", "", name, `"", visit 1, cart [], `)
		}
	})
}

// moving returns a visitor of the old application who comes to the new one.
func moving(t *testing.T, l library, places store.Store) (b *browser, old *http.Cookie) {
	t.Helper()
	b = newBrowser(t, l.before())
	b.post("/cart", "article", "rope", "before", `"", visit 1, cart [{rope 1}], It is in your cart.`)
	b.post("/signin", "name", "Ann", "before", `"Ann", visit 2, cart [{rope 1}], `)
	old = b.cookie(l.cookie)
	b.Transport = direct{l.both(places)}
	return b, old
}

func TestMoveKeepsEverybodySignedIn(t *testing.T) {
	each(t, func(t *testing.T, l library) {
		b, old := moving(t, l, inproc.New(nil))
		b.get("/", "the first page", `"Ann", visit 3, cart [{rope 1}], `)
		if b.cookie(l.cookie) != nil || b.cookie("id") == nil {
			t.Error("the old cookie is still there, or the new one is not")
		}
		b.get("/", "the second page", `"Ann", visit 4, cart [{rope 1}], `)
		b.post("/signout", "", "", "after signing out", `"", visit 1, cart [], `)
		b.get("/", "after signing out", `"", visit 2, cart [], `)
		if l.endsAtServer {
			thief := newBrowser(t, b.Transport.(direct).site)
			thief.Jar.SetCookies(thief.site, []*http.Cookie{old})
			thief.get("/", "a copy of the old cookie", `"", visit 1, cart [], `)
		}
	})
}

// TestMoveBeginsWithAForm: what the visitor sends first is not lost.
func TestMoveBeginsWithAForm(t *testing.T) {
	each(t, func(t *testing.T, l library) {
		b, _ := moving(t, l, inproc.New(nil))
		b.post("/cart", "article", "lamp", "a form", `"Ann", visit 3, cart [{rope 1} {lamp 1}], It is in your cart.`)

		b, _ = moving(t, l, inproc.New(nil))
		b.post("/signout", "", "", "a sign-out", `"", visit 1, cart [], `)
		b.get("/", "after it", `"", visit 2, cart [], `)
	})
}

// TestMoveWhenTheStoreIsDown: nobody loses the old session for it. Holdfast tries for
// a while, in a bubble's time.
func TestMoveWhenTheStoreIsDown(t *testing.T) {
	each(t, func(t *testing.T, l library) { synctest.Test(t, func(t *testing.T) { moveWhenTheStoreIsDown(t, l) }) })
}

func moveWhenTheStoreIsDown(t *testing.T, l library) {
	var down atomic.Bool
	faults := &storetest.Faults{Rule: func(storetest.Call) storetest.Fault {
		if down.Load() {
			return storetest.Refuse
		}
		return storetest.None
	}}
	b, _ := moving(t, l, faults.Wrap(inproc.New(nil)))
	down.Store(true)
	if res := b.send("GET", "/", nil); res.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("a store that is down: %d", res.StatusCode)
	}
	down.Store(false)
	b.get("/", "when it is back", `"Ann", visit 3, cart [{rope 1}], `)
}

func TestMoveLeadsToNoOtherSite(t *testing.T) {
	each(t, func(t *testing.T, l library) {
		for _, path := range []string{"//example.com/", "///example.com", `/\example.com`} {
			b, _ := moving(t, l, inproc.New(nil))
			b.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
			req := &http.Request{Method: "GET", URL: &url.URL{Scheme: "http", Host: b.site.Host, Path: path}, Header: http.Header{}}
			res, err := b.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			to := res.Header.Get("Location")
			if len(res.Cookies()) != 1 || res.StatusCode != http.StatusTemporaryRedirect || strings.HasPrefix(to, "//") || strings.HasPrefix(to, `/\`) {
				t.Errorf("%s: %d, to %q", path, res.StatusCode, to)
			}
		}
	})
}

// TestDocs: every piece of Go in the guides is a piece of a program here that is
// compiled and tested.
func TestDocs(t *testing.T) {
	var programs strings.Builder
	for _, pattern := range []string{"*/*.go", "*/*/*.go", "../chi/*.go", "../customstore/*.go"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			programs.Write(text)
		}
	}
	docs, err := filepath.Glob("../../docs/*.md")
	if err != nil || len(docs) == 0 {
		t.Fatalf("no guides: %v", err)
	}
	docs = append(docs, "../../SECURITY.md", "../../CONTRIBUTING.md")
	for _, doc := range docs {
		text, err := os.ReadFile(doc)
		if err != nil {
			t.Fatal(err)
		}
		rest, line := string(text), 1
		for {
			before, after, ok := strings.Cut(rest, "```go\n")
			if !ok {
				break
			}
			piece, next, ok := strings.Cut(after, "```")
			if !ok {
				t.Fatalf("%s: a piece of code does not end", doc)
			}
			line += strings.Count(before, "\n") + 1
			// A blank line parts what need not be neighbours in the program.
			for _, part := range strings.Split(piece, "\n\n") {
				if !strings.Contains(programs.String(), strings.TrimSpace(part)) {
					t.Errorf("%s:%d: this is in no program:\n%s", doc, line, part)
				}
			}
			line += strings.Count(piece, "\n")
			rest = next
		}
	}
}

// A browser keeps cookies and follows redirects.
type browser struct {
	t    *testing.T
	site *url.URL
	http.Client
}

func newBrowser(t *testing.T, site http.Handler) *browser {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &browser{t, &url.URL{Scheme: "http", Host: "shop.example"}, http.Client{Jar: jar, Transport: direct{site}}}
}

// direct is the way to a site that is not on the net.
type direct struct{ site http.Handler }

func (d direct) RoundTrip(req *http.Request) (*http.Response, error) {
	r := req.Clone(req.Context())
	r.RequestURI = r.URL.RequestURI()
	if r.Body == nil {
		r.Body = http.NoBody
	}
	w := httptest.NewRecorder()
	d.site.ServeHTTP(w, r)
	res := w.Result()
	res.Request = req
	return res, nil
}

func (b *browser) cookie(name string) *http.Cookie {
	for _, c := range b.Jar.Cookies(b.site) {
		if c.Name == name {
			return c
		}
	}
	return nil
}

type answer struct {
	*http.Response
	body string
}

func (b *browser) send(method, page string, form url.Values) answer {
	b.t.Helper()
	req, err := http.NewRequest(method, b.site.JoinPath(page).String(), strings.NewReader(form.Encode()))
	if err != nil {
		b.t.Fatal(err)
	}
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	res, err := b.Do(req)
	if err != nil {
		b.t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return answer{res, string(body)}
}

func (b *browser) wants(a answer, when, want string) {
	b.t.Helper()
	if got := fmt.Sprint(a.StatusCode, " ", a.body); got != "200 "+want {
		b.t.Errorf("%s: %s\nwant 200 %s", when, got, want)
	}
}

func (b *browser) get(page, when, want string) {
	b.t.Helper()
	b.wants(b.send("GET", page, nil), when, want)
}

func (b *browser) post(page, name, value, when, want string) {
	b.t.Helper()
	b.wants(b.send("POST", page, url.Values{name: {value}}), when, want)
}
