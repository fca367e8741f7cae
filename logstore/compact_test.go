package logstore

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/holdfast-session/holdfast/logstore/internal/vfs"
	"github.com/holdfast-session/holdfast/store"
)

// tight is a log that is compacted all the time.
var tight = Options{Sync: Always, SegmentSize: 16 << 10}

// churn saves sessions until the log has been through that many segments.
func (r *rig) churn(first, n, segments int) {
	r.Helper()
	before := r.Stats().Log.Dropped
	for i := 0; r.Stats().Log.Dropped < before+uint64(segments); i++ {
		if i == 100_000 {
			r.Fatalf("%d segments were dropped by %d saves; want %d", r.Stats().Log.Dropped-before, i, segments)
		}
		r.save(first+i%n, pattern(i, 300))
		if i%50 == 0 {
			r.wait(time.Millisecond)
		}
	}
}

// TestCompactionKeepsRemoves: a session whose content is still somewhere in the log
// does not return, although the segment with its end is compacted over and over.
func TestCompactionKeepsRemoves(t *testing.T) {
	for _, snapshots := range []int64{1 << 40, 20 << 10} {
		inRig(t, tight, limits{snapshotAfter: snapshots}, func(r *rig) {
			const n = 60
			for i := range n { // whose first segment has enough in use to stay
				r.create(i, 100*long, pattern(i, 300))
			}
			for i := range n {
				if i%3 == 0 {
					r.remove(i)
				}
			}
			why := []store.Kind{store.Abandoned}
			check := func(when string) {
				for i := range n {
					if i%3 == 0 {
						r.wantGone(i, why...)
					} else {
						r.want(i, pattern(i, 300))
					}
				}
				if r.Failed() {
					r.Fatalf("%s, with snapshots every %d bytes", when, snapshots)
				}
			}
			for range 8 {
				for i := range 10 {
					r.create(n+i, 100*long, nil)
				}
				r.churn(n, 10, 5)
				for i := range 10 {
					r.remove(n + i)
				}
				check("in the process")
				r.crash(vfs.Drop)
				check("after a crash")
				r.Close()
				r.forget() // the log alone has all sessions
				if snapshots < 1<<40 {
					why = append(why, store.Unknown) // which perhaps only a snapshot knew
				}
				r.open()
				check("without a snapshot")
			}
		})
	}
}

// TestRemovesGoAway: they do not pile up for ever.
func TestRemovesGoAway(t *testing.T) {
	inRig(t, tight, limits{snapshotAfter: 32 << 10}, func(r *rig) {
		for i := range 10 {
			r.create(i, 100*long, nil)
		}
		for i := range 4000 {
			r.create(100, 100*long, pattern(i, 300))
			r.remove(100)
			if i%100 == 0 {
				r.wait(time.Millisecond)
			}
		}
		r.wait(time.Second)
		if log := r.Stats().Log; log.Used > 400<<10 {
			r.Errorf("the log has %d bytes in %d segments for 10 sessions without content", log.Used, log.Segments)
		}
	})
}

// TestEndsKeepTheirContent until they are acknowledged: through compaction, crashes
// and restarts, and wherever the content was.
func TestEndsKeepTheirContent(t *testing.T) {
	for _, l := range []limits{{}, {warm: 1}, {snapshotAfter: 20 << 10}, {warm: 1, snapshotAfter: 20 << 10}} {
		inRig(t, tight, l, func(r *rig) {
			if _, err := r.Ended(r.Context(), "/", 0, long); err != nil {
				r.Fatal(err)
			}
			const n = 40
			want := make(map[string][]byte)
			for i := range n {
				r.create(i, 100*long, pattern(i, 400))
			}
			for i := range n {
				r.remove(i)
				want[fmt.Sprint(i)] = pattern(i, 400)
				if i%4 == 0 { // it lives once more, which is another session
					r.create(i, 100*long, []byte("again"))
				}
			}
			keys := make(map[string]string)
			for round := range 8 {
				r.create(1000, 100*long, nil)
				r.churn(1000, 1, 6)
				r.remove(1000)
				want["1000"] = nil
				switch round % 3 {
				case 0:
					r.crash(vfs.Drop)
				case 1:
					r.restart()
				default:
					r.Close()
					r.forget()
					r.open()
				}
				ends, err := r.Ended(r.Context(), "/", 1000, 0)
				if err != nil {
					r.Fatal(err)
				}
				got := make(map[string]bool)
				var acks []string
				for _, e := range ends {
					if e.ID.Session == "1000" {
						acks = append(acks, e.Key)
						got["1000"] = true
						continue
					}
					body, ok := want[e.ID.Session]
					if !ok || got[e.ID.Session] {
						r.Errorf("round %d: an end of %v that was acknowledged, or came twice", round, e.ID)
					}
					got[e.ID.Session] = true
					if !bytes.Equal(e.Record.Body, body) || e.Reason.Kind != store.Abandoned || e.Record.Subject != "alice" {
						r.Errorf("round %d: the end of %v is %v, with %.20q; want %.20q", round, e.ID, e.Reason, e.Record.Body, body)
					}
					if key := keys[e.ID.Session]; key != "" && key != e.Key {
						r.Errorf("round %d: the end of %v is called %q, and was %q", round, e.ID, e.Key, key)
					}
					keys[e.ID.Session] = e.Key
					if len(acks) < 4 && rand.IntN(4) == 0 {
						acks = append(acks, e.Key)
						delete(want, e.ID.Session)
					}
				}
				if len(got) < len(want) {
					r.Errorf("round %d: %d ends; want at least %d", round, len(got), len(want))
				}
				if err := r.Ack(r.Context(), "/", acks); err != nil {
					r.Fatal(err)
				}
				delete(want, "1000")
				for i := 0; i < n; i += 4 {
					r.want(i, []byte("again"))
				}
				if r.Failed() {
					r.Fatalf("limits %+v", l)
				}
			}
		})
	}
}

// TestSnapshotAndLog: a snapshot that is written while sessions come and go is right
// together with the log behind it.
func TestSnapshotAndLog(t *testing.T) {
	inRig(t, Options{Sync: Always, SegmentSize: 64 << 10}, limits{snapshotAfter: 1 << 40}, func(r *rig) {
		rng := rand.New(rand.NewPCG(1, 2))
		const n = 300
		have := make(map[int][]byte)
		for round := range 20 {
			if round%3 > 0 {
				r.logged.Store(1 << 50) // the keeper writes one
				r.nudge()
			}
			for range 200 {
				i := rng.IntN(n)
				body := pattern(rng.IntN(1000), 1+rng.IntN(300))
				switch _, there := have[i]; {
				case !there:
					r.create(i, 100*long, body)
					have[i] = body
				case rng.IntN(3) == 0:
					r.remove(i)
					delete(have, i)
				default:
					r.save(i, body)
					have[i] = body
				}
			}
			if round%2 == 0 {
				r.crash(vfs.Drop)
			} else {
				r.restart()
			}
			for i := range n {
				if body, there := have[i]; there {
					r.want(i, body)
				} else if err := r.Load(r.Context(), name(i), new(store.Record)); err == nil {
					r.Errorf("session %d is back", i)
				}
			}
			if got := r.count.Load(); got != int64(len(have)) {
				r.Errorf("%d sessions; want %d", got, len(have))
			}
			if r.Failed() {
				r.Fatalf("round %d", round)
			}
		}
	})
}

// TestFailedCompactionLeavesGarbage: what it copied is of no use, and does not count as
// if it were.
func TestFailedCompactionLeavesGarbage(t *testing.T) {
	inRig(t, Options{SegmentSize: 64 << 10}, limits{}, func(r *rig) {
		for i := range 400 {
			r.create(i, long, make([]byte, 300))
		}
		r.wait(2 * time.Second)
		before := r.Stats().Log.Live
		fails := r.failSyncs()
		for range 5 {
			fails.Store(true)
			if err := r.compact(1); err == nil {
				r.Fatal("a compaction succeeds on a disk that fails")
			}
			fails.Store(false)
			r.wait(10 * time.Second)
		}
		if now := r.Stats().Log.Live; now > before+5<<10 {
			r.Errorf("%d bytes of the log are in use; before %d", now, before)
		}
	})
}
