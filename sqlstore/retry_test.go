package sqlstore

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	mysqldriver "github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/holdfast-session/holdfast/store"
)

// What drivers say, and what that means for the store.
func TestStoreError(t *testing.T) {
	dial := &net.OpError{Op: "dial", Err: errors.New("connection refused")}
	for _, c := range []struct {
		name    string
		d       dialect
		err     error
		changes bool
		want    error
	}{
		{"the server is not there", postgres{}, fmt.Errorf("cannot connect: %w", dial), true, store.ErrUnavailable},
		{"the server is starting", postgres{}, &pgconn.PgError{Code: "57P03"}, true, store.ErrUnavailable},
		{"a standby", postgres{}, &pgconn.PgError{Code: "25006"}, true, store.ErrUnavailable},
		{"the disk is full", postgres{}, &pgconn.PgError{Code: "53100"}, true, store.ErrUnavailable},
		{"shut down during a change", postgres{}, &pgconn.PgError{Code: "57P01"}, true, store.ErrUnsure},
		{"shut down during a read", postgres{}, &pgconn.PgError{Code: "57P01"}, false, store.ErrUnavailable},
		{"the connection is lost in a change", mysql{}, mysqldriver.ErrInvalidConn, true, store.ErrUnsure},
		{"the connection is lost in a read", mysql{}, io.ErrUnexpectedEOF, false, store.ErrUnavailable},
		{"the connection was no good", mysql{}, driver.ErrBadConn, true, store.ErrUnavailable},
		{"too many connections", mysql{}, &mysqldriver.MySQLError{Number: 1040}, true, store.ErrUnavailable},
		{"killed", mysql{}, fmt.Errorf("a: %w: %w", errors.New("b"), &mysqldriver.MySQLError{Number: 1927}), true, store.ErrUnsure},
		{"more than max_allowed_packet", mysql{}, &mysqldriver.MySQLError{Number: 1153}, true, store.ErrTooLarge},
		{"no such row", mysql{}, store.ErrNotFound, true, store.ErrNotFound},
	} {
		if got := storeError(context.Background(), c.d, c.err, c.changes); !errors.Is(got, c.want) || !errors.Is(got, c.err) {
			t.Errorf("%s: %v; want %v", c.name, got, c.want)
		}
	}
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if got := storeError(ended, postgres{}, io.EOF, true); got != context.Canceled {
		t.Errorf("the context ended: %v; want its error", got)
	}
}

func TestServerErrorOf(t *testing.T) {
	type goOra struct{ error } // go-ora's has a field ErrCode
	for _, c := range []struct {
		err  error
		want serverError
	}{
		{&pgconn.PgError{Code: "40001"}, serverError{state: "40001"}},
		{&mysqldriver.MySQLError{Number: 1213}, serverError{number: 1213}},
		{fmt.Errorf("wrapped: %w", &mysqldriver.MySQLError{Number: 1213}), serverError{number: 1213}},
		{errors.Join(io.EOF, &mysqldriver.MySQLError{Number: 1213}), serverError{number: 1213}},
		{&coded{ErrCode: 60}, serverError{number: 60}},
		{methodCoded(5), serverError{number: 5}},
	} {
		got, ok := serverErrorOf(c.err)
		got.text = ""
		if !ok || got != c.want {
			t.Errorf("%T: %+v, %v; want %+v", c.err, got, ok, c.want)
		}
	}
	for _, err := range []error{nil, io.EOF, goOra{io.EOF}, context.Canceled} {
		if got, ok := serverErrorOf(err); ok {
			t.Errorf("%v: %+v; want that no server said it", err, got)
		}
	}
}

type coded struct{ ErrCode int }

func (*coded) Error() string { return "coded" }

type methodCoded int

func (methodCoded) Error() string { return "coded" }
func (c methodCoded) Code() int   { return int(c) }

// A statement that others are in the way of is repeated, with pauses, and not for ever.
func TestRepeat(t *testing.T) {
	deadlock := &pgconn.PgError{Code: "40P01"}
	run := func(ctx context.Context, changes bool, errs ...error) (calls int, err error) {
		err = repeat(ctx, postgres{}, changes, func() error {
			calls++
			return errs[min(calls, len(errs))-1]
		})
		return calls, err
	}
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		if calls, err := run(ctx, true, deadlock, deadlock, nil); calls != 3 || err != nil {
			t.Errorf("after two deadlocks: %d calls, %v", calls, err)
		}
		began := time.Now()
		if calls, err := run(ctx, true, deadlock); !errors.Is(err, store.ErrUnavailable) || calls > 1000 {
			t.Errorf("nothing but deadlocks: %d calls, %v", calls, err)
		}
		if d := time.Since(began); d < conflictsFor || d > conflictsFor+time.Second {
			t.Errorf("it was repeated for %v; want %v", d, conflictsFor)
		}
		short, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		began = time.Now()
		if _, err := run(short, true, deadlock); !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("nothing but deadlocks, until the context ends: %v", err)
		}
		if d := time.Since(began); d != time.Second {
			t.Errorf("it was repeated for %v; want until the context ended", d)
		}
		if calls, err := run(ctx, false, io.EOF, io.EOF, io.EOF, nil); calls != 4 || err != nil {
			t.Errorf("a read of connections that are dead: %d calls, %v", calls, err)
		}
		if calls, err := run(ctx, true, io.EOF, nil); calls != 1 || !errors.Is(err, store.ErrUnsure) {
			t.Errorf("a change on a connection that is lost: %d calls, %v; want ErrUnsure at once", calls, err)
		}
		if calls, err := run(ctx, true, driver.ErrBadConn, nil); calls != 2 || err != nil {
			t.Errorf("a change that was not sent: %d calls, %v", calls, err)
		}
	})
}
