package holdfast_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-session/holdfast"
)

func (st *shop) hitPages() {
	st.HandleFunc("/nothing", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "nothing") })
	st.do("/hit", holdfast.Exclusive, func(s *holdfast.Session) any {
		hits.Update(s, increment)
		return hits.Get(s)
	})
	st.do("/read", holdfast.ReadOnly, func(s *holdfast.Session) any { return hits.Get(s) })
}

// withCookies makes a request with these Cookie headers instead of the browser's.
func (b *browser) withCookies(path string, headers ...string) *answer {
	b.t.Helper()
	c := newBrowser(b.t, b.client.Transport, b.base.String())
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	rp := c.fetch(ctx, path, func(h http.Header) { h["Cookie"] = headers })
	if rp.err != nil {
		b.t.Errorf("%s with %.80q: %v", path, headers, rp.err)
	}
	return rp
}

func TestMalformedCookieIsNoSessionAndCostsNothing(t *testing.T) {
	inEveryMode(t, func(t *testing.T, md mode) {
		st := newShop(t, md, nil)
		st.hitPages()
		b := st.browser()
		b.want("/hit", "1")
		id := b.id()
		before := st.faults.Count()
		for _, cookie := range []string{
			"session=", "session", "=", ";;;", "session=x", "session=" + id[:23], "session=" + id + "a",
			"session=" + strings.Repeat("a", 23) + "6", "session=" + strings.Repeat("é", 12), "session=../../../../etc/passwd00",
			"session=" + strings.Repeat("a", 100_000), "session=\"" + id, "session=" + id[:12] + " " + id[13:], "session=%61" + id[1:],
			"Session=" + id, "sessio=" + id, "xsession=" + id, strings.Repeat("session=b; ", 1000), "session=(S(" + id + "))",
		} {
			for _, path := range []string{"/read", "/nothing"} {
				rp := b.withCookies(path, cookie)
				if rp.status != 200 || rp.body != map[string]string{"/read": "0", "/nothing": "nothing"}[path] {
					t.Errorf("%s with the cookie %.60q: %d %q", path, cookie, rp.status, rp.body)
				}
				if c := rp.sessionCookie(); c != nil {
					t.Errorf("%s with the cookie %.60q was sent %v", path, cookie, c)
				}
			}
		}
		if n := st.faults.Count() - before; n != 0 {
			t.Errorf("%d calls of the store for malformed cookies", n)
		}
		rp := b.withCookies("/hit", "session="+id+"a")
		if c := rp.sessionCookie(); rp.body != "1" || c == nil || c.Value == id {
			t.Errorf("after a malformed cookie: %d %q, %v", rp.status, rp.body, c)
		}
	})
}

func TestForeignCookieIsNoSession(t *testing.T) {
	byEveryIdentity(t, func(t *testing.T, md mode) {
		st := newShop(t, md, nil)
		st.hitPages()
		foreign := newShop(t, md, nil) // another application at the same store
		foreign.hitPages()
		f := foreign.browser()
		f.want("/hit", "1")
		b := st.browser()
		b.setID(f.id())
		before := st.faults.Count()
		b.want("/read", "0")
		if n := st.faults.Count() - before; n != 1 {
			t.Errorf("%d calls of the store for a foreign cookie, want 1", n)
		}
		b.want("/hit", "1")
		if b.id() == f.id() {
			t.Error("the foreign ID was adopted")
		}
		f.want("/hit", "2")
	})
}

func TestDuplicateCookiesAreTriedUpToThree(t *testing.T) {
	inEveryMode(t, func(t *testing.T, md mode) {
		st := newShop(t, md, nil)
		st.hitPages()
		b := st.browser()
		b.want("/hit", "1")
		id := b.id()
		dead := func(c string) string { return "session=" + strings.Repeat(c, 24) }
		live := "session=" + id
		for _, c := range []struct {
			headers []string
			body    string
			calls   int
		}{
			{[]string{live}, "1", 1},
			{[]string{live + "; " + live + "; " + live}, "1", 1},
			{[]string{live + "; " + dead("a")}, "1", 1},
			{[]string{dead("a") + "; " + live}, "1", 2},
			{[]string{dead("a"), live}, "1", 2},
			{[]string{"session=bad; x=y; " + dead("a") + ";" + dead("b") + ";   " + live}, "1", 3},
			{[]string{dead("a") + "; " + dead("a") + "; " + dead("a") + "; " + live}, "1", 2},
			{[]string{dead("a") + "; " + dead("b") + "; " + dead("c") + "; " + live}, "0", 3},
			{[]string{`session="` + id + `"`}, "1", 1},
			{[]string{"session=" + strings.ToUpper(id)}, "1", 1},
		} {
			before := st.faults.Count()
			rp := b.withCookies("/read", c.headers...)
			if rp.status != 200 || rp.body != c.body || rp.sessionCookie() != nil {
				t.Errorf("%q: %d %q, cookie %v, want %q and none", c.headers, rp.status, rp.body, rp.sessionCookie(), c.body)
			}
			if n := st.faults.Count() - before; n != c.calls {
				t.Errorf("%q: %d calls of the store, want %d", c.headers, n, c.calls)
			}
		}
		b.want("/hit", "2")
	})
}

func TestNothingIsStoredUntilSomethingIsPutIn(t *testing.T) {
	byEveryIdentity(t, func(t *testing.T, md mode) {
		st := newShop(t, md, nil)
		st.hitPages()
		st.browser().want("/read", "0")
		st.browser().want("/nothing", "nothing")
		pages := map[string]func(s *holdfast.Session) any{
			"/look":       func(s *holdfast.Session) any { return fmt.Sprint(hits.Get(s), s.Len(), s.IsNew()) },
			"/undo":       func(s *holdfast.Session) any { hits.Set(s, 1); hits.Delete(s); return nil },
			"/clear":      func(s *holdfast.Session) any { hits.Set(s, 1); s.Clear(); return nil },
			"/discard":    func(s *holdfast.Session) any { hits.Set(s, 1); s.Discard(); return nil },
			"/abandon":    func(s *holdfast.Session) any { hits.Set(s, 1); s.Abandon(); return nil },
			"/timeout":    func(s *holdfast.Session) any { s.SetTimeout(time.Hour); return nil },
			"/regenerate": func(s *holdfast.Session) any { s.RegenerateID(); return nil },
		}
		calls := st.faults.Count()
		pages["/subject"] = func(s *holdfast.Session) any { s.SetSubject("ann"); return nil }
		for path, h := range pages {
			for _, a := range changing {
				st.do("/"+a.String()+path, a, h)
				b := st.browser()
				rp := b.wantStatus("/"+a.String()+path, 200)
				if !st.way.urls && (rp.told != nil || len(rp.header["Set-Cookie"]) != 0 || b.id() != "") {
					t.Errorf("%v%s was told an ID: %v", a, path, rp.header)
				}
			}
		}
		if st.way.urls { // who may change his session is sent on to an empty one
			calls += st.faults.Count() - st.faults.Count("Save", "Touch")
			if n := st.faults.Count("Create"); n != 2*len(pages) {
				t.Errorf("%d Creates for %d visitors", n, 2*len(pages))
			}
		}
		if n := st.faults.Count() - calls; n != 0 {
			t.Errorf("%d calls of the store", n)
		}
		creates := st.faults.Count("Create")
		b := st.browser()
		if rp := b.want("/hit", "1"); rp.told == nil || (len(rp.header["Set-Cookie"]) == 1) != (st.way.identity == nil) {
			t.Errorf("the visitor was told no ID, or not in the one way: %v", rp.header)
		}
		if rp := b.want("/hit", "2"); rp.told != nil || len(rp.header["Set-Cookie"]) != 0 {
			t.Errorf("a second time he was told an ID: %v", rp.header)
		}
		if n := st.faults.Count("Create") - creates; n != 1 {
			t.Errorf("%d Creates", n)
		}
	})
}

func TestCookieAttributes(t *testing.T) {
	for _, c := range []struct {
		name   string
		cookie holdfast.Cookie
		tls    bool
		want   string // after the value
	}{
		{"by default", holdfast.Cookie{}, false, "session=*; Path=/; HttpOnly; SameSite=Lax"},
		{"by default over TLS", holdfast.Cookie{}, true, "session=*; Path=/; HttpOnly; Secure; SameSite=Lax"},
		{"Never", holdfast.Cookie{Secure: holdfast.Never}, true, "session=*; Path=/; HttpOnly; SameSite=Lax"},
		{"Always", holdfast.Cookie{Secure: holdfast.Always}, false, "__Host-session=*; Path=/; HttpOnly; Secure; SameSite=Lax"},
		{"Always with a path", holdfast.Cookie{Secure: holdfast.Always, Path: "/shop"}, false, "session=*; Path=/shop; HttpOnly; Secure; SameSite=Lax"},
		{"all of them", holdfast.Cookie{Name: "sid-session", Domain: "example.com", Path: "/a", SameSite: http.SameSiteStrictMode, MaxAge: time.Hour}, false,
			"sid-session=*; Path=/a; Domain=example.com; Max-Age=3600; HttpOnly; SameSite=Strict"},
	} {
		t.Run(c.name, func(t *testing.T) {
			st := buildShop(t, inProc.open(t), &holdfast.Options{Cookie: c.cookie})
			st.hitPages()
			st.signInPages(holdfast.Exclusive)
			server := httptest.NewUnstartedServer(st.m.Handler(st))
			if c.tls {
				server.StartTLS()
			} else {
				server.Start()
			}
			defer server.Close()
			b := newBrowser(t, server.Client().Transport, server.URL)
			rp := b.get("/hit")
			got := rp.sessionCookie()
			if got == nil {
				t.Fatal("no cookie")
			}
			// One that the browser keeps says when it was sent.
			id, sent, kept := strings.Cut(got.Value, "~")
			if len(id) != 24 || kept != (c.cookie.MaxAge > 0) || kept && sent == "" {
				t.Fatalf("the cookie %v", got)
			}
			if text := strings.Replace(rp.header.Get("Set-Cookie"), got.Value, "*", 1); text != c.want {
				t.Errorf("\n%s, want\n%s", text, c.want)
			}
			// The browser forgets it only if the attributes are the same.
			rp = b.withCookies("/out", got.Name+"="+got.Value)
			gone := rp.header.Get("Set-Cookie")
			want := strings.Replace(strings.Replace(c.want, "=*", "=", 1), "; Max-Age=3600", "", 1)
			if strings.Replace(gone, "; Max-Age=0", "", 1) != want || !strings.Contains(gone, "Max-Age=0") {
				t.Errorf("after Abandon\n%s, want\n%s with Max-Age=0", gone, want)
			}
		})
	}
}

func TestResponsesAreNotSharedByCaches(t *testing.T) {
	for _, w := range ways {
		t.Run(w.name, func(t *testing.T) {
			md := inProc
			md.way = w
			st := newShop(t, md, nil)
			st.hitPages()
			st.page("/own", holdfast.ReadOnly, func(w http.ResponseWriter, _ *http.Request, s *holdfast.Session) {
				w.Header().Set("Cache-Control", "no-cache")
				w.Header().Set("Vary", "Accept, cookie")
			})
			vary, first, own := "Cookie", "no-store", "Accept, cookie"
			switch {
			case w.urls: // each has URLs of his own, and the redirect to them is not kept
				vary, first = "", "private"
			case w.identity != nil:
				if vary = w.identity.Vary(); vary != "" {
					own += "|" + vary
				}
			}
			b := st.browser()
			for _, c := range []struct{ path, cache, vary string }{
				{"/nothing", "", ""},
				{"/read", "private", vary},
				{"/hit", first, vary},
				{"/hit", "private", vary},
				{"/own", "no-cache", own},
				{"/nothing", "", ""},
			} {
				h := b.wantStatus(c.path, 200).header
				if h.Get("Cache-Control") != c.cache || strings.Join(h["Vary"], "|") != c.vary {
					t.Errorf("%s: Cache-Control %q, Vary %q, want %q, %q", c.path, h.Get("Cache-Control"), h["Vary"], c.cache, c.vary)
				}
			}
		})
	}
}

func TestOneStoreCallBeforeTheHandler(t *testing.T) {
	byEveryIdentity(t, func(t *testing.T, md mode) {
		st := newShop(t, md, nil)
		st.hitPages()
		var at int
		for _, a := range accesses[1:] {
			st.do("/"+a.String(), a, func(s *holdfast.Session) any {
				at = st.faults.Count()
				return hits.Get(s)
			})
		}
		b := st.browser()
		b.want("/hit", "1")
		for _, c := range []struct {
			a     holdfast.Access
			after int // calls after the handler
		}{{holdfast.ReadOnly, 0}, {holdfast.Merge, 0}, {holdfast.Exclusive, 1}} {
			before := st.faults.Count()
			b.want("/"+c.a.String(), "1")
			if at-before > 1 {
				t.Errorf("%v: %d calls of the store before the handler", c.a, at-before)
			}
			waitUntil(t, "the lock is given up", func() bool { return st.faults.Count()-at >= c.after })
			if n := st.faults.Count() - at; n > c.after {
				t.Errorf("%v: %d calls of the store after the handler of a request that changes nothing", c.a, n)
			}
		}
		before := st.faults.Count()
		st.browser().want("/read", "0")
		b.want("/nothing", "nothing") // may restart the timeout, later
		if n := st.faults.Count() - before - st.faults.Count("Touch"); n != 0 {
			t.Errorf("%d calls of the store for requests without a session", n)
		}
	})
}
