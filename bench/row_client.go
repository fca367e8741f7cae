package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/valkey-io/valkey-go"

	"github.com/holdfast-session/holdfast/internal/load"
	"github.com/holdfast-session/holdfast/stateserver"
	"github.com/holdfast-session/holdfast/store"
)

var clientRow = row{
	name:  "client",
	title: "Go client: calls per second of one process",
	note: "Goroutines that call as fast as they are answered, each about sessions of 500 bytes of its own, over TCP to a server on the same machine. " +
		"Load is compared with GET, Lock with a lock script (EVALSHA). All clients have their default settings.",
	metrics: []metric{metricRate, metricP50, metricP99, metricOwnCPU, metricCPU},
	charted: []string{"load, 64", "lock, 64"},
	cells:   clientCells,
}

func clientCells(s *suite) ([]cell, error) {
	c, err := s.clients()
	if err != nil {
		return nil, err
	}
	counts := []int{1, 8, 64, 512}
	if s.quick {
		counts = []int{1, 64}
	}
	var cells []cell
	for _, n := range counts {
		noun := "goroutines"
		if n == 1 {
			noun = "goroutine"
		}
		for _, calls := range []struct {
			name string
			of   func(clients) []call
		}{{"load", clients.loads}, {"lock", clients.locks}} {
			one := cell{name: fmt.Sprintf("%s, %d %s", calls.name, n, noun)}
			for _, call := range calls.of(c) {
				one.sides = append(one.sides, call.side(n))
			}
			cells = append(cells, one)
		}
	}
	return cells, nil
}

// clients are the clients that are compared, each of a server of its own kind.
type clients struct {
	server *server
	ours   *stateserver.Client

	redis   *server // nil: absent
	goRedis *redis.Client
	valkey  valkey.Client
	script  string // its name at Redis
	lua     *valkey.Lua
}

// maxCallers is how many sessions there are, one for each goroutine.
const maxCallers = 512

func callerID(i int) store.ID { return store.ID{App: "/", Session: sessionKey(0, i)} }

func (s *suite) clients() (clients, error) {
	var c clients
	var err error
	if c.server, err = s.holdfast("tcp", "--memory"); err != nil {
		return c, err
	}
	if c.ours, err = stateserver.Dial(c.server.addr(), nil); err != nil {
		return c, err
	}
	s.later(func() { c.ours.Close() })
	body := []byte(strings.Repeat("x", smallSession))
	ctx := context.Background()
	for i := range maxCallers {
		rec := store.Record{Version: store.NewVersion(), Timeout: 20 * time.Minute, Body: body}
		if err := c.ours.Create(ctx, callerID(i), &rec, false); err != nil {
			return c, err
		}
	}
	c.redis, err = s.redis("tcp", "")
	if errors.Is(err, errAbsent) {
		return c, nil
	}
	if err != nil {
		return c, err
	}
	c.goRedis = redis.NewClient(&redis.Options{Addr: c.redis.address})
	s.later(func() { c.goRedis.Close() })
	if c.valkey, err = valkey.NewClient(valkey.ClientOption{InitAddress: []string{c.redis.address}}); err != nil {
		return c, err
	}
	s.later(c.valkey.Close)
	if c.script, err = c.goRedis.ScriptLoad(ctx, acquireScript).Result(); err != nil {
		return c, err
	}
	c.lua = valkey.NewLuaScript(acquireScript)
	for i := range maxCallers {
		if err := c.goRedis.Set(ctx, sessionKey(0, i), body, 20*time.Minute).Err(); err != nil {
			return c, err
		}
	}
	return c, nil
}

// A call is one of a client's, as goroutine i makes it; it returns how many bytes
// of the session came, or went.
type call struct {
	name   string
	server *server // nil: it has none
	make   func(i int) func(context.Context) (int, error)
}

func (c clients) loads() []call {
	all := []call{{"holdfast Load", c.server, func(i int) func(context.Context) (int, error) {
		id, rec := callerID(i), new(store.Record)
		return func(ctx context.Context) (int, error) {
			err := c.ours.Load(ctx, id, rec)
			return len(rec.Body), err
		}
	}}}
	if c.redis == nil {
		return all
	}
	return append(all, call{"go-redis GET", c.redis, func(i int) func(context.Context) (int, error) {
		key := sessionKey(0, i)
		return func(ctx context.Context) (int, error) {
			b, err := c.goRedis.Get(ctx, key).Bytes()
			return len(b), err
		}
	}}, call{"valkey-go GET", c.redis, func(i int) func(context.Context) (int, error) {
		key := sessionKey(0, i)
		return func(ctx context.Context) (int, error) {
			b, err := c.valkey.Do(ctx, c.valkey.B().Get().Key(key).Build()).AsBytes()
			return len(b), err
		}
	}})
}

func (c clients) locks() []call {
	millis := fmt.Sprint(timeoutMillis)
	all := []call{{"holdfast Lock", c.server, func(i int) func(context.Context) (int, error) {
		id, rec, owner := callerID(i), new(store.Record), uint64(i+1) // the same in every cell
		return func(ctx context.Context) (int, error) {
			err := c.ours.Lock(ctx, id, store.LockOptions{Owner: owner, Stale: 20 * time.Second}, rec)
			return len(rec.Body), err
		}
	}}}
	if c.redis == nil {
		return all
	}
	const token = "0123456789abcdef"
	return append(all, call{"go-redis EVALSHA", c.redis, func(i int) func(context.Context) (int, error) {
		keys := []string{sessionKey(0, i), sessionKey(0, i) + ":lock"}
		return func(ctx context.Context) (int, error) {
			text, err := c.goRedis.EvalSha(ctx, c.script, keys, token, lockMillis, millis).Text()
			return len(text), err
		}
	}}, call{"valkey-go EVALSHA", c.redis, func(i int) func(context.Context) (int, error) {
		keys := []string{sessionKey(0, i), sessionKey(0, i) + ":lock"}
		return func(ctx context.Context) (int, error) {
			b, err := c.lua.Exec(ctx, c.valkey, keys, []string{token, lockMillis, millis}).AsBytes()
			return len(b), err
		}
	}})
}

// side makes the call from n goroutines at once.
func (c call) side(n int) side {
	calls := make([]func(context.Context) (int, error), n)
	for i := range calls {
		calls[i] = c.make(i)
	}
	return side{c.name, func(ctx context.Context, w window) (figures, error) {
		for ; ; w.measure *= 2 { // until the time was long enough for an answer
			f, err := c.run(ctx, calls, w)
			if err != nil || f[metricRate.Name] > 0 {
				return f, err
			}
		}
	}}
}

func (c call) run(ctx context.Context, calls []func(context.Context) (int, error), w window) (figures, error) {
	var counting, stopping atomic.Bool
	var all sync.WaitGroup
	latencies := make([]load.Histogram, len(calls))
	errs := make(chan error, len(calls))
	for i, call := range calls {
		all.Go(func() {
			for !stopping.Load() {
				begin := time.Now()
				n, err := call(ctx)
				if err == nil && n != smallSession {
					err = fmt.Errorf("%d bytes, want %d", n, smallSession)
				}
				if err != nil {
					errs <- err
					return
				}
				if counting.Load() {
					latencies[i].Add(time.Since(begin), 1)
				}
			}
		})
	}
	time.Sleep(w.warmup)
	serverBefore, err := c.serverCPU()
	if err != nil {
		return nil, err
	}
	ownBefore, err := load.CPUTime(os.Getpid())
	if err != nil {
		return nil, err
	}
	begin := time.Now()
	counting.Store(true)
	time.Sleep(w.measure)
	counting.Store(false)
	elapsed := time.Since(begin)
	ownAfter, err := load.CPUTime(os.Getpid())
	if err != nil {
		return nil, err
	}
	serverAfter, err := c.serverCPU()
	if err != nil {
		return nil, err
	}
	stopping.Store(true)
	all.Wait()
	select {
	case err := <-errs:
		return nil, err
	default:
	}
	var sum load.Histogram
	for i := range latencies {
		sum.Merge(&latencies[i])
	}
	n := float64(max(sum.Count(), 1))
	f := figures{
		metricRate.Name:   float64(sum.Count()) / elapsed.Seconds(),
		metricP50.Name:    micros(sum.Quantile(0.5)),
		metricP99.Name:    micros(sum.Quantile(0.99)),
		metricOwnCPU.Name: micros(ownAfter-ownBefore) / n,
	}
	if c.server != nil {
		f[metricCPU.Name] = micros(serverAfter-serverBefore) / n
	}
	return f, nil
}

func (c call) serverCPU() (time.Duration, error) {
	if c.server == nil {
		return 0, nil
	}
	return load.CPUTime(c.server.pid)
}
