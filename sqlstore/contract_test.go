package sqlstore

import (
	"database/sql"
	"testing"

	"github.com/holdfast-session/holdfast/sqlstore/pgnotify"
	"github.com/holdfast-session/holdfast/store"
	"github.com/holdfast-session/holdfast/storetest"
)

// TestContract runs the suite. A crash is that of the server.
func TestContract(t *testing.T) {
	everyDatabase(t, func(t *testing.T, d *database) { contract(t, d, Options{}) })
}

func TestContractNotified(t *testing.T) {
	t.Parallel()
	s := sharedNotified(t)
	d := openDatabase(t, PostgreSQL, "pgx", s.Database(t), s.Process)
	contract(t, d, Options{Notifier: pgnotify.New(d.db), Compress: true, Keys: [][]byte{make([]byte, 32)}})
}

// An opened store is one with what it was opened with.
type opened struct {
	*Store
	options Options
}

func contract(t *testing.T, d *database, o Options) {
	o.Ends = 100_000
	open := func(t testing.TB, db *sql.DB, o Options) store.Store {
		if o.Notifier != nil {
			o.Notifier = pgnotify.New(db)
		}
		return opened{d.openAt(t, db, o), o}
	}
	storetest.Run(t, storetest.Harness{
		Open: func(t testing.TB) store.Store {
			o := o
			o.Table = d.newTable()
			return open(t, d.db, o)
		},
		Second: func(t testing.TB, s store.Store) store.Store { return open(t, d.connect(t), s.(opened).options) },
		Restart: func(t testing.TB, s store.Store, crash bool) store.Store {
			if p := d.process; p != nil && crash {
				p.Kill()
				p.Restart()
			}
			return open(t, d.db, s.(opened).options)
		},
		Advance: d.advance,
		Lacks:   []storetest.Feature{storetest.OrderAcross},
	})
}
