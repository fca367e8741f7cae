package customstore

import (
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/bbolt"

	"github.com/holdfast-session/holdfast"
	"github.com/holdfast-session/holdfast/store"
	"github.com/holdfast-session/holdfast/storetest"
)

func TestContract(t *testing.T) {
	open := func(t testing.TB, path string) *Store {
		s, err := Open(path, &bbolt.Options{NoSync: true}) // the tests pull no plug
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	storetest.Run(t, storetest.Harness{
		Bubble: true,
		Open: func(t testing.TB) store.Store {
			s := open(t, filepath.Join(t.TempDir(), "sessions.db"))
			t.Cleanup(func() { s.Close() })
			return s
		},
		Restart: func(t testing.TB, s store.Store, _ bool) store.Store {
			old := s.(*Store)
			path := old.db.Path()
			if err := old.Close(); err != nil {
				t.Fatal(err)
			}
			next := open(t, path)
			t.Cleanup(func() { next.Close() })
			return next
		},
	})
}

// TestSweep: what expired, and what ended, is told for a while and then forgotten.
func TestSweep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := Open(filepath.Join(t.TempDir(), "sessions.db"), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		ids := map[string]store.Kind{"expires": store.Expired, "is ended": store.Abandoned, "stays": store.Unknown}
		for session := range ids {
			rec := store.Record{Version: store.NewVersion(), Timeout: time.Minute}
			if session == "stays" {
				rec.Timeout = 24 * time.Hour
			}
			if err := s.Create(t.Context(), store.ID{Session: session}, &rec, false); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Remove(t.Context(), store.ID{Session: "is ended"}, store.Lock{}, store.Reason{Kind: store.Abandoned}); err != nil {
			t.Fatal(err)
		}
		entries := func() (n int) {
			err := s.db.View(func(tx *bbolt.Tx) error {
				n = tx.Bucket(bucket).Stats().KeyN
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
		time.Sleep(remembered - time.Minute)
		for session, want := range ids {
			err := s.Touch(t.Context(), store.ID{Session: session})
			if got := store.ReasonOf(err).Kind; got != want || (err == nil) != (session == "stays") {
				t.Errorf("%s: %v", session, err)
			}
		}
		if n := entries(); n != 3 {
			t.Errorf("%d entries before the time has come", n)
		}
		time.Sleep(4 * time.Minute)
		if n := entries(); n != 1 {
			t.Errorf("%d entries afterwards, want 1", n)
		}
	})
}

// An application keeps its sessions in a file, and finds them there after a restart.
func Example() {
	visits := holdfast.NewKey[int]("customstore-visits")
	page := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := holdfast.From(r)
		visits.Update(s, func(n int) int { return n + 1 })
		fmt.Fprint(w, visits.Get(s))
	})
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	r := httptest.NewRequest("GET", "/", nil)
	for range 3 {
		s, err := Open(filepath.Join(dir, "sessions.db"), nil)
		if err != nil {
			log.Fatal(err)
		}
		sessions := holdfast.New(s, nil)
		w := httptest.NewRecorder()
		sessions.Handler(page).ServeHTTP(w, r)
		fmt.Println("visits:", w.Body)
		for _, c := range w.Result().Cookies() {
			r.AddCookie(c)
		}
		sessions.Close(r.Context())
		s.Close()
	}
	// Output:
	// visits: 1
	// visits: 2
	// visits: 3
}
