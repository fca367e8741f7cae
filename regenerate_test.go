package holdfast

import (
	"net/http"
	"strings"
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

// When an ID was drawn is kept with the session, so a request that saves twice neither
// forgets it nor draws another ID at once.
func TestRenewalKnowsAnIDThatThisRequestDrew(t *testing.T) {
	inTime(t, &Options{Renewal: time.Minute}, func(t *testing.T, v *visitor) {
		advance(time.Minute)
		var saved string
		v.visit(Exclusive, func(s *Session, _ http.ResponseWriter) {
			s.RegenerateID()
			if err := s.Save(t.Context()); err != nil {
				t.Error(err)
			}
			saved = s.ID()
			mergeHits.Set(s, 2)
		})
		if !strings.HasSuffix(v.cookie, "="+saved) {
			t.Errorf("saved as %q, and the cookie is %q", saved, v.cookie)
		}
		v.visit(ReadOnly, func(s *Session, _ http.ResponseWriter) {
			if got, want := s.now.since, time.Now().Unix(); got != want {
				t.Errorf("the ID was drawn at %d, want %d", got, want)
			}
		})
	})
}

// One Save at the end of a request that changed nothing since the last is one too many.
func TestNothingIsSavedAgainAfterASave(t *testing.T) {
	defer forgetLive("live-again")()
	conn := NewLiveKey[string]("live-again")
	for name, h := range map[string]func(s *Session){
		"a value":      func(s *Session) { mergeName.Set(s, "bob") },
		"a live value": func(s *Session) { conn.Set(s, "open") },
		"a timeout":    func(s *Session) { s.SetTimeout(time.Hour) },
		"a new ID":     func(s *Session) { s.RegenerateID() },
	} {
		inTime(t, &Options{Renewal: time.Hour}, func(t *testing.T, v *visitor) {
			advance(time.Minute)
			v.visit(Exclusive, func(s *Session, _ http.ResponseWriter) {
				h(s)
				if err := s.Save(t.Context()); err != nil {
					t.Error(err)
				}
				saved := s.rec.Version
				if err := s.Save(t.Context()); err != nil || s.rec.Version != saved {
					t.Errorf("%s is saved again: %v", name, err)
				}
			})
		})
	}
}

// forgetLive returns what takes a live key out of the program's list again, for other
// tests, whose stores have no live values.
func forgetLive(name string) func() {
	return func() {
		live.keys = nil
		delete(declared.keys, name)
	}
}
