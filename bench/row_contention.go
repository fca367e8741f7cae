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
		"\"Least served\" is what the request with the fewest turns got of its fair share. Updates lost are those that were acknowledged and are not in the counter at the end. Redis with a lock script has no queue: whoever finds the session locked asks again after a pause.",
	metrics: []metric{metricRate, metricP50, metricP99, metricMax, metricLeast, metricLost},
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
	all := []named{{"holdfast", &oursLocker{c.ours, store.ID{App: "/", Session: "contended"}}}}
	if c.redis != nil {
		for _, pause := range []time.Duration{time.Millisecond, 10 * time.Millisecond} {
			l, err := newRedisLocker(context.Background(), c.goRedis, "contended", pause)
			if err != nil {
				return nil, err
			}
			all = append(all, named{fmt.Sprintf("Redis lock script, asked every %v", pause), l})
		}
		all = append(all, named{"Redis GET and SET, no lock", &redisLocker{c: c.goRedis, key: "contended"}})
	}
	var cells []cell
	for _, shape := range []struct {
		n    int
		hold time.Duration
	}{{2, 0}, {8, 0}, {32, 0}, {8, time.Millisecond}, {32, time.Millisecond}} {
		one := cell{name: fmt.Sprintf("%d requests at once", shape.n)}
		if shape.hold > 0 {
			one.name += fmt.Sprintf(", %v of work each", shape.hold)
		}
		for _, k := range all {
			one.sides = append(one.sides, side{k.name, func(ctx context.Context, w window) (figures, error) {
				return contend(ctx, k.l, shape.n, shape.hold, w)
			}})
		}
		cells = append(cells, one)
	}
	return cells, nil
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
func contend(ctx context.Context, k locker, n int, hold time.Duration, w window) (figures, error) {
	if err := k.reset(ctx, counterBody(0)); err != nil {
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
				waited, err := increment(ctx, k, hold)
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
	body, err := k.load(ctx)
	if err != nil {
		return nil, err
	}
	got, err := counterValue(body)
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

// increment adds one, as a request does, and returns how long it waited for the
// session.
func increment(ctx context.Context, k locker, hold time.Duration) (time.Duration, error) {
	begin := time.Now()
	body, save, err := k.acquire(ctx)
	if err != nil {
		return 0, err
	}
	waited := time.Since(begin)
	n, err := counterValue(body)
	if err != nil {
		return 0, err
	}
	if hold > 0 {
		time.Sleep(hold)
	}
	return waited, save(ctx, counterBody(n+1))
}
