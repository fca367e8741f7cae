package logstore

import (
	"encoding/binary"
	"math/bits"
	"sync"
	"sync/atomic"
)

// A block is a piece of memory for a session's names and body, by its number and not
// by a pointer: the garbage collector sees the chunks that blocks are cut from, some
// thousand for millions of sessions. The upper 16 bits (of 31) are the chunk, the
// lower 15 the place in it. Zero is no block.
type block uint32

const (
	placeBits = 15
	maxChunks = 1 << 16
	chunkPage = 256

	smallBlock = 32         // the smallest
	fineBlock  = 1 << 10    // up to here there is a class for every eight bytes,
	largeBlock = 1 << 16    // up to here eight for every doubling; larger ones are chunks of their own
	firstChunk = 16 << 10   // bytes of the first chunks of a class
	lastChunk  = 1024 << 10 // bytes of those to which it grows
	manyChunks = 16         // from here on a class has so many that it is worth large pages

	fineClasses  = (fineBlock-smallBlock)/8 + 1
	blockClasses = fineClasses + 8*6 + 1
	largeClass   = blockClasses - 1
)

// blockClass returns the class of blocks for n bytes, and what a block of it takes.
func blockClass(n int) (class, size int) {
	switch {
	case n <= fineBlock:
		n = max(n, smallBlock)
		class = (n - smallBlock + 7) / 8
		return class, smallBlock + 8*class
	case n <= largeBlock:
		shift := bits.Len(uint(n-1)) - 4 // eight steps from one power of two to the next
		step := (n - 1) >> shift         // 8 to 15
		return fineClasses + 8*(shift-7) + step - 8, (step + 1) << shift
	}
	return largeClass, (n + 7) &^ 7
}

// blocks hand out memory. They are safe for concurrent use; what is in a block is
// guarded by whoever has it.
type blocks struct {
	inUse atomic.Int64 // bytes of the blocks that are handed out
	taken atomic.Int64 // chunks
	max   int64        // how many chunks there may be; 0: as many as have a number
	class [blockClasses]blockChunks

	mu    sync.Mutex
	pages [maxChunks / chunkPage]*[chunkPage]chunk
	free  []uint32 // numbers of chunks that were given back
	last  uint32   // the largest number in use; 0 is none
}

// blockChunks are the chunks of one class.
type blockChunks struct {
	mu      sync.Mutex
	partial uint32 // the first chunk with room, which is linked to the others
	count   int
}

// A chunk is memory for some blocks of one size. buf and size stay as they are while
// anybody has a block of it, so they are read without a lock; the rest is guarded by
// the class.
type chunk struct {
	buf           []byte
	size          int32
	class         int32
	used          int32 // blocks handed out
	fresh         int32 // blocks that were never handed out begin here
	free          int32 // the first one that was given back, by its place plus one
	before, after uint32
}

func (b *blocks) chunk(n uint32) *chunk { return &b.pages[n/chunkPage][n%chunkPage] }

// most is how many chunks there may be.
func (b *blocks) most() int64 {
	if b.max > 0 {
		return b.max
	}
	return maxChunks - 1
}

// scarce reports whether chunks are running out, which blocks that are chunks of their
// own can do.
func (b *blocks) scarce() bool { return b.taken.Load() > b.most()/8*7 }

// bytes returns all of a block.
func (b *blocks) bytes(at block) []byte {
	c := b.chunk(uint32(at >> placeBits))
	i := int(at&(1<<placeBits-1)) * int(c.size)
	return c.buf[i : i+int(c.size) : i+int(c.size)]
}

// alloc returns a block of at least n bytes; none if there are too many.
func (b *blocks) alloc(n int) (at block, ok bool) {
	i, size := blockClass(n)
	class := &b.class[i]
	class.mu.Lock()
	defer class.mu.Unlock()
	number := class.partial
	if number == 0 {
		if number = b.newChunk(i, size, class.count); number == 0 {
			return 0, false
		}
		class.count++
		class.partial = number
	}
	c := b.chunk(number)
	place := c.fresh
	if c.free != 0 {
		place = c.free - 1
		c.free = int32(binary.LittleEndian.Uint32(c.buf[int(place)*size:]))
	} else {
		c.fresh++
	}
	c.used++
	if int(c.used) == len(c.buf)/size {
		b.unlink(class, number)
	}
	b.inUse.Add(int64(size))
	return block(number<<placeBits | uint32(place)), true
}

// release gives a block back.
func (b *blocks) release(at block) {
	number, place := uint32(at>>placeBits), int32(at&(1<<placeBits-1))
	c := b.chunk(number)
	class := &b.class[c.class]
	class.mu.Lock()
	defer class.mu.Unlock()
	b.inUse.Add(-int64(c.size))
	if int(c.used) == len(c.buf)/int(c.size) {
		b.link(class, number)
	}
	binary.LittleEndian.PutUint32(c.buf[int(place)*int(c.size):], uint32(c.free))
	c.free = place + 1
	c.used--
	if c.used == 0 && (class.partial != number || c.after != 0 || c.class == largeClass) { // one is kept for the next
		b.unlink(class, number)
		class.count--
		b.freeChunk(number)
	}
}

// link puts a chunk that has room among those that have.
func (b *blocks) link(class *blockChunks, number uint32) {
	c := b.chunk(number)
	c.before, c.after = 0, class.partial
	if c.after != 0 {
		b.chunk(c.after).before = number
	}
	class.partial = number
}

func (b *blocks) unlink(class *blockChunks, number uint32) {
	c := b.chunk(number)
	if c.before != 0 {
		b.chunk(c.before).after = c.after
	} else {
		class.partial = c.after
	}
	if c.after != 0 {
		b.chunk(c.after).before = c.before
	}
	c.before, c.after = 0, 0
}

// newChunk returns the number of an empty chunk, or 0. The more a class has, the
// larger they are.
func (b *blocks) newChunk(class, size, have int) uint32 {
	n := max(min(firstChunk<<min(have/4, 6), lastChunk)/size, 4)
	if class == largeClass {
		n = 1
	}
	buf := make([]byte, n*size)
	if have >= manyChunks {
		wantHugePages(buf)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.taken.Load() == b.most() {
		return 0
	}
	b.taken.Add(1)
	number := b.last + 1
	if k := len(b.free); k > 0 {
		number, b.free = b.free[k-1], b.free[:k-1]
	} else {
		b.last = number
	}
	if b.pages[number/chunkPage] == nil {
		b.pages[number/chunkPage] = new([chunkPage]chunk)
	}
	*b.chunk(number) = chunk{buf: buf, size: int32(size), class: int32(class)}
	return number
}

func (b *blocks) freeChunk(number uint32) {
	b.mu.Lock()
	defer b.mu.Unlock()
	*b.chunk(number) = chunk{}
	b.taken.Add(-1)
	b.free = append(b.free, number)
}

// entries are the sessions of a shard, by their number: 1 and up. Zero is none.
type entries struct {
	pages []*[entryPage]entry
	used  int
	last  uint32 // the largest number in use
	free  uint32 // the first one that was given back; linked by next
}

const (
	entryPage = 256
	manyPages = 8 // from here on a shard has so many that they are worth large pages
)

func (x *entries) at(n uint32) *entry { return &x.pages[(n-1)/entryPage][(n-1)%entryPage] }

// there is at for a number that may be no session's any more; then it may be nil, or
// another's.
func (x *entries) there(n uint32) *entry {
	if n > x.last {
		return nil
	}
	return x.at(n)
}

// get returns an entry of zeros. It stays where it is until it is given back.
func (x *entries) get() (uint32, *entry) {
	x.used++
	if n := x.free; n != 0 {
		e := x.at(n)
		x.free = e.next
		*e = entry{}
		return n, e
	}
	x.last++
	if int(x.last) > len(x.pages)*entryPage {
		page := new([entryPage]entry)
		if len(x.pages) >= manyPages {
			wantHugePages(page[:])
		}
		x.pages = append(x.pages, page)
	}
	return x.last, x.at(x.last)
}

// put gives an entry back. With the last one all memory is.
func (x *entries) put(n uint32) {
	if x.used--; x.used == 0 {
		*x = entries{}
		return
	}
	*x.at(n) = entry{next: x.free}
	x.free = n
}
