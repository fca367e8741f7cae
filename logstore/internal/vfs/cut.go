package vfs

import (
	"maps"
	"math/rand/v2"
	"slices"
)

// A CutMode says what a power cut leaves of what was not synced.
type CutMode uint8

const (
	// Drop leaves nothing of it.
	Drop CutMode = iota
	// Keep leaves all of it, as a process does that is killed: everything can be
	// read, and what was not synced still is not.
	Keep
	// Prefix leaves the changes in the order in which they were made, up to one,
	// of which only the first sectors are there.
	Prefix
	// Any leaves each sector with any of the contents that it had, each file with
	// any of its lengths, and each change of a name or not, all independent of each
	// other.
	Any
)

// String returns the mode's name.
func (c CutMode) String() string {
	return [...]string{"drop", "keep", "prefix", "any"}[c]
}

// Cut returns the folder as a power cut at this moment might leave it: with one of
// its possible contents, all durable by now (except with [Keep]), its lock free, no
// hook, and the space that m has. m itself goes on undisturbed. r is used by the
// modes [Prefix] and [Any] only; the same r and the same history give the same
// result.
func (m *Mem) Cut(r *rand.Rand, mode CutMode) *Mem {
	m.mu.Lock()
	defer m.mu.Unlock()
	if mode == Keep {
		return m.copy()
	}

	c := cutter{rand: r, mode: mode}
	switch mode {
	case Prefix:
		first := m.oldest()
		c.until = first + r.Uint64N(m.clock-first+2)
	case Any:
		c.luck = r.Float64()
	}

	names := maps.Clone(m.synced)
	for _, mv := range m.moves {
		if !c.keeps(mv.at) {
			continue
		}
		if mv.from != "" && names[mv.from] == mv.node {
			delete(names, mv.from)
		}
		if mv.to != "" {
			names[mv.to] = mv.node
		}
	}

	after := NewMem()
	after.space = m.space
	for _, name := range slices.Sorted(maps.Keys(names)) {
		// A rename that is there in part only may leave a file both names.
		node := c.cut(names[name])
		after.used += node.reserved
		after.names[name] = node
	}
	after.synced = maps.Clone(after.names)
	return after
}

// copy returns the folder as it is, but for what the dead process held.
func (m *Mem) copy() *Mem {
	copied := map[*inode]*inode{}
	node := func(i *inode) *inode {
		if copied[i] == nil {
			c := &inode{data: slices.Clone(i.data), size: i.size, linked: i.linked, sizes: slices.Clone(i.sizes)}
			c.sectors = make(map[int64]*history, len(i.sectors))
			for s, h := range i.sectors {
				c.sectors[s] = &history{old: slices.Clone(h.old), lost: h.lost}
			}
			copied[i] = c
		}
		return copied[i]
	}
	c := NewMem()
	c.clock, c.space = m.clock, m.space
	for name, i := range m.names {
		c.names[name] = node(i)
		c.names[name].reserved = i.reserved
		c.used += i.reserved
	}
	for name, i := range m.synced {
		c.synced[name] = node(i)
	}
	for _, mv := range m.moves {
		mv.node = node(mv.node)
		c.moves = append(c.moves, mv)
	}
	return c
}

// oldest returns the first change that is not durable yet, or the one to come.
func (m *Mem) oldest() uint64 {
	first := m.clock + 1
	see := func(node *inode) {
		for _, h := range node.sectors {
			first = min(first, h.old[0].until)
		}
		for _, s := range node.sizes {
			first = min(first, s.until)
		}
	}
	for _, mv := range m.moves {
		first = min(first, mv.at)
		see(mv.node)
	}
	for _, node := range m.synced {
		see(node)
	}
	return first
}

// A cutter decides what is left.
type cutter struct {
	rand  *rand.Rand
	mode  CutMode
	until uint64  // Prefix: the first change that is not there, or in part
	luck  float64 // Any: how likely the newest is there
}

// keeps reports whether the change of a name made at that moment is there.
func (c *cutter) keeps(at uint64) bool {
	switch c.mode {
	case Prefix:
		return at < c.until
	case Any:
		return c.rand.Float64() < c.luck
	}
	return false
}

// pick returns which of n old contents is there, or n for the newest; until(i) is
// the change that replaced the i-th.
func (c *cutter) pick(n int, until func(int) uint64) int {
	switch c.mode {
	case Prefix:
		i := 0
		for i < n && until(i) < c.until {
			i++
		}
		return i
	case Any:
		if c.rand.Float64() < c.luck {
			return n
		}
		return c.rand.IntN(n + 1)
	}
	return 0
}

func (c *cutter) cut(node *inode) *inode {
	sectors := slices.Sorted(maps.Keys(node.sectors))

	// The sectors of the change that was cut, in the order of the file.
	var torn []int64
	for _, s := range sectors {
		for _, o := range node.sectors[s].old {
			if c.mode == Prefix && o.until == c.until {
				torn = append(torn, s)
			}
		}
	}
	there := int64(-1) // the last of them that is there
	if n := len(torn); n > 0 {
		if k := c.rand.IntN(n); k > 0 {
			there = torn[k-1]
		}
	}

	out := &inode{linked: true, sectors: map[int64]*history{}, data: slices.Clone(node.data)}
	for _, s := range sectors {
		old := node.sectors[s].old
		i := c.pick(len(old), func(i int) uint64 {
			if old[i].until == c.until && s <= there {
				return 0
			}
			return old[i].until
		})
		if i < len(old) {
			out.put(old[i].data[:], s*sectorSize)
		}
	}

	out.size = node.size
	if i := c.pick(len(node.sizes), func(i int) uint64 { return node.sizes[i].until }); i < len(node.sizes) {
		out.size = node.sizes[i].size
	}
	if there >= 0 {
		out.size = max(out.size, min(node.size, (there+1)*sectorSize))
	}
	out.data = out.data[:min(int64(len(out.data)), out.size)]
	out.reserved = out.size
	return out
}
