package holdfast_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-session/holdfast"
	"github.com/holdfast-session/holdfast/items"
	"github.com/holdfast-session/holdfast/store"
	"github.com/holdfast-session/holdfast/storetest"
)

// rewrite changes a stored session behind the Manager's back.
func (st *shop) rewrite(change func(it *items.Item)) {
	st.t.Helper()
	id := *st.last.Load()
	var rec store.Record
	if err := st.store.Lock(context.Background(), id, store.LockOptions{Owner: store.NewOwner(), Wait: patience}, &rec); err != nil {
		st.t.Fatal(err)
	}
	if kept, ok := rec.Items.(*items.Item); ok {
		it := kept.Clone()
		change(it)
		rec.Items = it
	} else {
		var it items.Item
		err := it.Parse(rec.Body)
		change(&it)
		if err == nil {
			rec.Body, err = it.Append(nil)
		}
		if err != nil {
			st.t.Fatal(err)
		}
	}
	if err := st.store.Save(context.Background(), id, &rec, store.NewVersion(), false); err != nil {
		st.t.Fatal(err)
	}
}

// What another version of the program wrote, and this one cannot read, harms
// nothing else, and nothing harms it but Set and Delete.
func TestUnreadableValue(t *testing.T) {
	inEveryMode(t, func(t *testing.T, md mode) {
		words, err := items.NewCodec[string]()
		if err != nil {
			t.Fatal(err)
		}
		strange, err := words.Encode("not a number")
		if err != nil {
			t.Fatal(err)
		}
		st := newShop(t, md, nil)
		st.do("/begin", holdfast.Exclusive, func(s *holdfast.Session) any {
			hits.Set(s, 1)
			note.Set(s, "well")
			return nil
		})
		st.do("/get", holdfast.Exclusive, func(s *holdfast.Session) any { return fmt.Sprint(hits.Get(s), " ", note.Get(s), " ", s.Err()) })
		st.do("/lookup", holdfast.Exclusive, func(s *holdfast.Session) any {
			n, err := hits.Lookup(s)
			return fmt.Sprint(n, err != nil, hits.Has(s), s.Len(), s.Err())
		})
		for _, a := range changing {
			st.do(fmt.Sprintf("/%v/update", a), a, func(s *holdfast.Session) any { hits.Update(s, increment); return "updated" })
			st.do(fmt.Sprintf("/%v/other", a), a, func(s *holdfast.Session) any {
				note.Update(s, func(v string) string { return v + "!" })
				return nil
			})
			st.do(fmt.Sprintf("/%v/set", a), a, func(s *holdfast.Session) any { hits.Set(s, hits.Get(s)+7); return nil })
			st.do(fmt.Sprintf("/%v/delete", a), a, func(s *holdfast.Session) any { hits.Delete(s); return nil })
		}
		b := st.browser()
		b.get("/begin")
		spoil := func() { st.rewrite(func(it *items.Item) { it.Set(hits.Name(), strange) }) }
		for _, a := range changing {
			b.get("/begin")
			spoil()
			heard := st.errs.len()
			b.want("/get", "0 well <nil>")
			if st.errs.len() != heard+1 {
				t.Errorf("the hook heard of %d errors, want one", st.errs.len()-heard)
			}
			b.want("/lookup", "0 true true 2 <nil>")
			if rp := b.wantStatus(fmt.Sprintf("/%v/update", a), 500); rp.body == "updated" {
				t.Error("the page lies")
			}
			b.want(fmt.Sprintf("/%v/other", a), "")
			b.want("/get", "0 well! <nil>")
			st.rewrite(func(it *items.Item) {
				if v, _, _ := it.Get(hits.Name()); v != strange {
					t.Errorf("the strange value was changed to %v", v)
				}
			})
			b.want(fmt.Sprintf("/%v/set", a), "")
			b.want("/get", "7 well! <nil>")
			spoil()
			b.want(fmt.Sprintf("/%v/delete", a), "")
			b.want("/lookup", "0 false false 1 <nil>")
		}
	})
}

func TestMutationIsSavedWithoutSet(t *testing.T) {
	inEveryMode(t, func(t *testing.T, md mode) {
		for _, a := range changing {
			t.Run(a.String(), func(t *testing.T) {
				st := newShop(t, md, nil)
				st.do("/begin", a, func(s *holdfast.Session) any {
					m := map[string]int{"a": 1}
					tags.Set(s, m)
					m["b"] = 2 // also after a Set
					cart.Set(s, []line{{"rope", 1}, {"lamp", 1}})
					return nil
				})
				st.do("/mutate", a, func(s *holdfast.Session) any {
					tags.Get(s)["c"] = 3
					delete(tags.Get(s), "a")
					cart.Get(s)[1].Count++
					return fmt.Sprint(tags.Get(s), cart.Get(s))
				})
				st.do("/show", holdfast.ReadOnly, func(s *holdfast.Session) any { return fmt.Sprint(tags.Get(s), cart.Get(s)) })
				b := st.browser()
				b.get("/begin")
				b.want("/show", "map[a:1 b:2] [{rope 1} {lamp 1}]")
				b.want("/mutate", "map[b:2 c:3] [{rope 1} {lamp 2}]")
				b.want("/show", "map[b:2 c:3] [{rope 1} {lamp 2}]")

				saves := st.faults.Count("Save", "Create")
				st.do("/read", a, func(s *holdfast.Session) any { return len(tags.Get(s)) + len(cart.Get(s)) })
				b.want("/read", "4")
				if n := st.faults.Count("Save", "Create") - saves; n != 0 {
					t.Errorf("%d saves for a request that changed nothing", n)
				}
			})
		}
	})
}

// MutationRolledBackOnPanic, and what else discards a request whole.
func TestFailedRequestIsDiscardedWhole(t *testing.T) {
	byEveryIdentity(t, func(t *testing.T, md mode) {
		for _, a := range changing {
			t.Run(a.String(), func(t *testing.T) {
				st := newShop(t, md, nil)
				st.do("/begin", holdfast.Exclusive, func(s *holdfast.Session) any {
					tags.Set(s, map[string]int{"a": 1})
					hits.Set(s, 1)
					return nil
				})
				st.do("/show", holdfast.ReadOnly, func(s *holdfast.Session) any { return fmt.Sprint(tags.Get(s), hits.Get(s)) })
				change := func(s *holdfast.Session) {
					tags.Get(s)["b"] = 2
					hits.Update(s, increment)
				}
				st.do("/panic", a, func(s *holdfast.Session) any { change(s); panic("on purpose") })
				st.page("/500", a, func(w http.ResponseWriter, _ *http.Request, s *holdfast.Session) {
					change(s)
					s.RegenerateID()
					w.WriteHeader(500)
					fmt.Fprint(w, "own words")
				})
				st.page("/discard", a, func(_ http.ResponseWriter, _ *http.Request, s *holdfast.Session) {
					change(s)
					s.Discard()
				})
				st.page("/404", a, func(w http.ResponseWriter, r *http.Request, s *holdfast.Session) {
					change(s)
					http.NotFound(w, r)
				})
				st.page("/saveThenPanic", a, func(_ http.ResponseWriter, r *http.Request, s *holdfast.Session) {
					hits.Set(s, 10)
					if err := s.Save(r.Context()); err != nil {
						t.Error(err)
					}
					change(s)
					panic("on purpose")
				})
				st.page("/saveThen500", a, func(w http.ResponseWriter, r *http.Request, s *holdfast.Session) {
					if err := s.Save(r.Context()); err != nil {
						t.Error(err)
					}
					hits.Set(s, 20)
					w.WriteHeader(500)
				})
				b := st.browser()
				b.get("/begin")
				id := b.id()
				if rp := b.fetch(t.Context(), "/panic", nil); rp.err == nil {
					t.Errorf("a panic was answered with %d", rp.status)
				}
				b.want("/show", "map[a:1] 1")
				if rp := b.wantStatus("/500", 500); rp.body != "own words" || rp.told != nil {
					t.Errorf("the handler's own page: %q, %v", rp.body, rp.header)
				}
				b.want("/show", "map[a:1] 1")
				b.wantStatus("/discard", 200)
				b.want("/show", "map[a:1] 1")
				b.wantStatus("/404", 404)
				b.want("/show", "map[a:1 b:2] 2")
				b.fetch(t.Context(), "/saveThenPanic", nil)
				b.want("/show", "map[a:1 b:2] 10")
				b.wantStatus("/saveThen500", 500)
				b.want("/show", "map[a:1 b:2] 20")
				if b.id() != id {
					t.Error("the ID has changed")
				}
			})
		}
	})
}

func TestSaveKeepsTheLock(t *testing.T) {
	byEveryIdentity(t, func(t *testing.T, md mode) {
		for _, what := range []string{"a new session", "an old session"} {
			t.Run(what, func(t *testing.T) {
				st := newShop(t, md, nil)
				st.Handle("/", application(st.m))
				other, patient := st.sibling(&holdfast.Options{LockWait: 50 * time.Millisecond}), st.sibling(nil)
				other.Handle("/", application(other.m))
				patient.Handle("/", application(patient.m))
				g := newGate()
				var id string
				st.page("/save", holdfast.Exclusive, func(_ http.ResponseWriter, r *http.Request, s *holdfast.Session) {
					hits.Set(s, 10)
					if err := s.Save(r.Context()); err != nil {
						t.Error(err)
					}
					id = s.ID()
					g.pass()
					hits.Update(s, increment)
				})
				b := st.browser()
				if what == "an old session" {
					b.want("/Exclusive/hit", "1")
				}
				done := b.begin("/save")
				g.await(t)
				far := other.browser()
				far.setID(id)
				far.want("/hits", "10")
				wantBusy(t, far.get("/look"))
				g.open()
				receive(t, done)
				b.want("/hits", "11")
				last := patient.browser()
				last.setID(id)
				last.want("/Exclusive/hit", "12")
				if b.id() != id {
					t.Errorf("the browser has the ID %q, the handler had %q", b.id(), id)
				}
			})
		}
	})
}

func TestSaveThatFailsIsAnError(t *testing.T) {
	byEveryIdentity(t, func(t *testing.T, md mode) {
		st := newShop(t, md, &holdfast.Options{StoreTimeout: time.Second})
		st.Handle("/", application(st.m))
		st.page("/save", holdfast.Exclusive, func(w http.ResponseWriter, r *http.Request, s *holdfast.Session) {
			hits.Set(s, 99)
			st.fail(refuse("Save"))
			err := s.Save(r.Context())
			st.fail(nil)
			if !errors.Is(err, store.ErrUnavailable) || !errors.Is(s.Err(), store.ErrUnavailable) {
				t.Errorf("Save: %v, Err: %v", err, s.Err())
			}
			if r.FormValue("discard") != "" { // the handler knows, and goes on without
				s.Discard()
				hits.Update(s, increment)
			}
			fmt.Fprint(w, hits.Get(s), s.Err())
		})
		b := st.browser()
		b.want("/Exclusive/hit", "1")
		wantBusy(t, b.get("/save"))
		b.want("/hits", "1")
		b.want("/save?discard=1", "2 <nil>")
		b.want("/hits", "2")
	})
}

func TestDiscardForgetsAnError(t *testing.T) {
	st := newShop(t, inProc, &holdfast.Options{MaxBytes: 1000})
	st.page("/large", holdfast.Exclusive, func(w http.ResponseWriter, r *http.Request, s *holdfast.Session) {
		note.Set(s, strings.Repeat("x", 2000))
		if err := s.Save(r.Context()); !errors.Is(err, holdfast.ErrTooLarge) {
			t.Errorf("Save of too much: %v", err)
		}
		if r.FormValue("discard") != "" {
			s.Discard()
			hits.Set(s, 5)
			fmt.Fprint(w, s.Err())
		}
	})
	st.do("/show", holdfast.ReadOnly, func(s *holdfast.Session) any { return fmt.Sprint(hits.Get(s), len(note.Get(s))) })
	b := st.browser()
	b.wantStatus("/large", 500)
	b.want("/show", "0 0")
	b.want("/large?discard=1", "<nil>")
	b.want("/show", "5 0")
}

// The cookie of a new session could not be sent any more: that is an error, and the
// visitor must not take what he got for the whole page.
func TestNewSessionAfterTheFirstByteIsAnError(t *testing.T) {
	inEveryMode(t, func(t *testing.T, md mode) {
		st := newShop(t, md, nil)
		st.hitPages()
		for path, change := range map[string]func(s *holdfast.Session){
			"/set":        func(s *holdfast.Session) { note.Set(s, "late") },
			"/regenerate": func(s *holdfast.Session) { s.RegenerateID() },
		} {
			st.page(path, holdfast.Exclusive, func(w http.ResponseWriter, _ *http.Request, s *holdfast.Session) {
				fmt.Fprint(w, "begun")
				http.NewResponseController(w).Flush()
				change(s)
			})
		}
		if rp := st.browser().fetch(t.Context(), "/set", nil); rp.err == nil {
			t.Errorf("a session begun too late: the whole page %q", rp.body)
		}
		if !st.errs.has(holdfast.ErrHeadersSent) {
			t.Errorf("the hook heard of %v", st.errs.all)
		}
		b := st.browser()
		b.want("/hit", "1")
		if rp := b.fetch(t.Context(), "/regenerate", nil); rp.err == nil {
			t.Errorf("RegenerateID too late: the whole page %q", rp.body)
		}
		b.want("/hit", "2")
		if rp := b.get("/set"); rp.err != nil || rp.body != "begun" { // an old one may be changed
			t.Errorf("%q, %v", rp.body, rp.err)
		}
	})
}

// A goroutine that outlives its handler sees its own snapshot and changes nothing.
func TestGoroutineThatOutlivesItsHandler(t *testing.T) {
	inEveryMode(t, func(t *testing.T, md mode) {
		for _, a := range accesses[1:] {
			t.Run(a.String(), func(t *testing.T) {
				st := newShop(t, md, nil)
				st.do("/begin", holdfast.Exclusive, func(s *holdfast.Session) any {
					tags.Set(s, map[string]int{"a": 1})
					hits.Set(s, 1)
					note.Set(s, "never read")
					return nil
				})
				over, seen := make(chan struct{}), make(chan string, 1)
				st.page("/leave", a, func(_ http.ResponseWriter, r *http.Request, s *holdfast.Session) {
					hits.Get(s)
					go func() {
						<-over
						got := fmt.Sprint(hits.Get(s), tags.Get(s), note.Get(s), s.Len(), s.IsNew())
						for range s.All() {
						}
						_, again := holdfast.FromContext(r.Context())
						hits.Update(s, increment)
						tags.Get(s)["b"] = 2
						note.Set(s, "written")
						s.Clear()
						s.RegenerateID()
						s.SetTimeout(time.Hour)
						save, release, abandon := s.Save(context.Background()), s.Release(context.Background()), s.Abandon()
						for what, err := range map[string]error{"Err": s.Err(), "Save": save, "Release": release, "Abandon": abandon} {
							if !errors.Is(err, holdfast.ErrFinished) {
								t.Errorf("%s after the end: %v", what, err)
							}
						}
						if again != nil {
							t.Errorf("FromContext after the end: %v", again)
						}
						seen <- got
					}()
				})
				st.do("/change", holdfast.Exclusive, func(s *holdfast.Session) any {
					hits.Set(s, 50)
					tags.Get(s)["other"] = 1
					note.Set(s, "of another")
					return nil
				})
				st.do("/show", holdfast.ReadOnly, func(s *holdfast.Session) any {
					return fmt.Sprint(hits.Get(s), tags.Get(s), note.Get(s), s.Timeout())
				})
				b := st.browser()
				b.get("/begin")
				b.wantStatus("/leave", 200)
				b.wantStatus("/change", 200)
				close(over)
				if got := receive(t, seen); got != "1 map[a:1]never read3 false" {
					t.Errorf("it saw %q", got)
				}
				b.want("/show", "50 map[a:1 other:1]of another20m0s")
			})
		}
	})
}

// The goroutines of one handler may share its session.
func TestGoroutinesOfOneHandler(t *testing.T) {
	inEveryMode(t, func(t *testing.T, md mode) {
		for _, a := range changing {
			t.Run(a.String(), func(t *testing.T) {
				st := newShop(t, md, nil)
				st.Handle("/", application(st.m))
				st.HandleFunc("/many", func(w http.ResponseWriter, r *http.Request) {
					h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						var wg sync.WaitGroup
						for i := range 20 {
							wg.Go(func() {
								s := holdfast.From(r)
								hits.Update(s, increment)
								slots[i].Set(s, i)
								note.Get(s)
								if i == 10 {
									if err := s.Save(r.Context()); err != nil {
										t.Error(err)
									}
								}
							})
						}
						wg.Wait()
						fmt.Fprint(w, hits.Get(holdfast.From(r)))
					})
					st.m.With(a).Handler(h).ServeHTTP(w, r)
				})
				b := st.browser()
				b.want("/many", "20")
				b.want("/hits", "20")
				b.want("/many", "40")
				b.want("/hits", "40")
				b.want("/missing", "30")
			})
		}
	})
}

// Neither IDs nor what opens a session stands in any log, whatever goes wrong, even
// where the store has the IDs themselves.
func TestSessionIDsAreNeverLogged(t *testing.T) {
	for _, plain := range []bool{false, true} {
		t.Run(fmt.Sprint("PlainIDs ", plain), func(t *testing.T) {
			byEveryIdentity(t, func(t *testing.T, md mode) {
				var log lockedBuffer
				o := holdfast.Options{
					PlainIDs: plain, LockTimeout: time.Second,
					Logger:  slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})),
					OnError: func(_ context.Context, err error) { fmt.Fprintf(&log, "%v %+v %#v\n", err, err, err) },
				}
				short := o
				short.LockWait, short.StoreTimeout = 200*time.Millisecond, 300*time.Millisecond
				st := newShop(t, md, &short)
				st.Handle("/", application(st.m))
				patient := st.sibling(&o) // for what does not go wrong
				patient.Handle("/", application(patient.m))
				st.HandleFunc("/keep", func(http.ResponseWriter, *http.Request) {})
				st.do("/500", holdfast.ReadOnly, func(s *holdfast.Session) any { hits.Set(s, 1); return nil })
				st.moves("/regenerate", holdfast.Exclusive, func(s *holdfast.Session) any { s.RegenerateID(); return nil })
				var ids []string
				var logID string
				patient.do("/logID", holdfast.ReadOnly, func(s *holdfast.Session) any { logID = s.LogID(); return logID })
				for _, rule := range []func(storetest.Call) storetest.Fault{
					refuse(), refuse("Save"), refuse("Unlock"), refuse("Remove"), refuse("Create"), refuse("Touch"),
					storetest.Random(1, 0, 1),
				} {
					well := patient.browser()
					well.want("/Exclusive/hit", "1")
					well.want("/Exclusive/hit", "2")
					well.get("/logID")
					ids = append(ids, well.id(), patient.last.Load().Session)
					b := st.browser()
					b.setID(well.id())
					b.get("/hits")
					st.fail(rule)
					for _, path := range []string{"/keep", "/hits", "/look", "/Merge/hit", "/Exclusive/hit", "/500", "/regenerate", "/out"} {
						b.fetch(t.Context(), path, nil)
						ids = append(ids, b.id(), st.last.Load().Session)
					}
					st.fail(nil)
				}
				text := log.String()
				for _, id := range ids {
					if id != "" && strings.Contains(text, id) {
						at := strings.Index(text, id)
						t.Fatalf("the ID %s is in the log: …%s…", id, text[max(0, at-200):min(len(text), at+200)])
					}
				}
				if len(text) < 1000 || logID == "" || !strings.Contains(text, logID) {
					t.Errorf("the log of these failures, of session %q, is %d bytes long", logID, len(text))
				}
			})
		})
	}
}

// A lockedBuffer is a bytes.Buffer for several goroutines.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
