package serve

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast-session/holdfast/inproc"
	"github.com/holdfast-session/holdfast/internal/memlimit"
	"github.com/holdfast-session/holdfast/logstore"
	"github.com/holdfast-session/holdfast/mode"
	"github.com/holdfast-session/holdfast/store"
)

// An engine is the store that keeps the sessions, and what is to be known of it
// besides.
type engine struct {
	store.Store
	close    func() error
	sessions func() int64 // nil if it is not known how many there are
	// failing returns why nothing can be saved at the moment, or nil.
	failing func() error
	collect func(gauge, count sample)
}

// openEngine opens the store that the configuration names.
func (c *Config) openEngine(log *slog.Logger) (*engine, error) {
	if c.Store != "" {
		return openShared(c.Store)
	}
	memory, err := c.MaxMemory.Of(func() (int64, error) { return memlimit.Process(), nil })
	if err != nil {
		return nil, err
	}
	if memory == 0 {
		memory = -1
	}
	if c.Memory {
		return memoryEngine(inproc.New(&inproc.Options{CountCookies: c.Exact, MaxBytes: memory})), nil
	}
	disk, err := c.MaxDisk.Of(func() (int64, error) { return diskSize(c.Data) })
	if err != nil {
		return nil, fmt.Errorf("--max-disk %s: %w", &c.MaxDisk, err)
	}
	if disk > 0 && disk < minDisk {
		return nil, fmt.Errorf("--max-disk %s: %w", &c.MaxDisk, errMinDisk)
	}
	sync := map[string]logstore.Sync{syncAlways: logstore.Always, syncInterval: logstore.Interval, syncNever: logstore.Never}
	s, err := logstore.Open(c.Data, &logstore.Options{Sync: sync[c.Sync], MaxMemory: memory, MaxDisk: disk, Logger: log})
	if err != nil {
		return nil, fmt.Errorf("the store cannot be opened: %w", err)
	}
	return logEngine(s), nil
}

// openShared opens a store that is not this server's alone.
func openShared(spec string) (*engine, error) {
	s, err := mode.Open(spec)
	if err != nil {
		return nil, fmt.Errorf("--store: %w", err)
	}
	if _, remembers := s.(store.Ender); !remembers {
		return nil, errors.Join(fmt.Errorf("--store: %s cannot be served: it keeps less of a session than a state server has to", mode.Redact(spec)), s.Close())
	}
	return &engine{
		Store: s,
		close: s.Close,
		failing: func() error {
			ctx, cancel := context.WithTimeout(context.Background(), probeWithin)
			defer cancel()
			if err := s.Touch(ctx, store.ID{App: "holdfast", Session: "probe"}); !errors.Is(err, store.ErrNotFound) {
				return err
			}
			return nil
		},
		collect: func(gauge, count sample) {},
	}, nil
}

// probeWithin is how long a store may take to say that it is there.
const probeWithin = 2 * time.Second

var (
	descSessions = desc("sessions", "Sessions that are there.")
	descMemory   = desc("session_memory_bytes", "Memory that sessions take.")
	descEndedBy  = desc("sessions_ended_total", "Sessions that ended, by reason.", "reason")
)

func memoryEngine(s *inproc.Store) *engine {
	return &engine{
		Store:    s,
		close:    s.Close,
		sessions: func() int64 { return s.Stats().Sessions },
		failing:  func() error { return nil },
		collect: func(gauge, count sample) {
			t := s.Stats()
			gauge(descSessions, float64(t.Sessions))
			gauge(descMemory, float64(t.Bytes))
			countEnds(t.EndedBy[:], count)
		},
	}
}

// countEnds counts the sessions that ended, by [store.Kind].
func countEnds(by []uint64, count sample) {
	for kind, n := range by {
		if n > 0 {
			count(descEndedBy, float64(n), store.Kind(kind).String())
		}
	}
}

var (
	descBodies     = desc("session_body_memory_bytes", "Memory that contents of sessions take, which can be on disk only.")
	descLocked     = desc("locks_held", "Sessions that are locked.")
	descLockWaits  = desc("lock_waiters", "Calls that wait for a lock.")
	descTombstones = desc("tombstones", "Ended sessions that are remembered for their reason.")
	descEnds       = desc("ends_pending", "Ends that no application has acknowledged.")
	descSegments   = desc("log_segments", "Files of the log.")
	descAllocated  = desc("log_allocated_bytes", "Disk that log and snapshot take.")
	descUsed       = desc("log_bytes", "Bytes of records in the log.")
	descLive       = desc("log_live_bytes", "Of these, bytes of records that are in use.")
	descUnsynced   = desc("log_unsynced_records", "Records that a power cut would lose.")
	descAppends    = desc("log_appends_total", "Records that were appended.")
	descWrites     = desc("log_writes_total", "Writes to the log; each has all records that came since the last.")
	descSyncs      = desc("log_fsyncs_total", "Times that the log was forced to disk.")
	descSynced     = desc("log_fsynced_records_total", "Records that were forced to disk; over log_fsyncs_total, how many share one fsync.")
	descDropped    = desc("log_compacted_segments_total", "Files of the log that were compacted away.")
	descFailures   = desc("log_errors_total", "Writes and fsyncs that failed.")
	descFailing    = desc("log_failing_seconds", "For how long nothing could be written; 0 if it can.")
	descFull       = desc("log_full", "1 while there is no room for new sessions.")
)

func logEngine(s *logstore.Store) *engine {
	return &engine{
		Store:    s,
		close:    s.Close,
		sessions: func() int64 { return s.Stats().Sessions },
		failing: func() error {
			t := s.Stats().Log
			if t.Failing.IsZero() {
				return nil
			}
			return fmt.Errorf("nothing can be written since %s: %w", t.Failing.Format(time.RFC3339), t.LastError)
		},
		collect: func(gauge, count sample) { collectLog(s.Stats(), gauge, count) },
	}
}

func collectLog(t logstore.Stats, gauge, count sample) {
	for _, f := range []struct {
		d *prometheus.Desc
		v float64
	}{
		{descSessions, float64(t.Sessions)}, {descMemory, float64(t.Memory)}, {descBodies, float64(t.Bodies)},
		{descLocked, float64(t.Locked)}, {descLockWaits, float64(t.Waiting)},
		{descTombstones, float64(t.Tombstones)}, {descEnds, float64(t.Ends)},
		{descSegments, float64(t.Log.Segments)}, {descAllocated, float64(t.Log.Allocated)},
		{descUsed, float64(t.Log.Used)}, {descLive, float64(t.Log.Live)}, {descUnsynced, float64(t.Log.Last - t.Log.Synced)},
	} {
		gauge(f.d, f.v)
	}
	for _, f := range []struct {
		d *prometheus.Desc
		n uint64
	}{
		{descAppends, t.Log.Appends}, {descWrites, t.Log.Writes}, {descSyncs, t.Log.Syncs}, {descSynced, t.Log.Records},
		{descDropped, t.Log.Dropped}, {descFailures, t.Log.Failures},
	} {
		count(f.d, float64(f.n))
	}
	countEnds(t.EndedBy[:], count)
	failing, full := 0.0, 0.0
	if !t.Log.Failing.IsZero() {
		failing = time.Since(t.Log.Failing).Seconds()
	}
	if t.Log.Full != nil {
		full = 1
	}
	gauge(descFailing, failing)
	gauge(descFull, full)
}
