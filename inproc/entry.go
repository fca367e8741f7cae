package inproc

import (
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"
	"unique"

	"github.com/holdfast-session/holdfast/internal/lockqueue"
	"github.com/holdfast-session/holdfast/store"
)

// An entry is a session. It is guarded by the mutex of its shard.
//
// A store has as many of them as it has visitors, so every field counts: this is
// 144 bytes, a size class of the allocator. What only a locked session needs is in
// its hold.
type entry struct {
	app      unique.Handle[string]
	session  string
	deadline int64           // when it expires, by Store.now
	hold     *lockqueue.Hold // while it is locked
	timeout  uint32          // seconds
	cookie   int32           // the last one issued

	content  any // a *body, else what Record.Items was
	version  store.Version
	history  [3]store.Version
	acquired store.Version
	created  int64   // nanoseconds of Unix time
	subject  *member // nil without one
	flags    store.Flags

	units      uint16 // its cost
	slot       uint16 // of the wheel, in whose list it is
	prev, next *entry
}

// A body is a content that came as bytes. It belongs to one entry and is written
// over by the next Save, so that a steady session costs no allocation.
type body struct{ bytes []byte }

// newEntry makes a session that is in no shard yet and has no subject.
func newEntry(id store.ID, rec *store.Record) *entry {
	created := rec.Created
	if created.IsZero() {
		created = time.Now()
	}
	e := &entry{
		app:     unique.Make(id.App), // clones, and keeps one for all sessions
		session: strings.Clone(id.Session),
		created: created.UnixNano(),
	}
	e.write(rec, rec.Version, e.contain(rec))
	e.history = rec.History
	return e
}

// is reports whether e is the session of this ID.
func (e *entry) is(id store.ID) bool { return e.session == id.Session && e.app.Value() == id.App }

func (e *entry) id() store.ID { return store.ID{App: e.app.Value(), Session: e.session} }

// seen reports whether v is the version or in the history, as [store.Record.Seen].
func (e *entry) seen(v store.Version) bool {
	return v != 0 && (e.version == v || e.history[0] == v || e.history[1] == v || e.history[2] == v)
}

// read fills rec with all there is to know.
func (e *entry) read(rec *store.Record, now int64) {
	rec.Version, rec.History, rec.Acquired = e.version, e.history, e.acquired
	rec.Lock = store.Lock{Cookie: e.cookie}
	rec.Locked, rec.LockAge = false, 0
	if h := e.hold; h != nil {
		rec.Lock.Owner = h.Owner
		rec.Locked, rec.LockAge = true, time.Duration(now-h.Since)
	}
	rec.Timeout = time.Duration(e.timeout) * time.Second
	rec.Created = time.Unix(0, e.created).UTC()
	rec.Flags = e.flags
	rec.Subject = e.owner()
	rec.Body, rec.Items = rec.Body[:0], e.content
	if b, ok := e.content.(*body); ok {
		rec.Body, rec.Items = append(rec.Body, b.bytes...), nil
	}
}

// contain returns what e will have as its content if rec is written: an empty body
// that has the room, which may be the one that e has, if the content is bytes.
func (e *entry) contain(rec *store.Record) any {
	if rec.Items != nil || len(rec.Body) == 0 {
		return rec.Items
	}
	if b, ok := e.content.(*body); ok && len(rec.Body) <= cap(b.bytes) && cap(b.bytes) <= 2*len(rec.Body)+512 {
		return b // a session that shrank gives its memory back, though
	}
	return &body{slices.Grow([]byte(nil), len(rec.Body))}
}

// write takes over what a Save may change, except the subject, under a new version.
func (e *entry) write(rec *store.Record, next store.Version, content any) {
	e.history = [3]store.Version{e.version, e.history[0], e.history[1]}
	e.version = next
	e.timeout = seconds(rec.Timeout)
	e.flags = rec.Flags
	e.content = content
	if b, ok := content.(*body); ok {
		b.bytes = append(b.bytes[:0], rec.Body...)
	}
}

// seconds rounds up, and never to more than what fits: 136 years.
func seconds(d time.Duration) uint32 {
	s := (max(d, 0) + time.Second - 1) / time.Second
	return uint32(min(s, math.MaxUint32))
}

// after is the moment d from now; one that is too far away to be met is none.
func after(now int64, d time.Duration) int64 { return lockqueue.After(now, d) }

// A shard keeps a part of the sessions.
type shard struct {
	mu       sync.Mutex
	sessions table
	random   rand.PCG       // draws the cookies; to name locks they need not be secret
	free     lockqueue.Free // to be used again
	wheel    wheel
	dirty    map[*entry]struct{} // to be written to the backing
	_        [64]byte            // keeps the mutexes of two shards from sharing a cache line
}

// find returns the session if it is there at this moment, or nil.
func (s *Store) find(sh *shard, key uint64, id store.ID, now int64) *entry {
	e := sh.sessions.get(key, id)
	if e != nil && now >= e.deadline {
		return s.settle(sh, e, now)
	}
	return e
}

// begin makes e, with its hold and its subject if it is to have them, a session.
// There is room for it: takeNew has counted it.
func (s *Store) begin(sh *shard, key uint64, e *entry, now int64) {
	sh.sessions.put(key, e)
	e.deadline = after(now, time.Duration(e.timeout)*time.Second)
	s.sweeper.Arm(sh.wheel.link(e, now), now)
}

// end is the one place where a session ends, for whatever reason: why.Age ago.
func (s *Store) end(sh *shard, key uint64, e *entry, why store.Reason, now int64) {
	sh.sessions.delete(key, e)
	sh.wheel.unlink(e)
	s.tombstones.add(key, why, now)
	s.ended[min(int(why.Kind), len(s.ended)-1)].Add(1)
	if e.subject != nil {
		s.subjects.remove(e)
	}
	if h := e.hold; h != nil {
		h.End(&store.NotFoundError{Reason: why})
		e.hold = nil
		sh.free.Put(h)
	}
	if s.behind != nil {
		s.gone(sh, e, why)
	}
	s.ends.add(e, why, now) // e never changes from here on
	s.bytes.Add(-e.cost())
	if s.count.Add(-1) == 0 {
		s.sweeper.Rest()
	}
}

// restart makes the session expire its timeout from now, though not before its
// holder was promised.
func (s *Store) restart(sh *shard, e *entry, now int64) {
	d := after(now, time.Duration(e.timeout)*time.Second)
	if h := e.hold; h != nil {
		d = max(d, after(h.Since, h.Stale))
	}
	s.expireAt(sh, e, d, now)
}

// expireAt sets the deadline. The wheel learns by itself of one that was put off;
// it must be told of one that came nearer (a shorter timeout).
func (s *Store) expireAt(sh *shard, e *entry, deadline, now int64) {
	sooner := deadline < e.deadline
	e.deadline = deadline
	if sooner {
		sh.wheel.unlink(e)
		s.sweeper.Arm(sh.wheel.link(e, now), now)
	}
}
