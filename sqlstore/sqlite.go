package sqlstore

import "strings"

// sqlite is the dialect of SQLite, from version 3.35 on.
type sqlite struct{ common }

func (sqlite) returns() bool               { return true }
func (sqlite) oneWriter() bool             { return true }
func (sqlite) gathers() bool               { return true }
func (sqlite) greatest(a, b string) string { return "MAX(" + a + ", " + b + ")" }
func (sqlite) least(a, b string) string    { return "MIN(" + a + ", " + b + ")" }

// now is exact to the millisecond, as SQLite's clock is.
func (sqlite) now() string {
	return "CAST(ROUND((julianday('now') - 2440587.5) * 86400000) AS INTEGER) * 1000"
}

func (s sqlite) update(table, set, where, columns string) string {
	return returning(s.common.update(table, set, where, ""), columns)
}

func (sqlite) insert(table, columns, values string) string {
	return common{}.insert(table, columns, values) + " ON CONFLICT DO NOTHING"
}

func (sqlite) typeOf(c columnType) string {
	switch c {
	case typeKey, typeBytes, typeBody:
		return "BLOB"
	}
	return "INTEGER"
}

// create makes a table without a rowid beside its key. (Content of a few kilobytes is in
// pages of its own then as well.)
func (s sqlite) create(t table) []string { return createIfMissing(s, t, "") }

func (sqlite) judge(e serverError) verdict {
	switch e.number & 0xff {
	case 5, 6: // busy, locked
		return conflict
	case 18:
		return tooLarge
	case 1: // any error in a statement
		switch {
		case strings.Contains(e.text, "no such table"):
			return absent
		case strings.Contains(e.text, "already exists"), strings.Contains(e.text, "duplicate column"):
			return present
		}
	}
	return failed
}
