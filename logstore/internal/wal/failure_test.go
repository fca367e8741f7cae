package wal

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-session/holdfast/logstore/internal/vfs"
)

// TestFailureAndRecovery goes through each call that can fail: nothing acknowledged
// is missing, callers get errors at once, and the log recovers by itself.
func TestFailureAndRecovery(t *testing.T) {
	for _, op := range []vfs.Op{vfs.OpWrite, vfs.OpSync} {
		for _, alsoCreate := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				m := vfs.NewMem()
				w := openOwner(t, string(op), m, Options{Sync: Always, SegmentSize: minSegment}, nil, promises{}, false)
				change := func(n int) error {
					seq, v, err := w.change(n, false, New)
					if err == nil {
						err = w.commit(n, seq, v, false)
					}
					return err
				}
				for n := range 40 {
					if err := change(n); err != nil {
						t.Fatal(err)
					}
				}
				synctest.Wait() // the next segment is made ahead, and may be on its way
				m.Fail(func(o vfs.Op, name string, _, _ int64) error {
					if o == op || alsoCreate && (o == vfs.OpCreate || o == vfs.OpAllocate || o == vfs.OpSyncDir) {
						return errInjected
					}
					return nil
				})
				if err := change(1); !errors.Is(err, ErrFailing) || !errors.Is(err, errInjected) {
					t.Fatalf("commit while the disk fails: %v", err)
				}
				if err := change(2); !errors.Is(err, ErrFailing) {
					t.Fatalf("append while the disk fails: %v", err)
				}
				if v := w.versions[2]; v != 1 {
					t.Fatalf("the refused change was applied: version %d", v)
				}
				w.read(3) // reading goes on
				time.Sleep(10 * time.Second)
				if s := w.l.Stats(); s.Failing.IsZero() || s.Failures != 1 {
					t.Fatalf("%+v", s)
				}
				m.Fail(nil)
				time.Sleep(2 * lastBackoff)
				synctest.Wait()
				if s := w.l.Stats(); !s.Failing.IsZero() {
					t.Fatalf("did not recover: %+v", s)
				}
				for n := range 40 {
					w.read(n)
					if err := change(n); err != nil {
						t.Fatal(err)
					}
				}
				w.mu.Lock()
				w.checkLive()
				w.mu.Unlock()
				after := m.Cut(nil, vfs.Drop)
				w.l.Close()
				w = openOwner(t, string(op)+" after", after, Options{}, w, w.promised, true)
				w.l.Close()
			})
		}
	}
}

// TestFailureForGood: without Reappend a failure is final, and Close says so.
func TestFailureForGood(t *testing.T) {
	m := vfs.NewMem()
	l := open(t, m, Options{Sync: Always})
	replay1(t, l, 0)
	_, durable := add(t, l, key(1), []byte("durable"))
	commit(t, l, durable)
	m.Fail(func(op vfs.Op, _ string, _, _ int64) error {
		if op == vfs.OpSync {
			return errInjected
		}
		return nil
	})
	_, seq := add(t, l, key(1), []byte("lost"))
	if err := l.Commit(seq); !errors.Is(err, ErrFailing) {
		t.Fatal(err)
	}
	if err := l.Commit(durable); err != nil {
		t.Fatalf("what was durable is not any more: %v", err)
	}
	if l.Durable(seq) || !l.Durable(durable) || l.Synced() != durable {
		t.Fatal(l.Synced(), durable, seq)
	}
	if err := l.Close(); !errors.Is(err, ErrFailing) {
		t.Fatalf("Close: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatalf("second Close: %v", err)
	}
}

// TestIntervalSyncs: under Interval everything is durable an interval later, also
// what nobody has committed, and then the log says so.
func TestIntervalSyncs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := vfs.NewMem()
		l := open(t, m, Options{Sync: Interval, Interval: 200 * time.Millisecond})
		replay1(t, l, 0)
		var syncs atomic.Int64
		m.Fail(func(op vfs.Op, _ string, _, _ int64) error {
			if op == vfs.OpSync {
				syncs.Add(1)
			}
			return nil
		})
		_, seq := add(t, l, key(1), []byte("one"))
		commit(t, l, seq)
		if l.Synced() >= seq || !l.Durable(seq) {
			t.Fatal("synced at once, or not written")
		}
		_, seq = add(t, l, key(2), []byte("two"))
		time.Sleep(201 * time.Millisecond)
		synctest.Wait()
		if l.Synced() != seq {
			t.Fatalf("synced up to %d of %d", l.Synced(), seq)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := syncs.Load(); n != 1 {
			t.Errorf("%d syncs for one interval", n)
		}
		if l.Last() != seq+1 || l.Written() != l.Last() {
			t.Errorf("last %d, written %d; want one mark after %d", l.Last(), l.Written(), seq)
		}

		// Now damage of the last record is told from a torn tail.
		cut := m.Cut(nil, vfs.Keep)
		l2 := open(t, cut, Options{})
		if _, r := replay1(t, l2, 0); r.Rewritten > 0 {
			t.Errorf("%d records were not known to be durable", r.Rewritten)
		}
		l2.Close()
		l.Close()
	})
}

func TestNeverSyncsEndsAndSegments(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := vfs.NewMem()
		l := open(t, m, Options{Sync: Never, SegmentSize: minSegment})
		replay1(t, l, 0)
		_, seq := add(t, l, key(1), []byte("one"))
		commit(t, l, seq)
		time.Sleep(time.Minute)
		if l.Synced() >= seq {
			t.Error("synced although nobody asked")
		}
		if err := l.CommitEnd(seq); err != nil || l.Synced() < seq {
			t.Errorf("an end: %v, synced %d", err, l.Synced())
		}
		for range 100 {
			_, seq = add(t, l, key(1), make([]byte, 1000))
			commit(t, l, seq)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if l.Synced() < seq-20 {
			t.Errorf("segments that were left are not synced: %d of %d", l.Synced(), seq)
		}
		l.Close()
	})
}

func TestOpenRefuses(t *testing.T) {
	fresh := func(t *testing.T) *vfs.Mem {
		m := vfs.NewMem()
		l := open(t, m, Options{})
		replay1(t, l, 0)
		add(t, l, key(1), []byte("one"))
		closeLog(t, l)
		return m
	}
	change := func(m *vfs.Mem, name string, f func(h *header)) {
		file, _ := m.Open(name)
		b := make([]byte, recordsStart)
		file.ReadAt(b, 0)
		h, _ := parseHeader(b)
		f(&h)
		h.put(b)
		file.WriteAt(b, 0)
		file.Close()
	}
	for _, c := range []struct {
		name, want string
		break_     func(m *vfs.Mem)
	}{
		{"newer format", "format version 2", func(m *vfs.Mem) { change(m, segmentName(1), func(h *header) { h.version = 2 }) }},
		{"renamed", "copied or renamed", func(m *vfs.Mem) { m.Rename(segmentName(1), segmentName(7)) }},
		{"foreign", "another log", func(m *vfs.Mem) {
			l, err := Open(m, Options{})
			if err != nil {
				t.Fatal(err)
			}
			l.Replay(0, func(Entry) error { return nil })
			l.Close()
			change(m, segmentName(2), func(h *header) { h.id[0]++ })
		}},
		{"no header", "both copies", func(m *vfs.Mem) {
			f, _ := m.Open(segmentName(1))
			f.WriteAt([]byte("xxxx"), 0)
			f.WriteAt([]byte("xxxx"), headerCopy)
			f.Close()
		}},
		{"in use", "another process", func(m *vfs.Mem) { m.Lock() }},
	} {
		m := fresh(t)
		c.break_(m)
		if l, err := Open(m, Options{}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.name, err)
			if err == nil {
				l.Close()
			}
		}
		if c.name != "in use" {
			if lock, err := m.Lock(); err != nil {
				t.Errorf("%s: the lock was not given back: %v", c.name, err)
			} else {
				lock.Close()
			}
		}
	}
}

// TestHeadersDamaged: with both copies of one header gone, the others and the records
// still tell what is what.
func TestHeadersDamaged(t *testing.T) {
	s := makeSpecimen(t, true)
	for _, info := range s.segments(t) {
		number, _ := parseName(info.Name, ".seg", 8)
		for _, with := range []byte{0, 0xFF} {
			fs := s.damaged(t, info.Name, func(f vfs.File) {
				f.WriteAt(bytes.Repeat([]byte{with}, recordsStart), 0)
			})
			s.checkFlip(t, fs, uint32(number), 0, s.records[len(s.records)-1], true, info.Name)
		}
	}
}

// TestEverySnapshotByteFlipped: a snapshot is whole or not used.
func TestEverySnapshotByteFlipped(t *testing.T) {
	m := vfs.NewMem()
	l := open(t, m, Options{SegmentSize: minSegment})
	replay1(t, l, 0)
	_, seq := add(t, l, key(1), []byte("one"))
	content := bytes.Repeat([]byte("0123456789"), 30)
	if err := l.WriteSnapshot(seq, func(w io.Writer) error { _, err := w.Write(content); return err }); err != nil {
		t.Fatal(err)
	}
	closeLog(t, l)
	name := snapshotName(seq)
	size := l.SnapshotSize()
	for off := int64(-1); off < 2*size; off++ {
		fs := m.Cut(nil, vfs.Keep)
		f, _ := fs.Open(name)
		switch {
		case off < 0:
		case off < size:
			var b [1]byte
			f.ReadAt(b[:], off)
			f.WriteAt([]byte{b[0] ^ byte(1+off%255)}, off)
		default:
			f.Truncate(off - size)
		}
		f.Close()
		l, err := Open(fs, Options{SegmentSize: minSegment})
		if err != nil {
			t.Fatal(err)
		}
		visited := false
		_, ok, err := l.Snapshot(func(r io.Reader) error {
			visited = true
			_, err := io.Copy(io.Discard, r)
			return err
		})
		if err != nil || ok != (off < 0) || visited != ok {
			t.Fatalf("offset %d: ok %v, visited %v, %v", off, ok, visited, err)
		}
		if got, _ := replay1(t, l, 0); string(got[key(1)].Payload) != "one" {
			t.Fatalf("offset %d: %v", off, got)
		}
		closeLog(t, l)
	}
}

// TestHeaderNotDurable has a process die when a header could be read and was not
// durable. The next process goes on from that segment, and the power is cut: what the
// header said must be there still.
func TestHeaderNotDurable(t *testing.T) {
	for _, tc := range []struct {
		name string
		o    Options
		die  func(t *testing.T, w *owner, m *vfs.Mem)
	}{
		{"of a recovery", Options{Sync: Always, SegmentSize: minSegment}, func(t *testing.T, w *owner, m *vfs.Mem) {
			// A sync fails, and what it was for is written again and synced. Then the
			// header is written, and from there on the disk is dead.
			failed, headers := false, 0
			m.Fail(func(op vfs.Op, _ string, off, _ int64) error {
				switch {
				case headers > 0:
					return errInjected
				case op == vfs.OpWrite && off == 0:
					headers++
				case op == vfs.OpSync && !failed:
					failed = true
					return errInjected
				}
				return nil
			})
			if _, _, err := w.change(2, false, New); err != nil {
				t.Fatal(err)
			}
			if err := w.l.Commit(w.l.Last()); !errors.Is(err, ErrFailing) {
				t.Fatalf("Commit while the disk fails: %v", err)
			}
			time.Sleep(10 * lastBackoff)
			if headers == 0 {
				t.Error("the header was not written")
			}
		}},
		{"of the next segment", Options{Sync: Interval, Interval: time.Hour, SegmentSize: minSegment}, func(t *testing.T, w *owner, m *vfs.Mem) {
			active := func() uint32 {
				w.l.mu.Lock()
				defer w.l.mu.Unlock()
				return w.l.active.number
			}
			for before := active(); active() == before; {
				if err := w.l.CommitEnd(w.l.Last()); err != nil {
					t.Fatal(err)
				}
				if _, _, err := w.change(2, false, New); err != nil {
					t.Fatal(err)
				}
			}
			if err := w.l.Commit(w.l.Last()); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := vfs.NewMem()
				w := openOwner(t, "first", m, tc.o, nil, promises{}, false)
				seq, v, err := w.change(1, false, New)
				if err == nil {
					err = w.commit(1, seq, v, true)
				}
				if err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				tc.die(t, w, m)
				killed := m.Cut(nil, vfs.Keep)
				m.Fail(nil)
				w.l.Close()

				killed.Fail(func(op vfs.Op, _ string, _, _ int64) error {
					if op == vfs.OpTruncate { // would be followed by a sync of its own
						return errInjected
					}
					return nil
				})
				next := openOwner(t, "after the kill", killed, tc.o, w, w.promised, false)
				after := killed.Cut(nil, vfs.Drop)
				next.l.Close()
				last := openOwner(t, "after the power cut", after, tc.o, next, next.promised, true)
				last.l.Close()
			})
		})
	}
}
