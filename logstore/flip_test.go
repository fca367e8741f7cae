package logstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-session/holdfast/logstore/internal/vfs"
	"github.com/holdfast-session/holdfast/logstore/internal/wal"
	"github.com/holdfast-session/holdfast/store"
)

// A specimen is the folder of a small store, and what is written where.
type specimen struct {
	folder  *vfs.Mem
	ids     []store.ID
	states  map[store.ID][]state // that each session had, in order
	records []placed             // in log order
	stopped bool                 // gracefully: the snapshot knows every session
}

// A placed is one record of the log.
type placed struct {
	file     string
	off, end int64
	id       store.ID
	index    int // which of the session's states it is
}

// makeSpecimen fills a store in three runs, the first two of which end gracefully,
// so that there are several segments. The third is killed, unless stopped is set.
func makeSpecimen(t *testing.T, stopped bool) *specimen {
	t.Helper()
	for range 100 {
		// Compaction may find the garbage of the first runs, or have no cause to look.
		sp := fillSpecimen(t, stopped)
		if files := slices.CompactFunc(slices.Clone(sp.records), func(a, b placed) bool { return a.file == b.file }); len(files) > 1 {
			return sp
		}
	}
	t.Fatal("all records are in one segment")
	return nil
}

func fillSpecimen(t *testing.T, stopped bool) *specimen {
	t.Helper()
	sp := &specimen{folder: vfs.NewMem(), states: map[store.ID][]state{}, stopped: stopped}
	for i := range 8 {
		id := store.ID{App: "app", Session: fmt.Sprintf("session-%d", i)}
		sp.ids = append(sp.ids, id)
		sp.states[id] = []state{{why: store.Unknown}}
	}
	version := store.Version(1)
	for run := range 3 {
		s := mustOpen(t, sp.folder, specimenOptions(slog.DiscardHandler))
		for i, id := range sp.ids {
			version += 1_000_003
			next := state{rec: makeRecord(version, false)}
			next.rec.Body = next.rec.Body[:min(len(next.rec.Body), 50)]
			switch {
			case i == 3 && run == 2:
				sp.make(t, s, id, state{why: store.Abandoned})
			case i < 3 || run == 0: // the others rest in the first segment
				sp.make(t, s, id, next)
			}
		}
		time.Sleep(time.Minute) // what is done when nothing happens is done
		if run == 2 && !stopped {
			sp.folder = sp.folder.Cut(nil, vfs.Keep)
		}
		mustClose(t, s)
	}
	sp.findRecords(t)
	return sp
}

func specimenOptions(h slog.Handler) *Options {
	return &Options{Sync: Always, SegmentSize: 64 << 10, Logger: slog.New(h)}
}

// make brings a session into its next state.
func (sp *specimen) make(t *testing.T, s *Store, id store.ID, next state) {
	t.Helper()
	states := sp.states[id]
	last := states[len(states)-1]
	var err error
	switch {
	case next.rec == nil:
		err = s.Remove(t.Context(), id, store.Lock{}, store.Reason{Kind: next.why})
	case last.rec == nil:
		err = s.Create(t.Context(), id, next.rec, false)
	default:
		in := *next.rec
		in.Version = last.rec.Version
		err = s.Save(t.Context(), id, &in, next.rec.Version, false)
		next.rec.History = [3]store.Version{last.rec.Version, last.rec.History[0], last.rec.History[1]}
		next.rec.Created = last.rec.Created
	}
	if err != nil {
		t.Fatal(err)
	}
	sp.states[id] = append(states, next)
}

// findRecords finds out where the records of the sessions are.
func (sp *specimen) findRecords(t *testing.T) {
	t.Helper()
	log, err := wal.Open(sp.folder.Cut(nil, vfs.Keep), wal.Options{SegmentSize: 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	_, err = log.Replay(0, func(en wal.Entry) error {
		i := slices.IndexFunc(sp.ids, func(id store.ID) bool { return keyOf(id) == en.Key })
		if i < 0 {
			return nil // not a session's
		}
		states := sp.states[sp.ids[i]]
		var version store.Version
		if en.Type == typePut {
			h, _, err := parsePut(en.Payload)
			if err != nil {
				return err
			}
			version = store.Version(h.version)
		}
		index := slices.IndexFunc(states, func(s state) bool {
			return version == 0 && s.rec == nil && s.why != store.Unknown || s.rec != nil && s.rec.Version == version
		})
		if index < 0 {
			return fmt.Errorf("a record of version %x that nobody saved", uint64(version))
		}
		sp.records = append(sp.records, placed{
			file: fmt.Sprintf("%08x.seg", en.At.Segment), off: int64(en.At.Offset), end: int64(en.At.Offset + en.At.Size),
			id: sp.ids[i], index: index,
		})
		return nil
	})
	if err := errors.Join(err, log.Close()); err != nil {
		t.Fatal(err)
	}
}

// A damage is what was done to one file.
type damage struct {
	file string
	off  int64
	flip byte // xor of the byte at off; 0: cut off there
}

func (d damage) String() string {
	if d.flip == 0 {
		return fmt.Sprintf("%s cut off at %d", d.file, d.off)
	}
	return fmt.Sprintf("%s, byte %d xor %#02x", d.file, d.off, d.flip)
}

func (d damage) to(folder vfs.FS) error {
	f, err := folder.Open(d.file)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	if d.flip == 0 {
		return f.Truncate(d.off)
	}
	var b [1]byte
	if _, err := f.ReadAt(b[:], d.off); err != nil {
		return err
	}
	b[0] ^= d.flip
	_, err = f.WriteAt(b[:], d.off)
	return err
}

// used returns the length of a file without the zeros at its end.
func used(t *testing.T, folder vfs.FS, name string) int64 {
	t.Helper()
	f, err := folder.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	size, err := f.Size()
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, size)
	if _, err := f.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	for size > 0 && b[size-1] == 0 {
		size--
	}
	return size
}

// TestDamageAnywhere flips every byte of a small store's folder, and cuts every file
// off at every byte. The store opens and says where it is damaged, or refuses to when
// the head of a segment is. The session that was hit is damaged or exact, never
// older, and all others are exact.
func TestDamageAnywhere(t *testing.T) {
	for name, stopped := range map[string]bool{"killed": false, "stopped": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { damageAnywhere(t, makeSpecimen(t, stopped)) })
		})
	}
}

func damageAnywhere(t *testing.T, sp *specimen) {
	files, err := sp.folder.List()
	if err != nil {
		t.Fatal(err)
	}
	r, long := rand.New(rand.NewPCG(1, 1)), runs(0, 1) == 1
	for _, file := range files {
		end := min(file.Size, used(t, sp.folder, file.Name)+100)
		for off := range end {
			if off > 160 && off%4096 > 160 && off < headsEnd && off%32 != 0 && !long {
				continue // the zeros between the heads
			}
			if raceEnabled && !long && off%5 != 0 {
				continue // no two goroutines meet here: the run without the detector has them all
			}
			flips := []byte{1 << r.IntN(8)}
			if long {
				flips = []byte{1, 2, 4, 8, 16, 32, 64, 128, 255}
			}
			for _, flip := range append(flips, 0) {
				sp.try(t, damage{file.Name, off, flip})
				if t.Failed() {
					return
				}
			}
		}
	}
}

const (
	// largestHead bounds the part of a segment that must be whole for it to be opened.
	largestHead = 128
	// headsEnd is where both copies of it end, and the records begin.
	headsEnd = 8192
)

func (sp *specimen) try(t *testing.T, d damage) {
	t.Helper()
	folder := sp.folder.Cut(nil, vfs.Keep)
	if err := d.to(folder); err != nil {
		t.Fatal(err)
	}
	var log reports
	s, err := openLike(folder, specimenOptions(&log), limits{})
	if err != nil {
		if d.off >= largestHead || !strings.Contains(err.Error(), "header") {
			t.Errorf("%v: open: %v", d, err)
		}
		return
	}
	damaged := sp.check(t, s, d, nil)
	if hit := sp.hits(d); len(damaged) > 0 || sp.replayed(hit) {
		// Where a file is cut off, it is the end that is named, also that of the segment
		// before if the head is gone.
		cut := d.flip == 0 && log.contains(func(segment, _ string) bool { return segment == d.file || segment != "" && d.off < headsEnd })
		if !cut && !slices.ContainsFunc(hit, log.name) {
			t.Errorf("%v: damaged are %v, and no report names a segment and offset of %v: %v", d, damaged, hit, &log)
		}
	}

	// It works, and a restart changes nothing any more.
	id := store.ID{App: "app", Session: "new"}
	if err := s.Create(t.Context(), id, makeRecord(7, false), false); err != nil {
		t.Errorf("%v: Create: %v", d, err)
	}
	mustClose(t, s)
	if d.off%4 != 0 && runs(0, 1) == 0 {
		return
	}
	if s, err = openLike(folder, specimenOptions(&log), limits{}); err != nil {
		t.Errorf("%v: open again: %v", d, err)
		return
	}
	sp.check(t, s, d, damaged)
	if err := s.Load(t.Context(), id, new(store.Record)); err != nil {
		t.Errorf("%v: what was created after it is gone: %v", d, err)
	}
	mustClose(t, s)
}

// spares reports whether the record is as it was.
func (d damage) spares(p placed) bool {
	return p.file != d.file || d.off >= p.end || d.flip != 0 && d.off < p.off
}

// hits returns the records that are not as they were.
func (sp *specimen) hits(d damage) []placed {
	return slices.DeleteFunc(slices.Clone(sp.records), d.spares)
}

// replayed reports whether a record is read when the store opens, since the snapshot
// does not have it.
func (sp *specimen) replayed(records []placed) bool {
	last := sp.records[len(sp.records)-1].file
	return !sp.stopped && slices.ContainsFunc(records, func(p placed) bool { return p.file == last })
}

// check compares every session and returns those that are damaged. What was found
// before must be the same again.
func (sp *specimen) check(t *testing.T, s *Store, d damage, before []store.ID) (damaged []store.ID) {
	t.Helper()
	hits := sp.hits(d)
	for _, id := range sp.ids {
		states := sp.states[id]
		var rec store.Record
		err := s.Load(t.Context(), id, &rec)
		if errors.Is(err, store.ErrNotFound) && store.ReasonOf(err).Kind == store.Damaged {
			damaged = append(damaged, id)
			if !slices.ContainsFunc(hits, func(p placed) bool { return p.id == id }) {
				t.Errorf("%v: %v is damaged, and nothing of it was hit", d, id)
			}
			continue
		}
		if slices.Contains(before, id) {
			t.Errorf("%v: %v was damaged and is %v, version %x", d, id, err, uint64(rec.Version))
		}
		known := states[sp.oldest(id, d):]
		if !slices.ContainsFunc(known, func(s state) bool { return s.is(&rec, err, false) && (err != nil || differ(&rec, s.rec) == nil) }) {
			t.Errorf("%v: %v is %v, version %x; want one of %v", d, id, err, uint64(rec.Version), known)
		}
	}
	return damaged
}

// oldest returns the oldest state that the session may have: its last one. Only where
// the end of the log is cut off can nobody know what was there, unless the snapshot
// does: then it is what the records say that are left.
func (sp *specimen) oldest(id store.ID, d damage) int {
	if d.flip != 0 || sp.stopped {
		return len(sp.states[id]) - 1
	}
	index := 0
	for _, p := range sp.records {
		if p.id == id && d.spares(p) {
			index = p.index
		}
	}
	return index
}

// reports collects what is logged.
type reports struct {
	mu   sync.Mutex
	list []slog.Record
}

func (r *reports) Enabled(context.Context, slog.Level) bool { return true }
func (r *reports) WithAttrs([]slog.Attr) slog.Handler       { return r }
func (r *reports) WithGroup(string) slog.Handler            { return r }

func (r *reports) Handle(_ context.Context, rec slog.Record) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.list = append(r.list, rec)
	return nil
}

// name reports whether something that was logged names the segment, and an offset in the record.
func (r *reports) name(p placed) bool {
	return r.contains(func(segment, offset string) bool {
		off, err := strconv.ParseInt(offset, 10, 64)
		return segment == p.file && err == nil && off >= p.off && off < p.end
	})
}

// contains reports whether something was logged about a segment and an offset.
func (r *reports) contains(about func(segment, offset string) bool) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.ContainsFunc(r.list, func(rec slog.Record) bool {
		var segment, offset string
		rec.Attrs(func(a slog.Attr) bool {
			switch a.Key {
			case "segment":
				segment = a.Value.String()
				if n, err := strconv.ParseUint(segment, 10, 32); err == nil {
					segment = fmt.Sprintf("%08x.seg", n)
				}
			case "offset":
				offset = a.Value.String()
			}
			return true
		})
		return rec.Level >= slog.LevelInfo && about(segment, offset)
	})
}

func (r *reports) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var b strings.Builder
	for _, rec := range r.list {
		fmt.Fprintf(&b, "\n\t%v %s", rec.Level, rec.Message)
		rec.Attrs(func(a slog.Attr) bool { fmt.Fprintf(&b, " %v", a); return true })
	}
	return b.String()
}
