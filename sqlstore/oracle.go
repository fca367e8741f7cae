package sqlstore

import "strings"

// oracle is the dialect of Oracle Database, from version 12.1 on.
type oracle struct{ common }

func (oracle) param(n int) string        { return numbered(":", n) }
func (oracle) odd(x string) string       { return "MOD(" + x + ", 2) = 1" }
func (oracle) size(column string) string { return "DBMS_LOB.GETLENGTH(" + column + ")" }

// now adds up what an interval consists of. All that a statement reads of the clock is
// one time.
func (oracle) now() string {
	const since = "(SYS_EXTRACT_UTC(SYSTIMESTAMP) - TIMESTAMP '1970-01-01 00:00:00')"
	return "(EXTRACT(DAY FROM " + since + ") * 86400000000 + EXTRACT(HOUR FROM " + since + ") * 3600000000 + EXTRACT(MINUTE FROM " + since +
		") * 60000000 + ROUND(EXTRACT(SECOND FROM " + since + ") * 1000000))"
}

func (oracle) first(n, offset, columns, table, where, order string) string {
	query := "SELECT " + columns + " FROM " + table + " WHERE " + where + " ORDER BY " + order
	if offset != "" {
		query += " OFFSET " + offset + " ROWS"
	}
	return query + " FETCH NEXT " + n + " ROWS ONLY"
}

func (o oracle) updateFirst(n, table, set, where, order, only, _ string) string {
	return updateWhereFirst(table, set, o.first(n, "", "id", table, where, order), only, "")
}

func (o oracle) deleteFirst(n, table, where, order string) string {
	return "DELETE FROM " + table + " WHERE id IN (" + o.first(n, "", "id", table, where, order) + ")"
}

func (oracle) typeOf(c columnType) string {
	switch c {
	case typeKey:
		return "RAW(32)"
	case typeBytes:
		return "RAW(1024)"
	case typeBody:
		return "BLOB"
	}
	return "NUMBER(19)"
}

func (o oracle) create(t table) []string {
	all := []string{"CREATE TABLE " + t.name + " (\n\t" + strings.Join(t.definitions(o), ",\n\t") + "\n)"}
	for _, i := range t.indexes {
		all = append(all, "CREATE INDEX "+i.name+" ON "+t.name+" ("+i.columns+")")
	}
	return all
}

func (oracle) judge(e serverError) verdict {
	switch e.number {
	case 60, 8177, 54, 30006: // deadlock, cannot serialize, busy
		return conflict
	case 1:
		return duplicate
	case 942:
		return absent
	case 955, 1430:
		return present
	case 12899:
		return tooLarge
	case 28, 1012, 1033, 1034, 1089, 1092, 3113, 3114, 3135: // killed, shut down, the connection is gone
		return lost
	}
	return failed
}
