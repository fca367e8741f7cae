package mode

import (
	"errors"

	"github.com/holdfast-session/holdfast/redisstore"
)

// Redis and Valkey. What is not in redisParams is a parameter of redisstore.Open's URL.

var redisParams = []string{"prefix", "timeout", "near-cache", "staleness", "wait-replicas", "wait-timeout", "ends"}

// redisSchemes are what redisstore.Open reads. Of those that mean the same, one has an
// example.
func redisSchemes() (all []scheme) {
	for _, name := range []string{"redis", "rediss", "valkey", "valkeys"} {
		for _, kind := range []struct{ suffix, example string }{
			{"://", "host:6379"}, {"-cluster://", "host:6379,host:6379"}, {"-sentinel://", "host:26379,host:26379/master"}, {"+unix://", "/run/redis/redis.sock"},
		} {
			prefix := name + kind.suffix
			s := scheme{prefix: prefix, params: redisParams, foreign: true}
			if name == "redis" {
				s.example = prefix + kind.example
			}
			s.parse = func(where string, p *params) (opener, error) { return parseRedis(prefix, where, kind.example, p) }
			all = append(all, s)
		}
	}
	return all
}

func parseRedis(prefix, where, example string, p *params) (opener, error) {
	if where == "" {
		return nil, errors.New("it names no server; write " + prefix + example)
	}
	o := redisOptions(p)
	url := prefix + where + p.foreignQuery()
	return func() (Store, error) { return redisstore.Open(url, &o) }, nil
}

func redisOptions(p *params) redisstore.Options {
	return redisstore.Options{
		Prefix: p.text("prefix"), Timeout: p.duration("timeout"), NearCache: int(orNone(p, "near-cache", p.sizeOr)), Staleness: p.duration("staleness"),
		WaitReplicas: p.number("wait-replicas"), WaitTimeout: p.duration("wait-timeout"), Ends: orNone(p, "ends", p.numberOr),
	}
}
