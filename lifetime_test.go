package holdfast

import (
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-session/holdfast/inproc"
	"github.com/holdfast-session/holdfast/items"
	"github.com/holdfast-session/holdfast/store"
)

// inTime runs f in a bubble of fake time with a visitor who has a session.
func inTime(t *testing.T, o *Options, f func(t *testing.T, v *visitor)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		st := inproc.New(nil)
		defer st.Close()
		v := &visitor{t: t, m: New(st, o)}
		defer v.m.Close(t.Context())
		v.visit(Exclusive, func(s *Session, _ http.ResponseWriter) { mergeName.Set(s, "ann") })
		f(t, v)
	})
}

// advance moves the bubble's clock.
func advance(d time.Duration) { time.Sleep(d) }

func (v *visitor) name() (name string, lost store.Reason) {
	v.visit(Exclusive, func(s *Session, _ http.ResponseWriter) { name, lost = mergeName.Get(s), s.Lost() })
	return name, lost
}

func TestLifetimeEndsABusySession(t *testing.T) {
	inTime(t, &Options{Timeout: 10 * time.Minute, Lifetime: time.Hour}, func(t *testing.T, v *visitor) {
		for range 11 {
			advance(5 * time.Minute)
			if name, _ := v.name(); name != "ann" {
				t.Fatal("the session ended before its lifetime")
			}
		}
		advance(5 * time.Minute)
		if name, lost := v.name(); name != "" || lost.Kind != store.Expired {
			t.Errorf("after the lifetime: name %q, lost %v", name, lost.Kind)
		}
	})
}

func TestLifetimeIsOneThroughRegenerateID(t *testing.T) {
	inTime(t, &Options{Timeout: time.Hour, Lifetime: time.Hour}, func(t *testing.T, v *visitor) {
		advance(40 * time.Minute)
		v.visit(Exclusive, func(s *Session, _ http.ResponseWriter) { s.RegenerateID() })
		advance(21 * time.Minute)
		if name, _ := v.name(); name != "" {
			t.Error("a new ID began a new lifetime")
		}
	})
}

func TestRenewal(t *testing.T) {
	inTime(t, &Options{Renewal: 10 * time.Minute}, func(t *testing.T, v *visitor) {
		first := v.cookie
		advance(9 * time.Minute)
		v.name()
		if v.cookie != first {
			t.Fatal("the ID was renewed before its time")
		}
		advance(time.Minute)
		v.name()
		second := v.cookie
		if second == first {
			t.Fatal("the ID was not renewed")
		}
		// A request that was sent with the old ID is served, and can save.
		old := &visitor{t: t, m: v.m, cookie: first}
		w := old.visit(Exclusive, func(s *Session, _ http.ResponseWriter) {
			if mergeName.Get(s) != "ann" {
				t.Error("the old ID does not lead to the session")
			}
			mergeName.Set(s, "still ann")
		})
		if w.Code != 200 || old.cookie != first {
			t.Errorf("a request with the old ID: %d, cookie %q", w.Code, old.cookie)
		}
		if name, _ := v.name(); name != "still ann" || v.cookie != second {
			t.Errorf("name %q, cookie %q, want the change, and no further ID", name, v.cookie)
		}
		advance(renewalOverlap)
		old = &visitor{t: t, m: v.m, cookie: first}
		if name, lost := old.name(); name != "" || lost.Kind != store.Regenerated {
			t.Errorf("after the overlap the old ID leads to %q, lost %v", name, lost.Kind)
		}
		// The next one comes in its time again.
		advance(10 * time.Minute)
		if v.name(); v.cookie == second {
			t.Error("the ID was renewed only once")
		}
	})
}

func TestSignOutKillsBothIDsOfARenewal(t *testing.T) {
	inTime(t, &Options{Renewal: time.Minute}, func(t *testing.T, v *visitor) {
		first := v.cookie
		advance(time.Minute)
		v.name()
		second := v.cookie
		old := &visitor{t: t, m: v.m, cookie: first}
		old.visit(Merge, func(s *Session, _ http.ResponseWriter) {
			if err := s.Abandon(); err != nil {
				t.Error(err)
			}
		})
		for _, cookie := range []string{first, second} {
			again := &visitor{t: t, m: v.m, cookie: cookie}
			if name, _ := again.name(); name != "" {
				t.Errorf("signed out by the old ID, and %q is signed in by %q", name, cookie)
			}
		}
	})
}

func TestPersistIsKeptAndRenewed(t *testing.T) {
	inTime(t, &Options{Timeout: 60 * 24 * time.Hour}, func(t *testing.T, v *visitor) {
		header := func(h func(s *Session)) string {
			return v.visit(Exclusive, func(s *Session, _ http.ResponseWriter) { h(s) }).Header().Get("Set-Cookie")
		}
		look := func(*Session) {}
		if c := header(look); c != "" {
			t.Errorf("a visit without a change sends %q", c)
		}
		c := header(func(s *Session) { s.Persist(30 * 24 * time.Hour) })
		if !strings.Contains(c, "Max-Age=2592000") {
			t.Errorf("Persist sends %q", c)
		}
		if c := header(look); c != "" {
			t.Errorf("a fresh cookie is sent again: %q", c)
		}
		advance(4 * 24 * time.Hour)
		if c := header(look); !strings.Contains(c, "Max-Age=2592000") {
			t.Errorf("an old cookie is not sent again: %q", c)
		}
		if c := header(func(s *Session) { s.Persist(0) }); c == "" || strings.Contains(c, "Max-Age") {
			t.Errorf("Persist(0) sends %q", c)
		}
		if c := header(func(s *Session) {
			if s.Len() != 1 || mergeName.Get(s) != "ann" {
				t.Errorf("the session shows %d values", s.Len())
			}
		}); c != "" {
			t.Errorf("a cookie that ends with the browser is sent again: %q", c)
		}
	})
}

// ASP.NET tells the store the timeout as it is, in whole minutes. It is not to be taken
// for one of ours, which the store has with a tenth more.
func TestTimeoutThatAnotherPlatformSet(t *testing.T) {
	st := inproc.New(nil)
	defer st.Close()
	m := New(st, &Options{PlainIDs: true})
	for minutes := range 60 {
		want := time.Duration(minutes+1) * time.Minute
		it := items.Item{Timeout: want}
		body, err := it.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		id := newID()
		rec := store.Record{Version: store.NewVersion(), Timeout: want, Body: body}
		if err := st.Create(t.Context(), store.ID{App: "/", Session: id}, &rec, false); err != nil {
			t.Fatal(err)
		}
		v := &visitor{t: t, m: m, cookie: "session=" + id}
		for range 2 { // it stays so when we have saved it
			v.visit(Exclusive, func(s *Session, _ http.ResponseWriter) {
				if s.IsNew() || s.Timeout() != want {
					t.Errorf("the timeout of %v is %v (new: %v)", want, s.Timeout(), s.IsNew())
				}
				mergeHits.Set(s, minutes)
			})
		}
	}
}

// Ours are kept to the second, also those that with their slack are whole minutes.
func TestTimeoutIsKeptToTheSecond(t *testing.T) {
	v := newVisitor(t, nil)
	for seconds := 1; seconds < 1500; seconds++ {
		want := time.Duration(seconds) * time.Second
		v.visit(Exclusive, func(s *Session, _ http.ResponseWriter) { s.SetTimeout(want) })
		v.visit(ReadOnly, func(s *Session, _ http.ResponseWriter) {
			if s.Timeout() != want {
				t.Errorf("the timeout of %v is %v", want, s.Timeout())
			}
		})
	}
}

// Whoever means "for ever" gets a hundred years.
func TestVeryLongDurations(t *testing.T) {
	const years = 365 * 24 * time.Hour
	for _, d := range []time.Duration{99 * years, 100 * years, 280 * years, math.MaxInt64} {
		want := min(d, 100*years)
		inTime(t, &Options{Timeout: d, LockTimeout: d, LockWait: d, StoreTimeout: d}, func(t *testing.T, v *visitor) {
			check := func(when string) {
				t.Helper()
				if w := v.visit(Exclusive, func(s *Session, _ http.ResponseWriter) {
					if mergeName.Get(s) != "ann" || s.Timeout() != want {
						t.Errorf("%v, %s: name %q, timeout %v, lost %v", d, when, mergeName.Get(s), s.Timeout(), s.Lost())
					}
				}); w.Code != 200 {
					t.Errorf("%v, %s: %d %s", d, when, w.Code, w.Body)
				}
			}
			check("as an option")
			v.visit(Exclusive, func(s *Session, _ http.ResponseWriter) { s.SetTimeout(time.Minute) })
			w := v.visit(Exclusive, func(s *Session, _ http.ResponseWriter) {
				s.SetTimeout(d)
				s.Persist(d)
			})
			if c, age := w.Header().Get("Set-Cookie"), fmt.Sprintf("Max-Age=%d;", want/time.Second); w.Code != 200 || !strings.Contains(c, age) {
				t.Errorf("%v: %d, Set-Cookie %q, want %s", d, w.Code, c, age)
			}
			check("as this session's")
			advance(time.Hour)
			check("an hour later")
		})
	}
}

func TestHeaderIdentity(t *testing.T) {
	st := inproc.New(nil)
	defer st.Close()
	m := New(st, &Options{Identity: Header("x-session"), IDs: hexIDs})
	do := func(id string) *httptest.ResponseRecorder {
		r := httptest.NewRequest("GET", "/", nil)
		if id != "" {
			r.Header.Set("X-Session", id)
		}
		w := httptest.NewRecorder()
		m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mergeHits.Update(From(r), func(n int) int { return n + 1 })
			if mergeHits.Get(From(r)) == 3 {
				From(r).Abandon()
			}
		})).ServeHTTP(w, r)
		return w
	}
	w := do("")
	id := w.Header().Get("X-Session")
	if len(id) != 24 || strings.Trim(id, "0123456789abcdef") != "" || w.Header().Get("Set-Cookie") != "" || w.Header().Get("Vary") != "X-Session" {
		t.Fatalf("the first response: %v", w.Header())
	}
	if w = do(strings.ToUpper(id)); w.Header()["X-Session"] != nil {
		t.Errorf("the ID is told again: %v", w.Header())
	}
	if w = do(id); w.Header().Get("X-Session") != "" || len(w.Header()["X-Session"]) != 1 {
		t.Errorf("after Abandon: %v", w.Header())
	}
	for _, bad := range []string{"../../x", strings.Repeat("g", 24), strings.Repeat("a", 100)} {
		if got := do(bad).Header().Get("X-Session"); got == "" || got == bad {
			t.Errorf("an ID of its own choice, %q: answered with %q", bad, got)
		}
	}
}

// hexIDs are IDs of a foreign shape: 24 hexadecimal digits.
var hexIDs = IDs{
	New: func() string {
		const digits = "0123456789abcdef"
		b := []byte(newID())
		for i := range b {
			b[i] = digits[int(b[i])%16]
		}
		return string(b)
	},
	Parse: func(s string) (string, bool) {
		s = strings.ToLower(s)
		return s, len(s) == 24 && strings.Trim(s, "0123456789abcdef") == ""
	},
}

func TestLiveKeysStayInTheProcess(t *testing.T) {
	defer func() {
		live.keys = nil
		declared.keys["live-conn"] = declaration{}
		delete(declared.keys, "live-conn")
	}()
	conn := NewLiveKey[func() string]("live-conn")
	v := newVisitor(t, nil)
	v.visit(Exclusive, func(s *Session, _ http.ResponseWriter) { conn.Set(s, func() string { return "open" }) })
	v.visit(ReadOnly, func(s *Session, _ http.ResponseWriter) {
		if f, ok := conn.Lookup(s); !ok || f() != "open" {
			t.Error("the live value is not there")
		}
		if s.Len() != 3 {
			t.Errorf("%d values, want 3: a live one is none of them", s.Len())
		}
	})
	v.visit(Exclusive, func(s *Session, _ http.ResponseWriter) { mergeHits.Set(s, 7) })
	v.visit(Exclusive, func(s *Session, _ http.ResponseWriter) { s.RegenerateID() })
	v.visit(Exclusive, func(s *Session, _ http.ResponseWriter) {
		if conn.Get(s) == nil {
			t.Error("the live value was lost by a save or a new ID")
		}
		conn.Delete(s)
		if conn.Get(s) != nil {
			t.Error("the live value is there after Delete")
		}
	})
	for name, f := range map[string]func(){
		"a store that leaves the process": func() { New(remote{}, nil) },
		"a Key of the same name":          func() { NewKey[int]("Live-Conn") },
	} {
		func() {
			defer func() {
				if p, _ := recover().(string); !strings.Contains(p, "lifetime_test.go") {
					t.Errorf("%s: %q, want a panic that names the place", name, p)
				}
			}()
			f()
		}()
	}
	m := New(remote{}, &Options{AllowLiveKeys: true})
	s := &Session{m: m, access: Exclusive}
	if conn.Set(s, nil); s.err == nil {
		t.Error("Set over a store that leaves the process is no error")
	}
}

// remote is a store outside this process, as far as anybody asks.
type remote struct{ store.Store }
