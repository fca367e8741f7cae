package inproc

import "github.com/holdfast-session/holdfast/internal/expiry"

const (
	tick       = expiry.Tick
	wheelSlots = expiry.Slots
	never      = expiry.Never

	// sweepBatch is how many sessions a sweep looks at before it lets others have
	// the shard. Each costs up to a microsecond.
	sweepBatch = 128
)

// A wheel finds the sessions of a shard that have expired, without looking at the
// others and without being told of every request. The sessions of a slot are linked.
type wheel struct {
	expiry.Wheel
	slots *[wheelSlots]*entry // made with the first session
}

// link puts e into its slot and returns the tick of that.
func (w *wheel) link(e *entry, now int64) int64 {
	if w.slots == nil {
		w.slots = new([wheelSlots]*entry)
	}
	at := w.Place(e.deadline, now)
	i := at % wheelSlots
	e.slot = uint16(i)
	if e.next = w.slots[i]; e.next != nil {
		e.next.prev = e
	}
	w.slots[i] = e
	return at
}

// unlink takes e out of its slot.
func (w *wheel) unlink(e *entry) {
	if e.next != nil {
		e.next.prev = e.prev
	}
	if e.prev != nil {
		e.prev.next = e.next
	} else {
		w.slots[e.slot] = e.next
		if e.next == nil {
			w.Empty(int(e.slot))
		}
	}
	e.prev, e.next = nil, nil
}

// sweepAll goes round the shards, a batch of each at a time, until all are done, and
// returns the first tick at which one has something to look at again.
func (s *Store) sweepAll() (next int64) {
	for done := false; !done; {
		next, done = never, true
		for i := range s.shard {
			n, all := s.sweepSome(&s.shard[i])
			next, done = min(next, n), done && all
		}
	}
	return next
}

// sweepSome looks at no more than sweepBatch sessions of a shard, and reports whether
// all that were due are done and which tick is next.
func (s *Store) sweepSome(sh *shard) (next int64, done bool) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	now := s.now()
	for range sweepBatch {
		slot, next, due := sh.wheel.Due(now)
		if !due {
			return next, true
		}
		e := sh.wheel.slots[slot]
		if e = s.settle(sh, e, now); e != nil {
			sh.wheel.unlink(e)
			sh.wheel.link(e, now)
		}
	}
	return 0, false
}
