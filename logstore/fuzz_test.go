package logstore

import (
	"bytes"
	"testing"
	"time"

	"github.com/holdfast-session/holdfast/internal/lockqueue"
	"github.com/holdfast-session/holdfast/logstore/internal/vfs"
	"github.com/holdfast-session/holdfast/logstore/internal/wal"
	"github.com/holdfast-session/holdfast/store"
)

func anyEntry() entry {
	return entry{
		version: 1, history: [3]store.Version{2, 3, 4}, acquired: 5, created: 1e18, deadline: 2e18,
		timeout: 1200, cookie: 7, flags: store.Moving, segment: 3, offset: 4096, seq: 99, size: 20,
	}
}

func anyPut() []byte {
	e := anyEntry()
	return append(appendNames(appendHead(nil, &e, "/app", 1e18), "session", "alice"), "content"...)
}

// FuzzRecord: what the parsers take, they give back as it was.
func FuzzRecord(f *testing.F) {
	w := why{kind: store.Regenerated, at: 1e18, to: "there"}
	f.Add(anyPut())
	f.Add(anyPut()[:80])
	f.Add(appendWhy(nil, w))
	f.Add(append(appendWhy(appendUint64(nil, 42), w), anyPut()...))
	f.Add(appendLock(nil, &lockqueue.Hold{Owner: 1, Since: 1e18, Stale: time.Minute}))
	f.Add(appendLock(nil, nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if h, content, err := parsePut(b); err == nil {
			again := append(appendHead(nil, &h.entry, string(h.app), h.used), content...)
			if !bytes.Equal(again, b) || int(h.size) != len(content) {
				t.Errorf("a session is %x; want %x", again, b)
			}
			session, subject, body := names(content)
			if len(session)+len(subject)+len(body) > len(content) {
				t.Errorf("the parts of %x are %q, %q, %q", content, session, subject, body)
			}
		}
		if w, rest, err := parseWhy(b); err == nil {
			w2, rest2, err := parseWhy(append(appendWhy(nil, w), rest...))
			if err != nil || w2 != w || !bytes.Equal(rest, rest2) {
				t.Errorf("%+v is %+v, %v, the second time", w, w2, err)
			}
		}
		if name, w, rest, err := parseEnd(b); err == nil {
			name2, w2, rest2, err := parseEnd(append(appendWhy(appendUint64(nil, name), w), rest...))
			if err != nil || name2 != name || w2 != w || !bytes.Equal(rest, rest2) {
				t.Errorf("the end %x, %+v is %x, %+v, %v, the second time", name, w, name2, w2, err)
			}
		}
		if h, held, rest, err := parseLock(b); err == nil {
			again := appendLock(nil, nil)
			if held {
				again = appendLock(nil, &h)
			}
			if !bytes.Equal(append(again, rest...), b) {
				t.Errorf("a lock is %x; want %x", again, b)
			}
		}
	})
}

// FuzzReplay gives records and snapshots of any content to a store that opens.
func FuzzReplay(f *testing.F) {
	key := hashOf("/app", "session")
	w := why{kind: store.Abandoned, at: 1e18}
	f.Add(byte(typePut), key[:], anyPut())
	f.Add(byte(typeTouch), key[:], appendUint64(nil, 1e18))
	f.Add(byte(typeRemove), key[:], appendWhy(nil, w))
	f.Add(byte(typeEnd), key[:], appendWhy(appendUint64(nil, 42), w))
	end := endRecord(42)
	f.Add(byte(typeEnded), end[:], append(appendWhy(appendUint64(nil, 42), w), anyPut()...))
	f.Add(byte(typeAck), end[:], []byte(nil))
	f.Add(byte(typeApp), end[:], []byte("/app"))
	e := anyEntry()
	place := appendPlace(nil, &e)
	live := append(append(place, appendLock(nil, &lockqueue.Hold{Owner: 1})...), anyPut()...)
	header := appendUint64([]byte{snapshotVersion, 1}, 100)
	f.Add(byte(0), key[:], appendItem(appendItem(header, itemLive, live), itemLast, nil))
	ended := append(appendWhy(append(appendUint64(nil, 42), 20, 0, 0, 0), w), append(place, anyPut()...)...)
	f.Add(byte(0), key[:], appendItem(appendItem(header, itemEnd, ended), itemLast, nil))
	f.Fuzz(func(t *testing.T, typ byte, key, payload []byte) {
		s, err := open(vfs.NewMem(), &Options{SegmentSize: 64 << 10, Ends: 10})
		if err != nil {
			t.Fatal(err)
		}
		s.sweeper.Close()
		r := &replay{Store: s, now: s.now(), damaged: make(map[wal.Key]uint64)}
		if typ == 0 {
			_ = r.readSnapshot(bytes.NewReader(payload))
		}
		var en wal.Entry
		en.Type, en.Payload, en.Seq = wal.Type(typ), payload, 1000
		copy(en.Key[:], key)
		for _, damaged := range []bool{false, false, true} {
			en.Damaged = damaged
			en.At = wal.At{Segment: 1, Offset: uint32(en.Seq), Size: wal.Overhead + uint32(len(payload))}
			if err := r.visit(en); err != nil {
				t.Fatal(err)
			}
			en.Seq++
		}
		if err := r.finish(); err != nil {
			t.Fatal(err)
		}
		if _, _, err := s.List(t.Context(), store.Query{}); err != nil {
			t.Error(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}
