package holdfast

import (
	"net/http"
	"testing"

	"github.com/holdfast-session/holdfast/inproc"
)

// nobody is the least a server does for a response.
type nobody struct{ h http.Header }

func (w *nobody) Header() http.Header         { return w.h }
func (w *nobody) Write(p []byte) (int, error) { return len(p), nil }
func (w *nobody) WriteHeader(int)             {}

var benchHits = NewKey[int]("bench-hits")

// BenchmarkMiddleware is what a session adds to a request over InProc: the bare
// handler, one that counts, one that reads.
func BenchmarkMiddleware(b *testing.B) {
	page := []byte("hello\n")
	bare := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.Write(page) })
	count := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		benchHits.Update(From(r), func(n int) int { return n + 1 })
		w.Write(page)
	})
	read := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		benchHits.Get(From(r))
		w.Write(page)
	})
	st := inproc.New(nil)
	defer st.Close()
	m := New(st, nil)
	for _, bench := range []struct {
		name string
		h    http.Handler
	}{
		{"bare", bare},
		{"unused", m.Handler(bare)},
		{"count/exclusive", m.Handler(count)},
		{"count/merge", m.With(Merge).Handler(count)},
		{"read/exclusive", m.Handler(read)},
		{"read/readonly", m.With(ReadOnly).Handler(read)},
	} {
		b.Run(bench.name, func(b *testing.B) {
			r, err := http.NewRequest("GET", "/", nil)
			if err != nil {
				b.Fatal(err)
			}
			first := &nobody{make(http.Header)}
			m.Handler(count).ServeHTTP(first, r)
			r.AddCookie((&http.Response{Header: first.h}).Cookies()[0])
			w := &nobody{make(http.Header)}
			b.ReportAllocs()
			for b.Loop() {
				clear(w.h)
				bench.h.ServeHTTP(w, r)
			}
		})
	}
}
