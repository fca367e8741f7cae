package holdfasttest_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/holdfast-session/holdfast"
)

// The application that these tests test: a shop.
var (
	cart   = holdfast.NewKey[[]string]("cart")
	user   = holdfast.NewKey[string]("user")
	socket = holdfast.NewLiveKey[func() string]("socket")
)

// newShop returns the application, wrapped as it is served.
func newShop(sessions *holdfast.Manager) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /cart", showCart)
	mux.HandleFunc("POST /buy", func(w http.ResponseWriter, r *http.Request) {
		s := holdfast.From(r)
		fmt.Fprintf(w, "bought: %s", strings.Join(cart.Take(s), ", "))
	})
	mux.HandleFunc("POST /add", func(w http.ResponseWriter, r *http.Request) {
		article := r.FormValue("article")
		cart.Update(holdfast.From(r), func(c []string) []string { return append(c, article) })
		http.Redirect(w, r, "/cart", http.StatusSeeOther)
	})
	mux.HandleFunc("POST /signin", func(w http.ResponseWriter, r *http.Request) {
		s := holdfast.From(r)
		user.Set(s, r.FormValue("name"))
		s.SetSubject(r.FormValue("name"))
		s.RegenerateID()
		http.SetCookie(w, &http.Cookie{Name: "theme", Value: "dark", Path: "/cart", MaxAge: 3600})
		http.Redirect(w, r, "/cart", http.StatusSeeOther)
	})
	mux.HandleFunc("POST /signout", func(w http.ResponseWriter, r *http.Request) {
		if err := holdfast.From(r).Abandon(); err != nil {
			http.Error(w, "not signed out", http.StatusServiceUnavailable)
			return
		}
		http.SetCookie(w, &http.Cookie{Name: "theme", Path: "/cart", MaxAge: -1})
		http.Redirect(w, r, "/cart", http.StatusSeeOther)
	})
	return sessions.Handler(mux)
}

func showCart(w http.ResponseWriter, r *http.Request) {
	s := holdfast.From(r)
	if why := s.Lost(); why.Kind != 0 {
		fmt.Fprintf(w, "Your cart is gone (%s). ", why.Kind)
	}
	fmt.Fprintf(w, "%s has %s", user.Get(s), strings.Join(cart.Get(s), ", "))
	if c, err := r.Cookie("theme"); err == nil {
		io.WriteString(w, " in the "+c.Value)
	}
}

// A fakeT is the T of a test that may fail.
type fakeT struct {
	testing.TB // for what only a T has
	failed     string
	cleanup    []func()
}

func (t *fakeT) Helper() {}

func (t *fakeT) Cleanup(f func()) { t.cleanup = append(t.cleanup, f) }

func (t *fakeT) Errorf(format string, args ...any) {
	t.failed += fmt.Sprintf(format, args...) + "\n"
}

// A stop is the panic that ends a fake test.
type stop struct{}

func (t *fakeT) Fatalf(format string, args ...any) {
	t.Errorf(format, args...)
	panic(stop{})
}

// run runs f as a test, and returns what it failed with.
func (t *fakeT) run(f func()) string {
	func() {
		defer func() {
			if p := recover(); p != nil && p != (stop{}) {
				panic(p)
			}
		}()
		f()
	}()
	for _, f := range t.cleanup {
		f()
	}
	return t.failed
}
