package holdfast

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/holdfast-session/holdfast/store"
)

// Options configure a [Manager]. The zero value of each field is a good default.
// Processes that share sessions use the same App, Timeout, Cookie and PlainIDs.
type Options struct {
	// App is the application's namespace in the store; default "/". Applications
	// that use one store do not see each other's sessions unless this is the same.
	// To share sessions with an ASP.NET application it is its AppDomainAppId.
	App string
	// Timeout is the sliding timeout: how long a session lives after its last
	// request; default 20 minutes. Whole seconds, at most a hundred years; a session
	// never ends earlier, and up to a tenth later.
	Timeout time.Duration
	// LockTimeout is the age at which the lock of a worker that has died is taken
	// over; default 20 seconds. A handler may run longer: its lock is renewed.
	LockTimeout time.Duration
	// LockWait is how long a request waits for the session's lock before it is
	// answered with 503; default 30 seconds.
	LockWait time.Duration
	// MaxWaiters is how many requests of one session may wait in this process;
	// the next one is answered with 503 at once. Default 50.
	MaxWaiters int
	// StoreTimeout is how long one operation of the store may take, repeats
	// included; default 5 seconds.
	StoreTimeout time.Duration
	// MaxBytes is the largest session that is saved, in bytes of its stored form;
	// default 1 MiB.
	MaxBytes int
	// Buffer is how much of a response is held back until the session is saved, in
	// bytes; default 32 KiB. A longer response has its session saved when the
	// buffer is full, and streams from there on.
	Buffer int
	// Cookie is how the session ID travels, unless Identity is set.
	Cookie Cookie
	// Identity is another way for the session ID to travel: [Header], [Cookieless],
	// or the application's own.
	Identity Identity
	// IDs is the form of session IDs; default ASP.NET's.
	IDs IDs
	// Proxies are the addresses of reverse proxies whose X-Forwarded-Proto is
	// believed, for the cookie's Secure attribute; default none.
	Proxies []netip.Prefix
	// Lifetime ends a session that long after it began, however busy it is; default
	// 0, no such end.
	Lifetime time.Duration
	// Renewal gives a session a new ID by itself when its ID is that old, at a
	// request with [Exclusive] access; default 0, never. For a few seconds the old
	// ID leads to the same session, so that requests in flight are served.
	Renewal time.Duration
	// PlainIDs keeps sessions under their ID itself instead of a hash of it. It is
	// what sharing sessions with ASP.NET needs; whoever can read such a store can
	// take its sessions over.
	PlainIDs bool
	// AllowLiveKeys lets a Manager start whose store is not in this process although
	// the program declares live keys, which are for another Manager then.
	AllowLiveKeys bool
	// ErrorPage answers a request whose session could not be had or saved: 409 if
	// the session was ended or changed by another request, 503 if the store or the
	// lock was not to be had, 500 otherwise. Cache-Control and Retry-After are set
	// already. Default: a line of text.
	ErrorPage func(w http.ResponseWriter, r *http.Request, status int, err error)
	// OnStart is called before a new session is stored for the first time, and may
	// put values in.
	OnStart func(s *Session)
	// OnEnd is called when a session has ended, with the reason and the session as it
	// was last saved, to read: at least once for each session that ended while any
	// Manager of the application had an OnEnd, and once only unless a process dies at
	// it, or it takes longer than half a minute: then ctx ends. It runs on a goroutine of
	// its own, some time later. It needs a store that remembers ends ([store.Ender]); New
	// panics with another.
	OnEnd func(ctx context.Context, s *Session, why store.Reason)
	// OnError hears of every error that the application has no other way to see:
	// error pages, values that could not be read, changes lost after the response
	// had begun, releases that failed. It may be called by several goroutines.
	OnError func(ctx context.Context, err error)
	// Logger gets the same, and what this package does by itself; default none.
	// Session IDs appear as a short hash only.
	Logger *slog.Logger
}

// A Manager keeps the sessions of one application. It is safe for concurrent use.
type Manager struct {
	store      store.Store
	o          Options
	log        *slog.Logger
	off        bool     // mode Off
	cookieless bool     // the ID travels in the URL
	vary       []string // the request header that carries the ID
	local      bool     // the store keeps items in this process: it never blocks on a network
	queue      *queues  // for the lock
	saves      *queues  // of requests that are merged
	lease      leases
	touch      touches

	background sync.WaitGroup
	ends       endWatch
	warned     struct{ queue, upload sync.Once }
}

// New returns a Manager that keeps its sessions in s; nil options are good ones.
// With [Off] every session lives for one request.
//
// It panics on options that cannot work, which are mistakes of the program.
func New(s store.Store, o *Options) *Manager {
	if s == nil {
		panic("holdfast: New(nil, …): pass a store such as inproc.New(nil), or holdfast.Off")
	}
	m := &Manager{store: s, queue: newQueues(), saves: newQueues()}
	if o != nil {
		m.o = *o
	}
	m.log = m.o.Logger
	m.off = s == Off
	if k, ok := s.(store.ItemKeeper); ok {
		m.local = k.KeepsItems()
	}
	defaultTo(&m.o.App, "/")
	defaultTo(&m.o.Timeout, 20*time.Minute)
	defaultTo(&m.o.LockTimeout, 20*time.Second)
	defaultTo(&m.o.LockWait, 30*time.Second)
	defaultTo(&m.o.MaxWaiters, 50)
	defaultTo(&m.o.StoreTimeout, 5*time.Second)
	defaultTo(&m.o.MaxBytes, 1<<20)
	defaultTo(&m.o.Buffer, 32<<10)
	m.o.Cookie.complete()
	m.o.IDs.complete(m.o.Identity)
	switch id := m.o.Identity.(type) {
	case nil:
		m.vary = varyCookie
	case cookieless:
		m.cookieless = true
	default:
		if v := id.Vary(); v != "" {
			m.vary = []string{v}[:1:1]
		}
	}
	for name, d := range map[string]time.Duration{"Timeout": m.o.Timeout, "LockTimeout": m.o.LockTimeout, "Lifetime": m.o.Lifetime, "Renewal": m.o.Renewal} {
		if d < time.Second && (d != 0 || name == "Timeout" || name == "LockTimeout") {
			panic(fmt.Sprintf("holdfast: Options.%s is %v; it must be at least a second", name, d))
		}
	}
	for name, n := range map[string]int64{"LockWait": int64(m.o.LockWait), "MaxWaiters": int64(m.o.MaxWaiters), "StoreTimeout": int64(m.o.StoreTimeout), "MaxBytes": int64(m.o.MaxBytes), "Buffer": int64(m.o.Buffer)} {
		if n < 0 {
			panic(fmt.Sprintf("holdfast: Options.%s is negative", name))
		}
	}
	m.o.Timeout = wholeSeconds(m.o.Timeout)
	for _, d := range []*time.Duration{&m.o.LockTimeout, &m.o.LockWait, &m.o.StoreTimeout} {
		*d = min(*d, forever)
	}
	m.lease.m = m
	if keys := liveKeys(); keys != "" && !m.local && !m.off && !m.o.AllowLiveKeys {
		panic("holdfast: the sessions of this Manager leave the process, and these live keys cannot: " + keys + "; use inproc, or make them Keys, or set Options.AllowLiveKeys if they belong to another Manager")
	}
	m.watchEnds()
	return m
}

func defaultTo[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// forever is the longest duration that is taken as it is: the stores count the
// nanoseconds to the end of it, which must not overflow.
const forever = 100 * 365 * 24 * time.Hour

// wholeSeconds rounds up, because a session must never end early.
func wholeSeconds(d time.Duration) time.Duration {
	return (min(d, forever) + time.Second - 1).Truncate(time.Second)
}

// Close waits until everything is done that outlives a request: locks given back,
// timeouts restarted, ends delivered that are due. It does not close the store. Call it
// when the HTTP server has shut down.
func (m *Manager) Close(ctx context.Context) error {
	if err := m.ends.close(ctx); err != nil {
		return err
	}
	done := make(chan struct{})
	go func() {
		m.background.Wait()
		close(done)
	}()
	select {
	case <-done:
		m.lease.stop()
		return nil
	case <-ctx.Done():
		return fmt.Errorf("holdfast: closed while sessions were still being released: %w", context.Cause(ctx))
	}
}

// after runs f off the visitor's path, unless the store is in this process: then
// it takes less time than to start a goroutine.
func (m *Manager) after(f func()) {
	if m.local {
		f()
		return
	}
	m.background.Go(f)
}

// Handler returns h with a session: [Exclusive], acquired when a request first
// asks for it. Requests that never ask cost nothing but, if they carry an ID, a
// restart of its timeout now and then.
//
// Around a handler that has this Manager's session already it changes nothing.
func (m *Manager) Handler(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if sessionIn(r.Context(), m) != nil {
			h.ServeHTTP(w, r)
			return
		}
		m.serve(w, r, h, Exclusive, false)
	})
}

// serve runs h as one request with a session.
func (m *Manager) serve(w http.ResponseWriter, r *http.Request, h http.Handler, a Access, eager bool) {
	s := &Session{m: m, r: r, access: a}
	outer := r
	if m.cookieless {
		r, s.segment = cutRequest(r)
	}
	s.ctx = sessionContext{r.Context(), s}
	s.w.init(w, r, m.o.Buffer, s)
	returned, over := false, false
	defer func() {
		defer s.w.release() // last: until then the header is ours to mend
		if over {
			return
		}
		// A panic or Goexit goes on its way, be it the handler's or that of the
		// application's code which end calls, except the one by which From ends a
		// handler that cannot have its session.
		if !returned && s.stoppedBy() != nil {
			if p := recover(); p == nil || p == http.ErrAbortHandler {
				s.end()
				return
			} else {
				defer panic(p)
			}
		}
		s.giveUp()
	}()
	if eager && a != Disabled {
		if err := s.acquire(r.Context()); err != nil {
			s.stop(err)
		}
	}
	if s.stoppedBy() == nil {
		s.handle(h, r, outer)
	}
	returned = true
	s.end()
	over = true
}

// handle runs the handler. What was found out about the request is then for those
// around us, as it is without us, however the handler ends: net/http deletes the files
// of an upload by it.
func (s *Session) handle(h http.Handler, r, outer *http.Request) {
	inner := r.WithContext(&s.ctx)
	defer func() { outer.MultipartForm, outer.Pattern = inner.MultipartForm, inner.Pattern }()
	h.ServeHTTP(&s.w, inner)
}

// end finishes a request whose handler has returned, or was stopped for want of
// its session: save, then let the response go.
func (s *Session) end() {
	err := s.stoppedBy()
	if err == nil {
		if s.w.left() {
			err = s.leaveLate()
		}
		if err == nil {
			s.w.finish() // fails by the gate, that is by us, or because the visitor has left
			err = s.refusal()
		}
		if err == nil {
			s.settle()
			return
		}
	}
	left := s.w.left()
	s.giveUp()
	if errors.Is(err, errRedirect) && !left {
		s.redirect()
		return
	}
	if !errors.Is(s.r.Context().Err(), context.Canceled) { // else nobody is there to miss it
		s.m.report(&s.ctx, err, "the session could not be had or saved", s)
	}
	if left {
		panic(http.ErrAbortHandler) // cut: the visitor must not take this for the whole page
	}
	s.m.errorPage(s.w.rw, s.r, err)
}

// giveUp drops the response and the changes, unless the request is finished already: a
// panic of the error page comes after that, and the header has been mended for it.
func (s *Session) giveUp() {
	if s.overdue() == nil {
		s.w.discard()
		s.rollback()
	}
}
