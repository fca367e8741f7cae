package stateserver

import (
	"hash/maphash"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/holdfast-session/holdfast/store"
)

const (
	nearShards = 8
	// nearMin is from which size a body is kept: naming the version of a smaller one
	// costs both sides as much as moving it.
	nearMin = 1 << 10
	// nearOverhead is about what an entry takes besides its body.
	nearOverhead = 256
)

// A nearCache keeps the bodies of the sessions that were read or written last, with
// their versions, so that a session that has not changed need not travel: the client
// names the version that it has, and the server answers that it still is the one.
// Nothing is ever taken from it without having been asked for, so it is never stale.
//
// A nil nearCache keeps nothing. Its methods are safe for concurrent use.
type nearCache struct {
	seed   maphash.Seed
	shards [nearShards]nearShard
}

// A nearShard has its entries in a ring, the one used last first.
type nearShard struct {
	mu      sync.Mutex
	size    int // in bytes, and how many of them are free
	free    int
	entries map[store.ID]*nearEntry
	ring    nearEntry
}

// A nearEntry is one session's body. It does not change while it is pinned.
type nearEntry struct {
	version store.Version
	body    []byte

	id           store.ID
	pins         atomic.Int32 // raised under the shard's mu only
	newer, older *nearEntry
}

// newNearCache returns a cache of size bytes.
func newNearCache(size int) *nearCache {
	n := &nearCache{seed: maphash.MakeSeed()}
	for i := range n.shards {
		s := &n.shards[i]
		s.size, s.free = size/nearShards, size/nearShards
		s.entries = make(map[store.ID]*nearEntry)
		s.ring.newer, s.ring.older = &s.ring, &s.ring
	}
	return n
}

func (n *nearCache) shard(id store.ID) *nearShard {
	return &n.shards[maphash.String(n.seed, id.Session)%nearShards]
}

// pin returns what is kept of a session, or nil. Give it back with unpin.
func (n *nearCache) pin(id store.ID) *nearEntry {
	if n == nil {
		return nil
	}
	s := n.shard(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries[id]
	if e == nil {
		return nil
	}
	e.pins.Add(1)
	if s.ring.older != e {
		e.unlink()
		s.link(e)
	}
	return e
}

func (e *nearEntry) unpin() {
	if e != nil {
		e.pins.Add(-1)
	}
}

// put keeps a copy of body, the content of a session at version.
func (n *nearCache) put(id store.ID, version store.Version, body []byte) {
	if n == nil || version == 0 {
		return
	}
	s := n.shard(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries[id]
	switch {
	case e != nil && e.version == version:
		return
	case len(body) < nearMin:
		if e != nil {
			s.remove(e)
		}
		return
	case e != nil && e.pins.Load() == 0 && len(body) <= cap(e.body) && cap(e.body) <= 2*len(body)+nearOverhead:
		e.version, e.body = version, append(e.body[:0], body...)
		if s.ring.older != e {
			e.unlink()
			s.link(e)
		}
		return
	case e != nil:
		id = e.id
		s.remove(e)
	default:
		id = store.ID{App: strings.Clone(id.App), Session: strings.Clone(id.Session)}
	}
	e = &nearEntry{version: version, body: append([]byte(nil), body...), id: id}
	if e.size() > s.size {
		return
	}
	for s.free < e.size() {
		s.remove(s.ring.newer)
	}
	s.free -= e.size()
	s.entries[id] = e
	s.link(e)
}

// drop forgets a session.
func (n *nearCache) drop(id store.ID) {
	if n == nil {
		return
	}
	s := n.shard(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.entries[id]; e != nil {
		s.remove(e)
	}
}

func (e *nearEntry) size() int { return cap(e.body) + nearOverhead }

// link makes e the newest. Called with mu held, as the rest is.
func (s *nearShard) link(e *nearEntry) {
	e.newer, e.older = &s.ring, s.ring.older
	e.older.newer, s.ring.older = e, e
}

func (e *nearEntry) unlink() {
	e.newer.older, e.older.newer = e.older, e.newer
	e.newer, e.older = nil, nil
}

func (s *nearShard) remove(e *nearEntry) {
	e.unlink()
	delete(s.entries, e.id)
	s.free += e.size()
}
