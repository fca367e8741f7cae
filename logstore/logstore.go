package logstore

import (
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-session/holdfast/internal/expiry"
	"github.com/holdfast-session/holdfast/internal/memlimit"
	"github.com/holdfast-session/holdfast/logstore/internal/vfs"
	"github.com/holdfast-session/holdfast/logstore/internal/wal"
	"github.com/holdfast-session/holdfast/store"
)

// Sync says when what was saved is made durable against a power cut. In every mode it
// is given to the operating system before a call returns, so that a process that is
// killed loses nothing, and ends (logouts above all) are durable before the call
// returns that makes them, or that meets them.
type Sync uint8

const (
	// Interval makes it durable every [Options].Interval: a power cut costs at most
	// what was saved since. Sessions are then as they were before, never a mix.
	Interval Sync = iota
	// Always makes it durable before the call returns. Calls at the same time share
	// one sync of the disk.
	Always
	// Never leaves it to the operating system, which takes half a minute or so.
	Never
)

// Options configure a [Store]. The zero value, and a nil pointer, is a good choice.
type Options struct {
	// Sync is when saved sessions are made durable. Default [Interval].
	Sync Sync

	// Interval is how often, under [Interval]. Default 1 second.
	Interval time.Duration

	// MaxMemory is how much memory the sessions take at most. Past it, contents of
	// the least recently used (of some that are looked at) are dropped from memory and
	// read back from disk by the next call that wants them; no session ends. What
	// cannot be dropped is about 130 bytes of each session, its ID and its subject:
	// when these alone reach MaxMemory, Create fails with [store.ErrFull]. Of contents
	// larger than 64 KiB some 57,000 stay in memory at most. Default 0: a quarter of what
	// the process can have, as package inproc has it. Negative: no limit.
	MaxMemory int64

	// MaxDisk is how many bytes the folder takes at most. When it is reached, and
	// nothing is left to be compacted, Create fails with [store.ErrFull]. Sessions
	// that are there go on, for which there is a margin of a sixteenth, or two
	// segments if that is more; past that, Save fails too. Remove always succeeds. (On
	// a disk that is really full it has a reserve, of five eighths of SegmentSize:
	// some 300,000 of them, and what they free.)
	// Default 0: no limit but that of the disk.
	MaxDisk int64

	// SegmentSize is how large the files are that the folder consists of, in bytes.
	// Default 64 MiB, and at most an eighth of MaxDisk.
	SegmentSize int64

	// Tombstones is how many ended sessions are remembered at most, the latest
	// ones, so that a request that still carries the ID of one is told how it ended.
	// Each takes up to 100 bytes. Default 131,072; negative for none.
	Tombstones int

	// Ends is how many ended sessions are remembered at most, with what they last
	// held, until [Store.Ack]; past it, or past a quarter of MaxDisk, or of MaxMemory
	// for what has to be there, the oldest are dropped.
	//
	// Default 0: 1,048,576, and only of applications for which [Store.Ended] has been
	// called, also before a restart; a store that nobody asks keeps none. More than 0:
	// that many, of all applications, from the beginning. Negative: none.
	Ends int

	// Logger is told of damage, of a disk that fails or is full, and when that is
	// over. Default: nobody is.
	Logger *slog.Logger
}

// defaultTombstones covers a timeout of twenty minutes at a hundred ends a second.
const defaultTombstones = 1 << 17

// shards is a power of two, so large that even on a large machine two calls seldom
// meet, and so small that an empty store is small.
const (
	shards     = 64
	shardShift = 8 - 6 // the first byte of a key, shifted by that, is its shard
)

// Store is a [store.Store] in a folder. It is safe for concurrent use.
type Store struct {
	start  time.Time // what now counts from, and its nanoseconds of Unix time
	origin int64
	log    *wal.Log
	logger *slog.Logger

	maxMemory     int64
	maxWarm       int64 // what sessions with all that is in memory may take
	snapshotAfter int64 // bytes of log

	_       [64]byte     // keeps what every call reads from what changes
	count   atomic.Int64 // sessions that are there, or expired and not swept yet
	kept    atomic.Int64 // entries: these, and those of ends
	bodies  atomic.Int64 // bytes of bodies in memory
	locked  atomic.Int64
	waiting atomic.Int64
	logged  atomic.Int64  // bytes of log since the latest snapshot
	segment atomic.Uint32 // in which the latest record is
	kinds   [store.Restarted + 1]atomic.Uint64
	closed  atomic.Bool
	buffers sync.Pool // of *[]byte

	wake chan struct{}  // tells the keeper to look around
	ask  chan chan bool // asks it for room
	quit chan struct{}
	done chan struct{}

	removals   removals
	apps       apps
	blocks     blocks
	sweeper    expiry.Sweeper
	tombstones tombstones
	ends       ends
	subjects   subjects
	shard      [shards]shard
}

var (
	_ store.Ender  = (*Store)(nil)
	_ store.Lister = (*Store)(nil)
)

// ErrInUse is the error of [Open] while another has the folder: another process, or
// another store in this one.
var ErrInUse = vfs.ErrInUse

// Open opens the store in the folder dir, which it makes if it is not there. A nil o
// means the defaults.
//
// It is an error if another process has the folder open ([ErrInUse]), or if a newer version of this
// package has written there. Damage is none: Open reports it to the Logger, sessions
// that were hit have ended as [store.Damaged], and all others are as they were saved.
func Open(dir string, o *Options) (*Store, error) {
	fs, err := vfs.Dir(dir)
	if err != nil {
		return nil, fmt.Errorf("logstore: %w", err)
	}
	s, err := open(fs, o)
	if err != nil {
		return nil, fmt.Errorf("logstore: %s: %w", dir, err)
	}
	return s, nil
}

// limits are what only tests set; zero means what follows from the options.
type limits struct {
	warm          int64 // bytes past which bodies are dropped
	snapshotAfter int64
	chunks        int64 // how many there may be
}

func open(fs vfs.FS, o *Options) (*Store, error) { return openLimited(fs, o, limits{}) }

func openLimited(fs vfs.FS, o *Options, l limits) (*Store, error) {
	if o == nil {
		o = &Options{}
	}
	s := &Store{
		start:  time.Now(),
		logger: o.Logger,
		wake:   make(chan struct{}, 1),
		ask:    make(chan chan bool),
		quit:   make(chan struct{}),
		done:   make(chan struct{}),
	}
	s.origin = s.start.UnixNano()
	if s.logger == nil {
		s.logger = slog.New(slog.DiscardHandler)
	}
	s.buffers.New = func() any { return new([]byte) }
	s.setLimits(o, l)
	s.sweeper.Init(s.now, func() bool { return s.count.Load() == 0 }, s.sweepAll)
	s.subjects.seed, s.subjects.blocks = maphash.MakeSeed(), &s.blocks
	for i := range s.shard {
		s.shard[i].number = uint16(i)
		s.shard[i].random.Seed(rand.Uint64(), rand.Uint64())
	}

	var err error
	s.log, err = wal.Open(fs, wal.Options{
		Sync: wal.Sync(o.Sync), Interval: o.Interval, SegmentSize: o.SegmentSize, MaxDisk: o.MaxDisk,
		Reappend: s.reappend, Compact: s.nudge, Logger: s.logger,
	})
	if err != nil {
		return nil, err
	}
	if err := s.reopen(); err != nil {
		return nil, errors.Join(err, s.log.Close())
	}
	s.arm()
	go s.keep()
	return s, nil
}

func (s *Store) setLimits(o *Options, l limits) {
	s.maxMemory = o.MaxMemory
	switch {
	case o.MaxMemory == 0:
		s.maxMemory = memlimit.Process() / 4
	case o.MaxMemory < 0:
		s.maxMemory = math.MaxInt64
	}
	s.maxWarm = s.maxMemory
	if l.warm > 0 {
		s.maxWarm = l.warm
	}
	s.blocks.max = l.chunks
	s.snapshotAfter = wal.DefaultSegmentSize
	if l.snapshotAfter > 0 {
		s.snapshotAfter = l.snapshotAfter
	}
	s.tombstones.max = max(o.Tombstones, 0)
	if o.Tombstones == 0 {
		s.tombstones.max = defaultTombstones
	}
	s.ends.max, s.ends.maxBytes, s.ends.maxDisk = max(o.Ends, 0), s.maxMemory/4, math.MaxInt64
	if o.MaxDisk > 0 {
		s.ends.maxDisk = o.MaxDisk / 4
	}
	if o.Ends == 0 {
		s.ends.max = defaultEnds
	}
	if o.Ends > 0 {
		s.ends.always = true
		s.ends.on.Store(true)
	}
}

// Close ends the store: calls that wait for a lock, and all later ones, fail with
// [store.ErrUnavailable]. It makes all durable that was saved, and keeps the locks for
// the next Open, unless the disk is full. An error means that something saved under
// [Interval] or [Never] may be lost. It may be called again.
func (s *Store) Close() error {
	if s.closed.Swap(true) {
		return nil
	}
	close(s.quit)
	<-s.done
	s.sweeper.Close()
	for i := range s.shard {
		sh := &s.shard[i]
		sh.mu.Lock()
		sh.closed = true
		for _, h := range sh.holds {
			if h != nil {
				h.End(unavailable(errClosed))
			}
		}
		sh.mu.Unlock()
	}
	s.ends.mu.Lock()
	s.ends.closed = true
	s.ends.mu.Unlock()
	if err := s.snapshot(true); err != nil {
		// The log has all but the locks.
		s.logger.Warn("logstore: no snapshot could be written; locks are dropped", "err", err)
	}
	return s.log.Close()
}

// now is the store's clock: nanoseconds of Unix time when it was opened, and monotonic
// from there on, so that a jump of the wall clock ends no session.
func (s *Store) now() int64 { return s.origin + int64(time.Since(s.start)) }

// of returns the shard of a key.
func (s *Store) of(key wal.Key) *shard { return &s.shard[key[0]>>shardShift] }

// sweepAll goes round the shards, a batch of each at a time, until all are done, and
// returns the first tick at which one has something to look at again.
func (s *Store) sweepAll() (next int64) {
	before := s.kinds[store.Expired].Load()
	for done := false; !done; {
		next, done = expiry.Never, true
		for i := range s.shard {
			n, all := s.sweepSome(&s.shard[i])
			next, done = min(next, n), done && all
		}
	}
	s.reap()
	if s.kinds[store.Expired].Load() != before {
		// What nobody has met yet, somebody may meet: then it is durable. If this fails,
		// they find out.
		_ = s.log.CommitEnd(s.log.Last())
	}
	return next
}

// sweepBatch is how many sessions a sweep looks at before it lets others have the
// shard. Each costs up to a microsecond.
const sweepBatch = 128

// sweepSome looks at no more than sweepBatch sessions of a shard, and reports whether
// all that were due are done and which tick is next.
func (s *Store) sweepSome(sh *shard) (next int64, done bool) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.closed {
		return expiry.Never, true
	}
	now := s.now()
	for range sweepBatch {
		slot, next, due := sh.wheel.Due(now)
		if !due {
			return next, true
		}
		ref := sh.wheel.slots[slot]
		e := sh.entries.at(ref)
		there, err := s.settle(sh, ref, e, now)
		if !there && err == nil {
			continue
		}
		sh.unlink(e)
		if deadline := e.deadline; err != nil { // the log does not take its end: a tick later
			e.deadline = now + int64(expiry.Tick)
			sh.link(ref, e, now)
			e.deadline = deadline
		} else {
			sh.link(ref, e, now)
		}
	}
	return 0, false
}

// Stats is what a store is and does, for metrics.
type Stats struct {
	Sessions   int64 // that are there, or expired and not swept yet
	Memory     int64 // bytes that sessions take in memory
	Bodies     int64 // of these, bytes of content, which can be dropped
	Locked     int64
	Waiting    int64 // calls that wait for a lock
	Tombstones int
	Ends       int // that nobody has acknowledged
	// EndedBy counts the sessions that ended since Open, by [store.Kind].
	EndedBy [store.Restarted + 1]uint64
	Log     LogStats
}

// Stats returns what the store is and does at this moment. It costs little.
func (s *Store) Stats() Stats {
	st := Stats{
		Sessions: s.count.Load(), Memory: s.resident(), Bodies: s.bodies.Load(),
		Locked: s.locked.Load(), Waiting: s.waiting.Load(), Log: LogStats(s.log.Stats()),
	}
	for i := range s.kinds {
		st.EndedBy[i] = s.kinds[i].Load()
	}
	s.tombstones.mu.Lock()
	st.Tombstones = s.tombstones.len
	s.tombstones.mu.Unlock()
	s.ends.mu.Lock()
	st.Ends = s.ends.all.Len()
	s.ends.mu.Unlock()
	return st
}

// LogStats is what the log of a store is and does.
type LogStats struct {
	Segments  int
	Allocated int64 // bytes on disk: segments, as allocated, reserve and snapshot
	Used      int64 // bytes of records
	Live      int64 // of these, in use

	Last, Synced uint64 // sequence numbers of records: the latest, and the latest that is durable
	Buffered     int    // bytes that are not written yet

	// Counters since Open.
	Appends  uint64
	Writes   uint64
	Syncs    uint64
	Records  uint64 // that were synced by them; Records/Syncs is the size of a batch
	Dropped  uint64 // segments, after compaction
	Failures uint64 // writes and syncs

	Failing time.Time // since when nothing can be written; zero: all is well
	Full    error     // why no further segment can be made; nil: all is well

	// LastError is the last of a write or sync, also if it was recovered from.
	LastError error
}
