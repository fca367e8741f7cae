//go:build !race

package holdfast

import (
	"net/http"
	"runtime"
	"testing"
	"time"
	"unsafe"

	"github.com/holdfast-session/holdfast/inproc"
)

var (
	memUser  = NewKey[string]("owner")
	memCart  = NewKey[int]("lines")
	memSince = NewKey[time.Time]("since")
	memTheme = NewKey[string]("theme")
	memAdmin = NewKey[bool]("admin")
)

// A session of five small values takes at most 360 bytes in this process, all told.
func TestMemoryOfASession(t *testing.T) {
	st := inproc.New(&inproc.Options{MaxBytes: -1})
	defer st.Close()
	m := New(st, nil)
	h := m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := From(r)
		memUser.Set(s, "ann@example.com")
		memCart.Set(s, 3)
		memSince.Set(s, time.Unix(1700000000, 0))
		memTheme.Set(s, "dark")
		memAdmin.Set(s, false)
	}))
	r, err := http.NewRequest("GET", "/", nil)
	if err != nil {
		t.Fatal(err)
	}
	const sessions = 100_000
	before := heap()
	for range sessions {
		h.ServeHTTP(&nobody{make(http.Header)}, r)
	}
	each := float64(heap()-before) / sessions
	t.Logf("%.0f bytes each", each)
	if each > 360 {
		t.Errorf("a session takes %.0f bytes, want at most 360", each)
	}
	runtime.KeepAlive(st)
}

func heap() int64 {
	var s runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&s)
	return int64(s.HeapAlloc)
}

// What a session may add to a request over InProc, in allocations.
func TestAllocationsOfTheMiddleware(t *testing.T) {
	if size := unsafe.Sizeof(Session{}); size > 2048 {
		t.Errorf("a Session takes %d bytes, and the allocator's next size is 2304", size)
	}
	st := inproc.New(nil)
	defer st.Close()
	m := New(st, nil)
	page := []byte("hello\n")
	for name, test := range map[string]struct {
		h    http.Handler
		most float64
	}{
		"never asked": {m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.Write(page) })), 3},
		"read": {m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			benchHits.Get(From(r))
			w.Write(page)
		})), 4},
		"counted": {m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			benchHits.Update(From(r), func(n int) int { return n + 1 })
			w.Write(page)
		})), 6},
	} {
		r, err := http.NewRequest("GET", "/", nil)
		if err != nil {
			t.Fatal(err)
		}
		first := &nobody{make(http.Header)}
		m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { benchHits.Set(From(r), 1) })).ServeHTTP(first, r)
		r.AddCookie((&http.Response{Header: first.h}).Cookies()[0])
		w := &nobody{make(http.Header)}
		if got := testing.AllocsPerRun(1000, func() {
			clear(w.h)
			test.h.ServeHTTP(w, r)
		}); got > test.most {
			t.Errorf("%s: %v allocations, want at most %v", name, got, test.most)
		}
	}
}
