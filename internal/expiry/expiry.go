// Package expiry finds what has expired among very many things, without looking at
// the others and without being told whenever a deadline is put off: the time of a
// timing wheel, and the timer that turns it. It is shared by the stores that keep
// their sessions in this process.
package expiry

import (
	"math"
	"math/bits"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// Tick is how exactly memory is given back; expiry itself is exact.
	Tick = time.Second

	// Slots is how many ticks a wheel is round.
	Slots = 1024

	// Never is the tick that does not come.
	Never = math.MaxInt64

	words = Slots / 64
)

// A Wheel has a slot for each of the next 1,024 ticks. Its owner keeps what is in
// them, in a list for each, and guards all of it. A thing stays in its slot however
// often its deadline is put off; when the tick has come, it either has expired or
// moves on to the slot of the deadline that it has by then. All times are nanoseconds
// of the owner's clock.
type Wheel struct {
	occupied [words]uint64 // a bit for each slot that is not empty
	swept    int64         // the last tick whose slot is done
}

// Place returns the tick for a thing with that deadline, whose slot (tick modulo
// [Slots]) it fills. Deadlines past the last slot are strewn over the later half, so
// that things that came all at once are not looked at all at once.
func (w *Wheel) Place(deadline, now int64) (tick int64) {
	if due := now / int64(Tick); w.Next() > due {
		w.swept = due // nothing was to be done since: no sweep came to say so
	}
	at := deadline / int64(Tick)
	if deadline%int64(Tick) > 0 {
		at++
	}
	if last := w.swept + Slots - 1; at > last {
		at = last - rand.Int64N(Slots/2)
	}
	at = max(at, w.swept+1)
	i := at % Slots
	w.occupied[i/64] |= 1 << (i % 64)
	return at
}

// Empty says that nothing is in the slot any more.
func (w *Wheel) Empty(slot int) { w.occupied[slot/64] &^= 1 << (slot % 64) }

// Next is the first tick after the last one swept whose slot is not empty, or [Never].
func (w *Wheel) Next() int64 {
	first := (w.swept + 1) % Slots
	word, bit := first/64, first%64
	for i := range int64(words + 1) { // the first word twice: its upper bits, its lower bits
		set := w.occupied[(word+i)%words]
		if i == 0 {
			set = set >> bit << bit
		}
		if set != 0 {
			slot := (word+i)%words*64 + int64(bits.TrailingZeros64(set))
			return w.swept + 1 + (slot-first+Slots)%Slots
		}
	}
	return Never
}

// Due returns the slot to look into now, and moves the wheel to its tick; if none is
// due, it moves the wheel to now and returns the next tick that is not empty.
func (w *Wheel) Due(now int64) (slot int, next int64, ok bool) {
	due := now / int64(Tick)
	if next = w.Next(); next > due {
		w.swept = max(due, w.swept)
		return 0, next, false
	}
	w.swept = next - 1
	return int(next % Slots), next, true
}

// A Sweeper runs the sweeps of a store: one at a time, on a timer that is set to the
// first tick at which anything is to be looked at. While the store is empty there is
// no timer. Its methods are safe for concurrent use.
type Sweeper struct {
	now   func() int64
	empty func() bool
	sweep func() (next int64)

	mu      sync.Mutex
	timer   *time.Timer
	at      atomic.Int64 // the tick that the timer is set to; changed under mu
	running bool
	closed  bool
}

// Init makes w ready. sweep ends what has expired by now and returns the first tick
// at which anything is to be looked at again; empty reports whether there is nothing
// at all.
func (w *Sweeper) Init(now func() int64, empty func() bool, sweep func() (next int64)) {
	w.now, w.empty, w.sweep = now, empty, sweep
	w.at.Store(Never)
}

// Arm makes sure that a sweep comes at that tick.
func (w *Sweeper) Arm(at, now int64) {
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
		w.set(now)
	}
}

func (w *Sweeper) set(now int64) {
	d := time.Duration(w.at.Load()*int64(Tick) - now)
	if w.timer == nil {
		w.timer = time.AfterFunc(d, w.Sweep)
		return
	}
	w.timer.Reset(d)
}

// At returns the tick that the timer is set to, or [Never].
func (w *Sweeper) At() int64 { return w.at.Load() }

// Rest stops the timer if the store is empty, as it was a moment ago.
func (w *Sweeper) Rest() {
	w.mu.Lock()
	defer w.mu.Unlock()
	at := w.at.Load()
	w.at.Store(Never) // before the look at empty, so that who comes now is seen or arms
	if !w.empty() {
		w.at.Store(at)
		return
	}
	if w.timer != nil {
		w.timer.Stop()
	}
}

// Close stops the sweeping for good. A sweep that is under way is not waited for.
func (w *Sweeper) Close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	if w.timer != nil {
		w.timer.Stop()
	}
}

// Sweep is what the timer calls: one sweep, unless one is running.
func (w *Sweeper) Sweep() {
	w.mu.Lock()
	if w.running || w.closed {
		w.mu.Unlock()
		return
	}
	w.running = true
	w.at.Store(Never)
	w.mu.Unlock()

	next := w.sweep()

	w.mu.Lock()
	defer w.mu.Unlock()
	w.running = false
	next = min(next, w.at.Load())
	w.at.Store(Never) // before the look at empty, as in Rest
	if !w.empty() && next != Never && !w.closed {
		w.at.Store(next)
		w.set(w.now())
	}
}
