// Gorillamux is a few pages with the router gorilla/mux. The sessions are in the process or, with
// -state, on a state server:
//
//	go run ./gorillamux
//
//	go run github.com/holdfast-session/holdfast/cmd/holdfast serve &
//	go run ./gorillamux -state 127.0.0.1:42424
//
// Example nethttp shows how a program ends without losing a request.
package main

import (
	"context"
	_ "embed"
	"flag"
	"fmt"
	"html/template"
	"log"
	"net"
	"net/http"
	"strings"

	"github.com/gorilla/handlers"
	"github.com/gorilla/mux"

	"github.com/holdfast-session/holdfast"
	"github.com/holdfast-session/holdfast/inproc"
	"github.com/holdfast-session/holdfast/stateserver"
	"github.com/holdfast-session/holdfast/store"
)

// What a session holds.
var (
	visits = holdfast.NewKey[int]("visits")
	user   = holdfast.NewKey[string]("user")
)

func main() {
	addr := flag.String("addr", "127.0.0.1:8080", "where to listen")
	state := flag.String("state", "", "a state server's `address`; without one the sessions are in this process")
	flag.Parse()
	var places store.Store = inproc.New(nil)
	if *state != "" {
		client, err := stateserver.Dial(*state, nil)
		if err != nil {
			log.Fatal(err)
		}
		places = client
	}
	sessions := holdfast.New(places, &holdfast.Options{
		OnError: func(_ context.Context, err error) { log.Print(err) },
	})
	l, err := net.Listen("tcp", *addr)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("the pages are at http://%s/\n", l.Addr())
	log.Fatal(http.Serve(l, pages(sessions)))
}

// pages returns the router. Holdfast's middleware is mux's kind of middleware.
//
// The recovery is outside of Holdfast, so that Holdfast sees the panic, drops what
// the handler wrote and changed, and the recovery can answer 500 also where a page
// was half written. Inside, it would try to answer 500 after the handler's 200, and
// the session of a handler that panicked would be saved.
func pages(sessions *holdfast.Manager) http.Handler {
	r := mux.NewRouter()
	r.Use(recovery)
	r.Use(http.NewCrossOriginProtection().Handler)
	r.Use(sessions.Handler)

	r.HandleFunc("/", front).Methods("GET")
	r.HandleFunc("/signin", signIn).Methods("POST")
	r.HandleFunc("/signout", signOut).Methods("POST")
	r.HandleFunc("/broken/{when}", broken).Methods("GET")
	r.HandleFunc("/long", long).Methods("GET")

	looking := r.NewRoute().Subrouter()
	looking.Use(sessions.With(holdfast.ReadOnly).Handler)
	looking.HandleFunc("/greet/{word}", greet).Methods("GET")
	return r
}

// recovery is gorilla/handlers' RecoveryHandler, except for http.ErrAbortHandler. By
// that panic a response is cut that the visitor must not take for whole, and
// RecoveryHandler takes it for any other: the page would then seem to be complete.
func recovery(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		cut := false
		inner := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			defer func() {
				if p := recover(); p == http.ErrAbortHandler {
					cut = true
				} else if p != nil {
					panic(p)
				}
			}()
			next.ServeHTTP(w, r)
		})
		handlers.RecoveryHandler(handlers.PrintRecoveryStack(true))(inner).ServeHTTP(w, r)
		if cut {
			panic(http.ErrAbortHandler)
		}
	})
}

//go:embed front.html
var frontHTML string

var frontPage = template.Must(template.New("front").Parse(frontHTML))

func front(w http.ResponseWriter, r *http.Request) {
	s := holdfast.From(r)
	visits.Update(s, func(n int) int { return n + 1 })
	if err := frontPage.Execute(w, map[string]any{"Visits": visits.Get(s), "User": user.Get(s)}); err != nil {
		log.Print(err)
	}
}

// signIn gives the session a new ID, so that one which somebody learnt or planted
// before is worth nothing.
func signIn(w http.ResponseWriter, r *http.Request) {
	s := holdfast.From(r)
	name := strings.TrimSpace(r.FormValue("name"))
	if name == "" {
		http.Error(w, "Who are you?", http.StatusBadRequest)
		return
	}
	s.RegenerateID()
	s.SetSubject(name)
	user.Set(s, name)
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

// signOut ends the session. No request that is still running brings it back.
func signOut(w http.ResponseWriter, r *http.Request) {
	if err := holdfast.From(r).Abandon(); err != nil {
		http.Error(w, "You are still signed in; please try again.", http.StatusServiceUnavailable)
		return
	}
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

// greet only reads, so it waits for no other request of its visitor.
func greet(w http.ResponseWriter, r *http.Request) {
	s := holdfast.From(r)
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	fmt.Fprintf(w, "%s, %s (%v)\n", mux.Vars(r)["word"], user.Get(s), s.Access())
}

// broken has a mistake in it. What it changed before is not saved.
func broken(w http.ResponseWriter, r *http.Request) {
	visits.Set(holdfast.From(r), 1000)
	if mux.Vars(r)["when"] == "late" {
		fmt.Fprintln(w, "half a page")
	}
	panic("a mistake in the page")
}

// long outgrows what is held back until the session is saved (Options.Buffer), so it
// streams, and what changes later is saved at its end. Where that fails, Holdfast
// cuts the connection by http.ErrAbortHandler, as it does for a visitor without a
// session: one cannot begin when its cookie cannot be sent any more.
func long(w http.ResponseWriter, r *http.Request) {
	s := holdfast.From(r)
	for range 1000 {
		fmt.Fprintln(w, strings.Repeat("and so on ", 10))
	}
	visits.Update(s, func(n int) int { return n + 1 })
	fmt.Fprintln(w, "the end")
}
