package servers

import (
	"context"
	"database/sql"
	"fmt"
	"net/url"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver pgx
)

// PostgresOptions are the settings of a private PostgreSQL.
type PostgresOptions struct {
	// Durable lets it sync what it writes to the disk, as in production. Without, what
	// is committed survives that the server is killed, but not that the machine is.
	Durable bool
	// Settings are further ones, as postgresql.conf has them ("max_connections=20").
	Settings []string
}

// A Postgres is a private PostgreSQL server.
type Postgres struct {
	*Process
	dir       string
	databases atomic.Int32
}

// StartPostgres starts PostgreSQL on a Unix socket in a folder of its own, where any
// user of the machine is the superuser holdfast. Nil options are fine.
func StartPostgres(t testing.TB, o *PostgresOptions) *Postgres {
	t.Helper()
	if o == nil {
		o = new(PostgresOptions)
	}
	const debian = "/usr/lib/postgresql/*/bin/"
	s := &Postgres{dir: Folder(t)}
	data := filepath.Join(s.dir, "data")
	Run(t, s.dir, Program(t, "initdb", debian+"initdb"), "--pgdata="+data, "--username=holdfast",
		"--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync")
	args := []string{"-D", data, "-k", s.dir, "-c", "listen_addresses=", "-c", "shared_buffers=64MB", "-c", "max_connections=200"}
	if !o.Durable {
		args = append(args, "-c", "fsync=off", "-c", "full_page_writes=off")
	}
	for _, setting := range o.Settings {
		args = append(args, "-c", setting)
	}
	s.Process = Start(t, Command{
		Program:    Program(t, "postgres", debian+"postgres"),
		Args:       args,
		Dir:        s.dir,
		StopSignal: syscall.SIGINT, // a fast shutdown: it does not wait for clients to leave
		Ready:      func(ctx context.Context) error { return ping(ctx, "pgx", s.DSN("postgres")) },
	})
	return s
}

// DSN returns the URL of a database, for the driver pgx.
func (s *Postgres) DSN(database string) string {
	u := url.URL{Scheme: "postgres", User: url.User("holdfast"), Path: "/" + database,
		RawQuery: url.Values{"host": {s.dir}}.Encode()}
	return u.String()
}

// Database makes an empty database, and returns its URL for the driver pgx.
func (s *Postgres) Database(t testing.TB) string {
	t.Helper()
	name := fmt.Sprint("test", s.databases.Add(1))
	createDatabase(t, "pgx", s.DSN("postgres"), name)
	return s.DSN(name)
}

// ping reports whether a database answers.
func ping(ctx context.Context, driver, dsn string) error {
	db, err := sql.Open(driver, dsn)
	if err != nil {
		return err
	}
	defer db.Close()
	return db.PingContext(ctx)
}

func createDatabase(t testing.TB, driver, dsn, name string) {
	t.Helper()
	db, err := sql.Open(driver, dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.ExecContext(t.Context(), "CREATE DATABASE "+name); err != nil {
		t.Fatal(err)
	}
}
