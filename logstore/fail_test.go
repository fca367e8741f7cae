package logstore

import (
	"errors"
	"fmt"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-session/holdfast/logstore/internal/vfs"
	"github.com/holdfast-session/holdfast/store"
)

// failSyncs makes every sync of the disk fail while it says so.
func (r *rig) failSyncs() *atomic.Bool {
	fails := new(atomic.Bool)
	r.disk.Fail(func(op vfs.Op, _ string, _, _ int64) error {
		if op == vfs.OpSync && fails.Load() {
			return syscall.EIO
		}
		return nil
	})
	return fails
}

// removeUnsure removes a session while the disk fails.
func (r *rig) removeUnsure(i int) {
	r.Helper()
	if err := r.Remove(r.Context(), name(i), store.Lock{}, store.Reason{Kind: store.Abandoned}); !errors.Is(err, store.ErrUnsure) {
		r.Errorf("Remove while the disk fails: %v; want %v", err, store.ErrUnsure)
	}
}

// wantEnd checks that a session's end is told, with what it held.
func (r *rig) wantEnd(i int, body string) {
	r.Helper()
	ends, err := r.Ended(r.Context(), "/", 10, time.Minute)
	if err != nil || len(ends) != 1 || ends[0].ID != name(i) || string(ends[0].Record.Body) != body {
		r.Errorf("Ended: %+v, %v; want the end of %d with %q", ends, err, i, body)
	}
}

// TestColdSessionEndsWhileLogFails: the log recovers, though its first attempt fails
// too, and the end has its content.
func TestColdSessionEndsWhileLogFails(t *testing.T) {
	inRig(t, Options{SegmentSize: 64 << 10, Interval: time.Hour, Ends: 100}, limits{}, func(r *rig) {
		r.create(1, long, []byte("cold"))
		r.restart() // from the snapshot
		for i := 2; i < 120; i++ {
			r.create(i, long, make([]byte, 300))
		}
		r.wait(time.Second) // a spare segment is there, for the first attempt
		fails := r.failSyncs()
		fails.Store(true)
		r.removeUnsure(1)
		r.wait(3 * time.Second)
		fails.Store(false)
		r.wait(10 * time.Second)
		r.create(1000, long, nil)
		r.wantEnd(1, "cold")
		r.crash(vfs.Drop)
		r.wantGone(1, store.Abandoned)
		r.want(2, make([]byte, 300))
		r.wantEnd(1, "cold")
		r.Close()
		r.forget()
		r.open()
		r.wantEnd(1, "cold")
	})
}

// TestDamagedSessionEndsWhileLogFails: the log recovers, and the end comes without its
// content.
func TestDamagedSessionEndsWhileLogFails(t *testing.T) {
	inRig(t, Options{SegmentSize: 64 << 10, Interval: time.Hour, Ends: 100}, limits{}, func(r *rig) {
		r.create(1, long, []byte("x"))
		r.restart() // from the snapshot: cold
		key := keyOf(name(1))
		sh := r.of(key)
		e := sh.entries.at(r.findKey(sh, key))
		f, err := r.disk.Open(fmt.Sprintf("%08x.seg", e.segment))
		if err != nil {
			t.Fatal(err)
		}
		f.WriteAt([]byte("garbage"), int64(e.offset)+50)
		f.Sync()
		f.Close()
		fails := r.failSyncs()
		fails.Store(true)
		r.removeUnsure(1)
		fails.Store(false)
		r.wait(10 * time.Second)
		r.create(1000, long, nil)
		r.wantEnd(1, "")
		r.crash(vfs.Drop)
		r.wantGone(1, store.Abandoned)
	})
}
