package redisstore_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/holdfast-session/holdfast/internal/servers"
	"github.com/holdfast-session/holdfast/redisstore"
	"github.com/holdfast-session/holdfast/store"
)

// scripts is how many scripts a server has run.
func scripts(b *testing.B, server *servers.Redis) (n int) {
	b.Helper()
	for line := range strings.Lines(server.Do(b, "INFO", "commandstats")) {
		name, rest, _ := strings.Cut(strings.TrimPrefix(line, "cmdstat_"), ":")
		var calls int
		if _, err := fmt.Sscanf(rest, "calls=%d", &calls); err == nil && strings.HasPrefix(name, "eval") {
			n += calls
		}
	}
	return n
}

// BenchmarkStore reports what the calls of a request cost the server: scripts, bytes on
// the wire, and processor time.
func BenchmarkStore(b *testing.B) {
	for _, size := range []int{500, 4096} {
		for _, bc := range []struct {
			name string
			near int
			call func(s store.Store, id store.ID, rec *store.Record) error
		}{
			{"Load/unchanged", 0, load},
			{"Load/not near", -1, load},
			{"Lock+Save", 0, func(s store.Store, id store.ID, rec *store.Record) error {
				if err := s.Lock(ctx, id, store.LockOptions{Owner: store.NewOwner()}, rec); err != nil {
					return err
				}
				return s.Save(ctx, id, rec, store.NewVersion(), false)
			}},
			{"Load+Save", 0, func(s store.Store, id store.ID, rec *store.Record) error {
				if err := load(s, id, rec); err != nil {
					return err
				}
				return s.Save(ctx, id, rec, store.NewVersion(), false)
			}},
		} {
			b.Run(fmt.Sprintf("%s/%d", bc.name, size), func(b *testing.B) {
				server := single(b)
				tap := new(wiretap)
				s := tap.open(b, server, redisstore.Options{Prefix: anyPrefix(), Ends: -1, NearCache: bc.near})
				const sessions = 64
				ids := make([]store.ID, sessions)
				var rec store.Record
				for i := range ids {
					ids[i] = testID(fmt.Sprintf("%043d", i))
					mustCreate(b, s, ids[i], store.Record{Body: make([]byte, size), Subject: "anna"})
					if err := bc.call(s, ids[i], &rec); err != nil {
						b.Fatal(err)
					}
				}
				cpu, n, sent, came := server.CPUTime(), scripts(b, server), tap.sent.Load(), tap.came.Load()
				b.ReportAllocs()
				for i := 0; b.Loop(); i++ {
					if err := bc.call(s, ids[i%sessions], &rec); err != nil {
						b.Fatal(err)
					}
				}
				per := func(x float64, unit string) { b.ReportMetric(x/float64(b.N), unit) }
				per(float64(server.CPUTime()-cpu)/1e3, "redis-µs/op")
				per(float64(scripts(b, server)-n), "scripts/op")
				per(float64(tap.sent.Load()-sent), "B-sent/op")
				per(float64(tap.came.Load()-came), "B-received/op")
			})
		}
	}
}

func load(s store.Store, id store.ID, rec *store.Record) error { return s.Load(ctx, id, rec) }
