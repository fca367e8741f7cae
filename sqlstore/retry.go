package sqlstore

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"reflect"
	"time"

	"github.com/holdfast-session/holdfast/store"
)

// A serverError is what a server said instead of doing what it was told: an SQLSTATE,
// a number of the vendor's, or both, and a text.
type serverError struct {
	state  string
	number int
	text   string
}

// A verdict is what an error of the server means for the call. But for lost, the
// statement was not applied.
type verdict int

const (
	failed    verdict = iota // anything else: the store is no use as it is
	conflict                 // others were in the way: a deadlock, say; it may be repeated
	duplicate                // the key is there already
	tooLarge                 // the server does not take so much at once
	absent                   // there is no such table
	present                  // there is such a table, or index, already
	lost                     // the server ended the connection, perhaps after the statement
)

// serverErrorOf finds what the server said in the error of a driver, without importing
// the driver: by the method SQLState (pgx), SQLErrorNumber (go-mssqldb) or Code
// (modernc.org/sqlite, godror), or by a field Number (go-sql-driver), ErrCode (go-ora)
// or Code (mattn/go-sqlite3).
func serverErrorOf(err error) (e serverError, ok bool) {
	var state interface{ SQLState() string }
	if errors.As(err, &state) {
		e.state, ok = state.SQLState(), true
	}
	var number interface{ SQLErrorNumber() int32 }
	var code interface{ Code() int }
	switch {
	case errors.As(err, &number):
		e.number, ok = int(number.SQLErrorNumber()), true
	case errors.As(err, &code):
		e.number, ok = code.Code(), true
	case !ok:
		e.number, ok = numberField(err)
	}
	if ok {
		e.text = err.Error()
	}
	return e, ok
}

// numberField looks for the number in the fields of the errors that err wraps.
func numberField(err error) (n int, ok bool) {
	if err == nil {
		return 0, false
	}
	v := reflect.ValueOf(err)
	if v.Kind() == reflect.Pointer {
		v = v.Elem()
	}
	if v.Kind() == reflect.Struct {
		for _, name := range []string{"Number", "ErrCode", "Code"} {
			switch f := v.FieldByName(name); {
			case !f.IsValid():
			case f.CanInt():
				return int(f.Int()), true
			case f.CanUint():
				return int(f.Uint()), true
			}
		}
	}
	if several, ok := err.(interface{ Unwrap() []error }); ok {
		for _, err := range several.Unwrap() {
			if n, ok := numberField(err); ok {
				return n, true
			}
		}
	}
	return numberField(errors.Unwrap(err))
}

// judge says what the server meant, if err is what it said about the statement.
func judge(d dialect, err error) (v verdict, said bool) {
	e, said := serverErrorOf(err)
	if !said {
		return failed, false
	}
	if v = d.judge(e); v == lost {
		return failed, false
	}
	return v, true
}

// refused reports whether err says that no connection could be made.
func refused(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

// notSent reports whether err certainly came before the statement reached the server. A
// driver that says so of other errors, with ErrBadConn, cannot be used (see checkDriver).
func notSent(err error) bool {
	var safe interface{ SafeToRetry() bool } // of pgx
	return errors.Is(err, driver.ErrBadConn) || refused(err) || errors.As(err, &safe) && safe.SafeToRetry()
}

// storeError gives an error of a statement the meaning that package store has for it.
// A statement that changes nothing cannot have been applied.
func storeError(ctx context.Context, d dialect, err error, changes bool) error {
	if err == nil || isStoreError(err) {
		return err
	}
	v, said := judge(d, err)
	switch {
	case said && v == tooLarge:
		return fmt.Errorf("%w: %w", store.ErrTooLarge, err)
	case said || notSent(err):
		return fmt.Errorf("%w: %w", store.ErrUnavailable, err)
	case ctx.Err() != nil:
		return ctx.Err()
	case changes:
		return fmt.Errorf("%w: %w", store.ErrUnsure, err)
	}
	return fmt.Errorf("%w: %w", store.ErrUnavailable, err)
}

func isStoreError(err error) bool {
	var locked *store.LockedError
	for _, known := range []error{store.ErrNotFound, store.ErrExists, store.ErrLockLost, store.ErrConflict, store.ErrFull,
		store.ErrTooLarge, store.ErrUnavailable, store.ErrUnsure} {
		if errors.Is(err, known) {
			return true
		}
	}
	return errors.As(err, &locked)
}

const (
	// conflictsFor is how long a statement is repeated that others are in the way of,
	// if the context has no earlier deadline.
	conflictsFor = 10 * time.Second
	// lostConnections is how often a statement is repeated at once whose connection was
	// lost, where that is safe: the pool may hold many to a server that has restarted
	// since, and each is found to be dead when it is used.
	lostConnections = 32
)

// repeat runs do until others are not in its way any more, and returns its error as
// package store has it.
func repeat(ctx context.Context, d dialect, changes bool, do func() error) error {
	began, lost := time.Now(), 0
	for pause := time.Millisecond; ; {
		err := do()
		if err == nil || isStoreError(err) {
			return err
		}
		v, said := judge(d, err)
		switch {
		case said && v == conflict && time.Since(began) < conflictsFor:
			if sleep(ctx, jitter(pause)) != nil {
				return storeError(ctx, d, err, changes)
			}
			pause = min(2*pause, 50*time.Millisecond)
		case !said && (!changes || notSent(err)) && !refused(err) && ctx.Err() == nil && lost < lostConnections:
			lost++
			if errors.Is(err, driver.ErrBadConn) { // database/sql has tried a new connection as well
				if sleep(ctx, jitter(pause)) != nil {
					return storeError(ctx, d, err, changes)
				}
				pause = min(2*pause, 50*time.Millisecond)
			}
		default:
			return storeError(ctx, d, err, changes)
		}
	}
}

// jitter returns something between half of d and one and a half of it.
func jitter(d time.Duration) time.Duration { return d/2 + rand.N(d) }

// sleep waits for d, or returns the error of ctx when that ends.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
