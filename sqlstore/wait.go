package sqlstore

import (
	"context"
	"encoding/hex"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-session/holdfast/store"
)

// A queue has the lines in which the calls of this process wait for locks, one line for
// each session, in order of arrival. Of each line one waiter, the asker, asks the
// database, for all of them.
//
// The asker asks again when this process gives the lock up, when the database tells that
// another did, and after a while: a short one at first and when the lock has changed
// hands, so that a process that comes seldom is not passed over for ever.
type queue struct {
	mu    sync.Mutex
	lines map[key]*line
}

// A line is guarded by the queue's mutex.
type line struct {
	waiters []*waiter // in order of arrival
	asker   *waiter
	holder  holder
	// rest says that a call of this process has just got the lock, so that the asker need
	// not ask at once.
	rest bool
}

// A holder is who was last seen to have the lock.
type holder struct {
	lock  store.Lock
	since time.Time // when it was taken or renewed, by the clock of this process
	seen  time.Time // when the database was asked; zero if it was not yet
}

func (h *holder) error() error {
	return &store.LockedError{Lock: h.lock, Age: max(0, time.Since(h.since))}
}

// A waiter is a Lock call that waits.
type waiter struct {
	owner   uint64
	stale   time.Duration
	arrived time.Time
	until   time.Time
	// turn has something in it when the waiter has become the asker, or is to ask again
	// at once.
	turn chan struct{}
}

func (w *waiter) call() {
	select {
	case w.turn <- struct{}{}:
	default: // it was called and has not looked yet
	}
}

// join lines a call up. It is the asker if it is alone.
func (q *queue) join(k key, o store.LockOptions) *waiter {
	now := time.Now()
	w := &waiter{owner: o.Owner, stale: o.Stale, arrived: now, until: now.Add(o.Wait), turn: make(chan struct{}, 1)}
	q.mu.Lock()
	defer q.mu.Unlock()
	l := q.lines[k]
	if l == nil {
		if q.lines == nil {
			q.lines = make(map[key]*line)
		}
		l = new(line)
		q.lines[k] = l
	}
	l.waiters = append(l.waiters, w)
	switch {
	case l.asker == nil:
		l.asker = w
		w.call()
	case !l.holder.seen.IsZero() && l.holder.lock.Owner == w.owner: // it has the lock, and has come to hear so
		l.asker = w
		w.call()
	}
	return w
}

// leave takes a call out of the line. got is whom the next then finds to have the lock, if
// that is known.
func (q *queue) leave(k key, w *waiter, got *holder) {
	q.mu.Lock()
	defer q.mu.Unlock()
	l := q.lines[k]
	l.waiters = slices.DeleteFunc(l.waiters, func(other *waiter) bool { return other == w })
	if len(l.waiters) == 0 {
		delete(q.lines, k)
		return
	}
	if got != nil {
		l.holder = *got
	}
	if l.asker == w {
		l.asker = l.next(time.Now())
		l.rest = got != nil && l.asker.owner != got.lock.Owner
		l.asker.call()
	}
}

// next chooses the asker: the first who has the lock already, or for whom it is stale;
// else the first in line.
func (l *line) next(now time.Time) *waiter {
	if h := &l.holder; !h.seen.IsZero() {
		for _, w := range l.waiters {
			if w.owner == h.lock.Owner || w.stale > 0 && now.Sub(h.since) >= w.stale {
				return w
			}
		}
	}
	return l.waiters[0]
}

// saw notes whom the asker w saw to have the lock, lets another ask where it is his turn,
// and returns how long w may sleep before the lock is stale for somebody. It reports
// whether the lock has changed hands since it was last seen.
func (q *queue) saw(k key, w *waiter, h holder) (sleep time.Duration, changed bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	l := q.lines[k]
	changed = l.holder.seen.IsZero() || l.holder.lock != h.lock
	l.holder, l.rest = h, false
	now := time.Now()
	if next := l.next(now); l.asker == w && next != w {
		l.asker = next
		next.call()
	}
	sleep = w.until.Sub(now)
	for _, other := range l.waiters {
		if other.stale > 0 {
			sleep = min(sleep, h.since.Add(other.stale).Sub(now))
		}
	}
	return max(sleep, time.Millisecond), changed
}

// asks reports whether w is to ask the database, and whether it may rest before; and who
// was last seen to have the lock.
func (q *queue) asks(k key, w *waiter) (is, rest bool, h holder) {
	q.mu.Lock()
	defer q.mu.Unlock()
	l := q.lines[k]
	is, rest = l.asker == w, l.rest
	l.rest = l.rest && !is
	return is, rest, l.holder
}

// wake lets the asker of a line ask again, because the lock was given up.
func (q *queue) wake(k key) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if l := q.lines[k]; l != nil {
		l.wake()
	}
}

func (l *line) wake() {
	l.holder, l.rest = holder{}, false
	l.asker.call()
}

// notified takes a message of the database: the key of a session whose lock was given up.
// The empty one, and one that cannot be read, may have been any.
func (q *queue) notified(message string) {
	var k key
	if n, err := hex.Decode(k[:], []byte(message[:min(len(message), 2*len(k))])); err == nil && n == len(k) {
		q.wake(k)
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, l := range q.lines {
		l.wake()
	}
}

// How often an asker asks: the pauses grow from the first to the last. Where the database
// tells, it asks only in case that it was not told.
const (
	firstPause = 2 * time.Millisecond
	lastPause  = 100 * time.Millisecond
	toldPause  = time.Second
)

// lateAnswer is how much longer than its caller a try waits for the database, to know
// whether it took the lock.
const lateAnswer = 250 * time.Millisecond

// A locker takes locks in a database.
type locker interface {
	// tryLock takes the lock of a session, or returns a [*store.LockedError]. With told,
	// it also asks the database to tell when that lock is given up. taken is the lock that
	// this call took, or perhaps took if the error does not say; zero if the caller had it
	// before.
	tryLock(ctx context.Context, k key, o store.LockOptions, told bool, rec *store.Record) (taken store.Lock, err error)
	// giveBack releases a lock that tryLock perhaps took. With wait, it returns when that
	// is done, or has taken too long.
	giveBack(k key, taken store.Lock, wait bool)
}

// lock is Lock. With o.Wait it waits in line; told says that the database tells when a
// lock is given up.
func (q *queue) lock(ctx context.Context, l locker, k key, o store.LockOptions, told bool, rec *store.Record) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if o.Wait <= 0 {
		return try(ctx, l, k, o, false, rec)
	}
	w := q.join(k, o)
	var got *holder
	defer func() { q.leave(k, w, got) }()
	until, again := time.NewTimer(o.Wait), time.NewTimer(o.Wait)
	defer until.Stop()
	defer again.Stop()
	for pause := firstPause; ; {
		called, over := false, false
		select {
		case <-w.turn:
			called = true
		case <-again.C:
		case <-until.C:
			over = true
		case <-ctx.Done():
			return ctx.Err()
		}
		asks, rest, h := q.asks(k, w)
		switch {
		case over && h.seen.After(w.arrived):
			return h.error()
		case over:
		case !asks:
			continue
		case called && rest:
			again.Reset(jitter(firstPause))
			continue
		}
		began := time.Now()
		err := try(ctx, l, k, o, told && !over, rec)
		var locked *store.LockedError
		switch {
		case err == nil:
			got = &holder{lock: rec.Lock, since: began, seen: began}
			return nil
		case over || !errors.As(err, &locked):
			return err
		}
		sleep, changed := q.saw(k, w, holder{lock: locked.Lock, since: time.Now().Add(-locked.Age), seen: began})
		switch {
		case told:
			pause = toldPause
		case changed:
			pause = firstPause
		default:
			pause = min(pause*3/2, lastPause)
		}
		again.Reset(min(sleep, jitter(pause)))
	}
}

// try is one tryLock, whose lock is given back if ctx ends. It waits a little longer than
// ctx for the outcome, so that it mostly knows what there is to give back.
func try(ctx context.Context, l locker, k key, o store.LockOptions, told bool, rec *store.Record) error {
	longer, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(lateAnswer, cancel) })
	defer stop()
	taken, err := l.tryLock(longer, k, o, told, rec)
	gone := ctx.Err()
	if gone == nil {
		return err
	}
	known := err == nil
	if !taken.IsZero() && (known || errors.Is(err, store.ErrUnsure) || longer.Err() != nil) {
		l.giveBack(k, taken, known)
	}
	return gone
}
