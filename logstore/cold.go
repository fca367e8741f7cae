package logstore

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"

	"github.com/holdfast-session/holdfast/logstore/internal/wal"
	"github.com/holdfast-session/holdfast/store"
)

// What a session takes in memory besides its block, in bytes: its entry, and its slots
// in an index that is half to four fifths full.
const entryBytes = 112 + 12

// resident is what the sessions take in memory.
func (s *Store) resident() int64 { return s.blocks.inUse.Load() + s.kept.Load()*entryBytes }

// crowded reports whether there is no memory for a session with names of that size,
// even if all bodies were cold.
func (s *Store) crowded(names int64) bool {
	return s.resident()-s.bodies.Load()+entryBytes+names > s.maxMemory
}

// forgetBody takes the body of e, which is given up, out of the account.
func (s *Store) forgetBody(e *entry) {
	if !e.cold() {
		s.bodies.Add(-s.bodySize(e))
	}
}

// warm reads the body of a session that is cold, with the shard unlocked meanwhile.
// The caller looks for the session again. If the body cannot be read any more, the
// session ends.
func (s *Store) warm(sh *shard, key wal.Key, id store.ID, f found) error {
	at := s.place(f.entry)
	sh.mu.Unlock()
	buf := s.buffers.Get().(*[]byte)
	defer s.buffers.Put(buf)
	payload, err := s.log.Read(at, key, *buf)
	if cap(payload) > cap(*buf) && cap(payload) <= maxBuffer {
		*buf = payload
	}
	sh.mu.Lock()

	f, gone := s.find(sh, key, id)
	if gone != nil || f.entry == nil || !f.cold() || !f.in(at) {
		return gone
	}
	if err == nil {
		_, content, malformed := parsePut(payload)
		if malformed == nil && len(content) == int(f.size) {
			return s.install(f.entry, content)
		}
		err = wal.ErrDamaged
	}
	if !errors.Is(err, wal.ErrDamaged) {
		return unavailable(err)
	}
	s.logger.Error("logstore: a session's content cannot be read any more; the session ends", "segment", at.Segment, "offset", at.Offset)
	if err := s.end(sh, f.ref, f.entry, key, store.Reason{Kind: store.Damaged}, f.now); err != nil {
		return unavailable(err)
	}
	return nil
}

// maxBuffer is the largest buffer that is kept for the next who reads a body.
const maxBuffer = 1 << 20

// errNoBlock is why a content cannot be brought into memory, until others have left it.
var errNoBlock = errors.New("logstore: too many large sessions in memory")

// install gives a cold session its names and body back.
func (s *Store) install(e *entry, content []byte) error {
	b, ok := s.blocks.alloc(len(content))
	if !ok {
		s.nudge()
		return unavailable(errNoBlock)
	}
	copy(s.blocks.bytes(b), content)
	s.blocks.release(e.block &^ isCold)
	e.block = b
	s.bodies.Add(s.bodySize(e))
	return nil
}

// chill drops the body of a session from memory. It reports false if that may not be:
// nobody waits at a session without its body (a lock keeps it), and the log asks for
// what is not on disk if it fails.
func (s *Store) chill(e *entry, synced uint64) bool {
	if e.cold() || e.hold != 0 || e.seq > synced {
		return false
	}
	all := s.content(e)
	_, _, body := names(all)
	if len(body) == 0 {
		return false
	}
	b, ok := s.blocks.alloc(len(all) - len(body))
	if !ok {
		return false
	}
	copy(s.blocks.bytes(b), all[:len(all)-len(body)])
	s.bodies.Add(-int64(len(body)))
	s.blocks.release(e.block)
	e.block = b | isCold
	return true
}

// overfull reports whether bodies are to be dropped from memory.
func (s *Store) overfull() bool {
	return (s.resident() > s.maxWarm || s.blocks.scarce()) && s.bodies.Load() > 0
}

// spares reports whether it helps to drop the body of e: where there are bytes enough,
// and only chunks are scarce, only a large one does.
func (s *Store) spares(e *entry) bool {
	return e.size > largeBlock || s.resident() > s.maxWarm
}

const (
	chillLooks = 32 // how many sessions are looked at to drop one's body
	shardLooks = 4  // in one shard, at least while others have some
)

// shrink drops the bodies of the least recently used of some sessions, where there are
// too many; more than one call can add.
func (s *Store) shrink() {
	for range 2 {
		if !s.overfull() {
			return
		}
		if !s.chillOne() {
			s.nudge()
			return
		}
	}
}

// A candidate is a session that may become cold.
type candidate struct {
	sh   *shard
	ref  uint32
	used int64 // when it was used last
	seq  uint64
}

// chillOne drops the body of the least recently used of the sessions that it looks at,
// and reports whether it did.
func (s *Store) chillOne() bool {
	oldest := candidate{used: math.MaxInt64}
	synced := s.log.Synced()
	first := rand.IntN(shards)
	for i, looks := 0, 0; i < shards && looks < chillLooks; i++ {
		looks += s.look(&s.shard[(first+i)%shards], synced, &oldest)
	}
	if oldest.sh == nil {
		return false
	}
	sh := oldest.sh
	sh.mu.Lock()
	defer sh.mu.Unlock()
	e := sh.entries.there(oldest.ref)
	return e != nil && e.size > 0 && e.seq == oldest.seq && s.chill(e, synced)
}

// look looks at some sessions of a shard, those that have ended too, from a random one
// on, and reports how many.
func (s *Store) look(sh *shard, synced uint64, oldest *candidate) (looks int) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.entries.used == 0 {
		return 0
	}
	n := sh.entries.last
	first := rand.Uint32N(n)
	for i := uint32(0); i < n && looks < shardLooks; i++ {
		ref := (first+i)%n + 1
		e := sh.entries.at(ref)
		if e.size == 0 {
			continue // it is free
		}
		looks++
		if used := e.used(); used < oldest.used && !e.cold() && e.hold == 0 && e.seq <= synced && s.bodySize(e) > 0 && s.spares(e) {
			*oldest = candidate{sh, ref, used, e.seq}
		}
	}
	return looks
}

// chillAll drops bodies until there are few enough: in no order where looking at some
// sessions finds none that has one to spare.
func (s *Store) chillAll() {
	for s.overfull() && s.chillOne() {
	}
	if !s.overfull() {
		return
	}
	if err := s.log.CommitEnd(s.log.Last()); err != nil {
		return // only what is on disk can be dropped
	}
	synced := s.log.Synced()
	first := rand.IntN(shards)
	for i := range shards {
		sh := &s.shard[(first+i)%shards]
		for n := uint32(1); ; {
			sh.mu.Lock()
			last := sh.entries.last
			for end := n + entryPage; n < end && n <= last && s.overfull(); n++ {
				if e := sh.entries.at(n); e.size > 0 && s.spares(e) {
					s.chill(e, synced)
				}
			}
			sh.mu.Unlock()
			if n > last || !s.overfull() {
				break
			}
		}
		if !s.overfull() {
			return
		}
	}
}

// makeRoom waits until what has ended takes no room in the log any more, as far as
// that can be, and reports whether anything was gained.
func (s *Store) makeRoom(ctx context.Context) bool {
	done := make(chan bool, 1)
	select {
	case s.ask <- done:
	case <-s.quit:
		return false
	case <-ctx.Done():
		return false
	}
	select {
	case gained := <-done:
		return gained
	case <-s.quit:
		return false
	case <-ctx.Done():
		return false
	}
}
