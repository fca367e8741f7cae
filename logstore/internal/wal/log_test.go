package wal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/holdfast-session/holdfast/logstore/internal/vfs"
)

// putType is the owner's only type in these tests.
const putType Type = 1

func key(n int) (k Key) {
	binary.LittleEndian.PutUint64(k[:], uint64(n)*0x9E3779B97F4A7C15+1)
	return k
}

// body is what key n holds in its version v: its own name, and as many bytes as they
// say, so that a mix of two is never one.
func body(n, v, size int) []byte {
	b := fmt.Appendf(nil, "key %d version %d:", n, v)
	r := rand.New(rand.NewPCG(uint64(n), uint64(v)))
	for len(b) < size {
		b = append(b, byte(r.Uint32()))
	}
	return b
}

func open(t testing.TB, fs vfs.FS, o Options) *Log {
	t.Helper()
	l, err := Open(fs, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// replayed is what a replay gave: each key's latest entry, with a payload of its own.
type replayed map[Key]Entry

func replay1(t testing.TB, l *Log, from uint64) (replayed, Report) {
	t.Helper()
	got := replayed{}
	last := from
	r, err := l.Replay(from, func(e Entry) error {
		if e.Seq <= last {
			t.Errorf("seq %d after %d", e.Seq, last)
		}
		last = e.Seq
		e.Payload = bytes.Clone(e.Payload)
		got[e.Key] = e
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got, r
}

func add(t testing.TB, l *Log, k Key, payload []byte) (At, uint64) {
	t.Helper()
	at, seq, err := l.Append(k, putType, Change, payload)
	if err != nil {
		t.Fatal(err)
	}
	return at, seq
}

func commit(t testing.TB, l *Log, seq uint64) {
	t.Helper()
	if err := l.Commit(seq); err != nil {
		t.Fatal(err)
	}
}

func closeLog(t testing.TB, l *Log) {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

// clean fails if the report tells of anything.
func (r Report) clean(t testing.TB) {
	t.Helper()
	if len(r.Damage) > 0 {
		t.Fatalf("damage in a good log: %v", r.Damage)
	}
}

func TestAppendCommitReadReplay(t *testing.T) {
	for _, sync := range []Sync{Interval, Always, Never} {
		for name, fs := range map[string]vfs.FS{"memory": vfs.NewMem(), "disk": dir(t)} {
			t.Run(fmt.Sprint(name, sync), func(t *testing.T) {
				want := map[int][]byte{}
				seq := uint64(0)
				for round := range 4 {
					l := open(t, fs, Options{Sync: sync, SegmentSize: minSegment})
					got, r := replay1(t, l, 0)
					r.clean(t)
					if len(got) != len(want) {
						t.Fatalf("round %d: %d keys, want %d", round, len(got), len(want))
					}
					for n, b := range want {
						e := got[key(n)]
						if !bytes.Equal(e.Payload, b) || e.Type != putType {
							t.Fatalf("round %d: key %d is %.30q, want %.30q", round, n, e.Payload, b)
						}
						if p, err := l.Read(e.At, key(n), nil); err != nil || !bytes.Equal(p, b) {
							t.Fatalf("round %d: read key %d: %.30q, %v", round, n, p, err)
						}
					}
					for i := range 100 {
						n := (i*7 + round) % 60
						b := body(n, i+1000*round, 20+i*10)
						at, s, err := l.Append(key(n), putType, New, b[:7], b[7:])
						if err != nil || s <= seq {
							t.Fatal(s, seq, err)
						}
						seq, want[n] = s, b
						if p, err := l.Read(at, key(n), nil); err != nil || !bytes.Equal(p, b) {
							t.Fatalf("read before commit: %.30q, %v", p, err)
						}
						if i%3 == 0 {
							commit(t, l, s)
							if !l.Durable(s) {
								t.Fatal("committed and not durable")
							}
						}
						if _, err := l.Read(at, key(n+1), nil); !errors.Is(err, ErrDamaged) {
							t.Fatalf("read as another key: %v", err)
						}
					}
					closeLog(t, l)
				}
			})
		}
	}
}

func dir(t testing.TB) vfs.FS {
	t.Helper()
	fs, err := vfs.Dir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return fs
}

func TestSnapshot(t *testing.T) {
	fs := vfs.NewMem()
	l := open(t, fs, Options{})
	replay1(t, l, 0)
	var seq uint64
	for n := range 100 {
		_, seq = add(t, l, key(n), body(n, 0, 100))
	}
	content := bytes.Repeat([]byte("snapshot"), 50000)
	for range 3 {
		_, seq = add(t, l, key(1), body(1, 1, 100))
		if err := l.WriteSnapshot(seq, func(w io.Writer) error { _, err := w.Write(content); return err }); err != nil {
			t.Fatal(err)
		}
	}
	if l.SnapshotSeq() != seq || l.SnapshotSize() < int64(len(content)) {
		t.Fatal(l.SnapshotSeq(), l.SnapshotSize())
	}
	_, after := add(t, l, key(2), body(2, 1, 100))
	commit(t, l, after)
	closeLog(t, l)

	l = open(t, fs, Options{})
	var got []byte
	from, ok, err := l.Snapshot(func(r io.Reader) (err error) { got, err = io.ReadAll(r); return err })
	if err != nil || !ok || from != seq || !bytes.Equal(got, content) {
		t.Fatal(from, ok, err, len(got))
	}
	entries, r := replay1(t, l, from)
	r.clean(t)
	if len(entries) != 1 || !bytes.Equal(entries[key(2)].Payload, body(2, 1, 100)) {
		t.Fatalf("%d entries behind the snapshot", len(entries))
	}
}
