package nearcache

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/holdfast-session/holdfast/store"
)

func TestBounded(t *testing.T) {
	const size, least = shards * 32 << 10, 1 << 10
	n := New(size, least)
	id := func(i int) store.ID { return store.ID{App: "/", Session: fmt.Sprint(i)} }
	pinned := make(map[*Entry]string)
	for i := range 1000 {
		body := bytes.Repeat([]byte{byte(i)}, least+i)
		n.Put(id(i), store.Version(i+1), body)
		if e := n.Pin(id(i)); e == nil || e.Version != store.Version(i+1) || !bytes.Equal(e.Body, body) {
			t.Fatalf("put, and then found %v", e)
		} else if i%50 == 0 {
			pinned[e] = string(body)
		} else {
			e.Unpin()
		}
		n.Put(id(i/2), store.Version(2000+i), body[:least]) // often there: overwritten
	}
	for e, body := range pinned {
		if string(e.Body) != body {
			t.Error("an entry changed while it was pinned")
		}
	}
	for i := range n.shards {
		s := &n.shards[i]
		used, older := 0, 0
		for e := s.ring.older; e != &s.ring; e = e.older {
			used += e.size()
			older++
			if s.entries[e.id] != e {
				t.Errorf("entry %v is in the ring only", e.id)
			}
		}
		if older != len(s.entries) || used != s.size-s.free || used > size/shards || older == 0 {
			t.Errorf("shard %d: %d entries of %d, %d bytes of %d", i, older, len(s.entries), used, size/shards)
		}
	}

	n.Put(id(1), 5, make([]byte, size)) // larger than a shard
	n.Put(id(2), 6, make([]byte, least-1))
	n.Put(id(3), 7, make([]byte, least))
	n.Drop(id(3))
	for _, i := range []int{1, 2, 3} {
		if n.Pin(id(i)) != nil {
			t.Errorf("session %d is kept", i)
		}
	}
	var none *Cache
	none.Put(id(1), 1, nil)
	none.Drop(id(1))
	none.Pin(id(1)).Unpin()
}
