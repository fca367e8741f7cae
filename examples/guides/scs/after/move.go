package after

import (
	"context"
	"net/http"
	"strings"

	"github.com/alexedwards/scs/v2"

	"github.com/holdfast-session/holdfast"
	"github.com/holdfast-session/holdfast/store"
)

// Both returns the shop for the time in which visitors come with sessions of either
// library.
func Both(old *scs.SessionManager, places store.Store) http.Handler {
	sessions := holdfast.New(places, &holdfast.Options{
		Cookie: holdfast.Cookie{Name: "id"}, // not the one that scs has, "session"
	})
	return sessions.Handler(move(old, Pages()))
}

// move takes over what scs still has of a visitor, in a request of its own: it sends
// the visitor to the same page again. When the new cookie comes back, the old session
// is ended; until then it stays, so that a lost response loses nobody's session.
func move(old *scs.SessionManager, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := r.Cookie(old.Cookie.Name)
		if err != nil {
			next.ServeHTTP(w, r)
			return
		}
		ctx, err := old.Load(r.Context(), c.Value)
		if err != nil {
			http.Error(w, "Please try again.", http.StatusServiceUnavailable)
			return
		}
		s := holdfast.From(r)
		if s.IsNew() {
			carry(ctx, old, s, visits)
			carry(ctx, old, s, cart)
			carry(ctx, old, s, user)
			carry(ctx, old, s, flash)
			if s.Len() > 0 {
				// 307 repeats a POST as one. The page is always one of this site.
				http.Redirect(w, r, "/"+strings.TrimLeft(r.URL.RequestURI(), "/"), http.StatusTemporaryRedirect)
				return
			}
		}
		if err := old.Destroy(ctx); err != nil {
			http.Error(w, "Please try again.", http.StatusServiceUnavailable)
			return
		}
		http.SetCookie(w, &http.Cookie{Name: old.Cookie.Name, Path: old.Cookie.Path, Domain: old.Cookie.Domain, MaxAge: -1})
		next.ServeHTTP(w, r)
	})
}

func carry[T any](ctx context.Context, old *scs.SessionManager, s *holdfast.Session, k holdfast.Key[T]) {
	if v, ok := old.Get(ctx, k.Name()).(T); ok {
		k.Set(s, v)
	}
}
