package items

import (
	"bytes"
	"strings"
	"sync"
	"testing"
)

func TestDeflateInflate(t *testing.T) {
	var g sync.WaitGroup
	for name, body := range storeBodies(t) {
		g.Go(func() {
			compressed := Deflate([]byte("x"), body)
			if compressed[0] != 'x' || compressed[len(compressed)-1] != endMark {
				t.Errorf("%s: compressed to % x", name, head(compressed))
			}
			for _, limit := range []int{len(body), len(body) + 1, 1 << 30} {
				got, err := Inflate([]byte("y"), compressed[1:], limit)
				if err != nil || string(got) != "y"+string(body) {
					t.Errorf("%s: inflated with the limit %d it is % x, %v", name, limit, head(got), err)
				}
			}
			got, err := Inflate([]byte("y"), compressed[1:], len(body)-1)
			if err == nil || !strings.Contains(err.Error(), "more than") || string(got) != "y" {
				t.Errorf("%s: past the limit it is % x, %v", name, head(got), err)
			}
		})
	}
	g.Wait()
}

func TestInflateDamaged(t *testing.T) {
	body := bytes.Repeat([]byte("session state "), 1000)
	compressed := Deflate(nil, body)
	for i := range compressed {
		if got, err := Inflate(nil, compressed[:i], 1<<20); err == nil {
			t.Errorf("the first %d bytes inflate to %d bytes", i, len(got))
		}
	}
	for _, c := range [][]byte{
		append(bytes.Clone(compressed), endMark),
		append(compressed[:len(compressed)-1:len(compressed)-1], 0),
		vector(t, "item_two"), // not compressed
	} {
		if got, err := Inflate(nil, c, 1<<20); err == nil {
			t.Errorf("% x inflates to %d bytes", head(c), len(got))
		}
	}
	if _, err := Inflate(nil, compressed, 0); err == nil {
		t.Error("the limit 0 lets something through")
	}
}

func TestInflateBomb(t *testing.T) {
	bomb := Deflate(nil, make([]byte, 50<<20))
	got, err := Inflate(nil, bomb, 1<<10)
	if err == nil || cap(got) > 0 {
		t.Errorf("a bomb of %d bytes gave %d bytes, %v", len(bomb), cap(got), err)
	}
}
