package migrate

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/holdfast-session/holdfast/store"
)

// A Count is what [Verify] finds of one application.
type Count struct {
	App string
	// Moved is how many of its sessions were moved, and Found how many of these are in
	// the new place. Of the others, Ended have ended there since, in a way that it
	// knows, and of Missing it knows nothing.
	Moved, Found, Ended, Missing int
	// Old is how many sessions are in the old place alone, Halfway how many are on
	// their way, and New how many are in the new place, whether they were moved or
	// began there.
	Old, Halfway, New int
}

// Done reports whether nothing is left in the old place, or on its way, and nothing is
// missing.
func (c Count) Done() bool { return c.Old == 0 && c.Halfway == 0 && c.Missing == 0 }

// settling is how long what is on its way is given to arrive: a request that begins a
// session has it halfway for a moment.
const settling = time.Second

// Verify goes over both stores and counts, for each application, what is where; moved
// are the sessions that [AllOptions].Moved was told. It changes nothing. Requests may go
// on meanwhile, if they are in the phase [Move].
//
// Both stores must be a [store.Lister].
func Verify(ctx context.Context, from, to store.Store, o *AllOptions, moved []store.ID) ([]Count, error) {
	m := newMover(from, to, o)
	defer m.close()
	v := verifier{mover: m, counts: make(map[string]*Count), awaited: make(map[store.ID]bool, len(moved))}
	for _, id := range moved {
		v.awaited[id] = true
		v.of(id).Moved++
	}
	if err := v.list(ctx, from, v.old); err != nil {
		return nil, err
	}
	if err := v.list(ctx, to, v.new); err != nil {
		return nil, err
	}
	if err := v.settle(ctx); err != nil {
		return nil, err
	}
	for id := range v.awaited {
		err := to.Load(ctx, id, new(store.Record))
		switch store.ReasonOf(err).Kind {
		case store.Unknown, store.Restarted:
			switch {
			case err == nil:
				v.of(id).Found++
			case errors.Is(err, store.ErrNotFound):
				v.of(id).Missing++
			default:
				return nil, err
			}
		default:
			v.of(id).Ended++
		}
	}
	var all []Count
	for _, app := range slices.Sorted(maps.Keys(v.counts)) {
		all = append(all, *v.counts[app])
	}
	return all, nil
}

// A verifier is one run of Verify.
type verifier struct {
	*mover
	counts  map[string]*Count
	awaited map[store.ID]bool // sessions that were moved and not found yet
	halfway []store.ID
}

func (v *verifier) of(id store.ID) *Count {
	c := v.counts[id.App]
	if c == nil {
		c = &Count{App: id.App}
		v.counts[id.App] = c
	}
	return c
}

func (v *verifier) list(ctx context.Context, s store.Store, each func(*store.Listed)) error {
	lister, ok := s.(store.Lister)
	if !ok {
		return fmt.Errorf("migrate: Verify: a %T cannot list its sessions: %w", s, errors.ErrUnsupported)
	}
	return v.pages(ctx, lister, func(page []store.Listed) error {
		for i := range page {
			each(&page[i])
		}
		return nil
	})
}

func (v *verifier) old(one *store.Listed) {
	if v.isAway(one) {
		v.of(one.ID).Old++
	}
}

func (v *verifier) new(one *store.Listed) {
	if v.isHalfway(one) {
		v.halfway = append(v.halfway, one.ID)
	} else {
		v.there(one.ID)
	}
}

func (v *verifier) there(id store.ID) {
	v.of(id).New++
	if v.awaited[id] {
		delete(v.awaited, id)
		v.of(id).Found++
	}
}

// settle looks again at what was on its way.
func (v *verifier) settle(ctx context.Context) error {
	if len(v.halfway) == 0 {
		return nil
	}
	select {
	case <-time.After(settling):
	case <-ctx.Done():
		return ctx.Err()
	}
	for _, id := range v.halfway {
		var there found
		if err := v.look(ctx, id, &there); err != nil {
			return err
		}
		switch there.state {
		case settled:
			v.there(id)
		case reserved, copied:
			v.of(id).Halfway++
		}
	}
	return nil
}
