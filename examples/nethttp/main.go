// Nethttp is a small shop with net/http and nothing else. Its sessions are in the
// process or, with -state, on a state server, so that they survive a restart of
// the program, and several copies of it share them:
//
//	go run ./nethttp
//
//	go run github.com/holdfast-session/holdfast/cmd/holdfast serve &
//	go run ./nethttp -state 127.0.0.1:42424
package main

import (
	"context"
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"html/template"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/holdfast-session/holdfast"
	"github.com/holdfast-session/holdfast/inproc"
	"github.com/holdfast-session/holdfast/stateserver"
	"github.com/holdfast-session/holdfast/store"
)

// What a session holds: each value is declared once, with its name and type.
var (
	visits = holdfast.NewKey[int]("visits")
	cart   = holdfast.NewKey[[]line]("cart")
	user   = holdfast.NewKey[string]("user")
	flash  = holdfast.NewKey[string]("flash") // shown on the next page
)

type line struct {
	Article string
	Count   int
}

func main() {
	addr := flag.String("addr", "127.0.0.1:8080", "where to listen")
	state := flag.String("state", "", "a state server's `address`; without one the sessions are in this process")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *addr, *state); err != nil {
		log.Fatal(err)
	}
}

// run serves until ctx ends.
func run(ctx context.Context, addr, state string) error {
	var places store.Store = inproc.New(nil)
	if state != "" {
		client, err := stateserver.Dial(state, nil)
		if err != nil {
			return err
		}
		defer client.Close()
		places = client
	}
	sessions := holdfast.New(places, &holdfast.Options{
		OnError: func(_ context.Context, err error) { log.Print(err) },
	})

	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: shop(sessions)}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	fmt.Printf("the shop is open at http://%s/\n", l.Addr())

	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	// First the requests end, then what they left to be done for their sessions.
	patience, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return errors.Join(server.Shutdown(patience), sessions.Close(patience))
}

// shop returns the pages.
func shop(sessions *holdfast.Manager) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", front)
	mux.HandleFunc("POST /cart", put)
	mux.HandleFunc("POST /signin", signIn)
	mux.HandleFunc("POST /signout", signOut)

	all := http.NewServeMux()
	all.Handle("/", sessions.Handler(mux))
	// A page that only looks waits for no other.
	all.Handle("GET /count", sessions.With(holdfast.ReadOnly).Handler(http.HandlerFunc(count)))
	return all
}

//go:embed front.html
var frontHTML string

var frontPage = template.Must(template.New("front").Parse(frontHTML))

func front(w http.ResponseWriter, r *http.Request) {
	s := holdfast.From(r)
	visits.Update(s, func(n int) int { return n + 1 })
	err := frontPage.Execute(w, map[string]any{
		"Visits": visits.Get(s),
		"Cart":   cart.Get(s),
		"User":   user.Get(s),
		"Flash":  flash.Take(s),
	})
	if err != nil {
		log.Print(err)
	}
}

// put adds to the cart by changing the value that it got: that is saved, too.
func put(w http.ResponseWriter, r *http.Request) {
	s := holdfast.From(r)
	article := strings.TrimSpace(r.FormValue("article"))
	if article == "" {
		http.Error(w, "Which article?", http.StatusBadRequest)
		return
	}
	lines := cart.Get(s)
	for i := range lines {
		if lines[i].Article == article {
			lines[i].Count++
			article = ""
		}
	}
	if article != "" {
		cart.Set(s, append(lines, line{article, 1}))
	}
	flash.Set(s, "It is in your cart.")
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

// signIn gives the session a new ID, so that one which somebody learnt or planted
// before is worth nothing. The cart stays.
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

func count(w http.ResponseWriter, r *http.Request) {
	n := 0
	for _, l := range cart.Get(holdfast.From(r)) {
		n += l.Count
	}
	fmt.Fprintln(w, n)
}
