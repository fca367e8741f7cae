package sqlstore

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"strings"
	"sync"
	"testing"
	"time"
)

// A counter counts what a database is asked, in a driver around its own.
type counter struct {
	mu    sync.Mutex
	calls []sqlCall
}

// A sqlCall is one statement that was run.
type sqlCall struct {
	text string
	rows int64 // that an Exec changed
	took time.Duration
}

func (c *counter) add(text string, rows int64, began time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls = append(c.calls, sqlCall{text, rows, time.Since(began)})
}

// take returns what was asked since it was last called.
func (c *counter) take() []sqlCall {
	c.mu.Lock()
	defer c.mu.Unlock()
	calls := c.calls
	c.calls = nil
	return calls
}

// verbs are the first words of what was asked.
func verbs(calls []sqlCall) string {
	var all []string
	for _, c := range calls {
		all = append(all, strings.Fields(c.text)[0])
	}
	return strings.Join(all, " ")
}

// counted opens a pool of connections whose statements are counted.
func (d *database) counted(t testing.TB) (*sql.DB, *counter) {
	t.Helper()
	c := new(counter)
	db := sql.OpenDB(&countingConnector{driver: d.db.Driver(), dsn: d.dsn, c: c})
	db.SetMaxOpenConns(60)
	db.SetMaxIdleConns(60)
	t.Cleanup(func() { db.Close() })
	return db, c
}

type countingConnector struct {
	driver driver.Driver
	dsn    string
	c      *counter
}

func (k *countingConnector) Driver() driver.Driver { return k }

func (k *countingConnector) Open(string) (driver.Conn, error) { return k.Connect(context.Background()) }

func (k *countingConnector) Connect(context.Context) (driver.Conn, error) {
	conn, err := k.driver.Open(k.dsn)
	if err != nil {
		return nil, err
	}
	return &countingConn{conn, k.c}, nil
}

// A countingConn has the methods that all of the drivers have.
type countingConn struct {
	driver.Conn
	c *counter
}

func (n *countingConn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	q, ok := n.Conn.(driver.QueryerContext)
	if !ok {
		return nil, driver.ErrSkip
	}
	began := time.Now()
	rows, err := q.QueryContext(ctx, query, args)
	if err != driver.ErrSkip {
		n.c.add(query, 0, began)
	}
	return rows, err
}

func (n *countingConn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	e, ok := n.Conn.(driver.ExecerContext)
	if !ok {
		return nil, driver.ErrSkip
	}
	began := time.Now()
	result, err := e.ExecContext(ctx, query, args)
	if err != driver.ErrSkip {
		n.c.add(query, changed(result, err), began)
	}
	return result, err
}

func changed(result driver.Result, err error) int64 {
	if err != nil {
		return 0
	}
	n, _ := result.RowsAffected()
	return n
}

func (n *countingConn) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	st, err := n.Conn.(driver.ConnPrepareContext).PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	return &countingStmt{st, query, n}, nil
}

func (n *countingConn) BeginTx(ctx context.Context, o driver.TxOptions) (driver.Tx, error) {
	return n.Conn.(driver.ConnBeginTx).BeginTx(ctx, o)
}

func (n *countingConn) ResetSession(ctx context.Context) error {
	if r, ok := n.Conn.(driver.SessionResetter); ok {
		return r.ResetSession(ctx)
	}
	return nil
}

func (n *countingConn) CheckNamedValue(v *driver.NamedValue) error {
	if c, ok := n.Conn.(driver.NamedValueChecker); ok {
		return c.CheckNamedValue(v)
	}
	return driver.ErrSkip
}

type countingStmt struct {
	driver.Stmt
	text string
	conn *countingConn
}

func (s *countingStmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	began := time.Now()
	rows, err := s.Stmt.(driver.StmtQueryContext).QueryContext(ctx, args)
	s.conn.c.add(s.text, 0, began)
	return rows, err
}

func (s *countingStmt) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	began := time.Now()
	result, err := s.Stmt.(driver.StmtExecContext).ExecContext(ctx, args)
	s.conn.c.add(s.text, changed(result, err), began)
	return result, err
}

func (s *countingStmt) CheckNamedValue(v *driver.NamedValue) error {
	if c, ok := s.Stmt.(driver.NamedValueChecker); ok {
		return c.CheckNamedValue(v)
	}
	return s.conn.CheckNamedValue(v)
}
