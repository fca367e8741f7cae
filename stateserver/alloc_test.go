//go:build !race

package stateserver

import (
	"bytes"
	"testing"

	"github.com/holdfast-session/holdfast/inproc"
)

// TestServerAllocates checks that a steady acquire and store, of our client and of
// an old one, allocate nothing on the server.
func TestServerAllocates(t *testing.T) {
	for _, tc := range steady {
		t.Run(tc.name, func(t *testing.T) {
			c := steadyConn(t, tc.marked, tc.access)
			for range 10 {
				c.cycle()
			}
			if n := testing.AllocsPerRun(1000, c.cycle); n != 0 {
				t.Errorf("%v allocations per acquire and store; want none", n)
			}
			c.check()
		})
	}
}

var steady = []struct {
	name   string
	marked bool
	access Access
}{
	{"marked", true, Access{}},
	{"old", false, Access{}},
	{"guarded", true, Access{
		Tokens: []Token{{Hash: HashToken(shopSecret), Apps: []string{"/LM/W3SVC/1/ROOT"}, Right: Write}},
		Rate:   1e9,
	}},
}

// A cycler acquires and stores a session of 500 bytes, on a connection without a
// network.
type cycler struct {
	t    testing.TB
	c    *conn
	lock call
	save call
	in   response
	out  []byte
}

func steadyConn(t testing.TB, marked bool, a Access) *cycler {
	kept := inproc.New(nil)
	t.Cleanup(func() { kept.Close() })
	rec := mustCreate(t, kept, targetID, string(bytes.Repeat([]byte("x"), 500)))
	s := &Server{Store: kept, Logger: quiet, Access: a}
	s.setUp()
	prefix := appPrefix("/LM/W3SVC/1/ROOT")
	c := newConn(s, nil)
	c.source = new(source)
	return &cycler{
		t: t,
		c: c,
		lock: call{
			method: methodGet, prefix: prefix, session: targetID.Session,
			exclusive: exclusiveAcquire, plain: !marked,
		},
		save: call{method: methodPut, prefix: prefix, session: targetID.Session, plain: !marked, in: rec},
	}
}

// ask gives the server a request, and reads its answer.
func (y *cycler) ask(q *call) {
	y.out = q.appendTo(y.out[:0], "localhost\r\nAuthorization: Bearer "+shopSecret)
	n, err := y.c.req.parse(y.out, y.c.s.limits)
	if err != nil || n != len(y.out) {
		y.t.Fatalf("%q: %d, %v", y.out, n, err)
	}
	y.c.out = y.c.out[:0]
	y.c.grants, y.c.grantKeys = y.c.grants[:0], y.c.grantKeys[:0]
	y.c.handle()
	n, err = y.in.parse(y.c.out, q.method, responseLimits)
	if err != nil || n != len(y.c.out) || y.in.status != statusOK {
		y.t.Fatalf("%q: %d, %v", y.c.out, n, err)
	}
}

func (y *cycler) cycle() {
	y.lock.lock.Owner++
	y.ask(&y.lock)
	y.save.lock = y.lock.lock
	y.save.lock.Cookie = y.in.cookie
	y.save.match, y.save.next = y.in.version, y.in.version+1
	y.ask(&y.save)
}

func (y *cycler) check() {
	if got := mustLoad(y.t, y.c.s.Store, targetID); got.Locked || got.History[2] == 0 || len(got.Body) != 500 {
		y.t.Errorf("the cycles did not happen: %+v", got)
	}
}

// BenchmarkServer is what the server does for an acquire and a store, without the
// network.
func BenchmarkServer(b *testing.B) {
	for _, bc := range steady {
		b.Run(bc.name, func(b *testing.B) {
			c := steadyConn(b, bc.marked, bc.access)
			b.ReportAllocs()
			for b.Loop() {
				c.cycle()
			}
			c.check()
		})
	}
}

// BenchmarkCount is what the statistics of a request cost, the clock included.
func BenchmarkCount(b *testing.B) {
	s := &Server{Store: inproc.New(nil)}
	s.setUp()
	c := newConn(s, nil)
	for b.Loop() {
		c.now = s.nanos()
		c.call, c.outcome = callLock, outcomeOK
		c.counters.in.Add(100)
		c.counters.out.Add(100)
		c.count(c.now - 1000)
	}
}
