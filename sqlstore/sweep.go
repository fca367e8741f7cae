package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

const (
	// sweepEvery is how often one process of all looks for what has expired.
	sweepEvery = 30 * time.Second
	// sweepTurn is how long one has the turn that does not say that it is done. One that
	// takes long says now and then that it is not.
	sweepTurn = 5 * time.Minute
	keepEvery = time.Minute
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
		t, err := s.takeTurn(ctx)
		if err != nil || t == nil {
			continue
		}
		// What fails now is done in the next turn.
		if _, err := s.sweepIn(ctx, t); err == nil {
			_ = t.over(ctx)
		}
	}
}

// A turn is that of this process at sweeping. It is told from those of others by its end.
type turn struct {
	s     *Store
	until int64
	kept  time.Time // when it was taken, or until was last set
}

// takeTurn takes the turn, or returns nil if another has it.
func (s *Store) takeTurn(ctx context.Context) (*turn, error) {
	t := &turn{s: s, kept: time.Now()}
	if n, err := s.exec(ctx, s.st.turn, &args{pLease: sweepTurn.Microseconds()}); err != nil || n == 0 {
		return nil, err
	}
	until, err := collect(ctx, s, s.st.turnUntil, false, scanInt, new(args))
	if err != nil || len(until) == 0 {
		return nil, err
	}
	t.until = until[0]
	return t, nil
}

// errTurnLost means that a turn took so long that another process has it now.
var errTurnLost = errors.New("another process has the turn at sweeping")

// keep puts the end of the turn off by what has passed, when that is long enough.
func (t *turn) keep(ctx context.Context) error {
	now := time.Now()
	more := now.Sub(t.kept).Microseconds()
	if now.Sub(t.kept) < keepEvery {
		return nil
	}
	n, err := t.s.exec(ctx, t.s.st.keepTurn, &args{pTurn: t.until, pLease: more})
	if err == nil && n == 0 {
		err = errTurnLost
	}
	t.until, t.kept = t.until+more, now
	return err
}

// over ends the turn. The next one is after a pause.
func (t *turn) over(ctx context.Context) error {
	_, err := t.s.exec(ctx, t.s.st.turnOver, &args{pTurn: t.until, pLease: (sweepEvery / 2).Microseconds()})
	return err
}

// sweep looks at all rows that are due, whoever else does.
func (s *Store) sweep(ctx context.Context) (Swept, error) { return s.sweepIn(ctx, nil) }

// sweepIn looks at all rows that are due, in a turn if it is not nil.
func (s *Store) sweepIn(ctx context.Context, t *turn) (done Swept, err error) {
	for {
		n, err := s.paced(ctx, t, s.st.forgetFirst)
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
		ended, err := s.paced(ctx, t, s.st.expireFirst)
		done.Ended += ended
		if err != nil {
			return done, err
		}
		delayed, err := s.paced(ctx, t, s.st.delayFirst)
		if err != nil {
			return done, err
		}
		if ended+delayed > 0 {
			idle = 0
			continue
		}
		// Perhaps another sweep is just doing these, and there are more.
		due, err := collect(ctx, s, s.st.due, false, scanInt, new(args))
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
func (s *Store) paced(ctx context.Context, t *turn, st *statement) (n int64, err error) {
	if t != nil {
		if err := t.keep(ctx); err != nil {
			return 0, err
		}
	}
	began := time.Now()
	n, err = s.exec(ctx, st, s.endArgs())
	if err == nil && n > 0 {
		err = sleep(ctx, min((sweepShare-1)*time.Since(began), time.Second))
	}
	return n, err
}

func scanInt(rows *sql.Rows) (n int64, err error) { return n, rows.Scan(&n) }
