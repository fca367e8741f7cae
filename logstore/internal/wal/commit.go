package wal

import (
	"runtime"
	"time"
)

// markAfter is how long the log must be idle before a mark states its horizon.
const markAfter = 100 * time.Millisecond

// Commit returns when the record is as durable as the mode says: synced under
// Always, else in the file. Other calls' records are written and synced along with
// it. An error means that it is not known to be durable: the log has failed and is
// recovering ([ErrFailing]), or was closed.
func (l *Log) Commit(seq uint64) error {
	if l.o.Sync == Always {
		return l.syncTo(seq)
	}
	return l.writeTo(seq)
}

// CommitEnd returns when the record is durable against a power cut, in every mode.
// Errors are those of Commit.
func (l *Log) CommitEnd(seq uint64) error { return l.syncTo(seq) }

// Durable reports whether Commit would return nil at once.
func (l *Log) Durable(seq uint64) bool {
	if l.o.Sync == Always {
		return l.synced.Load() >= seq
	}
	return l.written.Load() >= seq
}

// writeTo returns when the record is in its file. Whoever has l.io writes for all.
func (l *Log) writeTo(seq uint64) error {
	if l.written.Load() >= seq {
		return nil
	}
	runtime.Gosched() // let who can run append first
	l.io.Lock()
	defer l.io.Unlock()
	if l.written.Load() >= seq {
		return nil
	}
	_, _, err := l.write(false)
	return err
}

// write gives the files all that is buffered, up to which record it returns, and where
// that one ends. If the caller leads a sync, these are the batch. l.io is held.
func (l *Log) write(leads bool) (last uint64, at place, err error) {
	l.mu.Lock()
	if err := l.usable(); err != nil {
		l.mu.Unlock()
		return 0, at, err
	}
	l.mu.Unlock()
	last, at, err = l.flush(leads)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.fail("write", err)
	}
	if err := l.usable(); err != nil {
		return 0, at, err
	}
	l.written.Store(last)
	l.writtenAt = at
	return last, at, nil
}

// flush is write of a log that may be failing, and without taking note of what it wrote.
func (l *Log) flush(leads bool) (last uint64, at place, err error) {
	l.mu.Lock()
	l.pending, l.flight = l.flight, l.pending
	last, at = l.last.Load(), place{l.active, l.active.off}
	if leads { // who appends from here on waits for the next batch
		l.target = last
		l.batch++
	}
	l.counts.writes += uint64(len(l.flight.runs))
	l.mu.Unlock()
	err = l.flight.write()
	l.mu.Lock()
	l.flight.reset()
	l.mu.Unlock()
	return last, at, err
}

// syncTo returns when the record is synced. One caller leads: it writes what all
// have appended and syncs it, while the others wait and the next batch gathers.
func (l *Log) syncTo(seq uint64) error {
	if l.synced.Load() >= seq {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	seq = min(seq, l.last.Load())
	in := ^uint(0) // the batch it is counted in
	for l.synced.Load() < seq {
		if err := l.usable(); err != nil {
			return err
		}
		batch := l.batch
		if l.syncing && seq <= l.target {
			batch-- // the one that is being synced
		}
		if batch != in { // else it was to lead, and another came first
			in = batch
			l.gather.waiting[batch&1]++
		}
		if l.syncing {
			l.done[batch&1].Wait()
		} else {
			l.lead()
		}
	}
	return nil
}

// lead syncs everything appended until it begins to write. mu is held, but not
// during I/O.
func (l *Log) lead() {
	l.syncing = true
	gathers := l.gather.begin(l.last.Load())
	l.mu.Unlock()
	runtime.Gosched() // let who can run append first
	if gathers {
		l.gather.wait()
		l.mu.Lock()
		l.gather.end()
		l.mu.Unlock()
	}
	l.io.Lock()
	target, at, err := l.write(true)
	l.io.Unlock()

	l.mu.Lock()
	before := l.synced.Load()
	if err == nil {
		l.toSync = l.toSync[:0]
		for _, s := range l.unsynced {
			if s.number <= at.segment.number {
				l.toSync = append(l.toSync, s)
			}
		}
		l.mu.Unlock()
		began := time.Now()
		for _, s := range l.toSync {
			if err = s.f.Sync(); err != nil {
				break
			}
		}
		l.gather.took = time.Since(began)
		l.mu.Lock()
		if err != nil {
			l.fail("sync", err)
		}
	}
	l.syncing = false
	if l.failing == nil && err == nil {
		l.synced.Store(target)
		l.syncedAt = at
		l.unsynced = append(l.unsynced[:0], l.unsynced[len(l.toSync)-1:]...)
		l.counts.syncs++
		l.counts.synced += target - before
		if !l.marking && l.stated < min(l.owned, target) {
			l.marking = true
			l.nudge()
		}
	}
	served := (l.batch - 1) & 1
	l.gather.released(l.last.Load(), served)
	l.done[served].Broadcast()
	if next := &l.done[l.batch&1]; err == nil {
		next.Signal() // leads the next one
	} else {
		next.Broadcast() // perhaps there was no batch
	}
	l.changed.Broadcast()
}

// usable returns why nothing can be written. mu is held.
func (l *Log) usable() error {
	switch {
	case l.closed || l.active == nil:
		return ErrClosed
	case l.failing != nil:
		return l.failing.err
	}
	return nil
}

// nudge wakes tend.
func (l *Log) nudge() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// tend writes and syncs what nobody waits for, and states the horizon when the log
// falls idle.
func (l *Log) tend() {
	defer l.running.Done()
	var flush, mark timer
	var quiet uint64 // what was last when the mark timer was set
	for {
		select {
		case <-l.stop:
			flush.stop()
			mark.stop()
			return
		case <-l.wake:
			l.mu.Lock()
			dirty, marking, hurry := l.dirty, l.marking, l.hurry
			l.hurry = false
			last := l.last.Load()
			l.mu.Unlock()
			if hurry {
				l.tidy()
			}
			if dirty && !flush.set {
				flush.start(l.o.Interval)
			}
			if marking && !mark.set {
				quiet = last
				mark.start(markAfter)
			}
		case <-flush.c():
			flush.set = false
			l.mu.Lock()
			l.dirty = false // who appends from here on sets the timer again
			l.mu.Unlock()
			l.tidy()
		case <-mark.c():
			mark.set = false
			l.mu.Lock()
			last := l.last.Load()
			idle := last == quiet && l.usable() == nil
			if idle || l.failing != nil {
				l.marking = false
			}
			if idle && l.owned <= l.synced.Load() {
				l.mark(l.keep(Change))
			}
			l.mu.Unlock()
			if idle {
				l.writeTo(l.Last())
			} else {
				quiet = last
				mark.start(markAfter)
			}
		}
	}
}

// tidy does what is due for records that nobody waits for. Its errors are seen by
// whoever asks for these records.
func (l *Log) tidy() {
	l.mu.Lock()
	sync := l.owned > l.synced.Load()
	if l.o.Sync == Never {
		sync = len(l.unsynced) > 1 // a segment was left
	}
	l.mu.Unlock()
	if sync {
		l.syncTo(l.Last())
	} else {
		l.writeTo(l.Last())
	}
}

// mark appends a record that states the horizon, if no other has and if it leaves
// keep bytes. mu is held.
func (l *Log) mark(keep int64) {
	if l.usable() != nil || l.stated >= l.owned || l.active.off+overhead+keep > l.active.size {
		return
	}
	l.put(&end{typ: markType, sum: l.seed}, nil)
}

// A timer is one that may not be set.
type timer struct {
	t   *time.Timer
	set bool
}

func (t *timer) start(d time.Duration) {
	t.set = true
	if t.t == nil {
		t.t = time.NewTimer(d)
	} else {
		t.t.Reset(d)
	}
}

func (t *timer) c() <-chan time.Time {
	if t.t == nil {
		return nil
	}
	return t.t.C
}

func (t *timer) stop() {
	if t.t != nil {
		t.t.Stop()
	}
}
