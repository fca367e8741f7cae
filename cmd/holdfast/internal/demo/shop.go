package demo

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"html/template"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/holdfast-session/holdfast"
	"github.com/holdfast-session/holdfast/host/worker"
	"github.com/holdfast-session/holdfast/store"
)

// What the shop keeps in a session.
var (
	cartKey  = holdfast.NewKey[[]line]("cart")
	userKey  = holdfast.NewKey[string]("user")
	orderKey = holdfast.NewKey[order]("order")
	pastKey  = holdfast.NewKey[past]("past")
)

// A line is a product in the cart. The price is looked up when it is shown.
type line struct {
	Slug string
	Qty  int
}

// An order is the last one that was placed.
type order struct {
	Number string
	Count  int
	Total  int
	At     time.Time
}

// A past is what became of the session before this one, noted when the visitor who
// had lost it put the first thing into a new one.
type past struct {
	Title, Text string
	At          time.Time
}

const (
	cookieName = "holdfast_demo"
	mostOfOne  = 99
	pastShown  = 30 * time.Second // how long a page speaks of the session before
)

// A shop is the web application, in one worker process.
type shop struct {
	Worker
	began    time.Time
	motto    string
	sessions *holdfast.Manager
	pages    *template.Template
	static   map[string]file // by path
	log      *slog.Logger

	// why is that of a process that has joined its host.
	why func(context.Context, store.Reason) (worker.End, bool)

	leak leak
}

// A file is one that never changes under its path.
type file struct {
	kind string
	text []byte
}

func newShop(w Worker, st store.Store, log *slog.Logger) (*shop, error) {
	s := &shop{Worker: w, began: time.Now(), motto: mottos[0], static: make(map[string]file), log: log}
	s.sessions = holdfast.New(st, &holdfast.Options{
		App:       "/holdfast/demo",
		Timeout:   w.Timeout,
		Cookie:    holdfast.Cookie{Name: cookieName},
		ErrorPage: s.errorPage,
		Logger:    log,
	})
	var err error
	if w.Config != "" {
		if s.motto, err = readConfig(w.Config); err != nil {
			return nil, err
		}
	}
	css, err := s.keep("shop.css", "text/css; charset=utf-8")
	if err != nil {
		return nil, err
	}
	script, err := s.keep("journal.js", "text/javascript; charset=utf-8")
	if err != nil {
		return nil, err
	}
	s.pages, err = template.New("").Funcs(template.FuncMap{
		"age":    age,
		"clock":  func(t time.Time) string { return t.Local().Format(time.TimeOnly) },
		"css":    func() string { return css },
		"script": func() string { return script },
		"flags": func(text string) template.HTML {
			return template.HTML(flag.ReplaceAllString(template.HTMLEscapeString(text), "<code>$0</code>"))
		},
		"mib": func(n int64) string { return fmt.Sprintf("%.0f MiB", float64(n)/(1<<20)) },
	}).ParseFS(assets, "assets/*.html")
	return s, err
}

// flag is a command's, which must not be broken into lines.
var flag = regexp.MustCompile(`--[a-z]+( inproc)?`)

// keep keeps an asset under a path that changes with its content, and returns that.
func (s *shop) keep(name, kind string) (string, error) {
	text, err := assets.ReadFile("assets/" + name)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(text)
	base, ext, _ := strings.Cut(name, ".")
	at := "/static/" + base + "-" + hex.EncodeToString(sum[:6]) + "." + ext
	s.static[at] = file{kind, text}
	return at, nil
}

// handler routes. Pages read the session and never wait for it; forms change it,
// taking turns.
func (s *shop) handler() http.Handler {
	read := s.sessions.With(holdfast.ReadOnly)
	write := s.sessions.With(holdfast.Exclusive)
	mux := http.NewServeMux()
	page := func(pattern string, h http.HandlerFunc) { mux.Handle("GET "+pattern, read.Handler(h)) }
	form := func(pattern string, h http.HandlerFunc) { mux.Handle("POST "+pattern, write.Handler(h)) }

	page("/{$}", s.home)
	page("/product/{slug}", s.product)
	page("/cart", s.cart)
	page("/thanks", s.thanks)
	page("/signin", s.signInPage)
	page("/journal", s.journal)
	page("/journal/live", s.journalLive)
	page("/", s.notFound)
	form("/cart/add", s.add)
	form("/cart/set", s.set)
	form("/order", s.order)
	form("/signin", s.signIn)
	form("/signout", s.signOut)
	mux.HandleFunc("POST /leak", s.startLeak)
	mux.HandleFunc("GET /static/", s.asset)
	mux.HandleFunc("GET /favicon.svg", s.icon)

	guard := http.NewCrossOriginProtection()
	guard.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.failure(w, r, http.StatusForbidden, "This form was sent from another site", "The shop takes forms from its own pages only.")
	}))
	return headers(guard.Handler(mux))
}

// headers sets what every answer has.
func headers(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
		w.Header().Set("Referrer-Policy", "same-origin")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		h.ServeHTTP(w, r)
	})
}

// A view is what the templates get.
type view struct {
	Title   string
	Here    string // the path and query of this page
	Active  string // the navigation's entry of this page
	User    string
	InCart  int
	Notices []notice
	Behind  *behind // nil on pages without a session
	Data    any
}

// A notice is a message at the top of a page.
type notice struct {
	Kind  string // "good", "bad"
	Title string
	Text  string
}

func (s *shop) home(w http.ResponseWriter, r *http.Request) {
	s.show(w, r, "home", view{Title: "Holdfast Chandlery", Active: "shop", Data: struct {
		Motto string
		Shelf []product
	}{s.motto, catalog}})
}

func (s *shop) product(w http.ResponseWriter, r *http.Request) {
	p, ok := bySlug[r.PathValue("slug")]
	if !ok {
		s.notFound(w, r)
		return
	}
	s.show(w, r, "product", view{Title: p.Name, Active: "shop", Data: p})
}

// A cartLine is a line of the cart as it is shown.
type cartLine struct {
	*product
	Qty   int
	Total cents
}

// A cartView is the cart as it is shown.
type cartView struct {
	Lines []cartLine
	Count int
	Total cents
}

func showCart(lines []line) cartView {
	var v cartView
	for _, l := range lines {
		if p := bySlug[l.Slug]; p != nil {
			total := p.Price * cents(l.Qty)
			v.Lines = append(v.Lines, cartLine{p, l.Qty, total})
			v.Count += l.Qty
			v.Total += total
		}
	}
	return v
}

func (s *shop) cart(w http.ResponseWriter, r *http.Request) {
	s.show(w, r, "cart", view{Title: "Your cart", Active: "cart", Data: showCart(cartKey.Get(holdfast.From(r)))})
}

func (s *shop) thanks(w http.ResponseWriter, r *http.Request) {
	o := orderKey.Get(holdfast.From(r))
	s.show(w, r, "thanks", view{Title: "Thank you", Data: struct {
		order
		Sum cents
	}{o, cents(o.Total)}})
}

func (s *shop) signInPage(w http.ResponseWriter, r *http.Request) {
	s.show(w, r, "signin", view{Title: "Sign in", Active: "signin"})
}

func (s *shop) add(w http.ResponseWriter, r *http.Request) {
	slug := r.PostFormValue("slug")
	qty := quantity(r, 1)
	if bySlug[slug] == nil {
		s.notFound(w, r)
		return
	}
	sess := s.from(r)
	cartKey.Update(sess, func(cart []line) []line {
		for i := range cart {
			if cart[i].Slug == slug {
				cart[i].Qty = min(cart[i].Qty+qty, mostOfOne)
				return cart
			}
		}
		return append(cart, line{slug, qty})
	})
	s.back(w, r, url.Values{"added": {slug}})
}

func (s *shop) set(w http.ResponseWriter, r *http.Request) {
	slug, qty := r.PostFormValue("slug"), quantity(r, 0)
	sess := s.from(r)
	cartKey.Update(sess, func(cart []line) []line {
		for i := range cart {
			if cart[i].Slug == slug {
				cart[i].Qty = qty
			}
		}
		return slices.DeleteFunc(cart, func(l line) bool { return l.Qty == 0 })
	})
	s.back(w, r, nil)
}

func (s *shop) order(w http.ResponseWriter, r *http.Request) {
	sess := s.from(r)
	cart := showCart(cartKey.Take(sess))
	if cart.Count == 0 {
		http.Redirect(w, r, "/cart", http.StatusSeeOther)
		return
	}
	orderKey.Set(sess, order{
		Number: "HF-" + strconv.Itoa(10000+rand.IntN(90000)),
		Count:  cart.Count,
		Total:  int(cart.Total),
		At:     time.Now(),
	})
	http.Redirect(w, r, "/thanks", http.StatusSeeOther)
}

func (s *shop) signIn(w http.ResponseWriter, r *http.Request) {
	name := strings.Join(strings.FieldsFunc(r.PostFormValue("name"), func(c rune) bool {
		return unicode.IsSpace(c) || !unicode.IsPrint(c)
	}), " ")
	if runes := []rune(name); len(runes) > 40 {
		name = string(runes[:40])
	}
	if name == "" {
		http.Redirect(w, r, "/signin", http.StatusSeeOther)
		return
	}
	sess := s.from(r)
	sess.RegenerateID() // an ID that somebody knew before is worth nothing now
	sess.SetSubject(name)
	userKey.Set(sess, name)
	http.Redirect(w, r, "/?signed=in", http.StatusSeeOther)
}

func (s *shop) signOut(w http.ResponseWriter, r *http.Request) {
	if err := holdfast.From(r).Abandon(); err != nil {
		s.errorPage(w, r, http.StatusServiceUnavailable, err)
		return
	}
	http.Redirect(w, r, "/?signed=out", http.StatusSeeOther)
}

// from returns the session of a form. If it is a new one because the visitor's own
// was lost, it notes that in it.
func (s *shop) from(r *http.Request) *holdfast.Session {
	sess := holdfast.From(r)
	if n := s.lost(r, sess); n != nil {
		pastKey.Set(sess, past{n.Title, n.Text, time.Now()})
	}
	return sess
}

// quantity is the form's number of pieces.
func quantity(r *http.Request, least int) int {
	n, err := strconv.Atoi(r.PostFormValue("qty"))
	if err != nil {
		n = least
	}
	return min(max(n, least), mostOfOne)
}

// back redirects to the page that the form was on, with more in its query.
func (s *shop) back(w http.ResponseWriter, r *http.Request, more url.Values) {
	http.Redirect(w, r, backTo(r.PostFormValue("back"), more), http.StatusSeeOther)
}

// passing are the parts of a query that speak of what was just done.
var passing = []string{"added", "signed", "killed", "gone", "recycled", "leaks", "touched", "changed"}

// backTo is the path and query of back, if it is one of this site, without what it
// said of what was done before, and with more.
func backTo(back string, more url.Values) string {
	u, err := url.Parse(back)
	if err != nil || u.IsAbs() || u.Host != "" || u.Opaque != "" || !strings.HasPrefix(u.Path, "/") || strings.HasPrefix(u.Path, "//") || strings.Contains(u.Path, `\`) {
		u = &url.URL{Path: "/"}
	}
	q := u.Query()
	for _, name := range passing {
		q.Del(name)
	}
	for name, v := range more {
		q[name] = v
	}
	return (&url.URL{Path: u.Path, RawQuery: q.Encode()}).String()
}

func (s *shop) notFound(w http.ResponseWriter, r *http.Request) {
	s.failure(w, r, http.StatusNotFound, "There is no such page", "Perhaps it drifted off. Everything that the shop sells is on its first page.")
}

// errorPage answers a request whose session could not be had or saved.
func (s *shop) errorPage(w http.ResponseWriter, r *http.Request, status int, err error) {
	title, text := "The shop has a problem", "It is not you. The log of the demo says more."
	switch {
	case errors.Is(err, holdfast.ErrEnded):
		title, text = "Your session has ended", "It ended while this request was under way, so nothing was changed. Please load the page again."
	case status == http.StatusConflict:
		title, text = "Somebody was faster", "Another request of your session changed the same thing, so this one changed nothing. Please try again."
	case status == http.StatusServiceUnavailable:
		title, text = "Your session is not at hand", "Where the sessions are kept does not answer. Please look at your cart again in a few seconds."
	}
	s.failure(w, r, status, title, text)
}

// failure is an error page, without the session.
func (s *shop) failure(w http.ResponseWriter, r *http.Request, status int, title, text string) {
	s.render(w, status, "failure", view{Title: title, Here: "/", Data: struct {
		Status int
		Text   string
	}{status, text}})
}

// show renders a page with the session.
func (s *shop) show(w http.ResponseWriter, r *http.Request, name string, v view) {
	sess := holdfast.From(r)
	v.Here = r.URL.RequestURI()
	v.User = userKey.Get(sess)
	v.InCart = showCart(cartKey.Get(sess)).Count
	v.Behind = s.behind(sess)
	v.Notices = s.notices(r, sess, v.InCart)
	s.render(w, http.StatusOK, name, v)
}

func (s *shop) render(w http.ResponseWriter, status int, name string, v view) {
	var b bytes.Buffer
	if err := s.pages.ExecuteTemplate(&b, name+".html", v); err != nil {
		s.log.Error("template", "page", name, "err", err)
		http.Error(w, "The page could not be made.", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	// The next view is to come from a worker, not from the browser's history, where a
	// visitor who has signed out could go back to.
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes()) // a visitor who left
}

// asset serves what never changes under its path.
func (s *shop) asset(w http.ResponseWriter, r *http.Request) {
	f, ok := s.static[r.URL.Path]
	if !ok {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", f.kind)
	w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	_, _ = w.Write(f.text)
}

func (s *shop) icon(w http.ResponseWriter, _ *http.Request) {
	b, err := assets.ReadFile("assets/favicon.svg")
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "image/svg+xml")
	w.Header().Set("Cache-Control", "public, max-age=86400")
	_, _ = w.Write(b)
}

// age writes a duration as people say it.
func age(d time.Duration) string {
	n, unit := int(d.Seconds()), "second"
	switch {
	case d < time.Second:
		return "a moment"
	case d >= 48*time.Hour:
		n, unit = int(d.Hours()/24), "day"
	case d >= 2*time.Hour:
		n, unit = int(d.Hours()), "hour"
	case d >= 2*time.Minute:
		n, unit = int(d.Minutes()), "minute"
	}
	if n != 1 {
		unit += "s"
	}
	return strconv.Itoa(n) + " " + unit
}
