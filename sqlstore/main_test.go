package sqlstore

import (
	"context"
	"database/sql"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	mysqldriver "github.com/go-sql-driver/mysql"
	_ "modernc.org/sqlite"

	"github.com/holdfast-session/holdfast/internal/servers"
)

func TestMain(m *testing.M) {
	if os.Getenv(visitorFile) != "" {
		beVisitor()
	}
	// The tests mostly wait, for clocks and servers.
	flag.Parse()
	if err := flag.Set("test.parallel", "16"); err != nil {
		panic(err)
	}
	// It writes of each connection that is lost, which here is most of them.
	_ = mysqldriver.SetLogger(log.New(io.Discard, "", 0))
	servers.Main(m)
}

// The servers that the tests share. Those that kill one start their own.
var (
	sharedPostgres = servers.Shared(func(t testing.TB) *servers.Postgres { return servers.StartPostgres(t, nil) })
	sharedMariaDB  = servers.Shared(func(t testing.TB) *servers.MariaDB { return servers.StartMariaDB(t, nil) })
)

// A database is an empty one of a test's own, with a clock that the test can put forward.
type database struct {
	dialect Dialect
	driver  string
	dsn     string
	db      *sql.DB
	process *servers.Process // nil if there is none
	tables  atomic.Int32
}

// databases make one of each kind that can be had here.
var databases = []struct {
	name string
	make func(t testing.TB) *database
}{
	{"PostgreSQL", func(t testing.TB) *database { return inPostgres(t, sharedPostgres(t)) }},
	{"MariaDB", func(t testing.TB) *database { return inMariaDB(t, sharedMariaDB(t)) }},
	{"SQLite", func(t testing.TB) *database {
		return openDatabase(t, SQLite, "sqlite", sqliteDSN(filepath.Join(t.TempDir(), "test.db")), nil)
	}},
}

func inPostgres(t testing.TB, s *servers.Postgres) *database {
	t.Helper()
	return openDatabase(t, PostgreSQL, "pgx", s.Database(t), s.Process)
}

func inMariaDB(t testing.TB, s *servers.MariaDB) *database {
	t.Helper()
	return openDatabase(t, MySQL, "mysql", s.Database(t), s.Process)
}

func sqliteDSN(file string) string {
	return "file:" + file + "?_pragma=journal_mode(wal)&_pragma=busy_timeout(1000)&_pragma=synchronous(off)"
}

// everyDatabase runs a test on each of them, beside others.
func everyDatabase(t *testing.T, test func(t *testing.T, d *database)) {
	t.Parallel()
	for _, each := range databases {
		t.Run(each.name, func(t *testing.T) {
			t.Parallel()
			test(t, each.make(t))
		})
	}
}

func openDatabase(t testing.TB, dialect Dialect, driver, dsn string, p *servers.Process) *database {
	t.Helper()
	d := &database{dialect: dialect, driver: driver, dsn: dsn, process: p}
	d.db = d.connect(t)
	d.exec(t, "CREATE TABLE clock (ahead BIGINT NOT NULL)")
	d.exec(t, "INSERT INTO clock (ahead) VALUES (0)")
	return d
}

// connect opens a pool of connections of its own.
func (d *database) connect(t testing.TB) *sql.DB {
	t.Helper()
	db, err := sql.Open(d.driver, d.dsn)
	if err != nil {
		t.Fatal(err)
	}
	db.SetMaxOpenConns(20)
	db.SetMaxIdleConns(20)
	t.Cleanup(func() { db.Close() })
	return db
}

func (d *database) exec(t testing.TB, query string, args ...any) {
	t.Helper()
	if _, err := d.db.ExecContext(context.Background(), query, args...); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
}

// scan reads one row.
func (d *database) scan(t testing.TB, query string, to ...any) {
	t.Helper()
	if err := d.db.QueryRowContext(context.Background(), query).Scan(to...); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
}

// now is the time as the tests have it: that of the database, put forward.
func (d *database) now() string {
	of, _ := dialectOf(d.dialect)
	return "(" + of.now() + " + (SELECT ahead FROM clock))"
}

func (d *database) advance(by time.Duration) {
	of, _ := dialectOf(d.dialect)
	err := repeat(context.Background(), of, true, func() error { // MySQL locks the clock for who reads it, too
		_, err := d.db.Exec(fmt.Sprintf("UPDATE clock SET ahead = ahead + %d", by.Microseconds()))
		return err
	})
	if err != nil {
		panic(err)
	}
}

// newTable is the name of a table that no other test uses.
func (d *database) newTable() string { return fmt.Sprint("sessions", d.tables.Add(1)) }

// open opens a store. Without Options.Table it has a table of its own. It does not sweep by
// itself: a test that takes long would find done what it does or counts.
func (d *database) open(t testing.TB, o Options) *Store {
	t.Helper()
	return d.openAt(t, d.db, o)
}

func (d *database) openAt(t testing.TB, db *sql.DB, o Options) *Store {
	t.Helper()
	o.AutoInstall = true
	if o.Table == "" {
		o.Table = d.newTable()
	}
	s, err := newStore(db, &o, d.now())
	if err != nil {
		t.Fatal(err)
	}
	s.stop()
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return s
}

// middle is the median.
func middle(all []time.Duration) time.Duration {
	slices.Sort(all)
	return all[len(all)/2]
}

// until waits for something that happens soon.
func until(t testing.TB, what string, happened func() bool) {
	t.Helper()
	again, deadline := time.NewTicker(time.Millisecond), time.After(time.Minute)
	defer again.Stop()
	for !happened() {
		select {
		case <-again.C:
		case <-deadline:
			t.Fatalf("it did not happen: %s", what)
		}
	}
}

// long reports whether tests may take long.
func long() bool { return os.Getenv("HOLDFAST_LONG") != "" }
