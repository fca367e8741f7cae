package redisstore_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-session/holdfast/internal/servers"
	"github.com/holdfast-session/holdfast/redisstore"
	"github.com/holdfast-session/holdfast/store"
)

const (
	// nodeTimeout is after what time a cluster takes a node for dead, downAfter a
	// Sentinel a master.
	nodeTimeout = 5 * time.Second
	downAfter   = 5 * time.Second
)

// long reports whether the scenarios run that take minutes.
func long() bool { return os.Getenv("HOLDFAST_LONG") != "" }

// under has workers at two stores while something befalls the servers, and checks what
// became of their work.
func (f *farm) under(t *testing.T, o redisstore.Options, befall func(l *ledger)) verdict {
	t.Helper()
	o.Prefix = fmt.Sprintf("test-%x", rand.Uint64())
	var stores []store.Store
	for range 2 {
		stores = append(stores, f.open(t, o, redisstore.MaxBuckets))
	}
	l := newLedger()
	stop := make(chan struct{})
	wait := l.work(t, stores, stop)
	befall(l)
	close(stop)
	wait()
	return l.check(t, stores[0])
}

// passes waits while the workers make so many calls.
func (l *ledger) passes(t *testing.T, calls int) {
	t.Helper()
	l.mu.Lock()
	until := l.calls + calls
	l.mu.Unlock()
	limit := time.NewTimer(2 * ledgerDoubt)
	defer limit.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		l.mu.Lock()
		done := l.calls >= until
		l.mu.Unlock()
		if done {
			return
		}
		select {
		case <-tick.C:
		case <-limit.C:
			t.Fatalf("the workers have not made %d calls", calls)
		}
	}
}

// all is that nothing was lost.
func (v verdict) all(t *testing.T) {
	t.Helper()
	if v.lost > 0 || v.undone > 0 {
		t.Errorf("%d acknowledged saves are lost, and %d ends undone; want none", v.lost, v.undone)
	}
}

// TestSlotsMove moves slots of a cluster while their sessions are locked and saved, some
// of their keys on the one node and some on the other, and has the nodes forget the
// scripts again and again.
func TestSlotsMove(t *testing.T) {
	t.Parallel()
	cluster := servers.StartRedisCluster(t, nodeTimeout, nil)
	newFarm(cluster.URL()).under(t, redisstore.Options{Ends: 1 << 20}, func(l *ledger) {
		l.passes(t, 300)
		for round := range 6 {
			slot := slotOf(t, cluster, l.app)
			if slot == "" {
				t.Fatal("no node has a session")
			}
			from := cluster.Owner(t, slot)
			m := cluster.Migrate(t, slot, (from+1)%3)
			l.passes(t, 150)
			for m.Move(t, 1) > 0 && !t.Failed() {
				l.passes(t, 60)
			}
			for _, n := range cluster.Nodes[:3] {
				n.Do(t, "SCRIPT", "FLUSH")
			}
			if round%2 == 0 {
				l.passes(t, 100) // all keys have moved, and the slot has not yet
			}
			m.Finish(t)
		}
		l.passes(t, 300)
	}).all(t)
}

// TestSentinel has the work done under Sentinels, with every change on a replica before it
// is acknowledged, while connections are cut and scripts forgotten.
func TestSentinel(t *testing.T) {
	t.Parallel()
	sentinel := servers.StartSentinel(t, 1, downAfter, nil)
	newFarm(sentinel.URL()).under(t, redisstore.Options{Ends: 1 << 20, WaitReplicas: 1}, func(l *ledger) {
		for range 6 {
			l.passes(t, 200)
			sentinel.Servers[0].Do(t, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
			sentinel.Servers[0].Do(t, "SCRIPT", "FLUSH")
		}
	}).all(t)
}

// slotOf returns a slot in which an application has a session.
func slotOf(t *testing.T, cluster *servers.RedisCluster, app string) string {
	t.Helper()
	nodes := cluster.Nodes[:3]
	for _, i := range rand.Perm(len(nodes)) {
		for key := range strings.Lines(nodes[i].Do(t, "KEYS", "*:s:*")) {
			if key = strings.TrimRight(key, "\n"); strings.Contains(key, app) {
				return cluster.Slot(t, key)
			}
		}
	}
	return ""
}

// TestFailover kills or pauses masters, of a cluster and under Sentinels, until replicas
// have taken over. Whatever a failover loses, no two saves of one version survive. With a
// replica that is waited for, nothing that was acknowledged is lost.
func TestFailover(t *testing.T) {
	t.Parallel()
	for _, waited := range []int{0, 1} {
		for _, fault := range []string{"killed", "paused"} {
			for _, kind := range []string{"cluster", "sentinel"} {
				if !long() && (kind != "cluster" || fault != "killed" || waited == 0) {
					continue // one of them is in every run
				}
				t.Run(fmt.Sprintf("%s master %s, %d replicas waited for", kind, fault, waited), func(t *testing.T) {
					t.Parallel()
					o := redisstore.Options{WaitReplicas: waited, WaitTimeout: 500 * time.Millisecond}
					var v verdict
					if kind == "cluster" {
						v = clusterFailover(t, o, fault)
					} else {
						v = sentinelFailover(t, o, fault)
					}
					if waited > 0 {
						v.all(t)
					}
				})
			}
		}
	}
}

func clusterFailover(t *testing.T, o redisstore.Options, fault string) verdict {
	cluster := servers.StartRedisCluster(t, nodeTimeout, nil)
	return newFarm(cluster.URL()).under(t, o, func(l *ledger) {
		l.passes(t, 500)
		master, replica := cluster.Nodes[0], cluster.Nodes[3]
		stopped(master, fault)
		servers.Await(t, "a replica to take over", func() bool { return strings.Contains(replica.Do(t, "ROLE"), "master\n") })
		if o.WaitReplicas == 0 { // else nothing is acknowledged before it is back
			l.passes(t, 300)
		}
		started(master, fault)
		cluster.AwaitHealthy(t)
		l.passes(t, 500)
	})
}

func sentinelFailover(t *testing.T, o redisstore.Options, fault string) verdict {
	sentinel := servers.StartSentinel(t, 1, downAfter, nil)
	return newFarm(sentinel.URL()).under(t, o, func(l *ledger) {
		l.passes(t, 500)
		master := sentinel.Servers[0]
		stopped(master, fault)
		servers.Await(t, "another master", func() bool { return sentinel.Master(t) != master })
		if o.WaitReplicas == 0 {
			l.passes(t, 300)
		}
		started(master, fault)
		servers.Await(t, "the old master to follow", func() bool {
			role, err := master.Try(t.Context(), "ROLE")
			return err == nil && strings.HasPrefix(role, "slave\n")
		})
		l.passes(t, 500)
	})
}

func stopped(r *servers.Redis, how string) {
	if how == "killed" {
		r.Kill()
		return
	}
	r.Pause()
}

func started(r *servers.Redis, how string) {
	if how == "killed" {
		r.Restart()
		return
	}
	r.Resume()
}
