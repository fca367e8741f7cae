package holdfast

import (
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-session/holdfast/store"
)

func TestCutSegment(t *testing.T) {
	for _, test := range []struct{ path, rest, id string }{
		{"/(S(" + idA + "))/page.aspx", "/page.aspx", idA},
		{"/app/(S(" + idA + "))/page.aspx", "/app/page.aspx", idA},
		{"/app/(X(1)A(x y)F(t)S(" + idA + "))/page.aspx", "/app/page.aspx", idA},
		{"/(S(" + idA + "))/", "/", idA},
		{"/(S(" + idA + "))", "/", idA},
		{"/app/(S(" + idA + "))", "/app", idA},
		{"/(S(" + idA + "))/(S(" + idB + "))/x", "/(S(" + idA + "))/x", idB}, // the last one
		{"/(X())/page", "/page", ""},                                         // the least there is
		{"/(X(1))/page", "/page", ""},
		{"/(" + idA + ")/page", "/(" + idA + ")/page", ""}, // ASP.NET 1.1's
		{"/(s(" + idA + "))/page", "/(s(" + idA + "))/page", ""},
		{"/()/page", "/()/page", ""},
		{"/wiki/Go_(game)/rules", "/wiki/Go_(game)/rules", ""},
		{"/wiki/Go_(game)", "/wiki/Go_(game)", ""},
		// A parenthesis of the path itself does not hide the segment.
		{"/(S(" + idA + "))/wiki/Go_(game)/rules", "/wiki/Go_(game)/rules", idA},
		{"/(S(" + idA + "))/wiki/Go_(game)", "/wiki/Go_(game)", idA},
		{"/(S(" + idA + "))/(draft)/", "/(draft)/", idA},
		{"/app(1)/(S(" + idA + "))/f(x)/(y)", "/app(1)/f(x)/(y)", idA},
		{"/wiki/Go_(game)/(S(" + idA + "))", "/wiki/Go_(game)", idA},
		{"/", "/", ""},
		{"", "", ""},
		{")/", ")/", ""},
		{"/(S(a/b))/x", "/(S(a/b))/x", ""},
	} {
		if rest, seg, _ := cutSegment(test.path); rest != test.rest || seg.id != test.id {
			t.Errorf("cutSegment(%q) = %q, %q; want %q, %q", test.path, rest, seg.id, test.rest, test.id)
		}
	}
}

func TestRelink(t *testing.T) {
	a := "/(S(" + idA + "))"
	for link, want := range map[string]string{
		"/cart":                                 a + "/cart",
		"/cart?x=1#y":                           a + "/cart?x=1#y",
		"/search?q=/(S(b))/":                    a + "/search?q=/(S(b))/",
		"/(S(" + idB + "))/cart":                a + "/cart",
		"/wiki/Go_(game)/rules":                 a + "/wiki/Go_(game)/rules",
		"/(S(" + idB + "))/Go_(game)/rules?x=1": a + "/Go_(game)/rules?x=1",
		"/":                                     a + "/",
		"cart":                                  "cart",
		"https://bank.example/":                 "https://bank.example/",
		"//bank.example/":                       "//bank.example/",
		`/\bank.example/`:                       `/\bank.example/`,
		"mailto:ann@shop.example":               "mailto:ann@shop.example",
		"":                                      "",
	} {
		if got := relink(link, idA); got != want {
			t.Errorf("relink(%q) = %q, want %q", link, got, want)
		}
	}
}

func TestRedirectTellsOfTheLoss(t *testing.T) {
	r := httptest.NewRequest("GET", "/(S("+idB+"))/a%2Fb%20c?x=%2F", nil)
	why := store.Reason{Kind: store.Expired, Age: 90 * time.Second}
	to := redirectTo(r, urlSegment{id: idA, lost: why, tries: 1, at: 1800000000})
	if want := "/(L(expired.90.1.1800000000)S(" + idA + "))/a%2Fb%20c?x=%2F"; to != want {
		t.Errorf("redirectTo = %q, want %q", to, want)
	}
	if _, seg, _ := cutSegment(strings.TrimSuffix(to, "?x=%2F")); seg.lost != why || seg.tries != 1 || seg.at != 1800000000 || seg.id != idA {
		t.Errorf("read back as %+v", seg)
	}
}

func TestAgeOfTheLossGrows(t *testing.T) {
	at := time.Unix(1800000000, 0)
	expired := urlSegment{lost: store.Reason{Kind: store.Expired, Age: 90 * time.Second}, at: at.Unix()}
	for _, test := range []struct {
		seg    urlSegment
		passed time.Duration
		want   time.Duration
	}{
		{expired, 0, 90 * time.Second},
		{expired, 900 * time.Millisecond, 90 * time.Second}, // perhaps it was sent on just now
		{expired, time.Hour, time.Hour + 89*time.Second},
		{expired, -time.Hour, 90 * time.Second}, // the clock of another machine
		{urlSegment{}, time.Hour, 0},            // nothing was lost
	} {
		if got := test.seg.lostBy(at.Add(test.passed)); got.Kind != test.seg.lost.Kind || got.Age != test.want {
			t.Errorf("%+v, %v later: %v ago, want %v", test.seg, test.passed, got.Age, test.want)
		}
	}
}

func FuzzCutSegment(f *testing.F) {
	f.Add("/(S(" + idA + "))/page.aspx")
	f.Add("/app/(X(1)A(x)F(t)S(" + idA + "))/page.aspx")
	f.Add("/(L(expired.90.1.1800000000)S(" + idA + "))")
	f.Add("/(((((())/)/)")
	f.Add("/(S(" + idA + "))/wiki/Go_(game)/rules")
	f.Add("/wiki/Go_(game)/rules")
	f.Add("/wiki/Go_(game)")
	f.Add("/(draft)/")
	f.Fuzz(func(t *testing.T, path string) {
		rest, seg, ok := cutSegment(path)
		if !ok && (rest != path || seg != urlSegment{}) {
			t.Errorf("cutSegment(%q) found nothing, and %q, %+v", path, rest, seg)
		}
		if ok && len(rest) >= len(path) {
			t.Errorf("cutSegment(%q) = %q, which is not shorter", path, rest)
		}
		if strings.HasPrefix(path, "/") {
			// Whatever the path is like, the segment that we put before it is found.
			if again, seg, _ := cutSegment(withSegment(path, idA)); !ok && (seg.id != idA || again != path) {
				t.Errorf("with a segment and without: %q, ID %q, want %q", again, seg.id, path)
			}
		}
	})
}
