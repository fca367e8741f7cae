package demo

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-session/holdfast/inproc"
)

// A visitor of a shop in this process.
type visitor struct {
	t       *testing.T
	h       http.Handler
	cookies http.CookieJar
}

var site = &url.URL{Scheme: "http", Host: "shop.example", Path: "/"}

func visit(t *testing.T, w Worker) *visitor {
	t.Helper()
	if w.Timeout == 0 {
		w.Timeout = 20 * time.Minute
	}
	st := inproc.New(nil)
	s, err := newShop(w, st, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	jar, _ := cookiejar.New(nil)
	return &visitor{t, s.handler(), jar}
}

// do makes one request and returns the answer and its body.
func (v *visitor) do(method, path string, form url.Values) (*http.Response, string) {
	v.t.Helper()
	r := httptest.NewRequest(method, site.ResolveReference(&url.URL{Path: "/"}).String()+strings.TrimPrefix(path, "/"), strings.NewReader(form.Encode()))
	if form != nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for _, c := range v.cookies.Cookies(site) {
		r.AddCookie(c)
	}
	rec := httptest.NewRecorder()
	v.h.ServeHTTP(rec, r)
	resp := rec.Result()
	v.cookies.SetCookies(site, resp.Cookies())
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		v.t.Fatal(err)
	}
	return resp, string(b)
}

// get returns a page.
func (v *visitor) get(path string) string {
	v.t.Helper()
	resp, body := v.do("GET", path, nil)
	if resp.StatusCode != http.StatusOK {
		v.t.Fatalf("GET %s: %s\n%s", path, resp.Status, body)
	}
	return body
}

// post sends a form and returns the page that it leads to.
func (v *visitor) post(path string, form url.Values) string {
	v.t.Helper()
	resp, body := v.do("POST", path, form)
	if resp.StatusCode != http.StatusSeeOther {
		v.t.Fatalf("POST %s: %s\n%s", path, resp.Status, body)
	}
	return v.get(resp.Header.Get("Location"))
}

func (v *visitor) sees(page string, texts ...string) {
	v.t.Helper()
	for _, text := range texts {
		if !strings.Contains(page, text) {
			v.t.Errorf("the page lacks %q:\n%s", text, page)
		}
	}
}

func TestShopping(t *testing.T) {
	v := visit(t, Worker{Mode: InProc, Number: 1, Of: 1})
	home := v.get("/")
	for _, p := range catalog {
		v.sees(home, p.Name, p.Price.String())
		v.sees(v.get("/product/"+p.Slug), p.Text[:20], p.Facts[0], `<svg class="art"`)
	}
	v.sees(home, "none yet", "Nothing. No session is stored")
	if len(v.cookies.Cookies(site)) != 0 {
		t.Error("a cookie was sent to a visitor who only looked")
	}
	v.sees(v.get("/cart"), "There is nothing in it yet")

	v.sees(v.post("/cart/add", url.Values{"slug": {"rope"}, "qty": {"2"}, "back": {"/product/rope"}}), "Three-strand manila is in your cart.", `id="cart-count">2<`)
	v.sees(v.post("/cart/add", url.Values{"slug": {"rope"}, "back": {"/"}}), `id="cart-count">3<`)
	v.sees(v.post("/cart/add", url.Values{"slug": {"bell"}, "back": {"/cart"}}), "€234.00", "4 articles")
	v.sees(v.post("/cart/set", url.Values{"slug": {"rope"}, "qty": {"1"}, "back": {"/cart"}}), "€126.00")
	v.sees(v.post("/cart/set", url.Values{"slug": {"bell"}, "qty": {"0"}, "back": {"/cart"}}), "€54.00", "1 article ")

	before := v.cookies.Cookies(site)[0].Value
	v.sees(v.get("/signin"), "Your name")
	v.sees(v.post("/signin", url.Values{"name": {"  Ada <b>\n "}}), "Welcome aboard, Ada &lt;b&gt;.", `id="cart-count">1<`)
	if after := v.cookies.Cookies(site)[0].Value; after == before {
		t.Error("signing in kept the session's ID")
	}
	v.sees(v.post("/order", nil), "Thank you, Ada", "1 article for €54.00", `id="cart-count">0<`)
	v.sees(v.get("/cart"), "There is nothing in it yet")
	v.sees(v.post("/signout", url.Values{}), "You are signed out.", "none yet", "Sign in")
	if len(v.cookies.Cookies(site)) != 0 {
		t.Error("signing out left the cookie")
	}
}

func TestPagesThatAreNotThere(t *testing.T) {
	v := visit(t, Worker{Mode: InProc, Number: 1, Of: 1})
	for _, path := range []string{"/nowhere", "/product/submarine", "/static/shop-0.css"} {
		if resp, _ := v.do("GET", path, nil); resp.StatusCode != http.StatusNotFound {
			t.Errorf("GET %s: %s", path, resp.Status)
		}
	}
	if resp, _ := v.do("POST", "/cart/add", url.Values{"slug": {"submarine"}}); resp.StatusCode != http.StatusNotFound {
		t.Errorf("a product that is not there: %s", resp.Status)
	}
	v.sees(v.post("/order", url.Values{}), "There is nothing in it yet")
}

func TestOtherSitesCannotUseTheForms(t *testing.T) {
	v := visit(t, Worker{Mode: InProc, Number: 1, Of: 1})
	r := httptest.NewRequest("POST", "http://shop.example/cart/add", strings.NewReader("slug=rope"))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Sec-Fetch-Site", "cross-site")
	rec := httptest.NewRecorder()
	v.h.ServeHTTP(rec, r)
	if rec.Code != http.StatusForbidden || !strings.Contains(rec.Body.String(), "sent from another site") {
		t.Errorf("%d %s", rec.Code, rec.Body)
	}
}

func TestStyleIsCachedForGood(t *testing.T) {
	v := visit(t, Worker{Mode: InProc, Number: 1, Of: 1})
	_, rest, _ := strings.Cut(v.get("/"), `<link rel="stylesheet" href="`)
	path, _, _ := strings.Cut(rest, `"`)
	resp, body := v.do("GET", path, nil)
	if resp.StatusCode != 200 || !strings.Contains(resp.Header.Get("Cache-Control"), "immutable") || !strings.Contains(body, "prefers-color-scheme: dark") {
		t.Errorf("%s %s", path, resp.Status)
	}
	if resp, _ := v.do("GET", "/favicon.svg", nil); resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "image/svg+xml" {
		t.Errorf("icon: %s", resp.Status)
	}
}

func TestExpiredCartSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := visit(t, Worker{Mode: InProc, Number: 1, Of: 1, Timeout: time.Minute})
		v.post("/cart/add", url.Values{"slug": {"lamp"}, "back": {"/"}})
		<-time.After(3 * time.Minute)
		v.sees(v.get("/"), "Your session is gone", "It expired", `id="cart-count">0<`)
		// Whoever goes straight on shopping is told too, for a while.
		v.sees(v.post("/cart/add", url.Values{"slug": {"bell"}, "back": {"/cart"}}), "Your session is gone", "What you put in since", `id="cart-count">1<`)
		<-time.After(pastShown)
		if strings.Contains(v.get("/cart"), "Your session is gone") {
			t.Error("the notice stays")
		}
	})
}

func TestBackTo(t *testing.T) {
	for back, want := range map[string]string{
		"/":                           "/?killed=7",
		"/cart":                       "/cart?killed=7",
		"/product/rope?added=rope":    "/product/rope?killed=7",
		"/?killed=6&x=1":              "/?killed=7&x=1",
		"":                            "/?killed=7",
		"cart":                        "/?killed=7",
		"//evil.example/":             "/?killed=7",
		"/\\evil.example":             "/?killed=7",
		"https://evil.example/cart":   "/?killed=7",
		"javascript:alert(1)":         "/?killed=7",
		"/%2f%2fevil.example":         "/?killed=7",
		"/cart\r\nSet-Cookie: a=b":    "/?killed=7",
		"http:/cart":                  "/?killed=7",
		"/%5cevil.example":            "/?killed=7",
		"/cart#behind":                "/cart?killed=7",
		"/%zz":                        "/?killed=7",
		"/product/../../etc?signed=x": "/product/../../etc?killed=7",
	} {
		if got := backTo(back, url.Values{"killed": {"7"}}); got != want {
			t.Errorf("backTo(%q) = %q, want %q", back, got, want)
		}
	}
}

func TestAge(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second:            "a moment",
		time.Second:             "1 second",
		90 * time.Second:        "90 seconds",
		20 * time.Minute:        "20 minutes",
		3 * time.Hour:           "3 hours",
		49 * time.Hour:          "2 days",
		119 * time.Second:       "119 seconds",
		119 * time.Minute:       "119 minutes",
		1500 * time.Millisecond: "1 second",
	} {
		if got := age(d); got != want {
			t.Errorf("age(%s) = %q, want %q", d, got, want)
		}
	}
}
