package migrate

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/holdfast-session/holdfast/store"
)

// AllOptions are the terms of [All]. The zero value, and a nil pointer, is a good
// choice for two stores that have nothing in common.
type AllOptions struct {
	// Name and Stays are those of [Options], and the same as the processes have.
	Name  string
	Stays func(id store.ID) bool

	// App is the one application whose sessions move; empty for all.
	App string

	// Rate is how many sessions move in a second at most; default 0, any number. It
	// leaves the stores to their visitors.
	Rate int

	// Parallel is how many sessions move at the same time; default 1.
	Parallel int

	// LockTimeout is the age at which the lock of a request that has died is taken
	// over, as holdfast.Options has it; default 20 seconds. A session that is locked
	// for less is left alone, and looked at again.
	LockTimeout time.Duration

	// Progress, if not nil, is called after each session, by one goroutine at a time,
	// which it holds up. [All] then counts the sessions first, for Progress.Total.
	Progress func(Progress)

	// Moved, if not nil, is called with the ID of each session that was moved, by one
	// goroutine at a time; for [Verify].
	Moved func(id store.ID)
}

// A Progress is how far [All] has come.
type Progress struct {
	// Total is how many sessions there were in the old place at the beginning; 0 if
	// nobody asked for it.
	Total int
	// Moved is how many sessions were moved.
	Moved int
	// Gone is how many were gone when their turn came: ended, or moved by a request.
	Gone int
	// Busy is how many are still in the old place, or halfway, because a request has
	// them locked or the new place has no room for them.
	Busy int
}

// All moves every session that is in from, a [store.Lister], to to. The processes that
// use these sessions must be in the phase [Move]. It goes through the list once, and
// once more through what was busy after the lock timeout, and finishes what movers have
// left that died. It may be stopped at any time by ctx, and begun again: it then moves
// what is left. Several may run at once.
//
// It returns at the first error of a store that is not about a single session. Call it
// again until Moved and Busy are zero.
func All(ctx context.Context, from, to store.Store, o *AllOptions) (Progress, error) {
	m := newMover(from, to, o)
	defer m.close()
	lister, ok := from.(store.Lister)
	if !ok {
		return Progress{}, fmt.Errorf("migrate: All: a %T cannot list its sessions; those that are used move by themselves, and the others expire: %w", from, errors.ErrUnsupported)
	}
	if m.o.Progress != nil {
		err := m.pages(ctx, lister, func(page []store.Listed) error {
			m.progress.Total += len(pick(page, m.isAway))
			return nil
		})
		if err != nil {
			return m.progress, err
		}
	}
	err := m.pages(ctx, lister, func(page []store.Listed) error { return m.each(ctx, pick(page, m.isAway), m.one) })
	if err == nil {
		err = m.finishAll(ctx)
	}
	return m.progress, err
}

// Finish finishes what movers have left that died between two steps, and moves nothing
// else. It is for the way back. When some sessions have moved and it is decided that the
// old place is to stay, all processes are brought to the phase [Prepare] again, and no
// All runs any more. After Finish, which must have left nothing busy, they may be
// brought to the phase Prepare of a store with the two exchanged, and so on from there:
// to Move, and All.
//
// It needs a new place that is a [store.Lister].
func Finish(ctx context.Context, from, to store.Store, o *AllOptions) (Progress, error) {
	m := newMover(from, to, o)
	defer m.close()
	if _, ok := to.(store.Lister); !ok {
		return Progress{}, fmt.Errorf("migrate: Finish: a %T cannot list its sessions: %w", to, errors.ErrUnsupported)
	}
	err := m.finishAll(ctx)
	return m.progress, err
}

// A mover is one run of All.
type mover struct {
	*pair
	o    AllOptions
	turn *time.Ticker

	mu       sync.Mutex
	progress Progress
	busy     []store.ID // in the old place
	halfway  []store.ID // in the new place
}

func newMover(from, to store.Store, o *AllOptions) *mover {
	if o == nil {
		o = &AllOptions{}
	}
	m := &mover{pair: newPair(from, to, &Options{Phase: Move, Name: o.Name, Stays: o.Stays}), o: *o}
	if m.o.LockTimeout <= 0 {
		m.o.LockTimeout = 20 * time.Second
	}
	if o.Rate > 0 {
		m.turn = time.NewTicker(max(time.Second/time.Duration(o.Rate), 1))
	}
	return m
}

func (m *mover) close() {
	if m.turn != nil {
		m.turn.Stop()
	}
}

// pages calls do with what a store lists, a page at a time.
func (m *mover) pages(ctx context.Context, l store.Lister, do func(page []store.Listed) error) error {
	for q := (store.Query{App: m.o.App}); ; {
		page, next, err := l.List(ctx, q)
		if err == nil {
			err = do(page)
		}
		if err != nil {
			return err
		}
		if q.After = next; next == "" {
			return nil
		}
	}
}

// pick returns the sessions of a page that are as is says.
func pick(page []store.Listed, is func(*store.Listed) bool) (ids []store.ID) {
	for i := range page {
		if is(&page[i]) {
			ids = append(ids, page[i].ID)
		}
	}
	return ids
}

// each calls do for each of the sessions, several at a time, until one call fails.
func (m *mover) each(ctx context.Context, ids []store.ID, do func(context.Context, store.ID) error) error {
	all, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	next := make(chan store.ID)
	var workers sync.WaitGroup
	for range min(max(m.o.Parallel, 1), len(ids)) {
		workers.Go(func() {
			for id := range next {
				if err := do(all, id); err != nil {
					stop(err)
					return
				}
			}
		})
	}
	for _, id := range ids {
		select {
		case next <- id:
		case <-all.Done():
		}
	}
	close(next)
	workers.Wait()
	if err := ctx.Err(); err != nil {
		return err
	}
	return context.Cause(all)
}

// finishAll finishes what movers have left in the new place, so that it has everything
// once the old place is gone, and looks at what was busy a second time.
func (m *mover) finishAll(ctx context.Context) error {
	if lister, ok := m.to.(store.Lister); ok {
		err := m.pages(ctx, lister, func(page []store.Listed) error {
			return m.each(ctx, pick(page, m.isHalfway), m.finishOne)
		})
		if err != nil {
			return err
		}
	}
	if len(m.busy)+len(m.halfway) == 0 {
		return nil
	}
	select {
	case <-time.After(m.o.LockTimeout):
	case <-ctx.Done():
		return ctx.Err()
	}
	busy, halfway := m.busy, m.halfway
	m.busy, m.halfway, m.progress.Busy = nil, nil, 0
	if err := m.each(ctx, busy, m.one); err != nil {
		return err
	}
	return m.each(ctx, halfway, m.finishOne)
}

// isAway reports whether what the old place lists is to move.
func (m *mover) isAway(one *store.Listed) bool { return !m.isHome(one.ID) }

// isHalfway reports whether what the new place lists is a mover's.
func (m *mover) isHalfway(one *store.Listed) bool {
	return one.Record.Flags&store.Moving != 0 && !m.isHome(one.ID)
}

// count counts what became of a session.
func (m *mover) count(add func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	add()
	if m.o.Progress != nil {
		m.o.Progress(m.progress)
	}
}

func (m *mover) isBusy(list *[]store.ID, id store.ID) {
	m.count(func() {
		*list = append(*list, id)
		m.progress.Busy++
	})
}

// one moves a session, or notes that it is busy.
func (m *mover) one(ctx context.Context, id store.ID) error {
	if m.turn != nil {
		select {
		case <-m.turn.C:
		case <-ctx.Done():
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	var rec store.Record
	o := store.LockOptions{Owner: store.NewOwner(), Stale: m.o.LockTimeout}
	err := m.moveLocked(ctx, id, o, &rec)
	locked := new(store.LockedError)
	switch {
	case errors.Is(err, store.ErrNotFound):
		m.count(func() { m.progress.Gone++ })
		return nil
	case errors.As(err, &locked), errors.Is(err, errAgain):
		m.isBusy(&m.busy, id)
		return nil
	case err != nil:
		return fmt.Errorf("migrate: moving a session: %w", m.giveBack(context.WithoutCancel(ctx), id, o.Owner, err))
	}
	// Where it is locked now says whether it has moved.
	err = m.from.Unlock(context.WithoutCancel(ctx), id, rec.Lock)
	switch {
	case err == nil:
		m.isBusy(&m.busy, id)
	case errors.Is(err, store.ErrNotFound):
		if err := m.to.Unlock(context.WithoutCancel(ctx), id, rec.Lock); err != nil && !errors.Is(err, store.ErrNotFound) && !errors.Is(err, store.ErrLockLost) {
			return err
		}
		m.count(func() {
			m.progress.Moved++
			if m.o.Moved != nil {
				m.o.Moved(id)
			}
		})
	case errors.Is(err, store.ErrLockLost):
		m.isBusy(&m.busy, id)
	default:
		return err
	}
	return nil
}

// finishOne finishes what a mover has left of a session.
func (m *mover) finishOne(ctx context.Context, id store.ID) error {
	o := store.LockOptions{Owner: store.NewOwner(), Stale: m.o.LockTimeout}
	err := m.Lock(ctx, id, o, new(store.Record))
	if err == nil {
		err = m.Unlock(context.WithoutCancel(ctx), id, store.Lock{Owner: o.Owner})
	}
	if locked := new(store.LockedError); errors.As(err, &locked) {
		m.isBusy(&m.halfway, id)
		return nil
	}
	if errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrLockLost) {
		return nil
	}
	return err
}
