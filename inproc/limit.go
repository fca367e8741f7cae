package inproc

import (
	"math"
	"math/rand/v2"
	"sync/atomic"

	"github.com/holdfast-session/holdfast/internal/memlimit"
	"github.com/holdfast-session/holdfast/store"
)

// A Policy is what a store does when it is full.
type Policy uint8

const (
	// EvictLeastRecentlyUsed ends sessions, with the reason [store.Evicted], to
	// make room for new ones and for those that grow. A session that is locked is
	// never evicted. Of the others, the store looks at 32 that it picks at random
	// (at nearly all, if it has no more than that), and evicts the one that no call
	// has restarted for the longest; one that has expired goes before all of them.
	// So a session from the half that was used last is evicted once in four billion
	// times, and one from the nine tenths that were used last once in thirty.
	//
	// Where every other session is locked, nothing can be evicted, and Create, or a
	// Save that makes its session larger, fails with [store.ErrFull].
	EvictLeastRecentlyUsed Policy = iota

	// RefuseNew evicts nothing: in a full store, Create fails with [store.ErrFull].
	// Sessions that are there go on. For what they grow, a sixteenth of MaxBytes is
	// kept free of new ones; when that is used up too, a Save that makes its session
	// larger fails with [store.ErrFull], and every other succeeds. Sessions that have
	// expired make room about a second later.
	RefuseNew
)

// What things take in memory, in bytes. A session's slot in the table is between
// 21 and 43.
const (
	entryBytes     = 144
	slotBytes      = 44
	subjectBytes   = 144 // its place in the index, and all that a subject with one session takes
	bodyBytes      = 24
	tombstoneBytes = 80  // with what a map wastes
	itemBytes      = 48  // what package items takes for an item besides its bytes, and for all items together
	unknownBytes   = 256 // of content that does not tell
)

// An entry notes its cost in 16 bits: how many times 16 bytes or, with the upper bit,
// how many times 64 KiB.
const (
	fine, coarse = 16, 64 << 10
	isCoarse     = 1 << 15
)

// cost returns the bytes that a session takes, rounded up to what an entry can note: a
// multiple of 16 below 512 KiB, else of 64 KiB, and at most 2 GiB.
func cost(session, subject string, content any) int64 {
	n := entryBytes + slotBytes + roundUp(len(session)) + contentBytes(content)
	if subject != "" {
		n += subjectBytes + roundUp(len(subject))
	}
	if n = roundUp(n); n < fine*isCoarse {
		return int64(n)
	}
	return int64(min((n+coarse-1)/coarse, isCoarse-1)) * coarse
}

func roundUp(n int) int { return (n + 15) &^ 15 }

// contentBytes returns what a content takes at this moment.
func contentBytes(content any) int {
	switch c := content.(type) {
	case nil:
		return 0
	case *body:
		return bodyBytes + cap(c.bytes)
	case interface{ MemSize() int }:
		return c.MemSize()
	case interface { // *items.Item
		Len() int
		Size() int
	}:
		size := c.Size()
		return itemBytes + itemBytes*c.Len() + size + size/8 // which the allocator rounds up
	}
	return unknownBytes
}

// cost returns what e cost when it was written, whatever its content says by now.
func (e *entry) cost() int64 {
	if e.units&isCoarse != 0 {
		return int64(e.units&^isCoarse) * coarse
	}
	return int64(e.units) * fine
}

func (e *entry) setCost(n int64) {
	if n < fine*isCoarse {
		e.units = uint16(n / fine)
	} else {
		e.units = uint16(n/coarse) | isCoarse
	}
}

// limits are how much a store takes. Who adds to count or bytes asks take first.
type limits struct {
	policy        Policy
	sessions      int64
	bytes         int64 // of sessions
	bytesWithEnds int64 // of sessions, where ends are remembered
}

// setLimits sets all limits that the options speak of.
func (s *Store) setLimits(o *Options) {
	s.limits = limits{policy: o.Full, sessions: math.MaxInt64}
	if o.MaxSessions > 0 {
		s.limits.sessions = int64(o.MaxSessions)
	}
	all := o.MaxBytes
	switch {
	case all == 0:
		all = memlimit.Process() / 4
	case all < 0:
		all = math.MaxInt64
	}

	stones := o.Tombstones
	if stones == 0 {
		stones = defaultTombstones
	}
	s.tombstones.max = int(min(int64(max(stones, 0)), all/8/tombstoneBytes))

	s.ends.max, s.ends.maxBytes = o.Ends, all/4
	s.ends.next = rand.Uint64()
	if o.Ends == 0 {
		s.ends.max = defaultEnds
	}
	if o.Ends > 0 {
		s.ends.always = true
		s.ends.on.Store(true)
	}

	s.limits.bytes = all - int64(s.tombstones.max)*tombstoneBytes
	s.limits.bytesWithEnds = s.limits.bytes - all/4
}

// room is how many bytes sessions may take, also to begin one.
func (s *Store) room() (all, begin int64) {
	all = s.limits.bytes
	if s.ends.on.Load() {
		all = s.limits.bytesWithEnds
	}
	begin = all
	if s.limits.policy == RefuseNew {
		begin -= all / 16
	}
	return all, begin
}

// take adds n, unless that were more than limit.
func take(c *atomic.Int64, n, limit int64) bool {
	for {
		have := c.Load()
		if n > limit-have {
			return false
		}
		if c.CompareAndSwap(have, have+n) {
			return true
		}
	}
}

// takeNew takes the room for a session of that many bytes.
func (s *Store) takeNew(bytes int64) bool {
	_, limit := s.room()
	if !take(&s.bytes, bytes, limit) {
		return false
	}
	if !take(&s.count, 1, s.limits.sessions) {
		s.bytes.Add(-bytes)
		return false
	}
	return true
}

// takeMore takes the room for a session that grows, or gives some back.
func (s *Store) takeMore(bytes int64) bool {
	if bytes <= 0 {
		if bytes < 0 {
			s.bytes.Add(bytes)
		}
		return true
	}
	limit, _ := s.room()
	return take(&s.bytes, bytes, limit)
}

// A want is room that a call could not get: for the session of this key, which is to
// take size bytes in all, and so many sessions and bytes more than now.
type want struct {
	key             uint64
	size            int64
	sessions, bytes int64
}

// makeRoom makes room as the policy says, for a call that has no shard; it may be
// gone again when the call takes it.
func (s *Store) makeRoom(w want) error {
	limit, begin := s.room()
	if w.sessions > 0 {
		limit = begin
	}
	if w.size > limit {
		return store.ErrTooLarge
	}
	for w.sessions > s.limits.sessions-s.count.Load() || w.bytes > limit-s.bytes.Load() {
		if s.limits.policy == RefuseNew && s.behind == nil || !s.evict(w.key) && !s.evictWritten(w.key) {
			return store.ErrFull
		}
	}
	return nil
}

// makeRoomFrom is makeRoom for a call that has a shard. Anything may have happened to
// it when it returns.
func (s *Store) makeRoomFrom(sh *shard, w want) error {
	sh.mu.Unlock()
	defer sh.mu.Lock()
	return s.makeRoom(w)
}

const (
	evictLooks = 32 // how many sessions are looked at to evict one
	shardLooks = 4  // in one shard, at least while others have some

	// evictTries is how often another session is looked for, with a backing, where one
	// that was chosen is being written or read back, perhaps by the same call.
	evictTries = 64
)

// A candidate is a session that may be evicted.
type candidate struct {
	sh   *shard
	key  uint64
	e    *entry
	used int64 // when it was used last
}

// evict ends the least recently used of the sessions that it looks at, except that of
// a key, and reports whether there was any that may be ended.
func (s *Store) evict(except uint64) bool {
	for tries := 0; s.behind == nil || tries < evictTries; tries++ {
		var oldest candidate
		first := rand.IntN(shards)
		for i, looks := 0, 0; i < shards && looks < evictLooks; i++ {
			looks += s.look(&s.shard[(first+i)%shards], except, &oldest)
		}
		if oldest.e == nil {
			return false
		}
		if ended, err := s.endUnused(oldest); ended || err != nil {
			return ended
		}
	}
	return false
}

// look looks at some sessions of a shard from a random one on, and reports how many.
func (s *Store) look(sh *shard, except uint64, oldest *candidate) (looks int) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.sessions.used == 0 {
		return 0
	}
	now := s.now()
	n := len(sh.sessions.slots)
	first := rand.IntN(n)
	for i := 0; i < n && looks < shardLooks; i++ {
		at := sh.sessions.slots[(first+i)&(n-1)]
		if at.e == nil || at.e.hold != nil || at.key == except || !s.mayLeave(sh, at) {
			continue
		}
		looks++
		if used := at.e.used(now); oldest.e == nil || used < oldest.used {
			*oldest = candidate{sh, at.key, at.e, used}
		}
	}
	return looks
}

// used is when a session that is not locked was used last; of one that has expired,
// before everything.
func (e *entry) used(now int64) int64 {
	if now >= e.deadline {
		return math.MinInt64
	}
	return e.deadline - int64(e.timeout)*1e9
}

// endUnused ends a candidate, unless it was used meanwhile. An error is the backing's.
func (s *Store) endUnused(c candidate) (ended bool, err error) {
	if s.behind != nil {
		mu := s.behind.stripeOf(c.key)
		if !mu.tryLock() {
			return false, nil
		}
		defer mu.unlock()
		if err := s.touchUnknown(c); err != nil {
			return false, err
		}
	}
	c.sh.mu.Lock()
	defer c.sh.mu.Unlock()
	now := s.now()
	if c.sh.sessions.get(c.key, c.e.id()) != c.e || c.e.hold != nil || c.e.used(now) != c.used || c.sh.isDirty(c.e) {
		return false, nil
	}
	switch e := s.settle(c.sh, c.e, now); {
	case e == nil:
	case s.behind != nil && isKept(e.content):
		s.pageOut(c.sh, c.key, e)
	default:
		s.end(c.sh, c.key, e, store.Reason{Kind: store.Evicted}, now)
	}
	return true, nil
}
