package holdfast

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-session/holdfast/inproc"
	"github.com/holdfast-session/holdfast/store"
)

// endings collects what OnEnd is told.
type endings struct {
	mu  sync.Mutex
	all []string
}

func (e *endings) on(_ context.Context, s *Session, why store.Reason) {
	mergeHits.Set(s, 99) // changes nothing
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = append(e.all, fmt.Sprint(mergeName.Get(s), " ", why.Kind))
	if mergeName.Get(s) == "bad" {
		panic("a handler of ends that fails")
	}
}

func (e *endings) take() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	all := e.all
	e.all = nil
	slices.Sort(all)
	return all
}

func TestOnEndHearsOfEveryEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := inproc.New(nil)
		defer st.Close()
		var e endings
		m := New(st, &Options{Timeout: time.Minute, OnEnd: e.on})
		begin := func(name string) *visitor {
			v := &visitor{t: t, m: m}
			v.visit(Exclusive, func(s *Session, _ http.ResponseWriter) { mergeName.Set(s, name) })
			return v
		}
		begin("forgets")
		begin("bad")
		out := begin("leaves")
		in := begin("signs in")
		out.visit(Exclusive, func(s *Session, _ http.ResponseWriter) { s.Abandon() })
		in.visit(Exclusive, func(s *Session, _ http.ResponseWriter) { s.RegenerateID() })
		advance(2 * time.Second)
		if got, want := e.take(), []string{"leaves abandoned", "signs in regenerated"}; !slices.Equal(got, want) {
			t.Errorf("at once: %q, want %q", got, want)
		}
		advance(2 * time.Minute)
		if got, want := e.take(), []string{"bad expired", "forgets expired", "signs in expired"}; !slices.Equal(got, want) {
			t.Errorf("after the timeout: %q, want %q", got, want)
		}
		// Close delivers what is due.
		out = begin("leaves last")
		out.visit(Exclusive, func(s *Session, _ http.ResponseWriter) { s.Abandon() })
		if err := m.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got, want := e.take(), []string{"leaves last abandoned"}; !slices.Equal(got, want) {
			t.Errorf("at Close: %q, want %q", got, want)
		}
	})
}

// Ends that take long are not delivered twice, whoever else waits for them, and none is
// forgotten.
func TestOnEndThatTakesLongHearsOfEachOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := inproc.New(nil)
		defer st.Close()
		var mu sync.Mutex
		heard := make(map[int]int)
		o := &Options{
			OnEnd: func(ctx context.Context, s *Session, _ store.Reason) {
				advance(7 * time.Second)
				mu.Lock()
				defer mu.Unlock()
				heard[mergeHits.Get(s)]++
				if err := ctx.Err(); err != nil {
					t.Errorf("OnEnd has no time: %v", err)
				}
			},
			OnError: func(_ context.Context, err error) { t.Errorf("OnError heard %v", err) },
		}
		all := []*Manager{New(st, o), New(st, o)}
		const ends = 40
		for i := range ends {
			v := &visitor{t: t, m: all[0]}
			v.visit(Exclusive, func(s *Session, _ http.ResponseWriter) { mergeHits.Set(s, i+1) })
			v.visit(Exclusive, func(s *Session, _ http.ResponseWriter) { s.Abandon() })
		}
		advance(time.Hour)
		for _, m := range all {
			if err := m.Close(t.Context()); err != nil {
				t.Error(err)
			}
		}
		for i := range ends {
			if n := heard[i+1]; n != 1 {
				t.Errorf("the end of session %d came %d times", i+1, n)
			}
		}
	})
}

func TestOnEndNeedsAStoreThatRemembers(t *testing.T) {
	defer func() {
		if p, _ := recover().(string); !strings.Contains(p, "OnEnd") {
			t.Errorf("New: %q, want a panic that names OnEnd", p)
		}
	}()
	New(remote{}, &Options{OnEnd: func(context.Context, *Session, store.Reason) {}})
}

func TestSignOutEverywhereElse(t *testing.T) {
	st := inproc.New(nil)
	defer st.Close()
	m := New(st, nil)
	var phones []*visitor
	for i := range 3 {
		v := &visitor{t: t, m: m}
		v.visit(Exclusive, func(s *Session, _ http.ResponseWriter) {
			mergeHits.Set(s, i)
			s.SetSubject("ann")
		})
		v.visit(Exclusive, func(s *Session, _ http.ResponseWriter) { s.RegenerateID() }) // it stays hers
		phones = append(phones, v)
	}
	bob := &visitor{t: t, m: m}
	bob.visit(Exclusive, func(s *Session, _ http.ResponseWriter) {
		mergeHits.Set(s, 7)
		s.SetSubject("bob")
	})
	all, err := m.Sessions(t.Context(), "ann")
	if err != nil || len(all) != 3 || all[0].Subject != "ann" || all[0].Timeout != 20*time.Minute || all[0].LogID == "" {
		t.Fatalf("Sessions: %+v, %v", all, err)
	}
	phones[0].visit(Merge, func(s *Session, _ http.ResponseWriter) {
		if n, err := m.EndAll(t.Context(), s.Subject(), s); n != 2 || err != nil {
			t.Errorf("EndAll = %d, %v", n, err)
		}
	})
	for i, want := range []bool{true, false, false} {
		phones[i].visit(ReadOnly, func(s *Session, _ http.ResponseWriter) {
			if got := !s.IsNew(); got != want {
				t.Errorf("phone %d is signed in: %v, want %v", i, got, want)
			}
		})
	}
	bob.visit(ReadOnly, func(s *Session, _ http.ResponseWriter) {
		if s.IsNew() {
			t.Error("bob was signed out with ann")
		}
	})
	if _, err := New(remote{}, nil).Sessions(t.Context(), "ann"); !errors.Is(err, ErrNoList) || !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("a store without lists: %v", err)
	}
}

func TestProfileOWASP(t *testing.T) {
	o := OWASP()
	m := New(remote{}, o)
	for point, ok := range map[string]bool{
		"the cookie's name tells nothing of the technology": m.o.Cookie.Name == "__Host-id",
		"Secure":                         m.o.Cookie.Secure == Always,
		"SameSite=Strict":                m.o.Cookie.SameSite == http.SameSiteStrictMode,
		"no Domain, Path /":              m.o.Cookie.Domain == "" && m.o.Cookie.Path == "/",
		"not persistent":                 m.o.Cookie.MaxAge == 0,
		"idle timeout 15-30 minutes":     m.o.Timeout >= 15*time.Minute && m.o.Timeout <= 30*time.Minute,
		"absolute timeout 4-8 hours":     m.o.Lifetime >= 4*time.Hour && m.o.Lifetime <= 8*time.Hour,
		"renewal timeout":                m.o.Renewal > 0 && m.o.Renewal < m.o.Lifetime,
		"at least 64 bits from a CSPRNG": len(newID())*5 >= 64,
		"IDs hashed at rest":             !m.o.PlainIDs && m.keyOf(idA).Session != idA,
	} {
		if !ok {
			t.Errorf("OWASP() misses: %s (%+v)", point, m.o)
		}
	}
	st := inproc.New(nil)
	defer st.Close()
	v := &visitor{t: t, m: New(st, OWASP())}
	w := v.visit(Exclusive, func(s *Session, _ http.ResponseWriter) { mergeHits.Set(s, 1) })
	c := w.Header().Get("Set-Cookie")
	for _, attribute := range []string{"__Host-id=", "; Path=/", "; Secure", "; HttpOnly", "; SameSite=Strict"} {
		if !strings.Contains(c, attribute) {
			t.Errorf("OWASP(): the cookie %q has no %q", c, attribute)
		}
	}
	if w.Header().Get("Cache-Control") != "no-store" {
		t.Error("OWASP(): a response with the ID may be stored")
	}
	stranger := &visitor{t: t, m: v.m, cookie: "__Host-id=" + idA}
	stranger.visit(Exclusive, func(s *Session, _ http.ResponseWriter) { mergeHits.Set(s, 1) })
	if strings.Contains(stranger.cookie, idA) {
		t.Error("OWASP(): an ID of the client's choice is adopted")
	}
}

func TestProfileAAL2(t *testing.T) {
	m := New(remote{}, AAL2())
	for point, ok := range map[string]bool{
		"reauthentication after 30 minutes without activity": m.o.Timeout == 30*time.Minute,
		"reauthentication after 12 hours":                    m.o.Lifetime == 12*time.Hour,
		"cookie only over TLS":                               m.o.Cookie.Secure == Always,
		"cookie only to this host, all of it":                strings.HasPrefix(m.o.Cookie.Name, "__Host-"),
		"not kept over a restart of the browser":             m.o.Cookie.MaxAge == 0,
		"at least 64 bits":                                   len(newID())*5 >= 64,
	} {
		if !ok {
			t.Errorf("AAL2() misses: %s (%+v)", point, m.o)
		}
	}
}
