package sqlstore

import "strings"

// postgres is the dialect of PostgreSQL, from version 10 on.
type postgres struct{ common }

func (postgres) param(n int) string { return numbered("$", n) }
func (postgres) reuses() bool       { return true }
func (postgres) returns() bool      { return true }
func (postgres) gathers() bool      { return true }

func (postgres) once(x string) string { return "(SELECT " + x + ")" }

func (p postgres) typed(param string, t columnType) string {
	return "CAST(" + param + " AS " + p.typeOf(t) + ")"
}

// prepares: pgx keeps statements by their text, and leaves that to its settings, which a
// connection pooler may need.
func (postgres) prepares() bool { return false }

// now is that of the statement, not of the clock when a row is looked at, so that it can
// be looked for in an index.
func (postgres) now() string {
	return "CAST(EXTRACT(EPOCH FROM statement_timestamp()) * 1000000 AS BIGINT)"
}

// relaxed turns synchronous_commit off for the transaction that the statement is. What a
// lock has seen is durable all the same: PostgreSQL shows a change only after its commit.
func (postgres) relaxed(x string) string { return withCommit("'off'", x) }

// durable turns synchronous_commit on where it is off.
func (postgres) durable(x string) string {
	const setting = "current_setting('synchronous_commit')"
	return withCommit("CASE "+setting+" WHEN 'off' THEN 'on' ELSE "+setting+" END", x)
}

func withCommit(setting, x string) string {
	set := "(SELECT set_config('synchronous_commit', " + setting + ", true))"
	if x == "" {
		return set
	}
	return "CASE WHEN " + set + " IS NOT NULL THEN " + x + " END"
}

func (postgres) wake(channel string) string {
	return "CASE WHEN waited <> 0 THEN pg_notify('" + channel + "', encode(id, 'hex')) END"
}

func (p postgres) update(table, set, where, columns string) string {
	return returning(p.common.update(table, set, where, ""), columns)
}

func returning(query, columns string) string {
	if columns == "" {
		return query
	}
	return query + " RETURNING " + columns
}

func (postgres) insert(table, columns, values string) string {
	return common{}.insert(table, columns, values) + " ON CONFLICT DO NOTHING"
}

func (postgres) updateFirst(n, table, set, where, order, only, columns string) string {
	query := "UPDATE " + table + " SET " + set + " WHERE id = ANY(" + firstUnlocked(n, table, where, order) + ")"
	if only != "" {
		query += " AND " + only
	}
	return returning(query, columns)
}

func (postgres) deleteFirst(n, table, where, order string) string {
	return "DELETE FROM " + table + " WHERE id = ANY(" + firstUnlocked(n, table, where, order) + ")"
}

// firstUnlocked is an array, because a set with a LIMIT could be made again for each row
// that is compared with it.
func firstUnlocked(n, table, where, order string) string {
	return "ARRAY(SELECT id FROM " + table + " WHERE " + where + " ORDER BY " + order + " LIMIT " + n + " FOR UPDATE SKIP LOCKED)"
}

func (postgres) typeOf(c columnType) string {
	switch c {
	case typeKey, typeBytes, typeBody:
		return "BYTEA"
	}
	return "BIGINT"
}

// create leaves room in each page for the next version of a row, so that a request that
// changes no index writes to no index.
func (p postgres) create(t table) []string { return createIfMissing(p, t, " WITH (fillfactor = 80)") }

func (postgres) judge(e serverError) verdict {
	switch e.state {
	case "40001", "40P01", "55P03": // serialization failure, deadlock, lock not available
		return conflict
	case "23505":
		return duplicate
	case "42P01", "3F000": // no such table, no such schema
		return absent
	case "42P07", "42710", "42701":
		return present
	case "54000", "22001":
		return tooLarge
	case "57P01", "57P02": // shut down, perhaps while a standby was waited for
		return lost
	}
	if strings.HasPrefix(e.state, "08") {
		return lost
	}
	return failed
}
