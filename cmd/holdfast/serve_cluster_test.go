package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	testservers "github.com/holdfast-session/holdfast/internal/servers"
	"github.com/holdfast-session/holdfast/stateserver"
	"github.com/holdfast-session/holdfast/store"
)

// A balancer is a plain one: each connection goes to the next server that accepts it, and
// ends with it.
type balancer struct {
	net.Listener
	servers []string
	next    atomic.Uint32
}

func balance(t *testing.T, servers ...string) *balancer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &balancer{Listener: l, servers: servers}
	var passing sync.WaitGroup
	passing.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			passing.Go(func() { b.pass(client.(*net.TCPConn)) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		passing.Wait() // the clients and servers have ended
	})
	return b
}

// pass passes on what both ends of a connection send, until both have finished or one is
// gone.
func (b *balancer) pass(client *net.TCPConn) {
	defer client.Close()
	for range b.servers {
		c, err := net.Dial("tcp", b.servers[int(b.next.Add(1))%len(b.servers)])
		if err != nil {
			continue
		}
		server := c.(*net.TCPConn)
		defer server.Close()
		var both sync.WaitGroup
		for from, to := range map[*net.TCPConn]*net.TCPConn{client: server, server: client} {
			both.Go(func() {
				if _, err := io.Copy(to, from); err != nil {
					from.Close()
					to.Close()
					return
				}
				to.CloseWrite()
			})
		}
		both.Wait()
		return
	}
}

// A lineage is what visitors have done with some sessions. Each save appends its name to
// the content, so that what a session has at the end says what it descends from.
type lineage struct {
	app string
	ids []store.ID

	mu       sync.Mutex
	saves    map[string]*step
	failures []string

	calls, unsure, longest atomic.Int64
}

// A step is a save that was tried.
type step struct {
	id         store.ID
	base, next store.Version
	acked      bool
	unsure     bool // a reply was lost: not acked, it may be there all the same
}

// call makes a call until its answer is definite, and returns its error if that is one.
func (l *lineage) call(what string, f func(ctx context.Context) error, answers ...error) error {
	began := time.Now()
	err := f(context.Background())
	for errors.Is(err, store.ErrUnsure) && time.Since(began) < time.Minute {
		err = f(context.Background())
	}
	took := time.Since(began)
	l.calls.Add(1)
	for d := int64(took); ; {
		if old := l.longest.Load(); d <= old || l.longest.CompareAndSwap(old, d) {
			break
		}
	}
	if err == nil {
		return nil
	}
	locked := new(store.LockedError)
	if errors.As(err, &locked) && slices.Contains(answers, errLocked) ||
		slices.ContainsFunc(answers, func(a error) bool { return errors.Is(err, a) }) {
		return err
	}
	if errors.Is(err, store.ErrUnsure) {
		l.unsure.Add(1)
	}
	l.fail("%s after %v: %v", what, took, err)
	return err
}

// errLocked stands for any *store.LockedError.
var errLocked = errors.New("locked")

func (l *lineage) fail(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failures = append(l.failures, fmt.Sprintf(format, args...))
}

// begin makes the sessions.
func (l *lineage) begin(c *stateserver.Client, n int) {
	l.saves = make(map[string]*step)
	for i := range n {
		id := store.ID{App: l.app, Session: fmt.Sprint("shared", i)}
		l.ids = append(l.ids, id)
		l.create(c, id)
	}
}

func (l *lineage) create(c *stateserver.Client, id store.ID) error {
	rec := &store.Record{Version: store.NewVersion(), Timeout: time.Hour}
	return l.call("Create", func(ctx context.Context) error { return c.Create(ctx, id, rec, false) })
}

// visit changes a session that all share, under its lock or by comparing versions.
func (l *lineage) visit(c *stateserver.Client, name string, wait time.Duration) {
	id := l.ids[rand.N(len(l.ids))]
	var rec store.Record
	var answers []error
	if rand.N(4) > 0 {
		o := store.LockOptions{Owner: store.NewOwner(), Wait: wait, Stale: wait / 2}
		if l.call("Lock", func(ctx context.Context) error { return c.Lock(ctx, id, o, &rec) }) != nil {
			return
		}
	} else {
		if l.call("Load", func(ctx context.Context) error { return c.Load(ctx, id, &rec) }) != nil {
			return
		}
		rec.Lock, rec.Locked = store.Lock{}, false
		answers = []error{store.ErrConflict, errLocked} // somebody was quicker
	}
	s := &step{id: id, base: rec.Version, next: store.NewVersion()}
	l.mu.Lock()
	l.saves[name] = s
	l.mu.Unlock()
	rec.Body = append(append(rec.Body, name...), ' ')
	save := func(ctx context.Context) error {
		err := c.Save(ctx, id, &rec, s.next, false)
		s.unsure = s.unsure || errors.Is(err, store.ErrUnsure)
		return err
	}
	if l.call("Save", save, answers...) == nil {
		l.mu.Lock()
		s.acked = true
		l.mu.Unlock()
	}
}

// live begins a session that nobody else has, and ends it.
func (l *lineage) live(c *stateserver.Client, name string) {
	id := store.ID{App: l.app, Session: "own" + name}
	if l.create(c, id) != nil {
		return
	}
	l.call("Touch", func(ctx context.Context) error { return c.Touch(ctx, id) })
	// A repeat finds it gone.
	l.call("Remove", func(ctx context.Context) error {
		return c.Remove(ctx, id, store.Lock{}, store.Reason{Kind: store.Abandoned})
	}, store.ErrNotFound)
	err := l.call("Load", func(ctx context.Context) error { return c.Load(ctx, id, new(store.Record)) }, store.ErrNotFound)
	if store.ReasonOf(err).Kind != store.Abandoned {
		l.fail("a session that was ended: %v", err)
	}
}

// check wants each session to descend from all that was acknowledged, each save made on
// the one before.
func (l *lineage) check(t *testing.T, c *stateserver.Client) {
	t.Helper()
	there := make(map[string]bool)
	for _, id := range l.ids {
		var rec store.Record
		if err := c.Load(t.Context(), id, &rec); err != nil {
			t.Errorf("%s at the end: %v", id.Session, err)
			continue
		}
		var last *step
		for name := range strings.FieldsSeq(string(rec.Body)) {
			s := l.saves[name]
			switch {
			case s == nil || s.id != id || there[name] || !s.acked && !s.unsure:
				t.Fatalf("%s descends from %s, which was saved elsewhere, twice or not at all", id.Session, name)
			case last != nil && s.base != last.next:
				t.Fatalf("%s: %s was not made on the save before it", id.Session, name)
			}
			there[name], last = true, s
		}
		if last != nil && last.next != rec.Version {
			t.Errorf("%s has the content of one version and the number of another", id.Session)
		}
	}
	acked, lost := 0, 0
	for name, s := range l.saves {
		if !s.acked {
			continue
		}
		acked++
		if !there[name] {
			lost++
			t.Errorf("the save %s was acknowledged, and is lost", name)
		}
	}
	for _, failure := range l.failures {
		t.Error(failure)
	}
	t.Logf("%d calls of clients: %d failed, of which %d are unsure; %d saves acknowledged, %d of them lost; the longest call took %v",
		l.calls.Load(), len(l.failures), l.unsure.Load(), acked, lost, time.Duration(l.longest.Load()).Round(time.Millisecond))
	if acked < 100 {
		t.Error("too little was done for this to say anything")
	}
}

// TestServersOverCluster kills and stops two state servers over one Redis Cluster, one at
// a time, again and again while clients work through a balancer. No request fails, and
// nothing is lost or comes back.
func TestServersOverCluster(t *testing.T) {
	const workers, sessions, lockWait = 12, 8, 20 * time.Second
	rounds := 6
	if os.Getenv("HOLDFAST_LONG") != "" {
		rounds = 80
	}
	cluster := testservers.StartRedisCluster(t, 5*time.Second, nil)
	var addrs []string
	for range 2 {
		addrs = append(addrs, fmt.Sprint("127.0.0.1:", testservers.Port(t)))
	}
	b := balance(t, addrs...)
	serve := func(i int) *program {
		p := start(t, "serve", "--store", cluster.URL(), "--listen", addrs[i], "--drain", "1s")
		p.ready(ready)
		return p
	}
	running := []*program{serve(0), serve(1)}

	l := &lineage{app: "/shop"}
	var clients []*stateserver.Client
	var apps []*worker
	for range 3 {
		c, err := stateserver.Dial(b.Addr().String(), nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		clients = append(clients, c)
		app := new(worker)
		app.deploy(c)
		apps = append(apps, app)
	}
	l.begin(clients[0], sessions)

	var working sync.WaitGroup
	stop := make(chan struct{})
	work := func(visit func(n int)) {
		working.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
					visit(n)
				}
			}
		})
	}
	for i := range workers {
		work(func(n int) {
			name := fmt.Sprintf("%d.%d", i, n)
			if c := clients[rand.N(len(clients))]; n%8 == 0 {
				l.live(c, name)
			} else {
				l.visit(c, name, lockWait)
			}
		})
	}
	// And visitors of web applications, one request after the other.
	for range 4 {
		var v shopper
		work(func(int) {
			if err := v.visit(apps[rand.N(len(apps))]); err != nil {
				l.fail("a visitor: %v", err)
				v = shopper{}
			}
		})
	}

	for round := range rounds {
		until := l.calls.Load() + 200 + rand.Int64N(200)
		eventually(t, "clients go on", func() bool { return l.calls.Load() >= until })
		i := rand.N(len(running))
		if round%4 == 3 {
			running[i].stop()
		} else {
			running[i].signal(os.Kill)
			running[i].wait()
		}
		until = l.calls.Load() + 100
		eventually(t, "clients go on with one server", func() bool { return l.calls.Load() >= until })
		running[i] = serve(i)
	}
	close(stop)
	working.Wait()
	l.check(t, clients[0])
	if longest := time.Duration(l.longest.Load()); longest > lockWait {
		t.Errorf("a call took %v; want %v at most", longest, lockWait)
	}
	for _, app := range apps {
		app.sessions.Close(t.Context())
	}
}
