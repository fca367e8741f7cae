package logstore

import (
	"testing"

	"github.com/holdfast-session/holdfast/logstore/internal/vfs"
	"github.com/holdfast-session/holdfast/store"
	"github.com/holdfast-session/holdfast/storetest"
)

// kept is a store with the disk that it is on.
type kept struct {
	*Store
	disk *vfs.Mem
}

func openKept(t testing.TB, disk *vfs.Mem, o Options, l limits) kept {
	t.Helper()
	s, err := openLimited(disk, &o, l)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return kept{s, disk}
}

// TestContract runs the suite on a disk in memory. A crash leaves what the process has
// written; a power cut what it has synced.
func TestContract(t *testing.T) {
	tiny := limits{warm: 1}
	for _, c := range []struct {
		name   string
		o      Options
		limits limits
		crash  vfs.CutMode
	}{
		{"Interval", Options{}, limits{}, vfs.Keep},
		{"Always", Options{Sync: Always}, limits{}, vfs.Drop},
		{"Never", Options{Sync: Never}, limits{}, vfs.Keep},
		{"Cold", Options{}, tiny, vfs.Keep},
		{"ColdAlways", Options{Sync: Always}, tiny, vfs.Drop},
		{"ColdNever", Options{Sync: Never}, tiny, vfs.Keep},
		{"SmallSegments", Options{SegmentSize: 16 << 10}, limits{snapshotAfter: 32 << 10}, vfs.Keep},
		{"SmallSegmentsAlways", Options{Sync: Always, SegmentSize: 16 << 10}, limits{snapshotAfter: 32 << 10}, vfs.Drop},
		{"SmallSegmentsCold", Options{Sync: Never, SegmentSize: 16 << 10}, limits{warm: 1, snapshotAfter: 32 << 10}, vfs.Keep},
	} {
		if c.o.SegmentSize == 0 {
			c.o.SegmentSize = 1 << 20 // a file in memory has its full size
		}
		t.Run(c.name, func(t *testing.T) {
			small := c.o
			small.MaxDisk, small.SegmentSize, small.Ends, small.Tombstones = 768<<10, 0, 1000, 500
			c.o.Ends = 100_000
			storetest.Run(t, storetest.Harness{
				Bubble:    true,
				Open:      func(t testing.TB) store.Store { return openKept(t, vfs.NewMem(), c.o, c.limits) },
				OpenSmall: func(t testing.TB) store.Store { return openKept(t, vfs.NewMem(), small, c.limits) },
				Restart: func(t testing.TB, s store.Store, crash bool) store.Store {
					k := s.(kept)
					if crash {
						k.disk = k.disk.Cut(nil, c.crash)
					} else if err := k.Close(); err != nil {
						t.Errorf("Close: %v", err)
					}
					return openKept(t, k.disk, c.o, c.limits)
				},
			})
		})
	}
}
