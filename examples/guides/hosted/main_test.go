package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/holdfast-session/holdfast"
	"github.com/holdfast-session/holdfast/host/worker"
)

// Outside of a host the application works, too.
func TestPage(t *testing.T) {
	w, err := worker.Join(nil)
	if err != nil {
		t.Fatal(err)
	}
	sessions := holdfast.New(w.Store(), nil)
	h := sessions.Handler(page(w))
	var cookie string
	for _, want := range []string{"1 visits", "2 visits"} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header.Set("Cookie", cookie)
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, r)
		if c := rec.Result().Cookies(); len(c) > 0 {
			cookie = c[0].Name + "=" + c[0].Value
		}
		if got := rec.Body.String(); !strings.HasPrefix(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if err := sessions.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if err := w.Close(t.Context()); err != nil {
		t.Error(err)
	}
}
