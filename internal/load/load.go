// Package load puts load on a server over many connections and measures what they
// get: how many answers in which time, and what processor time the server took.
// What is said on the connections is a [Driver]; [Sessions] has that of a state
// server.
//
// The load is closed: a connection sends its next requests when those before are
// answered. So a server that is slow is asked less, and latencies are those of the
// requests that were sent, not of requests that would have been.
package load

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// A Driver says what one connection asks for, and reads the answers. It is used
// by one goroutine at a time.
type Driver interface {
	// Next appends to b the requests that are sent together and returns how many
	// there are; 0 ends this connection's part. With finish, they are only those
	// that end what was begun, such as a lock.
	Next(b []byte, finish bool) ([]byte, int)

	// Answer reads the answer at the start of b. n is its length, 0 if b does not
	// hold the whole of it yet. An error ends the run.
	Answer(b []byte) (n int, a Answer, err error)
}

// An Answer says what a request was, and whether it was granted.
type Answer struct {
	// Op is an index into Config.Ops.
	Op int
	// Refused means that the server answered, but did not do what it was asked.
	Refused bool
}

// Config is one run.
type Config struct {
	// Dial makes a connection.
	Dial func(ctx context.Context) (net.Conn, error)
	// Drivers are the connections.
	Drivers []Driver
	// Ops names the kinds of requests.
	Ops []string
	// Warmup is how long requests are sent before any are counted.
	Warmup time.Duration
	// Duration is how long they are counted; 0 means until all drivers are done.
	Duration time.Duration
	// PID is the server's process, 0 if it is not known.
	PID int
	// ServerCPU returns the processor time that the server has taken so far, where that
	// is not the time of PID alone.
	ServerCPU func() (time.Duration, error)
	// Every is how often Progress is called while requests are counted.
	Every    time.Duration
	Progress func(Result)
}

// A Result is what was measured.
type Result struct {
	// Elapsed is how long requests were counted.
	Elapsed time.Duration
	// Ops are the requests by kind, in the order of Config.Ops.
	Ops []OpResult
	// CPU is the processor time that the server took meanwhile, 0 if it is not known.
	CPU time.Duration
	// RequestBytes and AnswerBytes are the mean sizes on the wire.
	RequestBytes, AnswerBytes float64
}

// An OpResult is what was measured of one kind of request.
type OpResult struct {
	Name string
	// Latency counts each answered request: from when it was sent, with those sent
	// together, to when its answer had been read.
	Latency Histogram
	// Refused is how many of them were refused.
	Refused uint64
}

// All returns the requests of all kinds together.
func (r *Result) All() OpResult {
	all := OpResult{Name: "all"}
	for i := range r.Ops {
		all.Latency.Merge(&r.Ops[i].Latency)
		all.Refused += r.Ops[i].Refused
	}
	return all
}

// Rate returns how many requests were answered per second.
func (r *Result) Rate() float64 {
	var n uint64
	for i := range r.Ops {
		n += r.Ops[i].Latency.Count()
	}
	return float64(n) / max(r.Elapsed.Seconds(), 1e-9)
}

// CPUPerRequest returns the processor time of the server per request, 0 if it is
// not known.
func (r *Result) CPUPerRequest() time.Duration {
	all := r.All()
	return r.CPU / time.Duration(max(all.Latency.Count(), 1))
}

// finishTimeout bounds how long the requests under way at the end may take.
const finishTimeout = time.Minute

// Run puts on the load. It returns what was measured, or the first error that any
// connection met.
func Run(ctx context.Context, c Config) (Result, error) {
	r := runner{Config: c}
	defer func() {
		for _, l := range r.lanes {
			l.nc.Close()
		}
	}()
	for _, d := range c.Drivers {
		nc, err := c.Dial(ctx)
		if err != nil {
			return Result{}, fmt.Errorf("connection %d of %d: %w", len(r.lanes)+1, len(c.Drivers), err)
		}
		r.lanes = append(r.lanes, &lane{nc: nc, d: d, ops: make([]OpResult, len(c.Ops))})
	}
	return r.run(ctx)
}

// A runner is a run under way.
type runner struct {
	Config
	lanes    []*lane
	counting atomic.Bool
	stopping atomic.Bool
}

// A lane is one connection and what it has measured.
type lane struct {
	nc  net.Conn
	d   Driver
	in  []byte
	out []byte

	requests, sent, received int

	mu  sync.Mutex // one batch of answers, or whoever sums up
	ops []OpResult
}

func (r *runner) run(ctx context.Context) (Result, error) {
	failed := make(chan error, len(r.lanes))
	done := make(chan struct{})
	var all sync.WaitGroup
	for _, l := range r.lanes {
		all.Go(func() {
			if err := r.serve(l); err != nil {
				failed <- err
			}
		})
	}
	go func() {
		all.Wait()
		close(done)
	}()
	stop := func() {
		r.stopping.Store(true)
		for _, l := range r.lanes {
			l.nc.SetDeadline(time.Now().Add(finishTimeout))
		}
	}
	hangUp := func(err error) error {
		for _, l := range r.lanes {
			l.nc.Close()
		}
		<-done
		return err
	}

	// The phases: warming up, counting, finishing.
	wait := func(d time.Duration) error {
		select {
		case <-time.After(d):
			return nil
		case <-done:
			return nil
		case err := <-failed:
			return hangUp(err)
		case <-ctx.Done():
			return hangUp(ctx.Err())
		}
	}
	if r.Warmup > 0 {
		if err := wait(r.Warmup); err != nil {
			return Result{}, err
		}
	}
	before, err := r.cpu()
	if err != nil {
		return Result{}, hangUp(err)
	}
	begin := time.Now()
	r.counting.Store(true)
	for {
		left := time.Hour
		if r.Duration > 0 {
			left = r.Duration - time.Since(begin)
		}
		if r.Progress != nil {
			left = min(left, r.Every)
		}
		if left <= 0 {
			break
		}
		if err := wait(left); err != nil {
			return Result{}, err
		}
		select {
		case <-done: // every driver is done
			left = 0
		default:
		}
		if left == 0 {
			break
		}
		if r.Progress != nil && (r.Duration == 0 || time.Since(begin) < r.Duration) {
			r.Progress(r.sum(time.Since(begin)))
		}
	}
	r.counting.Store(false)
	elapsed := time.Since(begin)
	after, err := r.cpu()
	if err != nil {
		return Result{}, hangUp(err)
	}
	stop()
	select {
	case <-done:
	case <-ctx.Done():
		return Result{}, hangUp(ctx.Err())
	}
	select {
	case err := <-failed:
		return Result{}, err
	default:
	}
	res := r.sum(elapsed)
	res.CPU = after - before
	var requests, sent, received int
	for _, l := range r.lanes {
		requests, sent, received = requests+l.requests, sent+l.sent, received+l.received
	}
	if requests > 0 {
		res.RequestBytes = float64(sent) / float64(requests)
		res.AnswerBytes = float64(received) / float64(requests)
	}
	return res, nil
}

func (r *runner) cpu() (time.Duration, error) {
	switch {
	case r.ServerCPU != nil:
		return r.ServerCPU()
	case r.PID == 0:
		return 0, nil
	}
	return CPUTime(r.PID)
}

// sum adds up what all connections have measured.
func (r *runner) sum(elapsed time.Duration) Result {
	res := Result{Elapsed: elapsed, Ops: make([]OpResult, len(r.Ops))}
	for i, name := range r.Ops {
		res.Ops[i].Name = name
	}
	for _, l := range r.lanes {
		l.mu.Lock()
		for i := range l.ops {
			res.Ops[i].Latency.Merge(&l.ops[i].Latency)
			res.Ops[i].Refused += l.ops[i].Refused
		}
		l.mu.Unlock()
	}
	return res
}

// serve sends requests and reads answers until the run or the driver ends.
func (r *runner) serve(l *lane) error {
	l.in = make([]byte, 0, 64<<10)
	for {
		var pending int
		l.out, pending = l.d.Next(l.out[:0], r.stopping.Load())
		if pending == 0 {
			return nil
		}
		l.requests += pending
		l.sent += len(l.out)
		begin := time.Now()
		sent, err := l.send()
		if err != nil {
			return fmt.Errorf("sending: %w", err)
		}
		if err := r.receive(l, begin, pending); err != nil {
			l.nc.Close()
			if sent != nil {
				<-sent
			}
			return err
		}
		if sent != nil {
			if err := <-sent; err != nil {
				return fmt.Errorf("sending: %w", err)
			}
		}
	}
}

// receive reads that many answers to requests that were sent at begin.
func (r *runner) receive(l *lane, begin time.Time, pending int) error {
	for {
		n, err := r.answers(l, begin, pending)
		if err != nil {
			return err
		}
		if pending -= n; pending == 0 {
			return nil
		}
		if err := l.read(); err != nil {
			return fmt.Errorf("reading: %w", err)
		}
	}
}

// send sends the requests. Where these are more than the sockets surely hold, the
// server may wait for its answers to be read before it takes the rest: then they are
// sent by a goroutine of their own, whose error comes out of the channel.
func (l *lane) send() (<-chan error, error) {
	const surely = 64 << 10
	if len(l.out) <= surely {
		_, err := l.nc.Write(l.out)
		return nil, err
	}
	sent := make(chan error, 1)
	go func() {
		_, err := l.nc.Write(l.out)
		sent <- err
	}()
	return sent, nil
}

func (l *lane) read() error {
	if len(l.in) == cap(l.in) {
		l.in = append(l.in, 0)[:len(l.in)]
	}
	n, err := l.nc.Read(l.in[len(l.in):cap(l.in)])
	l.in = l.in[:len(l.in)+n]
	l.received += n
	if n > 0 {
		return nil
	}
	return err
}

// answers deals with the answers that are there, and returns how many.
func (r *runner) answers(l *lane, sent time.Time, pending int) (count int, err error) {
	if len(l.in) == 0 {
		return 0, nil
	}
	took := time.Since(sent)
	counting := r.counting.Load()
	l.mu.Lock()
	defer l.mu.Unlock()
	rest := l.in
	for count < pending && len(rest) > 0 {
		n, a, err := l.d.Answer(rest)
		if err != nil {
			return 0, err
		}
		if n == 0 {
			break
		}
		rest = rest[n:]
		count++
		if !counting {
			continue
		}
		op := &l.ops[a.Op]
		op.Latency.Add(took, 1)
		if a.Refused {
			op.Refused++
		}
	}
	l.in = l.in[:copy(l.in, rest)]
	return count, nil
}
