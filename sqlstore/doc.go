// Package sqlstore keeps sessions in the database that an application already has:
// ASP.NET's mode SQLServer, over the application's own *sql.DB. It works with PostgreSQL,
// MySQL and MariaDB, SQLite, SQL Server and Oracle. No driver is imported by it.
//
//	db, err := sql.Open("pgx", os.Getenv("DATABASE_URL"))
//	…
//	s, err := sqlstore.New(db, nil)
//	…
//	sessions := holdfast.New(s, nil)
//
// Any number of processes on any number of machines may share a table, and any number of
// applications. The table is made beforehand by the command holdfast sql install or by
// [Install]; [New] says so where it is missing.
//
// # What it needs of the database
//
// The primary: a replica that lags shows sessions that have ended. The *sql.DB has to be
// given enough connections, and a time after which it closes those that are idle; all
// that a store does is one statement at a time on any of them, each its own transaction,
// but for three that put a new session into the place of one that has ended under the same
// ID. It is as durable as the database is set to be (with SQLite: WAL, and
// synchronous=FULL if it is to survive a power cut; with MySQL
// innodb_flush_log_at_trx_commit=1).
//
// All times are those of the database's clock, so machines with wrong clocks end no
// session. A session may expire later than its timeout says, by a tenth of it or by a
// minute: within that, reading it writes nothing.
//
// # Locks
//
// Who waits for a lock stands in line with the others of this process, and only the first
// asks the database: when this process gives the lock up, when PostgreSQL tells that
// another did (package pgnotify), else after pauses that grow from 2 to 100 ms. Between
// processes there is no order of arrival; none of them is passed over for long.
//
// With MySQL, MariaDB, SQL Server and Oracle a second statement reads what the first has
// locked. If another ends the session in between, that Lock returns that it is gone, and
// for a moment others have seen it locked.
//
// # Errors
//
// A statement that met a deadlock or a busy database is repeated until the context ends,
// for ten seconds at most. What the server said is [store.ErrUnavailable], as is a
// connection that could not be made: nothing was applied. A connection that was lost
// during a change is [store.ErrUnsure]. Contents above Options.MaxBytes, or above what the
// database takes at once, are [store.ErrTooLarge]; so are applications, IDs and subjects
// of more than 1,024 bytes.
package sqlstore
