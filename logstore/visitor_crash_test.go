package logstore

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/holdfast-session/holdfast/store"
)

// A visitor does something with a session, tells the witness what, and notices an
// answer that contradicts what the witness knows.
type visitor struct {
	rand    *rand.Rand
	witness *witness
	short   func(store.ID) bool // sessions that live for seconds; they are not locked
}

// trouble reports whether err is an answer of a store that cannot do its work now.
func trouble(err error) bool {
	return errors.Is(err, store.ErrUnavailable) || errors.Is(err, store.ErrFull) || unsure(err)
}

// unsure reports whether the call that failed with err was perhaps made.
func unsure(err error) bool {
	return errors.Is(err, store.ErrUnsure) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// visit makes one call about the session, rarely two. Its error is either trouble,
// or says what the store did wrong.
func (v *visitor) visit(ctx context.Context, s store.Store, id store.ID) error {
	last, held, _ := v.witness.now(id)
	switch {
	case last.at.IsZero():
		return v.find(ctx, s, id)
	case last.rec == nil:
		if v.rand.IntN(4) == 0 {
			return v.load(ctx, s, id)
		}
		return v.create(ctx, s, id)
	case v.witness.mayHold(id, false) && !v.short(id):
		return v.lock(ctx, s, id)
	}
	switch n := v.rand.IntN(20); {
	case n < 2:
		return v.load(ctx, s, id)
	case n < 3:
		return v.touch(ctx, s, id)
	case n < 5:
		return v.remove(ctx, s, id)
	case n < 10 && !v.short(id):
		if held != nil && n < 7 {
			return v.unlock(ctx, s, id)
		}
		return v.lock(ctx, s, id)
	}
	return v.save(ctx, s, id)
}

// owner is the same for every lock of a session, so that one whose reply was lost
// is found again.
func owner(id store.ID) uint64 {
	return uint64(len(id.App))<<32 + uint64(id.Session[len(id.Session)-1])
}

// find learns how a call ended whose outcome is unknown.
func (v *visitor) find(ctx context.Context, s store.Store, id store.ID) error {
	var rec store.Record
	began := time.Now()
	err := s.Load(ctx, id, &rec)
	if trouble(err) {
		return err
	}
	return v.witness.observe(id, &rec, err, began, acknowledged)
}

func (v *visitor) load(ctx context.Context, s store.Store, id store.ID) error {
	var rec store.Record
	began := time.Now()
	err := s.Load(ctx, id, &rec)
	if trouble(err) {
		return err
	}
	return v.witness.observe(id, &rec, err, began, acknowledged)
}

func (v *visitor) create(ctx context.Context, s store.Store, id store.ID) error {
	rec := makeRecord(v.version(), v.short(id))
	in := *rec
	hold := !v.short(id) && v.rand.IntN(4) == 0
	if hold {
		in.Lock.Owner = owner(id)
	}
	v.witness.asks(id, state{rec: rec})
	err := s.Create(ctx, id, &in, hold)
	v.witness.answered(id, err)
	if err != nil {
		return v.expect(id, err, time.Now(), "Create")
	}
	v.witness.holds(id, nil)
	if hold {
		v.witness.holds(id, &in)
	}
	return nil
}

func (v *visitor) version() store.Version { return store.Version(v.rand.Uint64() | 1) }

// expect takes an error of a call about a session that should be there: trouble, or
// its timeout has passed.
func (v *visitor) expect(id store.ID, err error, began time.Time, call string) error {
	if trouble(err) {
		return err
	}
	if errors.Is(err, store.ErrNotFound) {
		return v.witness.observe(id, nil, err, began, acknowledged)
	}
	last, held, stale := v.witness.now(id)
	return fmt.Errorf("%s of %v, which is %v (locked: %v, before a crash: %v): %w", call, id, last, held != nil, stale, err)
}

func (v *visitor) save(ctx context.Context, s store.Store, id store.ID) error {
	last, held, _ := v.witness.now(id)
	rec := follow(last.rec, v.version(), v.short(id))
	in := *rec
	in.Version = last.rec.Version
	hold := false
	if held != nil {
		// The version that was read under the lock: if the crash took a later one
		// away, or brought one, this save must not pass.
		in.Version, in.Lock = held.Version, held.Lock
		hold = v.rand.IntN(3) == 0
		if held.Version != last.rec.Version {
			err := s.Save(ctx, id, &in, rec.Version, hold)
			v.witness.holds(id, nil)
			if !errors.Is(err, store.ErrLockLost) && !trouble(err) {
				return fmt.Errorf("Save of %v over version %x, under a lock taken at version %x: %v; want ErrLockLost",
					id, uint64(last.rec.Version), uint64(held.Version), err)
			}
			return nil
		}
	}
	began := time.Now()
	v.witness.asks(id, state{rec: rec})
	err := s.Save(ctx, id, &in, rec.Version, hold)
	v.witness.answered(id, err)
	if err != nil {
		return v.expect(id, err, began, "Save")
	}
	v.witness.holds(id, nil)
	if hold {
		in.Version = rec.Version
		v.witness.holds(id, &in)
	}
	return nil
}

func (v *visitor) lock(ctx context.Context, s store.Store, id store.ID) error {
	rec := new(store.Record)
	began := time.Now()
	err := s.Lock(ctx, id, store.LockOptions{Owner: owner(id), Stale: time.Hour}, rec)
	if err != nil {
		v.witness.mayHold(id, unsure(err))
		return v.expect(id, err, began, "Lock")
	}
	v.witness.holds(id, rec)
	return v.witness.observe(id, rec, nil, began, acknowledged)
}

func (v *visitor) unlock(ctx context.Context, s store.Store, id store.ID) error {
	_, held, _ := v.witness.now(id)
	began := time.Now()
	if err := s.Unlock(ctx, id, held.Lock); err != nil {
		return v.expect(id, err, began, "Unlock")
	}
	v.witness.holds(id, nil)
	v.witness.restarted(id, began)
	return nil
}

func (v *visitor) touch(ctx context.Context, s store.Store, id store.ID) error {
	began := time.Now()
	if err := s.Touch(ctx, id); err != nil {
		return v.expect(id, err, began, "Touch")
	}
	v.witness.restarted(id, began)
	return nil
}

func (v *visitor) remove(ctx context.Context, s store.Store, id store.ID) error {
	_, held, stale := v.witness.now(id)
	why := store.Reason{Kind: store.Abandoned}
	if v.rand.IntN(4) == 0 {
		why = store.Reason{Kind: store.Regenerated, To: "another"}
	}
	var lock store.Lock
	if held != nil && !stale && v.rand.IntN(2) == 0 {
		lock = held.Lock
	}
	began := time.Now()
	v.witness.asks(id, state{why: why.Kind})
	err := s.Remove(ctx, id, lock, why)
	v.witness.answered(id, err)
	if err != nil {
		return v.expect(id, err, began, "Remove")
	}
	v.witness.holds(id, nil)
	return nil
}
