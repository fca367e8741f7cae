package holdfast_test

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/holdfast-session/holdfast"
	"github.com/holdfast-session/holdfast/inproc"
)

// IDs of a form of one's own: 32 hexadecimal digits. Whatever a client sends that is none
// is not looked for.
func ExampleIDs() {
	ids := holdfast.IDs{
		New: func() string {
			var b [16]byte
			rand.Read(b[:])
			return hex.EncodeToString(b[:])
		},
		Parse: func(s string) (string, bool) {
			s = strings.ToLower(s)
			b, err := hex.DecodeString(s)
			return s, err == nil && len(b) == 16
		},
	}
	sessions := holdfast.New(inproc.New(nil), &holdfast.Options{IDs: ids})
	h := sessions.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		exampleUser.Set(holdfast.From(r), "ann")
	}))
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	fmt.Println(len(w.Result().Cookies()[0].Value), "digits")
	// Output: 32 digits
}

// exampleBearer has the session ID travel as a exampleBearer token, for clients that are programs.
type exampleBearer struct{}

func (exampleBearer) Read(r *http.Request) []string {
	id, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		return nil
	}
	return []string{id}
}

func (exampleBearer) Write(h http.Header, _ *http.Request, id string) { h.Set("Session-Token", id) }

func (exampleBearer) Vary() string { return "Authorization" }

// A way of one's own for the session ID to travel.
func ExampleIdentity() {
	sessions := holdfast.New(inproc.New(nil), &holdfast.Options{Identity: exampleBearer{}})
	h := sessions.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := holdfast.From(r)
		exampleVisits.Update(s, func(n int) int { return n + 1 })
		fmt.Fprint(w, exampleVisits.Get(s))
	}))
	token := ""
	for range 3 {
		r, w := httptest.NewRequest("GET", "/", nil), httptest.NewRecorder()
		if token != "" {
			r.Header.Set("Authorization", "Bearer "+token)
		}
		h.ServeHTTP(w, r)
		if t := w.Header().Get("Session-Token"); t != "" {
			token = t
		}
		fmt.Println(w.Body)
	}
	// Output:
	// 1
	// 2
	// 3
}
