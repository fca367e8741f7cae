package migrate

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/holdfast-session/holdfast/store"
)

// errAgain means that the session is not any more where it was a moment ago: look
// again. It leaves this package never.
var errAgain = errors.New("migrate: look again")

var errForeign = errors.New("migrate: a session without a version, from a store that keeps none, cannot be moved safely; let such sessions expire where they are")

// ErrSamePlace means that two stores are one, or have a server in common of which Stays
// does not know: a session of the one is in the other, and moving it would end it.
var ErrSamePlace = errors.New("migrate: the old and the new store are the same place")

// errNoItems is for content that only its own store can keep.
var errNoItems = errors.New("migrate: the session's content is kept as values of this process, which the new place cannot keep")

// Flags in the new place. There store.Moving is this package's; outer stands for that
// of a caller, who may be moving a session here himself.
const outer store.Flags = 1 << 30

func inward(f store.Flags) store.Flags {
	if f&store.Moving != 0 {
		return f&^store.Moving | outer
	}
	return f
}

func outward(f store.Flags) store.Flags {
	f &^= store.Moving
	if f&outer != 0 {
		return f&^outer | store.Moving
	}
	return f
}

// reservation marks a session that has no content yet. It is uninitialized besides, so
// that nobody takes it for a session and it has no end.
const reservation = store.Moving | store.Uninitialized | 1<<29

// A state is what the new place has of a session.
type state uint8

const (
	none     state = iota
	reserved       // by a mover, or by who creates it
	copied         // live if the old place has it no more
	settled        // live
)

// A found is what the new place has. Its record is as a caller is to see it.
type found struct {
	store.Record
	state      state
	unfinished bool          // it is a copy that is live
	label      store.Version // what the new place has for a version
	absent     error         // of state none
}

// look reads what the new place has.
func (p *pair) look(ctx context.Context, id store.ID, f *found) error {
	*f = found{Record: store.Record{Body: f.Body[:0]}}
	err := p.to.Load(ctx, id, &f.Record)
	if errors.Is(err, store.ErrNotFound) {
		f.absent = err
		return nil
	}
	if err == nil {
		f.read()
	}
	return err
}

// read finds out what the record that is in f is.
func (f *found) read() {
	f.label = f.Version
	switch {
	case f.Flags&store.Moving == 0:
		f.state = settled
	case f.Flags&reservation == reservation:
		f.state = reserved
		return
	default:
		f.state = copied
		f.History, f.Version = [3]store.Version{f.Version, f.History[0], f.History[1]}, ^f.History[2]
		f.Acquired = f.Version
	}
	f.Flags = outward(f.Flags)
	hide(&f.Record)
}

// before returns the version before v, which is h; if that is none, one that is made
// from v stands in for it.
func before(v, h store.Version) store.Version {
	if h != 0 {
		return h
	}
	return max(v+1, 1)
}

// hide takes out of the history what stands in for versions that there never were.
func hide(rec *store.Record) {
	v := rec.Version
	for i, h := range rec.History {
		if h == 0 {
			return
		}
		if h == before(v, 0) {
			clear(rec.History[i:])
			return
		}
		v = h
	}
}

// steps are the versions that a session with this record has in the new place on its
// way there. The version that it will have is at the end of the history, inverted (as
// it is, step 6 would be taken for a repeat), and is gone from there after step 6.
func steps(rec *store.Record) (reserve store.Record, copy store.Version) {
	h1 := before(rec.Version, rec.History[0])
	h2 := before(h1, rec.History[1])
	h3 := before(h2, rec.History[2])
	return store.Record{
		Version: h2, History: [3]store.Version{h3, ^rec.Version},
		Timeout: rec.Timeout, Created: rec.Created, Flags: reservation,
	}, h1
}

// moveLocked locks the session in the old place, moves it, and returns with the lock
// in the new place. It is [store.ErrNotFound] if the old place has it not.
func (p *pair) moveLocked(ctx context.Context, id store.ID, o store.LockOptions, rec *store.Record) error {
	if err := p.from.Lock(ctx, id, o, rec); err != nil {
		return err
	}
	visitor := ctx
	ctx = context.WithoutCancel(ctx) // it is short, and not to be left half done
	err := p.carry(ctx, id, o, rec)
	switch {
	case errors.Is(err, store.ErrFull) || errors.Is(err, store.ErrTooLarge):
		err = nil // it stays where it is, locked
	case err == nil:
		err = p.to.Lock(ctx, id, store.LockOptions{Owner: o.Owner, Stale: o.Stale}, rec)
		if locked := new(store.LockedError); errors.As(err, &locked) || errors.Is(err, store.ErrNotFound) {
			return errAgain // another took it in between
		}
		rec.Flags = outward(rec.Flags)
		hide(rec)
	case errors.Is(err, errAgain), errors.Is(err, store.ErrNotFound):
		return err
	}
	if err == nil {
		err = visitor.Err()
	}
	if err != nil && !o.Renew {
		err = p.giveBack(ctx, id, o.Owner, err)
	}
	return err
}

// giveBack gives up whatever lock the owner has, in either place, because of err.
func (p *pair) giveBack(ctx context.Context, id store.ID, owner uint64, err error) error {
	for _, s := range []store.Store{p.from, p.to} {
		e := s.Unlock(ctx, id, store.Lock{Owner: owner})
		if e != nil && !errors.Is(e, store.ErrNotFound) && !errors.Is(e, store.ErrLockLost) {
			err = unsure(err)
		}
	}
	return err
}

// carry makes the steps from the second on for a session that is locked in the old
// place, as rec says. After an error that says so the session is where it was, or on
// the way: that is errAgain.
func (p *pair) carry(ctx context.Context, id store.ID, o store.LockOptions, rec *store.Record) error {
	owner := store.Lock{Owner: o.Owner}
	for range tries {
		if rec.Version == 0 {
			return errForeign
		}
		mark, label := steps(rec)
		err := p.to.Create(ctx, id, &mark, false)
		if err != nil && !errors.Is(err, store.ErrExists) {
			return err
		}
		// A Create that succeeds may have met what another mover made of an earlier
		// version, which has the same label.
		there, err := p.meet(ctx, id, rec, mark.Version)
		if err != nil {
			return err
		}
		if there == none {
			continue
		}
		isCopied := there == copied

		version := rec.Version
		err = p.from.Lock(ctx, id, store.LockOptions{Owner: o.Owner, Stale: o.Stale}, rec)
		switch locked := new(store.LockedError); {
		case errors.As(err, &locked):
			return errAgain
		case errors.Is(err, store.ErrNotFound):
			if !isCopied {
				if e := p.drop(ctx, p.to, id, mark.Version); e != nil {
					return e
				}
			}
			return err
		case err != nil:
			return err
		case rec.Version != version:
			continue
		}

		in, err := p.content(rec)
		if err != nil {
			return err
		}
		in.Version, in.Flags, in.Lock = mark.Version, inward(rec.Flags)|store.Moving, rec.Lock
		if isCopied {
			// The lock that it has there is of a mover who stopped.
			o := store.LockOptions{Owner: o.Owner, Stale: 1, Wait: breakWait}
			if err := p.to.Lock(ctx, id, o, new(store.Record)); err != nil {
				return again(err)
			}
		} else if err := p.to.Save(ctx, id, in, label, true); err != nil {
			if errors.Is(err, store.ErrFull) || errors.Is(err, store.ErrTooLarge) {
				if e := p.drop(ctx, p.to, id, mark.Version); e != nil {
					return e
				}
			}
			return again(err)
		}

		if err := p.from.Remove(ctx, id, rec.Lock, store.Reason{Kind: store.Moved, To: p.name}); err != nil {
			if isDead(err) {
				if e := p.drop(ctx, p.to, id, label); e != nil {
					return e
				}
			}
			return again(err)
		}

		in.Version, in.Flags, in.Lock = label, inward(rec.Flags), owner
		return again(p.to.Save(ctx, id, in, rec.Version, true))
	}
	return errAgain
}

// again turns the refusal of a step into errAgain: another has come in between.
func again(err error) error {
	locked := new(store.LockedError)
	if errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrLockLost) || errors.As(err, &locked) {
		return errAgain
	}
	return err
}

// meet looks at what the new place has of a session that is locked in the old place, as
// rec says: the reservation with that label, or the copy that would come next, or none
// of them. Then whatever else was there is out of the way.
func (p *pair) meet(ctx context.Context, id store.ID, rec *store.Record, label store.Version) (state, error) {
	var there found
	if err := p.look(ctx, id, &there); err != nil {
		return none, err
	}
	switch there.state {
	case none:
		return none, nil
	case reserved:
		if there.label == label && there.History[1] == ^rec.Version {
			return reserved, nil
		}
		return none, p.drop(ctx, p.to, id, there.label)
	case copied:
		switch {
		case there.Version == rec.Version:
			return copied, nil
		case isSame(rec, &there.Record):
			return none, p.drop(ctx, p.to, id, there.label) // an earlier version of it
		}
	}
	if there.Locked && there.Lock.Cookie == rec.Lock.Cookie && there.Version == rec.Version {
		return none, ErrSamePlace
	}
	// The session lives in the new place. What is here was made by a Create that is
	// about to take it away again, or was.
	err := p.from.Remove(ctx, id, rec.Lock, store.Reason{Kind: store.Moved, To: p.name})
	if err == nil {
		err = errAgain
	}
	return none, again(err)
}

// isSame reports whether was is an earlier state of the session that now is, and not
// of another one under the same ID.
func isSame(now, was *store.Record) bool {
	return now.Seen(was.Version) || now.Created.Sub(was.Created).Abs() < time.Second // which is as exact as any store keeps it
}

// content returns a record with what rec has, in the form that the new place keeps.
func (p *pair) content(rec *store.Record) (*store.Record, error) {
	in := *rec
	in.Locked, in.LockAge = false, 0
	if rec.Items != nil && !keepsItems(p.to) {
		b, ok := rec.Items.(interface{ AppendBody([]byte) []byte })
		if !ok {
			return nil, errNoItems
		}
		in.Body, in.Items = b.AppendBody(nil), nil
	}
	return &in, nil
}

// finish makes the last step for a copy that is live. The lock is the caller's; if it
// is the one that is held, it is kept.
func (p *pair) finish(ctx context.Context, id store.ID, there *found, lock store.Lock) error {
	if !there.unfinished {
		return nil
	}
	in := there.Record
	in.Version, in.Flags, in.Lock = there.label, inward(there.Flags), store.Lock{}
	mine := there.Locked && lock.Names(there.Lock)
	if mine {
		in.Lock = lock
	}
	err := p.to.Save(ctx, id, &in, there.Version, mine)
	if locked := new(store.LockedError); errors.As(err, &locked) {
		if lock.IsZero() {
			return err
		}
		return store.ErrLockLost
	}
	if err = again(err); err == nil {
		there.unfinished, there.label = false, there.Version
	}
	return err
}

// grace is how long a reservation without an original is left alone: who made it is
// most likely about to find out, or creates a session.
const grace = 50 * time.Millisecond

// takeAway drops what there is in the new place and not live, if it is still there after
// a moment.
func (p *pair) takeAway(ctx context.Context, id store.ID, there *found) error {
	label := there.label
	if there.state == reserved {
		select {
		case <-time.After(grace/2 + rand.N(grace/2)):
		case <-ctx.Done():
			return ctx.Err()
		}
		if err := p.look(ctx, id, there); err != nil || there.label != label || there.state == none {
			return err
		}
	}
	return p.drop(ctx, p.to, id, label)
}

// breakWait is how long it may take to break a lock, in a store that keeps time in
// whole seconds.
const breakWait = 3 * time.Second

// drop takes a session out of a store, if it has that version there: one that is not
// live, and never will be. It is no end.
func (p *pair) drop(ctx context.Context, s store.Store, id store.ID, version store.Version) error {
	var rec store.Record
	err := s.Lock(ctx, id, store.LockOptions{Owner: store.NewOwner(), Stale: 1, Wait: breakWait}, &rec)
	if err == nil {
		if rec.Version == version {
			err = s.Remove(ctx, id, rec.Lock, store.Reason{Kind: store.Moved, To: takenAway})
		} else {
			err = s.Unlock(ctx, id, rec.Lock)
		}
	}
	if errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrLockLost) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("migrate: what a mover left could not be taken away: %w", err)
	}
	return nil
}
