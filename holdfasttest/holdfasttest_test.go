package holdfasttest_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-session/holdfast"
	"github.com/holdfast-session/holdfast/holdfasttest"
	"github.com/holdfast-session/holdfast/store"
)

func get(path string) *http.Request { return httptest.NewRequest("GET", path, nil) }

func post(path, form string) *http.Request {
	r := httptest.NewRequest("POST", path, strings.NewReader(form))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return r
}

func wantBody(t *testing.T, w *httptest.ResponseRecorder, code int, body string) {
	t.Helper()
	if got := w.Body.String(); w.Code != code || got != body {
		t.Errorf("answered with %d %q, want %d %q", w.Code, got, code, body)
	}
}

// Each way in which an ID travels, through a whole visit.
func TestVisit(t *testing.T) {
	own := holdfast.Header("X-Own")
	for name, o := range map[string]*holdfast.Options{
		"cookie":     nil,
		"OWASP":      holdfast.OWASP(),
		"AAL2":       holdfast.AAL2(),
		"persistent": {Cookie: holdfast.Cookie{Name: "s", Domain: "shop.test", MaxAge: time.Hour}},
		"header":     {Identity: holdfast.Header("x-session")},
		"its own":    {Identity: struct{ holdfast.Identity }{own}},
		"cookieless": {Identity: holdfast.Cookieless()},
		"plain IDs":  {PlainIDs: true, App: "/LM/W3SVC/1/ROOT"},
		"renewal":    {Renewal: time.Hour, Lifetime: 2 * time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			ht := holdfasttest.New(t, o)
			shop := newShop(ht.Manager)
			ann, bob := ht.Visitor(), ht.Visitor()
			if s := ann.Session(); !s.IsNew() || s.ID() != "" || s.Len() != 0 || s.Lost().Kind != store.Unknown {
				t.Errorf("a new visitor has a session: %q, %d values", s.ID(), s.Len())
			}
			if w := ann.Do(shop, post("/add?x=%2F", "article=book")); w.Code != 303 {
				t.Fatalf("the first request: %d %v", w.Code, w.Header())
			}
			ann.Prepare(func(s *holdfast.Session) {
				cart.Update(s, func(c []string) []string { return append(c, "pen") })
			})
			bob.Prepare(func(s *holdfast.Session) { cart.Set(s, []string{"hat"}) })
			thief := ann.Clone()
			before := ann.Session().ID()
			w := ann.Do(shop, post("/signin", "name=ann"))
			if after := ann.Session().ID(); w.Code != 303 || before == after || after == "" {
				t.Errorf("signed in: %d, ID %q, before %q", w.Code, after, before)
			}
			wantBody(t, ann.Do(shop, get("/cart")), 200, "ann has book, pen in the dark")
			wantBody(t, bob.Do(shop, get("/cart")), 200, " has hat")
			wantBody(t, thief.Do(shop, get("/cart")), 200, "Your cart is gone (regenerated).  has ")
			w = ann.Do(shop, post("/buy", ""))
			wantBody(t, w, 200, "bought: book, pen")

			if all, err := ht.Sessions(t.Context(), "ann"); err != nil || len(all) != 1 || all[0].LogID != ann.Session().LogID() {
				t.Errorf("Sessions = %v, %v; want hers", all, err)
			}
			if n, err := ht.EndAll(t.Context(), "ann", ann.Session()); n != 0 || err != nil {
				t.Errorf("EndAll but hers: %d, %v", n, err)
			}
			ann.Do(shop, post("/signout", ""))
			if s := ann.Session(); s.ID() != "" || s.Len() != 0 {
				t.Errorf("signed out, and there is %q with %d values", s.ID(), s.Len())
			}
			if w := ann.Do(shop, get("/cart")); strings.Contains(w.Body.String(), "dark") {
				t.Errorf("a cookie that was taken away is sent: %s", w.Body)
			}
			bob.End(store.Evicted)
			if why := bob.Session().Lost(); why.Kind != store.Evicted {
				t.Errorf("lost %v, want evicted", why.Kind)
			}
			wantBody(t, bob.Do(shop, get("/cart")), 200, "Your cart is gone (evicted).  has ")
		})
	}
}

func TestClient(t *testing.T) {
	for name, o := range map[string]*holdfast.Options{
		"cookie":     nil,
		"header":     {Identity: holdfast.Header("X-Session")},
		"cookieless": {Identity: holdfast.Cookieless()},
	} {
		t.Run(name, func(t *testing.T) {
			ht := holdfasttest.New(t, o)
			server := httptest.NewTLSServer(newShop(ht.Manager))
			defer server.Close()
			ann := ht.Visitor()
			client := ann.Client(server)
			do := func(resp *http.Response, err error) string {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				b, err := io.ReadAll(resp.Body)
				if err != nil {
					t.Fatal(err)
				}
				return string(b)
			}
			add := func(article string) string {
				return do(client.PostForm(server.URL+"/add", map[string][]string{"article": {article}}))
			}
			if got := add("book"); got != " has book" {
				t.Errorf("the first page: %q", got)
			}
			ann.Prepare(func(s *holdfast.Session) { user.Set(s, "ann") })
			if got := add("pen"); got != "ann has book, pen" {
				t.Errorf("the second page: %q", got)
			}
			if got := cart.Get(ann.Session()); len(got) != 2 {
				t.Errorf("in the session: %q", got)
			}
		})
	}
}

func TestClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ends := make(chan string, 10)
		ht := holdfasttest.New(t, &holdfast.Options{
			Timeout: 10 * time.Minute,
			Cookie:  holdfast.Cookie{MaxAge: time.Hour},
			OnEnd: func(_ context.Context, s *holdfast.Session, why store.Reason) {
				ends <- user.Get(s) + " " + why.Kind.String()
			},
		})
		ann, bob := ht.Visitor(), ht.Visitor()
		ann.Prepare(func(s *holdfast.Session) { user.Set(s, "ann") })
		bob.Prepare(func(s *holdfast.Session) { user.Set(s, "bob"); s.SetTimeout(24 * time.Hour) })
		for range 3 {
			ht.Advance(9 * time.Minute)
			if user.Get(ann.Session()) != "ann" {
				t.Fatal("the session of a busy visitor ended")
			}
		}
		ht.Advance(11 * time.Minute)
		if why := ann.Session().Lost(); why.Kind != store.Expired {
			t.Errorf("lost %v, want expired", why.Kind)
		}
		ht.Advance(2 * time.Second)
		if len(ends) != 1 || <-ends != "ann expired" {
			t.Error("OnEnd was not told")
		}
		ht.Advance(time.Hour)
		if s := bob.Session(); s.ID() != "" || s.Lost().Kind != store.Unknown {
			t.Error("the browser sends a cookie that is past its Max-Age")
		}
	})
}

func TestAdvanceNeedsABubble(t *testing.T) {
	ft := new(fakeT)
	if got := ft.run(func() { holdfasttest.New(ft, nil).Advance(time.Hour) }); !strings.Contains(got, "synctest.Test") {
		t.Errorf("failed with %q", got)
	}
}

// What a test does wrong, or cannot be had, fails it with the reason.
func TestFailures(t *testing.T) {
	for name, test := range map[string]struct {
		f    func(ht *holdfasttest.Sessions)
		want string
	}{
		"Prepare too much": {func(ht *holdfasttest.Sessions) {
			ht.Visitor().Prepare(func(s *holdfast.Session) { user.Set(s, strings.Repeat("x", 2<<20)) })
		}, "Prepare: status 500: holdfast: the session is larger"},
		"End without a session": {func(ht *holdfasttest.Sessions) { ht.Visitor().End(store.Expired) }, "End: the visitor has no session"},
		"LoseReply of nothing":  {func(ht *holdfasttest.Sessions) { ht.LoseReply("Unlock") }, `LoseReply("Unlock")`},
	} {
		ft := new(fakeT)
		if got := ft.run(func() { test.f(holdfasttest.New(ft, nil)) }); !strings.Contains(got, test.want) {
			t.Errorf("%s: failed with %q, want %q", name, got, test.want)
		}
	}
}

// An application that makes its Manager itself gets the store.
func TestStore(t *testing.T) {
	o := &holdfast.Options{Cookie: holdfast.Cookie{Name: "sid", Path: "/shop"}}
	ht := holdfasttest.New(t, o)
	m := holdfast.New(ht.Store, o)
	defer m.Close(context.Background())
	ann := ht.Visitor()
	ann.Prepare(func(s *holdfast.Session) { user.Set(s, "ann") })
	h := m.Handler(http.HandlerFunc(showCart))
	wantBody(t, ann.Do(h, get("/shop/cart")), 200, "ann has ")
	wantBody(t, ann.Do(h, get("/shopping")), 200, " has ") // not the cookie's path
	bob := ht.Visitor()
	bob.Prepare(func(s *holdfast.Session) { user.Set(s, "bob") })
	r := get("/shop")
	r.AddCookie(&http.Cookie{Name: "sid", Value: bob.Session().ID()})
	wantBody(t, ann.Do(h, r), 200, "bob has ") // the request's own cookie
	ht.Down(true)
	if w := ann.Do(h, get("/shop")); w.Code != 503 {
		t.Errorf("the store is down: %d", w.Code)
	}
}

func TestVisitorInParallel(t *testing.T) {
	ht := holdfasttest.New(t, nil)
	shop := newShop(ht.Manager)
	ann := ht.Visitor()
	ann.Prepare(func(s *holdfast.Session) { user.Set(s, "ann") })
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() { ann.Do(shop, post("/add", "article=pen")) })
		all.Go(func() { ann.Session() })
	}
	all.Wait()
	if n := len(cart.Get(ann.Session())); n != 8 {
		t.Errorf("%d pens in the cart, want 8", n)
	}
}

// Live values are there in tests of an application that has them, and a Manager whose
// store is elsewhere refuses to start in that same program.
func TestLiveKey(t *testing.T) {
	ht := holdfasttest.New(t, nil)
	ann := ht.Visitor()
	ann.Prepare(func(s *holdfast.Session) { socket.Set(s, func() string { return "open" }) })
	w := ann.Do(ht.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := holdfast.From(r)
		io.WriteString(w, socket.Get(s)())
		user.Set(s, "ann")
	})), get("/"))
	wantBody(t, w, 200, "open")
	if f, ok := socket.Lookup(ann.Session()); !ok || f() != "open" {
		t.Error("the live value is not in the session")
	}
	elsewhere := struct{ store.Store }{ht.Store} // keeps no items, as far as anybody can see
	func() {
		defer func() {
			if p, _ := recover().(string); !strings.Contains(p, `"socket"`) || !strings.Contains(p, "shop_test.go") || !strings.Contains(p, "AllowLiveKeys") {
				t.Errorf("a store elsewhere: %q, want a panic that names the key, its place and what to do", p)
			}
		}()
		holdfast.New(elsewhere, nil)
	}()

	m := holdfast.New(elsewhere, &holdfast.Options{AllowLiveKeys: true})
	defer m.Close(context.Background())
	w = ht.Visitor().Do(m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		socket.Set(holdfast.From(r), nil)
	})), get("/"))
	if w.Code != 500 {
		t.Errorf("a live value for a store elsewhere: %d, want 500", w.Code)
	}
}

// Test binaries of applications get nothing that they do not need.
func TestImports(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, unwanted := range []string{"porcupine", "holdfast/storetest", "go-cmp"} {
		if strings.Contains(string(out), unwanted) {
			t.Errorf("the package imports %s", unwanted)
		}
	}
}
