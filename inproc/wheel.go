package inproc

import (
	"math"
	"math/bits"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

const (
	tick       = time.Second // how exactly memory is given back; expiry itself is exact
	wheelSlots = 1024
	wheelWords = wheelSlots / 64

	// sweepBatch is how many sessions a sweep looks at before it lets others have
	// the shard. Each costs up to a microsecond.
	sweepBatch = 128

	never = math.MaxInt64
)

// A wheel finds the sessions of a shard that have expired, without looking at the
// others and without being told of every request. It has a slot for each of the
// next 1,024 ticks. A session stays in its slot however often its deadline is put
// off; when the tick has come, it either has expired or moves on to the slot of the
// deadline that it has by then. Deadlines past the last slot are strewn over the
// later half, so that sessions that came all at once are not looked at all at once.
type wheel struct {
	slots    *[wheelSlots]*entry // made with the first session
	occupied [wheelWords]uint64  // a bit for each slot that is not empty
	swept    int64               // the last tick whose slot is done
}

// link puts e into its slot and returns the tick of that.
func (w *wheel) link(e *entry, now int64) int64 {
	if w.slots == nil {
		w.slots = new([wheelSlots]*entry)
	}
	if due := now / int64(tick); w.next() > due {
		w.swept = due // nothing was to be done since: no sweep came to say so
	}
	at := e.deadline / int64(tick)
	if e.deadline%int64(tick) > 0 {
		at++
	}
	if last := w.swept + wheelSlots - 1; at > last {
		at = last - rand.Int64N(wheelSlots/2)
	}
	at = max(at, w.swept+1)
	i := at % wheelSlots
	e.slot = uint16(i)
	if e.next = w.slots[i]; e.next != nil {
		e.next.prev = e
	}
	w.slots[i] = e
	w.occupied[i/64] |= 1 << (i % 64)
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
			w.occupied[e.slot/64] &^= 1 << (e.slot % 64)
		}
	}
	e.prev, e.next = nil, nil
}

// next is the first tick after the last one swept whose slot is not empty, or never.
func (w *wheel) next() int64 {
	first := (w.swept + 1) % wheelSlots
	word, bit := first/64, first%64
	for i := range int64(wheelWords + 1) { // the first word twice: its upper bits, its lower bits
		set := w.occupied[(word+i)%wheelWords]
		if i == 0 {
			set = set >> bit << bit
		}
		if set != 0 {
			slot := (word+i)%wheelWords*64 + int64(bits.TrailingZeros64(set))
			return w.swept + 1 + (slot-first+wheelSlots)%wheelSlots
		}
	}
	return never
}

// A sweeper runs the sweeps of a store: one at a time, on a timer that is set to the
// first tick at which any shard has something to look at.
type sweeper struct {
	mu      sync.Mutex
	timer   *time.Timer
	at      atomic.Int64 // the tick that the timer is set to; changed under mu
	running bool
	closed  bool
}

// arm makes sure that a sweep comes at that tick.
func (s *Store) arm(at, now int64) {
	w := &s.sweeper
	if at >= w.at.Load() {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if at >= w.at.Load() || w.closed {
		return
	}
	w.at.Store(at)
	if !w.running { // else the sweep sets it when it ends
		w.set(s, now)
	}
}

func (w *sweeper) set(s *Store, now int64) {
	d := time.Duration(w.at.Load()*int64(tick) - now)
	if w.timer == nil {
		w.timer = time.AfterFunc(d, s.sweep)
		return
	}
	w.timer.Reset(d)
}

// rest stops the timer if the store is empty, as it was a moment ago.
func (s *Store) rest() {
	w := &s.sweeper
	w.mu.Lock()
	defer w.mu.Unlock()
	at := w.at.Load()
	w.at.Store(never) // before the look at count, so that a session that comes now is counted or arms
	if s.count.Load() > 0 {
		w.at.Store(at)
		return
	}
	if w.timer != nil {
		w.timer.Stop()
	}
}

func (w *sweeper) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	if w.timer != nil {
		w.timer.Stop()
	}
}

// sweep ends the sessions that have expired.
func (s *Store) sweep() {
	w := &s.sweeper
	w.mu.Lock()
	if w.running || w.closed {
		w.mu.Unlock()
		return
	}
	w.running = true
	w.at.Store(never)
	w.mu.Unlock()

	next := s.sweepAll()

	w.mu.Lock()
	defer w.mu.Unlock()
	w.running = false
	next = min(next, w.at.Load())
	w.at.Store(never) // before the look at count, as in rest
	if s.count.Load() > 0 && next != never && !w.closed {
		w.at.Store(next)
		w.set(s, s.now())
	}
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
	due := now / int64(tick)
	for range sweepBatch {
		next = sh.wheel.next()
		if next > due {
			sh.wheel.swept = max(due, sh.wheel.swept)
			return next, true
		}
		sh.wheel.swept = next - 1
		e := sh.wheel.slots[next%wheelSlots]
		if e = s.settle(sh, e, now); e != nil {
			sh.wheel.unlink(e)
			sh.wheel.link(e, now)
		}
	}
	return 0, false
}
