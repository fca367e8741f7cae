package logstore

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

func TestBlockClasses(t *testing.T) {
	last, lastSize := -1, 0
	for n := range 3 * largeBlock {
		class, size := blockClass(n)
		if size < n || class >= blockClasses || class < last || class == last && class != largeClass && size != lastSize {
			t.Fatalf("%d bytes are of class %d, %d bytes, after class %d, %d bytes", n, class, size, last, lastSize)
		}
		if n > 200 && size > n+n/8+8 {
			t.Fatalf("%d bytes take %d", n, size)
		}
		if c, s := blockClass(size); c != class || s != size {
			t.Fatalf("a block of %d bytes is of class %d, %d bytes; want %d", size, c, s, class)
		}
		last, lastSize = class, size
	}
}

// TestBlocks compares blocks with slices.
func TestBlocks(t *testing.T) {
	var b blocks
	rng := rand.New(rand.NewPCG(3, 4))
	have := make(map[block][]byte)
	for i := range 100_000 {
		if rng.IntN(3+i/50_000*2) > 1 { // more than half are taken, and later given back
			for at, want := range have {
				if got := b.bytes(at)[:len(want)]; !bytes.Equal(got, want) {
					t.Fatalf("a block of %d bytes has %.20q; want %.20q", len(want), got, want)
				}
				b.release(at)
				delete(have, at)
				break
			}
			continue
		}
		n := rng.IntN(1 << rng.IntN(18))
		at, ok := b.alloc(n)
		if !ok || at == 0 || at&isCold != 0 {
			t.Fatalf("alloc of %d: %x, %v", n, at, ok)
		}
		if have[at] != nil {
			t.Fatalf("block %x twice", at)
		}
		have[at] = pattern(i, max(n, 1))[:n]
		copy(b.bytes(at), have[at])
	}
	for at := range have {
		b.release(at)
	}
	if n := b.inUse.Load(); n != 0 {
		t.Errorf("%d bytes in use", n)
	}
	chunks := 0
	for i := range b.last {
		if b.chunk(i+1).buf != nil {
			chunks++
		}
	}
	if chunks > blockClasses {
		t.Errorf("%d chunks are kept; want at most one of each of %d classes", chunks, blockClasses)
	}
}

func TestEntries(t *testing.T) {
	var x entries
	rng := rand.New(rand.NewPCG(3, 4))
	have := make(map[uint32]int64)
	for i := range int64(20_000) {
		if rng.IntN(5) > 2 {
			for n, mark := range have {
				if x.at(n).created != mark {
					t.Fatalf("entry %d is marked %d; want %d", n, x.at(n).created, mark)
				}
				x.put(n)
				delete(have, n)
				break
			}
			continue
		}
		n, e := x.get()
		if *e != (entry{}) || have[n] != 0 || x.there(n) != e {
			t.Fatalf("entry %d is %+v", n, e)
		}
		e.created, have[n] = i+1, i+1
	}
	for n := range have {
		x.put(n)
	}
	if x.used != 0 || x.pages != nil || x.there(1) != nil {
		t.Errorf("%d entries used, %d pages", x.used, len(x.pages))
	}
}

// TestIndex compares an index with a map. Many sessions share a tag.
func TestIndex(t *testing.T) {
	var x index
	rng := rand.New(rand.NewPCG(3, 4))
	have := make(map[uint32]uint32) // tag by number
	for i := uint32(1); i < 50_000; i++ {
		if rng.IntN(5) > 2 {
			for ref, tag := range have {
				x.delete(tag, ref)
				delete(have, ref)
				break
			}
		} else {
			tag := rng.Uint32() >> rng.IntN(32) << rng.IntN(32)
			x.put(tag, i)
			have[i] = tag
		}
		if i%1000 != 0 {
			continue
		}
		for ref, tag := range have {
			if got := x.find(tag, func(r uint32) bool { return r == ref }); got != ref {
				t.Fatalf("session %d of tag %x: found %d", ref, tag, got)
			}
		}
		if x.find(rng.Uint32(), func(uint32) bool { return false }) != 0 {
			t.Fatal("found what is not there")
		}
		if x.used != len(have) || len(x.slots) > max(5*x.used, minSlots) || x.used > len(x.slots)*4/5 {
			t.Fatalf("%d of %d slots used for %d sessions", x.used, len(x.slots), len(have))
		}
	}
	for ref, tag := range have {
		x.delete(tag, ref)
	}
	if x.used != 0 || len(x.slots) > minSlots {
		t.Errorf("empty: %d used of %d slots", x.used, len(x.slots))
	}
}
