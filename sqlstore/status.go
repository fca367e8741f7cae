package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

// A TableStatus is what there is in the tables.
type TableStatus struct {
	Dialect Dialect
	// Version is the version of the schema, 0 if there are no tables; Current is the one
	// that this program makes. Those of ASPState are 2, as ASP.NET calls it.
	Version, Current int64
	// Sessions is how many there are, those included that have expired and wait to be
	// swept, which are Expired; Bytes is what their contents take. Locked is how many are
	// locked, OldestLock the age of the oldest lock.
	Sessions, Expired, Locked, Bytes int64
	OldestLock                       time.Duration
	// Ended is how many sessions that ended are remembered, and PendingEnds for how many
	// of them an application still has to be told. ASPState has neither.
	Ended, PendingEnds int64
}

// Status looks at the tables. It reads all of them, which takes a while where they are
// large, and changes nothing.
func Status(ctx context.Context, db *sql.DB, o *Options) (*TableStatus, error) {
	a, err := newAdmin(db, o)
	if err != nil {
		return nil, err
	}
	s := &TableStatus{Dialect: a.name, Current: schemaVersion}
	s.Version, err = a.version(ctx)
	if errors.Is(err, errMissing) {
		return s, nil
	}
	if err == nil && s.Version > schemaInstalling { // what is counted, version 1 has too
		err = a.count(ctx, s)
		if err != nil && s.Version > schemaVersion { // perhaps that has not any more
			err = fmt.Errorf("%w: %w", tooNew(s.Version), err)
		}
	}
	return s, a.wrap(err)
}

func (a *admin) count(ctx context.Context, s *TableStatus) error {
	sum := func(what, when string) string {
		return "COALESCE(SUM(CASE WHEN " + when + " THEN " + what + " ELSE 0 END), 0)"
	}
	query := fmt.Sprintf("SELECT %s, %s, %s, %s, %s, %s, %s, %s FROM %s",
		sum("1", "state = 0"), sum("1", "state = 0 AND expires <= "+inNow), sum("1", "state = 0 AND lock_date <> 0"),
		sum(a.d.size("items"), "state = 0 AND items IS NOT NULL"),
		"COALESCE(MIN(CASE WHEN state = 0 AND lock_date <> 0 THEN lock_date END), 0)",
		sum("1", "state <> 0"), sum("1", "state = 2"), "MAX("+inNow+")", inTable)
	var oldest int64
	var now sql.NullInt64 // of no rows
	err := a.scan(ctx, a.names.replacer().Replace(query), &s.Sessions, &s.Expired, &s.Locked, &s.Bytes, &oldest, &s.Ended, &s.PendingEnds, &now)
	if err == nil && oldest > 0 {
		s.OldestLock = micros(now.Int64 - oldest)
	}
	return err
}

// aspVersionNumber is what ASP.NET's procedure TempGetVersion says.
const aspVersionNumber = 2

// StatusASPState is [Status] for the tables of ASP.NET's ASPState.
func StatusASPState(ctx context.Context, db *sql.DB) (*TableStatus, error) {
	s := &TableStatus{Dialect: SQLServer, Current: aspVersionNumber}
	t, err := findASPState(ctx, db)
	if v, said := judge(sqlServer{}, err); said && v == absent {
		return s, nil
	}
	if err != nil {
		return s, err
	}
	s.Version = aspVersionNumber
	sum := func(what string) string { return "COALESCE(SUM(CONVERT(bigint, " + what + ")), 0)" }
	query := fmt.Sprintf("SELECT COUNT(*), %s, %s, %s, %s FROM %s",
		sum("CASE WHEN Expires <= GETUTCDATE() THEN 1 ELSE 0 END"), sum("CASE WHEN Locked = 1 THEN 1 ELSE 0 END"),
		sum("COALESCE(DATALENGTH(SessionItemShort), 0) + COALESCE(DATALENGTH(SessionItemLong), 0)"),
		"COALESCE(MAX(CASE WHEN Locked = 1 THEN DATEDIFF(second, LockDate, GETUTCDATE()) END), 0)", t.sessions)
	var oldest int64
	err = repeat(ctx, sqlServer{}, false, func() error {
		return db.QueryRowContext(ctx, query).Scan(&s.Sessions, &s.Expired, &s.Locked, &s.Bytes, &oldest)
	})
	if err != nil {
		return s, fmt.Errorf("sqlstore: table %s: %w", t.sessions, err)
	}
	s.OldestLock = max(0, time.Duration(oldest)*time.Second)
	return s, nil
}
