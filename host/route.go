package host

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"sync"
	"time"
)

// A Routing says which of the workers that are ready gets a request.
type Routing string

const (
	// RoundRobin is the default: they take turns.
	RoundRobin Routing = "roundrobin"
	// LeastBusy is the one with the fewest requests in flight.
	LeastBusy Routing = "leastbusy"
	// ByIP is the same one for all requests from a client's address (of IPv6 the first
	// 64 bits), so that what a worker keeps in its memory is found again.
	ByIP Routing = "ip"
	// BySession is the same one for all requests of a session; see [Proxy.Cookie].
	BySession Routing = "session"
)

var (
	errNoneReady = errors.New("no worker is ready")
	errCrowded   = errors.New("too many requests wait for a worker")
	errGivenUp   = errors.New("every worker has failed too often and was given up")
	errStopped   = errors.New("the host is stopping")
)

// A backend is one process of a worker, as requests see it.
type backend struct {
	worker, pid int
	addr        string
	transport   *http.Transport
	gone        chan struct{} // closed by the host when the process is reaped

	// full, if not nil, is called each time that most more requests have begun. Set
	// before ready.
	most uint64
	full func()

	// under router.mu
	inFlight int
	served   uint64        // requests that have begun
	idle     time.Time     // since when inFlight is 0
	drained  chan struct{} // closed when nothing is in flight any more; nil before drain
}

func (h *Host) newBackend(worker int, addr string) *backend {
	return &backend{
		worker: worker, addr: addr, transport: newTransport(h.Proxy.ResponseTimeout),
		gone: make(chan struct{}), idle: time.Now(),
	}
}

// An absence says why no process of a worker is ready.
type absence uint8

const (
	starting absence = iota // one soon will be
	asleep                  // nobody has asked for anything; a request wakes it
	failed                  // it failed too often, and was given up
)

// A router chooses the worker for each request, among those that are ready. It has one
// place for each worker number: of an old and a new process, only the new one gets
// requests.
type router struct {
	routing Routing
	limit   int              // of requests that wait
	patient time.Duration    // for any worker
	prefers time.Duration    // for the one that the request is to go to
	wake    func(worker int) // what is asleep; set before the first request

	mu      sync.Mutex
	places  []place // by worker number less one
	turn    int     // where the next search starts
	waiting int
	stopped bool
	changed chan struct{} // closed and replaced when those who wait are to look again
}

type place struct {
	b   *backend // who gets the requests; nil: none is ready
	why absence
}

// ready gives the requests of b's worker number to b from now on.
func (r *router) ready(b *backend) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if b.drained == nil {
		r.places[b.worker-1] = place{b: b}
		r.notify()
	}
}

// drain gives b no more requests. The channel is closed when b has none in flight. It
// may be called again.
func (r *router) drain(b *backend) <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if at := &r.places[b.worker-1]; at.b == b {
		*at = place{}
		r.notify()
	}
	if b.drained == nil {
		b.drained = make(chan struct{})
		if b.inFlight == 0 {
			close(b.drained)
		}
	}
	return b.drained
}

// absent says why no process of a worker is ready.
func (r *router) absent(worker int, why absence) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.places[worker-1].why = why
	r.notify()
}

// stop has all requests refused that have no worker yet.
func (r *router) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stopped = true
	r.notify()
}

// traffic is what b has to do: requests in flight, and how many have ever begun. If
// none is in flight, idle is since when.
func (r *router) traffic(b *backend) (inFlight int, served uint64, idle time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return b.inFlight, b.served, b.idle
}

// queued is how many requests wait for a worker.
func (r *router) queued() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.waiting
}

// notify wakes those who wait. Called with mu held.
func (r *router) notify() {
	if r.changed != nil {
		close(r.changed)
		r.changed = nil
	}
}

// A wish is what is to decide on a request's worker besides the routing.
type wish struct {
	worker int        // where it is to go; 0: it has not been anywhere
	key    uint64     // what is the same in requests that are to meet; 0: nothing
	failed []*backend // that could not be reached
}

// take chooses a worker and counts the request as in flight there, in one step: a
// worker that is drained afterwards waits for it. It waits until there is one. Whoever
// has called it calls release when the request is over.
func (r *router) take(ctx context.Context, w *wish) (*backend, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	b, wanted := r.choose(w, true)
	if b != nil {
		b.begin()
		return b, nil
	}
	if r.waiting >= r.limit {
		return nil, errCrowded
	}
	r.waiting++
	defer func() { r.waiting-- }()
	patience := time.NewTimer(r.patient)
	defer patience.Stop()
	preference := time.NewTimer(r.prefers)
	defer preference.Stop()
	prefer := true
	for b == nil {
		switch {
		case r.stopped:
			return nil, errStopped
		case r.allFailed():
			return nil, errGivenUp
		case r.changed == nil:
			r.changed = make(chan struct{})
		}
		changed := r.changed
		if wanted > 0 && r.wake != nil {
			go r.wake(wanted)
		}
		r.mu.Unlock()
		var err error
		select {
		case <-changed:
		case <-preference.C:
			prefer = false
		case <-patience.C:
			err = errNoneReady
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
		r.mu.Lock()
		if err != nil {
			return nil, err
		}
		b, wanted = r.choose(w, prefer)
	}
	b.begin()
	return b, nil
}

func (b *backend) begin() {
	b.inFlight++
	b.served++
	if b.most > 0 && b.served%b.most == 0 {
		go b.full()
	}
}

// release ends a request that take has given to b.
func (r *router) release(b *backend) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if b.inFlight--; b.inFlight == 0 {
		b.idle = time.Now()
		if b.drained != nil {
			close(b.drained)
		}
	}
}

// choose returns who gets the request now, or nil if it has to wait, and the number of
// a sleeping worker that is to be woken for it, or 0. Called with mu held.
func (r *router) choose(w *wish, prefer bool) (b *backend, wanted int) {
	if r.stopped {
		return nil, 0
	}
	if n := r.preferred(w); prefer && n > 0 {
		at := r.places[n-1]
		switch {
		case at.usable(w):
			return at.b, 0
		case at.b == nil && at.why == asleep:
			return nil, n
		case at.b != nil || at.why == starting: // its successor soon comes
			return nil, 0
		}
	}
	if w.key != 0 {
		if n := r.closest(w.key, func(at place) bool { return at.usable(w) }); n > 0 {
			return r.places[n-1].b, 0
		}
	}
	first := r.turn
	for i := range r.places {
		n := (first + i) % len(r.places)
		at := r.places[n]
		if at.b == nil && at.why == asleep && wanted == 0 {
			wanted = n + 1
		}
		if !at.usable(w) || b != nil && at.b.inFlight >= b.inFlight {
			continue
		}
		b = at.b
		r.turn = (n + 1) % len(r.places)
		if r.routing != LeastBusy {
			break
		}
	}
	return b, wanted
}

// preferred is the worker that the request is to go to, ready or not; 0 for none.
func (r *router) preferred(w *wish) int {
	if w.worker > 0 && w.worker <= len(r.places) {
		return w.worker
	}
	if w.key == 0 {
		return 0
	}
	return r.closest(w.key, func(at place) bool { return at.b != nil || at.why != failed })
}

// closest returns the worker that a key belongs to among some, or 0 if there are none:
// for each key the workers have an order of their own (rendezvous hashing), which the
// absence of one does not change.
func (r *router) closest(key uint64, among func(place) bool) (worker int) {
	var most uint64
	for i, at := range r.places {
		if weight := mix(key ^ mix(uint64(i+1))); among(at) && (worker == 0 || weight > most) {
			worker, most = i+1, weight
		}
	}
	return worker
}

// usable reports whether the request can go there.
func (p place) usable(w *wish) bool {
	return p.b != nil && !slices.Contains(w.failed, p.b)
}

// allFailed reports whether there is nothing to wait for. Called with mu held.
func (r *router) allFailed() bool {
	for _, at := range r.places {
		if at.b != nil || at.why != failed {
			return false
		}
	}
	return true
}

// keyOf is a hash, never 0, and the same in every process, so that a restarted host
// sends everybody to the worker number where he was. (FNV-1a, mixed.)
func keyOf[T string | []byte](s T) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return max(mix(h), 1)
}

// mix spreads a number over all bits (the end of splitmix64).
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
