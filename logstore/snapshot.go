package logstore

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/holdfast-session/holdfast/internal/lockqueue"
	"github.com/holdfast-session/holdfast/logstore/internal/wal"
	"github.com/holdfast-session/holdfast/store"
)

// A snapshot is what the store has in memory besides bodies, so that only the log
// after it has to be read. It is a header (version, whether the store was closed
// gracefully, up to which record it has all) and then items: a type, the length and
// as many bytes. Sessions that change while it is written are in the log behind it
// too; those that come and go may be in it or not.
const snapshotVersion = 1

const (
	itemApp  = 'a' // an application whose ends somebody wants: its name
	itemGone = 'g' // a tombstone: key, seq, why
	itemLive = 'l' // a session: place, lock, head, names
	itemEnd  = 'e' // an end: its name, seq, how long the record's prefix is, why, place, head, names
	itemLast = 'z' // the last item
)

// maxItem is more than any item has.
const maxItem = 1 << 30

// placeSize is what appendPlace appends.
const placeSize = 28

// appendPlace appends where a session's content is, and its deadline.
func appendPlace(b []byte, e *entry) []byte {
	le := binary.LittleEndian
	b = le.AppendUint32(b, e.segment)
	b = le.AppendUint32(b, e.offset)
	b = le.AppendUint64(b, e.seq)
	b = le.AppendUint64(b, uint64(e.deadline))
	return le.AppendUint32(b, e.size)
}

func (h *head) parsePlace(b []byte) {
	le := binary.LittleEndian
	h.segment, h.offset = le.Uint32(b), le.Uint32(b[4:])
	h.seq, h.deadline, h.size = le.Uint64(b[8:]), int64(le.Uint64(b[16:])), le.Uint32(b[24:])
}

// appendLock appends a lock, or that there is none.
func appendLock(b []byte, h *lockqueue.Hold) []byte {
	if h == nil {
		return append(b, 0)
	}
	b = appendUint64(append(b, 1), h.Owner)
	b = appendUint64(b, uint64(h.Since))
	return appendUint64(b, uint64(h.Stale))
}

func parseLock(b []byte) (h lockqueue.Hold, held bool, rest []byte, err error) {
	switch {
	case len(b) >= 1 && b[0] == 0:
		return h, false, b[1:], nil
	case len(b) < 25 || b[0] != 1:
		return h, false, nil, errMalformed
	}
	le := binary.LittleEndian
	h.Owner, h.Since, h.Stale = le.Uint64(b[1:]), int64(le.Uint64(b[9:])), time.Duration(le.Uint64(b[17:]))
	return h, true, b[25:], nil
}

func appendUint64(b []byte, v uint64) []byte { return binary.LittleEndian.AppendUint64(b, v) }

// appendItem appends an item whose content is put together in scratch, which it
// returns for the next one.
func appendItem(b []byte, kind byte, content []byte) []byte {
	b = binary.AppendUvarint(append(b, kind), uint64(len(content)))
	return append(b, content...)
}

// snapshot writes one, with the locks if the store is closed and nobody can take any
// more. No compaction may be under way: its copies count only at its end.
func (s *Store) snapshot(graceful bool) error {
	logged := s.logged.Swap(0)
	segment := s.segment.Load() // all before it is left by now
	seq := s.log.Last()
	err := s.log.WriteSnapshot(seq, func(to io.Writer) error {
		header := []byte{snapshotVersion, 0}
		if graceful {
			header[1] = 1
		}
		if _, err := to.Write(appendUint64(header, seq)); err != nil {
			return err
		}
		if _, err := to.Write(s.ends.appendApps(s.tombstones.appendAll(nil))); err != nil {
			return err
		}
		for i := range s.shard {
			if err := s.writeShard(to, &s.shard[i], graceful); err != nil {
				return err
			}
		}
		// Ends come last: of a session that ends meanwhile, the log has the end, and at
		// least one of the two is here.
		if err := s.writeEnds(to); err != nil {
			return err
		}
		_, err := to.Write(appendItem(nil, itemLast, nil))
		return err
	})
	if err != nil {
		s.logged.Add(logged)
		return err
	}
	s.known(segment)
	return nil
}

// snapshotBatch is how many entries are written while others wait for the shard.
const snapshotBatch = 256

// writeShard writes the sessions of a shard. Who comes or goes meanwhile is in the log.
func (s *Store) writeShard(to io.Writer, sh *shard, graceful bool) error {
	var batch, one []byte
	for first := uint32(1); ; first += snapshotBatch {
		batch = batch[:0]
		sh.mu.Lock()
		last := sh.entries.last
		for ref := first; ref < first+snapshotBatch && ref <= last; ref++ {
			e := sh.entries.at(ref)
			if e.size == 0 || e.deadline == 0 {
				continue // free, or an end
			}
			one = appendPlace(one[:0], e)
			if graceful {
				one = appendLock(one, sh.hold(e))
			} else {
				one = appendLock(one, nil)
			}
			one = s.appendSession(one, e)
			batch = appendItem(batch, itemLive, one)
		}
		sh.mu.Unlock()
		if _, err := to.Write(batch); err != nil {
			return err
		}
		if first+snapshotBatch > last {
			return nil
		}
	}
}

// appendSession appends head and names.
func (s *Store) appendSession(b []byte, e *entry) []byte {
	b = appendHead(b, e, s.apps.name(e.app), e.used())
	all := s.content(e)
	_, _, body := names(all)
	if e.cold() {
		size, _ := checkNames(all)
		return append(b, all[:size]...)
	}
	return append(b, all[:len(all)-len(body)]...)
}

// writeEnds writes the ends that nobody has acknowledged.
func (s *Store) writeEnds(to io.Writer) error {
	x := &s.ends
	x.mu.Lock()
	all := make([]*end, 0, x.all.Len())
	for at := x.all.Front(); at != nil; at = at.Next() {
		all = append(all, at.Value.(*end))
	}
	x.mu.Unlock()
	var batch, one []byte
	for _, e := range all {
		e.shard.mu.Lock()
		if !e.gone {
			session := e.shard.entries.at(e.ref)
			one = appendUint64(one[:0], e.name)
			one = binary.LittleEndian.AppendUint32(one, e.prefix)
			one = s.appendSession(appendPlace(appendWhy(one, e.why), session), session)
			batch = appendItem(batch[:0], itemEnd, one)
		}
		e.shard.mu.Unlock()
		if _, err := to.Write(batch); err != nil {
			return err
		}
		batch = batch[:0]
	}
	return nil
}

// appendAll appends an item for each tombstone, oldest first.
func (t *tombstones) appendAll(b []byte) []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	var one []byte
	for i := range t.len {
		stone := t.at(i)
		if t.index[stone.key] == uint32((t.first+i)%len(t.ring)) {
			one = appendUint64(append(one[:0], stone.key[:]...), stone.seq)
			b = appendItem(b, itemGone, appendWhy(one, why{kind: stone.kind, at: stone.at, to: t.to[stone.key]}))
		}
	}
	return b
}

// appendApps appends an item for each application whose ends somebody wants.
func (x *ends) appendApps(b []byte) []byte {
	x.mu.Lock()
	defer x.mu.Unlock()
	for name, a := range x.apps {
		if a.seq > 0 {
			b = appendItem(b, itemApp, []byte(name))
		}
	}
	return b
}

// readSnapshot fills the store with what a snapshot has.
func (r *replay) readSnapshot(from io.Reader) error {
	in := bufio.NewReader(from)
	var header [10]byte
	if _, err := io.ReadFull(in, header[:]); err != nil {
		return fmt.Errorf("snapshot: %w", err)
	}
	if header[0] > snapshotVersion {
		return fmt.Errorf("snapshot of version %d, this program knows up to %d: it was written by a newer program", header[0], snapshotVersion)
	}
	r.graceful = header[1] == 1
	r.from = binary.LittleEndian.Uint64(header[2:])
	var buf []byte
	for {
		kind, err := in.ReadByte()
		if err != nil {
			return fmt.Errorf("snapshot: %w", err)
		}
		n, err := binary.ReadUvarint(in)
		if err != nil || n > maxItem {
			return fmt.Errorf("snapshot: %w", errors.Join(errMalformed, err))
		}
		if uint64(cap(buf)) < n {
			buf = make([]byte, 2*n)
		}
		buf = buf[:n]
		if _, err := io.ReadFull(in, buf); err != nil {
			return fmt.Errorf("snapshot: %w", err)
		}
		if kind == itemLast {
			return nil
		}
		if err := r.item(kind, buf); err != nil {
			return fmt.Errorf("snapshot: %w", err)
		}
	}
}

// item takes one item of a snapshot.
func (r *replay) item(kind byte, b []byte) error {
	switch kind {
	case itemApp:
		r.ends.app(string(b)).seq = 1
	case itemGone:
		if len(b) < 24 {
			return errMalformed
		}
		w, _, err := parseWhy(b[24:])
		if err != nil {
			return err
		}
		seq := binary.LittleEndian.Uint64(b[16:])
		r.tombstones.add(wal.Key(b[:16]), w, seq, seq)
	case itemLive:
		return r.liveItem(b)
	case itemEnd:
		return r.endItem(b)
	}
	return nil // of a later version, and of no consequence for this one
}

// session parses a place, what between is for, and a session.
func parseSession(b []byte, between func(b []byte) (rest []byte, err error)) (h head, names []byte, err error) {
	if len(b) < placeSize {
		return h, nil, errMalformed
	}
	where := b[:placeSize]
	if b, err = between(b[placeSize:]); err != nil {
		return h, nil, err
	}
	h, names, err = parsePut(b)
	h.parsePlace(where)
	if err == nil && int(h.size) < len(names) {
		err = errMalformed
	}
	return h, names, err
}

func (r *replay) liveItem(b []byte) error {
	var lock lockqueue.Hold
	var held bool
	h, content, err := parseSession(b, func(b []byte) (rest []byte, err error) {
		lock, held, rest, err = parseLock(b)
		return rest, err
	})
	if err != nil {
		return err
	}
	session, subject, _ := names(content)
	key := hashOf(string(h.app), session)
	sh := r.of(key)
	if ref := r.findKey(sh, key); ref != 0 {
		// The shard was free between two batches: the session ended, and another of its
		// ID came, whose entry was written behind the first one's.
		e := sh.entries.at(ref)
		if e.seq >= h.seq {
			return nil
		}
		if e.seq > r.from {
			r.log.Live(r.place(e)) // as the log does when it comes to it; discard takes one back
		}
		r.leave(sh, key, ref, e, nil)
		r.discard(sh, ref, e, 0)
	}
	// Whatever the wall clock has done since: not later than from now.
	limit := after(r.now, time.Duration(h.timeout)*time.Second)
	if held {
		lock.Since = min(lock.Since, r.now)
		limit = max(limit, after(lock.Since, lock.Stale))
	}
	h.deadline = min(max(h.deadline, 1), limit)
	if !r.graceful {
		h.deadline = max(h.deadline, r.crashed(h.used, h.timeout))
	}
	ref, ok := r.add(sh, h, content, false)
	if !ok {
		return store.ErrFull
	}
	e := sh.entries.at(ref)
	if held {
		*sh.newHold(e) = lock
		r.locked.Add(1)
	}
	if e.seq <= r.from {
		r.log.Live(r.place(e)) // else the log has it again
	}
	r.enter(sh, key, ref, string(subject))
	return nil
}

func (r *replay) endItem(b []byte) error {
	if len(b) < 12 {
		return errMalformed
	}
	e := &end{name: binary.LittleEndian.Uint64(b), prefix: binary.LittleEndian.Uint32(b[8:])}
	w, b, err := parseWhy(b[12:])
	if err != nil {
		return err
	}
	e.why = w
	h, content, err := parseSession(b, func(b []byte) ([]byte, error) { return b, nil })
	if err != nil {
		return err
	}
	h.deadline = 0
	if h.seq <= r.from {
		at := wal.At{Segment: h.segment, Offset: h.offset}
		at.Size = uint32(wal.Overhead+headSize+len(h.app)) + h.size + e.prefix
		r.log.Live(at)
	}
	r.forgetEnd(e.name)
	return r.keepEnd(e, h, content)
}
