package logstore

import (
	"strings"
	"sync"

	"github.com/holdfast-session/holdfast/logstore/internal/wal"
	"github.com/holdfast-session/holdfast/store"
)

// tombstones remember how the latest sessions ended: as many as fit, however long ago,
// and all of which the disk does not know yet, because a log that fails asks for them.
type tombstones struct {
	mu    sync.Mutex
	max   int
	ring  []tombstone // without pointers: the garbage collector passes it by
	first int         // the oldest in ring
	len   int
	index map[wal.Key]uint32 // the place in ring of a session's latest one
	to    map[wal.Key]string // Reason.To, where there is one
}

type tombstone struct {
	key  wal.Key
	at   int64  // when the session ended, by Store.now
	seq  uint64 // of the record that says so
	kind store.Kind
}

func (t *tombstones) at(i int) *tombstone { return &t.ring[(t.first+i)%len(t.ring)] }

// add remembers a session that ended, and forgets the oldest if there is no room; all
// records up to synced are on disk.
func (t *tombstones) add(key wal.Key, w why, seq, synced uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for t.len > 0 && t.len >= t.max && t.at(0).seq <= synced {
		t.forget()
	}
	if t.len == len(t.ring) {
		ring := make([]tombstone, max(2*len(t.ring), 16))
		if t.index == nil {
			t.index = make(map[wal.Key]uint32)
		}
		for i := range t.len {
			ring[i] = *t.at(i)
			if p := uint32((t.first + i) % len(t.ring)); t.index[ring[i].key] == p {
				t.index[ring[i].key] = uint32(i)
			}
		}
		t.ring, t.first = ring, 0
	}
	*t.at(t.len) = tombstone{key: key, at: w.at, seq: seq, kind: w.kind}
	t.index[key] = uint32((t.first + t.len) % len(t.ring))
	t.len++
	delete(t.to, key)
	if w.to != "" {
		if t.to == nil {
			t.to = make(map[wal.Key]string)
		}
		t.to[key] = strings.Clone(w.to)
	}
}

func (t *tombstones) forget() {
	key := t.at(0).key
	if t.index[key] == uint32(t.first) { // else a later one is there
		delete(t.index, key)
		delete(t.to, key)
	}
	t.first = (t.first + 1) % len(t.ring)
	t.len--
}

// why returns how the session of this key ended last, if that is known, and the record
// that says so.
func (t *tombstones) why(key wal.Key) (w why, seq uint64, known bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	i, known := t.index[key]
	if !known {
		return w, 0, false
	}
	stone := t.ring[i]
	return why{kind: stone.kind, at: stone.at, to: t.to[key]}, stone.seq, true
}

// again calls write with the tombstones whose records are after one, oldest first, and
// notes the records that it returns.
func (t *tombstones) again(after uint64, write func(key wal.Key, w why) (seq uint64, err error)) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range t.len {
		stone := t.at(i)
		p := uint32((t.first + i) % len(t.ring))
		if stone.seq <= after || t.index[stone.key] != p {
			continue
		}
		seq, err := write(stone.key, why{kind: stone.kind, at: stone.at, to: t.to[stone.key]})
		if err != nil {
			return err
		}
		stone.seq = seq
	}
	return nil
}
