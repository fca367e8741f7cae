package logstore

import (
	"encoding/binary"
	"slices"
	"time"

	"github.com/holdfast-session/holdfast/internal/expiry"
	"github.com/holdfast-session/holdfast/logstore/internal/wal"
	"github.com/holdfast-session/holdfast/store"
)

// A replay puts the state together that a snapshot and the log after it have. Nobody
// else is there yet.
type replay struct {
	*Store
	now      int64
	from     uint64             // the snapshot has all records up to this one
	graceful bool               // nothing happened after the snapshot was begun
	damaged  map[wal.Key]uint64 // sessions whose latest record cannot be read, and that
	lost     int                // records that are no state of anything
}

// reopen fills the store with what is in the folder.
func (s *Store) reopen() error {
	r := &replay{Store: s, now: s.now(), damaged: make(map[wal.Key]uint64)}
	begun := time.Now()
	from, _, err := s.log.Snapshot(r.readSnapshot)
	if err != nil {
		return err
	}
	report, err := s.log.Replay(from, r.visit)
	if err != nil {
		return err
	}
	if err := r.finish(); err != nil {
		return err
	}
	s.logger.Info("logstore: open", "sessions", s.count.Load(), "records", report.Records, "took", time.Since(begun).Round(time.Millisecond))
	if r.lost > 0 {
		s.logger.Error("logstore: records that are intact make no sense", "records", r.lost)
	}
	return nil
}

// visit takes one record of the log.
func (r *replay) visit(en wal.Entry) error {
	if r.graceful {
		r.graceful = false
		r.allCrashed()
	}
	r.segment.Store(en.At.Segment)
	if en.Type == typeRemove || en.Type == typeEnd || en.Type == typeAck {
		r.removals.add(en.At)
	}
	sh := r.of(en.Key)
	switch {
	case en.Damaged:
		r.damage(sh, en)
	case en.Type == typePut:
		h, content, err := parsePut(en.Payload)
		if err != nil || !r.putRecord(sh, en, h, content) {
			r.lost++
			r.damage(sh, en)
		}
	case en.Type == typeTouch:
		r.log.Free(en.At)
		if len(en.Payload) != 8 {
			r.lost++
		} else if ref := r.findKey(sh, en.Key); ref != 0 {
			e := sh.entries.at(ref)
			r.usedAt(e, int64(binary.LittleEndian.Uint64(en.Payload)))
		}
	case en.Type == typeRemove:
		w, _, err := parseWhy(en.Payload)
		if err != nil {
			r.lost++
			r.damage(sh, en)
			break
		}
		r.ended(sh, en, w, nil)
	case en.Type == typeEnd:
		name, w, _, err := parseEnd(en.Payload)
		if err != nil {
			r.lost++
			r.damage(sh, en)
			break
		}
		r.ended(sh, en, w, &end{name: name, why: w, shard: sh, seq: en.Seq})
	case en.Type == typeEnded:
		name, w, put, err := parseEnd(en.Payload)
		if err == nil {
			err = r.endedRecord(en, name, w, put)
		}
		if err != nil {
			r.lost++
		}
	case en.Type == typeAck:
		if name, ok := endOf(en.Key); ok {
			r.forgetEnd(name)
		}
	case en.Type == typeApp:
		r.ends.app(string(en.Payload)).seq = en.Seq
	}
	return nil
}

// findKey returns the session of a key, or 0.
func (s *Store) findKey(sh *shard, key wal.Key) uint32 {
	return sh.index.find(tag(key), func(ref uint32) bool { return s.keyOf(sh.entries.at(ref)) == key })
}

// putRecord takes a session's state. It reports false if there can be no such session.
func (r *replay) putRecord(sh *shard, en wal.Entry, h head, content []byte) bool {
	session, subject, _ := names(content)
	if hashOf(string(h.app), session) != en.Key {
		return false
	}
	if ref := r.findKey(sh, en.Key); ref != 0 {
		e := sh.entries.at(ref)
		if e.seq > en.Seq {
			r.log.Free(en.At) // the snapshot is ahead of the log
		}
		if e.seq >= en.Seq {
			return true
		}
		r.leave(sh, en.Key, ref, e, nil)
		r.discard(sh, ref, e, 0)
	}
	delete(r.damaged, en.Key)
	h.segment, h.offset, h.seq = en.At.Segment, en.At.Offset, en.Seq
	h.deadline = r.crashed(h.used, h.timeout)
	ref, ok := r.add(sh, h, content, r.resident()+int64(len(content)) <= r.maxWarm && !r.blocks.scarce())
	if !ok {
		return false
	}
	r.enter(sh, en.Key, ref, string(subject))
	return true
}

// crashed is the deadline of a session that was used last then, as far as is known: by
// a tenth of the timeout it may have been later.
func (r *replay) crashed(used int64, timeout uint32) int64 {
	t := time.Duration(timeout) * time.Second
	return min(after(used, t+t/10), after(r.now, t))
}

// allCrashed is for a snapshot that was written when the store was closed, and for a
// process after it that crashed: the sessions may have been used later by it.
func (r *replay) allCrashed() {
	for i := range r.shard {
		sh := &r.shard[i]
		for ref := uint32(1); ref <= sh.entries.last; ref++ {
			if e := sh.entries.at(ref); e.size > 0 && e.deadline != 0 {
				e.deadline = max(e.deadline, r.crashed(e.used(), e.timeout))
			}
		}
	}
}

// usedAt says that the log knows that e was used then.
func (r *replay) usedAt(e *entry, used int64) {
	e.deadline = max(e.deadline, r.crashed(used, e.timeout))
	e.touched = e.unit(used)
}

// add makes an entry of what is known of a session: with its content if it is to be
// warm, else with the names.
func (r *replay) add(sh *shard, h head, content []byte, warm bool) (ref uint32, ok bool) {
	app, ok := r.apps.of(string(h.app))
	if !ok {
		return 0, false
	}
	if size, _ := checkNames(content); !warm {
		content = content[:size]
	}
	b, ok := r.blocks.alloc(len(content))
	if !ok {
		return 0, false
	}
	copy(r.blocks.bytes(b), content)
	ref, e := sh.entries.get()
	*e = h.entry
	e.app = app
	e.touched = e.unit(h.used)
	if e.block = b; len(content) < int(e.size) {
		e.block |= isCold
	} else {
		r.bodies.Add(r.bodySize(e))
	}
	r.kept.Add(1)
	return ref, true
}

// enter makes an entry a session.
func (r *replay) enter(sh *shard, key wal.Key, ref uint32, subject string) {
	e := sh.entries.at(ref)
	sh.index.put(tag(key), ref)
	sh.link(ref, e, r.now)
	if subject != "" {
		r.join(sh.number, ref, e, subject)
	}
	r.count.Add(1)
}

// ended takes the end of a session, of which somebody wants to know if there is a to.
func (r *replay) ended(sh *shard, en wal.Entry, w why, to *end) {
	if seq, ok := r.damaged[en.Key]; ok && seq < en.Seq {
		delete(r.damaged, en.Key)
	}
	ref := r.findKey(sh, en.Key)
	if ref == 0 {
		r.tombstones.add(en.Key, w, en.Seq, en.Seq)
		return
	}
	e := sh.entries.at(ref)
	if e.seq > en.Seq {
		return // the snapshot is ahead of the log
	}
	r.tombstones.add(en.Key, w, en.Seq, en.Seq)
	r.leave(sh, en.Key, ref, e, nil)
	if to == nil || r.ends.byName[to.name] != nil {
		r.discard(sh, ref, e, 0)
		return
	}
	to.ref = ref
	r.addEnd(to, e)
	r.reap()
}

// endedRecord takes an end with its content, in place of what is known of it.
func (r *replay) endedRecord(en wal.Entry, name uint64, w why, put []byte) error {
	h, content, err := parsePut(put)
	if err != nil || endRecord(name) != en.Key {
		return errMalformed
	}
	r.forgetEnd(name)
	h.segment, h.offset, h.seq = en.At.Segment, en.At.Offset, en.Seq
	return r.keepEnd(&end{name: name, why: w, seq: en.Seq, prefix: uint32(len(en.Payload) - len(put))}, h, content)
}

// keepEnd makes an end of what is known of it. Its content stays in the log.
func (r *replay) keepEnd(to *end, h head, content []byte) error {
	session, _, _ := names(content)
	to.shard = r.of(hashOf(string(h.app), session))
	ref, ok := r.add(to.shard, h, content, false)
	if !ok {
		return errMalformed
	}
	to.ref = ref
	r.addEnd(to, to.shard.entries.at(ref))
	r.reap()
	return nil
}

func (r *replay) forgetEnd(name uint64) {
	if e := r.ends.byName[name]; e != nil {
		r.ends.drop(e)
		r.reap()
	}
}

// damage takes a record that cannot be read. What it was is not known, so its session
// is not what it was before.
func (r *replay) damage(sh *shard, en wal.Entry) {
	if name, ok := endOf(en.Key); ok {
		if e := r.ends.byName[name]; e != nil && e.at == placeOf(en.At) {
			r.forgetEnd(name)
		}
		return
	}
	if ref := r.findKey(sh, en.Key); ref != 0 {
		e := sh.entries.at(ref)
		if e.seq > en.Seq {
			return
		}
		r.leave(sh, en.Key, ref, e, nil)
		r.discard(sh, ref, e, 0)
	} else if _, seq, known := r.tombstones.why(en.Key); known && seq > en.Seq {
		return
	}
	r.damaged[en.Key] = en.Seq
}

// finish makes the state one to work with, and lets the log know.
func (r *replay) finish() error {
	s := r.Store
	if !r.graceful {
		for i := range s.shard {
			s.dropLocks(&s.shard[i])
		}
	}
	s.sortEnds()
	for key := range r.damaged {
		w := why{kind: store.Damaged, at: r.now}
		_, seq, err := s.append(key, typeRemove, wal.End, appendWhy(nil, w), nil)
		if err != nil {
			return err
		}
		s.tombstones.add(key, w, seq, s.log.Synced())
		s.kinds[store.Damaged].Add(1)
	}
	_, seq, err := s.append(endRecord(0), typeOpen, wal.End, nil, nil)
	if err != nil {
		return err
	}
	return s.log.CommitEnd(seq)
}

// dropLocks frees all sessions of a shard.
func (s *Store) dropLocks(sh *shard) {
	for ref := uint32(1); ref <= sh.entries.last; ref++ {
		if e := sh.entries.at(ref); e.hold != 0 {
			s.unlock(sh, e)
		}
	}
}

// sortEnds puts the ends in the order in which they were: the log may have some of
// them again, behind others.
func (s *Store) sortEnds() {
	x := &s.ends
	all := make([]*end, 0, x.all.Len())
	for at := x.all.Front(); at != nil; at = at.Next() {
		all = append(all, at.Value.(*end))
	}
	slices.SortStableFunc(all, func(a, b *end) int { return int(min(max(a.why.at-b.why.at, -1), 1)) })
	for _, e := range all {
		x.all.MoveToBack(e.byAge)
		e.of.waiting.MoveToBack(e.byApp)
	}
}

// arm sets the sweeper to the first session that expires.
func (s *Store) arm() {
	next := int64(expiry.Never)
	for i := range s.shard {
		next = min(next, s.shard[i].wheel.Next())
	}
	s.sweeper.Arm(next, s.now())
}
