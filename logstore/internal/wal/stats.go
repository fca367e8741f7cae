package wal

import "time"

// Stats are figures of a log, for metrics.
type Stats struct {
	Segments  int
	Allocated int64 // bytes on disk: segments, as allocated, reserve and snapshot
	Used      int64 // bytes of records
	Live      int64 // of these, in use

	Last, Synced uint64 // sequence numbers
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

// counts are guarded by Log.mu.
type counts struct {
	appends, writes, syncs, synced, dropped, failures uint64
	lastError                                         error
}

// Stats returns the figures of this moment.
func (l *Log) Stats() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := *l.segments.Load()
	s := Stats{
		Segments: len(all), Allocated: l.allocated,
		Last: l.last.Load(), Synced: l.synced.Load(), Buffered: len(l.pending.data) + len(l.flight.data),
		Appends: l.counts.appends, Writes: l.counts.writes, Syncs: l.counts.syncs, Records: l.counts.synced,
		Dropped: l.counts.dropped, Failures: l.counts.failures, LastError: l.counts.lastError,
		Full: l.noSpace,
	}
	for _, t := range all {
		s.Used += t.used()
		s.Live += t.live.Load()
	}
	if l.failing != nil {
		s.Failing = l.failing.since
	}
	return s
}
