package sqlstore

import "strings"

// mysql is the dialect of MySQL, from version 8 on, and of MariaDB, from 10.6 on, with
// the storage engine InnoDB.
type mysql struct{ common }

func (mysql) quote(name string) string { return "`" + strings.ReplaceAll(name, "`", "``") + "`" }

func (mysql) gathers() bool { return true }

// now does not go through the time zone of the session, which has an hour twice a year
// that cannot be told from the next.
func (mysql) now() string { return "TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))" }

// most: a larger packet is not read to its end before the server says so and hangs up, and
// the driver then knows only that the connection is lost. 16 KiB are for the rest of the
// statement.
func (mysql) most() string { return "SELECT GREATEST(@@max_allowed_packet - 16384, 1)" }

func (m mysql) updateFirst(n, table, set, where, order, only, _ string) string {
	if only == "" {
		return m.update(table, set, where, "") + " ORDER BY " + order + " LIMIT " + n
	}
	// A table that is made by a LIMIT may be of the table that is changed.
	return "UPDATE " + table + " JOIN (SELECT id AS first_id FROM " + table + " WHERE " + where + " ORDER BY " + order + " LIMIT " + n +
		") AS firsts ON id = first_id SET " + set + " WHERE " + only
}

func (mysql) deleteFirst(n, table, where, order string) string {
	return "DELETE FROM " + table + " WHERE " + where + " ORDER BY " + order + " LIMIT " + n
}

func (mysql) typeOf(c columnType) string {
	switch c {
	case typeKey:
		return "BINARY(32)"
	case typeBytes:
		return "VARBINARY(1024)"
	case typeBody:
		return "LONGBLOB"
	}
	return "BIGINT"
}

func (m mysql) create(t table) []string {
	lines := t.definitions(m)
	for _, i := range t.indexes {
		lines = append(lines, "INDEX "+i.name+" ("+i.columns+")")
	}
	return []string{"CREATE TABLE IF NOT EXISTS " + t.name + " (\n\t" + strings.Join(lines, ",\n\t") + "\n) ENGINE=InnoDB ROW_FORMAT=DYNAMIC"}
}

func (mysql) judge(e serverError) verdict {
	switch e.number {
	case 1213, 1205, 1020, 3572: // deadlock, waited too long, changed since it was read, locked
		return conflict
	case 1062:
		return duplicate
	case 1153, 1406: // more than max_allowed_packet, too long for the column
		return tooLarge
	case 1146, 1051, 1049:
		return absent
	case 1050, 1060, 1061:
		return present
	case 1053, 1317, 1927, 3169: // shut down, interrupted, killed
		return lost
	}
	return failed
}
