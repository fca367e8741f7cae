package redisstore_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/valkey-io/valkey-go"

	"github.com/holdfast-session/holdfast/internal/servers"
	"github.com/holdfast-session/holdfast/redisstore"
	"github.com/holdfast-session/holdfast/store"
)

// single is the server of most tests.
var single = servers.Shared(func(t testing.TB) *servers.Redis { return servers.StartRedis(t, nil) })

func anyPrefix() string { return fmt.Sprintf("test-%x", rand.Uint64()) }

func testID(session string) store.ID { return store.ID{App: "/shop", Session: session} }

func mustCreate(t testing.TB, s store.Store, id store.ID, rec store.Record) *store.Record {
	t.Helper()
	rec.Version = store.NewVersion()
	if rec.Timeout == 0 {
		rec.Timeout = 20 * time.Minute
	}
	if err := s.Create(t.Context(), id, &rec, false); err != nil {
		t.Fatal(err)
	}
	return &rec
}

func mustLoad(t testing.TB, s store.Store, id store.ID) *store.Record {
	t.Helper()
	rec := new(store.Record)
	if err := s.Load(t.Context(), id, rec); err != nil {
		t.Fatal(err)
	}
	return rec
}

// eventually waits until something is so.
func eventually(t testing.TB, what string, so func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	limit := time.NewTimer(20 * time.Second)
	defer limit.Stop()
	for !so() {
		select {
		case <-tick.C:
		case <-limit.C:
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// A wiretap counts the bytes that a client sends and receives.
type wiretap struct{ sent, came atomic.Int64 }

type tapped struct {
	net.Conn
	tap *wiretap
}

func (c tapped) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.tap.came.Add(int64(n))
	return n, err
}

func (c tapped) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.tap.sent.Add(int64(n))
	return n, err
}

// open returns a store over a client whose bytes are counted.
func (w *wiretap) open(t testing.TB, server *servers.Redis, o redisstore.Options) *redisstore.Store {
	t.Helper()
	co, err := redisstore.ParseURL(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	co.DialCtxFn = func(ctx context.Context, addr string, d *net.Dialer, _ *tls.Config) (net.Conn, error) {
		conn, err := d.DialContext(ctx, "unix", addr)
		return tapped{conn, w}, err
	}
	co.DisableCache = o.Staleness == 0
	co.Dialer.KeepAlive = -1  // no PING
	co.PipelineMultiplex = -1 // one connection: what others say first would be counted, too
	client, err := valkey.NewClient(co)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	o.Logger = slog.New(slog.DiscardHandler)
	s, err := redisstore.New(client, &o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// TestUnchangedBodyDoesNotTravel: but what has changed does, at once.
func TestUnchangedBodyDoesNotTravel(t *testing.T) {
	const size = 4096
	server := single(t)
	o := redisstore.Options{Prefix: anyPrefix(), Ends: -1}
	tap, other := new(wiretap), new(wiretap)
	near, far := tap.open(t, server, o), other.open(t, server, o)
	id, began := testID("s"), other.came.Load()
	mustCreate(t, far, id, store.Record{Body: bytes.Repeat([]byte{'a'}, size), Subject: "anna"})
	eventually(t, "the other one to sweep", func() bool { return other.came.Load() > began+size })
	var rec store.Record
	check := func(what string, call func() error, want byte, travels bool) {
		t.Helper()
		before := tap.came.Load()
		if err := call(); err != nil || !bytes.Equal(rec.Body, bytes.Repeat([]byte{want}, size)) || rec.Subject != "anna" {
			t.Fatalf("%s: %.3q of %q, %v", what, rec.Body, rec.Subject, err)
		}
		if came := tap.came.Load() - before; came > size != travels || !travels && came > size/10 {
			t.Errorf("%s: %d bytes came; want the content to travel: %v", what, came, travels)
		}
	}
	load := func() error { return near.Load(t.Context(), id, &rec) }
	lock := func() error {
		return near.Lock(t.Context(), id, store.LockOptions{Owner: 7}, &rec)
	}
	check("the first Load", load, 'a', true)
	check("the second Load", load, 'a', false)
	check("Lock", lock, 'a', false)
	rec.Body = bytes.Repeat([]byte{'b'}, size)
	if err := near.Save(t.Context(), id, &rec, store.NewVersion(), false); err != nil {
		t.Fatal(err)
	}
	check("Load of what was saved", load, 'b', false)
	theirs := mustLoad(t, far, id)
	theirs.Body = bytes.Repeat([]byte{'c'}, size)
	if err := far.Save(t.Context(), id, theirs, store.NewVersion(), false); err != nil {
		t.Fatal(err)
	}
	check("Load of what another saved", load, 'c', true)
	if err := far.Remove(t.Context(), id, store.Lock{}, store.Reason{Kind: store.Abandoned}); err != nil {
		t.Fatal(err)
	}
	if err := load(); store.ReasonOf(err).Kind != store.Abandoned {
		t.Errorf("Load of what another removed: %v", err)
	}
}

// TestStaleness: with client-side caching, nothing travels; what others change is seen a
// moment later, and what this process changes at once.
func TestStaleness(t *testing.T) {
	server := single(t)
	o := redisstore.Options{Prefix: anyPrefix(), Ends: -1, Staleness: time.Minute}
	tap := new(wiretap)
	near, far := tap.open(t, server, o), new(wiretap).open(t, server, o)
	id := testID("s")
	mustCreate(t, far, id, store.Record{Body: []byte("v0")})
	eventually(t, "a Load that asks nobody", func() bool {
		before := tap.sent.Load()
		if got := mustLoad(t, near, id); string(got.Body) != "v0" {
			t.Fatalf("Load: %q", got.Body)
		}
		return tap.sent.Load() == before
	})

	rec := mustLoad(t, far, id)
	rec.Body = []byte("v1")
	if err := far.Save(t.Context(), id, rec, store.NewVersion(), false); err != nil {
		t.Fatal(err)
	}
	eventually(t, "what another saved", func() bool { return string(mustLoad(t, near, id).Body) == "v1" })
	for i := range 50 {
		rec = mustLoad(t, near, id)
		rec.Body = fmt.Appendf(nil, "own %d", i)
		if err := near.Save(t.Context(), id, rec, store.NewVersion(), false); err != nil {
			t.Fatalf("a Save of what was read: %v", err)
		}
		if got := mustLoad(t, near, id); string(got.Body) != string(rec.Body) {
			t.Fatalf("after this process saved %q it read %q", rec.Body, got.Body)
		}
	}
	if err := far.Remove(t.Context(), id, store.Lock{}, store.Reason{Kind: store.Abandoned}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the end", func() bool {
		return store.ReasonOf(near.Load(t.Context(), id, new(store.Record))).Kind == store.Abandoned
	})

	plain := redisstore.Options{Staleness: 0}
	if _, err := redisstore.New(connect(t, server.URL(), &plain), &o); err == nil {
		t.Error("a client without client-side caching was taken")
	}
}

// TestWaitReplicas: what too few replicas have is unsure, and done all the same.
func TestWaitReplicas(t *testing.T) {
	server := single(t)
	prefix := anyPrefix()
	s := new(wiretap).open(t, server, redisstore.Options{Prefix: prefix, WaitReplicas: 1, WaitTimeout: 20 * time.Millisecond})
	plain := new(wiretap).open(t, server, redisstore.Options{Prefix: prefix})
	id := testID("s")
	rec := &store.Record{Version: store.NewVersion(), Timeout: time.Hour, Body: []byte("v0")}
	if err := s.Create(t.Context(), id, rec, false); !errors.Is(err, store.ErrUnsure) {
		t.Errorf("Create that no replica has: %v; want ErrUnsure", err)
	}
	now := mustLoad(t, plain, id)
	now.Body = []byte("v1")
	next := store.NewVersion()
	for range 2 { // the repeat changes nothing, and is no more certain
		if err := s.Save(t.Context(), id, now, next, false); !errors.Is(err, store.ErrUnsure) {
			t.Errorf("Save that no replica has: %v; want ErrUnsure", err)
		}
	}
	if got := mustLoad(t, plain, id); string(got.Body) != "v1" || got.Version != next {
		t.Errorf("after it, the session has %q", got.Body)
	}
	if err := s.Remove(t.Context(), id, store.Lock{}, store.Reason{Kind: store.Abandoned}); !errors.Is(err, store.ErrUnsure) {
		t.Errorf("Remove that no replica has: %v; want ErrUnsure", err)
	}
	if err := plain.Touch(t.Context(), id); store.ReasonOf(err).Kind != store.Abandoned {
		t.Errorf("after it: %v", err)
	}
}

// A journal keeps what was logged.
type journal struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.b.Write(p)
}

func (j *journal) logger() *slog.Logger { return slog.New(slog.NewTextHandler(j, nil)) }

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.b.String()
}

// TestDeafWaiters: a user that may not listen is told so in the log, and who waits for a
// lock gets it all the same.
func TestDeafWaiters(t *testing.T) {
	t.Parallel()
	server := servers.StartRedis(t, nil)
	server.Do(t, "ACL", "SETUSER", "shop", "on", ">pw", "~holdfast:*", "+@all", "resetchannels")
	var j journal
	s, err := redisstore.Open(strings.Replace(server.URL(), "://", "://shop:pw@", 1), &redisstore.Options{Logger: j.logger()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	id := testID("s")
	mustCreate(t, s, id, store.Record{})
	var held, rec store.Record
	if err := s.Lock(ctx, id, store.LockOptions{Owner: 1}, &held); err != nil {
		t.Fatal(err)
	}
	got := make(chan error, 1)
	go func() { got <- s.Lock(ctx, id, store.LockOptions{Owner: 2, Wait: time.Minute}, &rec) }()
	for end := time.Now().Add(time.Minute); !strings.Contains(j.String(), "holdfast:inbox:*"); runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatalf("nothing in the log of who may not listen: %s", j.String())
		}
	}
	if err := s.Unlock(ctx, id, held.Lock); err != nil {
		t.Errorf("Unlock: %v", err)
	}
	if err := <-got; err != nil {
		t.Errorf("Lock of one who waits: %v", err)
	}
}

// A losing connection loses one reply, and breaks by that, when it is told to.
type losing struct {
	net.Conn
	lose *atomic.Bool
}

func (c losing) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 && c.lose.CompareAndSwap(true, false) {
		c.Conn.Close()
		return 0, io.EOF
	}
	return n, err
}

// TestRemoveRepeatedIsUnsure: who ends a session, and whose reply is lost, is not told
// that another has ended it.
func TestRemoveRepeatedIsUnsure(t *testing.T) {
	t.Parallel()
	co, err := redisstore.ParseURL(servers.StartRedis(t, nil).URL())
	if err != nil {
		t.Fatal(err)
	}
	var lose atomic.Bool
	dial := co.DialCtxFn
	co.DialCtxFn = func(ctx context.Context, addr string, d *net.Dialer, c *tls.Config) (net.Conn, error) {
		nc, err := dial(ctx, addr, d, c) // a unix socket's
		return losing{nc, &lose}, err
	}
	co.DisableCache = true
	co.PipelineMultiplex = -1 // one connection, which is there when the reply is to be lost
	client, err := valkey.NewClient(co)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	s, err := redisstore.New(client, &redisstore.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	id, first := testID("s"), testID("first")
	mustCreate(t, s, id, store.Record{})
	mustCreate(t, s, first, store.Record{})
	if err := s.Remove(ctx, first, store.Lock{}, store.Reason{Kind: store.Abandoned}); err != nil { // so that Redis knows the script
		t.Fatal(err)
	}
	lose.Store(true)
	if err := s.Remove(ctx, id, store.Lock{}, store.Reason{Kind: store.Abandoned}); !errors.Is(err, store.ErrUnsure) {
		t.Errorf("Remove whose reply was lost: %v; want ErrUnsure", err)
	}
	if err := s.Load(ctx, id, new(store.Record)); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Load afterwards: %v; want ErrNotFound", err)
	}
}

// TestRisksAreTold: once, when the store begins.
func TestRisksAreTold(t *testing.T) {
	for name, tc := range map[string]struct {
		server servers.RedisOptions
		o      redisstore.Options
		want   []string
	}{
		"safe":      {server: servers.RedisOptions{Durable: true}},
		"forgets":   {want: []string{"keeps nothing on disk"}},
		"snapshots": {server: servers.RedisOptions{Settings: []string{"save 3600 1"}}, want: []string{"snapshots only"}},
		"evicts": {server: servers.RedisOptions{Durable: true, Settings: []string{"maxmemory-policy volatile-lru"}},
			want: []string{"maxmemory-policy is volatile-lru"}},
		"waits in vain": {server: servers.RedisOptions{Durable: true}, o: redisstore.Options{WaitReplicas: 1},
			want: []string{"nothing can be saved"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var j journal
			o := tc.o
			o.Logger = j.logger()
			s, err := redisstore.Open(servers.StartRedis(t, &tc.server).URL(), &o)
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
			log := j.b.String()
			if got := strings.Count(log, "level=WARN"); got != len(tc.want) {
				t.Errorf("%d warnings; want %d: %s", got, len(tc.want), log)
			}
			for _, want := range tc.want {
				if !strings.Contains(log, want) {
					t.Errorf("no warning %q: %s", want, log)
				}
			}
		})
	}
}

// TestEvicted: a session that the server has thrown away was evicted, as far as its
// index tells.
func TestEvicted(t *testing.T) {
	t.Parallel()
	server := servers.StartRedis(t, &servers.RedisOptions{Settings: []string{"maxmemory-policy volatile-ttl"}})
	s := new(wiretap).open(t, server, redisstore.Options{})
	server.Do(t, "CONFIG", "SET", "maxmemory", fmt.Sprint(usedMemory(t, server)+2_000_000))
	kinds := make(map[store.Kind]int)
	for i := range 3000 {
		mustCreate(t, s, testID(fmt.Sprint(i)), store.Record{Body: make([]byte, 500)})
	}
	for i := range 3000 {
		if err := s.Touch(t.Context(), testID(fmt.Sprint(i))); err != nil {
			kinds[store.ReasonOf(err).Kind]++
		}
	}
	if kinds[store.Evicted] < 500 || len(kinds) != 1 {
		t.Errorf("of 3000 sessions, more than there is room for, are gone: %v; want them evicted", kinds)
	}
}

// TestSubjectsHeal: a subject's set that was lost is made again as the sweep meets its
// sessions, and one with too many in it loses them.
func TestSubjectsHeal(t *testing.T) {
	server := single(t)
	f := newFarm(server.URL())
	o := redisstore.Options{Prefix: anyPrefix(), Ends: 100}
	s := f.open(t, o, redisstore.MaxBuckets)
	id, other := testID("s"), testID("other")
	mustCreate(t, s, id, store.Record{Subject: "anna", Timeout: 10 * time.Minute})
	set := o.Prefix + ":subject:/shop:anna"
	server.Do(t, "DEL", set)
	server.Do(t, "ZADD", set, "1", other.Session)
	sessions := func() (n int) {
		t.Helper()
		page, _, err := s.List(t.Context(), store.Query{App: id.App, Subject: "anna"})
		if err != nil {
			t.Fatal(err)
		}
		return len(page)
	}
	if n := sessions(); n != 0 {
		t.Fatalf("%d sessions of a subject whose set is lost", n)
	}
	if members := server.Do(t, "ZRANGE", set, "0", "-1"); members != "" {
		t.Errorf("the set has %q still, which is not there", members)
	}
	for range 2 {
		f.advance(6 * time.Minute)
		if err := s.Touch(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	// It was due once, as far as the index knew: that is when it is met.
	if ends, err := s.Ended(t.Context(), id.App, 10, time.Minute); err != nil || len(ends) != 0 {
		t.Fatalf("Ended: %v, %v", ends, err)
	}
	eventually(t, "the session to be in its subject's set again", func() bool { return sessions() == 1 })
}

// TestWaiterIsNotLost: one who waits gets the lock although the messages that should
// tell are lost, or tell one whose process has died.
func TestWaiterIsNotLost(t *testing.T) {
	t.Parallel()
	server := servers.StartRedis(t, nil)
	o := redisstore.Options{Prefix: anyPrefix()}
	a, b := new(wiretap).open(t, server, o), new(wiretap).open(t, server, o)
	id := testID("s")
	mustCreate(t, a, id, store.Record{})
	var held store.Record
	lock := func(s store.Store, rec *store.Record) error {
		return s.Lock(t.Context(), id, store.LockOptions{Owner: store.NewOwner(), Wait: 30 * time.Second}, rec)
	}
	inLine := func(n int) {
		t.Helper()
		eventually(t, fmt.Sprint(n, " in line"), func() bool {
			keys := strings.Fields(server.Do(t, "KEYS", o.Prefix+"*:s:s"))
			return len(keys) == 1 && server.Do(t, "HSTRLEN", keys[0], "w") == fmt.Sprint(8+16*n)
		})
	}
	if err := lock(a, &held); err != nil {
		t.Fatal(err)
	}
	// The first in line is a process that died there.
	keys := strings.Fields(server.Do(t, "KEYS", o.Prefix+"*:s:s"))
	server.Do(t, "HSET", keys[0], "w", strings.Repeat("\x00", 8)+"deadinbx"+"deadownr")
	var rec store.Record
	got := make(chan error, 1)
	go func() { got <- lock(b, &rec) }()
	inLine(2)
	if err := a.Unlock(t.Context(), id, held.Lock); err != nil {
		t.Fatal(err)
	}
	if err := within(t, got, 10*time.Second); err != nil {
		t.Fatalf("Lock behind one who has died: %v", err)
	}

	// The message goes to a connection that is gone.
	go func() { got <- lock(a, &held) }()
	inLine(1)
	server.Do(t, "CLIENT", "KILL", "TYPE", "pubsub")
	if err := b.Unlock(t.Context(), id, rec.Lock); err != nil {
		t.Fatal(err)
	}
	if err := within(t, got, 10*time.Second); err != nil {
		t.Fatalf("Lock whose message was lost: %v", err)
	}
}

func within(t *testing.T, got <-chan error, d time.Duration) error {
	t.Helper()
	limit := time.NewTimer(d)
	defer limit.Stop()
	select {
	case err := <-got:
		return err
	case <-limit.C:
		t.Fatalf("it has not returned within %v", d)
		return nil
	}
}

// TestEndsAreWanted: ends are remembered of applications that somebody asks for, and of
// no others.
func TestEndsAreWanted(t *testing.T) {
	t.Parallel()
	server := single(t)
	o := redisstore.Options{Prefix: anyPrefix()}
	s := new(wiretap).open(t, server, o)
	wanted, unwanted := testID("s"), store.ID{App: "/unwanted", Session: "s"}
	if _, err := s.Ended(t.Context(), wanted.App, 0, time.Minute); err != nil {
		t.Fatal(err)
	}
	mustCreate(t, s, unwanted, store.Record{})
	eventually(t, "the store to learn that nobody wants these", func() bool {
		return server.Do(t, "EXISTS", o.Prefix+":app:"+unwanted.App) == "1"
	})
	eventually(t, "an end that is not remembered", func() bool {
		id := store.ID{App: unwanted.App, Session: fmt.Sprint(rand.Uint64())}
		mustCreate(t, s, id, store.Record{})
		if err := s.Remove(t.Context(), id, store.Lock{}, store.Reason{Kind: store.Abandoned}); err != nil {
			t.Fatal(err)
		}
		for _, key := range strings.Fields(server.Do(t, "KEYS", o.Prefix+"*:s:"+id.Session)) {
			return server.Do(t, "HKEYS", key) == "t"
		}
		return false
	})
	mustCreate(t, s, wanted, store.Record{Body: []byte("v0")})
	if err := s.Remove(t.Context(), wanted, store.Lock{}, store.Reason{Kind: store.Abandoned}); err != nil {
		t.Fatal(err)
	}
	if ends, err := s.Ended(t.Context(), wanted.App, 10, time.Minute); err != nil || len(ends) != 1 || string(ends[0].Record.Body) != "v0" {
		t.Errorf("Ended: %v, %v; want the one", ends, err)
	}
}

// TestUnreachable: a server that is gone is so at once, and one that comes back is there.
func TestUnreachable(t *testing.T) {
	t.Parallel()
	server := servers.StartRedis(t, &servers.RedisOptions{Durable: true})
	s := new(wiretap).open(t, server, redisstore.Options{})
	id := testID("s")
	mustCreate(t, s, id, store.Record{Body: []byte("v0")})
	server.Kill()
	var last error
	eventually(t, "ErrUnavailable at once", func() bool {
		began := time.Now()
		last = s.Load(t.Context(), id, new(store.Record))
		if last == nil {
			t.Fatal("a server that was killed has answered")
		}
		return errors.Is(last, store.ErrUnavailable) && time.Since(began) < time.Second
	})
	server.Restart()
	if got := mustLoad(t, s, id); string(got.Body) != "v0" {
		t.Errorf("after a restart: %q", got.Body)
	}
}

// TestPermissions: the permissions that the package comment names are enough.
func TestPermissions(t *testing.T) {
	server := single(t)
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	_, list, found := strings.Cut(string(doc), "Permissions that a user")
	if !found {
		t.Fatal("the package comment names no permissions")
	}
	prefix := anyPrefix()
	rule := []string{"ACL", "SETUSER", "shop", "on", ">s3cret", "~" + prefix + ":*", "&" + prefix + ":*"}
	for _, word := range strings.Fields(list) {
		if word = strings.TrimRight(word, ","); strings.HasPrefix(word, "+") {
			rule = append(rule, word)
		}
	}
	server.Do(t, rule...)
	o := &redisstore.Options{Prefix: prefix, Ends: 100, Logger: slog.New(slog.DiscardHandler)}
	s, err := redisstore.Open(strings.Replace(server.URL(), "://", "://shop:s3cret@", 1), o)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	id := testID("s")
	mustCreate(t, s, id, store.Record{Subject: "anna"})
	var held, waited store.Record
	if err := s.Lock(t.Context(), id, store.LockOptions{Owner: 1}, &held); err != nil {
		t.Fatal(err)
	}
	got := make(chan error, 1)
	go func() {
		got <- s.Lock(t.Context(), id, store.LockOptions{Owner: 2, Wait: 20 * time.Second}, &waited)
	}()
	eventually(t, "one who waits", func() bool {
		return len(strings.Fields(server.Do(t, "PUBSUB", "CHANNELS", prefix+"*"))) > 0
	})
	held.Subject = "otto"
	if err := s.Save(t.Context(), id, &held, store.NewVersion(), false); err != nil {
		t.Error(err)
	}
	if err := within(t, got, 20*time.Second); err != nil {
		t.Error(err)
	}
	if page, _, err := s.List(t.Context(), store.Query{Subject: "otto"}); err != nil || len(page) != 1 {
		t.Errorf("List: %v, %v", page, err)
	}
	if err := s.Remove(t.Context(), id, waited.Lock, store.Reason{Kind: store.Abandoned}); err != nil {
		t.Error(err)
	}
	ends, err := s.Ended(t.Context(), id.App, 10, time.Minute)
	if err != nil || len(ends) != 1 {
		t.Fatalf("Ended: %v, %v", ends, err)
	}
	if err := s.Ack(t.Context(), id.App, []string{ends[0].Key}); err != nil {
		t.Error(err)
	}
	if log := server.Do(t, "ACL", "LOG"); strings.Contains(log, "shop") && !strings.Contains(log, "config") {
		t.Errorf("it was refused something: %s", log)
	}
}

// TestUserWithoutChannels: what was done although nobody could be told of it was done,
// and who waits finds out by asking.
func TestUserWithoutChannels(t *testing.T) {
	server, prefix := servers.StartRedis(t, nil), anyPrefix()
	server.Do(t, "ACL", "SETUSER", "shop", "on", ">s3cret", "~"+prefix+":*", "+@all")
	o := &redisstore.Options{Prefix: prefix, Logger: slog.New(slog.DiscardHandler)}
	s, err := redisstore.Open(strings.Replace(server.URL(), "://", "://shop:s3cret@", 1), o)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for what, end := range map[string]func(id store.ID, held *store.Record) error{
		"Save":   func(id store.ID, held *store.Record) error { return s.Save(ctx, id, held, store.NewVersion(), false) },
		"Unlock": func(id store.ID, held *store.Record) error { return s.Unlock(ctx, id, held.Lock) },
		"Remove": func(id store.ID, held *store.Record) error {
			return s.Remove(ctx, id, held.Lock, store.Reason{Kind: store.Abandoned})
		},
	} {
		id := testID(what)
		mustCreate(t, s, id, store.Record{})
		var held store.Record
		if err := s.Lock(ctx, id, store.LockOptions{Owner: store.NewOwner()}, &held); err != nil {
			t.Fatal(err)
		}
		got := make(chan error, 1)
		go func() {
			got <- s.Lock(ctx, id, store.LockOptions{Owner: store.NewOwner(), Wait: time.Minute}, new(store.Record))
		}()
		key := server.Do(t, "KEYS", prefix+":*:s:"+what)
		eventually(t, "one who waits", func() bool { return server.Do(t, "HEXISTS", key, "w") == "1" })
		if err := end(id, &held); err != nil {
			t.Errorf("%s, while another waits: %v", what, err)
		}
		err := within(t, got, 20*time.Second)
		if gone := errors.Is(err, store.ErrNotFound); gone != (what == "Remove") || err != nil && !gone {
			t.Errorf("Lock of who waited for %s: %v", what, err)
		}
	}
}

func TestOptions(t *testing.T) {
	client := connect(t, single(t).URL(), new(redisstore.Options))
	for name, o := range map[string]redisstore.Options{
		"Prefix":       {Prefix: "a{b}"},
		"Timeout":      {Timeout: -1},
		"Staleness":    {Staleness: -1},
		"WaitReplicas": {WaitReplicas: -1},
		"WaitTimeout":  {WaitTimeout: -1},
	} {
		if _, err := redisstore.New(client, &o); err == nil || !strings.Contains(err.Error(), "Options."+name) {
			t.Errorf("%+v: %v; want an error that names %s", o, err, name)
		}
	}
}
