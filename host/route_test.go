package host

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// newRouter returns a router with n workers, all of them ready.
func newRouter(n int, p Proxy) (*router, []*backend) {
	h := &Host{Workers: n, Proxy: p}
	r := h.router()
	var all []*backend
	for i := range n {
		b := h.newBackend(i+1, fmt.Sprint("worker ", i+1))
		r.ready(b)
		all = append(all, b)
	}
	return r, all
}

// takes takes a worker that is there.
func takes(t *testing.T, r *router, w wish) *backend {
	t.Helper()
	b, err := r.take(t.Context(), &w)
	if err != nil {
		t.Fatalf("take: %v", err)
	}
	return b
}

func TestLeastBusyWorkerIsTaken(t *testing.T) {
	r, all := newRouter(3, Proxy{Routing: LeastBusy})
	for range 30 {
		takes(t, r, wish{})
	}
	for range 5 {
		r.release(all[1])
	}
	for range 5 {
		if b := takes(t, r, wish{}); b != all[1] {
			t.Errorf("worker %d was taken, want 2, which has less to do", b.worker)
		}
	}
	for _, b := range all {
		if n, _, _ := r.traffic(b); n != 10 {
			t.Errorf("worker %d has %d requests, want 10", b.worker, n)
		}
	}
}

func TestDrainWaitsForRequests(t *testing.T) {
	r, all := newRouter(2, Proxy{})
	first, second := takes(t, r, wish{}), takes(t, r, wish{})
	if first == second {
		t.Fatal("two requests in turn went to one worker")
	}
	drained := r.drain(all[0])
	for range 4 {
		if b := takes(t, r, wish{}); b != all[1] {
			t.Error("a request went to a worker that is drained")
		}
	}
	select {
	case <-drained:
		t.Error("drained with a request in flight")
	default:
	}
	r.release(all[0])
	<-drained
	if r.ready(all[0]); r.places[0].b != nil {
		t.Error("a worker that was drained is ready again")
	}
	<-r.drain(all[0])
}

// Of an old and a new process of a worker, the new one gets the requests, whichever is
// drained.
func TestSuccessorTakesThePlace(t *testing.T) {
	r, all := newRouter(1, Proxy{})
	next := newBackendAt(1)
	r.ready(next)
	<-r.drain(all[0])
	if b := takes(t, r, wish{}); b != next {
		t.Error("the old process got a request")
	}
}

func newBackendAt(worker int) *backend { return new(Host).newBackend(worker, "") }

func TestFullIsCalledAtEachLimit(t *testing.T) {
	r, all := newRouter(1, Proxy{})
	full := make(chan struct{}, 10)
	all[0].most, all[0].full = 3, func() { full <- struct{}{} }
	for range 6 {
		r.release(takes(t, r, wish{}))
	}
	<-full
	<-full
	if _, served, _ := r.traffic(all[0]); served != 6 {
		t.Errorf("%d requests have begun, want 6", served)
	}
}

// Each key has its worker, and only the keys of one that is given up go elsewhere.
func TestKeysKeepTheirWorkers(t *testing.T) {
	const keys = 1000
	r, all := newRouter(4, Proxy{})
	where := func() map[int]int {
		at := make(map[int]int)
		for k := range keys {
			w := wish{key: keyOf(fmt.Sprint("visitor ", k))}
			b := takes(t, r, w)
			r.release(b)
			at[k] = b.worker
		}
		return at
	}
	before := where()
	count := make(map[int]int)
	for _, n := range before {
		count[n]++
	}
	for n := 1; n <= 4; n++ {
		if count[n] < keys/5 || count[n] > keys*3/10 {
			t.Errorf("worker %d has %d of %d keys", n, count[n], keys)
		}
	}
	r.drain(all[2])
	r.absent(3, failed)
	for k, n := range where() {
		if before[k] == 3 && n == 3 || before[k] != 3 && n != before[k] {
			t.Fatalf("key %d went from worker %d to %d when 3 was given up", k, before[k], n)
		}
	}
}

func TestWaiting(t *testing.T) {
	const patience, preference = 10 * time.Second, 5 * time.Second
	// take is a request that waits, and how it ends, and when.
	type end struct {
		b     *backend
		err   error
		after time.Duration
	}
	take := func(ctx context.Context, r *router, w wish) <-chan end {
		done := make(chan end, 1)
		began := time.Now()
		go func() {
			b, err := r.take(ctx, &w)
			done <- end{b, err, time.Since(began)}
		}()
		synctest.Wait()
		return done
	}
	run := func(name string, f func(t *testing.T)) { t.Run(name, func(t *testing.T) { synctest.Test(t, f) }) }

	run("for a worker that gets ready", func(t *testing.T) {
		r, all := newRouter(1, Proxy{})
		r.drain(all[0])
		done := take(t.Context(), r, wish{})
		time.Sleep(time.Second)
		next := newBackendAt(1)
		r.ready(next)
		if e := <-done; e.b != next || e.after != time.Second {
			t.Errorf("%+v", e)
		}
		if n := r.queued(); n != 0 {
			t.Errorf("%d requests wait", n)
		}
	})
	run("in vain", func(t *testing.T) {
		r, all := newRouter(1, Proxy{})
		r.drain(all[0])
		if e := <-take(t.Context(), r, wish{}); !errors.Is(e.err, errNoneReady) || e.after != patience {
			t.Errorf("%+v", e)
		}
	})
	run("until the client leaves", func(t *testing.T) {
		r, all := newRouter(1, Proxy{})
		r.drain(all[0])
		ctx, cancel := context.WithCancel(t.Context())
		done := take(ctx, r, wish{})
		cancel()
		if e := <-done; !errors.Is(e.err, context.Canceled) || r.queued() != 0 {
			t.Errorf("%+v, %d wait", e, r.queued())
		}
	})
	run("no more than so many", func(t *testing.T) {
		r, all := newRouter(1, Proxy{MaxWaiting: 2})
		r.drain(all[0])
		one, two := take(t.Context(), r, wish{}), take(t.Context(), r, wish{})
		if e := <-take(t.Context(), r, wish{}); !errors.Is(e.err, errCrowded) || e.after != 0 {
			t.Errorf("the third of two: %+v", e)
		}
		r.ready(newBackendAt(1))
		if a, b := <-one, <-two; a.err != nil || b.err != nil {
			t.Errorf("%+v, %+v", a, b)
		}
	})
	run("for its own worker, then for any", func(t *testing.T) {
		r, all := newRouter(2, Proxy{})
		<-r.drain(all[1])
		if e := <-take(t.Context(), r, wish{worker: 2}); e.b != all[0] || e.after != preference {
			t.Errorf("%+v", e)
		}
		done := take(t.Context(), r, wish{worker: 2})
		next := newBackendAt(2)
		r.ready(next)
		if e := <-done; e.b != next || e.after != 0 {
			t.Errorf("with a successor: %+v", e)
		}
	})
	run("not for one that is given up", func(t *testing.T) {
		r, all := newRouter(2, Proxy{})
		<-r.drain(all[1])
		r.absent(2, failed)
		if e := <-take(t.Context(), r, wish{worker: 2}); e.b != all[0] || e.after != 0 {
			t.Errorf("%+v", e)
		}
		r.drain(all[0])
		r.absent(1, failed)
		if e := <-take(t.Context(), r, wish{}); !errors.Is(e.err, errGivenUp) || e.after != 0 {
			t.Errorf("with none left: %+v", e)
		}
	})
	run("for one that sleeps", func(t *testing.T) {
		r, all := newRouter(2, Proxy{})
		r.wake = func(n int) { r.ready(newBackendAt(n)) }
		for n, b := range all {
			<-r.drain(b)
			r.absent(n+1, asleep)
		}
		if e := <-take(t.Context(), r, wish{worker: 2}); e.err != nil || e.b.worker != 2 || e.after != 0 {
			t.Errorf("%+v", e)
		}
		r.drain(r.places[1].b)
		r.absent(2, asleep)
		if e := <-take(t.Context(), r, wish{}); e.err != nil || e.after != 0 {
			t.Errorf("%+v", e)
		}
	})
	run("past a worker that could not be reached", func(t *testing.T) {
		r, all := newRouter(2, Proxy{})
		for range 4 {
			if b := takes(t, r, wish{failed: all[:1]}); b != all[1] {
				t.Error("it was taken again")
			}
		}
	})
	run("until the host stops", func(t *testing.T) {
		r, all := newRouter(1, Proxy{})
		r.drain(all[0])
		done := take(t.Context(), r, wish{})
		r.stop()
		if e := <-done; !errors.Is(e.err, errStopped) {
			t.Errorf("%+v", e)
		}
		if e := <-take(t.Context(), r, wish{}); !errors.Is(e.err, errStopped) {
			t.Errorf("afterwards: %+v", e)
		}
	})
}
