package redisstore_test

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/valkey-io/valkey-go"

	"github.com/holdfast-session/holdfast/internal/servers"
	"github.com/holdfast-session/holdfast/redisstore"
	"github.com/holdfast-session/holdfast/stateserver"
	"github.com/holdfast-session/holdfast/store"
	"github.com/holdfast-session/holdfast/storetest"
)

// ctx is that of calls that are measured, without a deadline to be minded.
var ctx = context.Background()

func TestMain(m *testing.M) {
	flag.Parse()
	// Tests mostly wait, for servers and for time to pass.
	if err := flag.Set("test.parallel", "16"); err != nil {
		panic(err)
	}
	servers.Main(m)
}

// A farm is stores over one server, or several, whose clock the test moves.
type farm struct {
	url   string
	clock redisstore.Clock

	mu     sync.Mutex
	stores []*redisstore.Store
	of     map[store.Store]redisstore.Options
}

func newFarm(url string) *farm {
	return &farm{url: url, of: make(map[store.Store]redisstore.Options)}
}

// open returns a store over a client of its own.
func (f *farm) open(t testing.TB, o redisstore.Options, buckets int) *redisstore.Store {
	t.Helper()
	o.Logger = slog.New(slog.DiscardHandler)
	client := connect(t, f.url, &o)
	s, err := redisstore.NewWith(client, &o, &f.clock, buckets)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stores = append(f.stores, s)
	f.of[s] = o
	return s
}

// advance moves the clock of all stores, and has those who wait look at it.
func (f *farm) advance(d time.Duration) {
	f.clock.Advance(d)
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.stores {
		s.Wake()
	}
}

// harness is that of stores with options o. Each that is opened has a prefix of its own.
func (f *farm) harness(o redisstore.Options) storetest.Harness {
	return storetest.Harness{
		Open: func(t testing.TB) store.Store {
			o := o
			o.Prefix = fmt.Sprintf("test-%x", rand.Uint64())
			return f.open(t, o, redisstore.MaxBuckets)
		},
		Second: func(t testing.TB, s store.Store) store.Store {
			f.mu.Lock()
			o := f.of[s]
			f.mu.Unlock()
			return f.open(t, o, redisstore.MaxBuckets)
		},
		Advance: f.advance,
	}
}

// connect returns a client as Open makes it.
func connect(t testing.TB, url string, o *redisstore.Options) valkey.Client {
	t.Helper()
	co, err := redisstore.ParseURL(url)
	if err != nil {
		t.Fatal(err)
	}
	co.DisableCache = o.Staleness == 0
	client, err := valkey.NewClient(co)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

// written has a server write each change to its file before it replies, so that nothing
// is lost when the process is killed. It does not wait for the disk.
var written = &servers.RedisOptions{Settings: []string{"appendonly yes", "appendfsync no"}}

// TestContract runs the whole suite on one server that is stopped and killed.
func TestContract(t *testing.T) {
	t.Parallel() // with those on other servers: they mostly wait
	server := servers.StartRedis(t, written)
	f := newFarm(server.URL())
	h := f.harness(redisstore.Options{Ends: 1 << 20})
	h.Restart = func(t testing.TB, s store.Store, crash bool) store.Store {
		if crash {
			server.Kill()
		} else {
			server.Stop()
		}
		server.Restart()
		return h.Second(t, s)
	}
	h.OpenSmall = func(t testing.TB) store.Store {
		server := servers.StartRedis(t, nil)
		small := newFarm(server.URL())
		s := small.open(t, redisstore.Options{Ends: 100}, 1)
		server.Do(t, "CONFIG", "SET", "maxmemory", fmt.Sprint(usedMemory(t, server)+1_300_000))
		return s
	}
	storetest.Run(t, h)
}

// usedMemory is what a server has in use, as it counts that itself.
func usedMemory(t testing.TB, server *servers.Redis) (n int) {
	t.Helper()
	for line := range strings.Lines(server.Do(t, "INFO", "memory")) {
		if _, err := fmt.Sscanf(line, "used_memory:%d", &n); err == nil {
			return n
		}
	}
	t.Fatal("INFO memory has no used_memory")
	return 0
}

// TestContractSentinel runs it on a master that Sentinels watch, whose changes a replica
// has before they are acknowledged; in the long run, since TestSentinel is in every one.
func TestContractSentinel(t *testing.T) {
	if !long() {
		return
	}
	t.Parallel()
	f := newFarm(servers.StartSentinel(t, 1, 30*time.Second, nil).URL())
	storetest.Run(t, f.harness(redisstore.Options{Ends: 1 << 20, WaitReplicas: 1}))
}

// TestContractCluster runs it on a cluster of three masters and three replicas; in the
// long run, since TestSlotsMove and TestFailover are in every one.
func TestContractCluster(t *testing.T) {
	if !long() {
		return
	}
	t.Parallel()
	f := newFarm(servers.StartRedisCluster(t, 30*time.Second, nil).URL())
	storetest.Run(t, f.harness(redisstore.Options{Ends: 1 << 20}))
}

// TestContractServed runs it on clients of state servers that keep nothing themselves; in
// the long run.
func TestContractServed(t *testing.T) {
	if !long() {
		return
	}
	t.Parallel()
	f := newFarm(servers.StartRedis(t, nil).URL())
	h := f.harness(redisstore.Options{Ends: 1 << 20})
	var over sync.Map // what the server of each client is over
	open, second := h.Open, h.Second
	serve := func(t testing.TB, s store.Store) store.Store {
		l, err := net.Listen("unix", filepath.Join(servers.Folder(t), "s"))
		if err != nil {
			t.Fatal(err)
		}
		server := &stateserver.Server{Store: s, Logger: slog.New(slog.DiscardHandler)}
		served := make(chan error, 1)
		go func() { served <- server.Serve(l) }()
		c, err := stateserver.Dial("unix:"+l.Addr().String(), nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			c.Close()
			server.Close()
			<-served
		})
		over.Store(c, s)
		return c
	}
	h.Open = func(t testing.TB) store.Store { return serve(t, open(t)) }
	h.Second = func(t testing.TB, c store.Store) store.Store {
		s, _ := over.Load(c)
		return serve(t, second(t, s.(store.Store)))
	}
	storetest.Run(t, h)
}
