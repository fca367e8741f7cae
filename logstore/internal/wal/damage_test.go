package wal

import (
	"bytes"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/holdfast-session/holdfast/logstore/internal/vfs"
)

// A record of a log whose files are damaged in a test.
type written struct {
	n       int
	at      At
	seq     uint64
	payload []byte
}

// A specimen is a small log on disk, and what it says.
type specimen struct {
	fs      *vfs.Mem
	records []written
	want    map[int][]byte // each key's latest payload
	latest  map[int]written
}

// makeSpecimen writes a log in several runs. The last one is closed, or ends by a
// kill when everything is synced and stated by a later record.
func makeSpecimen(t testing.TB, closed bool) *specimen {
	t.Helper()
	s := &specimen{fs: vfs.NewMem(), want: map[int][]byte{}, latest: map[int]written{}}
	var l *Log
	write := func(n, size int) {
		b := body(n, len(s.records), size)
		at, seq := add(t, l, key(n), b)
		s.records = append(s.records, written{n, at, seq, b})
		s.want[n], s.latest[n] = b, s.records[len(s.records)-1]
	}
	for run, records := range []int{30, 12} { // the first rolls over to a second segment
		l = open(t, s.fs, Options{Sync: Always, SegmentSize: minSegment})
		replay1(t, l, 0)
		for i := range records {
			write(i%12, 250+40*run)
			commit(t, l, l.Last())
		}
		if run == 0 {
			closeLog(t, l)
		}
	}
	if closed {
		closeLog(t, l)
	} // else the last record is synced and nothing says so
	s.fs = s.fs.Cut(nil, vfs.Keep)
	return s
}

// damaged returns the folder with one file changed.
func (s *specimen) damaged(t testing.TB, name string, change func(f vfs.File)) *vfs.Mem {
	t.Helper()
	m := s.fs.Cut(nil, vfs.Keep)
	f, err := m.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	change(f)
	f.Sync()
	f.Close()
	return m
}

// segments returns the files' names and sizes.
func (s *specimen) segments(t testing.TB) []vfs.Info {
	t.Helper()
	list, err := s.fs.List()
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(list, func(i vfs.Info) bool { return i.Name == reserveName })
}

// hit returns the record that the byte is part of.
func (s *specimen) hit(segment uint32, off int64) (w written, ok bool) {
	for _, w := range s.records {
		if w.at.Segment == segment && int64(w.at.Offset) <= off && off < int64(w.at.Offset+w.at.Size) {
			return w, true
		}
	}
	return written{}, false
}

// end returns where a segment's last record ends.
func (s *specimen) end(segment uint32) int64 {
	end := int64(0)
	for _, w := range s.records {
		if w.at.Segment == segment {
			end = max(end, int64(w.at.Offset+w.at.Size))
		}
	}
	return end
}

func TestEveryByteFlipped(t *testing.T) {
	for _, closed := range []bool{true, false} {
		t.Run(fmt.Sprintf("closed=%v", closed), func(t *testing.T) {
			s := makeSpecimen(t, closed)
			last := s.records[len(s.records)-1]
			bits := byte(1)
			for _, info := range s.segments(t) {
				number, ok := parseName(info.Name, ".seg", 8)
				if !ok {
					t.Fatalf("unexpected file %s", info.Name)
				}
				for off := int64(0); off < info.Size; off += stride(off) {
					bits = bits<<1 | bits>>7
					fs := s.damaged(t, info.Name, func(f vfs.File) {
						var b [1]byte
						f.ReadAt(b[:], off)
						f.WriteAt([]byte{b[0] ^ bits}, off)
					})
					s.checkFlip(t, fs, uint32(number), off, last, closed, fmt.Sprintf("%s offset %d bits %#x", info.Name, off, bits))
					if t.Failed() {
						return
					}
				}
			}
		})
	}
}

// checkFlip opens a log of which one byte is not as it was.
func (s *specimen) checkFlip(t *testing.T, fs *vfs.Mem, segment uint32, off int64, last written, closed bool, where string) {
	t.Helper()
	for again := range 2 {
		if again > 0 && off%16 > 0 {
			break
		}
		l, err := Open(fs, Options{SegmentSize: minSegment})
		if err != nil {
			t.Fatalf("%s: %v", where, err)
		}
		got, r := replay1(t, l, 0)
		hit, isRecord := s.hit(segment, off)
		torn := isRecord && !closed && hit.seq == last.seq
		inEnd := off < int64(hit.at.Offset)+endSize || off >= int64(hit.at.Offset+hit.at.Size)-endSize
		for n, want := range s.want {
			e, there := got[key(n)]
			exact := there && !e.Damaged && bytes.Equal(e.Payload, want)
			switch {
			case exact:
				if p, err := l.Read(e.At, key(n), nil); err != nil || !bytes.Equal(p, want) {
					t.Errorf("%s: reading key %d: %v", where, n, err)
				}
			case isRecord && hit.n == n && hit.seq == s.latest[n].seq && !inEnd && (there && e.Damaged || torn):
			default:
				t.Errorf("%s: key %d: there %v, damaged %v, seq %d, want seq %d; hit seq %d of key %d", where, n, there, e.Damaged, e.Seq, s.latest[n].seq, hit.seq, hit.n)
			}
		}
		if len(got) != len(s.want) {
			t.Errorf("%s: %d keys, want %d", where, len(got), len(s.want))
		}
		told := slices.ContainsFunc(r.Damage, func(d Damage) bool {
			return d.Segment == segment && d.Offset <= off && off < d.Offset+d.Bytes
		})
		unused := off >= headerSize && off < headerCopy || off >= headerCopy+headerSize && off < recordsStart ||
			off >= s.end(segment) && segment != last.at.Segment
		if again == 0 && told == unused {
			t.Errorf("%s: reported %v", where, r.Damage)
		}
		closeLog(t, l)
	}
}

func TestEveryByteCut(t *testing.T) {
	for _, closed := range []bool{true, false} {
		t.Run(fmt.Sprintf("closed=%v", closed), func(t *testing.T) {
			s := makeSpecimen(t, closed)
			for _, info := range s.segments(t) {
				number, _ := parseName(info.Name, ".seg", 8)
				for size := int64(0); size < info.Size; size += stride(size) {
					fs := s.damaged(t, info.Name, func(f vfs.File) { f.Truncate(size) })
					s.checkCut(t, fs, uint32(number), size, fmt.Sprintf("%s cut to %d", info.Name, size))
					if t.Failed() {
						return
					}
				}
			}
		})
	}
}

// checkCut opens a log of which one file has lost its end.
func (s *specimen) checkCut(t *testing.T, fs *vfs.Mem, segment uint32, size int64, where string) {
	t.Helper()
	// What must be: each key's latest record that lies before the cut; that one
	// damaged if it lies across.
	type state struct {
		seq     uint64
		damaged bool
	}
	want := map[int]state{}
	lost := false
	for _, w := range s.records {
		switch from, to := int64(w.at.Offset), int64(w.at.Offset+w.at.Size); {
		case w.at.Segment != segment || to <= size:
			want[w.n] = state{w.seq, false}
		case from+endSize <= size:
			want[w.n] = state{w.seq, true}
			lost = true
		default:
			lost = true // nothing is left of its name
		}
	}
	l, err := Open(fs, Options{SegmentSize: minSegment})
	if err != nil {
		t.Fatalf("%s: %v", where, err)
	}
	got, r := replay1(t, l, 0)
	if size >= headerSize || segment != s.records[len(s.records)-1].at.Segment {
		for n, w := range want {
			e, there := got[key(n)]
			if !there || e.Damaged != w.damaged || !w.damaged && !bytes.Equal(e.Payload, s.payload(w.seq)) {
				t.Errorf("%s: key %d: there %v, damaged %v, seq %d, want %+v", where, n, there, e.Damaged, e.Seq, w)
			}
		}
		told := slices.ContainsFunc(r.Damage, func(d Damage) bool { return d.Segment == segment })
		if lost && !told {
			t.Errorf("%s: not reported: %v", where, r.Damage)
		}
	}
	_, seq := add(t, l, key(1000), []byte("goes on"))
	commit(t, l, seq)
	closeLog(t, l)
	if size%16 > 0 {
		return
	}
	if l, err = Open(fs, Options{SegmentSize: minSegment}); err != nil {
		t.Fatalf("%s: %v", where, err)
	}
	again, _ := replay1(t, l, 0)
	if string(again[key(1000)].Payload) != "goes on" {
		t.Errorf("%s: does not go on", where)
	}
	delete(again, key(1000))
	for k, e := range got {
		if f := again[k]; f.Damaged != e.Damaged || !bytes.Equal(f.Payload, e.Payload) {
			t.Errorf("%s: not the same when opened again", where)
		}
	}
	closeLog(t, l)
}

// payload returns what a record held.
func (s *specimen) payload(seq uint64) []byte {
	for _, w := range s.records {
		if w.seq == seq {
			return w.payload
		}
	}
	return nil
}

// stride goes through every byte that means something; through fewer under the race
// detector, which is much slower and finds nothing more here.
func stride(off int64) int64 {
	switch {
	case off >= headerSize && off < headerCopy-61, off >= headerCopy+headerSize && off < recordsStart-61:
		return 61 // never written
	case raceEnabled:
		return 1 + off%211
	}
	return 1
}

// TestTornAcrossSegments: of two segments that were not synced, a power cut has left
// the second, and nothing of the end of the first. That is told once, and never again
// taken for damage.
func TestTornAcrossSegments(t *testing.T) {
	m := vfs.NewMem()
	l := open(t, m, Options{Sync: Never, SegmentSize: minSegment, Interval: time.Hour})
	replay1(t, l, 0)
	at, seq := add(t, l, key(0), []byte("durable"))
	if err := l.CommitEnd(seq); err != nil {
		t.Fatal(err)
	}
	var last At
	for n := 1; last.Segment <= at.Segment; n++ {
		last, _ = add(t, l, key(n), body(n, 1, 800))
	}
	l.io.Lock()
	if _, _, err := l.write(false); err != nil {
		t.Fatal(err)
	}
	l.io.Unlock()
	cut := m.Cut(nil, vfs.Keep)
	f, err := cut.Open(segmentName(at.Segment))
	if err != nil {
		t.Fatal(err)
	}
	size, _ := f.Size()
	start := int64(at.Offset + at.Size)
	f.WriteAt(make([]byte, size-start), start)
	for round := range 3 {
		l := open(t, cut, Options{})
		got, r := replay1(t, l, 0)
		switch {
		case r.Lost+r.Damaged > 0, round == 0 && r.Torn == 0, round > 0 && len(r.Damage) > 0:
			t.Errorf("round %d: %+v", round, r)
		case len(got) != 2 || string(got[key(0)].Payload) != "durable":
			t.Errorf("round %d: %d keys", round, len(got))
		}
		closeLog(t, l)
	}
}
