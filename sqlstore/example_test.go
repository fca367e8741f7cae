package sqlstore_test

import (
	"context"
	"database/sql"
	"fmt"
	"log"
	"strings"
	"time"

	_ "modernc.org/sqlite"

	"github.com/holdfast-session/holdfast/sqlstore"
	"github.com/holdfast-session/holdfast/store"
)

func Example() {
	db, err := sql.Open("sqlite", "file:example?mode=memory&cache=shared")
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()

	// In production: holdfast sql install, once.
	s, err := sqlstore.New(db, &sqlstore.Options{AutoInstall: true})
	if err != nil {
		log.Fatal(err)
	}
	defer s.Close()

	// An application passes s to holdfast.New. This is what that does with it.
	ctx, id := context.Background(), store.ID{App: "/shop", Session: "an ID"}
	rec := &store.Record{Version: store.NewVersion(), Timeout: 20 * time.Minute, Body: []byte("three lines")}
	if err := s.Create(ctx, id, rec, false); err != nil {
		log.Fatal(err)
	}
	if err := s.Lock(ctx, id, store.LockOptions{Owner: store.NewOwner()}, rec); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s\n", rec.Body)
	rec.Body = []byte("four lines")
	if err := s.Save(ctx, id, rec, store.NewVersion(), false); err != nil {
		log.Fatal(err)
	}
	status, err := sqlstore.Status(ctx, db, nil)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(status.Sessions, "session,", status.Locked, "locked")
	// Output:
	// three lines
	// 1 session, 0 locked
}

func ExampleScript() {
	script, err := sqlstore.Script(&sqlstore.Options{Dialect: sqlstore.MySQL, Table: "sessions"})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(strings.Count(script, "CREATE TABLE"), "tables")
	// Output: 2 tables
}
