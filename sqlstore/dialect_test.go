package sqlstore

import (
	"reflect"
	"strings"
	"testing"

	mysqldriver "github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5/stdlib"
)

// A packagedType is a type of another package.
type packagedType struct {
	reflect.Type
	path string
}

func (p packagedType) PkgPath() string  { return p.path }
func (packagedType) Kind() reflect.Kind { return reflect.Struct }
func (packagedType) String() string     { return "a.Driver" }

func TestDrivers(t *testing.T) {
	for _, c := range []struct {
		driver reflect.Type
		want   Dialect
	}{
		{reflect.TypeFor[*stdlib.Driver](), PostgreSQL},
		{reflect.TypeFor[mysqldriver.MySQLDriver](), MySQL},
		{packagedType{path: "modernc.org/sqlite"}, SQLite},
		{packagedType{path: "github.com/mattn/go-sqlite3"}, SQLite},
		{packagedType{path: "github.com/microsoft/go-mssqldb"}, SQLServer},
		{packagedType{path: "github.com/sijms/go-ora/v2"}, Oracle},
		{packagedType{path: "example.com/mine"}, ""},
		{packagedType{path: "github.com/lib/pq"}, ""},
	} {
		got, err := detect(c.driver)
		if got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("detect of %v: %q, %v; want %q", c.driver, got, err, c.want)
		}
		if err := checkDriver(c.driver); c.want != "" && err != nil {
			t.Errorf("checkDriver of %v: %v", c.driver, err)
		}
	}
	// It calls a change whose reply was lost one that was not sent.
	err := checkDriver(packagedType{path: "github.com/lib/pq"})
	if err == nil || !strings.Contains(err.Error(), "github.com/jackc/pgx/v5/stdlib") {
		t.Errorf("checkDriver of lib/pq: %v; want the driver to use", err)
	}
}
