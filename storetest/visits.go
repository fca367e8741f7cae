package storetest

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-session/holdfast/store"
)

// Visits are what visitors asked of a few sessions of a store and were told, while
// the store crashed and connections were cut. They are for a store whose processes and
// network a test has in its hands; [Run] checks the others. The sessions are new and
// used by nobody else.
type Visits struct {
	h history

	mu   sync.Mutex
	n    int              // how many visitors
	lost map[store.ID]int // replies
	busy map[store.ID]int // calls under way
}

// NewVisits returns an empty history. Its visitors make the same choices if the seed
// is the same. A Lock of theirs waits for up to wait, and takes over none.
func NewVisits(seed uint64, wait time.Duration, ids ...store.ID) *Visits {
	return &Visits{h: history{terms: terms{wait: wait}, seed: seed, ids: ids}, lost: make(map[store.ID]int), busy: make(map[store.ID]int)}
}

// Crash records that the process that keeps the sessions dies while kill runs. Locks
// are gone then, and nothing else of what was acknowledged.
func (h *Visits) Crash(kill func()) {
	called := h.h.now.Add(1)
	kill()
	for _, id := range h.h.ids {
		h.h.record(0, &request{method: "Crash", id: id}, &reply{}, called, h.h.now.Add(1))
	}
}

// Check reports an error for each session whose history no order of its calls
// explains, or cannot be checked within limit. All visits have returned.
func (h *Visits) Check(t testing.TB, limit time.Duration) {
	t.Helper()
	for _, id := range h.h.ids {
		h.h.check(t, id, model{reasons: true}, limit)
	}
}

// maxLost is how many lost replies one session has at most, since each makes the check
// take longer. A call is not begun if it might be the one too many: it rarely loses
// more than two.
const (
	maxLost     = 8
	lostPerCall = 2
)

// A Visitor makes calls of a store that Visits record. Visit is called by one
// goroutine.
type Visitor struct {
	h     *Visits
	k     *client
	again *request // whose outcome is not known
	cuts  atomic.Int64
}

// Visitor returns another visitor. Where a call of s is repeated on another
// connection, the visitor is to be told of each that was lost ([Visitor.Lost]).
func (h *Visits) Visitor(s store.Store) *Visitor {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.n++
	return &Visitor{h: h, k: newClient(&h.h, h.n, s)}
}

// Lost notes that a connection of the visitor's was lost. An attempt of the call under
// way perhaps has an effect, at any time from now on, and a lock whose grant is not
// known to have arrived is perhaps given back. It may be called at any time.
func (v *Visitor) Lost() { v.cuts.Add(1) }

// Visit makes a call, or repeats the one before if its outcome is not known. Its
// error is the call's if that is [store.ErrUnavailable] or [store.ErrUnsure], else nil.
// It makes none about a session of which so many replies are lost that its history
// could hardly be checked.
func (v *Visitor) Visit(ctx context.Context) error {
	q := v.again
	if q == nil {
		q = v.k.choose()
	}
	v.again = nil
	if !v.h.begin(q.id) {
		return nil
	}
	defer v.h.end(q.id)
	held := make(map[store.ID]uint64)
	for id, known := range v.k.known {
		if known != nil && !known.Lock.IsZero() {
			held[id] = known.Lock.Owner
		}
	}
	called := v.h.h.now.Add(1)
	p := v.k.ask(ctx, q)
	returned := v.h.h.now.Add(1)
	cuts := v.cuts.Swap(0)
	if cuts > 0 {
		for id, owner := range held {
			v.maybe(&request{method: "Unlock", id: id, lock: store.Lock{Owner: owner}}, called)
		}
	}
	v.k.learn(q, p)
	switch {
	case errors.Is(p.err, store.ErrUnavailable):
		return p.err // it was not applied: what was observed is to be explained without it
	case errors.Is(p.err, store.ErrUnsure) && q.method == "Load":
		return p.err
	case errors.Is(p.err, store.ErrUnsure):
		p.lost, returned = true, math.MaxInt64
		v.again = q
		v.h.lose(q.id)
	}
	v.h.h.record(v.k.n, q, &p, called, returned)
	if cuts > 0 || p.lost {
		if owner := ownerOf(q); owner != 0 {
			v.maybe(&request{method: "Unlock", id: q.id, lock: store.Lock{Owner: owner}}, called)
		}
	}
	if q.method == "Load" {
		return nil // it has no effect, however often it is repeated
	}
	for range cuts {
		v.h.lose(q.id)
		v.maybe(q, called)
	}
	if p.lost {
		return p.err
	}
	return nil
}

// ownerOf is the owner of the lock that q asks for, or 0.
func ownerOf(q *request) uint64 {
	switch {
	case q.method == "Lock":
		return q.options.Owner
	case q.hold:
		return q.rec.Lock.Owner
	}
	return 0
}

// maybe records a call that is perhaps made, at any time from now on.
func (v *Visitor) maybe(q *request, now int64) {
	p := &reply{err: fmt.Errorf("%w: perhaps not made at all", store.ErrUnsure), lost: true}
	v.h.h.record(v.k.n, q, p, now, math.MaxInt64)
}

// begin reports whether there may be another call of a session.
func (h *Visits) begin(id store.ID) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.lost[id]+(h.busy[id]+1)*lostPerCall > maxLost {
		return false
	}
	h.busy[id]++
	return true
}

func (h *Visits) end(id store.ID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.busy[id]--
}

func (h *Visits) lose(id store.ID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lost[id]++
}
