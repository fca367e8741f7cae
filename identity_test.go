package holdfast

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

const (
	idA = "aaaaaaaaaaaaaaaaaaaaaaaa"
	idB = "bbbbbbbbbbbbbbbbbbbbbbbb"
	idC = "cccccccccccccccccccccccc"
	idD = "dddddddddddddddddddddddd"
)

func TestCookieRead(t *testing.T) {
	c := Cookie{Name: "session"}
	for _, test := range []struct {
		headers []string
		want    []string
	}{
		{nil, nil},
		{[]string{"session=" + idA}, []string{idA}},
		{[]string{`session="` + idA + `"`}, []string{idA}},
		{[]string{"a=b; session=" + idA + "; c=d"}, []string{idA}},
		{[]string{"a=b;session=" + idA}, []string{idA}},
		{[]string{"Session=" + idA}, nil},
		{[]string{"session=" + strings.ToUpper(idA)}, []string{idA}},
		{[]string{"session=" + idA + "; session=" + idB}, []string{idA, idB}},
		{[]string{"session=" + idA, "session=" + idB}, []string{idA, idB}},
		{[]string{"session=" + idA + "; session=" + idA}, []string{idA}},
		{[]string{"session=x; session=; session; session=" + idA}, []string{idA}},
		{[]string{"session=" + idA + "; session=" + idB + "; session=" + idC + "; session=" + idD}, []string{idA, idB, idC}},
		{[]string{"session=" + strings.Repeat("a", 1<<16)}, nil},
		{[]string{strings.Repeat(";", 1<<16) + "session=" + idA}, []string{idA}},
	} {
		r := &http.Request{Header: http.Header{"Cookie": test.headers}}
		if got := c.read(r, nil, parseID); !slices.Equal(got, test.want) {
			t.Errorf("read(%.80q) = %q, want %q", test.headers, got, test.want)
		}
	}
}

func TestCookieWrite(t *testing.T) {
	plain := httptest.NewRequest("GET", "http://shop.example/", nil)
	secure := httptest.NewRequest("GET", "https://shop.example/", nil)
	secure.TLS = new(tls.ConnectionState)
	for _, test := range []struct {
		c    Cookie
		r    *http.Request
		id   string
		want string
	}{
		{Cookie{}, plain, idA, "session=" + idA + "; Path=/; HttpOnly; SameSite=Lax"},
		{Cookie{}, secure, idA, "session=" + idA + "; Path=/; HttpOnly; Secure; SameSite=Lax"},
		{Cookie{Secure: Never}, secure, idA, "session=" + idA + "; Path=/; HttpOnly; SameSite=Lax"},
		{Cookie{Secure: Always}, plain, idA, "__Host-session=" + idA + "; Path=/; HttpOnly; Secure; SameSite=Lax"},
		{Cookie{Secure: Always, Domain: "shop.example"}, plain, idA, "session=" + idA + "; Path=/; Domain=shop.example; HttpOnly; Secure; SameSite=Lax"},
		{Cookie{Name: "sid", Path: "/shop", SameSite: http.SameSiteStrictMode}, plain, idA, "sid=" + idA + "; Path=/shop; HttpOnly; SameSite=Strict"},
		{Cookie{MaxAge: time.Hour}, plain, "", "session=; Path=/; Max-Age=0; HttpOnly; SameSite=Lax"},
	} {
		test.c.complete()
		h := make(http.Header)
		test.c.write(h, test.id, 0, test.r.TLS != nil)
		if got := h.Get("Set-Cookie"); got != test.want {
			t.Errorf("%+v: Set-Cookie: %s, want %s", test.c, got, test.want)
		}
	}
}

func TestCookieMistakesPanic(t *testing.T) {
	for _, c := range []Cookie{
		{Name: "a b"},
		{Name: "__Host-x"},
		{Name: "__Host-x", Secure: Always, Domain: "shop.example"},
		{Path: "/\x00"},
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("complete(%+v) did not panic", c)
				}
			}()
			c.complete()
		}()
	}
}

// IDs that a cookie or a URL would change, so that no visitor would ever be known again,
// are found when the program starts.
func TestIDsThatWouldNotComeBackPanic(t *testing.T) {
	byCookie := func(id string) string {
		c, h := Cookie{Name: "session"}, make(http.Header)
		c.write(h, id, time.Hour, false)
		sent, _, _ := strings.Cut(h.Get("Set-Cookie"), ";")
		return strings.Join(c.read(&http.Request{Header: http.Header{"Cookie": {"a=b; " + sent}}}, nil, asItIs), "")
	}
	byURL := func(id string) string {
		u, err := url.Parse("http://shop.example" + withSegment("/cart", id))
		if err != nil {
			return ""
		}
		_, seg, _ := cutSegment(u.Path)
		return seg.id
	}
	for _, test := range []struct {
		by        Identity
		refused   string
		comesBack func(id string) string
	}{
		{nil, "~\";,\\ \x00\n\x7f\u00e9", byCookie},
		{Cookieless(), "\";,\\ \x00\n\x7f\u00e9()/%?#<>[]^`{|}*!'", byURL},
		{Header("X-Session"), "", func(id string) string { return id }},
	} {
		for c := range rune(0x100) {
			refused := strings.ContainsRune(test.refused, c)
			if !refused && (c < ' ' || c > '~') {
				continue
			}
			id := newID() + string(c) + "x"
			message := panics(func() {
				New(remote{}, &Options{Identity: test.by, IDs: IDs{New: func() string { return id }, Parse: asItIs}})
			})
			if refused != strings.Contains(message, "does not come back whole") || !refused && message != "" {
				t.Errorf("%T, IDs with %q: New says %q", test.by, c, message)
			}
			if refused {
				continue
			}
			if got := test.comesBack(id); got != id {
				t.Errorf("%T: the ID %q came back as %q", test.by, id, got)
			}
		}
	}
	// It does not help that most of them have no such character.
	n := 0
	o := &Options{IDs: IDs{Parse: asItIs, New: func() string {
		if n++; n%3 == 0 {
			return newID() + "~"
		}
		return newID()
	}}}
	if panics(func() { New(remote{}, o) }) == "" {
		t.Error("a '~' in every third ID was not found")
	}
}

// asItIs takes everything for an ID.
func asItIs(s string) (string, bool) { return s, true }

// panics returns what f panics with, "" if it does not.
func panics(f func()) (message string) {
	defer func() {
		if p := recover(); p != nil {
			message = fmt.Sprint(p)
		}
	}()
	f()
	return ""
}

func TestGuard(t *testing.T) {
	for _, test := range []struct {
		in        http.Header
		cookieSet bool
		want      http.Header
	}{
		{http.Header{}, false, http.Header{"Vary": {"Cookie"}, "Cache-Control": {"private"}}},
		{http.Header{}, true, http.Header{"Vary": {"Cookie"}, "Cache-Control": {"no-store"}}},
		{http.Header{"Cache-Control": {"public, max-age=60"}}, false, http.Header{"Vary": {"Cookie"}, "Cache-Control": {"public, max-age=60"}}},
		{http.Header{"Cache-Control": {"public, max-age=60"}}, true, http.Header{"Vary": {"Cookie"}, "Cache-Control": {"no-store"}}},
		{http.Header{"Vary": {"Accept"}}, false, http.Header{"Vary": {"Accept", "Cookie"}, "Cache-Control": {"private"}}},
		{http.Header{"Vary": {"Accept, cookie"}}, false, http.Header{"Vary": {"Accept, cookie"}, "Cache-Control": {"private"}}},
		{http.Header{"Vary": {"*"}}, false, http.Header{"Vary": {"*"}, "Cache-Control": {"private"}}},
	} {
		got := test.in.Clone()
		guard(got, test.cookieSet, varyCookie)
		for _, name := range []string{"Vary", "Cache-Control"} {
			if !slices.Equal(got[name], test.want[name]) {
				t.Errorf("guard(%v, %v): %s: %q, want %q", test.in, test.cookieSet, name, got[name], test.want[name])
			}
		}
	}
	// The shared values are not changed by an Add to one response.
	h := make(http.Header)
	guard(h, false, varyCookie)
	h.Add("Vary", "Accept")
	if len(varyCookie) != 1 || cap(varyCookie) != 1 {
		t.Error("a response changed the shared Vary value")
	}
}

func FuzzCookieRead(f *testing.F) {
	f.Add("session=" + idA)
	f.Add(`a=b; session="` + idA + `"; session=x`)
	f.Add("session==;;=session; session")
	f.Fuzz(func(t *testing.T, header string) {
		c := Cookie{Name: "session"}
		ids := c.read(&http.Request{Header: http.Header{"Cookie": {header}}}, nil, parseID)
		if len(ids) > maxCandidates {
			t.Errorf("%d candidates of %q", len(ids), header)
		}
		for _, id := range ids {
			if canonical, ok := parseID(id); !ok || canonical != id {
				t.Errorf("read(%q) has %q", header, id)
			}
		}
	})
}
