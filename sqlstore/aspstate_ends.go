package sqlstore

import (
	"context"
	"database/sql"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/holdfast-session/holdfast/store"
)

var _ store.Ender = (*ASPState)(nil)

// Ended implements [store.Ender] as well as the tables allow, which is at most once: of the
// sessions that this process removes, and of those that it finds expired, which it deletes.
// Those that something else deletes (an ASP.NET application, its SQL Agent job,
// [ASPState.Sweep]) end untold, and what this process has not delivered when it ends is
// lost. An ID that the table has as its hash is told as that. Ends are remembered from the
// first call for an application on, up to 10,000 of 64 MiB.
func (s *ASPState) Ended(ctx context.Context, app string, limit int, lease time.Duration) ([]store.End, error) {
	s.ends.want(app)
	if limit <= 0 {
		return nil, nil
	}
	ends := s.ends.claim(app, limit, lease)
	if len(ends) == limit {
		return ends, nil
	}
	at, err := s.at(ctx, store.ID{App: app})
	if err != nil {
		return ends, unlessSome(ends, err)
	}
	expired, err := s.deleteExpired(ctx, app, at.key[len(at.key)-aspAppDigits:], min(limit-len(ends), sweepBatch))
	for _, e := range expired {
		s.ends.add(e)
	}
	return append(ends, s.ends.claim(app, len(expired), lease)...), unlessSome(ends, err)
}

// unlessSome is err, unless there are ends that it must not withhold.
func unlessSome(ends []store.End, err error) error {
	if len(ends) > 0 {
		return nil
	}
	return err
}

// Ack implements [store.Ender].
func (s *ASPState) Ack(_ context.Context, app string, keys []string) error {
	s.ends.forget(app, keys)
	return nil
}

// deleteExpired deletes sessions of an application that have expired, and returns their
// ends. If the reply is lost, so are they.
func (s *ASPState) deleteExpired(ctx context.Context, app, digits string, limit int) (all []store.End, err error) {
	err = repeat(ctx, sqlServer{}, true, func() error {
		all = nil
		rows, err := s.db.QueryContext(ctx, s.sql.claim, sql.Named("limit", limit), sql.Named("app", digits))
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var key string
			row, err := scanASPRow(rows, &key)
			if err != nil {
				return err
			}
			if row.flags&aspUninitialized == 0 {
				why := store.Reason{Kind: store.Expired, Age: row.now.Sub(row.expires)}
				all = append(all, s.endOf(store.ID{App: app, Session: key[:len(key)-aspAppDigits]}, row, why))
			}
		}
		return rows.Err()
	})
	if err != nil {
		return nil, err
	}
	return all, nil
}

// endOf is the end of a session that was as the row says.
func (s *ASPState) endOf(id store.ID, row *aspRow, why store.Reason) store.End {
	e := store.End{ID: id, Reason: why}
	_ = s.fill(&e.Record, row) // what cannot be read, ends without content
	e.Record.Lock, e.Record.Locked, e.Record.LockAge = store.Lock{}, false, 0
	return e
}

const (
	maxASPEnds     = 10_000
	maxASPEndBytes = 64 << 20
)

// aspEnds are the ends that this process knows of, the oldest first.
type aspEnds struct {
	mu    sync.Mutex
	apps  map[string]bool // those that were asked for
	all   []aspEnd
	bytes int
	next  uint64 // key; the first is random, so that no key of another process is known here
}

type aspEnd struct {
	store.End
	at      time.Time // when it ended
	claimed time.Time // until then it is somebody's
}

func (x *aspEnds) want(app string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.apps == nil {
		x.apps, x.next = make(map[string]bool), rand.Uint64()
	}
	x.apps[app] = true
}

func (x *aspEnds) wants(app string) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.apps[app]
}

func (x *aspEnds) add(e store.End) {
	x.mu.Lock()
	defer x.mu.Unlock()
	e.Key = strconv.FormatUint(x.next, 36)
	x.next++
	x.all = append(x.all, aspEnd{End: e, at: time.Now().Add(-e.Reason.Age)})
	x.bytes += len(e.Record.Body)
	for len(x.all) > maxASPEnds || x.bytes > maxASPEndBytes {
		x.bytes -= len(x.all[0].Record.Body)
		x.all = slices.Delete(x.all, 0, 1)
	}
}

func (x *aspEnds) claim(app string, limit int, lease time.Duration) (ends []store.End) {
	x.mu.Lock()
	defer x.mu.Unlock()
	now := time.Now()
	for i := range x.all {
		e := &x.all[i]
		if len(ends) < limit && e.ID.App == app && !now.Before(e.claimed) {
			e.claimed = now.Add(lease)
			e.Reason.Age = now.Sub(e.at)
			ends = append(ends, e.End)
		}
	}
	return ends
}

func (x *aspEnds) forget(app string, keys []string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.all = slices.DeleteFunc(x.all, func(e aspEnd) bool {
		known := e.ID.App == app && slices.Contains(keys, e.Key)
		if known {
			x.bytes -= len(e.Record.Body)
		}
		return known
	})
}
