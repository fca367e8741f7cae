package stateserver

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// The pauses between the probes of an open breaker.
const (
	firstProbe = 100 * time.Millisecond
	lastProbe  = time.Second
)

// A breaker lets calls fail at once while the server is gone, instead of each
// finding out for itself how long that takes.
//
// It opens when attempts have failed for openAfter without one answer in between:
// short of that, a call goes on trying, so that a restart of the server is not felt.
// Open, it lets one call at a time through, its probe, at intervals that double and
// are never exactly those of other clients. The first answer closes it.
//
// A breaker costs a call that goes well two loads, and an answer a store.
type breaker struct {
	openAfter time.Duration // 0: never
	begun     time.Time     // what the times below count from

	heardAt atomic.Int64 // when the server last answered
	open    atomic.Bool

	mu      sync.Mutex
	failing bool
	since   time.Duration // failing: for how long
	why     error         // of the last failure
	probing bool
	next    time.Duration // open: when the next probe may be
	pause   time.Duration
}

func newBreaker(openAfter time.Duration) *breaker {
	return &breaker{openAfter: openAfter, begun: time.Now()}
}

// enter reports whether a call may try at now, and if that is the probe. Whoever is
// let in reports what came of it: heard, failed, or, if nothing did, withdrew.
func (b *breaker) enter(now time.Time) (probe, ok bool) {
	if !b.open.Load() {
		return false, true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case !b.open.Load():
		return false, true
	case b.probing || now.Sub(b.begun) < b.next:
		return false, false
	}
	b.probing = true
	return true, true
}

// heard notes that the server has answered at about now.
func (b *breaker) heard(now time.Time) {
	b.heardAt.Store(int64(now.Sub(b.begun)))
	if !b.open.Load() {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.open.Store(false)
	b.failing, b.probing, b.pause, b.why = false, false, 0, nil
}

// failed notes that the server could not be made to answer since the time since, and
// why not.
func (b *breaker) failed(since time.Time, probe bool, why error) {
	if b.openAfter == 0 {
		return
	}
	now := time.Since(b.begun)
	b.mu.Lock()
	defer b.mu.Unlock()
	heard := time.Duration(b.heardAt.Load())
	if !b.failing || heard > b.since {
		b.failing, b.since = true, max(since.Sub(b.begun), heard)
	}
	b.why = why
	if probe {
		b.probing = false
	}
	if now-b.since < b.openAfter || b.open.Load() && !probe {
		return
	}
	b.open.Store(true)
	b.pause = min(max(2*b.pause, firstProbe), lastProbe)
	b.next = now + b.pause/2 + rand.N(b.pause/2)
}

// withdrew notes that a call ended before its attempt could tell anything.
func (b *breaker) withdrew(probe bool) {
	if probe {
		b.mu.Lock()
		b.probing = false
		b.mu.Unlock()
	}
}

// err is why calls are not let in.
func (b *breaker) err() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.why == nil {
		return errGone
	}
	return fmt.Errorf("%w for %v: %w", errGone, (time.Since(b.begun) - b.since).Round(time.Millisecond), b.why)
}
