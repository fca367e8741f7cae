package redisstore

import (
	"context"
	"sync"
	"time"

	"github.com/holdfast-session/holdfast/store"
)

// loadCached loads a session from what the client has cached of it, if that is enough to
// answer with; see [Options].Staleness. What it does not have it reads and caches. It
// leaves to the script whatever has to be written, or is to be told of a session that is
// not there.
func (s *Store) loadCached(ctx context.Context, key string, rec *store.Record) bool {
	if s.recent.has(key) {
		return false
	}
	cached := s.client.DoCache(ctx, s.client.B().Hmget().Key(key).Field("m", "b").Cache().ToStaticTTL(), s.o.Staleness)
	parts, err := cached.ToArray()
	if err != nil || len(parts) != 2 {
		return false
	}
	a := answer{parts: parts}
	m := a.text(0)
	body := rec.Body[:0]
	if parts[0].IsNil() || parts[1].IsNil() || parseHeader(m, rec) != nil {
		rec.Body = body
		return false
	}
	rec.Body = append(body, a.text(1)...)
	now := s.shifted(time.Now().UnixMicro()) + s.ahead.Load()
	if rec.Locked {
		rec.LockAge = duration(now - sinceOf(m))
	}
	return now+micros(rec.Timeout) <= deadlineOf(m) // else the timeout is to be restarted
}

// shifted is a time of this machine as the tests have moved the clock.
func (s *Store) shifted(now int64) int64 {
	if s.shift != nil {
		now += s.shift.Load()
	}
	return now
}

// wrote notes that this process has changed a session, which its cache may not know yet.
func (s *Store) wrote(key string) {
	if s.o.Staleness > 0 {
		s.recent.add(key, s.o.Staleness)
	}
}

// recent are the sessions that this process changed a moment ago.
type recent struct {
	mu    sync.Mutex
	until map[string]time.Time
	full  int // how many there are when those that are over are looked for
}

func (r *recent) add(key string, d time.Duration) {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.until == nil {
		r.until = make(map[string]time.Time)
	}
	if len(r.until) >= max(r.full, 1024) {
		for k, until := range r.until {
			if now.After(until) {
				delete(r.until, k)
			}
		}
		r.full = 2 * len(r.until)
	}
	r.until[key] = now.Add(d)
}

func (r *recent) has(key string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	until, ok := r.until[key]
	return ok && time.Now().Before(until)
}
