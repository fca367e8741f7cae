package sqlstore

import (
	"testing"
	"time"

	"github.com/holdfast-session/holdfast/store"
)

// A session that seems to have expired, while a call that came in time has restarted its
// timeout and is not committed yet, goes on living, and nobody is told otherwise.
func TestExpiryIsDecidedOnce(t *testing.T) {
	everyDatabase(t, func(t *testing.T, d *database) {
		s := d.open(t, Options{})
		ctx, id := t.Context(), store.ID{App: "a", Session: "s"}
		if err := s.Create(ctx, id, &store.Record{Version: 1, Timeout: time.Minute, Body: []byte("alive")}, false); err != nil {
			t.Fatal(err)
		}
		for what, call := range map[string]func(s *Store) error{
			"Load": func(s *Store) error {
				rec := new(store.Record)
				err := s.Load(ctx, id, rec)
				if err == nil && string(rec.Body) != "alive" {
					t.Errorf("Load: the content is %q", rec.Body)
				}
				return err
			},
			"peek": func(s *Store) error { // by which the other calls ask why they changed nothing
				k, _ := keyOf(id)
				_, err := s.peek(ctx, k)
				return err
			},
		} {
			d.exec(t, s.names.replacer().Replace("UPDATE "+inTable+" SET expires = "+inNow+" + 60000000"))
			tx, err := d.db.BeginTx(ctx, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer tx.Rollback()
			if _, err := tx.Exec("UPDATE " + s.names.table + " SET expires = expires + 600000000"); err != nil {
				t.Fatal(err)
			}
			// A store that sees the clock after the minute and before the ten.
			db, count := d.counted(t)
			later, err := newStore(db, &Options{Table: s.o.Table, Dialect: d.dialect}, "("+d.now()+" + 90000000)")
			if err != nil {
				t.Fatal(err)
			}
			later.stop()
			count.take()
			done := make(chan error, 1)
			go func() { done <- call(later) }()
			until(t, what+" has read the row", func() bool { return len(count.take()) > 0 })
			if err := tx.Commit(); err != nil {
				t.Fatal(err)
			}
			if err := <-done; err != nil {
				t.Errorf("%s: %v", what, err)
			}
			if err := later.Close(); err != nil {
				t.Error(err)
			}
		}
	})
}
