package stateserver

import (
	"bytes"
	"strings"
	"testing"

	"github.com/holdfast-session/holdfast/store"
)

// target is that of the session lit3… of ASP.NET's first web site.
const target = "%2fLM%2fW3SVC%2f1%2fROOT(cAHkmVhipCLv%2fQnONQmPsKL%2bq%2fAjnK%2fnYS9aV3Zlad8%3d)%2flit3py55t21z5v55vlm25s55"

var targetID = store.ID{App: "/LM/W3SVC/1/ROOT(cAHkmVhipCLv/QnONQmPsKL+q/AjnK/nYS9aV3Zlad8=)", Session: "lit3py55t21z5v55vlm25s55"}

func targetOf(id store.ID) string {
	return string(appendSession([]byte(appPrefix(id.App)), id.Session))
}

func TestTarget(t *testing.T) {
	if got := targetOf(store.ID{App: "/LM/W3SVC/1/ROOT", Session: "lit3py55t21z5v55vlm25s55"}); got != target {
		t.Errorf("got  %s\nwant %s", got, target)
	}
}

func TestKey(t *testing.T) {
	for _, tc := range []struct {
		target string
		want   store.ID
	}{
		{target, targetID},
		{"/LM/W3SVC/1/ROOT(cAHkmVhipCLv%2fQnONQmPsKL%2bq%2fAjnK%2fnYS9aV3Zlad8%3d)/lit3py55t21z5v55vlm25s55", targetID},
		{"//LM/W3SVC/1/Root(rFlg8p6U4SNNj7SSJTCgM5GI9h4=)/z445", store.ID{App: "/LM/W3SVC/1/Root(rFlg8p6U4SNNj7SSJTCgM5GI9h4=)", Session: "z445"}},
		{"%2fA(h)%2Fx+y", store.ID{App: "/A(h)", Session: "x y"}},
		{"/A(h)/b/c", store.ID{App: "/A(h)", Session: "b/c"}},
		{"/A/b", store.ID{App: "/A/", Session: "b"}},
		{"/b", store.ID{App: "/", Session: "b"}},
		{"b", store.ID{Session: "b"}},
		{"/", store.ID{App: "/"}},
		{"/A(h)", store.ID{App: "/", Session: "A(h)"}},
	} {
		key, ok := appendKey(nil, []byte(tc.target))
		if got := splitKey(key); !ok || got != tc.want {
			t.Errorf("%s: %q, %v; want %q", tc.target, got, ok, tc.want)
		}
	}
	for _, bad := range []string{"%", "/a%2", "/a%zz", "/%u0041"} {
		if key, ok := appendKey(nil, []byte(bad)); ok {
			t.Errorf("%s: %q; want an error", bad, key)
		}
	}
}

// FuzzKey checks that no two sessions of a client, and no two keys of a server,
// become one.
func FuzzKey(f *testing.F) {
	f.Add("/LM/W3SVC/1/ROOT", "lit3py55t21z5v55vlm25s55", "/", "a")
	f.Add("/", "a(b)/c", "/a(b)", "c")
	f.Add("LM", "x", "/LM", "x")
	f.Add("", "%2f", "", "/")
	f.Add("/a b", "ü/%", "/a+b", "%c3%bc")
	f.Add("/A(NDbkwGi0191wFdDv0yOUOobtHns=)", "s", "A(NDbkwGi0191wFdDv0yOUOobtHns=)", "s")
	f.Add(appKey("/a"), "s", "/a", "s")
	f.Add(appKey("a"), "s", "a", "s")
	f.Fuzz(func(t *testing.T, app1, session1, app2, session2 string) {
		a, b := store.ID{App: app1, Session: session1}, store.ID{App: app2, Session: session2}
		key1, ok1 := appendKey(nil, []byte(targetOf(a)))
		key2, ok2 := appendKey(nil, []byte(targetOf(b)))
		if !ok1 || !ok2 {
			t.Fatalf("%q and %q: the server cannot read the targets", a, b)
		}
		if (a == b) != (string(key1) == string(key2)) {
			t.Errorf("%q and %q have the keys %q and %q", a, b, key1, key2)
		}
		id1 := splitKey(key1)
		if !strings.HasSuffix(id1.App, ")") || strings.Contains(id1.Session, "/") {
			t.Errorf("%q was split into %q", key1, id1)
		}
		if named, ok := clientID(splitKey(key1)); !ok || named != a {
			t.Errorf("%q is listed as %q, %v", a, named, ok)
		}
		// What is not a client's target is not merged either.
		id1, id2 := splitKey([]byte(session1)), splitKey([]byte(session2))
		if (id1 == id2) != (session1 == session2) {
			t.Errorf("the keys %q and %q are split into %q and %q", session1, session2, id1, id2)
		}
	})
}

func TestParseAddr(t *testing.T) {
	for _, tc := range []struct{ addr, network, address string }{
		{"localhost:42424", "tcp", "localhost:42424"},
		{"tcpip=10.0.0.100:42424", "tcp", "10.0.0.100:42424"},
		{"[::1]:42424", "tcp", "[::1]:42424"},
		{"tcpip=[::1]:1", "tcp", "[::1]:1"},
		{":42424", "tcp", ":42424"},
		{"unix:/run/holdfast.sock", "unix", "/run/holdfast.sock"},
	} {
		network, address, err := ParseAddr(tc.addr)
		if network != tc.network || address != tc.address || err != nil {
			t.Errorf("%s: %s, %s, %v; want %s, %s", tc.addr, network, address, err, tc.network, tc.address)
		}
	}
	for _, bad := range []string{"", "localhost", "localhost:", "localhost:http", "localhost:65536", "::1:42424", "unix:", "tcpip=", "höst:1", "a b:1", "TCPIP=a:1:2"} {
		_, _, err := ParseAddr(bad)
		if err == nil || !strings.Contains(err.Error(), "write host:port") && !strings.Contains(err.Error(), "write unix:") {
			t.Errorf("%q: %v; want an error that says what to write", bad, err)
		}
	}
	if _, err := Dial("nowhere", nil); err == nil {
		t.Error("Dial took an address without a port")
	}
}

// What a connection remembers of earlier targets changes no key.
func TestRememberedTargetChangesNothing(t *testing.T) {
	var remembered appTarget
	for _, to := range []string{
		targetOf(store.ID{App: "/LM/W3SVC/1/ROOT", Session: "a"}), targetOf(store.ID{App: "/LM/W3SVC/1/ROOT", Session: "b%/ c"}),
		"/" + targetOf(store.ID{App: "/LM/W3SVC/1/ROOT", Session: "a"}), targetOf(store.ID{App: "ü)/(", Session: ")/"}), targetOf(store.ID{App: "ü)/(", Session: "a"}),
		"%2fA(h)%2fs", "%2fA(h)%2f", "%2fA(h)%2f%2", "%2fA(h)%2f%41)%2f%zz", "%2fA(h)%2f%41)%2f%42", "/A(h)/s", "//A(h)%2fs", "%2fB(h)%2f" + strings.Repeat("s", 2*keepTarget),
	} {
		for range 2 {
			want, wantOK := appendKey([]byte("before"), []byte(to))
			got, ok := remembered.appendKey([]byte("before"), []byte(to))
			if ok != wantOK || ok && !bytes.Equal(got, want) {
				t.Errorf("%s: %q, %v; want %q, %v", to, got, ok, want, wantOK)
			}
		}
	}
}
