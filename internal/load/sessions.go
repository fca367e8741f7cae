package load

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"time"
)

// Options say what a state server is to be loaded with.
type Options struct {
	// Network and Address are where it is, as package net writes them.
	Network, Address string
	// TLS is how connections are encrypted; nil if they are not.
	TLS *tls.Config
	// Connections is how many there are, and Depth how many requests are under way
	// on each.
	Connections, Depth int
	// Count is how many sessions there are. They are shared out among the
	// connections, so that none is in the way of another.
	Count int
	// Size is how many bytes a session has.
	Size int
	// Hot is the share of sequences that go to one session of all connections.
	Hot float64
	// Wait is how long a request waits for that session's lock.
	Wait time.Duration
	// App is the application that the sessions belong to.
	App string
	// Token is the password, empty for none.
	Token string
	// PID is the server's process, 0 if it is not known.
	PID int
}

const (
	// timeout is that of the sessions.
	timeout = 20 * time.Minute
	// stale is the age at which locks are broken, as package holdfast has it.
	stale = 20 * time.Second
	// together is how many sessions are created, and removed, at a time.
	together = 32
)

// Sessions are on a state server, and conns ask for them. It is used by one
// goroutine at a time.
type Sessions struct {
	o       Options
	foreign bool
	nonce   string
	prefix  string // of a request's target
	auth    string
	body    []byte
	conns   []*conn
}

// A conn is one connection, as a [Driver], and the sessions that are its own.
type conn struct {
	s      *Sessions
	number int
	owner  uint64 // of its locks
	rand   *rand.Rand
	own    []own
	fresh  int // how many more it has created
	slots  []slot
	sent   []int // the slots that wait for an answer, in order
	mix    Mix
	index  [len(opNames)]int // of the kinds of requests, in Config.Ops
}

// own is what a connection knows of a session that nobody else changes.
type own struct {
	version uint64
	locked  bool
	busy    bool // a slot is at it
}

// A slot is a place in the pipeline, and the sequence that is under way there.
type slot struct {
	q       *sequence // nil: none
	step    int
	session int // of own; or hot, or past own, one that it created
	version uint64
	cookie  int // of a foreign server's lock
	locked  bool
}

// hot stands for the session that all connections share.
const hot = -1

// Open looks at the server, and prepares the load without putting it on.
func Open(ctx context.Context, o Options) (*Sessions, error) {
	if o.Count < o.Connections*o.Depth {
		return nil, fmt.Errorf("%d sessions are too few for %d connections with %d requests under way: each request has a session of its own",
			o.Count, o.Connections, o.Depth)
	}
	hash := sha256.Sum256([]byte(o.App))
	s := &Sessions{
		o:      o,
		nonce:  fmt.Sprintf("%08x", rand.Uint32()),
		prefix: escape("/" + strings.TrimPrefix(o.App, "/") + "(" + base64.StdEncoding.EncodeToString(hash[:]) + ")/"),
		body:   make([]byte, o.Size),
	}
	if o.Token != "" {
		s.auth = "\r\nAuthorization: Bearer " + o.Token
	}
	for i := range s.body {
		s.body[i] = byte('a' + rand.IntN(26))
	}
	if err := s.greet(ctx); err != nil {
		return nil, err
	}
	for i := range o.Connections {
		c := &conn{
			s:      s,
			number: i,
			owner:  rand.Uint64() | 1,
			rand:   rand.New(rand.NewPCG(uint64(i), 1)),
			own:    make([]own, o.Count/o.Connections),
			slots:  make([]slot, o.Depth),
		}
		if i < o.Count%o.Connections {
			c.own = append(c.own, own{})
		}
		s.conns = append(s.conns, c)
	}
	return s, nil
}

// escape writes a target as ASP.NET's clients do.
func escape(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		if 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("-_.!*()", c) >= 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02x", c)
		}
	}
	return b.String()
}

// Foreign reports whether the server is not Holdfast's. It is then asked as
// ASP.NET asks it: without versions, and without waiting for locks.
func (s *Sessions) Foreign() bool { return s.foreign }

func (s *Sessions) dial(ctx context.Context) (net.Conn, error) {
	if s.o.TLS != nil {
		return (&tls.Dialer{Config: s.o.TLS}).DialContext(ctx, s.o.Network, s.o.Address)
	}
	return new(net.Dialer).DialContext(ctx, s.o.Network, s.o.Address)
}

// greet finds out who the server is, by asking for a session that is not there.
func (s *Sessions) greet(ctx context.Context) error {
	nc, err := s.dial(ctx)
	if err != nil {
		return err
	}
	defer nc.Close()
	defer context.AfterFunc(ctx, func() { nc.Close() })()
	nc.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := nc.Write(s.appendGreeting(nil)); err != nil {
		return err
	}
	var in []byte
	for {
		part := make([]byte, 4096)
		n, err := nc.Read(part)
		in = append(in, part[:n]...)
		size, a, bad := parseAnswer(in, false)
		switch {
		case bad != nil:
			return bad
		case size > 0 && a.status == 404:
			s.foreign = !a.marked
			return nil
		case size > 0:
			return a.unexpected("asked for a session that is not there")
		case err != nil:
			return fmt.Errorf("the server closed the connection without an answer: %w", err)
		}
	}
}

// Fill creates the sessions.
func (s *Sessions) Fill(ctx context.Context) error {
	return s.visit(ctx, opCreate, func(c *conn) int { return len(c.own) })
}

// Remove ends the sessions, those included that were created meanwhile.
func (s *Sessions) Remove(ctx context.Context) error {
	return s.visit(ctx, opRemove, func(c *conn) int { return len(c.own) + c.fresh })
}

// visit does one thing to all sessions, on up to eight connections at a time.
func (s *Sessions) visit(ctx context.Context, o op, count func(*conn) int) error {
	for some := range slices.Chunk(s.conns, 8) {
		var drivers []Driver
		for _, c := range some {
			v := &visit{c: c, op: o, end: count(c)}
			if s.o.Hot > 0 && c.number == 0 {
				v.next, v.read = hot, hot
			}
			drivers = append(drivers, v)
		}
		if _, err := Run(ctx, Config{Dial: s.dial, Drivers: drivers, Ops: opNames[:]}); err != nil {
			return err
		}
	}
	return nil
}

// Check refuses a mix that cannot go on and on with these sessions on this server.
func (s *Sessions) Check(m Mix) error {
	if s.foreign {
		if err := m.checkPlain(); err != nil {
			return err
		}
	}
	if s.o.Hot > 0 {
		return m.checkHot()
	}
	return nil
}

// Run puts on the load of a mix. config has Warmup, Duration, Every and Progress.
func (s *Sessions) Run(ctx context.Context, m Mix, config Config) (Result, error) {
	if err := s.Check(m); err != nil {
		return Result{}, err
	}
	config.Dial, config.PID = s.dial, s.o.PID
	config.Ops, config.Drivers = nil, nil
	var index [len(opNames)]int
	for i, o := range m.uses() {
		index[o] = i
		config.Ops = append(config.Ops, opNames[o])
	}
	for _, c := range s.conns {
		c.mix, c.index = m, index
		config.Drivers = append(config.Drivers, c)
	}
	return Run(ctx, config)
}

// appendID writes the ID of a connection's session, always 24 characters.
func (c *conn) appendID(b []byte, session int) []byte {
	b = append(b, c.s.nonce...)
	if session == hot {
		return append(b, "0hot0hot0hot0hot"...)
	}
	b = appendDigits(b, c.number, 6)
	return appendDigits(b, session, 10)
}

func appendDigits(b []byte, n, width int) []byte {
	b = append(b, "0000000000"[:width]...)
	for i := len(b) - 1; n > 0; i-- {
		b[i] = byte('0' + n%10)
		n /= 10
	}
	return b
}

// Next implements [Driver].
func (c *conn) Next(b []byte, finish bool) ([]byte, int) {
	c.sent = c.sent[:0]
	for i := range c.slots {
		t := &c.slots[i]
		if t.q == nil {
			if finish {
				continue
			}
			c.begin(t)
		}
		b = c.appendRequest(b, t.q.steps[t.step], t)
		c.sent = append(c.sent, i)
	}
	return b, len(c.sent)
}

// begin starts the next sequence.
func (c *conn) begin(t *slot) {
	*t = slot{q: c.mix.at(c.rand.IntN(c.mix.weight()))}
	switch {
	case t.q.steps[0] == opCreate:
		t.session = len(c.own) + c.fresh
		c.fresh++
	case c.rand.Float64() < c.s.o.Hot:
		t.session = hot
	default:
		// There are at least as many as slots.
		k := c.rand.IntN(len(c.own))
		for c.own[k].busy {
			k = (k + 1) % len(c.own)
		}
		t.session = k
		c.own[k].busy = true
		t.version, t.locked = c.own[k].version, c.own[k].locked
	}
}

// end notes what the sequence has left behind.
func (c *conn) end(t *slot) {
	if 0 <= t.session && t.session < len(c.own) {
		c.own[t.session] = own{version: t.version, locked: t.locked}
	}
	t.q = nil
}

// Answer implements [Driver].
func (c *conn) Answer(b []byte) (int, Answer, error) {
	t := &c.slots[c.sent[0]]
	o := t.q.steps[t.step]
	n, a, err := parseAnswer(b, o == opTouch)
	if n == 0 || err != nil {
		return 0, Answer{}, err
	}
	c.sent = c.sent[1:]
	if a.status != 200 {
		if a.status >= 500 || a.status == 401 || a.status == 403 {
			return 0, Answer{}, a.unexpected(opNames[o])
		}
		c.end(t) // what follows would be refused as well
		return n, Answer{c.index[o], true}, nil
	}
	if a.version != 0 {
		t.version = a.version
	}
	switch o {
	case opLock:
		t.locked = true
		t.cookie = a.cookie
	case opSave, opUnlock:
		t.locked = false
	}
	if t.step++; t.step == len(t.q.steps) {
		c.end(t)
	}
	return n, Answer{Op: c.index[o]}, nil
}

// A visit is a [Driver] that does one thing to each session of a connection from
// next to end, and takes no refusal.
type visit struct {
	c               *conn
	op              op
	next, read, end int
}

func (v *visit) Next(b []byte, _ bool) ([]byte, int) {
	n := min(together, v.end-v.next)
	for range n {
		b = v.c.appendRequest(b, v.op, &slot{session: v.next})
		v.next++
	}
	return b, n
}

func (v *visit) Answer(b []byte) (int, Answer, error) {
	n, a, err := parseAnswer(b, false)
	if n == 0 || err != nil {
		return 0, Answer{}, err
	}
	if a.status != 200 && !(v.op == opRemove && a.status == 404) {
		return 0, Answer{}, a.unexpected(opNames[v.op])
	}
	if v.op == opCreate && v.read != hot {
		v.c.own[v.read] = own{version: a.version}
	}
	v.read++
	return n, Answer{Op: int(v.op)}, nil
}
