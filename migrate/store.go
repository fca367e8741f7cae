package migrate

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-session/holdfast/store"
)

// A Phase is how far the processes of an application have come.
type Phase uint8

const (
	// Prepare: new sessions begin in the old place, and nothing is moved. Processes in
	// this phase may run beside some that know the old place alone, as long as no
	// process is in the phase Move.
	Prepare Phase = iota
	// Move: new sessions begin in the new place, and a session in the old place moves
	// when it is locked. Every other process must know both places.
	Move
)

// Options configure [New] and [All]. The zero value, and a nil pointer, is a good
// choice to begin with.
type Options struct {
	// Phase is the phase of this process.
	Phase Phase

	// Name is what the old place answers for a session that has moved
	// ([store.Reason].To); default "new store".
	Name string

	// Stays reports that a session's place is the same in both stores, which it then
	// is used in without further ado. It is for two lists of servers that have some in
	// common, where the new store reaches every server of the old one; see the
	// example of a list that grows. Nil: the stores have nothing in common. It must be safe for
	// concurrent use.
	Stays func(id store.ID) bool
}

// New returns a store over two: whatever is in from or in to is found, and sessions
// go from the one to the other as the package comment says. It is a [store.Ender], a
// [store.Lister] and a [store.ItemKeeper] if both stores are. Closing the two is left
// to who opened them.
func New(from, to store.Store, o *Options) store.Store {
	p := newPair(from, to, o)
	oldEnder, e1 := from.(store.Ender)
	newEnder, e2 := to.(store.Ender)
	oldLister, l1 := from.(store.Lister)
	newLister, l2 := to.(store.Lister)
	ender, lister := pairEnder{p, oldEnder, newEnder}, pairLister{p, oldLister, newLister}
	switch {
	case e1 && e2 && l1 && l2:
		return struct {
			*pair
			pairEnder
			pairLister
		}{p, ender, lister}
	case e1 && e2:
		return struct {
			*pair
			pairEnder
		}{p, ender}
	case l1 && l2:
		return struct {
			*pair
			pairLister
		}{p, lister}
	}
	return p
}

// A pair is the store of New.
type pair struct {
	from, to store.Store
	phase    Phase
	name     string
	stays    func(store.ID) bool
}

func newPair(from, to store.Store, o *Options) *pair {
	if o == nil {
		o = &Options{}
	}
	p := &pair{from, to, o.Phase, o.Name, o.Stays}
	if p.name == "" {
		p.name = "new store"
	}
	return p
}

func keepsItems(s store.Store) bool {
	k, ok := s.(store.ItemKeeper)
	return ok && k.KeepsItems()
}

// KeepsItems implements [store.ItemKeeper].
func (p *pair) KeepsItems() bool { return keepsItems(p.from) && keepsItems(p.to) }

// isHome reports whether the session is used in the new store and nowhere else.
func (p *pair) isHome(id store.ID) bool { return p.stays != nil && p.stays(id) }

// tries is how often a call looks for a session that moves, ends or begins under its
// hands each time.
const tries = 32

var errRestless = fmt.Errorf("migrate: the session is never in one place: %w", store.ErrUnavailable)

// takenAway is where a session went that was never live (To, with the kind Moved).
const takenAway = "taken away by migrate"

// absent is what a call returns for a session that neither place has: the reason of
// its latest end that is known.
func (p *pair) absent(old, new error) error {
	a, b := store.ReasonOf(old), store.ReasonOf(new)
	isMove := func(r store.Reason) bool {
		return r.Kind == store.Moved && (r.To == p.name || r.To == takenAway)
	}
	tells := func(r store.Reason) bool {
		return r.Kind != store.Unknown && r.Kind != store.Restarted && !isMove(r)
	}
	switch {
	case tells(a) && (!tells(b) || a.Age < b.Age):
		return old
	case !isMove(b):
		return new
	}
	return store.ErrNotFound // moved, and nothing is known of what came then
}

// isOver reports whether the new place says that a session has ended for good, so
// that the old one need not be asked.
func isOver(err error) bool {
	kind := store.ReasonOf(err).Kind
	return kind == store.Abandoned || kind == store.Regenerated
}

// isDead reports whether the old place says that a session ended there, and did not
// move.
func isDead(err error) bool {
	switch store.ReasonOf(err).Kind {
	case store.Unknown, store.Restarted, store.Moved:
		return false
	}
	return true
}

// do makes a call where the session is live. new makes it in the new place, where the
// session was found as there says.
func (p *pair) do(ctx context.Context, id store.ID, old func() error, new func(there *found) error) error {
	var there found
	for range tries {
		if p.phase == Move {
			if err := p.look(ctx, id, &there); err != nil {
				return err
			}
			switch {
			case there.state == settled:
				if err := new(&there); !errors.Is(err, errAgain) {
					return err
				}
				continue
			case there.state == none && isOver(there.absent):
				return there.absent
			}
		}
		gone := old()
		if !errors.Is(gone, store.ErrNotFound) {
			return gone
		}
		if err := p.look(ctx, id, &there); err != nil {
			return err
		}
		if there.state == copied && !isDead(gone) {
			there.state = settled
			there.unfinished = true
		}
		var err error
		switch there.state {
		case none:
			return p.absent(gone, there.absent)
		case settled:
			if err = new(&there); !errors.Is(err, errAgain) {
				return err
			}
		default:
			err = p.takeAway(ctx, id, &there)
		}
		if err != nil && !errors.Is(err, errAgain) {
			return err
		}
	}
	return errRestless
}

// Load implements [store.Store].
func (p *pair) Load(ctx context.Context, id store.ID, rec *store.Record) error {
	if p.isHome(id) {
		return p.to.Load(ctx, id, rec)
	}
	return p.do(ctx, id,
		func() error { return p.from.Load(ctx, id, rec) },
		func(there *found) error {
			body := append(rec.Body[:0], there.Body...)
			*rec = there.Record
			rec.Body = body
			return nil
		})
}

// Save implements [store.Store].
func (p *pair) Save(ctx context.Context, id store.ID, rec *store.Record, next store.Version, hold bool) error {
	if p.isHome(id) {
		return p.to.Save(ctx, id, rec, next, hold)
	}
	return p.do(ctx, id,
		func() error { return p.from.Save(ctx, id, rec, next, hold) },
		func(there *found) error {
			if there.Seen(next) {
				return nil
			}
			if err := p.finish(ctx, id, there, rec.Lock); err != nil {
				return err
			}
			in := *rec
			in.Flags = inward(rec.Flags)
			return p.to.Save(ctx, id, &in, next, hold)
		})
}

// Unlock implements [store.Store].
func (p *pair) Unlock(ctx context.Context, id store.ID, lock store.Lock) error {
	if p.isHome(id) {
		return p.to.Unlock(ctx, id, lock)
	}
	return p.do(ctx, id,
		func() error { return p.from.Unlock(ctx, id, lock) },
		func(*found) error { return p.to.Unlock(ctx, id, lock) })
}

// Touch implements [store.Store].
func (p *pair) Touch(ctx context.Context, id store.ID) error {
	if p.isHome(id) {
		return p.to.Touch(ctx, id)
	}
	return p.do(ctx, id,
		func() error { return p.from.Touch(ctx, id) },
		func(*found) error { return nil }) // the look has restarted it
}

// Remove implements [store.Store]. It is done when neither place has anything that
// could become the session again.
func (p *pair) Remove(ctx context.Context, id store.ID, lock store.Lock, why store.Reason) error {
	if p.isHome(id) {
		return p.to.Remove(ctx, id, lock, why)
	}
	return p.do(ctx, id,
		func() error {
			if err := p.from.Remove(ctx, id, lock, why); err != nil {
				return err
			}
			if err := p.clear(ctx, id, why); err != nil {
				return fmt.Errorf("%w: it was removed in the old place, and in the new: %v", store.ErrUnsure, err)
			}
			return nil
		},
		func(*found) error { return p.to.Remove(ctx, id, lock, why) })
}

// clear takes away what a mover has made in the new place of a session that has just
// been removed in the old one.
func (p *pair) clear(ctx context.Context, id store.ID, why store.Reason) error {
	var there found
	if err := p.look(ctx, id, &there); err != nil || there.state == none {
		return err
	}
	if there.state != settled {
		why = store.Reason{Kind: store.Moved, To: takenAway} // the old place has the reason, and the end
	}
	err := p.to.Remove(ctx, id, store.Lock{}, why)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	return err
}

// Lock implements [store.Store]. In the phase Move it moves the session, unless the
// new place has no room for it.
func (p *pair) Lock(ctx context.Context, id store.ID, o store.LockOptions, rec *store.Record) error {
	if p.isHome(id) {
		return p.to.Lock(ctx, id, o, rec)
	}
	lockOld := p.from.Lock
	if p.phase == Move {
		lockOld = p.moveLocked
	}
	until := time.Now().Add(o.Wait)
	var gone error // what the old place said, after which the new one was asked
	for i := range tries {
		if i > 0 {
			o.Wait = max(time.Until(until), 0)
		}
		if p.phase == Move || gone != nil {
			err := p.lockNew(ctx, id, o, rec, gone)
			switch {
			case !errors.Is(err, store.ErrNotFound):
				if !errors.Is(err, errAgain) {
					return err
				}
			case gone != nil:
				return p.absent(gone, err)
			case isOver(err):
				return err
			}
			gone = nil
		}
		err := lockOld(ctx, id, o, rec)
		switch {
		case errors.Is(err, store.ErrNotFound):
			gone = err
		case !errors.Is(err, errAgain):
			return err
		}
	}
	return p.giveBack(context.WithoutCancel(ctx), id, o.Owner, errRestless)
}

// lockNew locks the session in the new place, if it is live there; gone is what the
// old place has just said, or nil if it was not asked. It is [store.ErrNotFound] if the
// new place has nothing, and errAgain if what it has is not live.
func (p *pair) lockNew(ctx context.Context, id store.ID, o store.LockOptions, rec *store.Record, gone error) error {
	var there found
	err := p.to.Lock(ctx, id, o, rec)
	if locked := new(store.LockedError); errors.As(err, &locked) {
		return p.lockedBy(ctx, id, err)
	}
	if err != nil {
		return err
	}
	there.Record = *rec
	there.read()
	if there.state == settled {
		*rec = there.Record
		return nil
	}
	// It is a mover's, who stopped, or whose lock has become stale.
	ctx = context.WithoutCancel(ctx)
	lock := there.Lock
	if gone == nil {
		gone = p.from.Load(ctx, id, new(store.Record))
	}
	err = errAgain
	switch {
	case !errors.Is(gone, store.ErrNotFound):
		if gone != nil {
			err = gone
		}
		if e := p.to.Unlock(ctx, id, lock); e != nil && !errors.Is(e, store.ErrLockLost) && !errors.Is(e, store.ErrNotFound) {
			err = unsure(e)
		}
	case there.state == copied && !isDead(gone):
		there.unfinished = true
		if err = p.finish(ctx, id, &there, lock); err == nil {
			*rec = there.Record
			rec.Acquired = rec.Version
			return nil
		}
	default:
		if e := p.to.Remove(ctx, id, lock, store.Reason{Kind: store.Moved, To: takenAway}); e != nil && !errors.Is(e, store.ErrLockLost) && !errors.Is(e, store.ErrNotFound) {
			err = unsure(e)
		}
	}
	return err
}

// lockedBy returns err, the *LockedError of a Lock in the new place, if a session is
// live there, and not if it is a mover who has it locked: then it is errAgain.
func (p *pair) lockedBy(ctx context.Context, id store.ID, err error) error {
	var there found
	if e := p.look(ctx, id, &there); e != nil {
		return e
	}
	switch there.state {
	case settled:
		return err
	case copied:
		gone := p.from.Load(ctx, id, new(store.Record))
		if gone != nil && !errors.Is(gone, store.ErrNotFound) {
			return gone
		}
		if gone != nil && !isDead(gone) {
			return err
		}
	}
	return errAgain
}

// unsure is the error of a call that may hold a lock which it could not give back.
func unsure(err error) error {
	if errors.Is(err, store.ErrUnsure) {
		return err
	}
	return fmt.Errorf("%w: %v", store.ErrUnsure, err)
}
