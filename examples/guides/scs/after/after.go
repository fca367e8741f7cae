// Package after is the shop of package before with Holdfast, as the guide for users of
// scs shows it.
package after

import (
	"fmt"
	"net/http"

	"github.com/holdfast-session/holdfast"

	"github.com/holdfast-session/holdfast/examples/guides/shop"
)

var (
	visits = holdfast.NewKey[int]("visits")
	cart   = holdfast.NewKey[[]shop.Line]("cart")
	user   = holdfast.NewKey[string]("user")
	flash  = holdfast.NewKey[string]("flash")
)

// Pages returns the shop, to be put into Manager.Handler.
func Pages() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", front)
	mux.HandleFunc("POST /cart", put)
	mux.HandleFunc("POST /signin", signIn)
	mux.HandleFunc("POST /signout", signOut)
	return mux
}

func front(w http.ResponseWriter, r *http.Request) {
	s := holdfast.From(r)
	visits.Update(s, func(n int) int { return n + 1 })
	fmt.Fprintf(w, "%q, visit %d, cart %v, %s", user.Get(s), visits.Get(s), cart.Get(s), flash.Take(s))
}

func put(w http.ResponseWriter, r *http.Request) {
	s := holdfast.From(r)
	cart.Set(s, append(cart.Get(s), shop.Line{Article: r.FormValue("article"), Count: 1}))
	flash.Set(s, "It is in your cart.")
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

func signIn(w http.ResponseWriter, r *http.Request) {
	s := holdfast.From(r)
	s.RegenerateID()
	user.Set(s, r.FormValue("name"))
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

func signOut(w http.ResponseWriter, r *http.Request) {
	if err := holdfast.From(r).Abandon(); err != nil {
		http.Error(w, "You are still signed in; please try again.", http.StatusServiceUnavailable)
		return
	}
	http.Redirect(w, r, "/", http.StatusSeeOther)
}
