// Gin is a few pages with the router gin. The sessions are in the process or, with
// -state, on a state server:
//
//	go run ./gin
//
//	go run github.com/holdfast-session/holdfast/cmd/holdfast serve &
//	go run ./gin -state 127.0.0.1:42424
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
	"runtime/debug"
	"strings"

	"github.com/gin-gonic/gin"

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

// pages returns gin's engine inside of Holdfast's middleware: then whatever gin does
// with a response, Holdfast has the last word. Handlers find their session by
// holdfast.From(c.Request).
func pages(sessions *holdfast.Manager) http.Handler {
	engine := gin.New()
	engine.SetHTMLTemplate(frontPage)
	engine.Use(gin.CustomRecoveryWithWriter(nil, recovered))

	engine.GET("/", front)
	engine.POST("/signin", signIn)
	engine.POST("/signout", signOut)
	engine.GET("/greet/:word", with(sessions.With(holdfast.ReadOnly)), greet)
	engine.GET("/broken/:when", broken)
	engine.GET("/long", long)
	return http.NewCrossOriginProtection().Handler(sessions.Handler(engine))
}

// recovered answers a panic as gin's Recovery does, with two differences.
//
// It logs the panic itself, hence the nil above: gin logs the request's cookies too,
// and whoever reads a session ID in a log has the session.
//
// Where a page was half written, gin keeps its status 200, so that Holdfast would save
// the session of a handler that panicked. But Holdfast holds the page back: a panic
// drops it, and what the handler changed, and net/http cuts the connection, as without
// a recovery.
func recovered(c *gin.Context, why any) {
	log.Printf("panic: %v\n%s", why, debug.Stack())
	if c.Writer.Written() {
		panic(http.ErrAbortHandler)
	}
	c.AbortWithStatus(http.StatusInternalServerError)
}

// with gives the handlers that follow the route's access. The ResponseWriter is the
// one that gin has already, because sessions.Handler is around all of it.
func with(route holdfast.Route) gin.HandlerFunc {
	return func(c *gin.Context) {
		next := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { c.Next() })
		route.Handler(next).ServeHTTP(c.Writer, c.Request)
	}
}

//go:embed front.html
var frontHTML string

var frontPage = template.Must(template.New("front").Parse(frontHTML))

func front(c *gin.Context) {
	s := holdfast.From(c.Request)
	visits.Update(s, func(n int) int { return n + 1 })
	c.HTML(http.StatusOK, "front", gin.H{"Visits": visits.Get(s), "User": user.Get(s)})
}

// signIn gives the session a new ID, so that one which somebody learnt or planted
// before is worth nothing.
func signIn(c *gin.Context) {
	s := holdfast.From(c.Request)
	name := strings.TrimSpace(c.PostForm("name"))
	if name == "" {
		c.String(http.StatusBadRequest, "Who are you?")
		return
	}
	s.RegenerateID()
	s.SetSubject(name)
	user.Set(s, name)
	c.Redirect(http.StatusSeeOther, "/")
}

// signOut ends the session. No request that is still running brings it back.
func signOut(c *gin.Context) {
	if err := holdfast.From(c.Request).Abandon(); err != nil {
		c.String(http.StatusServiceUnavailable, "You are still signed in; please try again.")
		return
	}
	c.Redirect(http.StatusSeeOther, "/")
}

// greet only reads, so it waits for no other request of its visitor.
func greet(c *gin.Context) {
	s := holdfast.From(c.Request)
	c.String(http.StatusOK, "%s, %s (%v)\n", c.Param("word"), user.Get(s), s.Access())
}

// broken has a mistake in it. What it changed before is not saved.
func broken(c *gin.Context) {
	visits.Set(holdfast.From(c.Request), 1000)
	if c.Param("when") == "late" {
		c.String(http.StatusOK, "half a page\n")
	}
	panic("a mistake in the page")
}

// long outgrows what is held back until the session is saved (Options.Buffer), so it
// streams, and what changes later is saved at its end. Where that fails, Holdfast
// cuts the connection by http.ErrAbortHandler, as it does for a visitor without a
// session: one cannot begin when its cookie cannot be sent any more.
func long(c *gin.Context) {
	s := holdfast.From(c.Request)
	for range 1000 {
		fmt.Fprintln(c.Writer, strings.Repeat("and so on ", 10))
	}
	visits.Update(s, func(n int) int { return n + 1 })
	fmt.Fprintln(c.Writer, "the end")
}
