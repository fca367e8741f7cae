package wal

import "time"

// A gathering has who leads a sync wait, for a moment, for those whom the sync before
// has just released, since they are likely to append again. Without, half of the
// writers are always in a sync while the other half comes back with the next records,
// and on a disk whose sync takes longer than their way each sync serves half as many
// as it could.
//
// Its fields are under Log.mu, but for those of the leader.
type gathering struct {
	waiting [2]int // callers that wait for the batch, as in Log.done
	want    uint64 // the sequence number that is expected soon
	notify  uint64 // the one that wakes the leader; 0: it does not wait
	full    chan struct{}
	pause   int // how many syncs there are yet without a wait, since one was in vain

	// the leader's
	took  time.Duration // by the last sync
	timer timer
}

const (
	// A leader waits at most so many times as long as a sync takes, and never longer
	// than gatherMost.
	gatherTimes = 3
	gatherMost  = time.Millisecond
	// gatherPause is how many syncs there are without a wait after one in vain.
	gatherPause = 32
)

// begin reports whether the leader is to wait.
func (g *gathering) begin(last uint64) bool {
	if g.pause > 0 {
		g.pause--
		return false
	}
	if g.want <= last {
		return false
	}
	g.notify = g.want
	return true
}

// wait is called without Log.mu.
func (g *gathering) wait() {
	g.timer.start(min(gatherTimes*g.took, gatherMost))
	select {
	case <-g.full:
		g.timer.stop()
	case <-g.timer.c():
	}
}

// end ends what begin began. A wait that was not over in time was in vain: those who
// were released have something else to do.
func (g *gathering) end() {
	if g.notify != 0 {
		g.notify = 0
		g.pause = gatherPause
	}
	select {
	case <-g.full: // it came while the timer did
	default:
	}
}

// appended tells who waits that there is this record.
func (g *gathering) appended(seq uint64) {
	if g.notify != 0 && seq >= g.notify {
		g.notify = 0
		g.full <- struct{}{}
	}
}

// released takes note of how many waited for the batch and now go on.
func (g *gathering) released(last uint64, batch uint) {
	g.want = last + uint64(g.waiting[batch])
	g.waiting[batch] = 0
}
