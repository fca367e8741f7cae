package main

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-session/holdfast/internal/load"
	"github.com/holdfast-session/holdfast/store"
)

var contentionRow = row{
	name:  "contention",
	title: "One session, many requests at once",
	note: "Each request reads a counter in a session of 500 bytes, adds one, and writes it back, as the tabs of one visitor do. p50 and p99 are how long a request waited for the session. " +
		"\"Least served\" is what the request with the fewest turns got of its fair share. Updates lost are those that were acknowledged and are not in the counter at the end. Redis with a lock script has no queue: whoever finds the session locked asks again after a pause. " +
		"The web requests ask the application of the row above, each library's, for the same; there p50 and p99 are how long the whole request took besides its work.",
	metrics: []metric{metricRate, metricP50, metricP99, metricMax, metricLeast, metricLost},
	charted: []string{"32 requests at once", "web, 8 requests at once"},
	cells:   contentionCells,
}

func contentionCells(s *suite) ([]cell, error) {
	c, err := s.clients()
	if err != nil {
		return nil, err
	}
	type named struct {
		name string
		l    locker
	}
	stores := []named{{"holdfast", &oursLocker{c.ours, store.ID{App: "/", Session: "contended"}}}}
	if c.redis != nil {
		for _, pause := range []time.Duration{time.Millisecond, 10 * time.Millisecond} {
			l, err := newRedisLocker(context.Background(), c.goRedis, "contended", pause)
			if err != nil {
				return nil, err
			}
			stores = append(stores, named{fmt.Sprintf("Redis lock script, asked every %v", pause), l})
		}
		stores = append(stores, named{"Redis GET and SET, no lock", &redisLocker{c: c.goRedis, key: "contended"}})
	}
	apps, err := s.applications(func(l library) bool {
		return (l.place == inProcess || l.place == onServer) && l.name != noSessions && l.name != cookieStore
	})
	if err != nil {
		return nil, err
	}
	web := newClient()
	s.later(web.CloseIdleConnections)
	var cells []cell
	for _, shape := range contentions(s) {
		one := cell{name: fmt.Sprintf("%d requests at once", shape.n)}
		if shape.hold > 0 {
			one.name += fmt.Sprintf(", %v of work each", shape.hold)
		}
		add := func(name string, c counter) {
			one.sides = append(one.sides, side{name, func(ctx context.Context, w window) (figures, error) {
				return contend(ctx, c, shape.n, shape.hold, w)
			}})
		}
		if shape.web {
			one.name = "web, " + one.name
			for _, a := range apps {
				add(a.name, &webCounter{b: a.browser(web)})
			}
		} else {
			for _, k := range stores {
				add(k.name, lockedCounter{k.l})
			}
		}
		cells = append(cells, one)
	}
	return cells, nil
}

// A contention is how many requests want the session at once, how long each works
// while it has it, and whether they are web requests.
type contention struct {
	n    int
	hold time.Duration
	web  bool
}

func contentions(s *suite) []contention {
	if s.quick {
		return []contention{{32, 0, false}, {8, time.Millisecond, false}, {8, 0, true}}
	}
	return []contention{{2, 0, false}, {8, 0, false}, {32, 0, false}, {8, time.Millisecond, false}, {32, time.Millisecond, false},
		{2, 0, true}, {8, 0, true}, {32, 0, true}}
}

// A counter is a number in a session that many increment at once.
type counter interface {
	reset(ctx context.Context) error
	// increment adds one, as a request does that works for so long, and returns how
	// long it waited.
	increment(ctx context.Context, work time.Duration) (time.Duration, error)
	value(ctx context.Context) (int, error)
}

// A lockedCounter is in a session of a store.
type lockedCounter struct{ locker }

func (c lockedCounter) reset(ctx context.Context) error { return c.locker.reset(ctx, counterBody(0)) }

func (c lockedCounter) value(ctx context.Context) (int, error) {
	body, err := c.load(ctx)
	if err != nil {
		return 0, err
	}
	return counterValue(body)
}

func (c lockedCounter) increment(ctx context.Context, work time.Duration) (time.Duration, error) {
	begin := time.Now()
	body, save, err := c.acquire(ctx)
	if err != nil {
		return 0, err
	}
	waited := time.Since(begin)
	n, err := counterValue(body)
	if err != nil {
		return 0, err
	}
	if work > 0 {
		time.Sleep(work)
	}
	return waited, save(ctx, counterBody(n+1))
}

// A webCounter is in a session of an application.
type webCounter struct{ b *browser }

func (c *webCounter) reset(ctx context.Context) error {
	_, err := c.b.must(ctx, fmt.Sprintf("/fill?size=%d", smallSession))
	return err
}

func (c *webCounter) value(ctx context.Context) (int, error) {
	text, err := c.b.must(ctx, "/read")
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(text)
}

func (c *webCounter) increment(ctx context.Context, work time.Duration) (time.Duration, error) {
	path := "/change"
	if work > 0 {
		path += "?work=" + work.String()
	}
	b := *c.b // the cookie stays the one that it is
	begin := time.Now()
	_, err := b.must(ctx, path)
	return time.Since(begin) - work, err
}

// counterBody is a session's content: the number, and what else is in it.
func counterBody(n int) []byte {
	b := strconv.AppendInt(make([]byte, 0, smallSession), int64(n), 10)
	b = append(b, ' ')
	return append(b, strings.Repeat("x", smallSession-len(b))...)
}

func counterValue(body []byte) (int, error) {
	digits, _, _ := strings.Cut(string(body), " ")
	return strconv.Atoi(digits)
}

// contend has n goroutines at once increment the number in a session.
func contend(ctx context.Context, c counter, n int, hold time.Duration, w window) (figures, error) {
	if err := c.reset(ctx); err != nil {
		return nil, err
	}
	var stopping atomic.Bool
	var all sync.WaitGroup
	waits := make([]load.Histogram, n)
	errs := make(chan error, n)
	begin := time.Now()
	end := begin.Add(w.warmup + w.measure)
	time.AfterFunc(time.Until(end), func() { stopping.Store(true) })
	for i := range n {
		all.Go(func() {
			for !stopping.Load() {
				waited, err := c.increment(ctx, hold)
				if err != nil {
					errs <- err
					return
				}
				waits[i].Add(waited, 1)
			}
		})
	}
	all.Wait()
	elapsed := time.Since(begin)
	select {
	case err := <-errs:
		return nil, err
	default:
	}
	sum, least := load.Histogram{}, uint64(math.MaxUint64)
	for i := range waits {
		sum.Merge(&waits[i])
		least = min(least, waits[i].Count())
	}
	got, err := c.value(ctx)
	if err != nil {
		return nil, err
	}
	made := float64(sum.Count())
	return figures{
		metricRate.Name:  made / elapsed.Seconds(),
		metricP50.Name:   micros(sum.Quantile(0.5)),
		metricP99.Name:   micros(sum.Quantile(0.99)),
		metricMax.Name:   micros(sum.Max()),
		metricLeast.Name: float64(least) * float64(n) / made * 100,
		metricLost.Name:  (made - float64(got)) / made * 100,
	}, nil
}
