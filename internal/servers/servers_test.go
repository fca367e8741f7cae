package servers

import (
	"context"
	"database/sql"
	"errors"
	"testing"
	"time"
)

func TestPostgres(t *testing.T) {
	s := StartPostgres(t, nil)
	killed(t, s.Process, "pgx", s.Database(t))
}

func TestMariaDB(t *testing.T) {
	s := StartMariaDB(t, nil)
	killed(t, s.Process, "mysql", s.Database(t))
}

// killed checks that what a server was told is there after it was paused, stopped and
// killed.
func killed(t *testing.T, p *Process, driver, dsn string) {
	t.Helper()
	db, err := sql.Open(driver, dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	exec := func(query string) {
		t.Helper()
		if _, err := db.ExecContext(t.Context(), query); err != nil {
			t.Fatalf("%s: %v", query, err)
		}
	}
	exec("CREATE TABLE t (n INTEGER)")
	exec("INSERT INTO t VALUES (1)")

	p.Pause()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := db.ExecContext(ctx, "INSERT INTO t VALUES (10)"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a paused server answers: %v", err)
	}
	p.Resume()

	before := p.PID()
	for range 2 {
		exec("UPDATE t SET n = n + 1")
		p.Kill()
		if err := db.PingContext(t.Context()); err == nil {
			t.Error("a killed server answers")
		}
		p.Restart()
		exec("UPDATE t SET n = n + 1")
		p.Stop()
		p.Restart()
	}
	var n int
	if err := db.QueryRowContext(t.Context(), "SELECT min(n) FROM t").Scan(&n); err != nil || n != 5 {
		t.Errorf("n = %d, %v; want 5", n, err)
	}
	if p.PID() == before {
		t.Error("it is the same process as before")
	}
}
