package holdfast

import (
	"errors"
	"net/http"
	"testing"

	"github.com/holdfast-session/holdfast/items"
	"github.com/holdfast-session/holdfast/store"
)

// TestLiveValuesAreLostAndSaySo reads back what a store writes of a session with live
// values: all but these, and Lost says so until there are others.
func TestLiveValuesAreLostAndSaySo(t *testing.T) {
	defer func() {
		live.keys = nil
		delete(declared.keys, "live-lost")
	}()
	conn := NewLiveKey[func()]("live-lost")
	v := newVisitor(t, nil)
	v.visit(Exclusive, func(s *Session, _ http.ResponseWriter) {
		conn.Set(s, func() {})
		if s.Lost() != (store.Reason{}) {
			t.Errorf("a new session has lost %v", s.Lost())
		}
	})
	var id store.ID
	v.visit(Exclusive, func(s *Session, _ http.ResponseWriter) { id = s.key })
	var rec store.Record
	ctx := t.Context()
	if err := v.m.store.Load(ctx, id, &rec); err != nil {
		t.Fatal(err)
	}
	kept, ok := rec.Items.(*kept)
	if !ok {
		t.Fatalf("the session is kept as a %T", rec.Items)
	}
	prefix := []byte("before")
	body := kept.AppendBody(prefix)
	if string(body[:6]) != "before" {
		t.Fatalf("AppendBody wrote over %q", body[:6])
	}
	var was, now items.Item
	if err := errors.Join(was.Parse([]byte(kept.body)), now.Parse(body[6:])); err != nil || now.Len() != was.Len()+1 {
		t.Fatalf("AppendBody made %d items of %d: %v", now.Len(), was.Len(), err)
	}
	rec.Items, rec.Body = nil, body[6:] // as it is read back in another process
	if err := v.m.store.Save(ctx, id, &rec, store.NewVersion(), false); err != nil {
		t.Fatal(err)
	}
	check := func(when string, want store.Kind) {
		t.Helper()
		v.visit(Exclusive, func(s *Session, _ http.ResponseWriter) {
			if got := s.Lost().Kind; got != want {
				t.Errorf("%s: Lost says %v; want %v", when, got, want)
			}
			if s.IsNew() || s.Len() != 3 {
				t.Errorf("%s: new %v, %d values; want an old one with 3", when, s.IsNew(), s.Len())
			}
		})
	}
	check("without its live values", store.Restarted)
	v.visit(Exclusive, func(s *Session, _ http.ResponseWriter) { mergeHits.Set(s, 9) })
	check("after a save", store.Restarted)
	v.visit(Exclusive, func(s *Session, _ http.ResponseWriter) { conn.Set(s, func() {}) })
	check("with another live value", store.Unknown)
}

// A merge carries along the live values that another has put in meanwhile, be they the
// session's first, and adds to them its own.
func TestMergeKeepsLiveValuesOfOthers(t *testing.T) {
	defer forgetLive("live-mine")()
	defer forgetLive("live-other")()
	mine, other := NewLiveKey[string]("live-mine"), NewLiveKey[string]("live-other")
	for name, visit := range besides {
		for _, both := range []bool{false, true} {
			v := newVisitor(t, nil)
			w := visit(t, v, func(s *Session) {
				mergeHits.Set(s, 7)
				if both {
					mine.Set(s, "mine")
				}
			}, func(s *Session) { other.Set(s, "other") })
			v.visit(ReadOnly, func(s *Session, _ http.ResponseWriter) {
				_, ok := mine.Lookup(s)
				if w.Code != 200 || mergeHits.Get(s) != 7 || other.Get(s) != "other" || ok != both {
					t.Errorf("%s: %d, hits %d, the other's is %q, ours is there: %v, want %v", name, w.Code, mergeHits.Get(s), other.Get(s), ok, both)
				}
			})
		}
	}
}

// Whoever may not change a session may not take a live value out of it either.
func TestLiveDeleteIsAChange(t *testing.T) {
	defer forgetLive("live-delete")()
	conn := NewLiveKey[string]("live-delete")
	v := newVisitor(t, nil)
	var over *Session
	v.visit(Exclusive, func(s *Session, _ http.ResponseWriter) {
		conn.Delete(s) // of what is not there
		conn.Set(s, "open")
		over = s
	})
	w := v.visit(ReadOnly, func(s *Session, _ http.ResponseWriter) {
		conn.Delete(s)
		if !errors.Is(s.Err(), ErrReadOnly) {
			t.Errorf("Delete under ReadOnly: %v", s.Err())
		}
	})
	if w.Code != 500 {
		t.Errorf("Delete under ReadOnly: %d", w.Code)
	}
	if conn.Delete(over); !errors.Is(over.Err(), ErrFinished) {
		t.Errorf("Delete after the request: %v", over.Err())
	}
	v.visit(Merge, func(s *Session, _ http.ResponseWriter) {
		if conn.Get(s) != "open" {
			t.Error("the live value was taken out")
		}
		conn.Delete(s)
	})
	v.visit(ReadOnly, func(s *Session, _ http.ResponseWriter) {
		if _, ok := conn.Lookup(s); ok {
			t.Error("the live value was not taken out")
		}
	})
}

// Discard forgets the live values that no other request can see yet, so no session
// begins with them; those that are saved stay.
func TestDiscardForgetsNewLiveValues(t *testing.T) {
	defer forgetLive("live-discard")()
	conn := NewLiveKey[string]("live-discard")
	v := newVisitor(t, nil)
	discard := func(s *Session, _ http.ResponseWriter) {
		conn.Set(s, "open")
		if s.Discard(); conn.Get(s) != "" {
			t.Errorf("after Discard: %q", conn.Get(s))
		}
	}
	stranger := &visitor{t: t, m: v.m}
	if stranger.visit(Exclusive, discard); stranger.cookie != "" {
		t.Error("a session began with what was discarded")
	}
	v.visit(Exclusive, discard)
	v.visit(Exclusive, func(s *Session, _ http.ResponseWriter) {
		if conn.Get(s) != "" {
			t.Error("what was discarded was saved")
		}
		conn.Set(s, "saved")
		if err := s.Save(t.Context()); err != nil {
			t.Error(err)
		}
		s.Discard()
		if conn.Get(s) != "saved" {
			t.Error("what was saved was discarded")
		}
	})
}
