// Package database has the code of the guide to databases.
package database

import (
	"database/sql"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver pgx

	"github.com/holdfast-session/holdfast"
	"github.com/holdfast-session/holdfast/sqlstore"
	"github.com/holdfast-session/holdfast/sqlstore/pgnotify"
)

// Sessions are kept in a PostgreSQL database. Who calls it closes the manager first, and
// the database last.
func Sessions(dsn string) (*holdfast.Manager, *sql.DB, error) {
	db, err := sql.Open("pgx", dsn)
	if err != nil {
		return nil, nil, err
	}
	s, err := sqlstore.New(db, &sqlstore.Options{Notifier: pgnotify.New(db)}) // the Notifier is for PostgreSQL
	if err != nil {
		db.Close()
		return nil, nil, err
	}
	sessions := holdfast.New(s, nil)
	return sessions, db, nil
}
