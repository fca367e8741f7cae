// Package holdfasttest helps to test the handlers of an application that has its
// sessions from package holdfast, as net/http/httptest does for handlers in general:
// sessions that are prepared before a request and read after it, a clock, and a store
// that fails.
//
//	func TestBuy(t *testing.T) {
//		ht := holdfasttest.New(t, nil)
//		app := newApp(ht.Manager) // the application under test, an http.Handler
//
//		ann := ht.Visitor() // a browser: it keeps its cookies
//		ann.Prepare(func(s *holdfast.Session) { cart.Set(s, []string{"book"}) })
//
//		w := ann.Do(app, httptest.NewRequest("POST", "/buy", nil))
//		if w.Code != http.StatusSeeOther {
//			t.Errorf("status %d", w.Code)
//		}
//		if left := cart.Get(ann.Session()); len(left) > 0 {
//			t.Errorf("still in the cart: %q", left)
//		}
//	}
//
// A handler is served as it is. One that is not wrapped yet, because it is a part of
// the application, is wrapped as the application would do it:
//
//	ann.Do(ht.Handler(http.HandlerFunc(buy)), r)
//	ann.Do(ht.With(holdfast.ReadOnly).Handler(http.HandlerFunc(show)), r)
//
// # The clock
//
// Timeouts, lifetimes and cookies that age are tested in the fake time of
// testing/synctest, where [Sessions.Advance] moves the clock:
//
//	func TestCartIsForgotten(t *testing.T) {
//		synctest.Test(t, func(t *testing.T) {
//			ht := holdfasttest.New(t, &holdfast.Options{Timeout: 20 * time.Minute})
//			ann := ht.Visitor()
//			ann.Prepare(func(s *holdfast.Session) { cart.Set(s, []string{"book"}) })
//			ht.Advance(22 * time.Minute) // a tenth more: a session never ends earlier
//			w := ann.Do(newApp(ht.Manager), httptest.NewRequest("GET", "/cart", nil))
//			…
//		})
//	}
//
// New, and everything that it is used with, is called in the bubble then, and there is
// no real network in it: use [Visitor.Do], not [Visitor.Client].
//
// A test that only needs the session to be gone needs no clock: [Visitor.End].
//
// # Faults
//
// What an application does when its store is down, full, or loses replies is shown by
// [Sessions.Down], [Sessions.Before] and [Sessions.LoseReply]. Only the application
// meets these faults: Prepare, Session and End work all the same, so that a test can
// look at what was saved.
package holdfasttest
