package wal

import (
	"bytes"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/holdfast-session/holdfast/logstore/internal/vfs"
)

const endType Type = 2

// A thing is what the owner knows of one key.
type thing struct {
	N       int
	Version int // counts changes
	Gone    bool
	Seq     uint64
	At      At
}

// promises are what callers were told, by key: no later state may be older.
type promises struct {
	synced  map[int]int // version
	written map[int]int
}

func (p promises) clone() promises {
	return promises{maps.Clone(p.synced), maps.Clone(p.written)}
}

// An owner uses a log as package logstore does: state in memory under a mutex,
// appends under it, commits outside, compaction, snapshots, and Reappend.
type owner struct {
	t    testing.TB
	l    *Log
	name string

	mu       sync.Mutex
	things   map[int]*thing
	versions map[int]int // the newest of each key that was ever appended
	ends     map[int]int // the newest that was an end

	snapshots sync.Mutex // one is written at a time
	promising sync.Mutex // innermost: a fault takes it during I/O
	promised  promises
}

func bodyOf(n, version int) []byte { return body(n, version, (n*131+version*37)%700) }

// openOwner opens the log and checks what it finds against what an earlier owner had
// promised. crashed: the machine was; else the process.
func openOwner(t testing.TB, name string, fs vfs.FS, o Options, before *owner, promised promises, crashed bool) *owner {
	t.Helper()
	w := &owner{t: t, name: name, things: map[int]*thing{}, versions: map[int]int{}, ends: map[int]int{}, promised: promises{map[int]int{}, map[int]int{}}}
	o.Reappend = w.reappend
	l, err := Open(fs, o)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	w.l = l
	from, ok, err := l.Snapshot(func(r io.Reader) error {
		var list []thing
		if err := gob.NewDecoder(r).Decode(&list); err != nil {
			return err
		}
		for _, x := range list {
			w.things[x.N] = &x
			l.Live(x.At)
		}
		return nil
	})
	if err != nil {
		t.Fatalf("%s: snapshot: %v", name, err)
	}
	if !ok {
		from = 0
	}
	r, err := l.Replay(from, func(e Entry) error {
		var n, v int
		if _, err := fmt.Sscanf(string(e.Payload), "key %d version %d:", &n, &v); err != nil || e.Damaged {
			t.Errorf("%s: entry %+v: %v", name, e, err)
			return nil
		}
		if e.Type == putType && !bytes.Equal(e.Payload, bodyOf(n, v)) || e.Key != key(n) {
			t.Errorf("%s: key %d version %d is not what was written", name, n, v)
		}
		if x := w.things[n]; x != nil {
			l.Free(x.At)
		}
		w.things[n] = &thing{N: n, Version: v, Gone: e.Type == endType, Seq: e.Seq, At: e.At}
		return nil
	})
	if err != nil {
		t.Fatalf("%s: replay: %v", name, err)
	}
	noHeader := slices.ContainsFunc(r.Damage, func(d Damage) bool { return d.Kind == NoHeader })
	if r.Damaged+r.Lost > 0 || noHeader { // what was torn in its last bytes may be exact
		t.Errorf("%s: damage without damage: %v", name, r.Damage)
	}
	for _, x := range w.things {
		if x.Gone && l.segment(x.At.Segment) == nil {
			x.At = At{} // compaction has dropped it: the snapshot knows it
		}
	}
	if before != nil {
		w.check(before, promised, crashed)
	}
	for n, x := range w.things {
		w.promised.synced[n], w.promised.written[n] = x.Version, x.Version
	}
	w.checkLive()
	return w
}

// check compares with what the owner before had promised.
func (w *owner) check(before *owner, promised promises, crashed bool) {
	w.t.Helper()
	before.mu.Lock()
	defer before.mu.Unlock()
	for n, newest := range before.versions {
		least := promised.synced[n]
		if !crashed {
			least = max(least, promised.written[n])
		}
		x := w.things[n]
		switch {
		case x == nil && (least == 0 || before.ends[n] >= least):
		case x == nil:
			w.t.Errorf("%s: key %d is missing, promised was version %d of %d", w.name, n, least, newest)
		case x.Version < least || x.Version > newest:
			w.t.Errorf("%s: key %d has version %d, promised was %d of %d", w.name, n, x.Version, least, newest)
		}
		w.versions[n], w.ends[n] = newest, before.ends[n]
		if x == nil {
			w.ends[n] = newest // what is gone stays so
			w.promised.synced[n], w.promised.written[n] = newest, newest
		}
	}
	for n := range w.things {
		if _, ok := before.versions[n]; !ok {
			w.t.Errorf("%s: key %d from nowhere", w.name, n)
		}
	}
	for n := range w.things {
		w.read(n)
	}
}

// checkLive compares the log's account with what is in use.
func (w *owner) checkLive() {
	w.t.Helper()
	live := int64(0)
	for _, x := range w.things {
		live += int64(x.At.Size)
	}
	for n, x := range w.things {
		if s := w.l.segment(x.At.Segment); x.At.Size > 0 && (s == nil || int64(x.At.Offset+x.At.Size) > s.off) {
			w.t.Errorf("%s: the place of key %d, %+v, is not in the log", w.name, n, *x)
		}
	}
	if s := w.l.Stats(); s.Live != live || s.Used < live {
		w.t.Errorf("%s: the log counts %d bytes in use of %d, the owner %d", w.name, s.Live, s.Used, live)
	}
}

// change appends a new version of a key: an end, or a body.
func (w *owner) change(n int, end bool, c Class) (seq uint64, version int, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	x := w.things[n]
	version = w.versions[n] + 1
	t, payload := putType, bodyOf(n, version)
	if end {
		t, payload, c = endType, fmt.Appendf(nil, "key %d version %d:", n, version), End
	} else if c == New && x != nil && !x.Gone {
		c = Change
	}
	at, seq, err := w.l.Append(key(n), t, c, payload)
	if err != nil {
		return 0, 0, err
	}
	if x != nil {
		w.l.Free(x.At)
	}
	w.things[n] = &thing{N: n, Version: version, Gone: end, Seq: seq, At: at}
	w.versions[n] = version
	if end {
		w.ends[n] = version
	}
	return seq, version, nil
}

// commit notes what was promised.
func (w *owner) commit(n int, seq uint64, version int, end bool) error {
	err := w.l.Commit(seq)
	if end {
		err = w.l.CommitEnd(seq)
	}
	if err != nil {
		return err
	}
	w.promising.Lock()
	defer w.promising.Unlock()
	w.promised.written[n] = max(w.promised.written[n], version)
	if end || w.l.o.Sync == Always {
		w.promised.synced[n] = max(w.promised.synced[n], version)
	}
	return nil
}

// read checks that the log gives what the key's latest record holds.
func (w *owner) read(n int) {
	w.t.Helper()
	w.mu.Lock()
	x := w.things[n]
	w.mu.Unlock()
	if x == nil || x.Gone || w.l.Synced() < x.Seq {
		return
	}
	p, err := w.l.Read(x.At, key(n), nil)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.things[n] != x {
		return // changed, moved or forgotten meanwhile
	}
	if err == nil && !bytes.Equal(p, bodyOf(n, x.Version)) || errors.Is(err, ErrDamaged) {
		w.t.Errorf("%s: reading key %d version %d: %.40q, %v", w.name, n, x.Version, p, err)
	}
}

func (w *owner) reappend(after uint64) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for n, x := range w.things {
		if x.Seq > after {
			if err := w.copy(n, Again); err != nil {
				return err
			}
		}
	}
	return nil
}

// copy appends a key's state again. mu is held.
func (w *owner) copy(n int, c Class) error {
	x := *w.things[n]
	t, payload := putType, bodyOf(n, x.Version)
	if x.Gone {
		t, payload = endType, fmt.Appendf(nil, "key %d version %d:", n, x.Version)
	}
	at, seq, err := w.l.Append(key(n), t, c, payload)
	if err != nil {
		return err
	}
	w.l.Free(x.At)
	x.At, x.Seq = at, seq
	w.things[n] = &x
	return nil
}

// compact does one segment if that is worth it.
func (w *owner) compact() error {
	segment, ok := w.l.Candidate()
	if !ok {
		return nil
	}
	err := w.l.Scan(segment, func(e Entry) error {
		var n int
		fmt.Sscanf(string(e.Payload), "key %d ", &n)
		w.mu.Lock()
		defer w.mu.Unlock()
		x := w.things[n]
		switch {
		case e.Damaged:
			w.t.Errorf("%s: compaction met damage at %+v", w.name, e.At)
		case x == nil || x.At != e.At:
		case x.Gone && w.l.Oldest(segment) && x.Seq <= w.l.SnapshotSeq():
			w.l.Free(x.At)
			delete(w.things, n)
		default:
			return w.copy(n, Copy)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return w.l.Drop(segment)
}

func (w *owner) snapshot() error {
	w.snapshots.Lock()
	defer w.snapshots.Unlock()
	seq := w.l.Last()
	return w.l.WriteSnapshot(seq, func(f io.Writer) error {
		w.mu.Lock()
		defer w.mu.Unlock()
		list := []thing{}
		for _, x := range w.things {
			list = append(list, *x)
		}
		slices.SortFunc(list, func(a, b thing) int { return a.N - b.N })
		return gob.NewEncoder(f).Encode(list)
	})
}

// work does some random things; errors are what callers get when the disk fails.
func (w *owner) work(r *rand.Rand, ops, keys int) {
	for range ops {
		n := r.IntN(keys)
		switch k := r.IntN(100); {
		case k < 60:
			if seq, v, err := w.change(n, false, New); err == nil && r.IntN(4) > 0 {
				w.commit(n, seq, v, r.IntN(8) == 0)
			}
		case k < 72:
			if seq, v, err := w.change(n, true, End); err == nil {
				w.commit(n, seq, v, true)
			}
		case k < 90:
			w.read(n)
		case k < 97:
			w.compact()
		default:
			w.snapshot()
		}
	}
}
