package wal

import (
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/holdfast-session/holdfast/logstore/internal/vfs"
)

// A failure is the state between a failed write or sync and the recovery.
type failure struct {
	err   error // what callers get
	since time.Time
}

const (
	firstBackoff = 50 * time.Millisecond
	lastBackoff  = time.Second
)

// fail stops everything until what is not synced has been appended again. What the
// failed call has left in the files is unknown, and on some systems a second sync
// would succeed without having written anything, so neither is tried again. mu is
// held.
func (l *Log) fail(op string, err error) {
	if l.failing != nil || l.closed {
		return
	}
	l.failing = &failure{err: fmt.Errorf("%w: %s: %w", ErrFailing, op, err), since: time.Now()}
	l.counts.failures++
	l.counts.lastError = err
	l.written.Store(l.synced.Load())
	l.pending.reset()
	l.done[0].Broadcast()
	l.done[1].Broadcast()
	l.changed.Broadcast()
	l.logger.Error("log: cannot write; sessions cannot be changed until this is mended", "op", op, "err", err)
	if l.o.Reappend != nil {
		l.running.Add(1)
		go l.recover()
	}
}

// recover tries again until it works.
func (l *Log) recover() {
	defer l.running.Done()
	for backoff := firstBackoff; ; backoff = min(2*backoff, lastBackoff) {
		err := l.appendAgain()
		if err == nil {
			return
		}
		l.mu.Lock()
		if l.closed {
			l.mu.Unlock()
			return
		}
		news := l.counts.lastError == nil || l.counts.lastError.Error() != err.Error()
		l.counts.lastError = err
		since := l.failing.since
		l.mu.Unlock()
		if news {
			l.logger.Error("log: still cannot write", "since", since, "err", err)
		}
		t := time.NewTimer(backoff)
		select {
		case <-l.stop:
			t.Stop()
			return
		case <-t.C:
		}
	}
}

// appendAgain appends everything that was not synced to a new segment.
func (l *Log) appendAgain() error {
	// After this nobody writes or syncs any more but us.
	l.io.Lock()
	l.io.Unlock() //lint:ignore SA2001 waits for who is in the middle of a write
	l.mu.Lock()
	for (l.syncing || l.making) && !l.closed {
		l.changed.Wait()
	}
	if l.closed {
		l.mu.Unlock()
		return ErrClosed
	}
	l.pending.reset()
	l.discard(func(s *segment) bool { return s.attempt })
	from, after := l.syncedAt, l.synced.Load()
	l.mu.Unlock()
	l.sweep()

	s, err := l.fresh()
	if err != nil {
		return err
	}
	l.mu.Lock()
	l.begin(s, from.segment.number, from.off, after)
	l.mu.Unlock()

	err = l.o.Reappend(after)

	l.mu.Lock()
	l.again = false
	l.mu.Unlock()
	if err == nil {
		err = l.commitRun()
	}
	if err != nil {
		return err
	}

	l.mu.Lock()
	since := l.failing.since
	l.mu.Unlock()
	l.settle(from)
	l.logger.Info("log: can be written again", "after", time.Since(since))
	return nil
}

// writeAgain writes what Reappend has appended so far.
func (l *Log) writeAgain() error {
	l.io.Lock()
	defer l.io.Unlock()
	_, _, err := l.flush(false)
	return err
}

// fresh returns an empty segment at once: the spare one, a new one, or the reserve.
func (l *Log) fresh() (*segment, error) {
	l.mu.Lock()
	s := l.spare
	l.spare = nil
	l.number++
	number := l.number
	l.mu.Unlock()
	if s != nil {
		return s, nil
	}
	s, err := l.create(number, l.o.SegmentSize)
	if vfs.IsFull(err) {
		l.sweep() // what is no part of the log may be what is in the way
		for size := l.o.SegmentSize; vfs.IsFull(err) && size >= minSegment; size = size / 2 &^ 4095 {
			s, err = l.create(number, size)
		}
	}
	if err == nil {
		l.mu.Lock()
		l.allocated += s.size
		l.mu.Unlock()
		return s, nil
	}
	s, e := l.takeReserve(number)
	if e != nil {
		return nil, err
	}
	return s, nil
}

// begin makes s the active segment. Its header, which says where the log ends that
// it continues, is written by commitRun. mu is held.
func (l *Log) begin(s *segment, prev uint32, prevEnd int64, prevLast uint64) {
	l.head = &header{
		version: formatVersion, id: l.id, number: s.number, first: l.last.Load() + 1, size: s.size,
		prev: prev, prevEnd: prevEnd, prevLast: prevLast,
	}
	l.again = true
	s.attempt = true
	l.unsynced = l.unsynced[:0]
	l.activate(s)
}

// activate makes s the active segment. mu is held.
func (l *Log) activate(s *segment) {
	old := *l.segments.Load()
	all := append(old[:len(old):len(old)], s)
	l.segments.Store(&all)
	l.active = s
	l.unsynced = append(l.unsynced, s)
}

// commitRun makes durable what was appended since begin, and only then the header
// behind which it counts. Nobody else writes.
func (l *Log) commitRun() error {
	l.io.Lock()
	defer l.io.Unlock()
	last, at, err := l.flush(false)
	if err != nil {
		return err
	}
	l.mu.Lock()
	run := append([]*segment(nil), l.unsynced...)
	l.mu.Unlock()
	for _, s := range run {
		if err := s.f.Sync(); err != nil {
			return err
		}
	}
	l.head.horizon = last
	b := make([]byte, recordsStart)
	l.head.put(b)
	if _, err := run[0].f.WriteAt(b, 0); err != nil {
		return err
	}
	if err := run[0].f.Sync(); err != nil {
		return err
	}

	l.mu.Lock()
	defer l.mu.Unlock()
	l.synced.Store(last)
	l.written.Store(last)
	l.stated = last
	l.syncedAt, l.writtenAt = at, at
	l.unsynced = append(l.unsynced[:0], run[len(run)-1])
	return nil
}

// discard takes segments out of the log whose files are not part of it. mu is held.
func (l *Log) discard(which func(*segment) bool) {
	var kept []*segment
	for _, s := range *l.segments.Load() {
		if !which(s) {
			kept = append(kept, s)
			continue
		}
		l.allocated -= s.size
		l.leftovers = append(l.leftovers, segmentName(s.number))
		go closeWhenRead(s)
	}
	l.segments.Store(&kept)
}

// closeWhenRead closes a segment's file when nobody reads it any more.
func closeWhenRead(s *segment) {
	s.file.Lock()
	defer s.file.Unlock()
	if s.f != nil {
		s.f.Close()
		s.f = nil
	}
}

// sweep removes the files that are no part of the log. What cannot be removed now is
// tried again later; until then no segment may be dropped whose header leaves it out.
func (l *Log) sweep() error {
	l.mu.Lock()
	names := l.leftovers
	l.leftovers = nil
	l.mu.Unlock()
	if len(names) == 0 {
		return nil
	}
	var failed error
	for i, name := range names {
		if err := l.fs.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			failed = err
			names = names[i:]
			break
		}
	}
	if failed == nil {
		failed = l.fs.SyncDir()
	}
	if failed != nil {
		l.mu.Lock()
		l.leftovers = append(l.leftovers, names...)
		l.mu.Unlock()
	}
	return failed
}
