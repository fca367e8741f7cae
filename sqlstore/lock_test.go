package sqlstore

import (
	"errors"
	"testing"
	"time"

	"github.com/holdfast-session/holdfast/store"
)

// Where Lock reads the row after it has taken the lock, as on SQL Server, another may have
// taken that over in between: his lock is not the caller's.
func TestLockTakenOverAtOnce(t *testing.T) {
	d := databases[2].make(t)
	s := d.open(t, Options{})
	ctx, id := t.Context(), store.ID{App: "a", Session: "s"}
	if err := s.Create(ctx, id, &store.Record{Version: 1, Timeout: time.Hour, Lock: store.Lock{Owner: 7}, Body: []byte("his")}, true); err != nil {
		t.Fatal(err)
	}
	// The statement that takes the lock, as it ends when another has taken over.
	s.st.lock = compile(s.d, s.names, "SELECT "+allColumns+" FROM "+inTable+" WHERE id = :id")
	rec := new(store.Record)
	err := s.Lock(ctx, id, store.LockOptions{Owner: 1}, rec)
	var locked *store.LockedError
	if !errors.As(err, &locked) || locked.Lock.Owner != 7 || len(rec.Body) > 0 {
		t.Errorf("Lock: %v, %q; want that 7 has it", err, rec.Body)
	}
}
