// Package wal is the log of package logstore: an append-only sequence of records in
// segment files, with group commit, replay that goes past damage, snapshots, and
// recovery from I/O errors and from a full disk. It does not know what its records
// mean; package logstore, which it calls the owner, does.
//
// # Order
//
// Every record has a sequence number, from 1 up. Log order is the truth: what a key
// means is its latest record.
//
// # What a power cut leaves, and what damage is
//
// Each record states the horizon, the highest sequence number that was known to be
// synced when it was appended. At replay the highest horizon that any record or
// segment states, H, divides the log. What is not intact up to H was durable once:
// it is damage, and the session is told to be damaged rather than given back as it
// was before. What is not intact behind H was never promised: it is dropped, also
// with intact records after it, since a disk may write in any order. Intact records
// behind H are not known to be durable although they can be read, so Replay writes
// them again, to the new segment that each Open begins, and the header that the log
// goes on from along with them. So no record is ever written to a segment that was
// left, and everything before the newest segment is durable.
//
// # Segments
//
// A segment's header says where the segment before it ends. That is how a segment is
// left early: after a failed write or sync, whatever was not synced before is
// appended again behind a header that says so, which is written last, once all that
// is durable. Until then the old segments stand.
//
// # Locks
//
// The owner's locks, then Log.io (held while buffers are written to files), then
// Log.mu. segment.file is for readers and Drop. No lock but io is held during I/O.
package wal

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-session/holdfast/logstore/internal/vfs"
)

// Errors of Append, Commit and Read. They may be wrapped.
var (
	// ErrFull means that there is no room: the disk is full, or MaxDisk is reached.
	ErrFull = errors.New("no room for the record")
	// ErrFailing means that writing failed and the log has not recovered yet.
	ErrFailing = errors.New("the log cannot be written")
	// ErrDamaged means that a record cannot be read as it was written, or is gone.
	ErrDamaged = errors.New("the record is damaged")
	// ErrTooLarge means that a payload is larger than any record can be.
	ErrTooLarge = errors.New("the record is too large")
	// ErrClosed means that the log was closed, or not replayed yet.
	ErrClosed = errors.New("the log is not open")
)

// Sync says when records are made durable against a power cut. In every mode they
// are given to the operating system before Commit returns.
type Sync uint8

const (
	// Interval syncs every Options.Interval.
	Interval Sync = iota
	// Always syncs before Commit returns.
	Always
	// Never leaves it to the operating system, but for what CommitEnd is called for
	// and for each segment that is left.
	Never
)

// A Class says how important a record is when there is little room.
type Class uint8

const (
	// New is a record that makes something new. It is refused first: past MaxDisk.
	New Class = iota
	// Change is one about something that is there. It is refused at a margin past
	// MaxDisk, a sixteenth of it and at least two segments, and when the disk is full.
	Change
	// Copy is a record that compaction appends again. MaxDisk does not stop it.
	Copy
	// End is a record that ends something. It is taken until the reserves for a full
	// disk are used up too.
	End
	// Again is what Options.Reappend appends, and is refused anywhere else.
	Again
)

// Defaults of Options.
const (
	DefaultInterval    = time.Second
	DefaultSegmentSize = 64 << 20
)

// Options are how a log is kept. The zero value is a good one but for Reappend.
type Options struct {
	Sync        Sync
	Interval    time.Duration // under Sync Interval, and for records that nobody commits; 0: DefaultInterval
	SegmentSize int64         // bytes; 0: DefaultSegmentSize; 16 KiB to 1 GiB, and at most an eighth of MaxDisk
	MaxDisk     int64         // bytes of all segments, as allocated, and the snapshot; 0: no limit

	// Reappend is called after a write or sync failed: it appends, with class Again,
	// the latest state of everything whose latest record is newer than after. It runs
	// in a goroutine of its own, again with the same after if the disk goes on
	// failing, and may take any lock under which the owner calls Append: those calls
	// fail meanwhile and do not wait for it. Nil: a failure is final.
	Reappend func(after uint64) error

	// Compact is called when space is short. It must not block and not call the log;
	// let it wake up a goroutine.
	Compact func()

	Logger *slog.Logger // nil: none
}

// A Log is an open log. Its methods are safe for concurrent use, except that
// Snapshot and Replay come first, one after the other.
type Log struct {
	fs     vfs.FS
	o      Options
	id     [16]byte
	seed   uint32 // of all CRCs: that of id
	unlock io.Closer
	logger *slog.Logger

	last    atomic.Uint64 // sequence number of the newest record
	written atomic.Uint64 // all up to it are in files
	synced  atomic.Uint64 // all up to it are durable

	segments atomic.Pointer[[]*segment] // ascending; replaced under mu

	io sync.Mutex // held while buffers are written to files

	mu      sync.Mutex
	active  *segment // nil: not replayed yet, or closed
	pending *buffer  // appended, not given to a writer yet
	flight  *buffer  // being written, under io; else empty
	number  uint32   // the highest of a segment file
	head    *header  // of the active segment's run, withheld until its records are durable
	closed  bool
	reopen  *reopening // what Open found, for Replay

	// Syncing: one leads, the others wait for the batch that their record is in.
	syncing   bool
	target    uint64 // what the latest sync covers
	batch     uint   // counts syncs
	done      [2]sync.Cond
	writtenAt place
	syncedAt  place
	unsynced  []*segment // written to since they were synced, ascending
	toSync    []*segment // the leader's
	gather    gathering

	// Horizon marks, and syncs after an interval.
	owned   uint64 // sequence number of the newest record but for marks
	stated  uint64 // the highest horizon in the log
	dirty   bool   // the flush timer is set, or to be set
	marking bool   // the mark timer is
	hurry   bool   // write, or sync, now
	wake    chan struct{}
	stop    chan struct{}
	running sync.WaitGroup

	// Room.
	changed     sync.Cond // room, failing, closed
	spare       *segment  // the next one, made ahead
	making      bool      // it is being made
	noSpace     error     // why it could not be made
	retry       *time.Timer
	allocated   int64 // bytes of segments, spare, reserve and snapshot
	reserve     int64 // size of the reserve file; 0: used up
	reserveSize int64
	leftovers   []string // files that are no part of the log and could not be removed yet
	picks       int      // candidates given

	failing *failure
	again   bool // class Again is taken: a run is begun and not committed yet

	snapshot snapshotInfo
	counts   counts
}

// A place is where a record ends.
type place struct {
	segment *segment
	off     int64
}

// Open opens the log in a folder, which may be empty. It takes the folder's lock
// ([vfs.ErrInUse] if another process has it) and reads the segments' headers. Call
// Replay before anything is appended.
func Open(fsys vfs.FS, o Options) (*Log, error) {
	if o.Interval <= 0 {
		o.Interval = DefaultInterval
	}
	if o.SegmentSize <= 0 {
		o.SegmentSize = DefaultSegmentSize
	}
	if o.MaxDisk > 0 {
		o.SegmentSize = min(o.SegmentSize, o.MaxDisk/8)
	}
	o.SegmentSize = min(max(o.SegmentSize, minSegment), 1<<30) &^ 4095
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	l := &Log{
		fs: fsys, o: o, logger: o.Logger,
		pending: new(buffer), flight: new(buffer),
		wake: make(chan struct{}, 1), stop: make(chan struct{}),
		gather:      gathering{full: make(chan struct{}, 1)},
		reserveSize: max(o.SegmentSize/8*5, minSegment) &^ 4095,
	}
	l.done[0].L, l.done[1].L, l.changed.L = &l.mu, &l.mu, &l.mu
	l.segments.Store(new([]*segment))

	unlock, err := fsys.Lock()
	if err != nil {
		return nil, err
	}
	l.unlock = unlock
	if err := l.examine(); err != nil {
		l.closeFiles()
		unlock.Close()
		return nil, err
	}
	return l, nil
}

// ID returns the log's random name, drawn when the folder was first used. It is not
// known outside the folder.
func (l *Log) ID() [16]byte { return l.id }

// Last returns the sequence number of the newest record.
func (l *Log) Last() uint64 { return l.last.Load() }

// Written returns up to which record all are in the files. It goes back to Synced
// when writing fails.
func (l *Log) Written() uint64 { return l.written.Load() }

// Synced returns up to which record all are durable against a power cut.
func (l *Log) Synced() uint64 { return l.synced.Load() }

// Append adds a record; its payload is the parts, one after the other. It does no
// I/O but may, seldom, wait until the next segment is allocated. The record is in the
// log's order from here on; what is promised about it, Commit says. After an error
// nothing was appended: [ErrFull], [ErrFailing], [ErrTooLarge], [ErrClosed].
func (l *Log) Append(key Key, t Type, c Class, payload ...[]byte) (At, uint64, error) {
	sum, length := sumOf(l.seed, payload)
	if length > maxPayload {
		return At{}, 0, ErrTooLarge
	}
	l.mu.Lock()
	if err := l.makeRoom(int64(length)+overhead, c); err != nil {
		l.mu.Unlock()
		return At{}, 0, err
	}
	e := end{typ: t, length: uint32(length), key: key, sum: sum}
	at := l.put(&e, payload)
	l.owned = e.seq
	l.counts.appends++
	backlog := len(l.pending.data) >= backlogSize
	if !l.dirty || backlog && !l.hurry {
		l.dirty = true
		l.hurry = l.hurry || backlog
		l.nudge()
	}
	l.mu.Unlock()
	if backlog && c == Again {
		return at, e.seq, l.writeAgain()
	}
	return at, e.seq, nil
}

// put appends a record to the active segment, where there is room. mu is held.
func (l *Log) put(e *end, payload [][]byte) At {
	e.seq = l.last.Load() + 1
	e.horizon = l.synced.Load()
	l.stated = max(l.stated, e.horizon)
	s := l.active
	at := At{Segment: s.number, Offset: uint32(s.off), Size: uint32(e.size())}
	b := l.pending.extend(s, int(e.size()))
	e.put(b, headMagic, l.seed)
	n := endSize
	for _, p := range payload {
		n += copy(b[n:], p)
	}
	e.put(b[n:], tailMagic, l.seed)
	s.off += e.size()
	if e.typ < markType {
		s.live.Add(e.size())
	}
	l.last.Store(e.seq)
	l.gather.appended(e.seq)
	return at
}

// Read appends the payload of the record at that place to buf[:0]. [ErrDamaged]: it
// is not there as it was written, or not there at all, because its segment was
// dropped. Other errors are those of the file system. The record may be one that is
// not written yet.
func (l *Log) Read(at At, key Key, buf []byte) (payload []byte, err error) {
	size := int64(at.Size)
	if size < overhead {
		return buf[:0], fmt.Errorf("%w: no place", ErrDamaged)
	}
	if int64(cap(buf)) < size {
		buf = make([]byte, size)
	}
	buf = buf[:size]
	if !l.readBuffered(at, buf) {
		s := l.segment(at.Segment)
		if s == nil {
			return buf[:0], fmt.Errorf("%w: segment %08x is gone", ErrDamaged, at.Segment)
		}
		if n, err := s.ReadAt(buf, int64(at.Offset)); n < len(buf) {
			if errors.Is(err, io.EOF) {
				err = ErrDamaged
			}
			return buf[:0], fmt.Errorf("segment %08x offset %d: %w", at.Segment, at.Offset, err)
		}
	}

	// Either end will do.
	body := buf[endSize : size-endSize]
	sum, _ := sumOf(l.seed, [][]byte{body})
	for _, try := range []struct {
		b     []byte
		magic uint16
	}{{buf, headMagic}, {buf[size-endSize:], tailMagic}} {
		e, ok := parseEnd(try.b, try.magic, l.seed)
		if ok && e.key == key && e.size() == size && e.sum == sum {
			return buf[:copy(buf, body)], nil
		}
	}
	return buf[:0], fmt.Errorf("segment %08x offset %d: %w", at.Segment, at.Offset, ErrDamaged)
}

// readBuffered copies a record that is in a buffer.
func (l *Log) readBuffered(at At, into []byte) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.pending.read(at, into) || l.flight.read(at, into)
}

// Close syncs what was appended, states it as the horizon, and releases the folder.
// An error means that not all that was appended is durable.
func (l *Log) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.mu.Unlock()

	err := l.closeLog()
	l.mu.Lock()
	l.closed = true
	if l.retry != nil {
		l.retry.Stop()
	}
	l.changed.Broadcast()
	l.done[0].Broadcast()
	l.done[1].Broadcast()
	l.mu.Unlock()
	close(l.stop)
	l.running.Wait()
	l.closeFiles()
	return errors.Join(err, l.unlock.Close())
}

// closeLog makes the log end in a horizon that covers all of it.
func (l *Log) closeLog() error {
	l.mu.Lock()
	replayed := l.active != nil
	l.mu.Unlock()
	if !replayed {
		return nil
	}
	if err := l.syncTo(l.Last()); err != nil {
		return err
	}
	l.mu.Lock()
	l.mark(0)
	l.mu.Unlock()
	return l.syncTo(l.Last())
}

func (l *Log) closeFiles() {
	l.io.Lock()
	defer l.io.Unlock()
	l.mu.Lock()
	all := *l.segments.Load()
	if l.spare != nil {
		all = append(all[:len(all):len(all)], l.spare)
	}
	l.mu.Unlock()
	for _, s := range all {
		s.file.Lock()
		if s.f != nil {
			s.f.Close()
			s.f = nil
		}
		s.file.Unlock()
	}
}

// A buffer holds records on their way to the files.
type buffer struct {
	data []byte
	runs []run
}

// A run is a part of a buffer that goes to one place. It ends where the next begins.
type run struct {
	segment *segment
	off     int64 // in the file
	from    int   // in the buffer
}

const (
	// backlogSize is how much is buffered before somebody is asked to write it.
	backlogSize = 1 << 20
	// keepSize is the largest buffer that is kept for the next batch.
	keepSize = 4 << 20
)

// extend returns room for n bytes at the end of s.
func (b *buffer) extend(s *segment, n int) []byte {
	if k := len(b.runs); k == 0 || b.runs[k-1].segment != s {
		b.runs = append(b.runs, run{segment: s, off: s.off, from: len(b.data)})
	}
	old := len(b.data)
	if old+n > cap(b.data) {
		bigger := make([]byte, old, max(2*cap(b.data), old+n, 64<<10))
		copy(bigger, b.data)
		b.data = bigger
	}
	b.data = b.data[:old+n]
	return b.data[old:]
}

// part returns the i-th run's bytes.
func (b *buffer) part(i int) []byte {
	if i+1 < len(b.runs) {
		return b.data[b.runs[i].from:b.runs[i+1].from]
	}
	return b.data[b.runs[i].from:]
}

func (b *buffer) read(at At, into []byte) bool {
	for i, r := range b.runs {
		if r.segment.number != at.Segment || int64(at.Offset) < r.off {
			continue
		}
		part := b.part(i)
		if from := int64(at.Offset) - r.off; from+int64(len(into)) <= int64(len(part)) {
			copy(into, part[from:])
			return true
		}
	}
	return false
}

// write writes the buffer to the files.
func (b *buffer) write() error {
	for i, r := range b.runs {
		if _, err := r.segment.f.WriteAt(b.part(i), r.off); err != nil {
			return err
		}
	}
	return nil
}

func (b *buffer) reset() {
	clear(b.runs)
	b.data, b.runs = b.data[:0], b.runs[:0]
	if cap(b.data) > keepSize {
		b.data = nil
	}
}
