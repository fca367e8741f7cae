package holdfast

import (
	"context"
	"iter"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-session/holdfast/items"
	"github.com/holdfast-session/holdfast/store"
)

// A Session is one request's view of its session: what was saved when the request
// acquired it, and this request's own changes. Values are read and changed through
// a [Key]. It is safe for concurrent use, but the goroutines of one handler that
// change the same value agree among themselves who comes last.
//
// It is valid until the handler returns. A goroutine that lives longer sees its
// own last snapshot, never another visitor's data, and can change nothing.
//
// The first error of a change is kept ([Session.Err]), as in bufio.Writer: nothing
// is saved then, and the request is answered with the error page, unless the
// handler answers with a status of 500 or more itself.
type Session struct {
	m   *Manager
	r   *http.Request
	ctx sessionContext
	w   writer

	// io is held by whoever talks to the store about this session: to acquire,
	// save, abandon it or renew its lock. It is taken before mu. phase is read
	// without it; access is settled when phase leaves idle.
	io      sync.Mutex
	phase   atomic.Uint32
	access  Access
	failure error        // why the session could not be acquired
	segment urlSegment   // of a cookieless request
	rec     store.Record // as last read or saved
	next    store.Record // being saved
	log     [1]cell      // room for changes.cells
	stored  bool
	locked  bool     // rec.Lock is ours
	line    store.ID // the line of the queue that we head; no Session: none
	leased  leaseLink

	mu        sync.Mutex
	id        string      // as it travels; empty until stored
	key       store.ID    // under which the store has it; changed with io held too
	base      *items.Item // the content as last read or saved; never changed
	own       items.Item  // base points here until something is saved
	room      [240]byte   // where a small body is read; a Session fills the allocator's 2,048 bytes
	now       traits
	kept      traits      // as saved
	live      *liveValues // nil: none
	liveKept  *liveValues // as saved
	cells     []cell
	inline    [3]cell
	cleared   uint32 // the gen of the last Clear; 0: none
	discarded uint32 // the gen of the last Discard
	gen       uint32 // counts changes
	newID     bool   // RegenerateID was called
	merging   bool   // no lock protects base: updates are logged, to be run again
	created   time.Time
	isNew     bool
	lost      store.Reason
	follows   bool          // the ID presented was renewed a moment ago, the new one is not known here
	said      time.Duration // what the browser's cookie was told of persist
	sayID     bool          // the cookie is still to be set to id
	sayGone   bool          // the cookie is still to be taken away
	saved     bool          // Save was called: a status of 500 no longer discards
	finished  bool
	stopped   error // the handler was ended by From
	refused   error // what the gate said to the response
	err       error // sticky
}

// traits of a session beside its values.
type traits struct {
	timeout time.Duration
	subject string
	persist time.Duration // of the cookie; negative: never; 0: as Options.Cookie says
	since   int64         // when the ID was drawn, in Unix seconds; 0: with the session
}

// follow takes over from is what another request has made of was, where this one has
// changed nothing.
func (t *traits) follow(was, is traits) {
	if t.timeout == was.timeout {
		t.timeout = is.timeout
	}
	if t.subject == was.subject {
		t.subject = is.subject
	}
	if t.persist == was.persist {
		t.persist = is.persist
	}
	t.since = is.since
}

// Phases of a session in a request.
const (
	idle uint32 = iota
	acquired
	failed
)

// ID returns the session ID as it travels in the cookie, or "" until the session
// is stored for the first time. Whoever knows it has the session: use
// [Session.LogID] in logs.
func (s *Session) ID() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.id
}

// LogID returns a short hash that stands for the session in logs and on pages; the
// same in every process of the application. It is "" until the session is stored.
func (s *Session) LogID() string { return s.logID() }

func (s *Session) logID() string {
	if s == nil {
		return ""
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return logID(s.m.o.App, s.key.Session)
}

// IsNew reports whether the session began with this request.
func (s *Session) IsNew() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.isNew
}

// Lost returns why the session that the visitor's cookie names is not there any
// more, as far as can be known, and how long ago it ended; the zero Reason if
// nothing was lost, or nothing is known. A store that keeps nothing over a restart,
// and has started within the timeout, answers [store.Restarted] for every ID that it
// does not know.
//
// For a session that is there, but has lost its live values with the process that had
// them, the reason is [store.Restarted], until others are put in.
func (s *Session) Lost() store.Reason {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lost.Kind == store.Unknown && s.hasLostLive() {
		return store.Reason{Kind: store.Restarted}
	}
	return s.lost
}

// Err returns the first error of a change in this request. While there is one,
// nothing is saved.
func (s *Session) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Timeout returns the session's sliding timeout.
func (s *Session) Timeout() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now.timeout
}

// Created returns when the session began, by the store's clock; the zero time in the
// request that it begins with.
func (s *Session) Created() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.created
}

// Access returns the access that the session was acquired with.
func (s *Session) Access() Access { return s.access }

// Subject returns whose session it is, as said by [Session.SetSubject].
func (s *Session) Subject() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now.subject
}

// Len returns the number of values.
func (s *Session) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for range s.names() {
		n++
	}
	return n
}

// All returns the values by name, in the order in which they were first set, for
// pages that list them: scalars as themselves, structured values as generic Go
// values, what another platform wrote as [items.Object]. Changing what it yields
// changes nothing.
func (s *Session) All() iter.Seq2[string, any] {
	return func(yield func(string, any) bool) {
		s.mu.Lock()
		type pair struct {
			name string
			v    items.Value
		}
		var all []pair
		for name := range s.names() {
			v, _, err := s.view(name)
			if err == nil {
				all = append(all, pair{name, v})
			}
		}
		s.mu.Unlock()
		for _, p := range all {
			if !yield(p.name, p.v.Any()) {
				return
			}
		}
	}
}

// Clear deletes all values. The session itself stays.
func (s *Session) Clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.writable() {
		return
	}
	s.gen++
	s.cleared = s.gen
	// What the handler has seen stays known, as by Delete: if another has changed it
	// since, that is not to be lost unseen.
	s.cells = slices.DeleteFunc(s.cells, func(c cell) bool { return !c.seen })
	for i := range s.cells {
		s.cells[i].remove(s.gen)
	}
}

// SetTimeout sets this session's sliding timeout, in whole seconds (rounded up), at
// most a hundred years. It is kept with the session.
func (s *Session) SetTimeout(d time.Duration) {
	if d <= 0 {
		panic("holdfast: SetTimeout: the timeout must be positive; to end the session call Abandon")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if d = wholeSeconds(d); d != s.now.timeout && s.writable() {
		s.now.timeout = d
	}
}

// SetSubject says whose session it is: a user's name or number. It is kept with
// the session, through RegenerateID too.
func (s *Session) SetSubject(subject string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if subject != s.now.subject && s.writable() {
		s.now.subject = subject
	}
}

// Persist has the browser keep the session's cookie for d, also when it is closed,
// and renew that as the session is used: "remember me". A d of 0 or less is a cookie
// that ends with the browser, and no d is more than a hundred years. It is kept with the session, whose timeout should be as
// long ([Session.SetTimeout]). It changes nothing where the ID travels otherwise.
func (s *Session) Persist(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d = max(wholeSeconds(d), 0); d == 0 {
		d = -1
	}
	if d != s.now.persist && s.writable() {
		s.now.persist = d
	}
}

// RegenerateID gives the session a new ID when it is saved: call it when the
// visitor signs in, so that an ID that somebody learnt or planted before is worth
// nothing after. The old ID is dead at once, also for requests in flight.
func (s *Session) RegenerateID() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.writable() {
		s.newID = true
	}
}

// Abandon ends the session at once, before it returns: no request brings it back,
// not even one that holds its lock. This request goes on with a new, empty one.
// Sign a visitor out with it. An error means that the store could not be asked.
func (s *Session) Abandon() error {
	s.io.Lock()
	defer s.io.Unlock()
	return s.abandon()
}

// Discard forgets what this request changed since it acquired the session, or
// since the last Save, and the error that a change may have caused. What it did to live
// values that other requests can see already stays.
func (s *Session) Discard() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.discard()
}

// Save saves the changes now, and keeps the lock. From then on a status of 500 or
// more no longer discards anything; a panic discards what came after.
func (s *Session) Save(ctx context.Context) error { return s.save(ctx, keepLock) }

// Release saves the changes now and gives the lock up, so that the session's other
// requests go on: before a long download, a stream, or a slow call elsewhere. What
// changes later is merged, as with [Merge].
func (s *Session) Release(ctx context.Context) error { return s.save(ctx, giveLock) }

func (s *Session) save(ctx context.Context, how ending) error {
	s.io.Lock()
	defer s.io.Unlock()
	err := s.sticky()
	if err == nil {
		err = s.commit(ctx, how)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		s.saved = true
	} else if s.err == nil {
		s.err = err
	}
	return err
}

func (s *Session) sticky() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil && s.finished {
		return ErrFinished
	}
	return s.err
}

// writable reports whether the session may be changed, and keeps the error if not.
// Called with mu held.
func (s *Session) writable() bool {
	switch {
	case s.err != nil:
	case s.finished:
		s.err = ErrFinished
	case s.access == ReadOnly:
		s.err = ErrReadOnly
	case s.isDead():
		s.err = ErrEnded
	default:
		return true
	}
	return false
}

// isDead reports whether the visitor's ID was replaced by another one a moment
// ago: this request was sent before the new cookie arrived, and a session of its
// own would take that cookie away again. Called with mu held.
func (s *Session) isDead() bool {
	return s.isNew && s.lost.Kind == store.Regenerated && s.lost.Age < 2*s.m.o.LockTimeout
}

// stop notes that the handler cannot go on without its session.
func (s *Session) stop(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped = err
}

func (s *Session) stoppedBy() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stopped
}

func (s *Session) refusal() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.refused
}
