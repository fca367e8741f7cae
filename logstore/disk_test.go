package logstore

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-session/holdfast/logstore/internal/vfs"
	"github.com/holdfast-session/holdfast/store"
)

// A disk has little room, which others can take and give back.
type disk struct {
	name   string
	folder vfs.FS
	take   func(t *testing.T)
	free   func(t *testing.T)
}

// memDisk is a disk of that many bytes in memory.
func memDisk(size int64) disk {
	m := vfs.NewMem()
	m.SetSpace(size)
	return disk{
		name: "memory", folder: m,
		take: func(*testing.T) { m.SetSpace(m.Used()) },
		free: func(*testing.T) { m.SetSpace(size) },
	}
}

const diskSize = 8 << 20

func diskOptions() *Options {
	return &Options{Sync: Always, SegmentSize: 1 << 20, Logger: slog.New(slog.DiscardHandler)}
}

// onDisks runs a test on a disk in memory, and on a small tmpfs where one can be
// mounted.
func onDisks(t *testing.T, test func(t *testing.T, d disk)) {
	for _, d := range append(tmpfs(t, diskSize), memDisk(diskSize)) {
		t.Run(d.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { test(t, d) })
		})
	}
}

func openLike(folder vfs.FS, o *Options, l limits) (*Store, error) { return openLimited(folder, o, l) }

func mustOpen(t *testing.T, folder vfs.FS, o *Options) *Store {
	t.Helper()
	s, err := openLike(folder, o, limits{})
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() { _ = s.Close() }) // a test that fails leaves no goroutines
	return s
}

func mustClose(t *testing.T, s *Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
}

// guest is a visitor to sessions that live long.
func guest(seed uint64) *visitor {
	return &visitor{
		rand: rand.New(rand.NewPCG(seed, 5)), witness: newWitness(),
		short: func(store.ID) bool { return false },
	}
}

func idOf(i int) store.ID { return store.ID{App: "app", Session: fmt.Sprint(i)} }

// fillUp creates sessions until there is no room, and returns how many there are.
func fillUp(t *testing.T, s *Store, v *visitor, from int) (to int) {
	t.Helper()
	for i := from; ; i++ {
		err := v.create(t.Context(), s, idOf(i))
		if errors.Is(err, store.ErrFull) {
			return i
		}
		if err != nil {
			t.Fatalf("session %d: %v; want room or ErrFull", i, err)
		}
		if i > 200_000 {
			t.Fatal("the disk is never full")
		}
	}
}

func checkAll(t *testing.T, s *Store, v *visitor, when string) {
	t.Helper()
	if err := v.witness.check(t.Context(), s, acknowledged); err != nil {
		t.Fatalf("%s: %v", when, err)
	}
	if err := v.witness.checkList(t.Context(), s); err != nil {
		t.Fatalf("%s: %v", when, err)
	}
}

// TestFullDisk fills a disk with sessions. What is there stays, sessions can be
// ended, and their room is used again without a restart.
func TestFullDisk(t *testing.T) {
	onDisks(t, func(t *testing.T, d disk) {
		s, v := mustOpen(t, d.folder, diskOptions()), guest(1)
		n := fillUp(t, s, v, 0)
		if n < 2000 {
			t.Errorf("full with %d sessions of about 500 bytes in %d", n, diskSize)
		}
		checkAll(t, s, v, "full")
		for i := range n / 2 {
			if err := v.remove(t.Context(), s, idOf(i)); err != nil {
				t.Fatalf("on a full disk, Remove %d of %d: %v", i, n/2, err)
			}
			if i%500 == 499 {
				time.Sleep(time.Second) // segments in which nothing is left are given back
			}
		}
		checkAll(t, s, v, "half of them ended")
		time.Sleep(time.Minute)
		more := fillUp(t, s, v, n)
		if more-n < n/8 {
			t.Errorf("%d sessions of %d were ended, and there is room for %d again", n/2, n, more-n)
		}
		checkAll(t, s, v, "full again")
		mustClose(t, s)

		s = mustOpen(t, d.folder, diskOptions())
		checkAll(t, s, v, "opened again, full")
		mustClose(t, s)
	})
}

// TestDiskFilledByOthers takes all room away from a store, and gives it back.
func TestDiskFilledByOthers(t *testing.T) {
	onDisks(t, func(t *testing.T, d disk) {
		s, v := mustOpen(t, d.folder, diskOptions()), guest(2)
		for i := range 500 {
			if err := v.create(t.Context(), s, idOf(i)); err != nil {
				t.Fatal(err)
			}
		}
		d.take(t)
		full := false
		for i := range 5000 {
			err := v.visit(t.Context(), s, idOf(v.rand.IntN(500)))
			full = full || errors.Is(err, store.ErrFull)
			if err != nil && !errors.Is(err, store.ErrFull) {
				t.Fatalf("visit %d on a full disk: %v", i, err)
			}
		}
		if !full {
			t.Error("the disk was never full")
		}
		checkAll(t, s, v, "full")
		for i := range 500 {
			if last, _, _ := v.witness.now(idOf(i)); last.rec == nil {
				continue
			}
			if err := v.remove(t.Context(), s, idOf(i)); err != nil {
				t.Fatalf("on a full disk, Remove: %v", err)
			}
		}
		d.free(t)
		time.Sleep(time.Minute)
		for i := range 2000 {
			if err := v.visit(t.Context(), s, idOf(v.rand.IntN(500))); err != nil {
				t.Fatalf("visit %d when there is room again: %v", i, err)
			}
		}
		mustClose(t, s)
		s = mustOpen(t, d.folder, diskOptions())
		checkAll(t, s, v, "opened again")
		mustClose(t, s)
	})
}

// TestMaxDisk reaches the limit that an operator has set: new sessions are refused,
// those that are there go on.
func TestMaxDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := diskOptions()
		o.MaxDisk = diskSize
		folder := vfs.NewMem()
		s, v := mustOpen(t, folder, o), guest(3)
		n := fillUp(t, s, v, 0)
		if used := folder.Used(); used > diskSize+diskSize/16+2*o.SegmentSize {
			t.Errorf("%d bytes are used of %d", used, diskSize)
		}
		for i := range 20 * n {
			id := idOf(v.rand.IntN(n))
			if last, _, _ := v.witness.now(id); last.rec == nil {
				continue
			}
			if err := v.visit(t.Context(), s, id); err != nil {
				t.Fatalf("visit %d at the limit: %v", i, err)
			}
			if used := folder.Used(); used > diskSize+diskSize/8+4*o.SegmentSize {
				t.Fatalf("after visit %d, %d bytes are used of %d", i, used, diskSize)
			}
			synctest.Wait()
		}
		checkAll(t, s, v, "at the limit")
		mustClose(t, s)
		s = mustOpen(t, folder, o)
		checkAll(t, s, v, "opened again")
		mustClose(t, s)
	})
}

// TestFailingDisk has one kind of call fail for a while. Callers get errors, and
// nothing that was acknowledged is lost, not even if the power is cut when all is
// well again; that it is, needs no restart.
func TestFailingDisk(t *testing.T) {
	for _, err := range []error{syscall.EIO, syscall.EROFS, syscall.ENOSPC} {
		for _, op := range []vfs.Op{vfs.OpWrite, vfs.OpSync, vfs.OpCreate, vfs.OpAllocate, vfs.OpSyncDir, vfs.OpRename, vfs.OpRemove, vfs.OpTruncate, ""} {
			for _, mode := range []Sync{Always, Interval} {
				t.Run(fmt.Sprintf("%v/%s/%v", err, op, mode), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) { failFor(t, op, err, mode) })
				})
			}
		}
	}
}

// failFor fails the calls of that kind, or all that change something.
func failFor(t *testing.T, op vfs.Op, failure error, mode Sync) {
	ctx := t.Context()
	folder, v := vfs.NewMem(), guest(4)
	o := diskOptions()
	o.Sync, o.SegmentSize = mode, 64<<10
	s := mustOpen(t, folder, o)
	visits := func(n int, when string, allowed bool) {
		t.Helper()
		for i := range n {
			err := v.visit(ctx, s, idOf(v.rand.IntN(20)))
			if err != nil && !(allowed && trouble(err)) {
				t.Fatalf("visit %d %s: %v", i, when, err)
			}
		}
	}
	for range 3 {
		visits(300, "before", false)
		folder.Fail(func(called vfs.Op, _ string, _, _ int64) error {
			switch called {
			case op:
				return failure
			case vfs.OpRead, vfs.OpSize, vfs.OpList, vfs.OpOpen, vfs.OpLock:
			default:
				if op == "" {
					return failure
				}
			}
			return nil
		})
		for range 5 {
			visits(100, "while the disk fails", true)
			time.Sleep(300 * time.Millisecond)
		}
		folder.Fail(nil)
		time.Sleep(time.Minute)
		visits(300, "when the disk is well again", false)
		checkAll(t, s, v, "when the disk is well again")
	}
	time.Sleep(time.Minute) // past every interval
	left := folder.Cut(nil, vfs.Drop)
	mustClose(t, s)
	s = mustOpen(t, left, o)
	v.witness.crashed(time.Now())
	checkAll(t, s, v, "after the power was cut")
	mustClose(t, s)
}
