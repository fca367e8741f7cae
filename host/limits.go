package host

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Limits are what a worker may use up before it is recycled. Each is off if it is
// zero.
type Limits struct {
	// Memory is private bytes of a worker with what it has started, and MemoryPercent
	// a share of the memory of the machine or, if that is less, the control group;
	// the lower of the two counts. Memory that is shared with others, such as that of
	// the program's file, is none of it. (Where the system does not tell private from
	// shared, all resident memory of the worker alone counts.) A process that uses up
	// twice the limit, before its successor is ready or while it drains, is killed.
	Memory        int64
	MemoryPercent float64

	// Requests is how many a worker is given.
	Requests uint64

	// Age is how long a worker runs.
	Age time.Duration

	// Times are times of day, in local time, as durations since midnight. At one that
	// the clock skips when summer begins, nothing happens that day.
	Times []time.Duration

	// Idle is how long there are no requests at all before the workers are stopped.
	// The next request starts them again, and waits for that.
	Idle time.Duration
}

func (l *Limits) check() error {
	var wrong []error
	if l.Memory < 0 || l.Age < 0 || l.Idle < 0 {
		wrong = append(wrong, errors.New("host: a limit is less than zero"))
	}
	if !(l.MemoryPercent >= 0 && l.MemoryPercent <= 100) {
		wrong = append(wrong, fmt.Errorf("host: the limit of memory is %v percent", l.MemoryPercent))
	}
	for _, t := range l.Times {
		if t < 0 || t >= 24*time.Hour {
			wrong = append(wrong, fmt.Errorf("host: %s is no time of day", t))
		}
	}
	return errors.Join(wrong...)
}

// memory is the limit of memory in bytes; 0 for none.
func (l *Limits) memory() int64 {
	limit := l.Memory
	if l.MemoryPercent > 0 {
		if share := int64(float64(totalMemory()) * l.MemoryPercent / 100); limit == 0 || share < limit {
			limit = max(share, 1)
		}
	}
	return limit
}

// checkAge has p recycled when it reaches its age.
func (h *Host) checkAge(p *process) {
	if limit := h.Limits.Age; limit > 0 {
		time.AfterFunc(time.Until(p.began.Add(limit)), func() {
			h.askFor(p, AgeLimit, fmt.Sprintf("%s old", limit))
		})
	}
}

// nextTime is the next of the times of day after now.
func nextTime(now time.Time, times []time.Duration) time.Time {
	var next time.Time
	year, month, day := now.Date()
	for _, t := range times {
		for ahead := range 8 {
			at := time.Date(year, month, day+ahead, int(t/time.Hour), int(t/time.Minute%60), int(t/time.Second%60), int(t%time.Second), now.Location())
			if !at.After(now) || clock(at) != t { // past, or skipped
				continue
			}
			if next.IsZero() || at.Before(next) {
				next = at
			}
			break
		}
	}
	return next
}

// clock is the time of day as a clock on the wall shows it.
func clock(t time.Time) time.Duration {
	return time.Duration(t.Hour())*time.Hour + time.Duration(t.Minute())*time.Minute +
		time.Duration(t.Second())*time.Second + time.Duration(t.Nanosecond())
}

// longestWait bounds a wait for a time of day, so that a clock that is set, or a
// machine that slept, delays a recycling by no more than that.
const longestWait = 10 * time.Minute

// followSchedule recycles the workers at the times of day.
func (h *Host) followSchedule(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	next := nextTime(time.Now(), h.Limits.Times)
	for {
		timer.Reset(min(time.Until(next.Round(0)), longestWait))
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		if now := time.Now(); !now.Round(0).Before(next) {
			h.askAll(Scheduled, "at "+next.Format(time.TimeOnly), now)
			next = nextTime(now, h.Limits.Times)
		}
	}
}

// watchIdle stops the workers when nothing is asked of them.
func (h *Host) watchIdle(ctx context.Context) {
	timer := time.NewTimer(h.Limits.Idle)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		now := time.Now()
		if since := h.idleSince(now); now.Sub(since) >= h.Limits.Idle {
			h.askAll(Idle, fmt.Sprintf("no request for %s", h.Limits.Idle), now)
			timer.Reset(h.Limits.Idle)
		} else {
			timer.Reset(h.Limits.Idle - now.Sub(since))
		}
	}
}

// idleSince is since when there was nothing to do; now if there is, or if no worker
// runs.
func (h *Host) idleSince(now time.Time) time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	var since []time.Time
	for _, s := range h.slots {
		switch p := s.current; {
		case p == nil || s.asleep || !p.ready:
		default:
			inFlight, _, idle := h.router().traffic(p.backend)
			if inFlight > 0 {
				return now
			}
			since = append(since, later(idle, p.began))
		}
	}
	if len(since) == 0 || h.router().queued() > 0 {
		return now
	}
	return slices.MaxFunc(since, time.Time.Compare)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
