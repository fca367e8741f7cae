package holdfast

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-session/holdfast/store"
)

var lineA = store.ID{App: "/", Session: "a"}

func TestQueueIsInOrderOfArrival(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueues()
		if _, err := q.enter(t.Context(), lineA, 50, time.Minute); err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		var order []int
		for i := range 20 {
			go func() {
				if _, err := q.enter(t.Context(), lineA, 50, time.Minute); err != nil {
					t.Error(err)
				}
				mu.Lock()
				order = append(order, i)
				mu.Unlock()
				q.leave(lineA)
			}()
			synctest.Wait() // so that they arrive in order
		}
		q.leave(lineA)
		synctest.Wait()
		for i, got := range order {
			if got != i {
				t.Fatalf("order of turns %v", order)
			}
		}
		if len(order) != 20 {
			t.Errorf("%d of 20 had their turn", len(order))
		}
	})
}

func TestQueueRefusesPastItsLimitAndAfterTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueues()
		q.enter(t.Context(), lineA, 1, time.Minute)
		failed := make(chan error, 1)
		go func() {
			_, err := q.enter(t.Context(), lineA, 1, 30*time.Second)
			failed <- err
		}()
		synctest.Wait()
		if _, err := q.enter(t.Context(), lineA, 1, time.Minute); !errors.Is(err, ErrBusy) {
			t.Errorf("past the limit: %v, want ErrBusy", err)
		}
		start := time.Now()
		if err := <-failed; !errors.Is(err, ErrBusy) || time.Since(start) != 30*time.Second {
			t.Errorf("after %v: %v, want ErrBusy after 30s", time.Since(start), err)
		}
		if _, err := q.enter(t.Context(), store.ID{App: "/", Session: "b"}, 1, 0); err != nil {
			t.Errorf("another session's line: %v", err)
		}
	})
}

// Who gives up at the very moment of his turn passes it on.
func TestQueueCancelRacesTurn(t *testing.T) {
	for range 200 {
		q := newQueues()
		q.enter(t.Context(), lineA, 50, time.Minute)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := q.enter(ctx, lineA, 50, time.Minute); err == nil {
				q.leave(lineA)
			}
		})
		wg.Go(func() {
			if _, err := q.enter(t.Context(), lineA, 50, time.Minute); err != nil {
				t.Error(err)
			}
			q.leave(lineA)
		})
		go cancel()
		q.leave(lineA)
		wg.Wait()
		for i := range q.shards {
			if n := len(q.shards[i].lines); n != 0 {
				t.Fatalf("%d lines are left", n)
			}
		}
	}
}
