package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	testservers "github.com/holdfast-session/holdfast/internal/servers"
	"github.com/holdfast-session/holdfast/mode"
	"github.com/holdfast-session/holdfast/store"
)

// sqlSays runs a `holdfast sql` command, and returns what it printed.
func sqlSays(t *testing.T, wantStatus int, args ...string) string {
	t.Helper()
	p := start(t, append([]string{"sql"}, args...)...)
	if status := p.wait(); status != wantStatus {
		t.Errorf("sql %s: status %d, want %d", strings.Join(args, " "), status, wantStatus)
	}
	return p.stdout.String() + p.stderr.String()
}

func wants(t *testing.T, got, want string) {
	t.Helper()
	if !strings.Contains(got, want) {
		t.Errorf("%q lacks %q", got, want)
	}
}

func TestSQL(t *testing.T) {
	for name, spec := range map[string]string{
		"SQLite":     "sqlite:" + filepath.Join(t.TempDir(), "sessions.db"),
		"PostgreSQL": testservers.StartPostgres(t, nil).Database(t),
	} {
		t.Run(name, func(t *testing.T) {
			sep := "?"
			if strings.Contains(spec, "?") {
				sep = "&"
			}
			other := spec + sep + "table=my+sessions"
			wants(t, sqlSays(t, 1, "status", "--store", spec), "holdfast sql install makes") // the file, or the tables
			for range 2 {
				wants(t, sqlSays(t, 0, "install", "--store", spec), "the tables are there: "+name)
			}
			wants(t, sqlSays(t, 0, "install", "--store", other), "the tables are there")

			s, err := mode.Open(spec)
			if err != nil {
				t.Fatal(err)
			}
			for i := range 3 {
				rec := store.Record{Version: store.NewVersion(), Timeout: time.Hour, Body: []byte("body")}
				if err := s.Create(t.Context(), store.ID{App: "/shop", Session: fmt.Sprint(i)}, &rec, false); err != nil {
					t.Fatal(err)
				}
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			var status struct {
				Dialect           string
				Sessions, Version int
			}
			if err := json.Unmarshal([]byte(sqlSays(t, 0, "status", "--json", "--store", spec)), &status); err != nil {
				t.Fatal(err)
			}
			if status.Dialect != name || status.Sessions != 3 || status.Version == 0 {
				t.Errorf("%+v", status)
			}
			wants(t, sqlSays(t, 0, "status", "--store", spec), "sessions")
			wants(t, sqlSays(t, 0, "sweep", "--store", spec), "0 sessions ended")
			wants(t, sqlSays(t, 0, "export", "--store", other), `"my sessions"`)
			wants(t, sqlSays(t, 1, "remove", "--store", spec), "3 sessions in them are removed. Go on?")
			wants(t, sqlSays(t, 0, "remove", "--yes", "--store", spec), "the tables are removed")
			wants(t, sqlSays(t, 0, "remove", "--store", spec), "there are no tables")

			d, err := mode.OpenDatabase(spec)
			if err != nil {
				t.Fatal(err)
			}
			defer d.DB.Close()
			exec := func(query string) {
				t.Helper()
				if _, err := d.DB.ExecContext(t.Context(), query); err != nil {
					t.Fatal(err)
				}
			}
			sqlSays(t, 0, "install", "--store", spec)
			exec("DROP TABLE holdfast_sessions") // as a remove that is interrupted does
			wants(t, sqlSays(t, 1, "status", "--store", spec), "there are no tables; holdfast sql install makes them")
			wants(t, sqlSays(t, 0, "remove", "--store", spec), "there are no tables")
			exec("CREATE TABLE holdfast_sessions_meta (n BIGINT)")
			exec("DROP TABLE holdfast_sessions_meta")
			sqlSays(t, 0, "install", "--store", spec)
			exec("UPDATE holdfast_sessions_meta SET value = 99 WHERE kind = 0")
			wants(t, sqlSays(t, 1, "status", "--store", spec), "use a newer holdfast")
			sqlSays(t, 0, "remove", "--yes", "--store", spec)
			wants(t, sqlSays(t, 0, "status", "--store", spec, "--table", "my sessions"), "schema version")
		})
	}
}

func TestSQLMistakes(t *testing.T) {
	wants(t, sqlSays(t, 1, "install"), "--store says which database")
	wants(t, sqlSays(t, 1, "install", "--store", "inproc:"), "is no database")
	wants(t, sqlSays(t, 1, "install", "--aspstate", "--store", "sqlite:/x"), "--aspstate is for sqlserver:// only")
	wants(t, sqlSays(t, 1, "export", "--dialect", "db2"), "possible are [PostgreSQL MySQL")
	if got := sqlSays(t, 1, "status", "--store", "postgres://u:s3cret@127.0.0.1:1/db", "--timeout", "5s"); strings.Contains(got, "s3cret") {
		t.Errorf("%q shows the password", got)
	}
	// ASPState has a status, too; here there is no server.
	wants(t, sqlSays(t, 1, "status", "--aspstate", "--store", "sqlserver://u:s3cret@127.0.0.1:1?database=ASPState", "--timeout", "5s"), "asking for the tables of ASPState")
	for _, dialect := range []string{"postgresql", "MySQL", "sqlite", "sqlserver", "oracle"} {
		wants(t, sqlSays(t, 0, "export", "--dialect", dialect, "--table", "t1"), "t1_meta")
	}
	wants(t, sqlSays(t, 0, "export", "--aspstate"), "ASPStateTempSessions")
}

// TestServeStore has two state servers share one database, and an old client's session.
func TestServeStore(t *testing.T) {
	spec := "sqlite:" + filepath.Join(t.TempDir(), "sessions.db")
	refused := start(t, "serve", "--listen", "127.0.0.1:0", "--store", spec)
	if refused.wait() == 0 {
		t.Error("it serves without tables")
	}
	wants(t, refused.stderr.String(), "holdfast sql install")
	sqlSays(t, 0, "install", "--store", spec)

	one := start(t, "serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--store", spec)
	two := startWith(t, func(cmd *exec.Cmd) { cmd.Env = append(cmd.Env, "HOLDFAST_SERVE_STORE="+spec) }, "serve", "--listen", "127.0.0.1:0")
	first, second := dial(t, one.ready(ready)), dial(t, two.ready(ready))
	first.wants("PUT /app/s1 HTTP/1.1\r\nHost: h\r\nTimeout:20\r\nContent-Length:5\r\n\r\nhel\x00o", http.StatusOK)
	got := second.wants("GET /app/s1 HTTP/1.1\r\nHost: h\r\nExclusive:acquire\r\n\r\n", http.StatusOK)
	if b, err := io.ReadAll(got.Body); err != nil || string(b) != "hel\x00o" {
		t.Errorf("%q, %v: not what was put", b, err)
	}
	first.wants("GET /app/s1 HTTP/1.1\r\nHost: h\r\nExclusive:acquire\r\n\r\n", http.StatusLocked)
	if status, said := ask(t, one.admin(), "/readyz"); status != http.StatusOK {
		t.Errorf("%d %s", status, said)
	}
	one.stop()
	two.stop()
	again := start(t, "serve", "--listen", "127.0.0.1:0", "--store", spec)
	dial(t, again.ready(ready)).wants("GET /app/s1 HTTP/1.1\r\nHost: h\r\nExclusive:acquire\r\n\r\n", http.StatusLocked)
	again.stop()
}

func TestServeStoreMistakes(t *testing.T) {
	for _, tc := range []struct{ args, want string }{
		{"--store off:", "cannot be served"},
		{"--store nonsense", "this names no mode"},
		{"--store inproc: --memory", "--memory and --store do not go together"},
		{"--store inproc: --data /tmp/x", "--store and --data do not go together"},
		{"--store inproc: --takeover", "start another server beside this one"},
	} {
		p := start(t, append([]string{"serve", "--listen", "127.0.0.1:0"}, strings.Fields(tc.args)...)...)
		if p.wait() == 0 {
			t.Errorf("%s: it serves", tc.args)
		}
		wants(t, p.stderr.String(), tc.want)
	}
	down := start(t, "serve", "--listen", "127.0.0.1:0", "--store", "postgres://u:s3cret@127.0.0.1:1/db")
	if down.wait() == 0 || strings.Contains(down.stderr.String(), "s3cret") {
		t.Errorf("%s", down.stderr)
	}
	wants(t, down.stderr.String(), "connection refused")
	p := start(t, "serve", "--check", "--store", "postgres://u:s3cret@h/db")
	if p.wait() != 0 || strings.Contains(p.stdout.String(), "s3cret") {
		t.Errorf("%s", p.stdout)
	}
	wants(t, p.stdout.String(), "store: postgres://…@h/db")
}

// SQLite's errors do not name the file, and what only looks makes none.
func TestSQLNamesTheFile(t *testing.T) {
	dir := t.TempDir()
	typo, text := filepath.Join(dir, "typo.db"), filepath.Join(dir, "text.db")
	for _, command := range []string{"status", "sweep", "remove"} {
		wants(t, sqlSays(t, 1, command, "--store", "sqlite:"+typo), "there is no file "+typo)
	}
	if _, err := os.Stat(typo); err == nil {
		t.Error("the file has been made")
	}
	nowhere := filepath.Join(dir, "nowhere", "x.db")
	wants(t, sqlSays(t, 1, "install", "--store", "sqlite:"+nowhere), nowhere+": ")
	if err := os.WriteFile(text, []byte(strings.Repeat("no database at all\n", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	wants(t, sqlSays(t, 1, "status", "--store", "sqlite:"+text), text+": ")
	p := start(t, "serve", "--listen", "127.0.0.1:0", "--store", "sqlite:"+text)
	p.wait()
	wants(t, p.stderr.String(), text+": ")

	wants(t, sqlSays(t, 1, "export"), "or without a database --dialect postgresql")
}
