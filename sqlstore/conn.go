package sqlstore

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/holdfast-session/holdfast/store"
)

// prepare returns a statement prepared, where the dialect prepares.
func (s *Store) prepare(ctx context.Context, st *statement) (*sql.Stmt, error) {
	st.mu.Lock()
	prepared := st.prepared
	st.mu.Unlock()
	if prepared != nil {
		return prepared, nil
	}
	made, err := s.db.PrepareContext(ctx, st.text) // without the mutex: it may take long
	if err != nil {
		if _, said := judge(s.d, err); said {
			return nil, err
		}
		return nil, fmt.Errorf("%w: %w", store.ErrUnavailable, err)
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.prepared == nil {
		st.prepared = made
		s.mu.Lock()
		s.prepared = append(s.prepared, made)
		s.mu.Unlock()
	} else {
		_ = made.Close()
	}
	return st.prepared, nil
}

// take makes writers of this process take turns, where the database has one anyway: they
// would only find it busy. give is to be called after the statement.
func (s *Store) take(ctx context.Context) (give func(), err error) {
	if s.writer == nil {
		return func() {}, nil
	}
	select {
	case s.writer <- struct{}{}:
		return func() { <-s.writer }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", store.ErrUnavailable, ctx.Err())
	}
}

// exec runs a statement that changes rows, until nothing is in its way, and returns how
// many it changed.
func (s *Store) exec(ctx context.Context, st *statement, a ...*args) (n int64, err error) {
	give, err := s.take(ctx)
	if err != nil {
		return 0, err
	}
	defer give()
	err = repeat(ctx, s.d, true, func() error {
		result, err := s.execOnce(ctx, st, st.values(a...))
		if err == nil {
			n, err = result.RowsAffected()
		}
		return err
	})
	return n, err
}

func (s *Store) execOnce(ctx context.Context, st *statement, values []any) (sql.Result, error) {
	if !s.d.prepares() {
		return s.db.ExecContext(ctx, st.text, values...)
	}
	prepared, err := s.prepare(ctx, st)
	if err != nil {
		return nil, err
	}
	return prepared.ExecContext(ctx, values...)
}

func (s *Store) queryOnce(ctx context.Context, st *statement, values []any) (*sql.Rows, error) {
	if !s.d.prepares() {
		return s.db.QueryContext(ctx, st.text, values...)
	}
	prepared, err := s.prepare(ctx, st)
	if err != nil {
		return nil, err
	}
	return prepared.QueryContext(ctx, values...)
}

// collect runs a statement that returns rows, and makes a T of each.
func collect[T any](ctx context.Context, s *Store, st *statement, changes bool, scan func(*sql.Rows) (T, error), a ...*args) (all []T, err error) {
	if changes {
		give, err := s.take(ctx)
		if err != nil {
			return nil, err
		}
		defer give()
	}
	err = repeat(ctx, s.d, changes, func() error {
		all = all[:0]
		rows, err := s.queryOnce(ctx, st, st.values(a...))
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() { // to the end, for it is there that a change is committed
			one, err := scan(rows)
			if err != nil {
				return err
			}
			all = append(all, one)
		}
		if err := rows.Err(); err != nil {
			return err
		}
		return rows.Close()
	})
	return all, err
}

// one runs a statement that returns one row or none. Of a row read with allColumns, all
// fills in a record.
func (s *Store) one(ctx context.Context, st *statement, a *args, changes bool, scan func(*sql.Rows) (*row, error)) (*row, error) {
	rows, err := collect(ctx, s, st, changes, scan, a)
	if err != nil || len(rows) == 0 {
		return nil, err
	}
	return rows[0], nil
}

// scanMeta reads a row of peekColumns.
func scanMeta(rows *sql.Rows) (*row, error) {
	r := new(row)
	return r, rows.Scan(r.meta()...)
}

// scanAll reads a row of allColumns, and fills in rec if it is a session that wanted wants.
func (s *Store) scanAll(id key, rec *store.Record, wanted func(*row) bool) func(*sql.Rows) (*row, error) {
	return func(rows *sql.Rows) (*row, error) {
		r := new(row)
		if err := rows.Scan(r.all()...); err != nil || !wanted(r) {
			return r, err
		}
		return r, s.fillAll(id, r, rec)
	}
}
