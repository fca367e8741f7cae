// Package before is a small shop whose sessions scs keeps, as the guide for users of
// scs shows it.
package before

import (
	"encoding/gob"
	"fmt"
	"net/http"

	"github.com/alexedwards/scs/v2"

	"github.com/holdfast-session/holdfast/examples/guides/shop"
)

var sessions = scs.New()

func init() { gob.Register([]shop.Line{}) }

// Manager returns the shop's sessions.
func Manager() *scs.SessionManager { return sessions }

// Pages returns the shop.
func Pages() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", front)
	mux.HandleFunc("POST /cart", put)
	mux.HandleFunc("POST /signin", signIn)
	mux.HandleFunc("POST /signout", signOut)
	return sessions.LoadAndSave(mux)
}

func front(w http.ResponseWriter, r *http.Request) {
	ctx := r.Context()
	sessions.Put(ctx, "visits", sessions.GetInt(ctx, "visits")+1)
	cart, _ := sessions.Get(ctx, "cart").([]shop.Line)
	flash := sessions.PopString(ctx, "flash")
	fmt.Fprintf(w, "%q, visit %d, cart %v, %s", sessions.GetString(ctx, "user"), sessions.GetInt(ctx, "visits"), cart, flash)
}

func put(w http.ResponseWriter, r *http.Request) {
	ctx := r.Context()
	cart, _ := sessions.Get(ctx, "cart").([]shop.Line)
	sessions.Put(ctx, "cart", append(cart, shop.Line{Article: r.FormValue("article"), Count: 1}))
	sessions.Put(ctx, "flash", "It is in your cart.")
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

func signIn(w http.ResponseWriter, r *http.Request) {
	if err := sessions.RenewToken(r.Context()); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	sessions.Put(r.Context(), "user", r.FormValue("name"))
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

func signOut(w http.ResponseWriter, r *http.Request) {
	if err := sessions.Destroy(r.Context()); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	http.Redirect(w, r, "/", http.StatusSeeOther)
}
