// Package pgnotify tells a store in PostgreSQL at once when a lock is given up, so that
// it need not ask again and again:
//
//	db, err := sql.Open("pgx", dsn)
//	…
//	s, err := sqlstore.New(db, &sqlstore.Options{Notifier: pgnotify.New(db)})
//
// The messages are PostgreSQL's own (LISTEN and NOTIFY), sent only for locks that
// somebody waits for. A pooler between application and database has to keep a connection
// to its client as long as it lasts (PgBouncer: pool_mode=session); behind another one,
// leave the Notifier out.
package pgnotify

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
)

// A Notifier is a sqlstore.Notifier. It is safe for concurrent use.
type Notifier struct{ db *sql.DB }

// New returns a Notifier over a database that was opened with the driver pgx. Each store
// that listens has one connection of the database for itself, so it must be given more
// than one.
func New(db *sql.DB) *Notifier { return &Notifier{db} }

const (
	// silence is after how long without a message the connection is tested.
	silence = 30 * time.Second
	// testWithin is how long that may take.
	testWithin = 10 * time.Second
	// The pause before another connection is tried, when none can be had, grows from the
	// first to the last.
	firstPause, lastPause = 10 * time.Millisecond, 2 * time.Second
)

// Listen implements sqlstore.Notifier. It returns when it listens.
func (n *Notifier) Listen(ctx context.Context, channel string, received func(message string)) (io.Closer, error) {
	if n.db.Stats().MaxOpenConnections == 1 {
		return nil, errors.New("pgnotify: the database may have one connection only, which listening would take (SetMaxOpenConns)")
	}
	running, stop := context.WithCancel(context.Background())
	l := &listener{db: n.db, listen: "LISTEN " + pgx.Identifier{channel}.Sanitize(), received: received, stop: stop, done: make(chan struct{})}
	conn, err := l.connect(ctx)
	if err != nil {
		stop()
		return nil, fmt.Errorf("pgnotify: %w", err)
	}
	go l.run(running, conn)
	return l, nil
}

// A listener listens to one channel until it is closed.
type listener struct {
	db       *sql.DB
	listen   string
	received func(string)
	stop     context.CancelFunc
	done     chan struct{}
}

// Close returns when received will not be called any more.
func (l *listener) Close() error {
	l.stop()
	<-l.done
	return nil
}

// connect returns a connection that listens. One of those that are idle may be lost, as
// all are after a restart of the server; then it takes the next, and at last a new one.
func (l *listener) connect(ctx context.Context) (*sql.Conn, error) {
	for idle := l.db.Stats().Idle; ; idle-- {
		conn, err := l.db.Conn(ctx)
		if err != nil {
			return nil, err
		}
		lost := false
		err = raw(conn, func(c *pgx.Conn) error {
			_, err := c.Exec(ctx, l.listen)
			lost = c.IsClosed()
			return err
		})
		if err == nil {
			return conn, nil
		}
		drop(conn)
		if !lost || idle <= 0 || ctx.Err() != nil {
			return nil, err
		}
	}
}

// raw lends the connection of pgx in one of database/sql.
func raw(conn *sql.Conn, use func(*pgx.Conn) error) error {
	return conn.Raw(func(c any) error {
		pg, ok := c.(*stdlib.Conn)
		if !ok {
			return fmt.Errorf("the connection is a %T, and not of the driver pgx", c)
		}
		return use(pg.Conn())
	})
}

// drop closes a connection for good: it must not go back to the others, listening.
func drop(conn *sql.Conn) {
	_ = conn.Raw(func(any) error { return driver.ErrBadConn })
	_ = conn.Close()
}

// run listens, on one connection after the other.
func (l *listener) run(ctx context.Context, conn *sql.Conn) {
	defer close(l.done)
	for {
		_ = raw(conn, func(c *pgx.Conn) error { return l.wait(ctx, c) }) // it is lost, whatever the reason
		drop(conn)
		for pause := firstPause; ; pause = min(2*pause, lastPause) {
			if ctx.Err() != nil {
				return
			}
			var err error
			if conn, err = l.connect(ctx); err == nil {
				break
			}
			select {
			case <-time.After(pause/2 + rand.N(pause)):
			case <-ctx.Done():
			}
		}
		l.received("") // whatever came meanwhile was missed
	}
}

// wait passes messages on until the connection is lost.
func (l *listener) wait(ctx context.Context, c *pgx.Conn) error {
	for {
		waiting, cancel := context.WithTimeout(ctx, silence)
		message, err := c.WaitForNotification(waiting)
		silent := waiting.Err() == context.DeadlineExceeded
		cancel()
		switch {
		case err == nil:
			l.received(message.Payload)
		case !silent || ctx.Err() != nil || c.IsClosed():
			return err
		default:
			if err := test(ctx, c); err != nil {
				return err
			}
		}
	}
}

func test(ctx context.Context, c *pgx.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, testWithin)
	defer cancel()
	return c.Ping(ctx)
}
