package holdfast

import (
	"context"
	"hash/maphash"
	"sync"
	"time"

	"github.com/holdfast-session/holdfast/store"
)

// queues line up this process's requests of each session in order of arrival, so
// that only the head of a line asks the store for the lock, and a line of fifty
// costs the store no more than fifty requests one after another.
type queues struct {
	seed   maphash.Seed
	shards [16]struct {
		mu    sync.Mutex
		lines map[store.ID]*line
	}
}

// A line exists while somebody is at its head.
type line struct{ waiting []*waiter }

type waiter struct{ turn chan struct{} }

var linePool = sync.Pool{New: func() any { return new(line) }}

func newQueues() *queues {
	q := &queues{seed: maphash.MakeSeed()}
	for i := range q.shards {
		q.shards[i].lines = make(map[store.ID]*line)
	}
	return q
}

// enter waits until the caller is at the head of id's line, for up to wait, and
// reports whether anybody was before it. Behind more than max others, or after wait,
// it is [ErrBusy]. Who is let in calls leave.
func (q *queues) enter(ctx context.Context, id store.ID, max int, wait time.Duration) (behind bool, err error) {
	s := &q.shards[maphash.String(q.seed, id.Session)%uint64(len(q.shards))]
	s.mu.Lock()
	l := s.lines[id]
	if l == nil {
		s.lines[id] = linePool.Get().(*line)
		s.mu.Unlock()
		return false, nil
	}
	if len(l.waiting) >= max {
		s.mu.Unlock()
		return true, ErrBusy
	}
	w := &waiter{turn: make(chan struct{})}
	l.waiting = append(l.waiting, w)
	s.mu.Unlock()

	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-w.turn:
		return true, nil
	case <-ctx.Done():
		err = context.Cause(ctx)
	case <-timer.C:
		err = ErrBusy
	}
	s.mu.Lock()
	for i, other := range l.waiting {
		if other == w {
			l.waiting = append(l.waiting[:i], l.waiting[i+1:]...)
			s.mu.Unlock()
			return true, err
		}
	}
	s.mu.Unlock()
	q.leave(id) // the turn came at the same moment: pass it on
	return true, err
}

// leave lets the next in id's line go ahead.
func (q *queues) leave(id store.ID) {
	s := &q.shards[maphash.String(q.seed, id.Session)%uint64(len(q.shards))]
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.lines[id]
	if len(l.waiting) > 0 {
		next := l.waiting[0]
		l.waiting = append(l.waiting[:0], l.waiting[1:]...)
		close(next.turn)
		return
	}
	delete(s.lines, id)
	l.waiting = l.waiting[:0]
	linePool.Put(l)
}
