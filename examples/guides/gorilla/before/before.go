// Package before is a small shop whose sessions gorilla/sessions keeps, as the guide
// for users of gorilla/sessions shows it.
package before

import (
	"encoding/gob"
	"fmt"
	"log"
	"net/http"

	"github.com/gorilla/sessions"

	"github.com/holdfast-session/holdfast/examples/guides/shop"
)

var store = sessions.NewCookieStore([]byte("32 bytes that nobody else knows."))

func init() {
	gob.Register([]shop.Line{})
	store.Options.Secure = false // this shop has no TLS
	store.Options.SameSite = http.SameSiteLaxMode
	store.Options.HttpOnly = true
}

// Store returns where the shop's sessions are.
func Store() sessions.Store { return store }

// Pages returns the shop.
func Pages() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", front)
	mux.HandleFunc("POST /cart", put)
	mux.HandleFunc("POST /signin", signIn)
	mux.HandleFunc("POST /signout", signOut)
	return mux
}

func front(w http.ResponseWriter, r *http.Request) {
	s, err := store.Get(r, "shop")
	if err != nil {
		log.Print(err) // a cookie that cannot be read; s is a new session
	}
	n, _ := s.Values["visits"].(int)
	s.Values["visits"] = n + 1
	cart, _ := s.Values["cart"].([]shop.Line)
	user, _ := s.Values["user"].(string)
	flash := ""
	if all := s.Flashes(); len(all) > 0 {
		flash, _ = all[0].(string)
	}
	if err := s.Save(r, w); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	fmt.Fprintf(w, "%q, visit %d, cart %v, %s", user, n+1, cart, flash)
}

func put(w http.ResponseWriter, r *http.Request) {
	s, err := store.Get(r, "shop")
	if err != nil {
		log.Print(err)
	}
	cart, _ := s.Values["cart"].([]shop.Line)
	s.Values["cart"] = append(cart, shop.Line{Article: r.FormValue("article"), Count: 1})
	s.AddFlash("It is in your cart.")
	if err := s.Save(r, w); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

func signIn(w http.ResponseWriter, r *http.Request) {
	s, err := store.Get(r, "shop")
	if err != nil {
		log.Print(err)
	}
	s.Values["user"] = r.FormValue("name")
	if err := s.Save(r, w); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

func signOut(w http.ResponseWriter, r *http.Request) {
	s, err := store.Get(r, "shop")
	if err != nil {
		log.Print(err)
	}
	s.Options.MaxAge = -1
	if err := s.Save(r, w); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	http.Redirect(w, r, "/", http.StatusSeeOther)
}
