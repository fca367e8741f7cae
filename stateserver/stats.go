package stateserver

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// What a server counts.

// Stats are what a [Server] has done since it began, and what it is doing.
type Stats struct {
	// Requests are how many requests had which outcome.
	Requests map[RequestKind]uint64
	// Latency is the time from a request's arrival to its answer, without what the
	// network takes; Waited is the same of the requests that waited for a lock, which
	// are not in Latency.
	Latency, Waited Histogram

	// BytesIn and BytesOut are what was read and written.
	BytesIn, BytesOut uint64
	// Accepted is how many connections there were, Conns how many are open now, and
	// Waiting how many requests wait for a lock now.
	Accepted       uint64
	Conns, Waiting int
	// Buffered is how much of [Server.MaxBuffered] is taken now.
	Buffered int64

	// Refused are connections and requests that [Access] or a limit has refused, by
	// reason: address, handshake, certificate, token, right, connections, rate,
	// waits, memory.
	Refused map[string]uint64
}

// A RequestKind is a call and its outcome.
type RequestKind struct {
	// Call is load, lock, create, save, unlock, remove, touch, list, ended or ack; of
	// old clients get, acquire, release, put, delete or head; or unknown.
	Call string
	// Outcome is ok, unmodified, absent, conflict, large, locked, full, unsupported,
	// refused or malformed; failed, unavailable or unsure if the store failed; or
	// withdrawn if there was no answer, because the peer went away while it waited or
	// the server was shut down.
	Outcome string
}

type callKind uint8

const (
	callUnknown callKind = iota
	callLoad
	callLock
	callCreate
	callSave
	callUnlock
	callRemove
	callTouch
	callList
	callEnded
	callAck
	callOldGet
	callOldAcquire
	callOldRelease
	callOldPut
	callOldDelete
	callOldHead
	calls
)

var callNames = [calls]string{"unknown", "load", "lock", "create", "save", "unlock", "remove", "touch", "list", "ended", "ack",
	"get", "acquire", "release", "put", "delete", "head"}

type outcome uint8

const (
	outcomeWithdrawn outcome = iota
	outcomeOK
	outcomeUnmodified
	outcomeMalformed
	outcomeRefused
	outcomeAbsent
	outcomeConflict
	outcomeLarge
	outcomeLocked
	outcomeFailed
	outcomeUnsupported
	outcomeUnavailable
	outcomeUnsure
	outcomeFull
	outcomes
)

var outcomeNames = [outcomes]string{"withdrawn", "ok", "unmodified", "malformed", "refused", "absent", "conflict", "large", "locked",
	"failed", "unsupported", "unavailable", "unsure", "full"}

// outcomeOf are the outcomes by status.
var outcomeOf = [600]outcome{
	statusOK: outcomeOK, statusNotModified: outcomeUnmodified, statusBadRequest: outcomeMalformed,
	statusNoToken: outcomeRefused, statusDenied: outcomeRefused, statusTooMany: outcomeRefused,
	statusNotFound: outcomeAbsent, statusConflict: outcomeConflict, statusTooLarge: outcomeLarge, statusLocked: outcomeLocked,
	statusFailed: outcomeFailed, statusUnsupported: outcomeUnsupported, statusUnavailable: outcomeUnavailable,
	statusUnsure: outcomeUnsure, statusFull: outcomeFull,
}

// A Histogram counts durations in buckets, each twice as wide as the one before.
type Histogram struct {
	// Buckets are counts: bucket i has what took less than [BucketBound](i) and no
	// less than the bound before. The last one has all that took longer, too.
	Buckets [36]uint64
	// Sum is all that was counted, together.
	Sum time.Duration
}

// BucketBound is where bucket i of a [Histogram] ends: 1,024 ns, and twice as much for
// each bucket after the first.
func BucketBound(i int) time.Duration { return 1 << (10 + i) }

// bucketOf is the bucket of a duration in nanoseconds.
func bucketOf(d int64) int {
	return min(bits.Len64(uint64(max(d, 0))>>10), len(Histogram{}.Buckets)-1)
}

// Count is how many durations there are.
func (h Histogram) Count() uint64 {
	n := uint64(0)
	for _, in := range h.Buckets {
		n += in
	}
	return n
}

// Quantile is the bound that a share q of the durations, from 0 to 1, stayed below; 0
// if there are none.
func (h Histogram) Quantile(q float64) time.Duration {
	want := q * float64(h.Count())
	n := uint64(0)
	for i, in := range h.Buckets {
		n += in
		if in > 0 && float64(n) >= want {
			return BucketBound(i)
		}
	}
	return 0
}

// counters are what some of the connections count in. Each connection has those of
// its shard, so that it is rare that two processors want the same ones.
type counters struct {
	_        [64]byte // apart from the shard before
	requests [calls][outcomes]atomic.Uint64
	latency  histogram
	waited   histogram
	in, out  atomic.Uint64
	accepted atomic.Uint64
	refused  [refusals]atomic.Uint64
}

type histogram struct {
	buckets [len(Histogram{}.Buckets)]atomic.Uint64
	sum     atomic.Int64
}

func (h *histogram) add(d int64) {
	h.buckets[bucketOf(d)].Add(1)
	h.sum.Add(d)
}

func (h *histogram) addTo(sum *Histogram) {
	for i := range h.buckets {
		sum.Buckets[i] += h.buckets[i].Load()
	}
	sum.Sum += time.Duration(h.sum.Load())
}

// shards is how many counters there are.
const shards = 64

// count counts the request that was dealt with since start.
func (c *conn) count(start int64) {
	c.counters.requests[c.call][c.outcome].Add(1)
	h := &c.counters.latency
	if c.waited {
		h = &c.counters.waited
	}
	h.add(c.now - start)
}

// Stats returns what the server has counted. Requests that end meanwhile may be in
// some of the numbers and not yet in others.
func (s *Server) Stats() Stats {
	s.setUp()
	t := Stats{Requests: make(map[RequestKind]uint64), Refused: make(map[string]uint64)}
	for i := range s.counters {
		c := &s.counters[i]
		for call := range c.requests {
			for outcome := range c.requests[call] {
				if n := c.requests[call][outcome].Load(); n > 0 {
					t.Requests[RequestKind{callNames[call], outcomeNames[outcome]}] += n
				}
			}
		}
		for why := range c.refused {
			if n := c.refused[why].Load(); n > 0 {
				t.Refused[refusalTexts[why].name] += n
			}
		}
		c.latency.addTo(&t.Latency)
		c.waited.addTo(&t.Waited)
		t.BytesIn += c.in.Load()
		t.BytesOut += c.out.Load()
		t.Accepted += c.accepted.Load()
	}
	t.Waiting = int(s.waits.Load())
	t.Buffered = s.buffered.Load()
	s.mu.Lock()
	defer s.mu.Unlock()
	t.Conns = len(s.conns)
	return t
}
