package holdfasttest_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-session/holdfast"
	"github.com/holdfast-session/holdfast/holdfasttest"
	"github.com/holdfast-session/holdfast/store"
)

func TestFaults(t *testing.T) {
	// In fake time, because a save is tried for a while.
	synctest.Test(t, func(t *testing.T) {
		ht := holdfasttest.New(t, nil)
		shop := newShop(ht.Manager)
		ann := ht.Visitor()
		inCart := func(want string) {
			t.Helper()
			if got := strings.Join(cart.Get(ann.Session()), " "); got != want {
				t.Errorf("in the cart: %q, want %q", got, want)
			}
		}
		for _, method := range []string{"Create", "Lock", "Save"} {
			ht.LoseReply(method)
		}
		ann.Do(shop, post("/add", "article=book"))
		ann.Do(shop, post("/add", "article=pen"))
		inCart("book pen")

		calls := 0
		ht.Before(func(method string) error {
			if calls++; method == "Save" {
				return store.ErrFull
			}
			return nil
		})
		if w := ann.Do(shop, post("/add", "article=hat")); w.Code != 503 || calls != 2 {
			t.Errorf("a full store: %d, %d calls", w.Code, calls)
		}
		var asked string
		ht.Before(func(method string) error { asked += method; return nil })
		ann.Do(ht.Handler(http.NotFoundHandler()), get("/picture"))
		if asked != "Touch" {
			t.Errorf("a request without From calls %q", asked)
		}
		ht.Before(nil)
		inCart("book pen")

		// In the middle of a request: the store goes down, or the session ends.
		during := func(what func()) *httptest.ResponseRecorder {
			return ann.Do(ht.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				cart.Set(holdfast.From(r), []string{"late"})
				what()
			})), get("/"))
		}
		began := time.Now()
		if w := during(func() { ht.Down(true) }); w.Code != 503 || time.Since(began) > time.Second {
			t.Errorf("down at the save: %d after %v", w.Code, time.Since(began))
		}
		if w := ann.Do(shop, post("/signout", "")); w.Code != 503 {
			t.Errorf("signed out of a store that is down: %d", w.Code)
		}
		ann.Prepare(func(s *holdfast.Session) { user.Set(s, "ann") }) // meets no fault, and no lock
		inCart("book pen")
		if _, err := ht.Sessions(t.Context(), "ann"); !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("Sessions of a store that is down: %v", err)
		}
		ht.Down(false)
		if w := during(func() { ann.End(store.Abandoned) }); w.Code != 409 {
			t.Errorf("ended under a request: %d, want 409", w.Code)
		}
	})
}

func TestEndsOfAStoreThatIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ends, errs := make(chan store.Kind, 10), make(chan error, 100)
		ht := holdfasttest.New(t, &holdfast.Options{
			OnEnd:   func(_ context.Context, _ *holdfast.Session, why store.Reason) { ends <- why.Kind },
			OnError: func(_ context.Context, err error) { errs <- err },
		})
		ann := ht.Visitor()
		ann.Prepare(func(s *holdfast.Session) { user.Set(s, "ann") })
		ann.End(store.Expired)
		ht.Down(true)
		ht.Advance(2 * time.Second)
		if len(ends) != 0 || len(errs) != 2 {
			t.Errorf("while the store is down: %d ends, %d errors", len(ends), len(errs))
		}
		ht.Down(false)
		ht.LoseReply("Ended")
		ht.Advance(2 * time.Minute) // the batch that was lost comes again
		if len(ends) != 1 {
			t.Errorf("%d ends told", len(ends))
		}
	})
}
