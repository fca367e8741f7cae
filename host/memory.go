package host

import (
	"context"
	"fmt"
	"time"

	"github.com/shirou/gopsutil/v4/mem"

	"github.com/holdfast-session/holdfast/internal/memlimit"
)

const (
	// Memory is looked at every slowSample while little happens, every quickSample
	// while there are requests, and more often while it grows towards the limit.
	slowSample  = 10 * time.Second
	quickSample = time.Second
	leastSample = 100 * time.Millisecond
	// groupsKept is how long it is remembered who belongs to which worker.
	groupsKept = 10 * time.Second
)

// totalMemory is the memory of the machine or the control group, whichever is less.
func totalMemory() int64 {
	if total := memlimit.Machine(); total > 0 {
		return total
	}
	if m, err := mem.VirtualMemory(); err == nil && m.Total > 0 {
		return int64(m.Total)
	}
	return memlimit.Process()
}

// A memorySample is what a process used at some time.
type memorySample struct {
	used   int64
	served uint64
	at     time.Time
}

// watchMemory has workers recycled that use more than limit bytes, and kills those
// that use far more.
func (h *Host) watchMemory(ctx context.Context, limit int64) {
	timer := time.NewTimer(quickSample)
	defer timer.Stop()
	var (
		before = make(map[*process]memorySample)
		groups map[int][]int
		asOf   time.Time
	)
	for {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		now := time.Now()
		if now.Sub(asOf) >= groupsKept {
			groups, asOf = processGroups(), now
		}
		next := slowSample
		after := make(map[*process]memorySample)
		for _, p := range h.running() {
			s := memorySample{used: privateMemory(p.pid, groups[p.pid], limit), at: now}
			_, s.served, _ = h.router().traffic(p.backend)
			after[p] = s
			switch {
			case s.used >= 2*limit:
				detail := fmt.Sprintf("%s used, twice the limit of %s", mebibytes(s.used), mebibytes(limit))
				h.log().Error("worker uses up memory and is killed", "worker", p.worker, "pid", p.pid, "detail", detail)
				h.ending(p, MemoryLimit, detail)
				p.kill()
			case s.used >= limit:
				h.askFor(p, MemoryLimit, fmt.Sprintf("%s used, the limit is %s", mebibytes(s.used), mebibytes(limit)))
				next = min(next, quickSample)
			}
			next = min(next, s.next(before[p], limit))
		}
		before = after
		timer.Reset(next)
	}
}

// next is when to look again, after a sample and the one before.
func (s memorySample) next(before memorySample, limit int64) time.Duration {
	if before.at.IsZero() {
		return quickSample
	}
	next := slowSample
	if s.served != before.served || s.used >= limit/2 { // what grows in steps stands still in between
		next = quickSample
	}
	if grown := s.used - before.used; grown > 0 {
		// A third of the time that is left if it goes on growing like that.
		left := float64(limit-s.used) / float64(grown) * float64(s.at.Sub(before.at)) / 3
		next = min(next, max(time.Duration(min(left, float64(slowSample))), leastSample))
	}
	return next
}

// running are the processes that there are.
func (h *Host) running() []*process {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := make([]*process, 0, len(h.all))
	for _, p := range h.all {
		if p.pid != 0 {
			all = append(all, p)
		}
	}
	return all
}

func mebibytes(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }
