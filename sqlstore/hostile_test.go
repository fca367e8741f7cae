package sqlstore

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-session/holdfast/store"
)

// hostile are names as nobody should have given them.
var hostile = []string{
	"", " ", "'", `"`, "`", "]", "''", `\`, `\'`, "a'b", `a"b`, "a`b", "a]b", "a\\", "--", "/*", "*/", ";", "%", "_", "$1", "?", ":id", "@p1", "{table}", "{now}",
	"'; DROP TABLE holdfast_sessions; --", `"; DROP TABLE holdfast_sessions; --`, "' OR '1'='1", "1; SELECT pg_sleep(10)",
	"a\x00b", "\x00", "a\nb", "a\r\nb", "\t", "\xff\xfe", "\xc0\x80", "\xed\xa0\x80", "a\xe9", "é", "e\u0301", "É", "ß", "SS", "日本語", "😀", "\u202e", "\u0000é",
	"NULL", "null", "0", "0x00", "TRUE", strings.Repeat("x", maxName), strings.Repeat("'", maxName),
}

// Whatever session IDs, applications, subjects, places and contents consist of, they come
// back as they went in, and none of them is another.
func TestHostileNames(t *testing.T) {
	everyDatabase(t, func(t *testing.T, d *database) {
		s := d.open(t, Options{Ends: 1000})
		ctx := t.Context()
		ids := make(map[store.ID]bool)
		for _, name := range hostile {
			ids[store.ID{App: "/shop", Session: name}] = true
			ids[store.ID{App: name, Session: "s"}] = true
			ids[store.ID{App: name, Session: name}] = true
		}
		body := func(id store.ID) string { return fmt.Sprintf("%q in %q '\"\x00\xff", id.Session, id.App) }
		for id := range ids {
			rec := &store.Record{Version: store.NewVersion(), Timeout: time.Hour, Subject: id.Session, Body: []byte(body(id))}
			if err := s.Create(ctx, id, rec, false); err != nil {
				t.Fatalf("Create of %q: %v", id, err)
			}
		}
		for id := range ids {
			got := new(store.Record)
			if err := s.Lock(ctx, id, store.LockOptions{Owner: 1}, got); err != nil || string(got.Body) != body(id) || got.Subject != id.Session {
				t.Fatalf("Lock of %q: %q, subject %q, %v", id, got.Body, got.Subject, err)
			}
			if err := s.Save(ctx, id, got, store.NewVersion(), false); err != nil {
				t.Fatalf("Save of %q: %v", id, err)
			}
		}
		listed := make(map[store.ID]bool)
		for q := (store.Query{Limit: 20}); ; {
			page, next, err := s.List(ctx, q)
			if err != nil {
				t.Fatal(err)
			}
			for _, one := range page {
				listed[one.ID] = ids[one.ID]
			}
			if q.After = next; next == "" {
				break
			}
		}
		for id := range ids {
			if !listed[id] {
				t.Errorf("the list lacks %q", id)
			}
			if id.Session == "" {
				continue
			}
			page, _, err := s.List(ctx, store.Query{Subject: id.Session})
			if err != nil || len(page) == 0 {
				t.Errorf("List of the subject %q: %d, %v", id.Session, len(page), err)
			}
			for _, one := range page {
				if one.Record.Subject != id.Session {
					t.Errorf("List of the subject %q has one of %q", id.Session, one.Record.Subject)
				}
			}
		}
		if len(listed) != len(ids) {
			t.Errorf("the list has %d sessions; want %d", len(listed), len(ids))
		}
		for id := range ids {
			if err := s.Remove(ctx, id, store.Lock{}, store.Reason{Kind: store.Moved, To: id.Session}); err != nil {
				t.Fatalf("Remove of %q: %v", id, err)
			}
			err := s.Touch(ctx, id)
			if why := store.ReasonOf(err); why.Kind != store.Moved || why.To != id.Session {
				t.Errorf("Touch of %q: %v, to %q", id, err, why.To)
			}
		}
	})
}

// Longer names than there is room for are found not to be there, or refused; nothing is
// cut off.
func TestLongNames(t *testing.T) {
	everyDatabase(t, func(t *testing.T, d *database) {
		s := d.open(t, Options{})
		ctx, long := t.Context(), strings.Repeat("x", 1<<20)
		for _, id := range []store.ID{{App: "a", Session: long}, {App: long, Session: "s"}} {
			rec := &store.Record{Version: 1, Timeout: time.Hour}
			if err := s.Create(ctx, id, rec, false); !errors.Is(err, store.ErrTooLarge) {
				t.Errorf("Create: %v; want ErrTooLarge", err)
			}
			if err := s.Load(ctx, id, rec); !errors.Is(err, store.ErrNotFound) {
				t.Errorf("Load: %v; want ErrNotFound", err)
			}
		}
		id := store.ID{App: "a", Session: "s"}
		rec := &store.Record{Version: 1, Timeout: time.Hour}
		if err := s.Create(ctx, id, rec, false); err != nil {
			t.Fatal(err)
		}
		rec.Subject = long
		if err := s.Save(ctx, id, rec, 2, false); !errors.Is(err, store.ErrTooLarge) {
			t.Errorf("Save with a subject of a megabyte: %v; want ErrTooLarge", err)
		}
		if err := s.Remove(ctx, id, store.Lock{}, store.Reason{Kind: store.Moved, To: long}); !errors.Is(err, store.ErrTooLarge) {
			t.Errorf("Remove with a place of a megabyte: %v; want ErrTooLarge", err)
		}
	})
}

// Tables may be called anything.
func TestHostileTables(t *testing.T) {
	everyDatabase(t, func(t *testing.T, d *database) {
		ctx, id := t.Context(), store.ID{App: "a", Session: "s"}
		d.exec(t, "CREATE TABLE keep (n BIGINT NOT NULL)")
		for i, name := range []string{
			"select", "a b", "a'b", `a"b`, "a`b", "a]b", "a;b", "a--b", "a.b", "a:id", "a{now}", "a{meta}", "a$1?", "a%s", "Ünï", `x"; DROP TABLE keep; --`, "x'; DROP TABLE keep; --",
			"a\\", strings.Repeat("t", maxTable),
		} {
			o := Options{Table: name}
			s := d.open(t, o)
			body := fmt.Sprint("in table ", i)
			if err := s.Create(ctx, id, &store.Record{Version: 1, Timeout: time.Hour, Body: []byte(body)}, false); err != nil {
				t.Fatalf("Create in %q: %v", name, err)
			}
			rec := new(store.Record)
			if err := s.Lock(ctx, id, store.LockOptions{Owner: 1}, rec); err != nil || string(rec.Body) != body {
				t.Fatalf("Lock in %q: %q, %v", name, rec.Body, err)
			}
			if err := s.Save(ctx, id, rec, 2, false); err != nil {
				t.Fatalf("Save in %q: %v", name, err)
			}
			if _, err := s.sweep(ctx); err != nil {
				t.Fatalf("sweep of %q: %v", name, err)
			}
			if status, err := Status(ctx, d.db, &o); err != nil || status.Sessions != 1 {
				t.Fatalf("Status of %q: %+v, %v", name, status, err)
			}
			if err := Remove(ctx, d.db, &o); err != nil {
				t.Fatalf("Remove of %q: %v", name, err)
			}
		}
		d.exec(t, "INSERT INTO keep (n) VALUES (1)") // it is still there
	})
}

// Two applications with the same session IDs in one table never see each other's.
func TestApplicationsShareTable(t *testing.T) {
	everyDatabase(t, func(t *testing.T, d *database) {
		table := d.newTable()
		shop := d.open(t, Options{Table: table, Ends: 100})
		forum := d.openAt(t, d.connect(t), Options{Table: table, Ends: 100})
		ctx := t.Context()
		for i := range 20 {
			for app, s := range map[string]*Store{"/shop": shop, "/forum": forum} {
				id := store.ID{App: app, Session: fmt.Sprint(i)}
				if err := s.Create(ctx, id, &store.Record{Version: store.NewVersion(), Timeout: time.Hour, Subject: "anna", Body: []byte(app)}, false); err != nil {
					t.Fatal(err)
				}
			}
		}
		for i := range 10 {
			if err := shop.Remove(ctx, store.ID{App: "/shop", Session: fmt.Sprint(i)}, store.Lock{}, store.Reason{Kind: store.Abandoned}); err != nil {
				t.Fatal(err)
			}
		}
		for app, want := range map[string]int{"/shop": 10, "/forum": 20, "": 30} {
			for _, subject := range []string{"", "anna"} {
				page, _, err := forum.List(ctx, store.Query{App: app, Subject: subject})
				if err != nil || len(page) != want {
					t.Errorf("List of %q has %d sessions, %v; want %d", app, len(page), err, want)
				}
			}
		}
		for i := range 20 {
			rec := new(store.Record)
			if err := forum.Load(ctx, store.ID{App: "/forum", Session: fmt.Sprint(i)}, rec); err != nil || string(rec.Body) != "/forum" {
				t.Errorf("Load: %q, %v", rec.Body, err)
			}
		}
		if ends, err := forum.Ended(ctx, "/forum", 100, time.Minute); err != nil || len(ends) > 0 {
			t.Errorf("the forum is told %d ends of the shop's, %v", len(ends), err)
		}
	})
}
