package logstore

// An index finds a shard's sessions: open addressing with linear probing, in slots of
// eight bytes without pointers. A slot's home is its tag's share of the table, so the
// table may have any size, grows by half, and does so without a look at the sessions.
type index struct {
	slots []slot
	used  int
}

// A slot holds a session's tag, 32 bits of its key, so that a search that meets
// others leaves these alone, and its number. Two sessions may have one tag.
type slot struct{ tag, ref uint32 }

const minSlots = 8

func (x *index) home(tag uint32) int { return int(uint64(tag) * uint64(len(x.slots)) >> 32) }

// next is the slot after one.
func (x *index) next(i int) int {
	if i++; i == len(x.slots) {
		return 0
	}
	return i
}

// find returns the number of the session with that tag which is the one, or 0.
func (x *index) find(tag uint32, is func(ref uint32) bool) uint32 {
	if x.used == 0 {
		return 0
	}
	for i := x.home(tag); x.slots[i].ref != 0; i = x.next(i) {
		if s := x.slots[i]; s.tag == tag && is(s.ref) {
			return s.ref
		}
	}
	return 0
}

// put adds a session that is not there.
func (x *index) put(tag, ref uint32) {
	if x.used+1 > len(x.slots)/5*4 {
		x.resize(max(len(x.slots)/2*3, minSlots))
	}
	x.place(slot{tag, ref})
	x.used++
}

func (x *index) place(s slot) {
	i := x.home(s.tag)
	for x.slots[i].ref != 0 {
		i = x.next(i)
	}
	x.slots[i] = s
}

// delete takes a session out that is there.
func (x *index) delete(tag, ref uint32) {
	i := x.home(tag)
	for x.slots[i].ref != ref {
		i = x.next(i)
	}
	// Who comes after it in the run moves up, unless that were ahead of its home.
	n := len(x.slots)
	for j := x.next(i); x.slots[j].ref != 0; j = x.next(j) {
		if (j-x.home(x.slots[j].tag)+n)%n >= (j-i+n)%n {
			x.slots[i] = x.slots[j]
			i = j
		}
	}
	x.slots[i] = slot{}
	x.used--
	if n > minSlots && x.used < n/4 {
		x.resize(max(n/2, minSlots))
	}
}

func (x *index) resize(n int) {
	old := x.slots
	x.slots = make([]slot, n)
	if n >= manyPages*entryPage {
		wantHugePages(x.slots)
	}
	for _, s := range old {
		if s.ref != 0 {
			x.place(s)
		}
	}
}
