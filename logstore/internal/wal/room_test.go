package wal

import (
	"bytes"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-session/holdfast/logstore/internal/vfs"
)

// fill appends records of that class until one is refused, and returns how many were
// taken.
func fill(t testing.TB, l *Log, c Class, payload []byte) (taken int) {
	t.Helper()
	for ; taken < 100_000; taken++ {
		_, seq, err := l.Append(key(taken%100), putType, c, payload)
		if errors.Is(err, ErrFull) {
			return taken
		}
		if err != nil {
			t.Fatal(err)
		}
		commit(t, l, seq)
	}
	t.Fatal("never full")
	return 0
}

// freeAll frees what is garbage in the segments that were left.
func freeAll(t testing.TB, l *Log, garbage func(Entry) bool) {
	t.Helper()
	for _, s := range *l.segments.Load() {
		if s == l.active {
			break
		}
		err := l.Scan(s.number, func(e Entry) error {
			if garbage(e) {
				l.Free(e.At)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestMaxDiskRefusesNewFirst(t *testing.T) {
	m := vfs.NewMem()
	asked := 0
	const segment = 64 << 10
	l := open(t, m, Options{SegmentSize: segment, MaxDisk: 10 * segment, Compact: func() { asked++ }})
	replay1(t, l, 0)
	b := make([]byte, 1000)
	if fill(t, l, New, b) == 0 || asked == 0 {
		t.Fatalf("compaction asked for %d times", asked)
	}
	if got := l.Stats().Allocated; got > 10*segment || got < 9*segment {
		t.Errorf("%d bytes are allocated when new records are refused, MaxDisk is %d", got, 10*segment)
	}
	if n := fill(t, l, Change, b); n < 80 { // two segments' worth
		t.Errorf("%d changes were taken after that", n)
	}
	if got := l.Stats().Allocated; got > 12*segment {
		t.Errorf("%d bytes are allocated when changes are refused, the margin ends at %d", got, 12*segment)
	}
	for _, c := range []Class{Copy, End} {
		for range 200 {
			_, seq, err := l.Append(key(1), putType, c, b)
			if err != nil {
				t.Fatalf("class %d past MaxDisk: %v", c, err)
			}
			commit(t, l, seq)
		}
	}

	// Compaction makes room again.
	if err := l.CommitEnd(l.Last()); err != nil {
		t.Fatal(err)
	}
	if s, ok := l.Candidate(); ok {
		t.Errorf("segment %d is to be compacted, and all of it is in use", s)
	}
	freeAll(t, l, func(Entry) bool { return true })
	for s, ok := l.Candidate(); ok; s, ok = l.Candidate() {
		if err := l.Drop(s); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := l.Append(key(1), putType, New, b); err != nil {
		t.Errorf("after compaction: %v", err)
	}
}

// TestFullDisk: nothing is lost, ends go on for long, and all is well again by itself
// when there is space.
func TestFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := vfs.NewMem()
		const segment = 64 << 10
		l := open(t, m, Options{Sync: Always, SegmentSize: segment})
		replay1(t, l, 0)
		m.SetSpace(m.Used() + 2*segment + segment/2)
		b := body(1, 1, 1000)
		if n := fill(t, l, New, b); n < 100 {
			t.Fatalf("full after %d records", n)
		}
		if _, _, err := l.Append(key(1), putType, Change, b); !errors.Is(err, ErrFull) {
			t.Fatalf("a change on a full disk: %v", err)
		}
		if s := l.Stats(); s.Full == nil || s.Failures > 0 {
			t.Fatalf("%+v", s)
		}
		ends := 0
		for ; ends < 10_000; ends++ {
			_, seq, err := l.Append(key(ends), endType, End, []byte("end"))
			if errors.Is(err, ErrFull) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := l.CommitEnd(seq); err != nil {
				t.Fatal(err)
			}
		}
		if ends < 150 {
			t.Errorf("%d ends were taken on a full disk", ends)
		}
		if _, _, err := l.Append(key(1), putType, Change, b); !errors.Is(err, ErrFull) {
			t.Fatalf("a change after the reserve was used up: %v", err)
		}

		m.SetSpace(-1)
		time.Sleep(2 * retryAfter)
		synctest.Wait()
		_, seq := add(t, l, key(1), b)
		commit(t, l, seq)
		if s := l.Stats(); s.Full != nil {
			t.Errorf("still full: %v", s.Full)
		}
		if _, err := m.Open(reserveName); err != nil {
			t.Errorf("the reserve was not made again: %v", err)
		}
		last := l.Last()
		closeLog(t, l)
		l = open(t, m, Options{})
		got, r := replay1(t, l, 0)
		r.clean(t)
		if e := got[key(1)]; !bytes.Equal(e.Payload, b) || l.Last() < last {
			t.Errorf("after all that: %+v", e)
		}
		l.Close()
	})
}

// TestFullDiskCompaction: on a full disk compaction still works, and is what helps.
func TestFullDiskCompaction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := vfs.NewMem()
		const segment = 1 << 20
		l := open(t, m, Options{SegmentSize: segment})
		replay1(t, l, 0)
		m.SetSpace(m.Used() + 5*segment + 1000)
		b := body(1, 1, 1000)
		fill(t, l, New, b)
		fill(t, l, Change, b)
		if err := l.CommitEnd(l.Last()); err != nil {
			t.Fatal(err)
		}
		if _, _, err := l.Append(key(1), putType, New, b); !errors.Is(err, ErrFull) {
			t.Fatal(err)
		}
		freeAll(t, l, func(e Entry) bool { return e.Seq%2 > 0 })
		// The first segments give the reserve back, the last a segment.
		for range 3 {
			s, ok := l.Candidate()
			if !ok {
				t.Fatal("nothing to compact on a full disk")
			}
			err := l.Scan(s, func(e Entry) error {
				if e.Seq%2 == 0 {
					l.Free(e.At)
					_, _, err := l.Append(e.Key, e.Type, Copy, e.Payload)
					return err
				}
				return nil
			})
			if err != nil {
				t.Fatalf("copying on a full disk: %v", err)
			}
			if err := l.Drop(s); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		if _, _, err := l.Append(key(1), putType, New, b); err != nil {
			t.Errorf("after compaction: %v", err)
		}
		l.Close()
	})
}

// TestOpenOnFullDisk starts from the reserve.
func TestOpenOnFullDisk(t *testing.T) {
	m := vfs.NewMem()
	l := open(t, m, Options{})
	replay1(t, l, 0)
	_, seq := add(t, l, key(1), []byte("before"))
	commit(t, l, seq)
	killed := m.Cut(nil, vfs.Keep)
	killed.SetSpace(killed.Used())
	l = open(t, killed, Options{})
	got, _ := replay1(t, l, 0)
	if string(got[key(1)].Payload) != "before" {
		t.Errorf("%+v", got)
	}
	_, seq, err := l.Append(key(1), endType, End, []byte("end"))
	if err == nil {
		err = l.CommitEnd(seq)
	}
	if err != nil {
		t.Errorf("an end: %v", err)
	}
}

func TestLargeRecords(t *testing.T) {
	fs := dir(t)
	l := open(t, fs, Options{SegmentSize: minSegment})
	replay1(t, l, 0)
	sizes := []int{100, 3 * minSegment, 10, 1 << 20, minSegment - 1000, 5}
	places := make([]At, len(sizes))
	for n, size := range sizes {
		at, seq := add(t, l, key(n), body(n, 0, size))
		places[n] = at
		commit(t, l, seq)
	}
	for n, size := range sizes {
		if p, err := l.Read(places[n], key(n), nil); err != nil || !bytes.Equal(p, body(n, 0, size)) {
			t.Errorf("record of %d bytes: %v", size, err)
		}
	}
	closeLog(t, l)
	l = open(t, fs, Options{SegmentSize: minSegment})
	got, r := replay1(t, l, 0)
	r.clean(t)
	for n, size := range sizes {
		if !bytes.Equal(got[key(n)].Payload, body(n, 0, size)) {
			t.Errorf("record of %d bytes is not the same", size)
		}
	}
	if _, _, err := l.Append(key(1), putType, New, make([]byte, maxPayload+1)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("a payload that no record can have: %v", err)
	}
}
