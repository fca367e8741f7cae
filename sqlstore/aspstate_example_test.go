package sqlstore_test

import (
	"database/sql"
	"log"
	"net/http"

	_ "github.com/microsoft/go-mssqldb"

	"github.com/holdfast-session/holdfast"
	"github.com/holdfast-session/holdfast/sqlstore"
)

// A Go application takes part in the sessions of an ASP.NET application, whose name in
// IIS it has for its own and whose cookie it reads.
func ExampleNewASPState() {
	db, err := sql.Open("sqlserver", "sqlserver://user:password@db.example.org?database=ASPState")
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()
	store, err := sqlstore.NewASPState(db, nil)
	if err != nil {
		log.Fatal(err)
	}
	m := holdfast.New(store, &holdfast.Options{
		App:      "/LM/W3SVC/1/ROOT",
		PlainIDs: true,
		Cookie:   holdfast.Cookie{Name: "ASP.NET_SessionId"},
	})
	log.Fatal(http.ListenAndServe("127.0.0.1:8080", m.Handler(http.DefaultServeMux)))
}
