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
		"PostgreSQL": func(t *testing.T) { contract(t, inPostgres(t, servers.StartPostgres(t, nil)), Options{}, nil) },
		"MariaDB":    func(t *testing.T) { contract(t, inMariaDB(t, servers.StartMariaDB(t, nil)), Options{}, nil) },
		"SQLite":     func(t *testing.T) { contract(t, databases[2].make(t), Options{}, nil) },
		"PostgreSQLTogether": func(t *testing.T) {
			contract(t, inPostgres(t, servers.StartPostgres(t, nil)), Options{}, (*Store).together)
		},
		"MariaDBTogether": func(t *testing.T) {
			contract(t, inMariaDB(t, servers.StartMariaDB(t, nil)), Options{}, (*Store).together)
		},
		"SQLiteTogether": func(t *testing.T) { contract(t, databases[2].make(t), Options{}, (*Store).together) },
		"PostgreSQLNotified": func(t *testing.T) {
			d := inPostgres(t, servers.StartPostgres(t, nil))
			contract(t, d, Options{Notifier: pgnotify.New(d.db), Compress: true, Keys: [][]byte{aesKey(1)}}, nil)
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

// contract runs the suite on stores that were changed by change, if that is not nil.
func contract(t *testing.T, d *database, o Options, change func(*Store)) {
	o.Ends = 100_000
	open := func(t testing.TB, db *sql.DB, o Options) store.Store {
		if o.Notifier != nil {
			o.Notifier = pgnotify.New(db)
		}
		s := d.openAt(t, db, o)
		if change != nil {
			change(s)
		}
		return opened{s, o}
	}
	lacks := []storetest.Feature{storetest.OrderAcross}
	if d.dialect != PostgreSQL && d.dialect != SQLite { // others read what they have locked in a second statement
		lacks = append(lacks, storetest.AtomicLock)
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
		Lacks:   lacks,
	})
}
