package main

import (
	"encoding/gob"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/alexedwards/scs/v2"
	"github.com/alexedwards/scs/v2/memstore"
	"github.com/gorilla/sessions"

	"github.com/holdfast-session/holdfast"
	"github.com/holdfast-session/holdfast/inproc"
)

var middlewareRow = row{
	name:  "middleware",
	title: "Middleware: what a session costs a request",
	note: "A handler in its middleware, called without a network: the whole time of a request, with a session in this process (gorilla's is in the cookie). " +
		"The bare handler does the same without a session. The peers have their default codecs.",
	metrics: []metric{metricTime, metricAllocs, metricHeap},
	cells:   middlewareCells,
}

var (
	keyUser  = holdfast.NewKey[string]("user")
	keySince = holdfast.NewKey[time.Time]("since")
	keyHits  = holdfast.NewKey[int]("hits")
	keyTotal = holdfast.NewKey[float64]("total")
	keyAdmin = holdfast.NewKey[bool]("admin")
)

var page = []byte("hello\n")

// A visited handler is one contender: how to make the session, and a request.
type visited struct {
	name        string
	first, then http.Handler
}

func middlewareCells(s *suite) ([]cell, error) {
	st := inproc.New(nil)
	s.later(func() { st.Close() })
	m := holdfast.New(st, nil)
	gob.Register(time.Time{}) // as scs and gorilla ask
	memory := memstore.NewWithCleanupInterval(0)
	manager := scs.New()
	manager.Store = memory
	cookies := sessions.NewCookieStore([]byte("0123456789abcdef0123456789abcdef"), []byte("0123456789abcdef"))

	handler := func(do func(r *http.Request, w http.ResponseWriter) error) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if err := do(r, w); err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			w.Write(page)
		})
	}
	bare := handler(func(*http.Request, http.ResponseWriter) error { return nil })

	// Filling a session, with the counter alone, with five values, or with fifty.
	const few, many = 5, 50
	texts := func(n int) []string { return setNames[:max(0, n-few)] }
	oursFill := func(n int) http.Handler {
		return m.Handler(handler(func(r *http.Request, _ http.ResponseWriter) error {
			v := holdfast.From(r)
			keyHits.Set(v, 1)
			if n >= few {
				keyUser.Set(v, fiveValues.User)
				keySince.Set(v, fiveValues.Since)
				keyTotal.Set(v, fiveValues.Total)
				keyAdmin.Set(v, fiveValues.Admin)
			}
			for _, name := range texts(n) {
				oursTexts[name].Set(v, name)
			}
			return v.Err()
		}))
	}
	scsFill := func(n int) http.Handler {
		return manager.LoadAndSave(handler(func(r *http.Request, _ http.ResponseWriter) error {
			manager.Put(r.Context(), "hits", 1)
			if n >= few {
				for k, v := range fiveValues.toMap() {
					manager.Put(r.Context(), k, v)
				}
			}
			for _, name := range texts(n) {
				manager.Put(r.Context(), name, name)
			}
			return nil
		}))
	}
	gorillaFill := func(n int) http.Handler {
		return handler(func(r *http.Request, w http.ResponseWriter) error {
			v, err := cookies.Get(r, "session")
			if err != nil {
				return err
			}
			v.Values["hits"] = 1
			if n >= few {
				for k, x := range fiveValues.toMap() {
					v.Values[k] = x
				}
			}
			for _, name := range texts(n) {
				v.Values[name] = name
			}
			return v.Save(r, w)
		})
	}

	oursCount := handler(func(r *http.Request, _ http.ResponseWriter) error {
		keyHits.Update(holdfast.From(r), func(n int) int { return n + 1 })
		return nil
	})
	oursRead := handler(func(r *http.Request, _ http.ResponseWriter) error {
		if keyHits.Get(holdfast.From(r)) == 0 {
			return errNoHits
		}
		return nil
	})
	scsCount := manager.LoadAndSave(handler(func(r *http.Request, _ http.ResponseWriter) error {
		manager.Put(r.Context(), "hits", manager.GetInt(r.Context(), "hits")+1)
		return nil
	}))
	scsRead := manager.LoadAndSave(handler(func(r *http.Request, _ http.ResponseWriter) error {
		if manager.GetInt(r.Context(), "hits") == 0 {
			return errNoHits
		}
		return nil
	}))
	gorillaCount := handler(func(r *http.Request, w http.ResponseWriter) error {
		v, err := cookies.Get(r, "session")
		if err != nil {
			return err
		}
		n, _ := v.Values["hits"].(int)
		v.Values["hits"] = n + 1
		return v.Save(r, w)
	})
	gorillaRead := handler(func(r *http.Request, _ http.ResponseWriter) error {
		v, err := cookies.Get(r, "session")
		if err != nil {
			return err
		}
		if n, _ := v.Values["hits"].(int); n == 0 {
			return errNoHits
		}
		return nil
	})

	var cells []cell
	for _, c := range []struct {
		name string
		all  []visited
	}{
		{middlewareCount, []visited{
			{"holdfast, InProc", oursFill(1), m.Handler(oursCount)},
			{"holdfast, InProc, Merge", oursFill(1), m.With(holdfast.Merge).Handler(oursCount)},
			{"bare handler", nil, bare},
			{"scs, memstore", scsFill(1), scsCount},
			{"gorilla, CookieStore", gorillaFill(1), gorillaCount},
		}},
		{"one of five values incremented", []visited{
			{"holdfast, InProc", oursFill(few), m.Handler(oursCount)},
			{"holdfast, InProc, Merge", oursFill(few), m.With(holdfast.Merge).Handler(oursCount)},
			{"bare handler", nil, bare},
			{"scs, memstore", scsFill(few), scsCount},
			{"gorilla, CookieStore", gorillaFill(few), gorillaCount},
		}},
		{"one of five values read", []visited{
			{"holdfast, InProc", oursFill(few), m.Handler(oursRead)},
			{"holdfast, InProc, ReadOnly", oursFill(few), m.With(holdfast.ReadOnly).Handler(oursRead)},
			{"bare handler", nil, bare},
			{"scs, memstore", scsFill(few), scsRead},
			{"gorilla, CookieStore", gorillaFill(few), gorillaRead},
		}},
		{"one of fifty values incremented", []visited{
			{"holdfast, InProc", oursFill(many), m.Handler(oursCount)},
			{"holdfast, InProc, Merge", oursFill(many), m.With(holdfast.Merge).Handler(oursCount)},
			{"bare handler", nil, bare},
			{"scs, memstore", scsFill(many), scsCount},
			{"gorilla, CookieStore", gorillaFill(many), gorillaCount},
		}},
		{"a visitor without a session, who gets none", []visited{
			{"holdfast, InProc", nil, m.Handler(bare)},
			{"bare handler", nil, bare},
			{"scs, memstore", nil, manager.LoadAndSave(bare)},
		}},
	} {
		one := cell{name: c.name}
		for _, v := range c.all {
			made, err := v.side()
			if err != nil {
				return nil, fmt.Errorf("%s: %s: %w", c.name, v.name, err)
			}
			one.sides = append(one.sides, made)
		}
		cells = append(cells, one)
	}
	return cells, nil
}

const middlewareCount = "a counter incremented"

var errNoHits = errors.New("the session has no counter")

// side makes the session, takes its cookie, and repeats the request with it.
func (v visited) side() (side, error) {
	r, err := http.NewRequest("GET", "/", nil)
	if err != nil {
		return side{}, err
	}
	if v.first != nil {
		w := &nobody{header: make(http.Header)}
		v.first.ServeHTTP(w, r.WithContext(r.Context()))
		set := (&http.Response{Header: w.header}).Cookies()
		if w.status >= 400 || len(set) != 1 {
			return side{}, fmt.Errorf("the first request was answered %d, with %d cookies", w.status, len(set))
		}
		r.AddCookie(set[0])
	}
	return timed(v.name, func(n int) error {
		w := &nobody{header: make(http.Header)}
		for range n {
			clear(w.header)
			v.then.ServeHTTP(w, r.WithContext(r.Context()))
			if w.status >= 400 {
				return fmt.Errorf("a request was answered %d", w.status)
			}
		}
		return nil
	}), nil
}

// nobody is the least that a server does for a response.
type nobody struct {
	header http.Header
	status int
}

func (w *nobody) Header() http.Header         { return w.header }
func (w *nobody) Write(p []byte) (int, error) { return len(p), nil }
func (w *nobody) WriteHeader(status int)      { w.status = status }
