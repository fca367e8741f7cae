package sqlstore

import (
	"cmp"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
)

// A Dialect names the SQL that a database understands.
type Dialect string

// The dialects.
const (
	PostgreSQL Dialect = "PostgreSQL"
	MySQL      Dialect = "MySQL" // and MariaDB
	SQLite     Dialect = "SQLite"
	SQLServer  Dialect = "SQLServer"
	Oracle     Dialect = "Oracle"
)

// A dialect renders what databases write differently. Everything else is in
// statements.go, in the SQL that all of them have: integers and bytes, CASE, COALESCE,
// EXISTS. Those that need nothing special embed [common].
type dialect interface {
	// quote renders an identifier, whatever is in it.
	quote(name string) string
	// param renders the n-th parameter, from 1.
	param(n int) string
	// reuses reports whether one parameter may stand in several places.
	reuses() bool
	// now is the time of the database's clock, the same throughout a statement, in
	// microseconds since 1970.
	now() string
	greatest(a, b string) string
	least(a, b string) string
	// odd is a condition: the integer x is odd.
	odd(x string) string
	// size is the number of bytes of a column of typeBody.
	size(column string) string
	// wake is an expression that tells the listeners of a channel that the lock of
	// the row at hand was given up, if the row is marked as waited for; empty where
	// there is no such thing.
	wake(channel string) string

	// relaxed renders an expression that has the value of x, which may be empty, among the
	// columns that an UPDATE returns: one that lets the statement be durable a moment after
	// its reply. It is for locks, their releases and timeouts, which a crash of the database
	// may undo: a lock that comes back by that is stale after a while. durable is the
	// opposite, however the database is set. Both are x where there is no such thing.
	relaxed(x string) string
	durable(x string) string

	// update renders an UPDATE. Where the dialect can, it returns columns of each row
	// as it is then; columns may be empty.
	update(table, set, where, columns string) string
	// returns reports whether update returns columns.
	returns() bool
	// insert renders an INSERT of one row. If a row with its key is there, it changes
	// nothing, or fails with an error that judge calls a duplicate.
	insert(table, columns, values string) string
	// first renders a SELECT of the first n rows of where, behind those of an offset.
	// Both may be parameters; the offset may be empty.
	first(n, offset, columns, table, where, order string) string
	// updateFirst renders an UPDATE of the first n rows of where; of those rows only the
	// ones for which that condition is true, if it is not empty. It may return columns,
	// as update does. deleteFirst renders a DELETE of n rows. Both pass by the rows that
	// others have locked, where the dialect can. Of rows that all are changed so in the end,
	// it does not matter which are the first.
	updateFirst(n, table, set, where, order, only, columns string) string
	deleteFirst(n, table, where, order string) string

	// gathers reports whether statements for several sessions at once are worth it (see
	// several). In these, typed renders a parameter where nothing else tells its type, and
	// once an expression that is the same for all rows, so that it is not evaluated for
	// each.
	gathers() bool
	typed(param string, t columnType) string
	once(x string) string

	// create renders the statements that create a table with its indexes. They leave
	// alone what is there already, or fail with an error that judge calls present.
	create(t table) []string
	// drop renders the statement that drops a table with its indexes.
	drop(table string) string
	// typeOf renders the type of a column.
	typeOf(c columnType) string

	// judge says what an error of the server means.
	judge(e serverError) verdict
	// prepares reports whether statements are prepared once and kept. It is false
	// where the driver does that by itself, or needs no second round trip.
	prepares() bool
	// most is the query for how large a content the server takes at once, if it does not
	// itself say so of one that is too large; else empty.
	most() string
	// oneWriter reports whether the database has one writer at a time, so that those
	// of one process better take turns.
	oneWriter() bool
}

// A columnType is what a column holds.
type columnType int

const (
	typeKey   columnType = iota // exactly 32 bytes
	typeBytes                   // up to maxName bytes, or NULL
	typeInt                     // 64 bits, not NULL
	typeMaybe                   // 64 bits, or NULL
	typeBody                    // bytes of any number, or NULL
)

// maxName is how long application names, session IDs, subjects and places that sessions
// moved to may be, in bytes.
const maxName = 1024

// A column of a table of ours. The names are words that no dialect reserves.
type column struct {
	name string
	typ  columnType
	// as is the type in SQL, if it is not the dialect's for typ.
	as string
	// initial is the value of rows that do not say; only for columns that a later
	// version added.
	initial string
}

// A table of ours, with its indexes. The first column is the primary key, or the first
// keys of them.
type table struct {
	name    string // quoted, with the schema
	columns []column
	keys    int
	indexes []index
}

// An index of a table.
type index struct {
	name    string // quoted
	columns string
	where   string // the only rows that need to be in it, where the dialect has such indexes
}

func (t table) key() string {
	names := make([]string, t.keys)
	for i := range names {
		names[i] = t.columns[i].name
	}
	return strings.Join(names, ", ")
}

// definitions renders the columns of a table and its primary key.
func (t table) definitions(d dialect) []string {
	var lines []string
	for _, c := range t.columns {
		lines = append(lines, define(d, c))
	}
	return append(lines, "PRIMARY KEY ("+t.key()+")")
}

func define(d dialect, c column) string {
	line := c.name + " " + cmp.Or(c.as, d.typeOf(c.typ))
	if c.initial != "" {
		line += " DEFAULT " + c.initial
	}
	if c.typ == typeKey || c.typ == typeInt {
		line += " NOT NULL"
	}
	return line
}

// common is what most dialects have in common.
type common struct{}

func (common) quote(name string) string    { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }
func (common) reuses() bool                { return false }
func (common) param(int) string            { return "?" }
func (common) greatest(a, b string) string { return "GREATEST(" + a + ", " + b + ")" }
func (common) least(a, b string) string    { return "LEAST(" + a + ", " + b + ")" }
func (common) odd(x string) string         { return x + " % 2 = 1" }
func (common) size(column string) string   { return "LENGTH(" + column + ")" }
func (common) wake(string) string          { return "" }
func (common) relaxed(x string) string     { return x }
func (common) durable(x string) string     { return x }
func (common) returns() bool               { return false }
func (common) prepares() bool              { return true }
func (common) most() string                { return "" }
func (common) oneWriter() bool             { return false }
func (common) gathers() bool               { return false }

func (common) typed(param string, _ columnType) string { return param }

func (common) once(x string) string { return x }

func (common) update(table, set, where, _ string) string {
	return "UPDATE " + table + " SET " + set + " WHERE " + where
}

func (common) insert(table, columns, values string) string {
	return "INSERT INTO " + table + " (" + columns + ") VALUES (" + values + ")"
}

func (common) first(n, offset, columns, table, where, order string) string {
	query := "SELECT " + columns + " FROM " + table + " WHERE " + where + " ORDER BY " + order + " LIMIT " + n
	if offset != "" {
		query += " OFFSET " + offset
	}
	return query
}

func (common) updateFirst(n, table, set, where, order, only, columns string) string {
	return updateWhereFirst(table, set, "SELECT id FROM "+table+" WHERE "+where+" ORDER BY "+order+" LIMIT "+n, only, columns)
}

func (common) deleteFirst(n, table, where, order string) string {
	return "DELETE FROM " + table + " WHERE id IN (SELECT id FROM " + table + " WHERE " + where + " ORDER BY " + order + " LIMIT " + n + ")"
}

func addColumn(d dialect, table string, c column) string {
	return "ALTER TABLE " + table + " ADD " + define(d, c)
}

func (common) drop(table string) string { return "DROP TABLE " + table }

// createIfMissing renders what PostgreSQL and SQLite share.
func createIfMissing(d dialect, t table, suffix string) []string {
	all := []string{"CREATE TABLE IF NOT EXISTS " + t.name + " (\n\t" + strings.Join(t.definitions(d), ",\n\t") + "\n)" + suffix}
	for _, i := range t.indexes {
		query := "CREATE INDEX IF NOT EXISTS " + i.name + " ON " + t.name + " (" + i.columns + ")"
		if i.where != "" {
			query += " WHERE " + i.where
		}
		all = append(all, query)
	}
	return all
}

// dialects are all there are.
func dialectOf(name Dialect) (dialect, bool) {
	switch name {
	case PostgreSQL:
		return postgres{}, true
	case MySQL:
		return mysql{}, true
	case SQLite:
		return sqlite{}, true
	case SQLServer:
		return sqlServer{}, true
	case Oracle:
		return oracle{}, true
	}
	return nil, false
}

// drivers are the packages of drivers, by a part of their path.
var drivers = []struct {
	path    string
	dialect Dialect
}{
	{"/pgx/", PostgreSQL},
	{"go-sql-driver/mysql", MySQL},
	{"sqlite", SQLite},
	{"mssqldb", SQLServer},
	{"go-ora", Oracle}, {"godror", Oracle},
}

// detect finds the dialect of a database by its driver.
func detect(driver reflect.Type) (Dialect, error) {
	path := driverPath(driver)
	for _, d := range drivers {
		if strings.Contains(path, d.path) {
			return d.dialect, nil
		}
	}
	return "", fmt.Errorf("sqlstore: the driver %v is not known; set Options.Dialect to %s, %s, %s, %s or %s",
		driver, PostgreSQL, MySQL, SQLite, SQLServer, Oracle)
}

// checkDriver refuses a driver that cannot be used, whatever Options.Dialect is.
func checkDriver(driver reflect.Type) error {
	if strings.Contains(driverPath(driver), "lib/pq/") {
		return errors.New("sqlstore: the driver is lib/pq, which says of a change whose reply was lost that it was not sent, so that it is made twice; " +
			"use pgx: import github.com/jackc/pgx/v5/stdlib, and sql.Open(\"pgx\", …)")
	}
	return nil
}

// driverPath is the path of the package of a driver, with a slash behind it.
func driverPath(driver reflect.Type) string {
	if driver.Kind() == reflect.Pointer {
		driver = driver.Elem()
	}
	return driver.PkgPath() + "/"
}

// numbered renders a parameter as a prefix and its number.
func numbered(prefix string, n int) string { return prefix + strconv.Itoa(n) }

// updateWhereFirst renders an UPDATE of the rows that a SELECT of their ids returns.
func updateWhereFirst(table, set, first, only, columns string) string {
	query := "UPDATE " + table + " SET " + set + " WHERE id IN (" + first + ")"
	if only != "" {
		query += " AND " + only
	}
	return returning(query, columns)
}
