package servers

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"
)

// SentinelMaster is the name of the master that a [Sentinel] watches.
const SentinelMaster = "sessions"

// A Sentinel is a private Redis with replicas, and three Sentinels that watch it.
type Sentinel struct {
	// Servers are the one that was the master at first, and its replicas.
	Servers   []*Redis
	Sentinels []*Redis
}

// StartSentinel starts a master with so many replicas and three Sentinels, which take a
// master for dead that has not answered for downAfter. All servers have the settings of
// o, but listen on ports.
func StartSentinel(t testing.TB, replicas int, downAfter time.Duration, o *RedisOptions) *Sentinel {
	t.Helper()
	options := RedisOptions{}
	if o != nil {
		options = *o
	}
	options.TCP = true
	options.Settings = append([]string{"repl-diskless-sync-delay 0", "repl-ping-replica-period 1"}, options.Settings...)
	s := new(Sentinel)
	for i := range 1 + replicas {
		o := options
		if i > 0 {
			o.Settings = append([]string{"replicaof " + spaced(s.Servers[0].Addr())}, o.Settings...)
		}
		s.Servers = append(s.Servers, StartRedis(t, &o))
	}
	for _, r := range s.Servers[1:] {
		await(t, "a replica to be in step", func(ctx context.Context) bool {
			info, err := r.Try(ctx, "INFO", "replication")
			return err == nil && strings.Contains(info, "master_link_status:up")
		})
	}
	for range 3 {
		dir, port := Folder(t), Port(t)
		watch := &Redis{network: "tcp", addr: fmt.Sprint("127.0.0.1:", port)}
		watch.Process = startRedis(t, dir, watch, "--sentinel", []string{
			"dir " + dir, fmt.Sprint("port ", port), "bind 127.0.0.1",
			fmt.Sprintf("sentinel monitor %s %s 2", SentinelMaster, spaced(s.Servers[0].Addr())),
			fmt.Sprintf("sentinel down-after-milliseconds %s %d", SentinelMaster, downAfter.Milliseconds()),
			fmt.Sprintf("sentinel failover-timeout %s 10000", SentinelMaster),
		})
		s.Sentinels = append(s.Sentinels, watch)
	}
	for _, w := range s.Sentinels {
		await(t, "the Sentinels to know each other and the replicas", func(ctx context.Context) bool {
			about, err := w.Try(ctx, "SENTINEL", "MASTER", SentinelMaster)
			return err == nil && strings.Contains(about, "num-other-sentinels\n2\n") && strings.Contains(about, fmt.Sprintf("num-slaves\n%d\n", replicas))
		})
	}
	return s
}

// Master returns the server that the Sentinels take for the master.
func (s *Sentinel) Master(t testing.TB) *Redis {
	t.Helper()
	for _, w := range s.Sentinels {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		addr, err := w.Try(ctx, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", SentinelMaster)
		cancel()
		if err != nil {
			continue
		}
		host, port, _ := strings.Cut(addr, "\n")
		for _, r := range s.Servers {
			if r.Addr() == net.JoinHostPort(host, port) {
				return r
			}
		}
	}
	t.Fatal("no Sentinel knows a master")
	return nil
}

// URL returns its address as redisstore.Open has it.
func (s *Sentinel) URL() string {
	return "redis-sentinel://" + addrs(s.Sentinels) + "/" + SentinelMaster
}

func addrs(servers []*Redis) string {
	var all []string
	for _, r := range servers {
		all = append(all, r.Addr())
	}
	return strings.Join(all, ",")
}

// spaced is a host and a port as Redis's settings have them.
func spaced(addr string) string { return strings.Replace(addr, ":", " ", 1) }

// Await waits until something is so, for as long as a server may take to be ready.
func Await(t testing.TB, what string, so func() bool) {
	t.Helper()
	await(t, what, func(context.Context) bool { return so() })
}

// await waits until something is so.
func await(t testing.TB, what string, so func(ctx context.Context) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), readyWithin)
	defer cancel()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for !so(ctx) {
		select {
		case <-again.C:
		case <-ctx.Done():
			t.Fatalf("waited %v in vain for %s", readyWithin, what)
		}
	}
}
