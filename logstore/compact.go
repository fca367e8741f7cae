package logstore

import (
	"encoding/binary"
	"math"
	"sync"

	"github.com/holdfast-session/holdfast/logstore/internal/wal"
	"github.com/holdfast-session/holdfast/store"
)

// nudge tells the keeper that there may be something to do. It never blocks.
func (s *Store) nudge() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// keep is the goroutine that keeps house: it compacts the log, writes snapshots and
// drops bodies where nobody else finds any to drop.
func (s *Store) keep() {
	defer close(s.done)
	for {
		var asked chan bool
		select {
		case <-s.quit:
			return
		case <-s.wake:
		case asked = <-s.ask:
		}
		gained := s.compactAll()
		if asked != nil && !gained && s.removals.worth(s.log.Stats().Allocated) && s.snapshot(false) == nil {
			gained = s.compactAll()
		}
		if s.logged.Load() > max(s.snapshotAfter, 2*s.log.SnapshotSize()) {
			if err := s.snapshot(false); err != nil {
				s.logger.Warn("logstore: no snapshot could be written", "err", err)
			}
		}
		s.chillAll()
		if asked != nil {
			asked <- gained
		}
	}
}

// removals are the bytes of records that say that something ended. They are in use
// until a snapshot knows of it; from then on they are needed only where an older
// segment may have what ended, which shows when they are the oldest.
type removals struct {
	mu      sync.Mutex
	segment map[uint32]int64
	all     int64
}

func (r *removals) add(at wal.At) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.segment == nil {
		r.segment = make(map[uint32]int64)
	}
	r.segment[at.Segment] += int64(at.Size)
	r.all += int64(at.Size)
}

// worth reports whether a snapshot, and compaction after it, would give a sixteenth of
// the log free.
func (r *removals) worth(log int64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.all > log/16
}

// known frees those in all segments before one: a snapshot knows of them.
func (s *Store) known(before uint32) {
	r := &s.removals
	r.mu.Lock()
	defer r.mu.Unlock()
	for segment, size := range r.segment {
		if segment >= before {
			continue
		}
		for left := size; left > 0; left -= math.MaxUint32 {
			s.log.Free(wal.At{Segment: segment, Size: uint32(min(left, math.MaxUint32))})
		}
		r.all -= size
		delete(r.segment, segment)
	}
}

// compactAll compacts while it is worth it, and reports whether anything was gained.
func (s *Store) compactAll() (gained bool) {
	for !s.closed.Load() {
		segment, ok := s.log.Candidate()
		if !ok {
			return gained
		}
		if err := s.compact(segment); err != nil {
			s.logger.Warn("logstore: a segment could not be compacted", "segment", segment, "err", err)
			return gained
		}
		gained = true
	}
	return gained
}

// A compaction moves what is still needed out of a segment. What it copies counts from
// where it was until all copies are on disk: nobody has to wait for them, and if the
// disk fails nothing is lost.
type compaction struct {
	*Store
	oldest   bool
	snapshot uint64
	moved    []move
	whole    map[uint64]bool // the ends among these
	copied   int
}

// A move is a copy that was made: of a session's latest record, or of an end's.
type move struct {
	key    wal.Key
	end    uint64 // the end's name, and
	ended  bool   // whether it is one
	prefix uint32
	from   wal.At
	to     wal.At
	seq    uint64
}

// compact empties a segment and drops it.
func (s *Store) compact(segment uint32) error {
	c := &compaction{Store: s, oldest: s.log.Oldest(segment), snapshot: s.log.SnapshotSeq(), whole: make(map[uint64]bool)}
	if err := c.copyAll(segment); err != nil {
		for _, m := range c.moved {
			s.log.Free(m.to)
		}
		return err
	}
	for _, m := range c.moved {
		c.finish(m)
	}
	return s.log.Drop(segment)
}

// copyAll copies what is needed of a segment, and returns when the copies are durable.
func (c *compaction) copyAll(segment uint32) error {
	failures := c.log.Stats().Failures
	if err := c.log.Scan(segment, c.visit); err != nil {
		return err
	}
	if err := c.log.CommitEnd(c.log.Last()); err != nil {
		return err
	}
	if c.log.Stats().Failures != failures {
		return wal.ErrFailing // it has recovered by now, but without the copies
	}
	return nil
}

// copyBatch is how many bytes are copied before they are written.
const copyBatch = 4 << 20

// visit copies a record, or what it says, if that is still needed.
func (c *compaction) visit(en wal.Entry) error {
	if err := c.copy(en); err != nil {
		return err
	}
	if c.copied < copyBatch {
		return nil
	}
	c.copied = 0
	return c.log.Commit(c.log.Last())
}

func (c *compaction) copy(en wal.Entry) error {
	switch {
	case en.Damaged:
		return c.damaged(en)
	case en.Type == typePut:
		return c.put(en)
	case en.Type == typeTouch:
		return c.touch(en)
	case en.Type == typeRemove:
		return c.remove(en, en.Payload)
	case en.Type == typeEnd:
		if name, _, _, err := parseEnd(en.Payload); err == nil {
			if err := c.end(name); err != nil {
				return err
			}
			return c.remove(en, en.Payload[8:])
		}
	case en.Type == typeEnded:
		return c.ended(en)
	case en.Type == typeAck, en.Type == typeOpen:
		// An ack is needed as long as the end may be found in the log.
		if !c.oldest || en.Seq > c.snapshot {
			return c.append(en.Key, en.Type, en.Payload, nil, nil)
		}
	case en.Type == typeApp:
		if c.ends.wants(string(en.Payload)) {
			return c.append(en.Key, en.Type, en.Payload, nil, nil)
		}
	}
	return nil
}

// append copies a record. A move is noted, if there is one to be made.
func (c *compaction) append(key wal.Key, t wal.Type, a, b []byte, m *move) error {
	at, seq, err := c.Store.append(key, t, wal.Copy, a, b)
	if err != nil {
		return err
	}
	c.copied += int(at.Size)
	if m != nil {
		m.to, m.seq = at, seq
		c.moved = append(c.moved, *m)
	}
	return nil
}

// current returns the session whose latest record is there.
func (s *Store) current(sh *shard, key wal.Key, at wal.At) (*entry, bool) {
	ref := sh.index.find(tag(key), func(ref uint32) bool { return sh.entries.at(ref).in(at) })
	if ref == 0 {
		return nil, false
	}
	return sh.entries.at(ref), true
}

// put copies a session, or an end's.
func (c *compaction) put(en wal.Entry) error {
	h, content, err := parsePut(en.Payload)
	if err != nil {
		return nil
	}
	sh := c.of(en.Key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if e, ok := c.current(sh, en.Key, en.At); ok {
		sh.scratch = appendHead(sh.scratch[:0], e, string(h.app), e.used())
		return c.append(en.Key, typePut, sh.scratch, content, &move{key: en.Key, from: en.At})
	}
	return c.endOf(en, en.Payload)
}

// endOf copies the end whose content is in a record, with a session's as put. It takes
// ends.mu, so that an Ack comes before or after.
func (c *compaction) endOf(en wal.Entry, put []byte) error {
	x := &c.ends
	x.mu.Lock()
	defer x.mu.Unlock()
	e := x.byPlace[placeOf(en.At)]
	if e == nil {
		return nil
	}
	prefix := appendWhy(appendUint64(nil, e.name), e.why)
	c.whole[e.name] = true
	m := &move{key: en.Key, end: e.name, ended: true, prefix: uint32(len(prefix)), from: en.At}
	return c.append(endRecord(e.name), typeEnded, prefix, put, m)
}

// ended copies an end.
func (c *compaction) ended(en wal.Entry) error {
	if _, _, put, err := parseEnd(en.Payload); err == nil {
		return c.endOf(en, put)
	}
	return nil
}

// end gives an end a record with its content, before the one goes that says of a
// session's record that it is the end's.
func (c *compaction) end(name uint64) error {
	x := &c.ends
	x.mu.Lock()
	e := x.byName[name]
	x.mu.Unlock()
	if e == nil || c.whole[name] {
		return nil
	}
	e.shard.mu.Lock()
	if e.gone || e.prefix > 0 {
		e.shard.mu.Unlock()
		return nil
	}
	session := e.shard.entries.at(e.ref)
	at, key := c.place(session), c.keyOf(session)
	e.shard.mu.Unlock()
	put, err := c.log.Read(at, key, nil)
	if err != nil {
		return nil // who asks for it is told
	}
	return c.endOf(wal.Entry{Key: key, At: at}, put)
}

// touch copies when a session was used last, if the record is the latest that says so.
func (c *compaction) touch(en wal.Entry) error {
	if len(en.Payload) != 8 {
		return nil
	}
	sh := c.of(en.Key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	ref := c.findKey(sh, en.Key)
	if ref == 0 {
		return nil
	}
	e := sh.entries.at(ref)
	if e.seq > en.Seq || e.unit(int64(binary.LittleEndian.Uint64(en.Payload))) != e.touched {
		return nil
	}
	at, _, err := c.Store.append(en.Key, typeTouch, wal.Copy, en.Payload, nil)
	c.log.Free(at)
	return err
}

// remove copies the end of a session, unless nothing is left from which the session
// could return: a session of that name has come since, or it ended once more; or the
// snapshot knows of the end and no segment is older.
func (c *compaction) remove(en wal.Entry, why []byte) error {
	if c.oldest && en.Seq <= c.snapshot {
		return nil
	}
	sh := c.of(en.Key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if c.findKey(sh, en.Key) != 0 {
		return nil
	}
	if _, seq, known := c.tombstones.why(en.Key); known && seq > en.Seq {
		return nil
	}
	return c.append(en.Key, typeRemove, why, nil, nil)
}

// damaged deals with a record that cannot be read any more: a session that is in
// memory is written again, and another ends. If it was an end, it is said again.
func (c *compaction) damaged(en wal.Entry) error {
	if _, ok := endOf(en.Key); ok {
		return nil
	}
	sh := c.of(en.Key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	ref := c.findKey(sh, en.Key)
	if ref == 0 {
		w, _, known := c.tombstones.why(en.Key)
		if !known {
			w = why{kind: store.Damaged, at: c.now()}
		}
		return c.append(en.Key, typeRemove, appendWhy(nil, w), nil, nil)
	}
	e := sh.entries.at(ref)
	switch {
	case !e.in(en.At):
		return nil
	case e.cold():
		return c.Store.end(sh, ref, e, en.Key, store.Reason{Kind: store.Damaged}, c.now())
	}
	sh.scratch = appendHead(sh.scratch[:0], e, c.apps.name(e.app), e.used())
	return c.append(en.Key, typePut, sh.scratch, c.content(e), &move{key: en.Key, from: en.At})
}

// finish makes a copy count, or gives it up if what it is a copy of has changed.
func (c *compaction) finish(m move) {
	if m.ended {
		if !c.finishEnd(m) {
			c.log.Free(m.to)
		}
		return
	}
	sh := c.of(m.key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if e, ok := c.current(sh, m.key, m.from); ok {
		e.segment, e.offset, e.seq = m.to.Segment, m.to.Offset, m.seq
		c.log.Free(m.from)
		return
	}
	// It may have ended meanwhile, behind the copy.
	x := &c.ends
	x.mu.Lock()
	defer x.mu.Unlock()
	if e := x.byPlace[placeOf(m.from)]; e != nil && e.shard == sh {
		x.move(e, m)
		c.log.Free(m.from)
		return
	}
	c.log.Free(m.to)
}

// finishEnd is finish for an end.
func (c *compaction) finishEnd(m move) bool {
	x := &c.ends
	x.mu.Lock()
	e := x.byName[m.end]
	x.mu.Unlock()
	if e == nil {
		return false
	}
	e.shard.mu.Lock()
	defer e.shard.mu.Unlock()
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.byName[m.end] != e || e.at != placeOf(m.from) {
		return false
	}
	x.move(e, m)
	c.log.Free(m.from)
	return true
}

// move says that an end's content is elsewhere. The end's shard is locked too.
func (x *ends) move(e *end, m move) {
	delete(x.byPlace, e.at)
	e.at = placeOf(m.to)
	x.byPlace[e.at] = e
	session := e.shard.entries.at(e.ref)
	session.segment, session.offset, session.seq = m.to.Segment, m.to.Offset, m.seq
	e.prefix = m.prefix
}
