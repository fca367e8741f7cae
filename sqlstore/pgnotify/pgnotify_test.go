package pgnotify

import (
	"context"
	"database/sql"
	"strings"
	"testing"
	"time"

	_ "modernc.org/sqlite"

	"github.com/holdfast-session/holdfast/internal/servers"
)

func TestMain(m *testing.M) { servers.Main(m) }

var postgres = servers.Shared(func(t testing.TB) *servers.Postgres { return servers.StartPostgres(t, nil) })

func connect(t *testing.T, s *servers.Postgres) *sql.DB {
	t.Helper()
	db, err := sql.Open("pgx", s.DSN("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

// listen returns what is received on a channel.
func listen(t *testing.T, db *sql.DB, channel string) (received chan string, stop func()) {
	t.Helper()
	received = make(chan string, 100)
	l, err := New(db).Listen(t.Context(), channel, func(message string) { received <- message })
	if err != nil {
		t.Fatal(err)
	}
	return received, func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
}

func notify(t *testing.T, db *sql.DB, channel, message string) {
	t.Helper()
	if _, err := db.ExecContext(t.Context(), "SELECT pg_notify($1, $2)", channel, message); err != nil {
		t.Fatal(err)
	}
}

func next(t *testing.T, received chan string, want string) {
	t.Helper()
	select {
	case got := <-received:
		if got != want {
			t.Fatalf("received %q; want %q", got, want)
		}
	case <-time.After(time.Minute):
		t.Fatalf("nothing was received; want %q", want)
	}
}

func TestListen(t *testing.T) {
	db := connect(t, postgres(t))
	const channel = `odd "name" of a channel`
	received, stop := listen(t, db, channel)
	notify(t, db, "another", "not for us")
	notify(t, db, channel, "one")
	notify(t, db, channel, "two")
	next(t, received, "one")
	next(t, received, "two")
	stop()
	if n := db.Stats().InUse; n != 0 {
		t.Errorf("%d connections are in use after Close", n)
	}
	// The connection that listened is not among the others any more.
	notify(t, db, channel, "three")
	select {
	case got := <-received:
		t.Errorf("received %q after Close", got)
	default:
	}
}

// A connection that is lost is replaced, and whoever listens learns that something may
// have been missed.
func TestConnectionLost(t *testing.T) {
	s := postgres(t)
	db := connect(t, s)
	received, stop := listen(t, db, "lost")
	defer stop()
	if _, err := db.ExecContext(t.Context(), "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'"); err != nil {
		t.Fatal(err)
	}
	next(t, received, "")
	notify(t, db, "lost", "after it was terminated")
	next(t, received, "after it was terminated")

	s.Kill()
	s.Restart()
	next(t, received, "")
	fresh := connect(t, s) // of the others, most are to the server of before
	notify(t, fresh, "lost", "after the server was killed")
	next(t, received, "after the server was killed")
}

func TestCannotListen(t *testing.T) {
	single := connect(t, postgres(t))
	single.SetMaxOpenConns(1)
	other, err := sql.Open("sqlite", ":memory:")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	absent, err := sql.Open("pgx", "postgres://nobody@/nothing?host="+t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer absent.Close()
	for want, db := range map[string]*sql.DB{"SetMaxOpenConns": single, "driver pgx": other, "connect": absent} {
		_, err := New(db).Listen(context.Background(), "c", func(string) {})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Listen: %v; want an error that names %q", err, want)
		}
	}
}

// TestListenAfterRestart has all idle connections be lost, which nobody has noticed.
func TestListenAfterRestart(t *testing.T) {
	server := servers.StartPostgres(t, nil)
	db := connect(t, server)
	db.SetMaxIdleConns(4)
	for range 2 { // the driver does not test those that were tested a moment ago
		var idle []*sql.Conn
		for range 4 {
			c, err := db.Conn(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			idle = append(idle, c)
		}
		for _, c := range idle {
			if err := c.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	server.Kill()
	server.Restart()
	received, stop := listen(t, db, "c")
	defer stop()
	if _, err := db.Exec("SELECT pg_notify('c', 'here')"); err != nil {
		t.Fatal(err)
	}
	if got := <-received; got != "here" {
		t.Errorf("received %q", got)
	}
}
