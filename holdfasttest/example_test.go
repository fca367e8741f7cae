package holdfasttest_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/holdfast-session/holdfast"
	"github.com/holdfast-session/holdfast/holdfasttest"
	"github.com/holdfast-session/holdfast/store"
)

// A page is asked for with a session that was prepared, and what it did to the session
// is looked at.
func Example() {
	t := new(fakeT) // in a test function it is there

	ht := holdfasttest.New(t, nil)
	shop := newShop(ht.Manager) // the application: sessions.Handler(mux)

	ann := ht.Visitor()
	ann.Prepare(func(s *holdfast.Session) { cart.Set(s, []string{"book", "pen"}) })
	w := ann.Do(shop, httptest.NewRequest("POST", "/buy", nil))
	fmt.Println(w.Code, w.Body)
	fmt.Println("left:", len(cart.Get(ann.Session())))
	// Output:
	// 200 bought: book, pen
	// left: 0
}

// A handler that is not wrapped is wrapped by the Manager, as the application does it.
func ExampleVisitor_Do() {
	t := new(fakeT) // in a test function it is there

	ht := holdfasttest.New(t, nil)
	ann := ht.Visitor()
	ann.Prepare(func(s *holdfast.Session) { cart.Set(s, []string{"book"}) })
	show := ht.With(holdfast.ReadOnly).Handler(http.HandlerFunc(showCart))
	fmt.Println(ann.Do(show, httptest.NewRequest("GET", "/", nil)).Body)
	// Output:
	//  has book
}

// An ID that somebody learnt before the sign-in is worth nothing after.
func ExampleVisitor_Clone() {
	t := new(fakeT) // in a test function it is there

	ht := holdfasttest.New(t, nil)
	shop := newShop(ht.Manager)
	ann := ht.Visitor()
	ann.Prepare(func(s *holdfast.Session) { cart.Set(s, []string{"book"}) })
	thief := ann.Clone()

	r := httptest.NewRequest("POST", "/signin", strings.NewReader("name=ann"))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	ann.Do(shop, r)
	fmt.Printf("%q %q\n", user.Get(ann.Session()), user.Get(thief.Session()))
	// Output:
	// "ann" ""
}

// The session has expired when the visitor comes back.
func ExampleVisitor_End() {
	t := new(fakeT) // in a test function it is there

	ht := holdfasttest.New(t, nil)
	ann := ht.Visitor()
	ann.Prepare(func(s *holdfast.Session) { user.Set(s, "ann") })
	ann.End(store.Expired)
	fmt.Println(ann.Do(newShop(ht.Manager), httptest.NewRequest("GET", "/cart", nil)).Body)
	// Output:
	// Your cart is gone (expired).  has
}

// While the store is down nothing is bought, and nothing is lost.
func ExampleSessions_Down() {
	t := new(fakeT) // in a test function it is there

	ht := holdfasttest.New(t, nil)
	shop := newShop(ht.Manager)
	ann := ht.Visitor()
	ann.Prepare(func(s *holdfast.Session) { cart.Set(s, []string{"book"}) })

	ht.Down(true)
	w := ann.Do(shop, httptest.NewRequest("POST", "/buy", nil))
	fmt.Println(w.Code, w.Header().Get("Retry-After"), cart.Get(ann.Session()))
	ht.Down(false)
	fmt.Println(ann.Do(shop, httptest.NewRequest("POST", "/buy", nil)).Body)
	// Output:
	// 503 2 [book]
	// bought: book
}

// A page that only shows something does not write.
func ExampleSessions_Before() {
	t := new(fakeT) // in a test function it is there

	ht := holdfasttest.New(t, nil)
	ann := ht.Visitor()
	ann.Prepare(func(s *holdfast.Session) { cart.Set(s, []string{"book"}) })
	ht.Before(func(method string) error {
		fmt.Println(method)
		return nil
	})
	ann.Do(newShop(ht.Manager), httptest.NewRequest("GET", "/cart", nil))
	// Output:
	// Lock
}
