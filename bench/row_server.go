package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-session/holdfast/internal/load"
)

var serverRow = row{
	name:  "server",
	title: "State server: processor time of the server per request",
	note: "Acquire takes the lock and reads (at ours the holder renews it, at Redis the lock script does); store writes, at ours if the version is the one that " +
		"was read. Acquire and store is both in turn, as a web request does. The C echo server answers the same number of bytes without looking at them: the limit. " +
		"Redis GET and SET EX have no lock. Allocations are our server's, in whole ones per request.",
	metrics: []metric{metricCPU, metricP50, metricP99, metricRate, metricAllocs},
	charted: []string{acquire64, acquire16},
	cells:   serverCells,
}

// A shape is one kind of load on a server.
type shape struct {
	work        string
	connections int
	depth       int
	bytes       int
	network     string
}

func (h shape) String() string {
	pipelined := ""
	if h.depth > 1 {
		pipelined = fmt.Sprintf(" × %d pipelined", h.depth)
	}
	noun := "connections"
	if h.connections == 1 {
		noun = "connection"
	}
	network := "TCP"
	if h.network == "unix" {
		network = "unix socket"
	}
	return fmt.Sprintf("%s, %d %s%s, %d bytes, %s", h.work, h.connections, noun, pipelined, h.bytes, network)
}

// works are what is asked for, as a mix of ours.
const (
	workAcquire = "acquire"
	workStore   = "store"
	workBoth    = "acquire and store"
)

var mixes = map[string]string{workAcquire: "lock", workStore: "save", workBoth: "lock+save"}

// smallSession is the size of most sessions.
const smallSession, largeSession = 500, 16 << 10

// serverShapes are the telling cells; in a full run, all of them.
func serverShapes(s *suite) []shape {
	telling := []shape{
		{workAcquire, 64, 1, smallSession, "tcp"},
		{workStore, 64, 1, smallSession, "tcp"},
		{workAcquire, 64, 16, smallSession, "tcp"},
		{workStore, 64, 16, smallSession, "tcp"},
		{workBoth, 64, 1, smallSession, "tcp"},
		{workAcquire, 64, 1, smallSession, "unix"},
		{workStore, 64, 1, smallSession, "unix"},
		{workAcquire, 1, 1, smallSession, "tcp"},
		{workStore, 1, 1, smallSession, "tcp"},
		{workAcquire, 256, 1, smallSession, "tcp"},
		{workStore, 256, 1, smallSession, "tcp"},
		{workAcquire, 64, 1, largeSession, "tcp"},
		{workStore, 64, 1, largeSession, "tcp"},
	}
	if s.quick {
		return telling[:6]
	}
	if !s.full {
		return telling
	}
	var all []shape
	for _, network := range []string{"tcp", "unix"} {
		for _, bytes := range []int{smallSession, largeSession} {
			for _, connections := range []int{1, 64, 256} {
				for _, depth := range []int{1, 16} {
					for _, work := range []string{workAcquire, workStore, workBoth} {
						all = append(all, shape{work, connections, depth, bytes, network})
					}
				}
			}
		}
	}
	return all
}

func serverCells(s *suite) ([]cell, error) {
	shapes := serverShapes(s)
	servers := make(map[string]*contenders)
	var cells []cell
	for _, h := range shapes {
		c, ok := servers[h.network]
		if !ok {
			var err error
			if c, err = s.contenders(h.network); err != nil {
				return nil, err
			}
			servers[h.network] = c
		}
		one, err := c.cell(h)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", h, err)
		}
		cells = append(cells, one)
	}
	return cells, nil
}

// contenders are the servers that are compared, on one network.
type contenders struct {
	ours, echo, redis, memcached *server // nil: absent
	acquire, store               string  // the lock scripts at Redis
}

func (s *suite) contenders(network string) (*contenders, error) {
	var c contenders
	admin, err := s.place("tcp")
	if err != nil {
		return nil, err
	}
	if c.ours, err = s.holdfast(network, "--memory", "--admin", admin.address); err != nil {
		return nil, err
	}
	c.ours.admin = admin.address
	for _, peer := range []struct {
		to    **server
		start func() (*server, error)
	}{
		{&c.echo, func() (*server, error) { return s.echo(network) }},
		{&c.redis, func() (*server, error) { return s.redis(network, "") }},
		{&c.memcached, func() (*server, error) { return s.memcached(network) }},
	} {
		v, err := peer.start()
		if errors.Is(err, errAbsent) {
			continue
		}
		if err != nil {
			return nil, err
		}
		*peer.to = v
	}
	if c.redis != nil {
		c.acquire, c.store, err = loadScripts(context.Background(), c.redis)
	}
	return &c, err
}

// open puts sessions on our server.
func (v *server) open(h shape, count int) (*load.Sessions, error) {
	s, err := load.Open(context.Background(), load.Options{
		Network: v.network, Address: v.address, PID: v.pid, App: "/",
		Connections: h.connections, Depth: h.depth, Count: count, Size: h.bytes,
	})
	if err != nil {
		return nil, err
	}
	return s, s.Fill(context.Background())
}

// sessions is how many there are where their number does not matter.
func (h shape) sessions() int { return max(1024, h.connections*h.depth) }

// cell makes the contenders do one kind of work.
func (c *contenders) cell(h shape) (cell, error) {
	ours, err := c.ours.open(h, h.sessions())
	if err != nil {
		return cell{}, err
	}
	side1, err := oursSide("holdfast", ours, mixes[h.work])
	if err != nil {
		return cell{}, err
	}
	out := cell{name: h.String(), sides: []side{c.ours.allocating(side1)}}
	if c.echo != nil && h.work != workBoth {
		echo, err := c.echoSide(h, ours)
		if err != nil {
			return cell{}, err
		}
		out.sides = append(out.sides, echo)
	}
	for _, p := range c.peers(h) {
		if err := p.fill(h, h.sessions()); err != nil {
			return cell{}, err
		}
		out.sides = append(out.sides, p.side(h, h.sessions()))
	}
	return out, nil
}

// oursSide is our server under the load of a mix.
func oursSide(name string, s *load.Sessions, mix string) (side, error) {
	m, err := load.ParseMix(mix)
	return side{name, func(ctx context.Context, w window) (figures, error) {
		return serverFigures(w, func(w window) (load.Result, error) {
			return s.Run(ctx, m, load.Config{Warmup: w.warmup, Duration: w.measure})
		})
	}}, err
}

// allocating adds to the figures of our server's load what the server allocated for a
// request.
func (v *server) allocating(s side) side {
	return side{s.name, func(ctx context.Context, w window) (figures, error) {
		var seen [3]float64 // the first two show what it costs to ask
		var f figures
		for i := range seen {
			var err error
			if i == 2 {
				if f, err = s.measure(ctx, w); err != nil {
					return nil, err
				}
			}
			if seen[i], err = v.mallocs(ctx); err != nil {
				return nil, err
			}
		}
		requests := f[metricRate.Name] * (w.warmup + w.measure).Seconds()
		f[metricAllocs.Name] = max(0, math.Floor((seen[2]-seen[1]-(seen[1]-seen[0]))/requests))
		return f, nil
	}}
}

// mallocs returns how many objects our server has allocated so far.
func (v *server) mallocs(ctx context.Context) (float64, error) {
	r, err := http.NewRequestWithContext(ctx, "GET", "http://"+v.admin+"/metrics", nil)
	if err != nil {
		return 0, err
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	for lines := bufio.NewScanner(res.Body); lines.Scan(); {
		if count, ok := strings.CutPrefix(lines.Text(), "go_memstats_mallocs_total "); ok {
			return strconv.ParseFloat(count, 64)
		}
	}
	return 0, errors.New("the server's metrics do not say how much it allocated")
}

// serverFigures are what a load has measured of its server. It is put on for longer
// if the time of w was too short for an answer, or for the kernel's clocks, which
// count the time of a thread when it pauses or is interrupted.
func serverFigures(w window, put func(window) (load.Result, error)) (figures, error) {
	var res load.Result
	var all load.OpResult
	for ; all.Latency.Count() == 0 || res.CPU == 0; w.measure *= 2 {
		var err error
		if res, err = put(w); err != nil {
			return nil, err
		}
		all = res.All()
	}
	if all.Refused > 0 {
		return nil, fmt.Errorf("%d of %d requests were refused", all.Refused, all.Latency.Count())
	}
	return figures{
		metricRate.Name: res.Rate(),
		metricP50.Name:  micros(all.Latency.Quantile(0.5)),
		metricP99.Name:  micros(all.Latency.Quantile(0.99)),
		metricCPU.Name:  micros(res.CPU) / float64(all.Latency.Count()),
	}, nil
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// echoSide measures how long our requests and answers are, and has the echo server
// answer as many bytes.
func (c *contenders) echoSide(h shape, ours *load.Sessions) (side, error) {
	m, err := load.ParseMix(mixes[h.work])
	if err != nil {
		return side{}, err
	}
	res, err := ours.Run(context.Background(), m, load.Config{Duration: 20 * time.Millisecond})
	if err != nil {
		return side{}, err
	}
	request, answer := int(res.RequestBytes+0.5), int(res.AnswerBytes+0.5)
	all := []byte(strings.Repeat("x", request*h.depth))
	return side{"C echo of as many bytes", func(ctx context.Context, w window) (figures, error) {
		drivers := make([]load.Driver, h.connections)
		for i := range drivers {
			drivers[i] = &echoDriver{out: all, depth: h.depth, answer: answer}
		}
		return peerRun(ctx, c.echo, load.Config{Dial: echoDial(c.echo, request, answer), Drivers: drivers}, w)
	}}, nil
}

func peerRun(ctx context.Context, v *server, c load.Config, w window) (figures, error) {
	c.PID, c.Ops = v.pid, []string{"request"}
	if c.Dial == nil {
		c.Dial = v.dial
	}
	return serverFigures(w, func(w window) (load.Result, error) {
		c.Warmup, c.Duration = w.warmup, w.measure
		return load.Run(ctx, c)
	})
}

// A peer is a server with sessions of its own, and what is said to it.
type peer struct {
	name   string
	server *server
	create func(key string) []byte
	steps  []func(key string) []byte // in turn
	answer func([]byte) (int, error)
}

// peers are what Redis and memcached have for a kind of work.
func (c *contenders) peers(h shape) []peer {
	body := strings.Repeat("x", h.bytes)
	type step = func(key string) []byte
	var all []peer
	if c.redis != nil {
		const token = "0123456789abcdef" // the same in every cell: they share the sessions
		millis := fmt.Sprint(timeoutMillis)
		set := func(key string) []byte { return resp("SET", key, body, "PX", millis) }
		get := func(key string) []byte { return resp("GET", key) }
		lock := func(key string) []byte {
			return resp("EVALSHA", c.acquire, "2", key, key+":lock", token, lockMillis, millis)
		}
		save := func(key string) []byte {
			return resp("EVALSHA", c.store, "2", key, key+":lock", token, body, millis)
		}
		p := peer{server: c.redis, create: set, answer: respAnswer}
		for name, steps := range map[string]map[string][]step{
			workAcquire: {"Redis GET": {get}, "Redis lock script": {lock}},
			workStore:   {"Redis SET": {set}, "Redis lock script": {save}},
			workBoth:    {"Redis GET and SET": {get, set}, "Redis lock script": {lock, save}},
		}[h.work] {
			p.name, p.steps = name, steps
			all = append(all, p)
		}
	}
	if c.memcached != nil {
		set := func(key string) []byte { return fmt.Appendf(nil, "set %s 0 1200 %d\r\n%s\r\n", key, len(body), body) }
		get := func(key string) []byte { return fmt.Appendf(nil, "get %s\r\n", key) }
		p := peer{server: c.memcached, create: set, answer: memcachedAnswer}
		for name, steps := range map[string]map[string][]step{
			workAcquire: {"memcached get": {get}},
			workStore:   {"memcached set": {set}},
			workBoth:    {"memcached get and set": {get, set}},
		}[h.work] {
			p.name, p.steps = name, steps
			all = append(all, p)
		}
	}
	slices.SortFunc(all, func(a, b peer) int { return strings.Compare(a.name, b.name) })
	return all
}

// keys are the sessions of one connection, of count that are shared out. Cells share a
// server, and all are filled before the first: those of another size have sessions of
// their own.
func (h shape) keys(conn, count int) []byte {
	var keys []byte
	for k := range count / h.connections {
		keys = append(keys, sessionKey(conn+1000*(h.bytes>>10), k)...)
	}
	return keys
}

// fill creates the peer's sessions.
func (p *peer) fill(h shape, count int) error {
	var drivers []load.Driver
	for i := range h.connections {
		drivers = append(drivers, &fillDriver{wireDriver: wireDriver{keys: h.keys(i, count), steps: []template{newTemplate(p.create)}, answer: p.answer}})
	}
	for some := range slices.Chunk(drivers, 8) {
		if _, err := load.Run(context.Background(), load.Config{Dial: p.server.dial, Drivers: some, Ops: []string{"create"}}); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	return nil
}

// side is the peer under load.
func (p *peer) side(h shape, count int) side {
	var steps []template
	for _, f := range p.steps {
		steps = append(steps, newTemplate(f))
	}
	drivers := make([]load.Driver, h.connections)
	for i := range drivers {
		drivers[i] = &wireDriver{rand: rand.New(rand.NewPCG(uint64(i), 2)), keys: h.keys(i, count), steps: steps,
			answer: p.answer, picked: make([]int, h.depth)}
	}
	return side{p.name, func(ctx context.Context, w window) (figures, error) {
		return peerRun(ctx, p.server, load.Config{Drivers: drivers}, w)
	}}
}
