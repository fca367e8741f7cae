package storetest

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/holdfast-session/holdfast/store"
)

// Random histories of a few clients, each of which must be explained by its calls
// having happened one after the other, as a model of the contract answers them.
var linearCases = []testCase{
	{"Linearizable", linearFeatures, func(c *trial) { c.linear(terms{}) }},
	{"Linearizable/RepliesLost", linearFeatures, func(c *trial) { c.linear(terms{lost: 8}) }},
	{"Linearizable/Takeover", linearFeatures, func(c *trial) { c.linear(terms{stale: time.Second}) }},
	{"Linearizable/TwoNodes", linearFeatures, func(c *trial) { c.linear(terms{nodes: true}) }},
}

var linearFeatures = []Feature{Versions, History, Acquired, Owner, ReadUnderLock, Hold}

const (
	linearClients  = 4
	linearSessions = 2
	linearCalls    = 30               // of each client, with repeats 200 at most for one session
	linearLimit    = 30 * time.Second // for the check of one history of one session
)

// A request is a call as the model sees it.
type request struct {
	method  string
	id      store.ID
	options store.LockOptions // of Lock
	rec     store.Record      // of Create and Save
	next    store.Version
	hold    bool
	lock    store.Lock // of Unlock and Remove
	why     store.Kind
}

// A reply is what came back.
type reply struct {
	err  error
	lost bool
	rec  store.Record // of Load and Lock
	lock store.Lock   // of Create
}

// The terms of a history.
type terms struct {
	lost  int           // how many replies are lost, for each session
	stale time.Duration // the clients' lock timeout
	nodes bool          // whether there are two
	wait  time.Duration // how long a Lock waits, if it does
}

// A history is what clients have asked of a store, and what they were told.
type history struct {
	terms
	seed uint64
	ids  []store.ID
	pass func(d time.Duration) // lets time pass, where terms.stale is set
	now  atomic.Int64

	mu  sync.Mutex
	ops []porcupine.Operation
}

// linear records histories, and has them checked outside of the bubble, whose clock
// stands still while anything computes.
func (c *trial) linear(terms terms) {
	rounds := 15
	if !c.Bubble {
		rounds = 1
	}
	s := c.open()
	nodes := []store.Store{s}
	if terms.nodes {
		nodes = append(nodes, c.second(s))
	}
	m := model{reasons: !c.lacks(Tombstones), forgets: c.forgets(), early: c.lacks(AtomicLock)}
	for round := range rounds {
		terms.wait = time.Second
		h := &history{terms: terms, seed: rand.Uint64(), pass: c.advance}
		for i := range linearSessions {
			h.ids = append(h.ids, c.id(fmt.Sprint("s", round, ".", i)))
		}
		c.record(h, nodes)
		c.later = append(c.later, func(t testing.TB) {
			for _, id := range h.ids {
				h.check(t, id, m, linearLimit)
			}
		})
	}
}

// record runs the clients.
func (c *trial) record(h *history, nodes []store.Store) {
	var mu sync.Mutex
	lost := make(map[store.ID]int)
	lose := func(call Call) Fault {
		mu.Lock()
		defer mu.Unlock()
		if lost[call.ID] == h.lost || rand.IntN(5) > 0 {
			return None
		}
		lost[call.ID]++
		return LoseReply
	}
	f := &Faults{Rule: lose, Before: pause, After: pause}
	c.parallel(linearClients, func(n int) {
		newClient(h, n, f.Wrap(nodes[n%len(nodes)])).run(c.ctx)
	})
}

// A client makes calls, most of which make sense.
type client struct {
	h     *history
	n     int
	s     store.Store
	r     *rand.Rand
	known map[store.ID]*store.Record // what it has read, with the lock if it is its own
	last  *request
}

func newClient(h *history, n int, s store.Store) *client {
	return &client{h: h, n: n, s: s, r: rand.New(rand.NewPCG(h.seed, uint64(n))), known: make(map[store.ID]*store.Record)}
}

func (k *client) run(ctx context.Context) {
	for range linearCalls {
		q := k.choose()
		for tries := 0; ; tries++ {
			p := k.call(ctx, q)
			k.learn(q, p)
			if !p.lost || tries == 3 {
				break
			}
		}
		k.last = q
		if k.h.stale > 0 {
			k.h.pass(rand.N(k.h.stale / 2))
		}
	}
}

// choose makes up the next request.
func (k *client) choose() *request {
	q := &request{id: k.h.ids[k.r.IntN(len(k.h.ids))]}
	known := k.known[q.id]
	body := []byte(fmt.Sprintf("%d/%d", k.n, k.r.IntN(1000)))
	wait := time.Duration(k.r.IntN(2)) * k.h.wait
	switch dice := k.r.IntN(100); {
	case dice < 8 && k.last != nil:
		return k.last
	case dice < 20 || known == nil && dice < 30:
		q.method = "Load"
	case dice < 40 || known == nil && dice < 60:
		q.method = "Lock"
		q.options = store.LockOptions{Owner: store.NewOwner(), Wait: wait, Stale: k.h.stale}
		if known != nil && !known.Lock.IsZero() {
			q.options.Owner = known.Lock.Owner
		}
	case known == nil:
		q.method = "Create"
		q.hold = dice%3 == 0
		q.rec = store.Record{Version: store.NewVersion(), Timeout: long, Body: body}
		if q.hold {
			q.rec.Lock.Owner = store.NewOwner()
		}
	case dice < 84:
		q.method = "Save"
		q.hold = dice%4 == 0
		q.rec, q.next = *known, store.NewVersion()
		q.rec.Body = body
	case dice < 92:
		q.method, q.lock = "Unlock", known.Lock
		if known.Lock.IsZero() {
			q.lock = store.Lock{Cookie: 1 + k.r.Int32N(math.MaxInt32-1)}
		}
	default:
		q.method = "Remove"
		q.why = store.Abandoned
		if dice%2 == 0 {
			q.why, q.lock = store.Regenerated, known.Lock
		}
	}
	return q
}

// call makes the request and puts it into the history.
func (k *client) call(ctx context.Context, q *request) reply {
	called := k.h.now.Add(1)
	p := k.ask(ctx, q)
	returned := k.h.now.Add(1)
	if errors.Is(p.err, store.ErrUnsure) {
		p.lost = true
		returned = math.MaxInt64 // it may take effect at any time
	}
	k.h.record(k.n, q, &p, called, returned)
	return p
}

func (k *client) ask(ctx context.Context, q *request) (p reply) {
	switch q.method {
	case "Load":
		p.err = k.s.Load(ctx, q.id, &p.rec)
	case "Lock":
		p.err = k.s.Lock(ctx, q.id, q.options, &p.rec)
	case "Create":
		rec := clone(&q.rec)
		p.err = k.s.Create(ctx, q.id, rec, q.hold)
		p.lock = rec.Lock
	case "Save":
		p.err = k.s.Save(ctx, q.id, clone(&q.rec), q.next, q.hold)
	case "Unlock":
		p.err = k.s.Unlock(ctx, q.id, q.lock)
	case "Remove":
		p.err = k.s.Remove(ctx, q.id, q.lock, store.Reason{Kind: q.why})
	}
	return p
}

// record puts a call into the history.
func (h *history) record(n int, q *request, p *reply, called, returned int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ops = append(h.ops, porcupine.Operation{ClientId: n, Input: q, Call: called, Output: p, Return: returned})
}

// learn is what the client knows after a reply.
func (k *client) learn(q *request, p reply) {
	known := k.known[q.id]
	switch {
	case p.err != nil:
		k.known[q.id] = nil
	case q.method == "Load":
		rec := merge(clone(&p.rec))
		if known != nil {
			rec.Lock = known.Lock
		}
		k.known[q.id] = rec
	case q.method == "Lock":
		k.known[q.id] = clone(&p.rec)
	case q.method == "Create":
		rec := clone(&q.rec)
		rec.Lock = p.lock
		k.known[q.id] = rec
	case q.method == "Save":
		rec := clone(&q.rec)
		rec.Advance(q.next)
		if !q.hold {
			rec.Lock = store.Lock{}
		}
		k.known[q.id] = rec
	case q.method == "Unlock" && known != nil:
		known.Lock = store.Lock{}
	case q.method == "Remove":
		k.known[q.id] = nil
	}
}

// check has porcupine look for an order that explains what was told of one session.
func (h *history) check(t testing.TB, id store.ID, m model, limit time.Duration) {
	var ops []porcupine.Operation
	for _, op := range h.ops {
		q := op.Input.(*request)
		if q.id != id {
			continue
		}
		ops = append(ops, op)
		if m.early && q.method == "Lock" {
			op.Output = &reply{lost: true} // like one of which nothing was heard
			ops = append(ops, op)
		}
	}
	slices.SortFunc(ops, func(a, b porcupine.Operation) int { return int(a.Call - b.Call) })
	result, info := porcupine.CheckOperationsVerbose(m.porcupine(), ops, limit)
	if result == porcupine.Ok {
		return
	}
	verdict := "no order of these calls explains their replies"
	if result == porcupine.Unknown {
		verdict = fmt.Sprintf("the check took more than %v", limit)
	}
	var longest []int
	for _, partial := range info.PartialLinearizations() {
		for _, order := range partial {
			if len(order) > len(longest) {
				longest = order
			}
		}
	}
	var b strings.Builder
	for i, op := range ops {
		place, ret := "", "  …"
		if at := slices.Index(longest, i); at >= 0 {
			place = fmt.Sprint("#", at+1)
		}
		if op.Return != math.MaxInt64 {
			ret = fmt.Sprintf("%3d", op.Return)
		}
		fmt.Fprintf(&b, "%5s  client %d  %3d–%s  %s\n", place, op.ClientId, op.Call, ret, describe(op.Input.(*request), op.Output.(*reply)))
	}
	t.Errorf("%s (seed %d); the longest order that explains some has the places #:\n%s", verdict, h.seed, b.String())
}

func describe(q *request, p *reply) string {
	var b strings.Builder
	b.WriteString(q.method)
	lock := func(l store.Lock) string { return fmt.Sprintf("(owner %04x, cookie %d)", l.Owner>>48, l.Cookie) }
	switch q.method {
	case "Lock":
		fmt.Fprintf(&b, " as owner %04x, wait %v, stale %v", q.options.Owner>>48, q.options.Wait, q.options.Stale)
	case "Create":
		fmt.Fprintf(&b, " version %04x, body %s", q.rec.Version>>48, q.rec.Body)
		if q.hold {
			fmt.Fprintf(&b, ", held by owner %04x", q.rec.Lock.Owner>>48)
		}
	case "Save":
		fmt.Fprintf(&b, " %04x over %04x, body %s", q.next>>48, q.rec.Version>>48, q.rec.Body)
		if !q.rec.Lock.IsZero() {
			b.WriteString(", lock " + lock(q.rec.Lock))
		}
		if q.hold {
			b.WriteString(", hold")
		}
	case "Unlock", "Remove":
		b.WriteString(" " + lock(q.lock))
	}
	b.WriteString(" → ")
	switch {
	case p.err != nil:
		b.WriteString(p.err.Error())
	case q.method == "Load", q.method == "Lock":
		fmt.Fprintf(&b, "version %04x, body %s", p.rec.Version>>48, p.rec.Body)
		for _, v := range p.rec.History {
			fmt.Fprintf(&b, " < %04x", v>>48)
		}
		if p.rec.Locked {
			b.WriteString(", locked " + lock(p.rec.Lock))
		}
	case q.method == "Create" && q.hold:
		b.WriteString("ok, " + lock(p.lock))
	default:
		b.WriteString("ok")
	}
	return b.String()
}
