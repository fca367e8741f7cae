package redisstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/valkey-io/valkey-go"
)

// inspect looks at the settings of the servers, and says which put sessions at risk. A
// server that does not answer is left out; its sessions will not be there either.
func (s *Store) inspect() error {
	ctx, cancel := context.WithTimeout(s.ctx, s.o.Timeout)
	defer cancel()
	if s.o.Staleness > 0 {
		if err := s.caches(ctx); err != nil {
			return err
		}
	}
	risks := make(map[string]string) // by what is wrong, a server with it
	for addr, node := range s.client.Nodes() {
		info, err := infoOf(ctx, node)
		if err != nil {
			s.o.Logger.Debug("redisstore: a server does not tell its settings", "server", addr, "err", err)
			continue
		}
		if info["role"] == "slave" {
			continue
		}
		if err := tooOld(info); err != nil {
			return fmt.Errorf("redisstore: %s: %w", addr, err)
		}
		for _, risk := range s.risks(ctx, node, info) {
			risks[risk] = addr
		}
		if policy := info["maxmemory_policy"]; policy != "" && policy != "noeviction" {
			s.evicts.Store(true)
		}
	}
	for risk, addr := range risks {
		s.o.Logger.LogAttrs(ctx, slog.LevelWarn, "redisstore: "+risk, slog.String("server", addr))
	}
	return nil
}

// risks says what of a master's settings puts sessions at risk.
func (s *Store) risks(ctx context.Context, node valkey.Client, info map[string]string) (risks []string) {
	if policy := info["maxmemory_policy"]; policy != "" && policy != "noeviction" {
		risks = append(risks, "maxmemory-policy is "+policy+": when the memory is full, sessions are thrown away, and visitors signed out (all keys of sessions have a time to live); set it to noeviction")
	}
	replicas, _ := strconv.Atoi(info["connected_slaves"])
	if info["aof_enabled"] == "0" {
		if save, known := configOf(ctx, node, "save"); known && save == "" {
			risk := "the server keeps nothing on disk (appendonly no, save \"\"): a restart loses all sessions"
			if replicas > 0 {
				risk += "; one that is quicker than the failover empties its replicas, too"
			}
			risks = append(risks, risk)
		} else {
			risks = append(risks, "the server writes snapshots only (appendonly no): a crash loses what was saved, and brings back who signed out, since the last of them")
		}
	}
	if replicas > 0 && s.o.WaitReplicas == 0 {
		risks = append(risks, "replication is asynchronous: a failover loses what was saved, and brings back who signed out, within the last moment; see Options.WaitReplicas")
	}
	if s.o.WaitReplicas > replicas {
		risks = append(risks, fmt.Sprintf("Options.WaitReplicas is %d, and the server has %d: nothing can be saved", s.o.WaitReplicas, replicas))
	}
	return risks
}

// infoOf returns what a server tells of itself.
func infoOf(ctx context.Context, node valkey.Client) (map[string]string, error) {
	text, err := node.Do(ctx, node.B().Info().Build()).ToString()
	if err != nil {
		return nil, err
	}
	info := make(map[string]string)
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimRight(line, "\r\n"), ":"); ok {
			info[name] = value
		}
	}
	return info, nil
}

// configOf returns a setting, if the server tells it to anybody.
func configOf(ctx context.Context, node valkey.Client, name string) (value string, known bool) {
	m, err := node.Do(ctx, node.B().ConfigGet().Parameter(name).Build()).AsStrMap()
	if err != nil {
		return "", false
	}
	value, known = m[name]
	return value, known
}

// tooOld reports that a server lacks what the scripts need: ZADD LT is of Redis 6.2.
// Valkey says which version of Redis it is compatible with.
func tooOld(info map[string]string) error {
	version := info["redis_version"]
	major, rest, _ := strings.Cut(version, ".")
	minor, _, _ := strings.Cut(rest, ".")
	m, err1 := strconv.Atoi(major)
	n, err2 := strconv.Atoi(minor)
	if err1 != nil || err2 != nil || m > 6 || m == 6 && n >= 2 {
		return nil
	}
	return fmt.Errorf("this is Redis %s; 6.2 or later is needed", version)
}

// errNoCache means that Options.Staleness cannot work.
var errNoCache = errors.New("redisstore: Options.Staleness needs a client with client-side caching: DisableCache off, and RESP3")

// caches checks that the client caches.
func (s *Store) caches(ctx context.Context) error {
	for try := range 2 {
		r := s.client.DoCache(ctx, s.client.B().Hmget().Key(s.keys.apps()+":none").Field("m", "b").Cache().ToStaticTTL(), time.Minute)
		if err := r.Error(); err != nil {
			return nil // it does not answer; whether it caches is not known
		}
		if try == 1 && !r.IsCacheHit() {
			return errNoCache
		}
	}
	return nil
}
