package holdfast

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-session/holdfast/inproc"
	"github.com/holdfast-session/holdfast/store"
)

// cookielessShop is a site whose visitors have no cookies.
func cookielessShop(t *testing.T, st store.Store, o Options) (*Manager, *httptest.Server) {
	o.Identity = Cookieless()
	m := New(st, &o)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		s := From(r)
		fmt.Fprintf(w, "%s %s %v %s", r.URL.Path, mergeName.Get(s), s.Lost().Kind, s.Link("/cart?x=1"))
	})
	mux.HandleFunc("POST /name", func(w http.ResponseWriter, r *http.Request) {
		s := From(r)
		mergeName.Set(s, r.FormValue("name"))
		http.Redirect(w, r, "/", http.StatusSeeOther)
	})
	mux.HandleFunc("POST /signin", func(w http.ResponseWriter, r *http.Request) {
		From(r).RegenerateID()
		if r.FormValue("stay") == "" {
			http.Redirect(w, r, "/", http.StatusSeeOther)
		}
	})
	mux.HandleFunc("POST /signout", func(w http.ResponseWriter, r *http.Request) {
		From(r).Abandon()
		http.Redirect(w, r, "https://elsewhere.example/", http.StatusSeeOther)
	})
	mux.Handle("GET /public", m.With(ReadOnly).Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, mergeName.Get(From(r)))
	})))
	mux.HandleFunc("GET /wiki/", func(w http.ResponseWriter, r *http.Request) {
		From(r)
		io.WriteString(w, r.URL.Path)
	})
	mux.HandleFunc("GET /file", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "file") })
	server := httptest.NewServer(m.Handler(mux))
	t.Cleanup(server.Close)
	return m, server
}

// fetch follows no redirects.
func fetch(t *testing.T, method, url, form string) *http.Response {
	t.Helper()
	req, err := http.NewRequest(method, url, strings.NewReader(form))
	if err != nil {
		t.Fatal(err)
	}
	if form != "" {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	resp.Body = io.NopCloser(strings.NewReader(string(body)))
	return resp
}

func text(resp *http.Response) string {
	b, _ := io.ReadAll(resp.Body)
	return strings.TrimSpace(string(b))
}

func TestCookielessVisit(t *testing.T) {
	st := inproc.New(nil)
	defer st.Close()
	_, server := cookielessShop(t, st, Options{})

	// A form that is the first thing to be sent is not lost.
	resp := fetch(t, "POST", server.URL+"/name?q=%2F", "name=ann")
	to := resp.Header.Get("Location")
	if resp.StatusCode != 307 || !strings.HasPrefix(to, "/(S(") || !strings.HasSuffix(to, "))/name?q=%2F") || resp.Header.Get("Cache-Control") != "no-store" {
		t.Fatalf("the first request: %d %v", resp.StatusCode, resp.Header)
	}
	resp = fetch(t, "POST", server.URL+to, "name=ann")
	home := resp.Header.Get("Location")
	if resp.StatusCode != 303 || home != strings.TrimSuffix(to, "name?q=%2F") {
		t.Fatalf("the form: %d to %q", resp.StatusCode, home)
	}
	resp = fetch(t, "GET", server.URL+home, "")
	if got, want := text(resp), "/ ann unknown "+home+"cart?x=1"; got != want || resp.Header.Get("Referrer-Policy") != "same-origin" {
		t.Errorf("the page: %q, want %q; %v", got, want, resp.Header)
	}
	if resp.Header.Get("Set-Cookie") != "" {
		t.Errorf("a cookie was set: %v", resp.Header)
	}

	// A new ID is told by a redirect, and nothing else.
	if resp = fetch(t, "POST", server.URL+home+"signin", "stay=1"); resp.StatusCode != 500 {
		t.Errorf("a new ID without a redirect: %d", resp.StatusCode)
	}
	resp = fetch(t, "POST", server.URL+home+"signin", "")
	home2 := resp.Header.Get("Location")
	if home2 == home || !isLocal(home2) {
		t.Fatalf("after RegenerateID: %q", home2)
	}
	if got := text(fetch(t, "GET", server.URL+home2, "")); !strings.HasPrefix(got, "/ ann") {
		t.Errorf("with the new ID: %q", got)
	}
	resp = fetch(t, "GET", server.URL+home, "")
	if resp.StatusCode != 302 {
		t.Fatalf("with the old ID: %d", resp.StatusCode)
	}
	if got := text(fetch(t, "GET", server.URL+resp.Header.Get("Location"), "")); !strings.HasPrefix(got, "/  regenerated") {
		t.Errorf("sent on from the old ID: %q", got)
	}

	// Another site is told nothing.
	resp = fetch(t, "POST", server.URL+home2+"signout", "")
	if to := resp.Header.Get("Location"); to != "https://elsewhere.example/" || resp.Header.Get("Referrer-Policy") != "same-origin" {
		t.Errorf("signed out: %v", resp.Header)
	}
	resp = fetch(t, "GET", server.URL+home2, "")
	if got := text(fetch(t, "GET", server.URL+resp.Header.Get("Location"), "")); !strings.HasPrefix(got, "/  abandoned") {
		t.Errorf("after signing out: %q", got)
	}
}

// An ID that the session was given in the same request has ended with it: there is
// nothing to be told, and so nothing to redirect to.
func TestCookielessSignOutRightAfterANewIDNeedsNoRedirect(t *testing.T) {
	st := inproc.New(nil)
	defer st.Close()
	m := New(st, &Options{Identity: Cookieless()})
	visit := func(to string, h func(s *Session)) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h(From(r)) })).ServeHTTP(w, httptest.NewRequest("GET", to, nil))
		return w
	}
	to := visit("/", nil).Header().Get("Location")
	visit(to, func(s *Session) { mergeName.Set(s, "ann") })
	w := visit(to, func(s *Session) {
		s.RegenerateID()
		for _, err := range []error{s.Save(t.Context()), s.Abandon()} {
			if err != nil {
				t.Error(err)
			}
		}
	})
	if w.Code != 200 {
		t.Errorf("signed out: %d %s, want 200", w.Code, w.Body)
	}
}

func TestCookielessAdoptsNothingAndSendsNobodyInCircles(t *testing.T) {
	st := inproc.New(nil)
	defer st.Close()
	_, server := cookielessShop(t, st, Options{})
	resp := fetch(t, "GET", server.URL+"/(S("+idA+"))/", "")
	if to := resp.Header.Get("Location"); resp.StatusCode != 302 || strings.Contains(to, idA) {
		t.Errorf("an ID of the visitor's own choice: %d to %q", resp.StatusCode, to)
	}
	for path, want := range map[string]int{
		"/public": 200, // it could change nothing, so it needs no session
		"/file":   200,
		"/":       302,
	} {
		if resp := fetch(t, "GET", server.URL+path, ""); resp.StatusCode != want {
			t.Errorf("%s: %d, want %d", path, resp.StatusCode, want)
		}
	}

	// Sessions that do not stay end in an error, not in a loop.
	_, server = cookielessShop(t, forgetful{st}, Options{})
	for _, path := range []string{"/", "/wiki/Go_(game)/rules"} {
		url := "/(S(" + idA + "))" + path
		for n := 1; ; n++ {
			resp := fetch(t, "GET", server.URL+url, "")
			if resp.StatusCode != 302 || n > maxRedirects+1 {
				if resp.StatusCode != 500 || n != maxRedirects+1 {
					t.Errorf("%s: request %d: %d", path, n, resp.StatusCode)
				}
				break
			}
			url = resp.Header.Get("Location")
		}
	}
}

// A page whose path has a parenthesis of its own is like any other.
func TestCookielessPathWithParentheses(t *testing.T) {
	st := inproc.New(nil)
	defer st.Close()
	_, server := cookielessShop(t, st, Options{})
	for _, path := range []string{"/wiki/Go_(game)/rules", "/wiki/Go_(game)", "/wiki/(draft)/"} {
		to := fetch(t, "GET", server.URL+path, "").Header.Get("Location")
		resp := fetch(t, "GET", server.URL+to, "")
		if got := text(resp); resp.StatusCode != 200 || got != path {
			t.Errorf("%s, sent on to %s: %d, sent on to %q, page %q", path, to, resp.StatusCode, resp.Header.Get("Location"), got)
		}
	}
}

// forgetful is a store of which every request finds another one.
type forgetful struct{ *inproc.Store }

func (f forgetful) Create(ctx context.Context, id store.ID, rec *store.Record, hold bool) error {
	return nil
}

func TestCookielessSessionThatWasNotUsedLivesAMinute(t *testing.T) {
	inTime(t, &Options{Identity: Cookieless()}, func(t *testing.T, v *visitor) {
		w := httptest.NewRecorder()
		h := v.m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { mergeHits.Get(From(r)) }))
		h.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
		to := w.Header().Get("Location")
		visit := func() int {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest("GET", to, nil))
			return w.Code
		}
		if code := visit(); code != 200 {
			t.Errorf("at once: %d", code)
		}
		advance(2 * time.Minute)
		if code := visit(); code != 302 {
			t.Errorf("two minutes later: %d, want to be sent on", code)
		}
	})
}
