package holdfast

import (
	"context"
	"errors"
	"fmt"
	"net/http"
)

// Access says what a request does with its session, and so what it waits for.
type Access uint8

// In ascending order of strength.
const (
	// Disabled: no session; [From] panics. The session's timeout restarts all the
	// same.
	Disabled Access = iota
	// ReadOnly reads the session as last saved and never waits. Changing it is an
	// error ([ErrReadOnly]); only Abandon is allowed.
	ReadOnly
	// Merge reads the session as last saved, never waits to begin, and merges its
	// changes key by key into whatever others saved meanwhile: Update functions
	// are run again on the newest value, Set replaces. Overwriting a value that
	// this request had read, and another has changed meanwhile, is refused
	// ([ErrConflict]). A rule that spans several keys needs Exclusive.
	Merge
	// Exclusive requests of one session take turns, first come, first served, in
	// all processes that share the store.
	Exclusive
)

var accesses = [...]string{"Disabled", "ReadOnly", "Merge", "Exclusive"}

// String returns the name of the constant.
func (a Access) String() string {
	if int(a) < len(accesses) {
		return accesses[a]
	}
	return fmt.Sprintf("Access(%d)", uint8(a))
}

// A Route gives handlers a session with a certain access.
type Route struct {
	m *Manager
	a Access
}

// With returns a Route whose handlers have their session acquired with access a
// before they run.
//
// Routes may be nested, in each other and in [Manager.Handler]: until the request
// first asks for its session the innermost access counts; afterwards a weaker one
// changes nothing, and a stronger one panics.
func (m *Manager) With(a Access) Route {
	if int(a) >= len(accesses) {
		panic("holdfast: With(" + a.String() + "): no such access")
	}
	return Route{m, a}
}

// Handler returns h with the route's session.
func (rt Route) Handler(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := sessionIn(r.Context(), rt.m)
		if s == nil {
			rt.m.serve(w, r, h, rt.a, true)
			return
		}
		s.narrow(rt.a)
		if rt.a != Disabled {
			s.must(r.Context())
		}
		h.ServeHTTP(w, r)
	})
}

// narrow applies the access of an inner route.
func (s *Session) narrow(a Access) {
	s.io.Lock()
	defer s.io.Unlock()
	switch {
	case s.phase.Load() == idle:
		s.access = a
	case a > s.access:
		panic(fmt.Sprintf("holdfast: a handler with %v access is inside one whose session was acquired with %v; give the outer one %v", a, s.access, a))
	}
}

// ctxKey finds a session in a context: that of Manager m or, if m is nil, the
// innermost.
type ctxKey struct{ m *Manager }

// sessionContext is the context of a request with a session. It is part of the
// Session so that both are one allocation.
type sessionContext struct {
	context.Context
	s *Session
}

func (c *sessionContext) Value(key any) any {
	if k, ok := key.(ctxKey); ok && (k.m == nil || k.m == c.s.m) {
		return c.s
	}
	return c.Context.Value(key)
}

func sessionIn(ctx context.Context, m *Manager) *Session {
	s, _ := ctx.Value(ctxKey{m}).(*Session)
	return s
}

// From returns the request's session. It is there in every handler below
// [Manager.Handler]; of nested Managers it is the innermost one's.
//
// Where there is none, or where access is [Disabled], it panics: that is a mistake
// of the program. Where the session cannot be had at the moment (the store is
// down, the lock is not to be got in time) it ends the handler, and the visitor
// gets the error page: a handler never runs on with an empty session instead of
// the real one. Use [FromContext] to get an error instead, and in goroutines that the
// handler starts: a panic there ends the process.
func From(r *http.Request) *Session {
	s := sessionIn(r.Context(), nil)
	if s == nil || s.isDisabled() {
		panic(ErrNoSession.Error() + ", or With(Exclusive) instead of With(Disabled)")
	}
	s.must(r.Context())
	return s
}

// From is like the function [From], for this Manager's session when several are
// nested.
func (m *Manager) From(r *http.Request) *Session {
	s := sessionIn(r.Context(), m)
	if s == nil || s.isDisabled() {
		panic(ErrNoSession.Error() + ", or With(Exclusive) instead of With(Disabled)")
	}
	s.must(r.Context())
	return s
}

// FromContext returns the session of the request that ctx belongs to, or the error
// why there is none: [ErrNoSession], [ErrBusy], or one of package store's. The
// handler then answers as it sees fit (except that a [Cookieless] client that has no
// session yet is sent on to one, whatever the handler answers).
func FromContext(ctx context.Context) (*Session, error) {
	s := sessionIn(ctx, nil)
	if s == nil || s.isDisabled() {
		return nil, ErrNoSession
	}
	if err := s.acquire(ctx); err != nil {
		if errors.Is(err, errRedirect) {
			s.stop(err)
		}
		return nil, err
	}
	return s, nil
}

func (s *Session) isDisabled() bool {
	if s.phase.Load() != idle {
		return false
	}
	s.io.Lock()
	defer s.io.Unlock()
	return s.phase.Load() == idle && s.access == Disabled
}

// must acquires the session, or ends the handler. The panic is the one value that
// middlewares which recover let pass.
func (s *Session) must(ctx context.Context) {
	if err := s.acquire(ctx); err != nil {
		s.stop(err)
		panic(http.ErrAbortHandler)
	}
}
