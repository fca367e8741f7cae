package sqlstore

import (
	"database/sql"
	"testing"

	"github.com/holdfast-session/holdfast/internal/servers"
	"github.com/holdfast-session/holdfast/sqlstore/pgnotify"
	"github.com/holdfast-session/holdfast/store"
	"github.com/holdfast-session/holdfast/storetest"
)

// TestContract runs the suite, in servers of its own, for a crash is that of the server.
func TestContract(t *testing.T) {
	t.Parallel()
	for name, run := range map[string]func(t *testing.T){
		"PostgreSQL": func(t *testing.T) { contract(t, inPostgres(t, servers.StartPostgres(t, nil)), Options{}) },
		"MariaDB":    func(t *testing.T) { contract(t, inMariaDB(t, servers.StartMariaDB(t, nil)), Options{}) },
		"SQLite":     func(t *testing.T) { contract(t, databases[2].make(t), Options{}) },
		"PostgreSQLNotified": func(t *testing.T) {
			d := inPostgres(t, servers.StartPostgres(t, nil))
			contract(t, d, Options{Notifier: pgnotify.New(d.db), Compress: true, Keys: [][]byte{aesKey(1)}})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			run(t)
		})
	}
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
