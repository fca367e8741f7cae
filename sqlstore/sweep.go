package sqlstore

import (
	"context"
	"database/sql"
	"fmt"
	"time"
)

const (
	// sweepEvery is how often one process of all looks for what has expired.
	sweepEvery = 30 * time.Second
	// sweepTurn is how long one has the turn that does not say that it is done.
	sweepTurn = 5 * time.Minute
)

// Swept is what a sweep did.
type Swept struct {
	// Ended is how many sessions had expired and were ended.
	Ended int64
	// Forgotten is how many tombstones were deleted, of sessions that ended long ago.
	Forgotten int64
}

// Sweep ends the sessions that have expired by now, and deletes the tombstones of those
// that ended long ago, a hundred rows at a time with a pause in between. Every [Store]
// does so by itself, one of all that use the table at a time.
func Sweep(ctx context.Context, db *sql.DB, o *Options) (Swept, error) {
	s, err := open(ctx, db, o, "")
	if err != nil {
		return Swept{}, err
	}
	defer s.Close()
	swept, err := s.sweep(ctx)
	if err != nil {
		err = fmt.Errorf("sqlstore: %w", err)
	}
	return swept, err
}

// sweepAlways sweeps from time to time, when it is this process's turn.
func (s *Store) sweepAlways(ctx context.Context) {
	for sleep(ctx, jitter(sweepEvery)) == nil {
		n, err := s.exec(ctx, s.st.turn, &args{pLease: sweepTurn.Microseconds()})
		if err != nil || n == 0 {
			continue
		}
		// What fails now is done in the next turn.
		if _, err := s.sweep(ctx); err == nil {
			_, _ = s.exec(ctx, s.st.turnOver, &args{pLease: (sweepEvery / 2).Microseconds()})
		}
	}
}

// sweep looks at all rows that are due.
func (s *Store) sweep(ctx context.Context) (done Swept, err error) {
	for {
		n, err := s.paced(ctx, s.st.forgetFirst)
		done.Forgotten += n
		if err != nil {
			return done, err
		}
		if n < sweepBatch {
			break
		}
	}
	for idle := 0; idle < idleRounds; {
		// Of the rows that are due first, those that have expired end, and the others
		// are due later. Together that is all of them.
		ended, err := s.paced(ctx, s.st.expireFirst)
		done.Ended += ended
		if err != nil {
			return done, err
		}
		delayed, err := s.paced(ctx, s.st.delayFirst)
		if err != nil {
			return done, err
		}
		if ended+delayed > 0 {
			idle = 0
			continue
		}
		// Perhaps another sweep is just doing these, and there are more.
		due, err := collect(ctx, s, s.st.due, false, scanDue, new(args))
		if err != nil {
			return done, err
		}
		if len(due) == 0 {
			break
		}
		idle++
		if err := sleep(ctx, jitter(lastPause)); err != nil {
			return done, err
		}
	}
	return done, s.trimEnds(ctx)
}

// idleRounds is how often a sweep comes back to rows that others hold.
const idleRounds = 5

// sweepShare is the part of its time that a sweep works; for the rest requests have the
// database for themselves.
const sweepShare = 10

// paced runs a statement of a sweep, and pauses if it found something to do.
func (s *Store) paced(ctx context.Context, st *statement) (n int64, err error) {
	began := time.Now()
	n, err = s.exec(ctx, st, s.endArgs())
	if err == nil && n > 0 {
		err = sleep(ctx, min((sweepShare-1)*time.Since(began), time.Second))
	}
	return n, err
}

func scanDue(rows *sql.Rows) (due int64, err error) { return due, rows.Scan(&due) }
