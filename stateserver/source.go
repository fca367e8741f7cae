package stateserver

import (
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// Sources: what is known of the addresses that clients come from, for the limits of
// [Access] and for a log that nobody can flood.

const (
	// maxPause is how long a request that comes too soon is held back at most.
	maxPause = time.Second
	// connCost is how many requests a new connection counts as, since it costs as much.
	connCost = 10
	// logEvery is how often a source is in the log for one reason.
	logEvery = time.Minute
	// failuresEvery is how often it is in the log that the store fails.
	failuresEvery = time.Second
	// maxQuiet is how many sources without connections are remembered.
	maxQuiet = 1 << 16
)

// A source is one address, or one network of IPv6. Its atomic fields are shared by
// its connections.
type source struct {
	addr  netip.Addr
	conns int // under sources.mu

	waits atomic.Int64 // requests that wait for a lock
	// full is when the bucket of tokens is full again, by Server.nanos: the generic
	// cell rate algorithm, which needs no more than this.
	full   atomic.Int64
	logged [refusals]repeats
}

// repeats are a line of the log that would otherwise be there too often.
type repeats struct{ until, times atomic.Int64 }

// log counts an occasion, and reports whether it is to be logged, which it is once in
// every, and how many there were since the last that was.
func (r *repeats) log(now int64, every time.Duration) (times int64, log bool) {
	r.times.Add(1)
	until := r.until.Load()
	if until > now || !r.until.CompareAndSwap(until, now+int64(every)) {
		return 0, false
	}
	return r.times.Swap(0), true
}

// sources are those with connections, and those for which something is to be
// remembered.
type sources struct {
	mu      sync.Mutex
	of      map[netip.Addr]*source
	sweepAt int // how many there may be before those with nothing to remember go
}

// addrOf is the address of a peer, invalid if it has none: that of a unix socket.
func addrOf(a net.Addr) netip.Addr {
	if tcp, ok := a.(*net.TCPAddr); ok {
		return tcp.AddrPort().Addr().Unmap().WithZone("")
	}
	return netip.Addr{}
}

// enter counts a connection from addr, and reports whether it is one of the first
// limit, if that is not 0; only then leave is to be called.
func (x *sources) enter(addr netip.Addr, limit int, now int64) (_ *source, ok bool) {
	if addr.Is6() {
		network, _ := addr.Prefix(64)
		addr = network.Addr()
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	from := x.of[addr]
	if from == nil {
		if len(x.of) >= x.sweepAt {
			x.sweep(now)
		}
		from = &source{addr: addr}
		if x.of == nil {
			x.of = make(map[netip.Addr]*source)
		}
		x.of[addr] = from
	}
	if limit > 0 && from.conns >= limit {
		return from, false
	}
	from.conns++
	return from, true
}

func (x *sources) leave(from *source, now int64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	from.conns--
	if from.conns == 0 && !from.remembers(now) {
		delete(x.of, from.addr)
	}
}

// sweep forgets the sources without connections that have nothing to remember or, if
// they are too many, all without connections.
func (x *sources) sweep(now int64) {
	quiet := 0
	for addr, from := range x.of {
		if from.conns > 0 {
			continue
		}
		quiet++
		if !from.remembers(now) || quiet > maxQuiet {
			delete(x.of, addr)
		}
	}
	x.sweepAt = max(1024, 2*len(x.of))
}

// remembers reports whether forgetting the source would change anything.
func (f *source) remembers(now int64) bool {
	if f.full.Load() > now {
		return true
	}
	for i := range f.logged {
		if f.logged[i].until.Load() > now {
			return true
		}
	}
	return false
}

// take takes n tokens from the source's bucket. If they are not there they are those
// of the future, and wait is how long that is away; if that is too long, none is taken.
func (f *source) take(r *rules, n, now int64) (wait time.Duration, ok bool) {
	for {
		full := f.full.Load()
		next := max(full, now) + n*r.interval
		wait = time.Duration(next - now - r.burst)
		if wait > maxPause {
			return maxPause, false
		}
		if f.full.CompareAndSwap(full, next) {
			return max(wait, 0), true
		}
	}
}

// pace holds the connection back until its address may have done what counts as n
// requests, and reports whether it may at all. Waiting is what keeps the cost of a flood down: the
// kernel's buffers fill up, and then the peer waits too.
func (c *conn) pace(n int64) bool {
	r := c.s.rules.Load()
	if r.interval == 0 || r.unlimited(c.addr) {
		return true
	}
	wait, ok := c.source.take(r, n, c.now)
	if wait == 0 {
		return true
	}
	if !c.flush() {
		return false
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
	case <-c.s.waiting.Done():
	}
	c.now = c.s.nanos()
	return ok
}
