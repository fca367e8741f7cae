package wal

import (
	"fmt"
	"math"
	"time"
)

// The reserve file can become a segment when the disk is full. It has room for what
// compaction copies of a segment of which half is in use, and for ends besides.
const (
	reserveName = "reserve"
	retryAfter  = time.Second
)

// keep returns how much of a segment's end is not for records of that class: at a
// full disk there is still room for ends.
func (l *Log) keep(c Class) int64 {
	if c >= End {
		return 0
	}
	return min(max(l.o.SegmentSize/16, 64<<10), l.o.SegmentSize/8)
}

// limit returns how many bytes may be allocated for records of that class.
func (l *Log) limit(c Class) int64 {
	switch {
	case l.o.MaxDisk == 0 || c >= Copy:
		return math.MaxInt64
	case c == New:
		return l.o.MaxDisk
	}
	return l.o.MaxDisk + max(l.o.MaxDisk/16, 2*l.o.SegmentSize)
}

// makeRoom returns when n bytes fit into the active segment, or why they may not.
// mu is held; it is given up while the next segment is being made.
func (l *Log) makeRoom(n int64, c Class) error {
	for {
		if c == Again {
			if !l.again || l.closed {
				return ErrFailing
			}
		} else if err := l.usable(); err != nil {
			return err
		}
		yields := c == New || c == Change
		if yields && l.lean() {
			return fmt.Errorf("%w: %w", ErrFull, l.noSpace)
		}
		if c == New && l.allocated > l.limit(New) {
			return l.full()
		}
		s, keep := l.active, l.keep(c)
		if s.off+n+keep <= s.size {
			if s.off+n > s.size/2 {
				l.makeAhead()
			}
			return nil
		}
		need := recordsStart + n + keep
		switch {
		case l.spare != nil && l.spare.size >= need && !(yields && l.spare.reserve):
			l.roll()
		case l.making:
			l.changed.Wait()
		case l.noSpace != nil:
			if yields || l.reserve < need || l.spare != nil {
				return fmt.Errorf("%w: %w", ErrFull, l.noSpace)
			}
			l.provide(need, true)
		case l.allocated+max(need, l.o.SegmentSize) > l.limit(c):
			return l.full()
		default:
			l.provide(need, false)
		}
	}
}

// lean reports whether the log lives on its reserve. mu is held.
func (l *Log) lean() bool {
	return l.noSpace != nil && (l.active.reserve || l.spare != nil && l.spare.reserve)
}

// full says that MaxDisk is reached, and asks for compaction. mu is held.
func (l *Log) full() error {
	l.askCompact()
	return fmt.Errorf("%w: %d of at most %d bytes of disk are taken", ErrFull, l.allocated, l.o.MaxDisk)
}

func (l *Log) askCompact() {
	if l.o.Compact != nil {
		l.o.Compact()
	}
}

// short reports whether compaction should not be choosy. mu is held.
func (l *Log) short() bool {
	return l.noSpace != nil || l.o.MaxDisk > 0 && l.allocated+l.o.SegmentSize > l.o.MaxDisk
}

// makeAhead makes the next segment before it is needed. mu is held.
func (l *Log) makeAhead() {
	if l.spare != nil || l.making || l.noSpace != nil {
		return
	}
	if l.short() {
		l.askCompact()
		return
	}
	l.provide(l.o.SegmentSize, false)
}

// roll goes on in the spare segment. mu is held.
func (l *Log) roll() {
	old, s := l.active, l.spare
	l.spare = nil
	h := header{
		version: formatVersion, id: l.id, number: s.number, first: l.last.Load() + 1, size: s.size, horizon: l.synced.Load(),
		prev: old.number, prevEnd: old.off, prevLast: l.last.Load(),
	}
	s.attempt = l.again
	s.off = 0
	b := l.pending.extend(s, recordsStart)
	clear(b)
	h.put(b)
	s.off = recordsStart
	l.stated = max(l.stated, h.horizon)
	l.activate(s)
	if l.o.Sync == Never {
		l.hurry = true
		l.nudge()
	}
}

// provide starts making a segment with room for need bytes, of the reserve if that
// is said. mu is held, and l.making false.
func (l *Log) provide(need int64, ofReserve bool) {
	l.making = true
	l.number++
	l.running.Add(1)
	go l.provision(l.number, max(need, l.o.SegmentSize), ofReserve)
}

func (l *Log) provision(number uint32, size int64, ofReserve bool) {
	defer l.running.Done()
	l.mu.Lock()
	spare, reserve := l.spare, l.reserve
	l.mu.Unlock()
	var s *segment
	var err error
	switch {
	case ofReserve:
		s, err = l.takeReserve(number)
	case reserve == 0:
		err = l.makeReserve()
	}
	if err == nil && !ofReserve {
		if size = (size + 4095) &^ 4095; spare == nil {
			s, err = l.create(number, size)
		} else {
			err = spare.grow(size)
		}
	}

	l.mu.Lock()
	defer l.mu.Unlock()
	l.making = false
	switch {
	case err != nil:
		if l.noSpace == nil {
			l.logger.Error("log: no room for another segment; new sessions and changes will be refused", "err", err)
		}
		l.noSpace = err
		l.retryLater()
		l.askCompact()
	case ofReserve:
		l.spare = s
	case spare != nil:
		l.allocated += size - spare.size
		spare.size, spare.reserve = size, false
		l.noSpace = nil
	default:
		l.allocated += s.size
		l.spare = s
		l.noSpace = nil
	}
	l.changed.Broadcast()
}

// grow makes an empty segment larger.
func (s *segment) grow(size int64) error {
	if err := s.f.Allocate(size); err != nil {
		return err
	}
	return s.f.Sync()
}

// retryLater looks for space again by and by. mu is held.
func (l *Log) retryLater() {
	if l.closed {
		return
	}
	if l.retry == nil {
		l.retry = time.AfterFunc(retryAfter, l.lookForSpace)
	} else {
		l.retry.Reset(retryAfter)
	}
}

func (l *Log) lookForSpace() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || l.noSpace == nil {
		return
	}
	if l.making {
		l.retryLater()
		return
	}
	if l.spare != nil && !l.spare.reserve { // there is one, but a record wanted a larger one
		l.noSpace = nil
		return
	}
	l.provide(l.o.SegmentSize, false)
}

// makeReserve allocates the reserve file.
func (l *Log) makeReserve() error {
	f, err := l.fs.Create(reserveName)
	if err != nil {
		f, err = l.fs.Open(reserveName) // of a crash, perhaps not whole
	}
	if err != nil {
		return err
	}
	err = f.Allocate(l.reserveSize)
	if err == nil {
		err = f.Sync()
	}
	size, e := f.Size()
	if err == nil {
		err = e
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = l.fs.SyncDir()
	}
	if err != nil {
		l.fs.Remove(reserveName)
		return err
	}
	l.mu.Lock()
	l.reserve = size
	l.allocated += size
	l.mu.Unlock()
	return nil
}

// takeReserve makes the reserve file a segment. It works on a disk that is full.
func (l *Log) takeReserve(number uint32) (*segment, error) {
	l.mu.Lock()
	size := l.reserve
	l.reserve = 0
	l.mu.Unlock()
	if size == 0 {
		return nil, fmt.Errorf("%w: the reserve is used up", ErrFull)
	}
	name := segmentName(number)
	err := l.fs.Rename(reserveName, name)
	if err == nil {
		err = l.fs.SyncDir()
	}
	if err == nil {
		f, e := l.fs.Open(name)
		if err = e; err == nil {
			return &segment{number: number, size: size, off: recordsStart, reserve: true, f: f}, nil
		}
	}
	l.mu.Lock()
	l.allocated -= size
	l.leftovers = append(l.leftovers, name)
	l.mu.Unlock()
	return nil, err
}
