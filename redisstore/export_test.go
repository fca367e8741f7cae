package redisstore

import (
	"sync/atomic"
	"time"

	"github.com/valkey-io/valkey-go"
)

// A Clock is that of the server, as stores made with it see it.
type Clock struct {
	shift atomic.Int64
	Lost  func() // is told when a reply is lost
}

// shiftedClock defines now as the server's time and what the test adds to it.
const shiftedClock = `
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2] + table.remove(ARGV)
`

// Advance moves the clock.
func (c *Clock) Advance(d time.Duration) { c.shift.Add(d.Microseconds()) }

// NewWith is New with a clock that the test moves, and so many buckets.
func NewWith(client valkey.Client, o *Options, clock *Clock, buckets int) (*Store, error) {
	return newStore(client, o, environment{shiftedClock, &clock.shift, buckets, clock.Lost})
}

// MaxBuckets is how many there are but in tests.
const MaxBuckets = maxBuckets

// Wake has all who wait ask again, as they do after a while.
func (s *Store) Wake() { s.line.wakeAll() }

// ParseURL is how Open reads its URL.
var ParseURL = parseURL
