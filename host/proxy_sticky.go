package host

import (
	"net/http"
	"strconv"
	"strings"
	"sync"
)

// affinityCookie is the host's own cookie: the number of the worker that a visitor has
// been to.
const affinityCookie = "holdfast_worker"

// A sticky sends the requests of a session to the worker that has it.
type sticky struct {
	cookie string // that names the session; empty: affinityCookie says where to go

	mu            sync.Mutex
	latest, older map[uint64]int // the workers of sessions, by keyOf their IDs
}

// keptSessions is how many sessions latest has before it becomes older, which is then
// forgotten: each takes some 40 bytes.
const keptSessions = 1 << 18

func newSticky(cookie string) *sticky {
	return &sticky{cookie: cookie, latest: make(map[uint64]int)}
}

// wish says where a request wants to go.
func (s *sticky) wish(r *http.Request, w *wish) {
	if s.cookie == "" {
		if c, err := r.Cookie(affinityCookie); err == nil {
			w.worker, _ = strconv.Atoi(c.Value)
		}
		return
	}
	for _, c := range r.CookiesNamed(s.cookie) {
		key := keyOf(c.Value)
		if w.worker = s.find(key); w.worker > 0 {
			return
		}
		if w.key == 0 {
			w.key = key // one that we have not seen begin still goes to one place
		}
	}
}

// answered takes notice of where a session is, by the answer to a request.
func (s *sticky) answered(resp *http.Response) error {
	x := exchangeOf(resp.Request.Context())
	worker := x.backend.worker
	if s.cookie != "" {
		for _, line := range resp.Header["Set-Cookie"] {
			if c, err := http.ParseSetCookie(line); err == nil && c.Name == s.cookie && c.Value != "" && c.MaxAge >= 0 {
				s.keep(keyOf(c.Value), worker)
			}
		}
		return nil
	}
	if x.wish.worker == worker {
		return nil
	}
	c := http.Cookie{Name: affinityCookie, Value: strconv.Itoa(worker), Path: "/", HttpOnly: true, SameSite: http.SameSiteLaxMode}
	c.Secure = strings.EqualFold(first(resp.Request.Header["X-Forwarded-Proto"], ""), "https")
	resp.Header.Add("Set-Cookie", c.String())
	return nil
}

func (s *sticky) keep(key uint64, worker int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.latest) >= keptSessions {
		s.latest, s.older = make(map[uint64]int), s.latest
	}
	s.latest[key] = worker
}

// find returns the worker of a session, or 0 if that is not known.
func (s *sticky) find(key uint64) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	worker, ok := s.latest[key]
	if !ok {
		if worker, ok = s.older[key]; ok && len(s.latest) < keptSessions {
			s.latest[key] = worker
		}
	}
	return worker
}
