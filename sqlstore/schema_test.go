package sqlstore

import (
	"context"
	"database/sql"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-session/holdfast/store"
)

// New says what to do about tables that are not there, and only AutoInstall makes them.
func TestMissingTables(t *testing.T) {
	everyDatabase(t, func(t *testing.T, d *database) {
		o := &Options{Table: "absent"}
		for range 2 {
			_, err := New(d.db, o)
			if err == nil || !strings.Contains(err.Error(), "holdfast sql install --table absent") {
				t.Fatalf("New: %v; want the command that installs", err)
			}
		}
		status, err := Status(t.Context(), d.db, o)
		if err != nil || status.Version != 0 {
			t.Fatalf("Status: %+v, %v; want version 0", status, err)
		}
		if err := Remove(t.Context(), d.db, o); err != nil {
			t.Fatalf("Remove of nothing: %v", err)
		}
		if err := Install(t.Context(), d.db, o); err != nil {
			t.Fatal(err)
		}
		s, err := New(d.db, o)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if err := Remove(t.Context(), d.db, o); err != nil {
			t.Fatal(err)
		}
		if _, err := New(d.db, o); err == nil {
			t.Fatal("New after Remove: no error")
		}
	})
}

// The command that is named has the names of the tables, as a shell wants them.
func TestCommandForNames(t *testing.T) {
	db, err := sql.Open("sqlite", filepath.Join(t.TempDir(), "test.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	_, err = New(db, &Options{Table: "anna's sessions", Schema: "main"})
	if want := `holdfast sql install --table 'anna'\''s sessions' --schema main --store`; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("New: %v; want it to name %s", err, want)
	}
}

// A Remove that was interrupted between its two tables can be done again, and so can
// Install: nothing else takes what is left for tables with sessions.
func TestRemoveInterrupted(t *testing.T) {
	everyDatabase(t, func(t *testing.T, d *database) {
		o := &Options{Table: "half"}
		ctx := t.Context()
		for _, mend := range []func() error{
			func() error { return Remove(ctx, d.db, o) },
			func() error { return nil },
		} {
			if err := Install(ctx, d.db, o); err != nil {
				t.Fatal(err)
			}
			d.exec(t, "DROP TABLE half") // what Remove does first
			if status, err := Status(ctx, d.db, o); err != nil || status.Version != 0 {
				t.Errorf("Status: %+v, %v; want that there are no tables", status, err)
			}
			if _, err := New(d.db, o); err == nil || !strings.Contains(err.Error(), "holdfast sql install") {
				t.Errorf("New: %v; want the command that installs", err)
			}
			if err := mend(); err != nil {
				t.Fatal(err)
			}
		}
		s := d.open(t, *o)
		if err := s.Create(ctx, store.ID{App: "a", Session: "s"}, &store.Record{Version: 1, Timeout: time.Minute}, false); err != nil {
			t.Fatal(err)
		}
		if err := Remove(ctx, d.db, o); err != nil {
			t.Fatal(err)
		}
		d.exec(t, "CREATE TABLE half_meta (n BIGINT)") // the name is free
	})
}

// Several processes install at once, and none of them fails.
func TestInstallAtOnce(t *testing.T) {
	everyDatabase(t, func(t *testing.T, d *database) {
		o := &Options{Table: "at once"}
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				if err := Install(t.Context(), d.db, o); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if status, err := Status(t.Context(), d.db, o); err != nil || status.Version != schemaVersion {
			t.Fatalf("Status: %+v, %v", status, err)
		}
	})
}

// A table of somebody else's is left alone, whatever is asked for.
func TestForeignTable(t *testing.T) {
	everyDatabase(t, func(t *testing.T, d *database) {
		d.exec(t, "CREATE TABLE orders (id BIGINT NOT NULL, state BIGINT)")
		d.exec(t, "INSERT INTO orders (id, state) VALUES (7, 0)")
		o := &Options{Table: "orders", AutoInstall: true}
		_, err := New(d.db, o)
		_, statusErr := Status(t.Context(), d.db, o)
		_, sweepErr := Sweep(t.Context(), d.db, o)
		for what, err := range map[string]error{
			"New": err, "Status": statusErr, "Sweep": sweepErr,
			"Install": Install(t.Context(), d.db, o), "Remove": Remove(t.Context(), d.db, o),
		} {
			if err == nil || !strings.Contains(err.Error(), "not ours") {
				t.Errorf("%s: %v; want an error that says that the table is not ours", what, err)
			}
		}
		var n int
		if d.scan(t, "SELECT COUNT(*) FROM orders", &n); n != 1 {
			t.Errorf("the table has %d rows; want the one that it had", n)
		}
	})
}

// An older version of the schema, as it was installed then, becomes the current one, and
// its sessions are there.
func TestUpgrade(t *testing.T) {
	everyDatabase(t, func(t *testing.T, d *database) {
		script, err := os.ReadFile(filepath.Join("testdata", "v1", string(d.dialect)+".sql"))
		if err != nil {
			t.Fatal(err)
		}
		for query := range strings.SplitSeq(string(script), ";\n") {
			if query = strings.TrimSpace(query); query != "" {
				d.exec(t, query)
			}
		}
		_, err = New(d.db, nil)
		if err == nil || !strings.Contains(err.Error(), "holdfast sql install") {
			t.Fatalf("New on version 1: %v; want the command that upgrades", err)
		}
		a, err := newAdmin(d.db, nil)
		if err != nil {
			t.Fatal(err)
		}
		id := store.ID{App: "/shop", Session: "s"}
		k, app := keyOf(id)
		insert := compile(a.d, a.names, "INSERT INTO "+inTable+" (id, app, app_hash, session_id, state, due, created, expires, timeout, slide, "+
			"version, version1, version2, version3, acquired, lock_cookie, lock_owner, lock_date, lock_timeout, flags, ended_at, reason, packing, items) "+
			"VALUES (:id, :app, :app_hash, :session, 0, 1, 1, "+inNow+" + 1000000000, 1000, 1000000000, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, :items)")
		d.exec(t, insert.text, insert.values(&args{pID: k[:], pApp: []byte(id.App), pAppHash: app, pSession: []byte(id.Session), pItems: []byte("old")})...)
		status := func(version int64) {
			t.Helper()
			if got, err := Status(t.Context(), d.db, nil); err != nil || got.Version != version || got.Sessions != 1 {
				t.Errorf("Status of version %d with one session: %+v, %v", version, got, err)
			}
		}
		status(1)

		for range 2 {
			if err := Install(t.Context(), d.db, nil); err != nil {
				t.Fatal(err)
			}
		}
		s, err := New(d.db, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		rec := new(store.Record)
		if err := s.Lock(t.Context(), id, store.LockOptions{Owner: 1}, rec); err != nil || string(rec.Body) != "old" || rec.Version != 7 {
			t.Fatalf("Lock of a session of before: %+v, %v", rec, err)
		}

		d.exec(t, fmt.Sprintf("UPDATE %s SET value = 99 WHERE kind = 0", a.names.meta))
		for what, err := range map[string]error{"Install": Install(t.Context(), d.db, nil), "New": func() error { _, err := New(d.db, nil); return err }()} {
			if err == nil || !strings.Contains(err.Error(), "version 99") {
				t.Errorf("%s on a version that is not known yet: %v", what, err)
			}
		}
		status(99)
	})
}

// The script makes what Install makes.
func TestScript(t *testing.T) {
	everyDatabase(t, func(t *testing.T, d *database) {
		o := &Options{Dialect: d.dialect, Table: "by script"}
		script, err := Script(o)
		if err != nil {
			t.Fatal(err)
		}
		for query := range strings.SplitSeq(script, ";\n") {
			if query = strings.TrimSpace(query); query != "" {
				d.exec(t, query)
			}
		}
		s := d.open(t, Options{Table: o.Table, Dialect: d.dialect})
		if err := s.Create(t.Context(), store.ID{App: "a", Session: "s"}, &store.Record{Version: 1, Timeout: time.Minute}, false); err != nil {
			t.Fatal(err)
		}
	})
	// What sqlcmd and SQL*Plus do not do by themselves, as drivers do.
	for dialect, want := range map[Dialect]func(script string) bool{
		SQLServer: func(script string) bool { return strings.HasPrefix(script, "SET QUOTED_IDENTIFIER ON;\n") },
		Oracle:    func(script string) bool { return strings.HasSuffix(script, "\nCOMMIT;\n") },
	} {
		if script, err := Script(&Options{Dialect: dialect}); err != nil || !want(script) {
			t.Errorf("%s: %v:\n%s", dialect, err, script)
		}
	}
	if _, err := Script(nil); err == nil {
		t.Error("Script without a dialect: no error")
	}
}

// A type of the programmer's for the content.
func TestItemsType(t *testing.T) {
	everyDatabase(t, func(t *testing.T, d *database) {
		typ := map[Dialect]string{PostgreSQL: "bytea COMPRESSION pglz", MySQL: "MEDIUMBLOB", SQLite: "BLOB"}[d.dialect]
		s := d.open(t, Options{ItemsType: typ})
		id := store.ID{App: "a", Session: "s"}
		rec := &store.Record{Version: 1, Timeout: time.Minute, Body: make([]byte, 100_000)}
		if err := s.Create(t.Context(), id, rec, false); err != nil {
			t.Fatal(err)
		}
		got := new(store.Record)
		if err := s.Load(t.Context(), id, got); err != nil || len(got.Body) != len(rec.Body) {
			t.Fatalf("Load: %d bytes, %v", len(got.Body), err)
		}
		if script, err := Script(&Options{Dialect: d.dialect, ItemsType: typ}); err != nil || !strings.Contains(script, "items "+typ) {
			t.Errorf("Script: %v; want the type in\n%s", err, script)
		}
	})
}

func TestStatus(t *testing.T) {
	everyDatabase(t, func(t *testing.T, d *database) {
		s := d.open(t, Options{Ends: 10})
		o := &Options{Table: s.o.Table}
		if got, err := Status(t.Context(), d.db, o); err != nil || got.Sessions != 0 || got.Version != schemaVersion {
			t.Fatalf("Status of an empty table: %+v, %v", got, err)
		}
		for i, timeout := range []time.Duration{time.Hour, time.Hour, time.Hour, -time.Hour} {
			rec := &store.Record{Version: 1, Timeout: timeout, Body: []byte("12345")}
			rec.Lock.Owner = 1
			if err := s.Create(t.Context(), store.ID{App: "a", Session: fmt.Sprint(i)}, rec, i == 1); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Remove(t.Context(), store.ID{App: "a", Session: "0"}, store.Lock{}, store.Reason{Kind: store.Abandoned}); err != nil {
			t.Fatal(err)
		}
		got, err := Status(t.Context(), d.db, o)
		if err != nil {
			t.Fatal(err)
		}
		if got.OldestLock < 0 || got.OldestLock > time.Minute {
			t.Errorf("OldestLock is %v", got.OldestLock)
		}
		got.OldestLock = 0
		want := TableStatus{Dialect: d.dialect, Version: schemaVersion, Current: schemaVersion, Sessions: 3, Expired: 1, Locked: 1, Bytes: 15, Ended: 1, PendingEnds: 1}
		if *got != want {
			t.Errorf("Status: %+v; want %+v", *got, want)
		}
	})
}

func TestOptions(t *testing.T) {
	db, err := sql.Open("sqlite", ":memory:")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for name, o := range map[string]Options{
		"Dialect":  {Dialect: "DB2"},
		"NUL":      {Table: "a\x00b"},
		"Long":     {Table: strings.Repeat("t", 41)},
		"Key":      {Keys: [][]byte{make([]byte, 16)}},
		"MaxBytes": {MaxBytes: -1},
		"Notifier": {Notifier: new(silent), AutoInstall: true},
	} {
		if _, err := New(db, &o); err == nil || !strings.HasPrefix(err.Error(), "sqlstore: ") {
			t.Errorf("%s: New: %v; want an error of this package", name, err)
		}
	}
}

// A silent Notifier never tells.
type silent struct{}

func (silent) Listen(context.Context, string, func(string)) (io.Closer, error) { return silent{}, nil }
func (silent) Close() error                                                    { return nil }
