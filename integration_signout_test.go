package holdfast_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-session/holdfast"
	"github.com/holdfast-session/holdfast/store"
	"github.com/holdfast-session/holdfast/storetest"
)

var accesses = []holdfast.Access{holdfast.Disabled, holdfast.ReadOnly, holdfast.Merge, holdfast.Exclusive}

// signInPages adds what the tests of this file share: /in signs alice in without a
// new ID, /who tells who is signed in, and /out signs out.
func (st *shop) signInPages(out holdfast.Access) {
	st.do("/in", holdfast.Exclusive, func(s *holdfast.Session) any {
		user.Set(s, "alice")
		return nil
	})
	st.do("/who", holdfast.ReadOnly, func(s *holdfast.Session) any { return user.Get(s) })
	st.do("/out", out, func(s *holdfast.Session) any {
		if err := s.Abandon(); err != nil {
			return err
		}
		return nil
	})
}

// inFlight adds /busy, a page with access a that reads who is signed in, waits at
// the returned gate, and then, if it may, changes the session.
func (st *shop) inFlight(a holdfast.Access) *gate {
	g := newGate()
	work := func(s *holdfast.Session) any {
		who := user.Get(s)
		g.pass()
		if a > holdfast.ReadOnly {
			hits.Update(s, increment)
			user.Set(s, who)
		}
		return who
	}
	if a == holdfast.Disabled {
		st.Handle("/busy", st.m.With(a).Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { g.pass() })))
	} else {
		st.do("/busy", a, work)
	}
	return g
}

func TestSignOutStaysOutOfEveryRequestInFlight(t *testing.T) {
	byEveryIdentity(t, func(t *testing.T, md mode) {
		for _, a := range accesses {
			for _, out := range accesses[1:] {
				t.Run(fmt.Sprintf("%v while %v signs out", a, out), func(t *testing.T) {
					st := newShop(t, md, nil)
					st.signInPages(out)
					g := st.inFlight(a)
					b := st.browser()
					b.get("/in")
					old := b.id()
					work := b.begin("/busy")
					g.await(t)
					var rp, done *answer
					if a == holdfast.Exclusive && out == holdfast.Exclusive { // they take turns
						signOut := b.begin("/out")
						g.open()
						rp, done = receive(t, work), receive(t, signOut)
						if rp.status != 200 {
							t.Errorf("the request before the sign-out: %d %q", rp.status, rp.body)
						}
					} else {
						done = b.get("/out")
						g.open()
						rp = receive(t, work)
						if want := map[bool]int{true: 409, false: 200}[a > holdfast.ReadOnly]; rp.status != want {
							t.Errorf("the request in flight: %d %q, want %d", rp.status, rp.body, want)
						}
					}
					if done.status != 200 || done.body != "" {
						t.Errorf("the sign-out: %d %q", done.status, done.body)
					}
					if rp.told != nil {
						t.Errorf("the request in flight was told the ID %q", *rp.told)
					}
					if !st.way.urls { // that of the page that he sees stays as it is
						if done.told == nil || *done.told != "" {
							t.Errorf("the sign-out did not take the ID away: %v", done.header)
						}
						if id := b.id(); id != "" {
							t.Errorf("the browser still has the ID %q", id)
						}
					}
					b.withID(old).want("/who", "")
				})
			}
		}
	})
}

// A request that arrives with the old ID after the sign-out gets a session of
// its own, under an ID of its own.
func TestSignOutThenOldCookieGetsAFreshSession(t *testing.T) {
	byEveryIdentity(t, func(t *testing.T, md mode) {
		for _, a := range changing {
			t.Run(a.String(), func(t *testing.T) {
				st := newShop(t, md, nil)
				st.signInPages(a)
				st.do("/hit", a, func(s *holdfast.Session) any {
					hits.Update(s, increment)
					return fmt.Sprint(s.Lost().Kind, s.IsNew(), hits.Get(s), user.Get(s))
				})
				b := st.browser()
				b.get("/in")
				old := b.id()
				b.get("/out")
				late := b.withID(old)
				late.want("/hit", "abandoned true 1")
				if id := late.id(); id == old || id == "" {
					t.Errorf("the session got the ID %q, the dead one was %q", id, old)
				}
				b.withID(old).want("/who", "")
			})
		}
	})
}

// The removal is repeated until there is an answer, and that is a yes.
func TestSignOutWhileRepliesAreLost(t *testing.T) {
	byEveryIdentity(t, func(t *testing.T, md mode) {
		for name, rule := range map[string]func(storetest.Call) storetest.Fault{
			"reply lost": storetest.Nth("Remove", 1, storetest.LoseReply),
			"refused":    storetest.Nth("Remove", 1, storetest.Refuse),
		} {
			t.Run(name, func(t *testing.T) {
				st := newShop(t, md, nil)
				st.fail(rule)
				st.signInPages(holdfast.Exclusive)
				b := st.browser()
				b.get("/in")
				old := b.id()
				b.want("/out", "")
				b.withID(old).want("/who", "")
			})
		}
	})
}

// After Abandon the same request may begin another session; nothing of the old one
// is in it.
func TestAbandonGoesOnWithANewSession(t *testing.T) {
	byEveryIdentity(t, func(t *testing.T, md mode) {
		for _, a := range changing {
			t.Run(a.String(), func(t *testing.T) {
				st := newShop(t, md, nil)
				st.signInPages(a)
				st.moves("/again", a, func(s *holdfast.Session) any {
					note.Set(s, "lost with the old one")
					err := s.Abandon()
					before := fmt.Sprint(err, s.Len(), s.IsNew(), s.ID() == "", user.Get(s), note.Get(s))
					hits.Set(s, 7)
					return before
				})
				st.do("/show", holdfast.ReadOnly, func(s *holdfast.Session) any {
					return fmt.Sprint(hits.Get(s), s.Len())
				})
				b := st.browser()
				b.get("/in")
				old := b.id()
				b.want("/again", "<nil> 0 true true")
				if b.id() == "" || b.id() == old {
					t.Errorf("the ID was %q and is %q", old, b.id())
				}
				b.want("/show", "7 1")
				b.withID(old).want("/who", "")
			})
		}
	})
}

// A sign-out that fails says so, and is not taken for one.
func TestAbandonThatFailsIsAnError(t *testing.T) {
	byEveryIdentity(t, func(t *testing.T, md mode) {
		st := newShop(t, md, &holdfast.Options{StoreTimeout: time.Second})
		st.signInPages(holdfast.Exclusive)
		b := st.browser()
		b.get("/in")
		st.fail(refuse("Remove"))
		b.wantStatus("/out", 503)
		if b.id() == "" {
			t.Error("the ID was taken away although the session is still there")
		}
		if !st.errs.has(store.ErrUnavailable) {
			t.Error("the hook did not hear of it")
		}
		b.want("/who", "alice")
	})
}

func TestClientChosenIDIsNeverAdopted(t *testing.T) {
	byEveryIdentity(t, func(t *testing.T, md mode) {
		for _, a := range changing {
			t.Run(a.String(), func(t *testing.T) {
				st := newShop(t, md, nil)
				st.signInPages(a)
				st.do("/hit", a, func(s *holdfast.Session) any {
					hits.Update(s, increment)
					return hits.Get(s)
				})
				chosen := strings.Repeat("a", 24)
				b := st.browser()
				b.setID(chosen)
				b.want("/who", "")
				if b.id() != chosen {
					t.Errorf("a request that stored nothing changed the ID to %q", b.id())
				}
				b.want("/hit", "1")
				if b.id() == chosen {
					t.Error("the ID that the client chose has a session")
				}
				b.want("/hit", "2")
				b.withID(chosen).want("/hit", "1")
			})
		}
	})
}

// fixationShop is a shop where an attacker knows the ID of a session in which a
// visitor then signs in at /in, with access a.
func fixationShop(t *testing.T, md mode, a holdfast.Access) (st *shop, visitor, attacker *browser) {
	t.Helper()
	st = newShop(t, md, nil)
	st.do("/begin", holdfast.Exclusive, func(s *holdfast.Session) any {
		note.Set(s, "basket")
		return nil
	})
	st.moves("/in", a, func(s *holdfast.Session) any {
		s.RegenerateID()
		user.Set(s, "alice")
		return nil
	})
	st.do("/who", holdfast.ReadOnly, func(s *holdfast.Session) any {
		return fmt.Sprint(user.Get(s), " ", note.Get(s), " ", s.IsNew(), " ", s.Lost().Kind)
	})
	attacker = st.browser()
	attacker.get("/begin")
	return st, attacker.withID(attacker.id()), attacker
}

func TestFixationAnIDKnownBeforeSignInIsWorthNothing(t *testing.T) {
	byEveryIdentity(t, func(t *testing.T, md mode) {
		for _, a := range changing {
			t.Run(a.String(), func(t *testing.T) {
				st, visitor, attacker := fixationShop(t, md, a)
				visitor.want("/who", " basket false unknown")
				rp := visitor.wantStatus("/in", 200)
				if rp.told == nil && !st.way.urls || visitor.id() == attacker.id() {
					t.Errorf("after the sign-in the visitor has the ID %q, the attacker %q", visitor.id(), attacker.id())
				}
				visitor.want("/who", "alice basket false unknown")
				attacker.want("/who", "  true regenerated")

				// What he sends afterwards changes nothing and takes no ID away.
				rp = attacker.wantStatus("/in", 409)
				if rp.told != nil && (!st.way.urls || *rp.told == visitor.id()) {
					t.Errorf("a request with the dead ID was told the ID %q", *rp.told)
				}
				if !st.errs.has(holdfast.ErrEnded) {
					t.Error("the hook did not hear that the session has ended")
				}
				visitor.want("/who", "alice basket false unknown")
			})
		}
	})
}

// Another cookie of the name, planted in front of the dead ID, changes nothing.
func TestFixationAnUnknownCookieDoesNotHideTheDeadOne(t *testing.T) {
	inEveryMode(t, func(t *testing.T, md mode) {
		_, visitor, attacker := fixationShop(t, md, holdfast.Exclusive)
		visitor.wantStatus("/in", 200)
		unknown, dead := "session="+strings.Repeat("a", 24), "session="+attacker.id()
		for _, cookies := range []string{unknown + "; " + dead, dead + "; " + unknown} {
			if rp := attacker.withCookies("/in", cookies); rp.status != 409 || rp.sessionCookie() != nil {
				t.Errorf("%q: %d, cookie %v, want 409 and none", cookies, rp.status, rp.sessionCookie())
			}
		}
	})
}

func TestFixationARequestInFlightIsWorthNothingEither(t *testing.T) {
	byEveryIdentity(t, func(t *testing.T, md mode) {
		for _, a := range accesses {
			for _, in := range changing {
				if a == holdfast.Exclusive {
					continue // takes turns with the sign-in: the next test
				}
				t.Run(fmt.Sprintf("%v while %v signs in", a, in), func(t *testing.T) {
					st, visitor, attacker := fixationShop(t, md, in)
					g := st.inFlight(a)
					work := attacker.begin("/busy")
					g.await(t)
					visitor.wantStatus("/in", 200)
					g.open()
					rp := receive(t, work)
					if want := map[bool]int{true: 409, false: 200}[a > holdfast.ReadOnly]; rp.status != want || rp.body == "alice" {
						t.Errorf("the request in flight: %d %q, want %d", rp.status, rp.body, want)
					}
					if rp.told != nil {
						t.Errorf("the request in flight was told the ID %q", *rp.told)
					}
					visitor.want("/who", "alice basket false unknown")
				})
			}
		}
	})
}

func TestFixationARequestThatWaitedForTheSignIn(t *testing.T) {
	byEveryIdentity(t, func(t *testing.T, md mode) {
		st, visitor, attacker := fixationShop(t, md, holdfast.Exclusive)
		g := newGate()
		st.moves("/slowIn", holdfast.Exclusive, func(s *holdfast.Session) any {
			s.RegenerateID()
			user.Set(s, "alice")
			g.pass()
			return nil
		})
		st.do("/write", holdfast.Exclusive, func(s *holdfast.Session) any {
			who := user.Get(s)
			hits.Update(s, increment)
			return who
		})
		in := visitor.begin("/slowIn")
		g.await(t)
		write := attacker.begin("/write")
		g.open()
		if rp := receive(t, in); rp.status != 200 {
			t.Errorf("the sign-in: %d %q", rp.status, rp.body)
		}
		rp := receive(t, write)
		if rp.status != 409 || rp.told != nil && (!st.way.urls || *rp.told == visitor.id()) {
			t.Errorf("the request that waited: %d %q, %v, want 409 and no ID", rp.status, rp.body, rp.header)
		}
		visitor.want("/who", "alice basket false unknown")
	})
}

func TestRegenerateWhileRepliesAreLost(t *testing.T) {
	byEveryIdentity(t, func(t *testing.T, md mode) {
		for _, method := range []string{"Create", "Remove", "Lock"} {
			for _, a := range changing {
				t.Run(fmt.Sprint(method, a), func(t *testing.T) {
					st, visitor, attacker := fixationShop(t, md, a)
					st.fail(storetest.Nth(method, st.faults.Count(method)+1, storetest.LoseReply))
					visitor.wantStatus("/in", 200)
					visitor.want("/who", "alice basket false unknown")
					attacker.want("/who", "  true regenerated")
				})
			}
		}
	})
}

// The new session must not live where the old one could not be ended: the response
// says that nothing happened.
func TestRegenerateThatFailsChangesNothing(t *testing.T) {
	byEveryIdentity(t, func(t *testing.T, md mode) {
		st := newShop(t, md, &holdfast.Options{StoreTimeout: time.Second})
		st.do("/begin", holdfast.Exclusive, func(s *holdfast.Session) any { note.Set(s, "basket"); return nil })
		st.moves("/in", holdfast.Exclusive, func(s *holdfast.Session) any {
			s.RegenerateID()
			user.Set(s, "alice")
			return nil
		})
		st.do("/who", holdfast.Exclusive, func(s *holdfast.Session) any { return user.Get(s) + note.Get(s) })
		b := st.browser()
		b.get("/begin")
		old := b.id()
		for _, method := range []string{"Create", "Remove"} {
			st.fail(refuse(method))
			rp := b.wantStatus("/in", 503)
			if rp.told != nil || b.id() != old {
				t.Errorf("%s refused: the ID was %q and is %q", method, old, b.id())
			}
			st.fail(nil)
			b.want("/who", "basket")
		}
	})
}

func TestCreatedIsCarriedThroughRegenerateID(t *testing.T) {
	byEveryIdentity(t, func(t *testing.T, md mode) {
		for _, a := range changing {
			t.Run(a.String(), func(t *testing.T) {
				st, visitor, _ := fixationShop(t, md, a)
				st.do("/created", holdfast.ReadOnly, func(s *holdfast.Session) any { return s.Created().UnixNano() })
				st.do("/traits", a, func(s *holdfast.Session) any {
					s.SetSubject("42")
					s.SetTimeout(77 * time.Second)
					return nil
				})
				st.do("/showTraits", holdfast.ReadOnly, func(s *holdfast.Session) any {
					return fmt.Sprint(s.Subject(), " ", s.Timeout())
				})
				visitor.get("/traits")
				before := visitor.get("/created").body
				visitor.get("/in")
				visitor.want("/created", before)
				visitor.want("/showTraits", "42 1m17s")
			})
		}
	})
}
