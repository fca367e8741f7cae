package sqlstore

// The statements of an ASPState store. Each is one batch, one round trip: a change with
// the conditions under which it happens, and a look at the row, which says what it was or
// why there was none. The look is a statement of its own, and not the change's OUTPUT,
// because Babelfish makes that of the row as it was before another transaction changed
// it. Nothing can come between the two that matters: who has taken a lock is alone, and a
// look without a lock is a Load of its own. Only of a row that is deleted, and that
// somebody wants to hear of, there is nothing to look at but its OUTPUT.
//
// No statement ends in a semicolon; Babelfish needs that too.

// What the bits of the column Flags mean. ASP.NET knows the lowest, clears it at the
// first read and leaves the others as they are. Ours say what the other columns have
// no room for, and are zero in every row that needs none.
const (
	aspUninitialized = 1 << 0
	aspMoving        = 1 << 1
	aspSecondsShift  = 8 // six bits: by how many seconds the timeout is less than the column's minutes
	aspSecondsMask   = 63 << aspSecondsShift
)

// aspShortItem is how many bytes SessionItemShort holds; more are in SessionItemLong.
const aspShortItem = 7000

// aspStatements are the batches, by operation. Those that write an item come in two
// kinds, for a short one and a long one; the other column is emptied.
type aspStatements struct {
	register           string
	load, lock, touch  string
	unlock, remove     string
	removeTold, claim  string // return what they delete
	create             [2]string
	saveLocked, saveAt [2]string
	sweep              string
}

const (
	aspShort = iota
	aspLong
)

// aspTables are the names of the tables, quoted.
type aspTables struct{ sessions, applications string }

func newASPTables(schema string) aspTables {
	return aspTables{schema + ".ASPStateTempSessions", schema + ".ASPStateTempApplications"}
}

// newASPStatements renders the statements. now is the expression of the server's UTC
// time as a datetime.
func newASPStatements(t aspTables, now string) *aspStatements {
	const (
		there     = "SessionId = @id AND SessionId = @id COLLATE Latin1_General_BIN2 AND Expires > @now"
		restart   = "DATEADD(second, -((Flags & 16128) / 256), DATEADD(minute, Timeout, @now))"
		given     = "DATEADD(second, @seconds, @now)"
		removable = "\nWHERE " + there + " AND (@cookie = 0 OR Locked = 1 AND LockCookie = @cookie)"
		free      = "(Locked = 0 OR LockCookie = @mine OR @stale > 0 AND LockDate <= DATEADD(second, -@stale, @now))"
	)
	update := func(set, where, after string) string {
		return aspBatch(now, "UPDATE "+t.sessions+" SET "+set+"\nWHERE "+there+where, after, t)
	}
	s := &aspStatements{
		load:  update("Expires = "+later("Expires", restart), "", aspItemColumns),
		touch: update("Expires = "+later("Expires", restart), "", ""),
		lock: update("LockCookie = CASE WHEN Locked = 1 AND LockCookie = @mine THEN LockCookie ELSE LockCookie + 1 END, "+
			"Locked = 1, LockDate = @now, LockDateLocal = GETDATE(), "+
			"Expires = "+later("Expires", later(restart, "DATEADD(second, @stale, @now)")),
			" AND "+free, aspItemColumns),
		unlock:     update("Locked = 0, Expires = "+restart, " AND Locked = 1 AND LockCookie = @cookie", ""),
		remove:     aspBatch(now, "DELETE FROM "+t.sessions+removable, "", t),
		removeTold: aspBatch(now, "DELETE FROM "+t.sessions+"\nOUTPUT "+aspDeleted+removable, aspDeleted, t),
		claim: "SET NOCOUNT ON\nDECLARE @now datetime = " + now + "\nDELETE TOP (@limit) FROM " + t.sessions + passing +
			"\nOUTPUT " + aspDeleted + ", DELETED.SessionId\nWHERE Expires <= @now AND RIGHT(SessionId, 8) = @app",
	}
	// @created has 32 bits, in milliseconds, which no two servers round alike.
	created := "(" + millis("Created") + " - @created + 5) % 4294967296 BETWEEN 0 AND 10"
	const (
		item   = "CONVERT(varbinary(max), SUBSTRING(@item, 1, @size))"
		traits = "Timeout = @minutes, Flags = @flags, Locked = @hold, " +
			"LockDate = CASE WHEN @hold = 1 THEN @now ELSE LockDate END, " +
			"LockDateLocal = CASE WHEN @hold = 1 THEN GETDATE() ELSE LockDateLocal END, "
	)
	for kind, columns := range [2][2]string{
		aspShort: {item, "NULL"},
		aspLong:  {"NULL", "@item"},
	} {
		set := "SessionItemShort = " + columns[0] + ", SessionItemLong = " + columns[1] + ", " + traits
		s.saveLocked[kind] = update(set+
			"Expires = CASE WHEN @hold = 1 THEN "+later("Expires", given)+" ELSE "+given+" END, "+
			"LockCookie = LockCookie + CASE WHEN Locked = 1 THEN 0 ELSE 1 END",
			" AND LockCookie = @cookie AND (@created = 0 OR "+created+")", aspColumns)
		s.saveAt[kind] = update(set+"Expires = "+given+", LockCookie = LockCookie + 1",
			" AND Locked = 0 AND LockCookie = @cookie AND "+created, "")
		s.create[kind] = aspBatch(now, "DELETE FROM "+t.sessions+
			" WHERE SessionId = @id AND SessionId = @id COLLATE Latin1_General_BIN2 AND Expires <= @now\n"+
			"INSERT INTO "+t.sessions+" (SessionId, Created, Expires, LockDate, LockDateLocal, LockCookie, Timeout, Locked, "+
			"SessionItemShort, SessionItemLong, Flags)\n"+
			"SELECT @id, CASE WHEN @created = 0 THEN @now ELSE DATEADD(millisecond, CONVERT(int, @created % 86400000), "+
			"DATEADD(day, CONVERT(int, @created / 86400000), '20000101')) END, "+given+", @now, GETDATE(), @cookie, @minutes, @hold, "+
			columns[0]+", "+columns[1]+", @flags\n"+
			"WHERE NOT EXISTS (SELECT 1 FROM "+t.sessions+" WHERE SessionId = @id)", "", t)
	}
	s.register = "SET NOCOUNT ON\n" +
		"INSERT INTO " + t.applications + " (AppId, AppName)\n" +
		"SELECT @hash, CONVERT(char(280), @app) WHERE NOT EXISTS (SELECT 1 FROM " + t.applications +
		" WHERE AppName = CONVERT(char(280), @app) OR AppId = @hash)\n" +
		"SELECT AppId, AppName FROM " + t.applications + " WHERE AppName = CONVERT(char(280), @app) OR AppId = @hash"
	s.sweep = "SET NOCOUNT ON\nDECLARE @now datetime = " + now + "\n" +
		"DELETE TOP (@limit) FROM " + t.sessions + passing + " WHERE Expires < @now\nSELECT @@ROWCOUNT"
	return s
}

// What is looked at after a change that was made, if anything is, and what after one that
// was not. [ASPState.askOnce] tells them by their number.
const (
	aspColumns     = "@done, @now, LockCookie, Locked, Timeout, Flags, LockDate, Created, Expires"
	aspItemColumns = aspColumns + ", SessionItemShort, SessionItemLong"
	// aspDeleted are the same of a row that is deleted.
	aspDeleted = "1, @now, DELETED.LockCookie, DELETED.Locked, DELETED.Timeout, DELETED.Flags, DELETED.LockDate, DELETED.Created, " +
		"DELETED.Expires, DELETED.SessionItemShort, DELETED.SessionItemLong"
)

// aspBatch is a change and a look at the row.
func aspBatch(now, change, after string, t aspTables) string {
	from := " FROM " + t.sessions + " WHERE SessionId = @id AND SessionId = @id COLLATE Latin1_General_BIN2"
	look := "SELECT " + aspColumns + from
	switch after {
	case "":
		look = "IF @done = 1 SELECT @done\nELSE " + look
	case aspDeleted: // the change has told
		look = "IF @done = 0 " + look
	case aspItemColumns:
		look = "IF @done = 1 SELECT " + after + from + "\nELSE " + look
	}
	return "SET NOCOUNT ON\nDECLARE @now datetime = " + now + "\nDECLARE @done int\n" + change + "\nSET @done = @@ROWCOUNT\n" + look
}

// millis is a datetime as the number of milliseconds since 2000. (DATEDIFF would not
// count them over more than 24 days.)
func millis(d string) string {
	return "(CONVERT(bigint, DATEDIFF(day, '20000101', " + d + ")) * 86400000 + DATEPART(hour, " + d + ") * 3600000" +
		" + DATEPART(minute, " + d + ") * 60000 + DATEPART(second, " + d + ") * 1000 + DATEPART(millisecond, " + d + "))"
}

// later is the later of two times.
func later(a, b string) string { return sqlServer{}.greatest(a, b) }
