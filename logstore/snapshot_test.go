package logstore

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-session/holdfast/logstore/internal/vfs"
)

// TestSnapshotHasSessionTwice ends a session and creates its ID again while a snapshot is
// written, so that the snapshot has both, and crashes: the second one is there, with its
// own content.
func TestSnapshotHasSessionTwice(t *testing.T) {
	inRig(t, Options{}, limits{}, func(r *rig) {
		var ids []int // of one shard, more than one batch
		for i := 0; len(ids) < 2000; i++ {
			if keyOf(name(i))[0]>>shardShift == 0 {
				ids = append(ids, i)
			}
		}
		first, last := ids[0], ids[len(ids)-1]
		for _, i := range ids[:len(ids)-1] {
			r.create(i, long, []byte("x"))
		}
		var once atomic.Bool
		r.disk.Fail(func(op vfs.Op, name string, off, n int64) error {
			if op == vfs.OpWrite && name == "snapshot.tmp" && off > 0 && once.CompareAndSwap(false, true) {
				time.Sleep(time.Second) // a slow disk
			}
			return nil
		})
		done := make(chan error)
		go func() { done <- r.snapshot(false) }()
		time.Sleep(time.Second / 2)
		r.remove(first)
		r.create(last, long, []byte("in the first one's place"))
		r.create(first, long, []byte("again"))
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		r.wait(time.Second)
		live := r.Stats().Log.Live
		r.crash(vfs.Keep)
		r.want(first, []byte("again"))
		r.want(last, []byte("in the first one's place"))
		if n := r.Stats().Sessions; n != int64(len(ids)) {
			t.Errorf("%d sessions; want %d", n, len(ids))
		}
		if now := r.Stats().Log.Live; now < live || now > live+500 {
			t.Errorf("%d bytes of the log are in use after the crash, %d before it", now, live)
		}
	})
}
