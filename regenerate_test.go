package holdfast

import (
	"net/http"
	"testing"
	"time"
)

// A lock that came with the creation of a session, at a Save, stands in no line of
// this process, so there is none to leave when the session moves to another ID.
func TestRegenerateIDAfterASaveThatCreated(t *testing.T) {
	save := func(t *testing.T, s *Session) {
		t.Helper()
		if err := s.Save(t.Context()); err != nil {
			t.Error(err)
		}
	}
	for _, test := range []struct {
		name string
		new  bool
		o    Options
		h    func(t *testing.T, s *Session)
	}{
		{"of a new session", true, Options{}, func(t *testing.T, s *Session) {
			mergeName.Set(s, "ann")
			save(t, s)
			s.RegenerateID()
		}},
		{"under another ID", false, Options{}, func(t *testing.T, s *Session) {
			s.RegenerateID()
			save(t, s)
			s.RegenerateID()
		}},
		{"under another ID, saved again", false, Options{}, func(t *testing.T, s *Session) {
			for range 3 {
				s.RegenerateID()
				save(t, s)
			}
		}},
		{"under another ID, then released", false, Options{}, func(t *testing.T, s *Session) {
			s.RegenerateID()
			save(t, s)
			s.RegenerateID()
			if err := s.Release(t.Context()); err != nil {
				t.Error(err)
			}
			s.RegenerateID()
		}},
		{"of an ID that is due", false, Options{Renewal: time.Minute}, func(t *testing.T, s *Session) {
			s.RegenerateID()
			save(t, s)
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			inTime(t, &test.o, func(t *testing.T, v *visitor) {
				advance(time.Minute)
				if test.new {
					v.cookie = ""
				}
				before := v.cookie
				if w := v.visit(Exclusive, func(s *Session, _ http.ResponseWriter) { test.h(t, s) }); w.Code != 200 || v.cookie == before {
					t.Errorf("%d, cookie %q after %q", w.Code, v.cookie, before)
				}
				if name, _ := v.name(); name != "ann" {
					t.Errorf("the new ID leads to %q", name)
				}
				if test.new {
					return
				}
				old := &visitor{t: t, m: v.m, cookie: before}
				if name, _ := old.name(); name != "" {
					t.Errorf("the old ID leads to %q", name)
				}
			})
		})
	}
}
