package sqlstore

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
)

// An ASPState database as ASP.NET's own installer makes it: two tables, and the
// procedures by which ASP.NET applications use them. Go applications use the tables.

// aspTableColumns are the columns of the table of sessions, as ASP.NET expects them.
// The collation is ours: it keeps session IDs apart that differ in case alone.
const aspTableColumns = `SessionId nvarchar(88) COLLATE Latin1_General_BIN2 NOT NULL PRIMARY KEY,
  Created datetime NOT NULL DEFAULT GETUTCDATE(),
  Expires datetime NOT NULL,
  LockDate datetime NOT NULL,
  LockDateLocal datetime NOT NULL,
  LockCookie int NOT NULL,
  Timeout int NOT NULL,
  Locked bit NOT NULL,
  SessionItemShort varbinary(7000) NULL,
  SessionItemLong image NULL,
  Flags int NOT NULL DEFAULT 0`

// An aspProcedure is one of those that ASP.NET calls.
type aspProcedure struct{ name, params, body string }

// What the procedures have in common.
const (
	aspProcNow     = "SET NOCOUNT ON\nDECLARE @now datetime = GETUTCDATE()\n"
	aspProcTouch   = "Expires = DATEADD(minute, Timeout, @now)"
	aspProcTable   = "dbo.ASPStateTempSessions"
	aspProcHeld    = "\nWHERE SessionId = @id AND LockCookie = @lockCookie"
	aspProcReturns = "@id nvarchar(88), @itemShort varbinary(7000) OUTPUT, @locked bit OUTPUT, @lockAge int OUTPUT, " +
		"@lockCookie int OUTPUT, @actionFlags int OUTPUT"
	// aspProcFirst tells once of a session that was not used yet.
	aspProcFirst = "\nUPDATE " + aspProcTable + " SET Flags = Flags - 1 WHERE SessionId = @id AND Flags % 2 = 1\nSET @actionFlags = @@ROWCOUNT"
	// aspProcRead returns the item, unless another has the lock; a long one as rows.
	aspProcRead = `,
  @itemShort = CASE WHEN %[1]s THEN SessionItemShort END,
  @long = CASE WHEN %[1]s AND SessionItemLong IS NOT NULL THEN 1 ELSE 0 END
FROM ` + aspProcTable + ` WHERE SessionId = @id
IF @long = 1 SELECT SessionItemLong FROM ` + aspProcTable + ` WHERE SessionId = @id`
	aspProcAge = "DATEDIFF(second, LockDate, @now)"
)

var aspProcedures = []aspProcedure{
	{"TempGetVersion", "@ver char(10) OUTPUT", "SET @ver = '2'"},
	{"GetMajorVersion", "@@ver int OUTPUT",
		"SELECT @@ver = CONVERT(int, PARSENAME(CONVERT(nvarchar(128), SERVERPROPERTY('ProductVersion')), 4))"},
	{"GetHashCode", "@input varchar(280), @hash int OUTPUT", `SET NOCOUNT ON
DECLARE @h bigint = 5381
DECLARE @i int = 1
WHILE @i <= DATALENGTH(@input)
BEGIN
  SET @h = ((@h * 33) & CONVERT(bigint, 4294967295)) ^ CONVERT(bigint, ASCII(SUBSTRING(@input, @i, 1)))
  SET @i = @i + 1
END
IF @h > 2147483647 SET @h = @h - CONVERT(bigint, 4294967296)
SET @hash = CONVERT(int, @h)`},
	{"TempGetAppID", "@appName varchar(280), @appId int OUTPUT", `SET NOCOUNT ON
SET @appName = LOWER(@appName)
SET @appId = NULL
SELECT @appId = AppId FROM dbo.ASPStateTempApplications WHERE AppName = @appName
IF @appId IS NOT NULL RETURN 0
DECLARE @hash int
EXEC dbo.GetHashCode @appName, @hash OUTPUT
INSERT INTO dbo.ASPStateTempApplications (AppId, AppName)
SELECT @hash, @appName WHERE NOT EXISTS (SELECT 1 FROM dbo.ASPStateTempApplications WHERE AppId = @hash OR AppName = @appName)
SELECT @appId = AppId FROM dbo.ASPStateTempApplications WHERE AppName = @appName
IF @appId IS NULL RAISERROR('The application ''%s'' has the same hash as another: rename one of them.', 18, 1, @appName)`},
	{"TempGetStateItem3", aspProcReturns, aspProcNow + "DECLARE @long int\n" +
		"UPDATE " + aspProcTable + " SET " + aspProcTouch + " WHERE SessionId = @id" + aspProcFirst + `
SELECT @locked = Locked, @lockCookie = LockCookie, @lockAge = ` + aspProcAge + fmt.Sprintf(aspProcRead, "Locked = 0")},
	{"TempGetStateItemExclusive3", aspProcReturns, aspProcNow + "DECLARE @long int\nDECLARE @taken int\n" +
		"UPDATE " + aspProcTable + " SET " + aspProcTouch + ", LockCookie = LockCookie + 1, Locked = 1, LockDate = @now, LockDateLocal = GETDATE()" + `
WHERE SessionId = @id AND Locked = 0
SET @taken = @@ROWCOUNT
IF @taken = 0 UPDATE ` + aspProcTable + " SET " + aspProcTouch + " WHERE SessionId = @id" + aspProcFirst + `
SELECT @locked = CASE WHEN @taken = 1 THEN 0 ELSE 1 END, @lockCookie = LockCookie, @lockAge = CASE WHEN @taken = 1 THEN 0 ELSE ` + aspProcAge + " END" +
		fmt.Sprintf(aspProcRead, "@taken = 1")},
	{"TempReleaseStateItemExclusive", "@id nvarchar(88), @lockCookie int",
		aspProcNow + "UPDATE " + aspProcTable + " SET " + aspProcTouch + ", Locked = 0" + aspProcHeld},
	aspProcInsert("TempInsertUninitializedItem", "@itemShort varbinary(7000)", "SessionItemShort", "1"),
	aspProcInsert("TempInsertStateItemShort", "@itemShort varbinary(7000)", "SessionItemShort", "0"),
	aspProcInsert("TempInsertStateItemLong", "@itemLong image", "SessionItemLong", "0"),
	aspProcUpdate("TempUpdateStateItemShort", "@itemShort varbinary(7000)", "SessionItemShort = @itemShort"),
	aspProcUpdate("TempUpdateStateItemShortNullLong", "@itemShort varbinary(7000)", "SessionItemShort = @itemShort, SessionItemLong = NULL"),
	aspProcUpdate("TempUpdateStateItemLong", "@itemLong image", "SessionItemLong = @itemLong"),
	aspProcUpdate("TempUpdateStateItemLongNullShort", "@itemLong image", "SessionItemLong = @itemLong, SessionItemShort = NULL"),
	{"TempRemoveStateItem", "@id nvarchar(88), @lockCookie int", "SET NOCOUNT ON\nDELETE FROM " + aspProcTable + aspProcHeld},
	{"TempResetTimeout", "@id nvarchar(88)",
		aspProcNow + "UPDATE " + aspProcTable + " SET " + aspProcTouch + "\nWHERE SessionId = @id"},
	{"DeleteExpiredSessions", "", aspProcNow + `DECLARE @n int = 500
WHILE @n = 500
BEGIN
  DELETE TOP (500) FROM ` + aspProcTable + passing + ` WHERE Expires < @now
  SET @n = @@ROWCOUNT
END`},
}

func aspProcInsert(name, item, column, flags string) aspProcedure {
	return aspProcedure{name, "@id nvarchar(88), " + item + ", @timeout int",
		aspProcNow + "INSERT INTO " + aspProcTable + " (SessionId, " + column + ", Timeout, Expires, Locked, LockDate, LockDateLocal, LockCookie, Flags)\n" +
			"VALUES (@id, " + strings.Fields(item)[0] + ", @timeout, DATEADD(minute, @timeout, @now), 0, @now, GETDATE(), 1, " + flags + ")"}
}

func aspProcUpdate(name, item, set string) aspProcedure {
	return aspProcedure{name, "@id nvarchar(88), " + item + ", @timeout int, @lockCookie int",
		aspProcNow + "UPDATE " + aspProcTable + " SET Expires = DATEADD(minute, @timeout, @now), " + set + ", Timeout = @timeout, Locked = 0" + aspProcHeld}
}

// aspInstall are the batches that make what is missing and change nothing that is
// there: Microsoft's own procedures do the same as ours.
func aspInstall() []string {
	batches := []string{
		"IF OBJECT_ID(N'dbo.ASPStateTempSessions', N'U') IS NULL\nBEGIN\nCREATE TABLE dbo.ASPStateTempSessions (\n  " + aspTableColumns +
			")\nCREATE INDEX Index_Expires ON dbo.ASPStateTempSessions (Expires)\nEND",
		"IF OBJECT_ID(N'dbo.ASPStateTempApplications', N'U') IS NULL\nBEGIN\nCREATE TABLE dbo.ASPStateTempApplications (\n" +
			"  AppId int NOT NULL PRIMARY KEY,\n  AppName char(280) NOT NULL)\n" +
			"CREATE INDEX Index_AppName ON dbo.ASPStateTempApplications (AppName)\nEND",
	}
	for _, p := range aspProcedures {
		text := "CREATE PROCEDURE dbo." + p.name + " " + p.params + " AS\nBEGIN\n" + p.body + "\nEND"
		missing := "IF OBJECT_ID(N'dbo." + p.name + "', N'P') IS NULL"
		if strings.HasPrefix(p.params, "@@") {
			missing += " AND @@VERSION NOT LIKE 'Babelfish%'" // which has no parameters of such names, nor ASP.NET
		}
		batches = append(batches, missing+"\nEXEC(N'"+strings.ReplaceAll(text, "'", "''")+"')")
	}
	return batches
}

// aspRemove are the batches that take all of that away.
func aspRemove() (batches []string) {
	for _, p := range aspProcedures {
		batches = append(batches, "IF OBJECT_ID(N'dbo."+p.name+"', N'P') IS NOT NULL DROP PROCEDURE dbo."+p.name)
	}
	for _, table := range []string{"ASPStateTempSessions", "ASPStateTempApplications"} {
		batches = append(batches, "IF OBJECT_ID(N'dbo."+table+"', N'U') IS NOT NULL DROP TABLE dbo."+table)
	}
	return batches
}

// ASPStateScript is the T-SQL script of [InstallASPState], its batches separated by GO
// as sqlcmd wants them.
func ASPStateScript() string { return strings.Join(aspInstall(), "\nGO\n") + "\nGO\n" }

// InstallASPState makes the database that db is connected to one that both [ASPState]
// and ASP.NET applications can use (mode SQLServer, with allowCustomSqlDatabase unless
// its name is ASPState). It makes what is missing and leaves what is there. On an
// existing ASPState database it does nothing. It fails if there is another table under
// the name of one of ASPState's.
//
// It makes no SQL Agent job: have dbo.DeleteExpiredSessions executed every minute, or
// call [ASPState.Sweep].
func InstallASPState(ctx context.Context, db *sql.DB) error {
	if err := aspExec(ctx, db, aspInstall()); err != nil {
		return fmt.Errorf("sqlstore: installing ASPState: %w", err)
	}
	_, err := findASPState(ctx, db)
	return err
}

// RemoveASPState takes the tables and procedures of ASPState away, with all sessions.
// It fails, and changes nothing, if the tables are not ASPState's.
func RemoveASPState(ctx context.Context, db *sql.DB) error {
	if err := checkASPState(ctx, db, newASPTables("dbo")); err != nil {
		return err
	}
	if err := aspExec(ctx, db, aspRemove()); err != nil {
		return fmt.Errorf("sqlstore: removing ASPState: %w", err)
	}
	return nil
}

func aspExec(ctx context.Context, db *sql.DB, batches []string) error {
	for _, b := range batches {
		if _, err := db.ExecContext(ctx, b); err != nil {
			what, _, _ := strings.Cut(b, "\n")
			return fmt.Errorf("%s: %w", what, err)
		}
	}
	return nil
}

// findASPState returns the tables: in this database, or in tempdb, where ASP.NET's
// installer puts them unless it is told otherwise.
func findASPState(ctx context.Context, db *sql.DB) (aspTables, error) {
	var first error
	for _, schema := range []string{"dbo", "tempdb.dbo"} {
		t := newASPTables(schema)
		err := checkASPState(ctx, db, t)
		if err == nil {
			return t, nil
		}
		if first == nil {
			first = err
		}
		if _, said := serverErrorOf(err); !said {
			break // the server cannot be asked
		}
	}
	return aspTables{}, first
}

// checkASPState checks that the tables are there, with all their columns.
func checkASPState(ctx context.Context, db *sql.DB, t aspTables) error {
	for _, probe := range []string{
		"SELECT SessionId, Created, Expires, LockDate, LockDateLocal, LockCookie, Timeout, Locked, SessionItemShort, SessionItemLong, Flags FROM " +
			t.sessions + " WHERE 1 = 0",
		"SELECT AppId, AppName FROM " + t.applications + " WHERE 1 = 0",
	} {
		if _, err := db.ExecContext(ctx, probe); err != nil {
			if _, said := serverErrorOf(err); !said {
				return fmt.Errorf("sqlstore: asking for the tables of ASPState: %w", err)
			}
			return fmt.Errorf("sqlstore: this is no ASPState database of ASP.NET 2.0 or later; "+
				"make one with `holdfast sql install --aspstate`, with sqlstore.InstallASPState or with aspnet_regsql -ssadd -sstype p: %w", err)
		}
	}
	return nil
}
