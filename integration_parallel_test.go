package holdfast_test

import (
	"fmt"
	"net/http"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-session/holdfast"
	"github.com/holdfast-session/holdfast/store"
	"github.com/holdfast-session/holdfast/storetest"
)

// application is what the workers run, and what a site runs that is compared with
// them. Where a page has /{access}/ it exists for Exclusive and Merge.
//
//	/{access}/put?slot=n    sets slot n to n
//	/{access}/hit           adds one to the hits
//	/{access}/hold?gate=url the same, and asks url before it ends
//	/hits                   the hits, read-only
//	/missing                how many slots are not what put made them
//	/look                   the hits, with exclusive access and nothing changed
//	/glance                 the same, and the lock given back before the answer
//	/out                    ends the session
func application(m *holdfast.Manager) http.Handler {
	mux := http.NewServeMux()
	page := func(path string, a holdfast.Access, h func(r *http.Request, s *holdfast.Session) any) {
		mux.Handle(path, m.With(a).Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, h(r, holdfast.From(r)))
		})))
	}
	for _, a := range []holdfast.Access{holdfast.Exclusive, holdfast.Merge} {
		page(fmt.Sprintf("/%v/put", a), a, func(r *http.Request, s *holdfast.Session) any {
			n, err := strconv.Atoi(r.FormValue("slot"))
			if err == nil {
				slots[n].Set(s, n)
			}
			return err
		})
		page(fmt.Sprintf("/%v/hit", a), a, func(_ *http.Request, s *holdfast.Session) any {
			hits.Update(s, increment)
			return hits.Get(s)
		})
		page(fmt.Sprintf("/%v/hold", a), a, func(r *http.Request, s *holdfast.Session) any {
			hits.Update(s, increment)
			resp, err := http.Get(r.FormValue("gate"))
			if err != nil {
				return err
			}
			resp.Body.Close()
			return hits.Get(s)
		})
	}
	page("/out", holdfast.ReadOnly, func(_ *http.Request, s *holdfast.Session) any { return s.Abandon() })
	page("/look", holdfast.Exclusive, func(_ *http.Request, s *holdfast.Session) any { return hits.Get(s) })
	page("/glance", holdfast.Exclusive, func(r *http.Request, s *holdfast.Session) any {
		if err := s.Release(r.Context()); err != nil {
			return err
		}
		return hits.Get(s)
	})
	page("/hits", holdfast.ReadOnly, func(_ *http.Request, s *holdfast.Session) any { return hits.Get(s) })
	page("/missing", holdfast.ReadOnly, func(_ *http.Request, s *holdfast.Session) any {
		missing := 0
		for i, slot := range slots {
			if v, err := slot.Lookup(s); err != nil || v != i || !slot.Has(s) {
				missing++
			}
		}
		return missing
	})
	return m.Handler(mux)
}

// fifty makes fifty requests at once, dealt to the browsers in turn, and returns
// how many were answered with each status.
func fifty(browsers []*browser, path func(i int) string) map[int]int {
	var mu sync.Mutex
	statuses := make(map[int]int)
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			rp := browsers[i%len(browsers)].get(path(i))
			mu.Lock()
			statuses[rp.status]++
			mu.Unlock()
		})
	}
	wg.Wait()
	return statuses
}

// testNothingLost lets the browsers, which have one session, make fifty requests
// that each set a key of their own, and fifty that each Update one counter. Up to
// unsure of them may be answered with 503, of which nobody can know whether they
// were counted.
func testNothingLost(t *testing.T, a holdfast.Access, unsure int, browsers ...*browser) {
	t.Helper()
	b := browsers[0]
	number := func(path string) int {
		n, err := strconv.Atoi(b.get(path).body)
		if err != nil {
			t.Errorf("%s: %v", path, err)
		}
		return n
	}
	st := fifty(browsers, func(i int) string { return fmt.Sprintf("/%v/put?slot=%d", a, i) })
	if st[200]+st[503] != 50 || st[503] > unsure {
		t.Errorf("%v, keys of their own: statuses %v, want 50 times 200", a, st)
	}
	if n := number("/missing"); n > st[503] {
		t.Errorf("%d keys are missing after the statuses %v", n, st)
	}
	before := number("/hits")
	st = fifty(browsers, func(int) string { return fmt.Sprintf("/%v/hit", a) })
	if st[200]+st[503] != 50 || st[503] > unsure {
		t.Errorf("%v, one counter: statuses %v, want 50 times 200", a, st)
	}
	if n := number("/hits") - before; n < st[200] || n > 50 {
		t.Errorf("the counter went up by %d after the statuses %v", n, st)
	}
}

var changing = []holdfast.Access{holdfast.Exclusive, holdfast.Merge}

func TestNothingIsLostInFiftyParallelRequests(t *testing.T) {
	byEveryIdentity(t, func(t *testing.T, md mode) {
		for _, a := range changing {
			t.Run(a.String(), func(t *testing.T) {
				st := newShop(t, md, nil)
				st.Handle("/", application(st.m))
				b := st.browser()
				b.want("/Exclusive/hit", "1")
				testNothingLost(t, a, 0, b)
			})
		}
	})
}

// forSeeds runs test with Exclusive and Merge access, for one seed or, with
// HOLDFAST_LONG set, for a hundred.
func forSeeds(t *testing.T, test func(t *testing.T, a holdfast.Access, seed uint64)) {
	n := 1
	if os.Getenv("HOLDFAST_LONG") != "" {
		n = 100
	}
	for seed := range n {
		for _, a := range changing {
			t.Run(fmt.Sprint(a, seed), func(t *testing.T) { test(t, a, uint64(seed)) })
		}
	}
}

// A record remembers four versions. Where a reply is lost and more than that is saved
// since the request began, nobody can know what became of the call.
var unsureWhileRepliesAreLost = map[holdfast.Access]int{holdfast.Exclusive: 0, holdfast.Merge: 5}

func TestNothingIsLostWhileRepliesAre(t *testing.T) {
	byEveryIdentity(t, func(t *testing.T, md mode) {
		forSeeds(t, func(t *testing.T, a holdfast.Access, seed uint64) {
			st := newShop(t, md, nil)
			st.Handle("/", application(st.m))
			st.fail(storetest.Random(seed, 0, 0.2))
			b := st.browser()
			b.want("/Exclusive/hit", "1")
			testNothingLost(t, a, unsureWhileRepliesAreLost[a], b)
		})
	})
}

// With calls refused too, some requests are answered with 503. Those that are not
// are counted, those that are are not, unless nobody can know.
func TestCounterEqualsWhatWasAcknowledged(t *testing.T) {
	byEveryIdentity(t, func(t *testing.T, md mode) {
		forSeeds(t, func(t *testing.T, a holdfast.Access, seed uint64) {
			st := newShop(t, md, nil)
			st.Handle("/", application(st.m))
			b := st.browser()
			b.want("/Exclusive/hit", "1")
			st.fail(storetest.Random(seed, 0.1, 0.2))
			statuses := fifty([]*browser{b}, func(int) string { return fmt.Sprintf("/%v/hit", a) })
			st.fail(nil)
			if statuses[200]+statuses[503] != 50 || statuses[200] < 10 {
				t.Errorf("statuses %v, want 200 and 503 only", statuses)
			}
			n, _ := strconv.Atoi(b.get("/hits").body)
			least, most := 1+statuses[200], 1+statuses[200]
			if st.errs.has(store.ErrUnsure) {
				most = 51
			}
			if n < least || n > most {
				t.Errorf("the counter is %d after the statuses %v", n, statuses)
			}
		})
	})
}

// startWorkers starts two workers over one state server, and returns a browser for
// each; both have one session, with one hit.
func startWorkers(t *testing.T, c programConfig) (p [2]*process, b [2]*browser) {
	t.Helper()
	c.Server, c.App = sharedServer.addr(t), "/"+t.Name()
	to := &http.Transport{MaxIdleConnsPerHost: 100}
	for i := range p {
		c.Seed++
		p[i] = run(t, "worker", c)
		b[i] = newBrowser(t, to, "http://"+p[i].addr)
	}
	t.Cleanup(to.CloseIdleConnections)
	b[0].want("/Exclusive/hit", "1")
	b[1].setID(b[0].id())
	b[1].want("/hits", "1")
	return p, b
}

func TestNothingIsLostBetweenTwoProcesses(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]float64{"": 0, " while replies are lost": 0.2} {
		for _, a := range changing {
			t.Run(a.String()+name, func(t *testing.T) {
				t.Parallel()
				_, b := startWorkers(t, programConfig{LoseReplies: lose})
				unsure := 0
				if lose > 0 {
					unsure = 5 // also with Exclusive: the other process saves meanwhile
				}
				testNothingLost(t, a, unsure, b[0], b[1])
			})
		}
	}
}

func TestMergeContentionBounded(t *testing.T) {
	inEveryMode(t, func(t *testing.T, md mode) {
		st := newShop(t, md, nil)
		st.Handle("/", application(st.m))
		var all sync.WaitGroup // have read before any saves
		all.Add(50)
		st.do("/together", holdfast.Merge, func(s *holdfast.Session) any {
			hits.Update(s, increment)
			all.Done()
			all.Wait()
			return nil
		})
		b := st.browser()
		b.want("/Exclusive/hit", "1")
		before := st.faults.Count()
		if statuses := fifty([]*browser{b}, func(int) string { return "/together" }); statuses[200] != 50 {
			t.Errorf("statuses %v, want 50 times 200", statuses)
		}
		if n := st.faults.Count() - before; n > 500 {
			t.Errorf("50 merges took %d calls of the store, want at most 500", n)
		} else {
			t.Logf("50 merges took %d calls of the store", n)
		}
		b.want("/hits", "51")
	})
}

// Merged requests that overwrite what they have read, and another has changed
// meanwhile, are refused; those that touch something else are not.
func TestMergeRefusesToOverwriteWhatAnotherChanged(t *testing.T) {
	inEveryMode(t, func(t *testing.T, md mode) {
		for name, c := range map[string]struct {
			change func(s *holdfast.Session)
			status int
		}{
			"Set of a key that was read":    {func(s *holdfast.Session) { note.Set(s, note.Get(s)+"b") }, 409},
			"a mutation":                    {func(s *holdfast.Session) { tags.Get(s)["b"] = 1 }, 409},
			"Delete of a key that was read": {func(s *holdfast.Session) { note.Take(s) }, 409},
			"blind Set":                     {func(s *holdfast.Session) { note.Set(s, "b") }, 200},
			"Update":                        {func(s *holdfast.Session) { note.Update(s, func(v string) string { return v + "b" }) }, 200},
			"another key":                   {func(s *holdfast.Session) { hits.Set(s, hits.Get(s)+1) }, 200},
		} {
			t.Run(name, func(t *testing.T) {
				st := newShop(t, md, nil)
				g := newGate()
				st.do("/begin", holdfast.Exclusive, func(s *holdfast.Session) any {
					note.Set(s, "")
					tags.Set(s, map[string]int{})
					return nil
				})
				st.do("/slow", holdfast.Merge, func(s *holdfast.Session) any {
					c.change(s)
					g.pass()
					return nil
				})
				st.do("/fast", holdfast.Merge, func(s *holdfast.Session) any {
					note.Set(s, "a")
					tags.Set(s, map[string]int{"a": 1})
					return nil
				})
				st.do("/show", holdfast.ReadOnly, func(s *holdfast.Session) any {
					return fmt.Sprint(note.Get(s), tags.Get(s), hits.Get(s))
				})
				b := st.browser()
				b.get("/begin")
				slow := b.begin("/slow")
				g.await(t)
				b.wantStatus("/fast", 200)
				g.open()
				rp := receive(t, slow)
				if rp.status != c.status {
					t.Errorf("%d %q, want %d", rp.status, rp.body, c.status)
				}
				if refused := rp.status == 409; refused != st.errs.has(holdfast.ErrConflict) {
					t.Errorf("the hook heard of a conflict: %v", !refused)
				}
				after := b.get("/show").body
				if c.status == 409 && after != "amap[a:1] 0" {
					t.Errorf("a refused request left %q", after)
				}
				if name == "Update" && after != "abmap[a:1] 0" {
					t.Errorf("the Update was not run again: %q", after)
				}
			})
		}
	})
}

// An Update runs again on the newest value, but only where that is needed, and
// never because a reply was lost.
func TestUpdateRunsOncePerWrite(t *testing.T) {
	inEveryMode(t, func(t *testing.T, md mode) {
		st := newShop(t, md, nil)
		runs := 0
		st.do("/hit", holdfast.Merge, func(s *holdfast.Session) any {
			hits.Update(s, func(n int) int { runs++; return n + 1 })
			return hits.Get(s)
		})
		st.fail(storetest.Nth("Save", 1, storetest.LoseReply))
		b := st.browser()
		b.want("/hit", "1")
		b.want("/hit", "2")
		b.want("/hit", "3")
		if n := st.faults.Count("Save"); n != 3 {
			t.Errorf("%d Saves for two changes, one of whose replies was lost", n)
		}
		// once in the handler, once more over the base at each save
		if runs > 6 {
			t.Errorf("the function ran %d times for three changes", runs)
		}
	})
}

func TestExclusiveRequestsTakeTurns(t *testing.T) {
	byEveryIdentity(t, func(t *testing.T, md mode) {
		st := newShop(t, md, nil)
		other := st.sibling(nil) // has a queue of its own
		var inside sync.Mutex
		for _, sh := range []*shop{st, other} {
			sh.do("/turn", holdfast.Exclusive, func(s *holdfast.Session) any {
				if !inside.TryLock() {
					t.Error("two at a time")
					return nil
				}
				defer inside.Unlock()
				hits.Set(s, hits.Get(s)+1)
				<-time.After(time.Millisecond)
				return hits.Get(s)
			})
		}
		a := st.browser()
		a.want("/turn", "1")
		b := other.browser()
		b.setID(a.id())
		if statuses := fifty([]*browser{a, b}, func(int) string { return "/turn" }); statuses[200] != 50 {
			t.Errorf("statuses %v, want 50 times 200", statuses)
		}
		a.want("/turn", "52")
	})
}
