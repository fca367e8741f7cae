package holdfast

import (
	"sync"
	"time"

	"github.com/holdfast-session/holdfast/store"
)

// touches restart the timeouts of sessions whose requests did not ask for them
// (files, pictures, Disabled), at most once in a tenth of the timeout and process:
// a store keeps every session that much longer.
type touches struct {
	mu   sync.Mutex
	last map[store.ID]touched
}

type touched struct {
	at    time.Time     // when the timeout last restarted from here
	every time.Duration // how often that is needed
}

// maxTouched bounds the memory; to forget one costs a call of the store.
const maxTouched = 1 << 16

// interval is how often the timeout of a session needs to be restarted.
func (m *Manager) interval(timeout time.Duration) time.Duration { return timeout / 10 }

// note remembers a session that needs it more often than usual, because it has a
// shorter timeout of its own.
func (t *touches) note(key store.ID, every time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.put(key, touched{time.Now(), every})
}

// put adds an entry, and makes room for it. Called with mu held.
func (t *touches) put(key store.ID, v touched) {
	if t.last == nil {
		t.last = make(map[store.ID]touched)
	}
	if len(t.last) >= maxTouched {
		for k, old := range t.last {
			if v.at.Sub(old.at) >= old.every {
				delete(t.last, k)
			}
		}
		if len(t.last) >= maxTouched {
			clear(t.last)
		}
	}
	t.last[key] = v
}

// due reports whether the timeout of key needs to be restarted now, and takes it
// for done.
func (t *touches) due(key store.ID, every time.Duration) bool {
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	if old, ok := t.last[key]; ok {
		if now.Sub(old.at) < old.every {
			return false
		}
		every = old.every
	}
	t.put(key, touched{now, every})
	return true
}

// touchAll restarts the timeout of the sessions that the request presents.
func (s *Session) touchAll() {
	m, r := s.m, s.r
	var buf [maxCandidates]string
	for _, id := range s.present(buf[:0]) {
		key := m.keyOf(id)
		if !m.touch.due(key, m.interval(m.o.Timeout)) {
			continue
		}
		m.after(func() {
			ctx, cancel := m.storeContext(r.Context())
			defer cancel()
			if err := m.store.Touch(ctx, key); err != nil && m.log != nil {
				m.log.DebugContext(ctx, "holdfast: a timeout was not restarted", "error", err, "session", logID(key.App, key.Session))
			}
		})
	}
}
