package redisstore_test

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-session/holdfast/internal/servers"
	"github.com/holdfast-session/holdfast/redisstore"
	"github.com/holdfast-session/holdfast/store"
	"github.com/holdfast-session/holdfast/storetest"
)

// TestLinearizable cuts the connections of visitors who share a few sessions, has the
// server forget its scripts, and kills it. What they were told must be explained by
// their calls having happened one after the other. The server writes each change before
// it replies, so that being killed changes nothing.
func TestLinearizable(t *testing.T) {
	t.Parallel()
	const visitors, visits = 4, 40
	server := servers.StartRedis(t, written)
	rounds := 6
	if long() {
		rounds = 60
	}
	for round := range rounds {
		app := fmt.Sprint("/", round)
		ids := []store.ID{{App: app, Session: "a"}, {App: app, Session: "b"}, {App: app, Session: "c"}}
		h := storetest.NewVisits(rand.Uint64(), 50*time.Millisecond, ids...)
		var working sync.WaitGroup
		for range visitors {
			var v *storetest.Visitor
			o := &redisstore.Options{Prefix: fmt.Sprintf("linear-%d", round), Logger: slog.New(slog.DiscardHandler)}
			s, err := redisstore.NewWith(connect(t, server.URL(), o), o, &redisstore.Clock{Lost: func() { v.Lost() }}, redisstore.MaxBuckets)
			if err != nil {
				t.Fatal(err)
			}
			v = h.Visitor(s)
			working.Go(func() {
				defer s.Close()
				for range visits {
					ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
					_ = v.Visit(ctx) // who is told nothing tries again
					cancel()
				}
			})
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			working.Wait()
		}()
		disturb(t, server, done, round)
		h.Check(t, 30*time.Second)
		if t.Failed() {
			return
		}
	}
}

// disturb does what servers and networks do, until done.
func disturb(t *testing.T, server *servers.Redis, done <-chan struct{}, round int) {
	t.Helper()
	for i := 0; ; i++ {
		wait := time.NewTimer(time.Duration(5+rand.IntN(30)) * time.Millisecond)
		select {
		case <-done:
			wait.Stop()
			return
		case <-wait.C:
		}
		switch {
		case i == 3 && round%2 == 0:
			server.Kill()
			server.Restart()
		case i%3 == 0 && i < 12:
			server.Do(t, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
		default:
			server.Do(t, "SCRIPT", "FLUSH")
		}
	}
}
