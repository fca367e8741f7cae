// Echo is a few pages with the router echo. The sessions are in the process or, with
// -state, on a state server:
//
//	go run ./echo
//
//	go run github.com/holdfast-session/holdfast/cmd/holdfast serve &
//	go run ./echo -state 127.0.0.1:42424
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

	"github.com/labstack/echo/v4"
	"github.com/labstack/echo/v4/middleware"

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

// pages returns echo inside of Holdfast's middleware, so that Holdfast sees the status
// that echo makes of a handler's error. Handlers find their session by
// holdfast.From(c.Request()).
//
// echo.WrapMiddleware(sessions.Handler) would not do: there the session is saved, and
// the response gone, before echo looks at the error, so that the visitor gets an empty
// page. For the access of a route it does, because sessions.Handler is around it all.
func pages(sessions *holdfast.Manager) http.Handler {
	e := echo.New()
	e.Renderer = &echo.TemplateRenderer{Template: frontPage}
	e.HTTPErrorHandler = func(err error, c echo.Context) { failed(e, err, c) }
	e.Use(middleware.Recover())

	e.GET("/", front)
	e.POST("/signin", signIn)
	e.POST("/signout", signOut)
	e.GET("/greet/:word", greet, echo.WrapMiddleware(sessions.With(holdfast.ReadOnly).Handler))
	e.GET("/broken/:when", broken)
	e.GET("/long", long)
	return http.NewCrossOriginProtection().Handler(sessions.Handler(e))
}

// failed answers an error, or a panic that was recovered, as echo does, except where
// a page was half written. echo then keeps the status 200, so that Holdfast would save
// the session of a handler that failed; but Holdfast holds the page back, and this
// drops it, and what the handler changed, as net/http does with a panic that nobody
// recovers.
func failed(e *echo.Echo, err error, c echo.Context) {
	if c.Response().Committed {
		panic(http.ErrAbortHandler)
	}
	e.DefaultHTTPErrorHandler(err, c)
}

//go:embed front.html
var frontHTML string

var frontPage = template.Must(template.New("front").Parse(frontHTML))

func front(c echo.Context) error {
	s := holdfast.From(c.Request())
	visits.Update(s, func(n int) int { return n + 1 })
	return c.Render(http.StatusOK, "front", map[string]any{"Visits": visits.Get(s), "User": user.Get(s)})
}

// signIn gives the session a new ID, so that one which somebody learnt or planted
// before is worth nothing.
func signIn(c echo.Context) error {
	s := holdfast.From(c.Request())
	name := strings.TrimSpace(c.FormValue("name"))
	if name == "" {
		return echo.NewHTTPError(http.StatusBadRequest, "Who are you?")
	}
	s.RegenerateID()
	s.SetSubject(name)
	user.Set(s, name)
	return c.Redirect(http.StatusSeeOther, "/")
}

// signOut ends the session. No request that is still running brings it back.
func signOut(c echo.Context) error {
	if err := holdfast.From(c.Request()).Abandon(); err != nil {
		return echo.NewHTTPError(http.StatusServiceUnavailable, "You are still signed in; please try again.")
	}
	return c.Redirect(http.StatusSeeOther, "/")
}

// greet only reads, so it waits for no other request of its visitor.
func greet(c echo.Context) error {
	s := holdfast.From(c.Request())
	return c.String(http.StatusOK, fmt.Sprintf("%s, %s (%v)\n", c.Param("word"), user.Get(s), s.Access()))
}

// broken has a mistake in it. What it changed before is not saved.
func broken(c echo.Context) error {
	visits.Set(holdfast.From(c.Request()), 1000)
	if c.Param("when") == "late" {
		fmt.Fprintln(c.Response(), "half a page")
	}
	panic("a mistake in the page")
}

// long outgrows what is held back until the session is saved (Options.Buffer), so it
// streams, and what changes later is saved at its end. Where that fails, Holdfast
// cuts the connection by http.ErrAbortHandler, as it does for a visitor without a
// session: one cannot begin when its cookie cannot be sent any more.
func long(c echo.Context) error {
	s := holdfast.From(c.Request())
	w := c.Response()
	for range 1000 {
		fmt.Fprintln(w, strings.Repeat("and so on ", 10))
	}
	visits.Update(s, func(n int) int { return n + 1 })
	_, err := fmt.Fprintln(w, "the end")
	return err
}
