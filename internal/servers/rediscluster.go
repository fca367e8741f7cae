package servers

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// slots is how many a Redis Cluster has.
const slots = 16384

// A RedisCluster is a private Redis Cluster: three masters, and then for each of them a
// replica, in the same order.
type RedisCluster struct {
	Nodes []*Redis
	ids   []string
}

// StartRedisCluster starts a cluster of six nodes, which take a node for dead that has
// not answered for nodeTimeout. They have the settings of o, but listen on ports.
func StartRedisCluster(t testing.TB, nodeTimeout time.Duration, o *RedisOptions) *RedisCluster {
	t.Helper()
	const masters = 3
	s := new(RedisCluster)
	var buses []int
	for range 2 * masters {
		bus := Port(t)
		buses = append(buses, bus)
		options := RedisOptions{}
		if o != nil {
			options = *o
		}
		options.TCP = true
		options.Settings = append([]string{
			"cluster-enabled yes", "cluster-config-file nodes", fmt.Sprint("cluster-port ", bus),
			fmt.Sprint("cluster-node-timeout ", nodeTimeout.Milliseconds()), "cluster-migration-barrier 99",
			"repl-diskless-sync-delay 0", "repl-ping-replica-period 1",
		}, options.Settings...)
		s.Nodes = append(s.Nodes, StartRedis(t, &options))
	}
	first := s.Nodes[0]
	for i, n := range s.Nodes {
		s.ids = append(s.ids, n.Do(t, "CLUSTER", "MYID"))
		n.Do(t, "CLUSTER", "SET-CONFIG-EPOCH", fmt.Sprint(i+1))
		if i < masters {
			n.Do(t, "CLUSTER", "ADDSLOTSRANGE", fmt.Sprint(i*slots/masters), fmt.Sprint((i+1)*slots/masters-1))
		}
		if i > 0 {
			host, port, _ := strings.Cut(n.Addr(), ":")
			first.Do(t, "CLUSTER", "MEET", host, port, fmt.Sprint(buses[i]))
		}
	}
	for i, n := range s.Nodes[masters:] {
		await(t, "a node to meet its master", func(ctx context.Context) bool {
			_, err := n.Try(ctx, "CLUSTER", "REPLICATE", s.ids[i])
			return err == nil
		})
	}
	s.AwaitHealthy(t)
	return s
}

// AwaitHealthy waits until all nodes that run agree that there is a master for each
// slot, and each has a replica in step.
func (s *RedisCluster) AwaitHealthy(t testing.TB) {
	t.Helper()
	for _, n := range s.Nodes {
		if n.PID() == 0 {
			continue
		}
		await(t, "the cluster to be whole", func(ctx context.Context) bool {
			info, err := n.Try(ctx, "CLUSTER", "INFO")
			if err != nil || !strings.Contains(info, "cluster_state:ok") || !strings.Contains(info, "cluster_known_nodes:6") {
				return false
			}
			about, err := n.Try(ctx, "INFO", "replication")
			return err == nil && (strings.Contains(about, "master_link_status:up") || strings.Contains(about, "state=online"))
		})
	}
}

// URL returns its address as redisstore.Open has it.
func (s *RedisCluster) URL() string { return "redis-cluster://" + addrs(s.Nodes) }

// Owner returns the number, in Nodes, of the master that has a slot, as a node that runs
// knows it.
func (s *RedisCluster) Owner(t testing.TB, slot string) int {
	t.Helper()
	i, _ := s.owner(t, slot)
	return i
}

// Slot returns the slot of a key.
func (s *RedisCluster) Slot(t testing.TB, key string) string {
	t.Helper()
	return s.running(t).Do(t, "CLUSTER", "KEYSLOT", key)
}

func (s *RedisCluster) running(t testing.TB) *Redis {
	t.Helper()
	i := slices.IndexFunc(s.Nodes, func(n *Redis) bool { return n.PID() != 0 })
	if i < 0 {
		t.Fatal("no node of the cluster runs")
	}
	return s.Nodes[i]
}

// owner returns which node has a slot, and its ID.
func (s *RedisCluster) owner(t testing.TB, slot string) (int, string) {
	t.Helper()
	var want, low, high int
	fmt.Sscan(slot, &want)
	for line := range strings.Lines(s.running(t).Do(t, "CLUSTER", "NODES")) {
		fields := strings.Fields(line)
		if !strings.Contains(fields[2], "master") || len(fields) < 9 {
			continue
		}
		for _, held := range fields[8:] {
			switch n, _ := fmt.Sscanf(held, "%d-%d", &low, &high); n {
			case 0:
				continue // it is on its way
			case 1:
				high = low
			}
			if low <= want && want <= high {
				return slices.Index(s.ids, fields[0]), fields[0]
			}
		}
	}
	t.Fatalf("no node has the slot %s", slot)
	return 0, ""
}

// A Migration is a slot on its way from one master to another.
type Migration struct {
	s        *RedisCluster
	slot     string
	from, to int
}

// Migrate begins to move a slot to the node to, a master. Its keys stay until they are
// moved.
func (s *RedisCluster) Migrate(t testing.TB, slot string, to int) *Migration {
	t.Helper()
	from, id := s.owner(t, slot)
	s.Nodes[to].Do(t, "CLUSTER", "SETSLOT", slot, "IMPORTING", id)
	s.Nodes[from].Do(t, "CLUSTER", "SETSLOT", slot, "MIGRATING", s.ids[to])
	return &Migration{s, slot, from, to}
}

// Move moves up to n keys of the slot, and returns how many there were.
func (m *Migration) Move(t testing.TB, n int) int {
	t.Helper()
	from := m.s.Nodes[m.from]
	keys := strings.FieldsFunc(from.Do(t, "CLUSTER", "GETKEYSINSLOT", m.slot, fmt.Sprint(n)), func(r rune) bool { return r == '\n' })
	if len(keys) == 0 {
		return 0
	}
	host, port, _ := strings.Cut(m.s.Nodes[m.to].Addr(), ":")
	from.Do(t, append([]string{"MIGRATE", host, port, "", "0", "5000", "KEYS"}, keys...)...)
	return len(keys)
}

// Finish moves what is left, and gives the slot to its new master.
func (m *Migration) Finish(t testing.TB) {
	t.Helper()
	for m.Move(t, 100) > 0 {
	}
	for _, i := range []int{m.to, m.from} {
		m.s.Nodes[i].Do(t, "CLUSTER", "SETSLOT", m.slot, "NODE", m.s.ids[m.to])
	}
}
