package logstore

import (
	"encoding/binary"
	"testing"

	"github.com/holdfast-session/holdfast/logstore/internal/wal"
	"github.com/holdfast-session/holdfast/store"
)

func numberedKey(i int) (key wal.Key) {
	binary.BigEndian.PutUint64(key[:], uint64(i))
	return key
}

func TestTombstones(t *testing.T) {
	const most = 100
	ts := tombstones{max: most}
	add := func(i, at int, to string, synced uint64) {
		ts.add(numberedKey(i), why{kind: store.Abandoned, at: int64(at), to: to}, uint64(at), synced)
	}
	check := func(first, last int) {
		t.Helper()
		for i := range last + 1 {
			w, seq, known := ts.why(numberedKey(i))
			if known != (i >= first) || known && (w.at != int64(i) || seq != uint64(i)) {
				t.Fatalf("tombstone %d: %+v, %d, %v; want those from %d on", i, w, seq, known, first)
			}
		}
		if len(ts.index) != ts.len || ts.len != last+1-first {
			t.Fatalf("%d tombstones, %d in the index; want %d", ts.len, len(ts.index), last+1-first)
		}
	}
	for i := range 1000 {
		add(i, i, "", uint64(i))
	}
	check(1000-most, 999)

	// What is not on disk is kept, and let go when it is.
	for i := 1000; i < 2000; i++ {
		add(i, i, "", 1200)
	}
	check(1201, 1999)
	again := 0
	err := ts.again(1500, func(key wal.Key, w why) (uint64, error) { again++; return uint64(w.at), nil })
	if again != 499 || err != nil {
		t.Errorf("%d tombstones are written again, %v; want 499", again, err)
	}
	add(2000, 2000, "", 2000)
	check(2000-most+1, 2000)

	// The latest end of a session counts.
	add(1990, 2001, "there", 2001)
	if w, seq, known := ts.why(numberedKey(1990)); !known || seq != 2001 || w.to != "there" {
		t.Errorf("a session that ended twice: %+v, %d, %v", w, seq, known)
	}
	for i := range most {
		add(3000+i, 3000+i, "", 1<<20)
	}
	if _, _, known := ts.why(numberedKey(1990)); known || len(ts.to) != 0 || len(ts.index) != most {
		t.Errorf("after %d more: known is %v, %d have a To, %d are in the index", most, known, len(ts.to), len(ts.index))
	}

	none := tombstones{}
	none.add(numberedKey(1), why{}, 1, 0)
	none.add(numberedKey(2), why{}, 2, 1)
	if _, _, known := none.why(numberedKey(1)); known || none.len != 1 {
		t.Errorf("without tombstones: known is %v, of %d; want only the one that is not on disk", known, none.len)
	}
}
