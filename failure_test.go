package holdfast

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// recovering is a middleware that answers a panic with 500.
func recovering(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			if p := recover(); p != nil {
				if p == http.ErrAbortHandler {
					panic(p)
				}
				http.Error(w, "sorry", http.StatusInternalServerError)
			}
		}()
		h.ServeHTTP(w, r)
	})
}

// A panic that is recovered inside, after the first write, comes too late to change
// the status, and fails the request all the same.
func TestPanicRecoveredInsideAfterTheFirstWrite(t *testing.T) {
	v := newVisitor(t, nil)
	for _, flush := range []bool{false, true} {
		h := v.m.Handler(recovering(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, "half of it")
			if flush {
				w.(http.Flusher).Flush()
			}
			mergeHits.Set(From(r), 1000)
			mergeTags.Get(From(r))["b"] = 1
			panic("sorry")
		})))
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("Cookie", v.cookie)
		h.ServeHTTP(httptest.NewRecorder(), r)
		v.visit(Exclusive, func(s *Session, _ http.ResponseWriter) { // had for ever to wait if the lock were left
			if mergeHits.Get(s) != 1 || len(mergeTags.Get(s)) != 1 {
				t.Errorf("flushed: %v: what the failed handler did was saved", flush)
			}
		})
	}
}

// What Save has saved stays, so the visitor is told of it, whatever comes after.
func TestCookieOfASavedSessionSurvivesAPanic(t *testing.T) {
	for _, saved := range []string{"new session", "new ID", "sign-out"} {
		v := newVisitor(t, nil)
		before := v.cookie
		if saved == "new session" {
			v.cookie = ""
		}
		h := recovering(v.m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			s := From(r)
			switch saved {
			case "new ID":
				s.RegenerateID()
			case "sign-out":
				s.Abandon()
			}
			if saved != "sign-out" {
				mergeName.Set(s, "kept")
			}
			if err := s.Save(r.Context()); err != nil {
				t.Error(err)
			}
			mergeName.Set(s, "not kept")
			panic("sorry")
		})))
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("Cookie", v.cookie)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		set := w.Header().Get("Set-Cookie")
		v.cookie, _, _ = strings.Cut(set, ";")
		if w.Code != 500 || set == "" || v.cookie == before {
			t.Fatalf("%s: %d, Set-Cookie %q", saved, w.Code, set)
		}
		want := "kept"
		if saved == "sign-out" {
			want = ""
		}
		if name, _ := v.name(); name != want {
			t.Errorf("%s: the name is %q, want %q", saved, name, want)
		}
	}
}

// A request that comes with an ID replaced a moment ago must not take the new cookie
// away, not even by signing out first.
func TestAbandonDoesNotReviveADeadID(t *testing.T) {
	v := newVisitor(t, nil)
	old := &visitor{t: t, m: v.m, cookie: v.cookie}
	v.visit(Exclusive, func(s *Session, _ http.ResponseWriter) { s.RegenerateID() })
	before := old.cookie
	w := old.visit(Exclusive, func(s *Session, _ http.ResponseWriter) {
		s.Abandon()
		mergeName.Set(s, "somebody else")
	})
	if w.Code != 409 || old.cookie != before {
		t.Errorf("status %d, cookie %q, want 409 and no cookie", w.Code, old.cookie)
	}
}
