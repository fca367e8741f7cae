package logstore

import (
	"math"

	"github.com/holdfast-session/holdfast/logstore/internal/wal"
)

// reappend appends all again whose latest record is after one, because the disk has
// failed and these may be lost: from memory, which keeps what is not on disk. The log
// calls it, and takes nothing else meanwhile. Ends come before sessions, as one that
// has ended may be there again.
func (s *Store) reappend(after uint64) error {
	if _, _, err := s.log.Append(endRecord(0), typeOpen, wal.Again); err != nil {
		return err
	}
	if err := s.reappendEnds(after); err != nil {
		return err
	}
	for i := range s.shard {
		if err := s.reappendShard(&s.shard[i], after); err != nil {
			return err
		}
	}
	// When sessions were used last may be lost too; a snapshot knows.
	s.logged.Store(math.MaxInt64 / 2)
	s.nudge()
	return nil
}

func (s *Store) reappendEnds(after uint64) error {
	x := &s.ends
	x.mu.Lock()
	for name, a := range x.apps {
		if a.seq <= after {
			continue
		}
		_, seq, err := s.log.Append(endRecord(0), typeApp, wal.Again, []byte(name))
		if err != nil {
			x.mu.Unlock()
			return err
		}
		a.seq = seq
	}
	for i, a := range x.acked {
		if a.seq <= after {
			continue
		}
		_, seq, err := s.log.Append(endRecord(a.name), typeAck, wal.Again)
		if err != nil {
			x.mu.Unlock()
			return err
		}
		x.acked[i].seq = seq
	}
	var all []*end
	for at := x.all.Back(); at != nil; at = at.Prev() {
		if e := at.Value.(*end); e.seq > after {
			all = append(all, e)
		}
	}
	x.mu.Unlock()

	for _, e := range all {
		if err := s.reappendEnd(e, after); err != nil {
			return err
		}
	}
	return s.tombstones.again(after, func(key wal.Key, w why) (seq uint64, err error) {
		_, seq, err = s.log.Append(key, typeRemove, wal.Again, appendWhy(nil, w))
		return seq, err
	})
}

// reappendEnd appends an end again: with its content, if that may be lost too. Then it is
// in memory, as chill leaves what is not on disk. Nothing is read here: what cannot be
// read must not keep the log from working again, and a place in a run that fails is none
// for the next one.
func (s *Store) reappendEnd(e *end, after uint64) error {
	e.shard.mu.Lock()
	defer e.shard.mu.Unlock()
	x := &s.ends
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.byName[e.name] != e {
		return nil
	}
	session := e.shard.entries.at(e.ref)
	prefix := appendWhy(appendUint64(nil, e.name), e.why)
	if session.seq <= after {
		at, seq, err := s.log.Append(s.keyOf(session), typeEnd, wal.Again, prefix)
		if err != nil {
			return err
		}
		s.removals.add(at)
		e.seq = seq
		return nil
	}
	from := s.place(session)
	from.Size += e.prefix
	put := append(appendHead(nil, session, s.apps.name(session.app), session.used()), s.content(session)...)
	at, seq, err := s.log.Append(endRecord(e.name), typeEnded, wal.Again, prefix, put)
	if err != nil {
		return err
	}
	s.log.Free(from)
	x.move(e, move{prefix: uint32(len(prefix)), to: at, seq: seq})
	e.seq = seq
	return nil
}

func (s *Store) reappendShard(sh *shard, after uint64) error {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	for ref := uint32(1); ref <= sh.entries.last; ref++ {
		e := sh.entries.at(ref)
		if e.size == 0 || e.deadline == 0 || e.seq <= after {
			continue
		}
		head := appendHead(sh.scratch[:0], e, s.apps.name(e.app), e.used())
		sh.scratch = head
		at, seq, err := s.log.Append(s.keyOf(e), typePut, wal.Again, head, s.content(e))
		if err != nil {
			return err
		}
		s.log.Free(s.place(e))
		e.segment, e.offset, e.seq = at.Segment, at.Offset, seq
	}
	if sh.ended > after {
		sh.ended = s.log.Last()
	}
	return nil
}
