package host

import (
	"context"
	"fmt"
	"slices"
	"time"
)

const (
	// A worker that ends sooner than this after its start ended early. The first
	// early end is taken for bad luck; from the second on there is a pause.
	earlyEnd   = 5 * time.Second
	firstPause = 100 * time.Millisecond
	lastPause  = 30 * time.Second
)

// RapidFail bounds the restarts of a worker that crashes or does not get ready: past
// that it is given up, and its requests go to others, or are answered by 503. It is
// started again by [Host.Recycle], or when a watched file changes.
type RapidFail struct {
	// Failures within Within are too many; 5 in 5 minutes if zero. A negative number
	// of failures never is.
	Failures int
	Within   time.Duration
}

// failures are those of a worker.
type failures struct {
	RapidFail
	times []time.Time // the last ones, at most as many as are too many
	early int         // in a row
	last  string
	ends  bool // the last one was the end of a process, and not of its successor
}

// failed counts a failure. That of a successor does no harm by itself.
func (f *failures) failed(now time.Time, why string) {
	f.last = why
	if f.Failures < 0 {
		return
	}
	if most := f.most(); len(f.times) == most {
		f.times = slices.Delete(f.times, 0, 1)
	}
	f.times = append(f.times, now)
}

// ended counts a failure that leaves the worker without a process.
func (f *failures) ended(now time.Time, early bool, why string) {
	f.failed(now, why)
	f.ends = true
	if !early {
		f.early = -1
	}
	f.early++
}

func (f *failures) most() int {
	if f.Failures == 0 {
		return 5
	}
	return f.Failures
}

func (f *failures) within() time.Duration { return or(f.Within, 5*time.Minute) }

// tooMany reports whether the worker is to be given up.
func (f *failures) tooMany(now time.Time) bool {
	return len(f.times) == f.most() && now.Sub(f.times[0]) < f.within()
}

// pause is how long to wait before the next start.
func (f *failures) pause() time.Duration {
	if f.early < 2 {
		return 0
	}
	return min(firstPause<<min(f.early-2, 20), lastPause)
}

// mayStart waits until a process of s may be started; false means never, because ctx
// is done.
func (h *Host) mayStart(ctx context.Context, s *slot, f *failures) bool {
	if f.ends && f.tooMany(time.Now()) {
		h.giveUp(s, f)
		*f = failures{RapidFail: f.RapidFail}
		return h.waitFor(ctx, s, nil, func(a *ask) bool { return a != nil })
	}
	pause := f.pause()
	if !f.ends {
		pause = 0
	}
	f.ends = false
	if pause > 0 && ctx.Err() == nil {
		h.log().Warn("worker keeps ending early; waiting before the next start", "worker", s.worker, "times", f.early, "pause", pause)
		if !h.waitFor(ctx, s, time.After(pause), func(a *ask) bool { return a != nil }) {
			return false
		}
	}
	return h.waitFor(ctx, s, nil, func(*ask) bool { return !s.asleep })
}

// waitFor waits until until says so of what s is asked for, or later. It reports false
// if ctx is done. What is asked for of a worker that does not run is done by its start.
func (h *Host) waitFor(ctx context.Context, s *slot, later <-chan time.Time, until func(*ask) bool) bool {
	for ctx.Err() == nil {
		a := h.wanted(s, nil)
		if a != nil {
			a.answer(nil)
		}
		h.mu.Lock()
		enough := until(a)
		if enough {
			s.givenUp = false
			h.router().absent(s.worker, starting)
		}
		h.mu.Unlock()
		if enough {
			return true
		}
		select {
		case <-s.poke:
		case <-later:
			return true
		case <-ctx.Done():
		}
	}
	return false
}

// giveUp says that the worker of s is not started any more.
func (h *Host) giveUp(s *slot, f *failures) {
	h.mu.Lock()
	s.givenUp = true
	h.router().absent(s.worker, failed)
	h.mu.Unlock()
	detail := fmt.Sprintf("%d failures within %s, the last one: %s", f.most(), f.within(), f.last)
	h.log().Error("worker has failed too often and is not started any more; mend it, and recycle it to start it again",
		"worker", s.worker, "detail", detail)
	h.book.add(Entry{Event: GaveUp, Worker: s.worker, Reason: Crashed, Detail: detail})
}
