package holdfast_test

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/holdfast-session/holdfast"
	"github.com/holdfast-session/holdfast/inproc"
	"github.com/holdfast-session/holdfast/logstore"
)

var (
	backedHits = holdfast.NewKey[int]("backed-hits")
	backedTags = holdfast.NewKey[[]string]("backed-tags")
)

// TestBackedSessionsOutliveTheProcess has sessions in this process with a folder behind
// them: the next process goes on with them, and one that was signed out stays out.
func TestBackedSessionsOutliveTheProcess(t *testing.T) {
	dir := t.TempDir()
	jar := map[string]*http.Cookie{}
	process := func(use func(visit func(who string, do func(s *holdfast.Session)))) {
		t.Helper()
		backing, err := logstore.Open(dir, nil)
		if err != nil {
			t.Fatal(err)
		}
		sessions := inproc.New(&inproc.Options{Backing: backing})
		m := holdfast.New(sessions, nil)
		use(func(who string, do func(s *holdfast.Session)) {
			t.Helper()
			r := httptest.NewRequest("GET", "/", nil)
			if c := jar[who]; c != nil {
				r.AddCookie(c)
			}
			w := httptest.NewRecorder()
			m.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { do(holdfast.From(r)) })).ServeHTTP(w, r)
			if w.Code != http.StatusOK {
				t.Fatalf("%s got the status %d: %s", who, w.Code, w.Body)
			}
			for _, c := range w.Result().Cookies() {
				jar[who] = c
			}
		})
		for _, close := range []func() error{func() error { return m.Close(t.Context()) }, sessions.Close, backing.Close} {
			if err := close(); err != nil {
				t.Fatalf("Close: %v", err)
			}
		}
	}
	hit := func(s *holdfast.Session) {
		backedHits.Update(s, func(n int) int { return n + 1 })
		backedTags.Update(s, func(tags []string) []string { return append(tags, "x") })
	}
	var old *http.Cookie
	for n := range 3 {
		process(func(visit func(string, func(*holdfast.Session))) {
			for range 5 {
				visit("anna", hit)
			}
			visit("bert", hit)
			visit("anna", func(s *holdfast.Session) {
				if s.IsNew() || backedHits.Get(s) != 5*(n+1) || len(backedTags.Get(s)) != 5*(n+1) {
					t.Errorf("in process %d: new %v, %d hits, %d tags", n, s.IsNew(), backedHits.Get(s), len(backedTags.Get(s)))
				}
			})
			if n == 2 {
				old = jar["bert"]
				visit("bert", func(s *holdfast.Session) {
					if err := s.Abandon(); err != nil {
						t.Error(err)
					}
				})
			}
		})
	}
	process(func(visit func(string, func(*holdfast.Session))) {
		jar["bert"] = old
		visit("bert", func(s *holdfast.Session) {
			if !s.IsNew() || s.Lost().Kind.String() != "abandoned" {
				t.Errorf("a session that was abandoned in another process: new %v, lost %v", s.IsNew(), s.Lost())
			}
		})
	})
}
