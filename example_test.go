package holdfast_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"strings"

	"github.com/holdfast-session/holdfast"
	"github.com/holdfast-session/holdfast/inproc"
)

// What the sessions of the examples hold.
var (
	exampleVisits = holdfast.NewKey[int]("example-visits")
	exampleCart   = holdfast.NewKey[[]exampleLine]("example-cart")
	exampleUser   = holdfast.NewKey[string]("example-user")
)

// exampleLine is an article in a cart.
type exampleLine struct {
	Article string
	Count   int
}

// exampleVisit asks for pages of h, one after the other, as one visitor with a
// browser does, and prints the answers.
func exampleVisit(h http.Handler, paths ...string) {
	server := httptest.NewServer(h)
	defer server.Close()
	jar, err := cookiejar.New(nil)
	if err != nil {
		log.Fatal(err)
	}
	client := http.Client{Jar: jar}
	for _, path := range paths {
		res, err := client.Get(server.URL + path)
		if err != nil {
			log.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		if err != nil {
			log.Fatal(err)
		}
		res.Body.Close()
		fmt.Println(strings.TrimSpace(path + ": " + string(body)))
	}
}

// A page that counts. The session is kept in this process; another store is
// another argument of New, and nothing else changes.
func Example() {
	// At the top of the program: var exampleVisits = holdfast.NewKey[int]("example-visits")
	sessions := holdfast.New(inproc.New(nil), nil)
	defer sessions.Close(context.Background())

	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		s := holdfast.From(r)
		exampleVisits.Update(s, func(n int) int { return n + 1 })
		fmt.Fprintf(w, "%d visits", exampleVisits.Get(s))
	})

	// http.ListenAndServe(":8080", sessions.Handler(mux))
	exampleVisit(sessions.Handler(mux), "/a", "/b", "/c")
	// Output:
	// /a: 1 visits
	// /b: 2 visits
	// /c: 3 visits
}

func ExampleNew() {
	places := inproc.New(nil)
	defer places.Close()
	sessions := holdfast.New(places, &holdfast.Options{
		Cookie:  holdfast.Cookie{Name: "id", Secure: holdfast.Always},
		OnError: func(ctx context.Context, err error) { log.Print(err) },
	})
	defer sessions.Close(context.Background())

	h := sessions.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		exampleUser.Set(holdfast.From(r), "ann")
	}))
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	c := w.Result().Cookies()[0]
	fmt.Println(c.Name, len(c.Value), c.Path, c.HttpOnly, c.Secure, c.SameSite == http.SameSiteLaxMode)
	// Output: __Host-id 24 / true true true
}

// A value of any type that can leave the process. One that a handler got and
// changed in place is saved without a Set.
func ExampleNewKey() {
	// At the top of the program: var exampleCart = holdfast.NewKey[[]exampleLine]("example-cart")
	sessions := holdfast.New(inproc.New(nil), nil)
	mux := http.NewServeMux()
	mux.HandleFunc("/put", func(w http.ResponseWriter, r *http.Request) {
		exampleCart.Set(holdfast.From(r), []exampleLine{{"rope", 1}, {"lamp", 2}})
	})
	mux.HandleFunc("/more", func(w http.ResponseWriter, r *http.Request) {
		exampleCart.Get(holdfast.From(r))[0].Count++
	})
	mux.HandleFunc("/show", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, exampleCart.Get(holdfast.From(r)))
	})
	exampleVisit(sessions.Handler(mux), "/put", "/more", "/show")
	// Output:
	// /put:
	// /more:
	// /show: [{rope 2} {lamp 2}]
}

// NewKey refuses, when the program starts, what would not survive elsewhere.
func ExampleNewKey_refused() {
	defer func() { fmt.Println("refused:", recover() != nil) }()
	holdfast.NewKey[func()]("example-callback")
	// Output: refused: true
}

func ExampleFrom() {
	sessions := holdfast.New(inproc.New(nil), nil)
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := holdfast.From(r)
		fmt.Fprintf(w, "new: %v, values: %d", s.IsNew(), s.Len())
		exampleUser.Set(s, "ann")
	})
	exampleVisit(sessions.Handler(h), "/first", "/second")
	// Output:
	// /first: new: true, values: 0
	// /second: new: false, values: 1
}

// FromContext returns an error where From would end the handler, for pages that
// can do without a session.
func ExampleFromContext() {
	page := func(w http.ResponseWriter, r *http.Request) {
		s, err := holdfast.FromContext(r.Context())
		if err != nil {
			fmt.Fprint(w, "hello, stranger")
			return
		}
		fmt.Fprintf(w, "hello, %s", exampleUser.Get(s))
	}
	sessions := holdfast.New(inproc.New(nil), nil)
	mux := http.NewServeMux()
	mux.HandleFunc("/without", page)
	mux.Handle("/with", sessions.Handler(http.HandlerFunc(page)))
	mux.Handle("/name", sessions.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		exampleUser.Set(holdfast.From(r), "ann")
	})))
	exampleVisit(mux, "/name", "/with", "/without")
	// Output:
	// /name:
	// /with: hello, ann
	// /without: hello, stranger
}

// Pages that only look never wait; pages that only add run side by side.
func ExampleManager_With() {
	sessions := holdfast.New(inproc.New(nil), nil)
	look := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := holdfast.From(r)
		fmt.Fprintf(w, "%v, %d visits", s.Access(), exampleVisits.Get(s))
	})
	count := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := holdfast.From(r)
		exampleVisits.Update(s, func(n int) int { return n + 1 })
		fmt.Fprint(w, s.Access())
	})
	mux := http.NewServeMux()
	mux.Handle("/look", sessions.With(holdfast.ReadOnly).Handler(look))
	mux.Handle("/count", sessions.With(holdfast.Merge).Handler(count))
	mux.Handle("/", sessions.Handler(count))
	exampleVisit(mux, "/", "/count", "/look")
	// Output:
	// /: Exclusive
	// /count: Merge
	// /look: ReadOnly, 2 visits
}

// Two requests of one visitor at a time: both updates count.
func ExampleKey_Update() {
	sessions := holdfast.New(inproc.New(nil), nil)
	count := sessions.With(holdfast.Merge).Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := holdfast.From(r)
		exampleVisits.Update(s, func(n int) int { return n + 1 })
		fmt.Fprintf(w, "%d here", exampleVisits.Get(s))
	}))
	mux := http.NewServeMux()
	mux.Handle("/count", count)
	mux.Handle("/both", sessions.With(holdfast.Merge).Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := holdfast.From(r)
		exampleVisits.Update(s, func(n int) int { return n + 1 })
		// Meanwhile the same visitor asks for another page, which does the same.
		other := httptest.NewRequest("GET", "/count", nil)
		other.Header.Set("Cookie", r.Header.Get("Cookie"))
		count.ServeHTTP(httptest.NewRecorder(), other)
		fmt.Fprintf(w, "%d here", exampleVisits.Get(s))
	})))
	exampleVisit(mux, "/count", "/both", "/count")
	// Output:
	// /count: 1 here
	// /both: 2 here
	// /count: 4 here
}

// A message for the next page is taken once.
func ExampleKey_Take() {
	sessions := holdfast.New(inproc.New(nil), nil)
	mux := http.NewServeMux()
	mux.HandleFunc("/save", func(w http.ResponseWriter, r *http.Request) {
		exampleUser.Set(holdfast.From(r), "your changes are saved")
	})
	mux.HandleFunc("/show", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%q", exampleUser.Take(holdfast.From(r)))
	})
	exampleVisit(sessions.Handler(mux), "/save", "/show", "/show")
	// Output:
	// /save:
	// /show: "your changes are saved"
	// /show: ""
}

// Who signs in gets a new ID, so that one which somebody learnt or planted before
// is worth nothing. The values stay.
func ExampleSession_RegenerateID() {
	sessions := holdfast.New(inproc.New(nil), nil)
	mux := http.NewServeMux()
	var before string
	mux.HandleFunc("/browse", func(w http.ResponseWriter, r *http.Request) {
		exampleCart.Set(holdfast.From(r), []exampleLine{{"rope", 1}})
	})
	mux.HandleFunc("/signin", func(w http.ResponseWriter, r *http.Request) {
		s := holdfast.From(r)
		before = s.ID()
		s.RegenerateID()
		s.SetSubject("ann")
		exampleUser.Set(s, "ann")
	})
	mux.HandleFunc("/show", func(w http.ResponseWriter, r *http.Request) {
		s := holdfast.From(r)
		fmt.Fprintf(w, "%s has %v, new ID: %v", exampleUser.Get(s), exampleCart.Get(s), s.ID() != before)
	})
	exampleVisit(sessions.Handler(mux), "/browse", "/signin", "/show")
	// Output:
	// /browse:
	// /signin:
	// /show: ann has [{rope 1}], new ID: true
}

// Sign a visitor out with Abandon. It has happened when it returns, in whichever
// way the request ends.
func ExampleSession_Abandon() {
	sessions := holdfast.New(inproc.New(nil), nil)
	mux := http.NewServeMux()
	mux.HandleFunc("/signin", func(w http.ResponseWriter, r *http.Request) {
		exampleUser.Set(holdfast.From(r), "ann")
	})
	mux.HandleFunc("/signout", func(w http.ResponseWriter, r *http.Request) {
		if err := holdfast.From(r).Abandon(); err != nil {
			http.Error(w, "Please try again.", http.StatusServiceUnavailable)
		}
	})
	mux.HandleFunc("/show", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%q", exampleUser.Get(holdfast.From(r)))
	})
	exampleVisit(sessions.Handler(mux), "/signin", "/show", "/signout", "/show")
	// Output:
	// /signin:
	// /show: "ann"
	// /signout:
	// /show: ""
}

// Before a long response the session is saved and given up, so that the visitor's
// other pages need not wait for its end.
func ExampleSession_Release() {
	sessions := holdfast.New(inproc.New(nil), nil)
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := holdfast.From(r)
		exampleVisits.Update(s, func(n int) int { return n + 1 })
		if err := s.Release(r.Context()); err != nil {
			return // the visitor gets the error page
		}
		fmt.Fprint(w, "a long film")
	})
	exampleVisit(sessions.Handler(h), "/film")
	// Output: /film: a long film
}

// With Off the same handlers run, and every session lives for one request.
func ExampleOff() {
	sessions := holdfast.New(holdfast.Off, nil)
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := holdfast.From(r)
		exampleVisits.Update(s, func(n int) int { return n + 1 })
		fmt.Fprintf(w, "%d visits", exampleVisits.Get(s))
	})
	exampleVisit(sessions.Handler(h), "/a", "/b")
	// Output:
	// /a: 1 visits
	// /b: 1 visits
}
