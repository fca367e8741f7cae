package inproc

import "github.com/holdfast-session/holdfast/store"

// A table finds a shard's sessions: open addressing with linear probing. A map of Go
// would do as well; this one takes two cache misses less for a session that nobody
// has asked for of late, and gives memory back when sessions have gone.
type table struct {
	slots []slot // a power of two of them, or none
	used  int
}

// A slot holds the key besides, so that a search that meets others, and a growing
// table, leave these alone.
type slot struct {
	key uint64
	e   *entry
}

// minSlots is the size of a table with anything in it.
const minSlots = 8

// get returns the session, expired or not, or nil.
func (t *table) get(key uint64, id store.ID) *entry {
	if t.used == 0 {
		return nil
	}
	mask := uint64(len(t.slots) - 1)
	for i := key & mask; ; i = (i + 1) & mask {
		s := &t.slots[i]
		if s.e == nil || s.key == key && s.e.is(id) {
			return s.e
		}
	}
}

// put adds a session that is not there.
func (t *table) put(key uint64, e *entry) {
	if t.used+1 > len(t.slots)/4*3 {
		t.resize(max(2*len(t.slots), minSlots))
	}
	t.place(slot{key, e})
	t.used++
}

func (t *table) place(s slot) {
	mask := uint64(len(t.slots) - 1)
	i := s.key & mask
	for t.slots[i].e != nil {
		i = (i + 1) & mask
	}
	t.slots[i] = s
}

// delete takes a session out that is there.
func (t *table) delete(key uint64, e *entry) {
	mask := uint64(len(t.slots) - 1)
	i := key & mask
	for t.slots[i].e != e {
		i = (i + 1) & mask
	}
	// Who comes after it in the run moves up, unless that were ahead of its home.
	for j := (i + 1) & mask; t.slots[j].e != nil; j = (j + 1) & mask {
		if home := t.slots[j].key & mask; (j-home)&mask >= (j-i)&mask {
			t.slots[i] = t.slots[j]
			i = j
		}
	}
	t.slots[i] = slot{}
	t.used--
	if len(t.slots) > minSlots && t.used < len(t.slots)/8 {
		t.resize(len(t.slots) / 2)
	}
}

func (t *table) resize(n int) {
	old := t.slots
	t.slots = make([]slot, n)
	for _, s := range old {
		if s.e != nil {
			t.place(s)
		}
	}
}
