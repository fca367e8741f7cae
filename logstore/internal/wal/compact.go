package wal

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
)

// Live says that the record there is in use. It is for places that come from a
// snapshot; what Append returned and Replay gave is in use by itself.
func (l *Log) Live(at At) {
	if s := l.segment(at.Segment); s != nil {
		s.live.Add(int64(at.Size))
	}
}

// Free says that the record there is garbage now.
func (l *Log) Free(at At) {
	if at.Size == 0 {
		return
	}
	if s := l.segment(at.Segment); s != nil {
		s.live.Add(-int64(at.Size))
	}
}

// Candidate returns the segment that is most worth being compacted, and whether any
// is: while less than half of the log is in use, or less than a quarter of the
// segment, or space is short. It is the one with the least in use, but every fourth
// time the oldest, as only there the owner can drop removes.
func (l *Log) Candidate() (number uint32, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.usable() != nil {
		return 0, false
	}
	var oldest, best *segment
	var used, live int64
	room := l.copyRoom()
	least := 2.0
	for _, s := range *l.segments.Load() {
		if s.number >= l.unsynced[0].number || s.number >= l.syncedAt.segment.number {
			break // not left, or not synced
		}
		u, v := s.used(), max(0, s.live.Load())
		used, live = used+u, live+v
		if v > room {
			continue
		}
		if oldest == nil {
			oldest = s
		}
		share := 0.0
		if u > 0 {
			share = float64(v) / float64(u)
		}
		if share < least {
			best, least = s, share
		}
	}
	if best == nil {
		return 0, false
	}
	if least >= 0.25 && 2*live > used && !(l.short() && least < 0.9) {
		return 0, false
	}
	l.picks++
	if l.picks%4 == 0 {
		return oldest.number, true
	}
	return best.number, true
}

// copyRoom returns how many bytes of a segment compaction may copy: on a full disk what
// surely fits in front of the room that is kept for ends, so that the segment is given
// back in the end. mu is held.
func (l *Log) copyRoom() int64 {
	if l.noSpace == nil {
		return math.MaxInt64
	}
	room := l.active.size - l.active.off - l.keep(Copy)
	next := l.reserve
	if l.spare != nil {
		next = l.spare.size
	}
	return max(0, room) + max(0, next-recordsStart-l.keep(Copy))
}

// Oldest reports whether no segment is older.
func (l *Log) Oldest(number uint32) bool {
	all := *l.segments.Load()
	return len(all) > 0 && all[0].number == number
}

// Scan gives the records of a segment that is not written to any more to visit, also
// the damaged ones that can be named. An error of visit ends it.
func (l *Log) Scan(number uint32, visit func(Entry) error) error {
	s := l.segment(number)
	if s == nil {
		return nil
	}
	l.mu.Lock()
	limit, active := s.off, s == l.active
	l.mu.Unlock()
	if active {
		return fmt.Errorf("segment %08x is being written", number)
	}
	for scan := newScanner(s, recordsStart, limit, l.seed); ; {
		it, ok, err := scan.next()
		if err != nil || !ok {
			return err
		}
		if it.state == garbage || it.end.typ >= markType {
			continue
		}
		e := Entry{Key: it.end.key, Seq: it.end.seq, At: At{number, uint32(it.off), uint32(it.end.size())}}
		if it.state == damaged {
			e.Damaged = true
		} else {
			e.Type, e.Payload = it.end.typ, it.payload
		}
		if err := visit(e); err != nil {
			return err
		}
	}
}

// Drop deletes a segment of which nothing is needed any more. It syncs what was
// appended first, and the deletion is durable when it returns nil. After an error it
// may be called again.
func (l *Log) Drop(number uint32) error {
	if err := l.syncTo(l.Last()); err != nil {
		return err
	}
	l.mu.Lock()
	if err := l.usable(); err != nil {
		l.mu.Unlock()
		return err
	}
	if number >= l.unsynced[0].number {
		l.mu.Unlock()
		return fmt.Errorf("segment %08x is being written", number)
	}
	var before, s *segment
	for _, t := range *l.segments.Load() {
		if t.number >= number {
			if t.number == number {
				s = t
			}
			break
		}
		before = t
	}
	l.mu.Unlock()
	if s == nil {
		return nil
	}

	// Its header says where the one before ends and what is left out between the two.
	if err := l.sweep(); err != nil {
		return err
	}
	if before != nil {
		if err := l.trim(before); err != nil {
			return err
		}
	}

	closeWhenRead(s)
	name := segmentName(number)
	if err := l.fs.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := l.fs.SyncDir(); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	var kept []*segment
	for _, t := range *l.segments.Load() {
		if t != s {
			kept = append(kept, t)
		}
	}
	l.segments.Store(&kept)
	l.allocated -= s.size
	l.counts.dropped++
	if l.noSpace != nil && !l.making {
		l.provide(l.o.SegmentSize, false)
	}
	return nil
}
