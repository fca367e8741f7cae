// Package nearcache keeps contents of sessions near the caller of a store that is
// elsewhere, by version, so that a session that has not changed need not travel: the
// caller names the version that it has, and the store answers that it still is the one.
package nearcache

import (
	"hash/maphash"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/holdfast-session/holdfast/store"
)

const (
	shards = 8
	// overhead is about what an entry takes besides its body.
	overhead = 256
)

// A Cache keeps the bodies of the sessions that were read or written last, with their
// versions. Nothing is ever taken from it without the store having been asked, so it is
// never stale.
//
// A nil Cache keeps nothing. Its methods are safe for concurrent use.
type Cache struct {
	least  int
	seed   maphash.Seed
	shards [shards]shard
}

// A shard has its entries in a ring, the one used last first.
type shard struct {
	mu      sync.Mutex
	size    int // in bytes, and how many of them are free
	free    int
	entries map[store.ID]*Entry
	ring    Entry
}

// An Entry is one session's body. It does not change while it is pinned.
type Entry struct {
	Version store.Version
	Body    []byte

	id           store.ID
	pins         atomic.Int32 // raised under the shard's mu only
	newer, older *Entry
}

// New returns a cache of size bytes, for bodies of at least that many: naming the version
// of a smaller one costs as much as moving it.
func New(size, least int) *Cache {
	n := &Cache{least: least, seed: maphash.MakeSeed()}
	for i := range n.shards {
		s := &n.shards[i]
		s.size, s.free = size/shards, size/shards
		s.entries = make(map[store.ID]*Entry)
		s.ring.newer, s.ring.older = &s.ring, &s.ring
	}
	return n
}

func (n *Cache) shardOf(id store.ID) *shard {
	return &n.shards[maphash.String(n.seed, id.Session)%shards]
}

// Pin returns what is kept of a session, or nil. Give it back with Unpin.
func (n *Cache) Pin(id store.ID) *Entry {
	if n == nil {
		return nil
	}
	s := n.shardOf(id)
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

// Unpin lets the entry, which may be nil, be overwritten again.
func (e *Entry) Unpin() {
	if e != nil {
		e.pins.Add(-1)
	}
}

// Put keeps a copy of body, the content of a session at version.
func (n *Cache) Put(id store.ID, version store.Version, body []byte) {
	if n == nil || version == 0 {
		return
	}
	s := n.shardOf(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries[id]
	switch {
	case e != nil && e.Version == version:
		return
	case len(body) < n.least:
		if e != nil {
			s.remove(e)
		}
		return
	case e != nil && e.pins.Load() == 0 && len(body) <= cap(e.Body) && cap(e.Body) <= 2*len(body)+overhead:
		e.Version, e.Body = version, append(e.Body[:0], body...)
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
	e = &Entry{Version: version, Body: append([]byte(nil), body...), id: id}
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

// Drop forgets a session.
func (n *Cache) Drop(id store.ID) {
	if n == nil {
		return
	}
	s := n.shardOf(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.entries[id]; e != nil {
		s.remove(e)
	}
}

func (e *Entry) size() int { return cap(e.Body) + overhead }

// link makes e the newest. Called with mu held, as the rest is.
func (s *shard) link(e *Entry) {
	e.newer, e.older = &s.ring, s.ring.older
	e.older.newer, s.ring.older = e, e
}

func (e *Entry) unlink() {
	e.newer.older, e.older.newer = e.older, e.newer
	e.newer, e.older = nil, nil
}

func (s *shard) remove(e *Entry) {
	e.unlink()
	delete(s.entries, e.id)
	s.free += e.size()
}
