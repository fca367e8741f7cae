package inproc

import (
	"strings"
	"sync"
	"time"

	"github.com/holdfast-session/holdfast/store"
)

// tombstones remember how the latest sessions ended: as many as fit, however long
// ago. They know a session by its key alone. That two sessions share one is so
// unlikely (65,000 tombstones answer for a wrong one once in 10^14 questions), and
// the answer to it so harmless, that the IDs are not worth their memory.
type tombstones struct {
	mu     sync.Mutex
	max    int
	ring   []tombstone // without pointers: the garbage collector passes it by
	oldest int         // in ring, once it is full
	index  map[uint64]int32
	to     map[uint64]string // Reason.To, where there is one
}

type tombstone struct {
	key   uint64
	ended int64 // by Store.now
	kind  store.Kind
}

// add remembers a session that ended why.Age before now, and forgets the oldest if
// there is no room.
func (t *tombstones) add(key uint64, why store.Reason, now int64) {
	if t.max <= 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.index == nil {
		t.index = make(map[uint64]int32)
	}
	stone := tombstone{key: key, ended: now - int64(why.Age), kind: why.Kind}
	i := t.oldest
	if len(t.ring) < t.max {
		i = len(t.ring)
		t.ring = append(t.ring, stone)
	} else {
		if old := t.ring[i].key; t.index[old] == int32(i) { // else a later one is there
			delete(t.index, old)
			delete(t.to, old)
		}
		t.ring[i] = stone
		t.oldest = (i + 1) % t.max
	}
	t.index[key] = int32(i)
	delete(t.to, key)
	if why.To != "" {
		if t.to == nil {
			t.to = make(map[uint64]string)
		}
		t.to[key] = strings.Clone(why.To)
	}
}

// forget forgets how a session ended, because it is there again.
func (t *tombstones) forget(key uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.index, key)
	delete(t.to, key)
}

// reason returns how the session of this key ended last, if that is known.
func (t *tombstones) reason(key uint64, now int64) (why store.Reason, known bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	i, known := t.index[key]
	if !known {
		return store.Reason{}, false
	}
	stone := t.ring[i]
	return store.Reason{Kind: stone.kind, Age: time.Duration(now - stone.ended), To: t.to[key]}, true
}
