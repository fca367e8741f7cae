package mode

import (
	"context"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/holdfast-session/holdfast/internal/servers"
	"github.com/holdfast-session/holdfast/sqlstore"
	"github.com/holdfast-session/holdfast/store"
)

func TestMain(m *testing.M) { servers.Main(m) }

// wantStore opens a spec twice, as two processes do, and has the one read what the other
// wrote.
func wantStore(t *testing.T, spec string) {
	t.Helper()
	ctx := context.Background()
	id := store.ID{App: "/shop", Session: "session"}
	var opened []Store
	for range 2 {
		s, err := Open(spec)
		if err != nil {
			t.Fatalf("Open(%q): %v", spec, err)
		}
		defer s.Close()
		opened = append(opened, s)
	}
	rec := store.Record{Version: store.NewVersion(), Timeout: time.Hour, Body: []byte("content")}
	if err := opened[0].Create(ctx, id, &rec, false); err != nil {
		t.Fatal(err)
	}
	var got store.Record
	if err := opened[1].Load(ctx, id, &got); err != nil || string(got.Body) != "content" {
		t.Errorf("%q, %v; want what the other store wrote", got.Body, err)
	}
	if err := opened[1].Remove(ctx, id, store.Lock{}, store.Reason{Kind: store.Abandoned}); err != nil {
		t.Error(err)
	}
	if _, ok := opened[0].(store.Ender); !ok {
		t.Errorf("%T delivers no ends", opened[0])
	}
	if _, ok := opened[0].(store.Lister); !ok {
		t.Errorf("%T lists no sessions", opened[0])
	}
	for _, s := range opened {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestSQLite(t *testing.T) {
	dir := t.TempDir()
	keys := filepath.Join(dir, "keys")
	text := "# the new one\n" + strings.Repeat("0f", 32) + "\n\n" + strings.Repeat("a1", 32) + "\n"
	if err := os.WriteFile(keys, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	file := "sqlite:" + filepath.Join(dir, "se ssions.db")
	if _, err := Open(file); err == nil || !strings.Contains(err.Error(), "holdfast sql install") {
		t.Errorf("without tables: %v; want the command that makes them", err)
	}
	wantStore(t, file+"?install=1&compress=1&max-size=1MiB&table=my%20sessions&conns=4&ends=100&sync=normal&key-file="+url.QueryEscape(keys))
	wantStore(t, file+"?install=1")
}

func TestPostgres(t *testing.T) {
	dsn := servers.StartPostgres(t, nil).Database(t)
	rest, ok := strings.CutPrefix(dsn, "postgres://")
	if !ok {
		t.Fatalf("%s is no URL", dsn)
	}
	sep := "?"
	if strings.Contains(rest, "?") {
		sep = "&"
	}
	wantStore(t, "postgres://"+rest+sep+"install=1&application_name=shop")
	wantStore(t, "postgresql://"+rest+sep+"install=1&notify=0&conns=1&table=t2")
}

// After a failover that ended no connection, the old ones are to a server that takes no
// changes any more: each of them is given up when it says so.
func TestReadOnlyServers(t *testing.T) {
	pg := servers.StartPostgres(t, nil).Database(t)
	for spec, readOnly := range map[string]string{
		pg + "&notify=0": "SET default_transaction_read_only = on",
		mysqlSpec(t):     "SET SESSION TRANSACTION READ ONLY",
	} {
		d, err := OpenDatabase(spec + "&conns=1")
		if err != nil {
			t.Fatal(err)
		}
		defer d.DB.Close()
		for _, query := range []string{"CREATE TABLE t (n INT)", readOnly} {
			if _, err := d.DB.ExecContext(t.Context(), query); err != nil {
				t.Fatal(err)
			}
		}
		if _, err = d.DB.ExecContext(t.Context(), "INSERT INTO t VALUES (1)"); err != nil { // go-sql-driver has tried again
			t.Log(err)
			_, err = d.DB.ExecContext(t.Context(), "INSERT INTO t VALUES (1)")
		}
		if err != nil {
			t.Errorf("%s: %v; want another connection", d.Options.Dialect, err)
		}
	}
}

func TestMySQL(t *testing.T) { wantStore(t, mysqlSpec(t)+"&install=1") }

// mysqlSpec starts a server and returns the spec of a database in it.
func mysqlSpec(t *testing.T) string {
	t.Helper()
	c, err := mysql.ParseDSN(servers.StartMariaDB(t, nil).Database(t))
	if err != nil {
		t.Fatal(err)
	}
	u := url.URL{Scheme: "mysql", User: url.UserPassword(c.User, c.Passwd), Path: "/" + c.DBName}
	q := url.Values{"timeout": {"5s"}}
	if c.Net == "unix" {
		q.Set("socket", c.Addr)
	} else {
		u.Host = c.Addr
	}
	u.RawQuery = q.Encode()
	return u.String()
}

func TestRedis(t *testing.T) {
	r := servers.StartRedis(t, nil)
	for _, spec := range []string{r.URL() + "?prefix=shop:&ends=10&near-cache=1MiB&timeout=2s", "valkey" + strings.TrimPrefix(r.URL(), "redis") + "?staleness=1s"} {
		wantStore(t, spec)
	}
}

func TestOpenDatabase(t *testing.T) {
	d, err := OpenDatabase("sqlserver://sa:s3cret@h?database=ASPState&aspstate=1&compress=1")
	if err != nil {
		t.Fatal(err)
	}
	if !d.ASPState || !d.Options.Compress {
		t.Errorf("%+v", d)
	}
	d.DB.Close()
	d, err = OpenDatabase("oracle://u:s3cret@h:1521/service?table=T&schema=S")
	if err != nil {
		t.Fatal(err)
	}
	if d.Options.Table != "T" || d.Options.Schema != "S" {
		t.Errorf("%+v", d.Options)
	}
	script, err := sqlstore.Script(&sqlstore.Options{Dialect: sqlstore.Oracle, Table: d.Options.Table})
	if err != nil || !strings.Contains(script, `"T"`) {
		t.Errorf("%s, %v", script, err)
	}
	d.DB.Close()
	for spec, want := range map[string]string{
		"inproc:":      "inproc: is no database; write postgres://",
		"postgress://": "did you mean postgres://",
		"":             "nothing says where",
	} {
		if _, err := OpenDatabase(spec); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v; want %q", spec, err, want)
		}
	}
}

// TestDatabaseMistakes has mistakes answered before any server is asked.
func TestDatabaseMistakes(t *testing.T) {
	short := filepath.Join(t.TempDir(), "keys")
	if err := os.WriteFile(short, []byte("abcd\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for spec, want := range map[string]string{
		"sqlite:":                  "names no file",
		"sqlite::memory:":          "inproc:",
		"sqlite:/x?sync=off":       "want full or normal",
		"sqlite:/x?compres=1":      "did you mean compress?",
		"sqlite:/x?key-file=/none": "no such file",
		"sqlite:/x?key-file=" + url.QueryEscape(short): "line 1 of " + short,
		"sqlite:/x?max-size=many&conns=0":              "want a size such as",
		"postgres://u:s3cret@h:port/db":                "it cannot be read; write postgres://user:password@host",
		"postgres://u:s3cret@h/db?conns=1":             "or notify=0",
		"mysql://u:s3cret@h":                           "write mysql://user:password@host:3306/database",
		"mysql://u:s3cret@h/db?tls=nonsense":           "parameters cannot be read",
		"sqlserver://u:s3cret@h?aspstate=1&table=x":    "the tables are those of ASP.NET",
		"redis://":                                       "it names no server; write redis://host:6379",
		"redis-cluster://":                               "write redis-cluster://host:6379,host:6379",
		"redis://u:s3cret@h:1?wait_replicas=1":           "did you mean wait-replicas?",
		"redis://u:s3cret@h:1?staleness=soon":            "want a duration such as",
		"redis://u:s3cret@h:1?colour=1":                  `there is no parameter "colour"`,
		"redis-sentinel://u:s3cret@h:1":                  "a master's name follows",
		"redis+unix:///none/such.sock?timeout=50ms&db=x": `"x" is no number of a database`,
	} {
		s, err := Open(spec)
		if err == nil {
			s.Close()
			t.Errorf("Open(%q) succeeded; want an error with %q", spec, want)
			continue
		}
		if got := err.Error(); !strings.HasPrefix(got, "mode: ") || !strings.Contains(got, want) || strings.Contains(got, "s3cret") {
			t.Errorf("Open(%q): %v; want %q, and no secret", spec, err, want)
		}
	}
}
