package logstore

import (
	"crypto/sha256"
	"encoding/binary"
	"math"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-session/holdfast/internal/expiry"
	"github.com/holdfast-session/holdfast/internal/lockqueue"
	"github.com/holdfast-session/holdfast/logstore/internal/wal"
	"github.com/holdfast-session/holdfast/store"
)

// An entry is a session, without pointers, so that the garbage collector passes
// millions of them by. It is guarded by the mutex of its shard. Every field counts:
// this is 112 bytes.
//
// Names and body are in its block: the session's ID and the subject, each behind its
// length, then the body. A session that is cold has only the names there, and its body
// in the log.
type entry struct {
	deadline int64 // when it expires, by Store.now
	version  store.Version
	history  [3]store.Version
	acquired store.Version
	created  int64       // nanoseconds of Unix time
	seq      uint64      // of its latest record
	timeout  uint32      // seconds
	cookie   int32       // the last one issued
	flags    store.Flags // as they came
	segment  uint32      // where its latest record is in the log
	offset   uint32
	block    block  // isCold is set in it for a session that is cold
	size     uint32 // of names and body
	prev     uint32 // in its list of the wheel, see link
	next     uint32
	hold     uint32 // while it is locked: the number of its hold
	member   uint32 // its place among its subject's sessions
	app      uint16 // the number of its application
	touched  uint16 // when it was used last, as the log knows it; see unit
}

// isCold marks the block of a cold session, which is never an empty one.
const isCold block = 1 << 31

func (e *entry) cold() bool { return e.block&isCold != 0 }

// seen reports whether v is the version or in the history, as [store.Record.Seen].
func (e *entry) seen(v store.Version) bool {
	return v != 0 && (e.version == v || e.history[0] == v || e.history[1] == v || e.history[2] == v)
}

// used is when the session was used last; after a lock that was to outlive it, later.
func (e *entry) used() int64 { return e.deadline - int64(e.timeout)*1e9 }

// unit tells when now is, in sixty-fourths of the timeout.
func (e *entry) unit(now int64) uint16 { return uint16(now / (max(int64(e.timeout), 1) * 1e9 / 64)) }

// names returns the ID, the subject and what is behind them.
func names(b []byte) (session, subject, rest []byte) {
	n, k := binary.Uvarint(b)
	session, b = b[k:k+int(n)], b[k+int(n):]
	n, k = binary.Uvarint(b)
	return session, b[k : k+int(n)], b[k+int(n):]
}

// appendNames is the inverse of names.
func appendNames(b []byte, session, subject string) []byte {
	b = append(binary.AppendUvarint(b, uint64(len(session))), session...)
	return append(binary.AppendUvarint(b, uint64(len(subject))), subject...)
}

func namesSize(session, subject string) int {
	var b [binary.MaxVarintLen64]byte
	return binary.PutUvarint(b[:], uint64(len(session))) + len(session) +
		binary.PutUvarint(b[:], uint64(len(subject))) + len(subject)
}

// content returns the names and, unless the session is cold, the body.
func (s *Store) content(e *entry) []byte {
	b := s.blocks.bytes(e.block &^ isCold)
	if e.cold() {
		return b
	}
	return b[:e.size]
}

// bodySize is the length of the body, wherever it is.
func (s *Store) bodySize(e *entry) int64 {
	b := s.content(e)
	_, _, rest := names(b)
	return int64(int(e.size) - (len(b) - len(rest)))
}

func (s *Store) id(e *entry) store.ID {
	session, _, _ := names(s.content(e))
	return store.ID{App: s.apps.name(e.app), Session: string(session)}
}

func (s *Store) subject(e *entry) []byte {
	_, subject, _ := names(s.content(e))
	return subject
}

// is reports whether e is the session of that ID.
func (s *Store) is(e *entry, id store.ID) bool {
	session, _, _ := names(s.content(e))
	return string(session) == id.Session && s.apps.name(e.app) == id.App
}

// read fills rec with all there is to know, except the body.
func (s *Store) read(sh *shard, e *entry, rec *store.Record, now int64) {
	rec.Version, rec.History, rec.Acquired = e.version, e.history, e.acquired
	rec.Lock = store.Lock{Cookie: e.cookie}
	rec.Locked, rec.LockAge = false, 0
	if h := sh.hold(e); h != nil {
		rec.Lock.Owner = h.Owner
		rec.Locked, rec.LockAge = true, time.Duration(now-h.Since)
	}
	rec.Timeout = time.Duration(e.timeout) * time.Second
	rec.Created = time.Unix(0, e.created).UTC()
	rec.Flags = e.flags
	if subject := s.subject(e); string(subject) != rec.Subject { // else what is there will do
		rec.Subject = string(subject)
	}
	rec.Body, rec.Items = rec.Body[:0], nil
}

// readAll is read with the body; e is not cold.
func (s *Store) readAll(sh *shard, e *entry, rec *store.Record, now int64) {
	s.read(sh, e, rec, now)
	_, _, body := names(s.content(e))
	rec.Body = append(rec.Body, body...)
}

// write takes over what a Save may change, except names and body, under a new version.
func (e *entry) write(rec *store.Record, next store.Version) {
	e.history = [3]store.Version{e.version, e.history[0], e.history[1]}
	e.version = next
	e.timeout = seconds(rec.Timeout)
	e.flags = rec.Flags
}

// seconds rounds up, and never to more than what fits: 136 years.
func seconds(d time.Duration) uint32 {
	s := (max(d, 0) + time.Second - 1) / time.Second
	return uint32(min(s, math.MaxUint32))
}

// keyOf is what a session is called in the log, and found by: 128 bits of a hash of
// its ID. No two sessions share one: with a billion of them the odds are 1 to 10^21.
func keyOf(id store.ID) wal.Key { return hashOf(id.App, id.Session) }

// keyOf is the same of a session that is there.
func (s *Store) keyOf(e *entry) wal.Key {
	session, _, _ := names(s.content(e))
	return hashOf(s.apps.name(e.app), session)
}

func hashOf[Session ~string | ~[]byte](app string, session Session) wal.Key {
	var room [128]byte
	b := binary.AppendUvarint(room[:0], uint64(len(app)))
	b = append(b, app...)
	b = append(b, session...)
	sum := sha256.Sum256(b)
	return wal.Key(sum[:16])
}

// tag is the part of a key that an index goes by.
func tag(key wal.Key) uint32 { return binary.BigEndian.Uint32(key[4:]) }

// apps are the names of applications, by number. They are never forgotten.
type apps struct {
	names atomic.Pointer[[]string] // only ever appended to

	mu     sync.Mutex
	number map[string]uint16
}

const (
	maxApps    = 1 << 16
	maxAppName = 1<<16 - 1
)

// name returns the name of a number that of returned.
func (a *apps) name(n uint16) string { return (*a.names.Load())[n] }

// of returns the number of a name; not ok means that there are too many.
func (a *apps) of(name string) (n uint16, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if n, ok = a.number[name]; ok || len(a.number) == maxApps {
		return n, ok
	}
	if a.number == nil {
		a.number = make(map[string]uint16)
		a.names.Store(new([]string))
	}
	name = strings.Clone(name)
	names := append(*a.names.Load(), name)
	n = uint16(len(names) - 1)
	a.number[name] = n
	a.names.Store(&names)
	return n, true
}

// A shard keeps a part of the sessions.
type shard struct {
	mu      sync.Mutex
	number  uint16
	closed  bool
	index   index
	entries entries
	random  rand.PCG // draws the cookies; to name locks they need not be secret
	holds   []*lockqueue.Hold
	unheld  []uint32 // numbers in holds that are free
	free    lockqueue.Free
	wheel   wheel
	ended   uint64 // seq of the latest end
	scratch []byte // where records are put together
	_       [64]byte
}

// hold returns the session's hold, or nil.
func (sh *shard) hold(e *entry) *lockqueue.Hold {
	if e.hold == 0 {
		return nil
	}
	return sh.holds[e.hold-1]
}

// newHold gives e, which has none, a hold.
func (sh *shard) newHold(e *entry) *lockqueue.Hold {
	h := sh.free.Get()
	if n := len(sh.unheld); n > 0 {
		e.hold = sh.unheld[n-1]
		sh.unheld = sh.unheld[:n-1]
		sh.holds[e.hold-1] = h
	} else {
		sh.holds = append(sh.holds, h)
		e.hold = uint32(len(sh.holds))
	}
	return h
}

// dropHold takes the hold from e, for which nobody waits.
func (sh *shard) dropHold(e *entry) {
	sh.free.Put(sh.holds[e.hold-1])
	sh.holds[e.hold-1] = nil
	sh.unheld = append(sh.unheld, e.hold)
	e.hold = 0
}

// A wheel finds the sessions of a shard that have expired. The list of a slot is
// linked through prev and next; the first one's prev says which slot it is.
type wheel struct {
	expiry.Wheel
	slots *[expiry.Slots]uint32 // made with the first session
}

// isFirst marks the prev of the first one in a list.
const isFirst = 1 << 31

// link puts an entry into its slot and returns the tick of that.
func (sh *shard) link(ref uint32, e *entry, now int64) int64 {
	w := &sh.wheel
	if w.slots == nil {
		w.slots = new([expiry.Slots]uint32)
	}
	at := w.Place(e.deadline, now)
	i := at % expiry.Slots
	e.prev = isFirst | uint32(i)
	if e.next = w.slots[i]; e.next != 0 {
		sh.entries.at(e.next).prev = ref
	}
	w.slots[i] = ref
	return at
}

// unlink takes it out of its slot.
func (sh *shard) unlink(e *entry) {
	w := &sh.wheel
	if e.next != 0 {
		sh.entries.at(e.next).prev = e.prev
	}
	if e.prev&isFirst == 0 {
		sh.entries.at(e.prev).next = e.next
	} else {
		i := e.prev &^ isFirst
		w.slots[i] = e.next
		if e.next == 0 {
			w.Empty(int(i))
		}
	}
	e.prev, e.next = 0, 0
}
