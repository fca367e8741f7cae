package after

import (
	"net/http"
	"strings"

	"github.com/gorilla/sessions"

	"github.com/holdfast-session/holdfast"
	"github.com/holdfast-session/holdfast/store"
)

// Both returns the shop for the time in which visitors come with sessions of either
// library.
func Both(old sessions.Store, places store.Store) http.Handler {
	sessions := holdfast.New(places, &holdfast.Options{
		Cookie: holdfast.Cookie{Name: "id"}, // not the one that gorilla has, "shop"
	})
	return sessions.Handler(move(old, "shop", Pages()))
}

// move takes over what gorilla's session called name has of a visitor, in a request
// of its own: it sends the visitor to the same page again. When the new cookie comes
// back, the old session is ended; until then it stays, so that a lost response loses
// nobody's session.
func move(old sessions.Store, name string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := r.Cookie(name); err != nil {
			next.ServeHTTP(w, r)
			return
		}
		was, err := old.Get(r, name)
		s := holdfast.From(r)
		if err == nil && s.IsNew() { // an error is a cookie that nobody can read any more
			carry(was, s, visits)
			carry(was, s, cart)
			carry(was, s, user)
			if all := was.Flashes(); len(all) > 0 {
				text, _ := all[0].(string)
				flash.Set(s, text)
			}
			if s.Len() > 0 {
				// 307 repeats a POST as one. The page is always one of this site.
				http.Redirect(w, r, "/"+strings.TrimLeft(r.URL.RequestURI(), "/"), http.StatusTemporaryRedirect)
				return
			}
		}
		was.Options.MaxAge = -1
		if err := was.Save(r, w); err != nil {
			http.Error(w, "Please try again.", http.StatusServiceUnavailable)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func carry[T any](was *sessions.Session, s *holdfast.Session, k holdfast.Key[T]) {
	if v, ok := was.Values[k.Name()].(T); ok {
		k.Set(s, v)
	}
}
