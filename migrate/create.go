package migrate

import (
	"context"
	"errors"

	"github.com/holdfast-session/holdfast/store"
)

// Create implements [store.Store].
func (p *pair) Create(ctx context.Context, id store.ID, rec *store.Record, hold bool) error {
	switch {
	case p.isHome(id):
		return p.to.Create(ctx, id, rec, hold)
	case rec.Version == 0:
		return errForeign
	}
	var there found
	for range tries {
		if err := p.look(ctx, id, &there); err != nil {
			return err
		}
		if there.state == reserved || there.state == copied {
			gone, err := p.original(ctx, id, rec, hold)
			switch {
			case err != nil || gone == nil:
				return err
			case there.state == reserved || isDead(gone):
				if err := p.takeAway(ctx, id, &there); err != nil {
					return err
				}
				continue
			}
			there.state = settled
		}
		var err error
		switch {
		case there.state == settled:
			return isThere(&there.Record, rec, hold)
		case p.phase == Move || isOver(there.absent):
			err = p.createNew(ctx, id, rec, hold)
		default:
			err = p.createOld(ctx, id, rec, hold)
		}
		if !errors.Is(err, errAgain) {
			return err
		}
	}
	return errRestless
}

// isThere is what Create returns where the session have is in its place.
func isThere(have, rec *store.Record, hold bool) error {
	if !have.Seen(rec.Version) {
		return store.ErrExists
	}
	if owner := have.Lock.Owner; hold && have.Locked && (owner == 0 || owner == rec.Lock.Owner) {
		rec.Lock.Cookie = have.Lock.Cookie
	}
	return nil
}

// original returns what Create returns if the old place has the session, else how that
// says that it has not.
func (p *pair) original(ctx context.Context, id store.ID, rec *store.Record, hold bool) (gone, err error) {
	var have store.Record
	err = p.from.Load(ctx, id, &have)
	if errors.Is(err, store.ErrNotFound) {
		return err, nil
	}
	if err == nil {
		err = isThere(&have, rec, hold)
	}
	return nil, err
}

// createOld creates the session in the old place, and takes it away again if it has
// come into being in the new one meanwhile.
func (p *pair) createOld(ctx context.Context, id store.ID, rec *store.Record, hold bool) error {
	if err := p.from.Create(ctx, id, rec, hold); err != nil {
		return err
	}
	var there found
	err := p.look(ctx, id, &there)
	switch {
	case err != nil:
		return unsure(err)
	case there.state == none && !isOver(there.absent), there.state == reserved,
		there.state == copied && isSame(rec, &there.Record):
		return nil
	}
	if err := p.drop(ctx, p.from, id, rec.Version); err != nil {
		return unsure(err)
	}
	return errAgain
}

// createNew creates the session in the new place. It begins as a reservation, and is
// there only once the old place is seen to have none.
func (p *pair) createNew(ctx context.Context, id store.ID, rec *store.Record, hold bool) error {
	mark := store.Record{
		Version: before(rec.Version, rec.History[0]), History: [3]store.Version{rec.History[1], rec.History[2]},
		Timeout: rec.Timeout, Created: rec.Created, Flags: reservation,
	}
	err := p.to.Create(ctx, id, &mark, false)
	switch {
	case errors.Is(err, store.ErrExists):
		return errAgain
	case err != nil:
		return err
	}
	gone, err := p.original(ctx, id, rec, hold)
	if gone == nil {
		return errors.Join(err, p.drop(ctx, p.to, id, mark.Version))
	}
	in := *rec
	in.Version, in.Flags, in.Lock = mark.Version, inward(rec.Flags), store.Lock{}
	if hold {
		in.Lock.Owner = rec.Lock.Owner
	}
	if err := p.to.Save(ctx, id, &in, rec.Version, hold); err != nil {
		if errors.Is(err, store.ErrFull) || errors.Is(err, store.ErrTooLarge) {
			return errors.Join(err, p.drop(ctx, p.to, id, mark.Version))
		}
		return again(err)
	}
	if !hold {
		return nil
	}
	var now store.Record
	if err := p.to.Lock(ctx, id, store.LockOptions{Owner: rec.Lock.Owner}, &now); err != nil {
		return unsure(err)
	}
	rec.Lock.Cookie = now.Lock.Cookie
	return nil
}
