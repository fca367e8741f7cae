package sqlstore

import (
	"fmt"
	"strings"
)

// sqlServer is the dialect of SQL Server 2016 and later, Azure SQL and Babelfish, for a
// table of our own. No statement ends in a semicolon.
type sqlServer struct{ common }

func (sqlServer) param(n int) string { return numbered("@p", n) }
func (sqlServer) reuses() bool       { return true }
func (sqlServer) now() string        { return "DATEDIFF_BIG(microsecond, '19700101', SYSUTCDATETIME())" }

// The functions GREATEST and LEAST came with SQL Server 2022.
func (sqlServer) greatest(a, b string) string { return choose(a, ">", b) }
func (sqlServer) least(a, b string) string    { return choose(a, "<", b) }

func choose(a, than, b string) string {
	return "CASE WHEN " + a + " " + than + " " + b + " THEN " + a + " ELSE " + b + " END"
}

func (sqlServer) size(column string) string { return "DATALENGTH(" + column + ")" }

func (sqlServer) returns() bool { return true }

// update reads the row in a second statement of the same batch, not by OUTPUT: Babelfish
// makes that of the row as it was before another transaction changed it. A row that is
// read is one that the first statement has locked for its caller, who looks whether another
// has broken that lock since, or that is only looked at. Its condition begins with which row
// it is.
func (d sqlServer) update(table, set, where, columns string) string {
	query := d.common.update(table, set, where, "")
	if columns == "" {
		return query
	}
	row, _, _ := strings.Cut(where, " AND ")
	return query + "\nIF @@ROWCOUNT > 0 SELECT " + columns + " FROM " + table + " WHERE " + row + " AND state = 0"
}

func (sqlServer) first(n, offset, columns, table, where, order string) string {
	if offset != "" {
		return "SELECT " + columns + " FROM " + table + " WHERE " + where + " ORDER BY " + order +
			" OFFSET " + offset + " ROWS FETCH NEXT " + n + " ROWS ONLY"
	}
	return "SELECT TOP (" + n + ") " + columns + " FROM " + table + " WHERE " + where + " ORDER BY " + order
}

// updateFirst finds the last of the first rows, and then looks for them in the index again,
// rather than for their keys: Babelfish has no index for that.
func (d sqlServer) updateFirst(n, table, set, where, order, only, columns string) string {
	query := "UPDATE TOP (" + n + ") " + table + passing + " SET " + set
	if columns != "" {
		query += " OUTPUT " + inserted(columns)
	}
	query += " WHERE " + where
	if only != "" {
		firsts := d.first(n, "", order, table+passing, where, order)
		query += " AND " + order + " <= (SELECT MAX(" + order + ") FROM (" + firsts + ") AS firsts) AND " + only
	}
	return query
}

// passing makes a statement pass by the rows that others are changing. A database that
// reads snapshots, as Azure's do, has to be told to look at locks for that. Babelfish does
// not know how, and waits for them.
const passing = " WITH (READPAST, ROWLOCK, READCOMMITTEDLOCK)"

// inserted renders columns for OUTPUT, in which each has to be qualified.
func inserted(columns string) string {
	list := strings.Split(columns, ", ")
	for i, c := range list {
		if strings.Trim(c, "abcdefghijklmnopqrstuvwxyz_0123456789") == "" { // else it is an expression
			list[i] = "INSERTED." + c
		}
	}
	return strings.Join(list, ", ")
}

func (sqlServer) deleteFirst(n, table, where, _ string) string {
	return "DELETE TOP (" + n + ") FROM " + table + passing + " WHERE " + where
}

func (d sqlServer) create(t table) []string {
	all := []string{"CREATE TABLE " + t.name + " (\n\t" + strings.Join(t.definitions(d), ",\n\t") + "\n)"}
	for _, i := range t.indexes {
		query := "CREATE INDEX " + i.name + " ON " + t.name + " (" + i.columns + ")"
		if i.where != "" {
			query += " WHERE " + i.where
		}
		all = append(all, query)
	}
	return all
}

func (sqlServer) typeOf(c columnType) string {
	switch c {
	case typeKey:
		return "binary(32)"
	case typeBytes:
		return fmt.Sprintf("varbinary(%d)", maxName)
	case typeBody:
		return "varbinary(max)"
	default:
		return "bigint"
	}
}

// judge knows the numbers of sys.messages.
func (sqlServer) judge(e serverError) verdict {
	switch e.number {
	case 1205, 1222, 3960, 3961, 41301, 41302, 41305, 41325: // deadlock, lock timeout, snapshot and in-memory conflicts
		return conflict
	case 2601, 2627:
		return duplicate
	case 208, 3701, 33557097: // Babelfish says no more than that the query makes no sense
		return absent
	case 1913, 2714, 2705: // such an index, table, column
		return present
	case 596, 6005, 40197: // session killed, shutting down, moved to another machine
		return lost
	}
	return failed
}

// prepares is false because the driver sends text and parameters in one message, and
// the server keeps the plan.
func (sqlServer) prepares() bool { return false }
