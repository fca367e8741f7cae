package wal

import (
	"bytes"
	"io"
	"testing"

	"github.com/holdfast-session/holdfast/logstore/internal/vfs"
)

// content returns a file's bytes up to the last that is not zero.
func content(t testing.TB, m *vfs.Mem, name string) []byte {
	t.Helper()
	f, err := m.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	size, _ := f.Size()
	b := make([]byte, size)
	f.ReadAt(b, 0)
	return bytes.TrimRight(b, "\x00")
}

// FuzzReplay opens whatever bytes as a log of two segments. It opens or says why not,
// what it gives is what it gives again, and it goes on.
func FuzzReplay(f *testing.F) {
	s := makeSpecimen(f, true)
	segments := s.segments(f)
	one, two := content(f, s.fs, segments[0].Name), content(f, s.fs, segments[1].Name)
	f.Add(one, two)
	f.Add(one, []byte{})
	f.Add(one[:len(one)-100], two)
	f.Add(append(bytes.Clone(one[:recordsStart+500]), one[recordsStart+600:]...), two)
	f.Add(append(bytes.Clone(one[:recordsStart]), one[recordsStart+3:]...), two[:recordsStart])
	wrong := bytes.Clone(one) // records in a wrong place, all of one size
	copy(wrong[s.records[8].at.Offset:], one[s.records[2].at.Offset:s.records[5].at.Offset])
	f.Add(wrong, two)
	f.Add([]byte{}, two)
	f.Add([]byte("HOLDLOG"), []byte{0})
	f.Fuzz(func(t *testing.T, one, two []byte) {
		m := vfs.NewMem()
		for i, b := range [][]byte{one, two} {
			file, _ := m.Create(segmentName(uint32(i + 1)))
			file.WriteAt(b, 0)
			file.Close()
		}
		l, err := Open(m, Options{SegmentSize: minSegment})
		if err != nil {
			return
		}
		got, _ := replay1(t, l, 0)
		for k, e := range got {
			if p, err := l.Read(e.At, k, nil); !e.Damaged && (err != nil || !bytes.Equal(p, e.Payload)) {
				t.Errorf("%x was replayed and cannot be read: %v", k, err)
			}
		}
		mine := Key{0xFF, 0xFE}
		_, seq := add(t, l, mine, []byte("mine"))
		commit(t, l, seq)
		closeLog(t, l)

		l = open(t, m, Options{SegmentSize: minSegment})
		again, _ := replay1(t, l, 0)
		if string(again[mine].Payload) != "mine" {
			t.Error("what was appended to it is not there")
		}
		delete(again, mine)
		delete(got, mine)
		if len(again) != len(got) {
			t.Errorf("%d keys, %d when opened again", len(got), len(again))
		}
		for k, e := range got {
			if a := again[k]; a.Damaged != e.Damaged || a.Type != e.Type || !bytes.Equal(a.Payload, e.Payload) {
				t.Errorf("%x is not the same when opened again", k)
			}
		}
		closeLog(t, l)
	})
}

// FuzzSnapshot reads whatever bytes as a snapshot: it is whole, or not seen.
func FuzzSnapshot(f *testing.F) {
	m := vfs.NewMem()
	l := open(f, m, Options{})
	replay1(f, l, 0)
	_, seq := add(f, l, key(1), []byte("one"))
	want := bytes.Repeat([]byte("state"), 20000)
	if err := l.WriteSnapshot(seq, func(w io.Writer) error { _, err := w.Write(want); return err }); err != nil {
		f.Fatal(err)
	}
	closeLog(f, l)
	whole := content(f, m, snapshotName(seq))
	f.Add(whole)
	f.Add(whole[:len(whole)-1])
	f.Add(whole[:snapshotHeader])
	f.Add(append(bytes.Clone(whole[:snapshotHeader+blockHeader+blockSize]), whole[:100]...))
	f.Fuzz(func(t *testing.T, b []byte) {
		fs := m.Cut(nil, vfs.Keep)
		file, _ := fs.Open(snapshotName(seq))
		file.Truncate(0)
		file.WriteAt(b, 0)
		file.Close()
		l := open(t, fs, Options{})
		var got []byte
		from, ok, err := l.Snapshot(func(r io.Reader) (err error) { got, err = io.ReadAll(r); return err })
		if err != nil || ok && (from != seq || !bytes.Equal(got, want)) || !ok && got != nil {
			t.Errorf("ok %v, from %d, %d bytes, %v", ok, from, len(got), err)
		}
		replay1(t, l, from)
		closeLog(t, l)
	})
}
