package main

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/holdfast-session/holdfast/internal/load"
	"github.com/holdfast-session/holdfast/internal/servers"
)

// What the applications keep their sessions in.

// A storeKind is what has to run for a library.
type storeKind string

const (
	storeNone     storeKind = ""
	storeFolder   storeKind = "a folder"
	storeHoldfast storeKind = "holdfast serve"
	storeRedis    storeKind = "Redis"
	storePostgres storeKind = "PostgreSQL"
	storeMariaDB  storeKind = "MariaDB"
)

// A backing is a store that runs.
type backing struct {
	address string // as the libraries want it
	pid     int    // 0: it is in the application's process
	// meter counts what it is asked while do runs; nil if it cannot tell.
	meter func(ctx context.Context, do func() error) (figures, error)
}

// backing starts a store.
func (s *suite) backing(kind storeKind) (*backing, error) {
	switch kind {
	case storeFolder:
		dir, err := s.temp("application-")
		return &backing{address: dir}, err
	case storeHoldfast:
		v, err := s.holdfast("tcp", "--memory")
		if err != nil {
			return nil, err
		}
		return &backing{address: v.addr(), pid: v.pid}, nil
	case storeRedis:
		v, err := s.redis("tcp", "")
		if err != nil {
			return nil, err
		}
		return &backing{v.address, v.pid, v.meterRedis}, nil
	case storePostgres:
		return s.database(func(t testing.TB) *backing {
			p := servers.StartPostgres(t, &servers.PostgresOptions{Durable: true, Settings: []string{"shared_preload_libraries=pg_stat_statements"}})
			dsn := p.Database(t)
			return &backing{dsn, p.PID(), meterSQL("pgx", dsn, "CREATE EXTENSION IF NOT EXISTS pg_stat_statements",
				"SELECT COALESCE(sum(calls), 0) FROM pg_stat_statements WHERE query NOT LIKE '%pg_stat_statements%'", 0)}
		})
	case storeMariaDB:
		return s.database(func(t testing.TB) *backing {
			p := servers.StartMariaDB(t, &servers.MariaDBOptions{Durable: true})
			// With the values in the statement, it is one round trip.
			dsn := p.Database(t) + "?parseTime=true&interpolateParams=true"
			return &backing{dsn, p.PID(), meterSQL("mysql", dsn, "",
				"SELECT CAST(VARIABLE_VALUE AS UNSIGNED) FROM information_schema.GLOBAL_STATUS WHERE VARIABLE_NAME = 'QUESTIONS'", 1)}
		})
	}
	return new(backing), nil
}

// cpu is the processor time of a store with all its processes.
func (b *backing) cpu() (time.Duration, error) {
	if b.pid == 0 {
		return 0, nil
	}
	var sum time.Duration
	tree := []int{b.pid}
	for i := 0; i < len(tree); i++ {
		one, err := load.CPUTime(tree[i])
		if err != nil && i == 0 {
			return 0, err
		}
		sum += one
		children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", tree[i]))
		if err != nil {
			continue // it is gone, or this kernel does not tell
		}
		for f := range strings.FieldsSeq(string(children)) {
			if child, err := strconv.Atoi(f); err == nil {
				tree = append(tree, child)
			}
		}
	}
	return sum, nil
}

// A stand plays the part of a test for package servers: the servers end with the row.
type stand struct {
	testing.TB // what is not below is not called
	s          *suite
	failed     bool
}

// standFailed is how a stand gives up, as a test does.
type standFailed struct{ error }

func (t *stand) Helper()                           {}
func (t *stand) Context() context.Context          { return context.Background() }
func (t *stand) Cleanup(undo func())               { t.s.later(undo) }
func (t *stand) Failed() bool                      { return t.failed }
func (t *stand) Logf(format string, args ...any)   { fmt.Fprintf(t.s.log, format+"\n", args...) }
func (t *stand) Error(args ...any)                 { t.failed = true; t.Logf("%s", fmt.Sprint(args...)) }
func (t *stand) Errorf(format string, args ...any) { t.failed = true; t.Logf(format, args...) }
func (t *stand) Fatal(args ...any)                 { panic(standFailed{errors.New(fmt.Sprint(args...))}) }
func (t *stand) Fatalf(format string, args ...any) { panic(standFailed{fmt.Errorf(format, args...)}) }

// standing does something that package servers does for a test.
func standing[T any](s *suite, do func(testing.TB) T) (v T, err error) {
	defer func() {
		switch failed := recover().(type) {
		case nil:
		case standFailed:
			err = failed.error
		default:
			panic(failed)
		}
	}()
	return do(&stand{s: s}), nil
}

// database starts a database by package servers.
func (s *suite) database(start func(testing.TB) *backing) (*backing, error) {
	b, err := standing(s, start)
	if err != nil && strings.Contains(err.Error(), errAbsent.Error()) {
		s.missing("%v", err)
		return nil, errAbsent
	}
	return b, err
}

// meterSQL counts statements: setup is run once, count returns how many there were, of
// which own are its own.
func meterSQL(driver, dsn, setup, count string, own float64) func(context.Context, func() error) (figures, error) {
	return func(ctx context.Context, do func() error) (figures, error) {
		db, err := sql.Open(driver, dsn)
		if err != nil {
			return nil, err
		}
		defer db.Close()
		if setup != "" {
			if _, err := db.ExecContext(ctx, setup); err != nil {
				return nil, err
			}
		}
		var before, after float64
		if err := db.QueryRowContext(ctx, count).Scan(&before); err != nil {
			return nil, err
		}
		if err := do(); err != nil {
			return nil, err
		}
		err = db.QueryRowContext(ctx, count).Scan(&after)
		return figures{metricAsked.Name: after - before - own}, err
	}
}

// meterRedis counts bytes, and then, while do runs once more, commands: those that
// clients send, not those of scripts.
func (v *server) meterRedis(ctx context.Context, do func() error) (figures, error) {
	c := redis.NewClient(&redis.Options{Addr: v.address})
	defer c.Close()
	var seen [3]float64
	for i := range seen {
		if i == 2 {
			if err := do(); err != nil {
				return nil, err
			}
		}
		info, err := c.Info(ctx, "stats").Result()
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(info) {
			if name, value, _ := strings.Cut(line, ":"); name == "total_net_input_bytes" || name == "total_net_output_bytes" {
				seen[i] += atof(value)
			}
		}
	}
	bytes := (seen[2] - seen[1]) - (seen[1] - seen[0]) // without the questions

	nc, err := v.dial(ctx)
	if err != nil {
		return nil, err
	}
	defer nc.Close()
	if _, err := nc.Write([]byte("MONITOR\r\n")); err != nil {
		return nil, err
	}
	lines := bufio.NewScanner(nc)
	if !lines.Scan() {
		return nil, errors.Join(errors.New("redis does not answer MONITOR"), lines.Err())
	}
	if err := do(); err != nil {
		return nil, err
	}
	const end = "holdfast-bench-end"
	if err := c.Echo(ctx, end).Err(); err != nil {
		return nil, err
	}
	commands := 0
	for lines.Scan() {
		if strings.Contains(lines.Text(), end) {
			break
		}
		if !strings.Contains(lines.Text(), " lua]") {
			commands++
		}
	}
	return figures{metricAsked.Name: float64(commands), metricWire.Name: bytes}, lines.Err()
}
