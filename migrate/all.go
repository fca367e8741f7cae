package migrate

import (
	"context"
	"errors"
	"fmt"
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

	// LockTimeout is the age at which the lock of a request that has died is taken
	// over, as holdfast.Options has it; default 20 seconds. A session that is locked
	// for less is left alone, and looked at again.
	LockTimeout time.Duration

	// Progress, if not nil, is called after each page of the list.
	Progress func(Progress)
}

// A Progress is how far [All] has come.
type Progress struct {
	// Moved is how many sessions were moved.
	Moved int
	// Gone is how many were gone when their turn came: ended, or moved by a request.
	Gone int
	// Busy is how many are still in the old place, because a request has them locked
	// or the new place has no room for them.
	Busy int
}

// All moves every session that is in from, a [store.Lister], to to. The processes that
// use these sessions must be in the phase [Move]. It goes through the list once, and
// once more through what was busy after the lock timeout. It may be stopped at any
// time by ctx, and begun again: it then moves what is left. Several may run at once.
//
// It returns at the first error of a store that is not about a single session. Call it
// again until Moved and Busy are zero.
func All(ctx context.Context, from, to store.Store, o *AllOptions) (Progress, error) {
	if o == nil {
		o = &AllOptions{}
	}
	lister, ok := from.(store.Lister)
	if !ok {
		return Progress{}, fmt.Errorf("migrate: All: a %T cannot list its sessions; those that are used move by themselves, and the others expire: %w", from, errors.ErrUnsupported)
	}
	m := mover{pair: newPair(from, to, &Options{Phase: Move, Name: o.Name, Stays: o.Stays}), o: *o}
	if m.o.LockTimeout <= 0 {
		m.o.LockTimeout = 20 * time.Second
	}
	if o.Rate > 0 {
		m.turn = time.NewTicker(max(time.Second/time.Duration(o.Rate), 1))
		defer m.turn.Stop()
	}
	if err := m.list(ctx, lister); err != nil {
		return m.progress, err
	}
	if lister, ok := to.(store.Lister); ok {
		if err := m.finishAll(ctx, lister); err != nil {
			return m.progress, err
		}
	}
	if len(m.busy) == 0 {
		return m.progress, nil
	}
	select {
	case <-time.After(m.o.LockTimeout):
	case <-ctx.Done():
		return m.progress, ctx.Err()
	}
	busy := m.busy
	m.busy, m.progress.Busy = nil, 0
	for _, id := range busy {
		if err := m.one(ctx, id); err != nil {
			return m.progress, err
		}
	}
	m.report()
	return m.progress, nil
}

// A mover is one run of All.
type mover struct {
	*pair
	o        AllOptions
	turn     *time.Ticker
	progress Progress
	busy     []store.ID
}

func (m *mover) report() {
	if m.o.Progress != nil {
		m.o.Progress(m.progress)
	}
}

// list moves what the old place lists.
func (m *mover) list(ctx context.Context, l store.Lister) error {
	for q := (store.Query{App: m.o.App}); ; {
		page, next, err := l.List(ctx, q)
		if err != nil {
			return err
		}
		for _, one := range page {
			if m.isHome(one.ID) {
				continue
			}
			if err := m.one(ctx, one.ID); err != nil {
				return err
			}
		}
		m.report()
		if q.After = next; next == "" {
			return nil
		}
	}
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
		m.progress.Gone++
		return nil
	case errors.As(err, &locked), errors.Is(err, errAgain):
		m.isBusy(id)
		return nil
	case err != nil:
		return fmt.Errorf("migrate: moving a session: %w", m.giveBack(context.WithoutCancel(ctx), id, o.Owner, err))
	}
	// Where it is locked now says whether it has moved.
	err = m.from.Unlock(context.WithoutCancel(ctx), id, rec.Lock)
	switch {
	case err == nil:
		m.isBusy(id)
	case errors.Is(err, store.ErrNotFound):
		if err := m.to.Unlock(context.WithoutCancel(ctx), id, rec.Lock); err != nil && !errors.Is(err, store.ErrNotFound) && !errors.Is(err, store.ErrLockLost) {
			return err
		}
		m.progress.Moved++
	case !errors.Is(err, store.ErrLockLost):
		return err
	}
	return nil
}

func (m *mover) isBusy(id store.ID) {
	m.busy = append(m.busy, id)
	m.progress.Busy++
}

// finishAll finishes what movers have left in the new place, so that it has everything
// once the old place is gone.
func (m *mover) finishAll(ctx context.Context, l store.Lister) error {
	for q := (store.Query{App: m.o.App}); ; {
		page, next, err := l.List(ctx, q)
		if err != nil {
			return err
		}
		for _, one := range page {
			if one.Record.Flags&store.Moving == 0 || m.isHome(one.ID) {
				continue
			}
			o := store.LockOptions{Owner: store.NewOwner(), Stale: m.o.LockTimeout}
			err := m.Lock(ctx, one.ID, o, new(store.Record))
			locked := new(store.LockedError)
			switch {
			case errors.As(err, &locked), errors.Is(err, store.ErrNotFound):
				continue
			case err == nil:
				err = m.Unlock(context.WithoutCancel(ctx), one.ID, store.Lock{Owner: o.Owner})
			}
			if err != nil {
				return err
			}
		}
		if q.After = next; next == "" {
			return nil
		}
	}
}
