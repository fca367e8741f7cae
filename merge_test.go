package holdfast

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-session/holdfast/inproc"
	"github.com/holdfast-session/holdfast/items"
	"github.com/holdfast-session/holdfast/store"
)

var (
	mergeHits = NewKey[int]("merge-hits")
	mergeName = NewKey[string]("merge-name")
	mergeTags = NewKey[map[string]int]("merge-tags")
)

// A visitor is a browser without a network: it keeps the cookie.
type visitor struct {
	t      *testing.T
	m      *Manager
	cookie string
}

// visit runs h as one request of the visitor's, with access a, and returns the
// response.
func (v *visitor) visit(a Access, h func(s *Session, w http.ResponseWriter)) *httptest.ResponseRecorder {
	v.t.Helper()
	w := httptest.NewRecorder()
	r := httptest.NewRequest("GET", "/", nil)
	if v.cookie != "" {
		r.Header.Set("Cookie", v.cookie)
	}
	v.m.With(a).Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h(From(r), w) })).ServeHTTP(w, r)
	for _, c := range w.Result().Cookies() {
		v.cookie = c.Name + "=" + c.Value
	}
	return w
}

func newVisitor(t *testing.T, o *Options) *visitor {
	st := inproc.New(nil)
	t.Cleanup(func() { st.Close() })
	v := &visitor{t: t, m: New(st, o)}
	v.visit(Exclusive, func(s *Session, _ http.ResponseWriter) {
		mergeHits.Set(s, 1)
		mergeName.Set(s, "ann")
		mergeTags.Set(s, map[string]int{"a": 1})
	})
	return v
}

// between runs mine as a merged request during which another one runs whole.
func (v *visitor) between(mine, other func(s *Session), then func(s *Session)) *httptest.ResponseRecorder {
	return v.visit(Merge, func(s *Session, _ http.ResponseWriter) {
		mine(s)
		if w := v.visit(Merge, func(s *Session, _ http.ResponseWriter) { other(s) }); w.Code != 200 {
			v.t.Errorf("the other request: %d %s", w.Code, w.Body)
		}
		then(s)
	})
}

func TestMergeByKey(t *testing.T) {
	nothing := func(*Session) {}
	addTag := func(name string) func(s *Session) {
		return func(s *Session) { mergeTags.Get(s)[name]++ }
	}
	for _, test := range []struct {
		name              string
		mine, other, then func(s *Session)
		code              int
		hits              int
		who               string
		tags              int
	}{
		{"different keys", nothing, func(s *Session) { mergeHits.Set(s, 5) }, func(s *Session) { mergeName.Set(s, "bob") }, 200, 5, "bob", 1},
		{"Update is run again",
			func(s *Session) { mergeHits.Update(s, func(n int) int { return n + 1 }) },
			func(s *Session) { mergeHits.Update(s, func(n int) int { return n + 10 }) }, nothing, 200, 12, "ann", 1},
		{"two Updates are run again in order",
			func(s *Session) {
				mergeHits.Update(s, func(n int) int { return n + 1 })
				mergeHits.Update(s, func(n int) int { return n * 2 })
			},
			func(s *Session) { mergeHits.Set(s, 10) }, nothing, 200, 22, "ann", 1},
		{"Update of what was read is run again",
			func(s *Session) { mergeHits.Get(s); mergeHits.Update(s, func(n int) int { return n + 1 }) },
			func(s *Session) { mergeHits.Set(s, 10) }, nothing, 200, 11, "ann", 1},
		{"a blind Set replaces",
			func(s *Session) { mergeHits.Set(s, 7) }, func(s *Session) { mergeHits.Set(s, 5) }, nothing, 200, 7, "ann", 1},
		{"a Set of what was read is refused",
			func(s *Session) { mergeHits.Set(s, mergeHits.Get(s)+1) }, func(s *Session) { mergeHits.Set(s, 5) }, nothing, 409, 5, "ann", 1},
		{"a Set of what was read and others left alone",
			func(s *Session) { mergeHits.Set(s, mergeHits.Get(s)+1) }, func(s *Session) { mergeName.Set(s, "bob") }, nothing, 200, 2, "bob", 1},
		{"a blind Delete deletes",
			func(s *Session) { mergeHits.Delete(s) }, func(s *Session) { mergeHits.Set(s, 5) }, nothing, 200, 0, "ann", 1},
		{"a Take of what another changed is refused",
			func(s *Session) { mergeHits.Take(s) }, func(s *Session) { mergeHits.Set(s, 5) }, nothing, 409, 5, "ann", 1},
		{"a change in place is a Set of what was read",
			addTag("b"), addTag("c"), nothing, 409, 1, "ann", 2},
		{"a change in place beside other keys",
			addTag("b"), func(s *Session) { mergeHits.Set(s, 5) }, nothing, 200, 5, "ann", 2},
		{"Update of a map is run again",
			func(s *Session) {
				mergeTags.Update(s, func(m map[string]int) map[string]int { m["b"]++; return m })
			}, addTag("c"), nothing, 200, 1, "ann", 3},
		{"a Clear clears what came meanwhile too",
			func(s *Session) { s.Clear(); mergeName.Set(s, "new") }, func(s *Session) { mergeHits.Set(s, 5) }, nothing, 200, 0, "new", 0},
		{"a Clear of what was read is refused",
			func(s *Session) { mergeHits.Get(s) }, func(s *Session) { mergeHits.Set(s, 5) }, (*Session).Clear, 409, 5, "ann", 1},
		{"a Clear of what was read and set is refused",
			func(s *Session) { mergeHits.Set(s, mergeHits.Get(s)+1) }, func(s *Session) { mergeHits.Set(s, 5) }, (*Session).Clear, 409, 5, "ann", 1},
		{"a Clear of what was read and others left alone",
			func(s *Session) { mergeHits.Get(s); mergeTags.Get(s) }, func(s *Session) { mergeName.Set(s, "bob") },
			func(s *Session) { s.Clear(); mergeHits.Set(s, 3) }, 200, 3, "", 0},
		{"after a Clear nothing is seen of what was saved",
			func(s *Session) { s.Clear(); mergeHits.Get(s); mergeTags.Has(s) }, func(s *Session) { mergeHits.Set(s, 5); addTag("b")(s) },
			func(s *Session) { mergeHits.Set(s, 3) }, 200, 3, "", 0},
		{"a Set of what an Update showed is refused",
			func(s *Session) { mergeHits.Update(s, func(n int) int { return n + 1 }); mergeHits.Get(s) },
			func(s *Session) { mergeHits.Set(s, 5) }, func(s *Session) { mergeHits.Set(s, mergeHits.Get(s)+1) }, 409, 5, "ann", 1},
		{"a Set of what an Update showed and others left alone",
			func(s *Session) { mergeHits.Update(s, func(n int) int { return n + 1 }); mergeHits.Get(s) },
			func(s *Session) { mergeName.Set(s, "bob") }, func(s *Session) { mergeHits.Set(s, mergeHits.Get(s)+1) }, 200, 3, "bob", 1},
		{"a Set after an Update that showed nothing replaces",
			func(s *Session) { mergeHits.Update(s, func(n int) int { return n + 1 }) },
			func(s *Session) { mergeHits.Set(s, 5) }, func(s *Session) { mergeHits.Set(s, 7) }, 200, 7, "ann", 1},
		{"a Set of what this request has set replaces",
			func(s *Session) { mergeHits.Set(s, 7) },
			func(s *Session) { mergeHits.Set(s, 5) }, func(s *Session) { mergeHits.Set(s, mergeHits.Get(s)+1) }, 200, 8, "ann", 1},
		{"a change in place of what an Update made is a Set",
			func(s *Session) {
				mergeTags.Update(s, func(m map[string]int) map[string]int { m["b"]++; return m })
			}, addTag("c"), addTag("d"), 409, 1, "ann", 2},
		{"a change in place of what an Update made beside other keys",
			func(s *Session) {
				mergeTags.Update(s, func(m map[string]int) map[string]int { m["b"]++; return m })
			}, func(s *Session) { mergeHits.Set(s, 5) }, addTag("d"), 200, 5, "ann", 3},
		{"reading alone never conflicts",
			func(s *Session) { mergeHits.Get(s); mergeTags.Get(s) }, func(s *Session) { mergeHits.Set(s, 5) }, nothing, 200, 5, "ann", 1},
		{"nothing is saved where one key conflicts",
			func(s *Session) { mergeName.Set(s, "bob"); mergeHits.Set(s, mergeHits.Get(s)+1) },
			func(s *Session) { mergeHits.Set(s, 5) }, nothing, 409, 5, "ann", 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			v := newVisitor(t, nil)
			w := v.between(test.mine, test.other, test.then)
			if w.Code != test.code {
				t.Errorf("status %d (%s), want %d", w.Code, strings.TrimSpace(w.Body.String()), test.code)
			}
			v.visit(ReadOnly, func(s *Session, _ http.ResponseWriter) {
				if n, who, tags := mergeHits.Get(s), mergeName.Get(s), len(mergeTags.Get(s)); n != test.hits || who != test.who || tags != test.tags {
					t.Errorf("hits %d, name %q, %d tags; want %d, %q, %d", n, who, tags, test.hits, test.who, test.tags)
				}
			})
		})
	}
}

// A request that saves twice lays the second change over what is there then, and
// still knows what it was shown before.
func TestMergeAfterSave(t *testing.T) {
	v := newVisitor(t, nil)
	setHits := func(n int) {
		v.visit(Merge, func(s *Session, _ http.ResponseWriter) { mergeHits.Set(s, n) })
	}
	w := v.visit(Merge, func(s *Session, _ http.ResponseWriter) {
		shown := mergeHits.Get(s)
		setHits(5)
		mergeName.Set(s, "bob")
		if err := s.Save(context.Background()); err != nil {
			t.Fatal(err)
		}
		if shown != 1 {
			t.Errorf("hits %d, want 1", shown)
		}
		mergeHits.Set(s, shown+1)
	})
	if w.Code != 409 {
		t.Errorf("overwriting a value shown before the first save: %d, want 409", w.Code)
	}
	w = v.visit(Merge, func(s *Session, _ http.ResponseWriter) {
		mergeHits.Update(s, func(n int) int { return n + 1 })
		if err := s.Save(context.Background()); err != nil {
			t.Fatal(err)
		}
		setHits(20)
		mergeHits.Update(s, func(n int) int { return n + 1 })
	})
	v.visit(ReadOnly, func(s *Session, _ http.ResponseWriter) {
		if n := mergeHits.Get(s); w.Code != 200 || n != 21 {
			t.Errorf("status %d, hits %d, want 200, 21: each Update is applied once", w.Code, n)
		}
	})
}

// besides is what others can save while a request works without the lock: it merges, has
// released it, or has released it and gets a new ID.
var besides = map[string]func(t *testing.T, v *visitor, mine, other func(s *Session)) *httptest.ResponseRecorder{
	"Merge": func(_ *testing.T, v *visitor, mine, other func(s *Session)) *httptest.ResponseRecorder {
		return v.between(func(*Session) {}, other, mine)
	},
	"Release":      afterRelease(false),
	"RegenerateID": afterRelease(true),
}

func afterRelease(newID bool) func(t *testing.T, v *visitor, mine, other func(s *Session)) *httptest.ResponseRecorder {
	return func(t *testing.T, v *visitor, mine, other func(s *Session)) *httptest.ResponseRecorder {
		return v.visit(Exclusive, func(s *Session, _ http.ResponseWriter) {
			if err := s.Release(t.Context()); err != nil {
				t.Error(err)
			}
			v.visit(Exclusive, func(s *Session, _ http.ResponseWriter) { other(s) })
			mine(s)
			if newID {
				s.RegenerateID()
			}
		})
	}
}

// A merge leaves what another has said of the session as it is, unless this request
// has said something else.
func TestMergeKeepsWhatOthersSaidOfTheSession(t *testing.T) {
	for name, visit := range besides {
		t.Run(name, func(t *testing.T) {
			v := newVisitor(t, nil)
			w := visit(t, v, func(s *Session) {
				mergeHits.Set(s, 7)
				s.SetTimeout(3 * time.Hour)
			}, func(s *Session) {
				s.SetSubject("alice")
				s.SetTimeout(time.Hour)
				s.Persist(24 * time.Hour)
			})
			v.visit(ReadOnly, func(s *Session, _ http.ResponseWriter) {
				want := traits{timeout: 3 * time.Hour, subject: "alice", persist: 24 * time.Hour}
				if w.Code != 200 || mergeHits.Get(s) != 7 || s.now != want {
					t.Errorf("%d, hits %d, %+v; want %+v", w.Code, mergeHits.Get(s), s.now, want)
				}
			})
			if all, err := v.m.Sessions(t.Context(), "alice"); len(all) != 1 || err != nil {
				t.Errorf("alice has %d sessions, %v", len(all), err)
			}
		})
	}
}

// The request itself sees it as it was merged, and its next save changes it no more.
func TestMergeShowsWhatOthersSaidOfTheSession(t *testing.T) {
	v := newVisitor(t, nil)
	w := v.between(func(*Session) {}, func(s *Session) { s.SetSubject("alice") }, func(s *Session) {
		for i := range 2 {
			mergeHits.Set(s, i)
			if err := s.Save(t.Context()); err != nil || s.Subject() != "alice" {
				t.Errorf("save %d: %v, the subject is %q", i, err, s.Subject())
			}
		}
		s.SetSubject("bob")
	})
	v.visit(ReadOnly, func(s *Session, _ http.ResponseWriter) {
		if w.Code != 200 || s.Subject() != "bob" {
			t.Errorf("%d, the subject is %q, want bob", w.Code, s.Subject())
		}
	})
}

// An old client of ASP.NET's protocol makes a new session under the ID that was
// signed out. A request from before must not write into it.
func TestMergeNeverFollowsANewSessionUnderTheSameID(t *testing.T) {
	for _, recreate := range []bool{false, true} {
		v := newVisitor(t, nil)
		w := v.visit(Merge, func(s *Session, _ http.ResponseWriter) {
			mergeName.Set(s, "still ann")
			cookie, key := v.cookie, s.key
			v.visit(Merge, func(s *Session, _ http.ResponseWriter) {
				if err := s.Abandon(); err != nil {
					t.Error(err)
				}
			})
			v.cookie = cookie
			if recreate {
				body, err := (&items.Item{Timeout: time.Minute}).Append(nil)
				if err != nil {
					t.Fatal(err)
				}
				if err := v.m.store.Create(t.Context(), key, &store.Record{Version: store.NewVersion(), Timeout: time.Minute, Body: body}, false); err != nil {
					t.Fatal(err)
				}
			}
		})
		if w.Code != 409 {
			t.Errorf("saving into a session that was abandoned (made again: %v): %d, want 409", recreate, w.Code)
		}
		v.visit(ReadOnly, func(s *Session, _ http.ResponseWriter) {
			if name := mergeName.Get(s); name != "" {
				t.Errorf("made again: %v: the name is %q", recreate, name)
			}
		})
	}
}

func TestReleaseThenMerge(t *testing.T) {
	v := newVisitor(t, nil)
	w := v.visit(Exclusive, func(s *Session, _ http.ResponseWriter) {
		mergeHits.Update(s, func(n int) int { return n + 1 })
		if err := s.Release(context.Background()); err != nil {
			t.Fatal(err)
		}
		v.visit(Exclusive, func(s *Session, _ http.ResponseWriter) { // would wait for ever if the lock were kept
			mergeHits.Update(s, func(n int) int { return n + 10 })
		})
		mergeHits.Update(s, func(n int) int { return n + 100 })
	})
	v.visit(ReadOnly, func(s *Session, _ http.ResponseWriter) {
		if n := mergeHits.Get(s); w.Code != 200 || n != 112 {
			t.Errorf("status %d, hits %d, want 200, 112", w.Code, n)
		}
	})
}

// What a request has saved and given up the lock of is another's to change, and then
// no more to be overwritten unseen than what was read.
func TestOverwritingAfterRelease(t *testing.T) {
	set := func(s *Session) { mergeTags.Set(s, map[string]int{"b": 1}) }
	look := func(s *Session) { mergeTags.Get(s) }
	more := func(s *Session) { mergeTags.Get(s)["c"] = 1 }
	setMore := func(s *Session) {
		m := mergeTags.Get(s)
		m["c"] = 1
		mergeTags.Set(s, m)
	}
	update := func(s *Session) {
		mergeTags.Update(s, func(m map[string]int) map[string]int { m["d"] = 1; return m })
	}
	held := map[string]int{"b": 1}
	for _, test := range []struct {
		name         string
		before, then func(s *Session)
		code, tags   int // with another's change in between
		alone        int // without
	}{
		{"Set, then Get and Set", set, setMore, 409, 2, 2},
		{"Set, then a change in place", set, more, 409, 2, 2},
		{"Set, then a change in place of what it set", func(s *Session) { mergeTags.Set(s, held) }, func(*Session) { held["c"] = 1 }, 409, 2, 2},
		{"Get, then Get and Set", look, setMore, 409, 2, 2},
		{"Update, then Get and Set", update, setMore, 409, 3, 3},
		{"Set, then Update", set, update, 200, 3, 2},
		{"Set, then Set", set, func(s *Session) { mergeTags.Set(s, map[string]int{"x": 1}) }, 200, 1, 1},
		{"Set, then Get and Delete", set, func(s *Session) { mergeTags.Take(s) }, 409, 2, 0},
		{"Set, then Delete", set, mergeTags.Delete, 200, 0, 0},
		{"Set, then Get and Clear", set, func(s *Session) { mergeTags.Get(s); s.Clear() }, 409, 2, 0},
	} {
		for _, alone := range []bool{false, true} {
			clear(held)
			held["b"] = 1
			v := newVisitor(t, nil)
			w := v.visit(Exclusive, func(s *Session, _ http.ResponseWriter) {
				test.before(s)
				if err := s.Release(t.Context()); err != nil {
					t.Error(err)
				}
				if !alone {
					v.visit(Exclusive, func(s *Session, _ http.ResponseWriter) { mergeTags.Get(s)["other"] = 1 })
				}
				test.then(s)
			})
			code, tags := test.code, test.tags
			if alone {
				code, tags = 200, test.alone
			}
			v.visit(ReadOnly, func(s *Session, _ http.ResponseWriter) {
				if got := mergeTags.Get(s); w.Code != code || len(got) != tags {
					t.Errorf("%s, alone: %v: %d, %v; want %d and %d tags", test.name, alone, w.Code, got, code, tags)
				}
			})
		}
	}
}

// What is read again after a merge is what is there then, and may be overwritten.
func TestReadingAgainAfterAMerge(t *testing.T) {
	for _, test := range []struct {
		name string
		read func(s *Session) int
		code int
		hits int
	}{
		{"read again", func(s *Session) int { return mergeHits.Get(s) }, 200, 101},
		{"not read again", func(*Session) int { return 1 }, 409, 100},
		{"asked whether it is there", func(s *Session) int {
			if !mergeHits.Has(s) {
				t.Error("it is not")
			}
			return 1
		}, 409, 100},
	} {
		v := newVisitor(t, nil)
		w := v.between(func(s *Session) { mergeHits.Get(s) }, func(s *Session) { mergeHits.Set(s, 100) }, func(s *Session) {
			mergeName.Set(s, "bob")
			if err := s.Save(t.Context()); err != nil {
				t.Error(err)
			}
			mergeHits.Set(s, test.read(s)+1)
		})
		v.visit(ReadOnly, func(s *Session, _ http.ResponseWriter) {
			if n := mergeHits.Get(s); w.Code != test.code || n != test.hits || mergeName.Get(s) != "bob" {
				t.Errorf("%s: %d, hits %d, name %q; want %d, %d, bob", test.name, w.Code, n, mergeName.Get(s), test.code, test.hits)
			}
		})
	}
}

// What a merge made of an Update is more than the handler was shown, if another had
// changed it: until it is read again it is not to be overwritten.
func TestOverwritingWhatAnUpdateWasMergedInto(t *testing.T) {
	increment := func(n int) int { return n + 1 }
	for _, test := range []struct {
		name  string
		other func(s *Session)
		again bool
		code  int
		hits  int
	}{
		{"changed by another", func(s *Session) { mergeHits.Update(s, func(n int) int { return n + 100 }) }, false, 409, 102},
		{"changed by another, and read again", func(s *Session) { mergeHits.Update(s, func(n int) int { return n + 100 }) }, true, 200, 112},
		{"changed by nobody", func(s *Session) { mergeName.Set(s, "bob") }, false, 200, 12},
	} {
		v := newVisitor(t, nil)
		w := v.visit(Merge, func(s *Session, _ http.ResponseWriter) {
			mergeHits.Update(s, increment)
			n := mergeHits.Get(s)
			v.visit(Merge, func(s *Session, _ http.ResponseWriter) { test.other(s) })
			if err := s.Save(t.Context()); err != nil {
				t.Error(err)
			}
			if test.again {
				n = mergeHits.Get(s)
			}
			mergeHits.Set(s, n+10)
		})
		v.visit(ReadOnly, func(s *Session, _ http.ResponseWriter) {
			if n := mergeHits.Get(s); w.Code != test.code || n != test.hits {
				t.Errorf("%s: %d, hits %d; want %d, %d", test.name, w.Code, n, test.code, test.hits)
			}
		})
	}
}

// whileSaving is a store at which something else happens during the next Save.
type whileSaving struct {
	store.Store
	f func()
}

func (w *whileSaving) Save(ctx context.Context, id store.ID, rec *store.Record, next store.Version, hold bool) error {
	if f := w.f; f != nil {
		w.f = nil
		f()
	}
	return w.Store.Save(ctx, id, rec, next, hold)
}

// A goroutine of the handler that changes a value while Release is on its way does
// so under the lock or without it; either way it overwrites nothing unseen.
func TestChangesDuringRelease(t *testing.T) {
	add := func(n int) func(int) int { return func(old int) int { return old + n } }
	for _, test := range []struct {
		name           string
		before, during func(s *Session)
		code, hits     int // with another's change in between
		alone          int
	}{
		{"Update", func(s *Session) { mergeName.Set(s, "bob") }, func(s *Session) { mergeHits.Update(s, add(1)) }, 409, 101, 2},
		{"Set, and Update of it", func(s *Session) { mergeHits.Set(s, 10) }, func(s *Session) { mergeHits.Update(s, add(1)) }, 409, 110, 11},
		{"Set beside it", func(s *Session) { mergeName.Set(s, "bob") }, func(s *Session) { mergeHits.Set(s, 7) }, 200, 7, 7},
	} {
		for _, alone := range []bool{false, true} {
			v := newVisitor(t, nil)
			st := &whileSaving{Store: v.m.store}
			v.m.store = st
			w := v.visit(Exclusive, func(s *Session, _ http.ResponseWriter) {
				test.before(s)
				st.f = func() { test.during(s) }
				if err := s.Release(t.Context()); err != nil {
					t.Error(err)
				}
				if !alone {
					v.visit(Exclusive, func(s *Session, _ http.ResponseWriter) { mergeHits.Update(s, add(100)) })
				}
			})
			code, hits := test.code, test.hits
			if alone {
				code, hits = 200, test.alone
			}
			v.visit(ReadOnly, func(s *Session, _ http.ResponseWriter) {
				if n := mergeHits.Get(s); w.Code != code || n != hits {
					t.Errorf("%s, alone: %v: %d, hits %d; want %d, %d", test.name, alone, w.Code, n, code, hits)
				}
			})
		}
	}
}

// The same at the merge of two Updates that another's change came before: the third,
// made meanwhile, is laid over both, and what it showed is not to be overwritten.
func TestUpdateDuringAMerge(t *testing.T) {
	add := func(n int) func(int) int { return func(old int) int { return old + n } }
	for _, then := range []bool{false, true} {
		v := newVisitor(t, nil)
		st := &whileSaving{Store: v.m.store}
		v.m.store = st
		w := v.visit(Merge, func(s *Session, _ http.ResponseWriter) {
			mergeHits.Update(s, add(1))
			mergeHits.Update(s, add(2))
			st.f = func() {
				mergeHits.Update(s, add(10))
				v.visit(Exclusive, func(s *Session, _ http.ResponseWriter) { mergeHits.Update(s, add(100)) })
			}
			if err := s.Save(t.Context()); err != nil {
				t.Error(err)
			}
			if then {
				mergeHits.Set(s, mergeHits.Get(s)+1000)
			}
		})
		code, want := 200, 114
		if then {
			code, want = 409, 104
		}
		v.visit(ReadOnly, func(s *Session, _ http.ResponseWriter) {
			if n := mergeHits.Get(s); w.Code != code || n != want {
				t.Errorf("and then a Set: %v: %d, hits %d; want %d, %d", then, w.Code, n, code, want)
			}
		})
	}
}

func TestErrorsAreSticky(t *testing.T) {
	v := newVisitor(t, &Options{MaxBytes: 200})
	w := v.visit(ReadOnly, func(s *Session, _ http.ResponseWriter) {
		mergeHits.Set(s, 2)
		if !errors.Is(s.Err(), ErrReadOnly) {
			t.Errorf("Err() = %v, want ErrReadOnly", s.Err())
		}
	})
	if w.Code != 500 {
		t.Errorf("a write under ReadOnly: %d, want 500", w.Code)
	}
	w = v.visit(Exclusive, func(s *Session, w http.ResponseWriter) {
		mergeName.Set(s, strings.Repeat("x", 1000))
		w.Write([]byte("fine"))
	})
	if w.Code != 500 || strings.Contains(w.Body.String(), "fine") {
		t.Errorf("a session past MaxBytes: %d %q, want 500 and nothing of the page", w.Code, w.Body)
	}
	v.visit(ReadOnly, func(s *Session, _ http.ResponseWriter) {
		if mergeName.Get(s) != "ann" {
			t.Error("a session past MaxBytes was saved")
		}
	})
}

// What another goroutine begins anew while a save is on its way, by Discard or Clear, is
// no part of what is being saved.
func TestBegunAnewDuringASave(t *testing.T) {
	add := func(n int) func(int) int { return func(old int) int { return old + n } }
	for name, test := range map[string]struct {
		anew func(s *Session)
		want int
	}{
		"Discard": {(*Session).Discard, 14},
		"Clear":   {(*Session).Clear, 10},
	} {
		v := newVisitor(t, nil)
		st := &whileSaving{Store: v.m.store}
		v.m.store = st
		w := v.visit(Merge, func(s *Session, _ http.ResponseWriter) {
			mergeHits.Update(s, add(1))
			mergeHits.Update(s, add(2))
			st.f = func() {
				test.anew(s)
				mergeHits.Update(s, add(10))
			}
			if err := s.Save(t.Context()); err != nil {
				t.Error(err)
			}
		})
		v.visit(ReadOnly, func(s *Session, _ http.ResponseWriter) {
			if n := mergeHits.Get(s); w.Code != 200 || n != test.want {
				t.Errorf("%s: %d, hits %d; want 200, %d", name, w.Code, n, test.want)
			}
		})
	}
}
