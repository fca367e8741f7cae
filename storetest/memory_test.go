package storetest

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-session/holdfast/store"
)

// memory is the contract in its simplest form: one mutex, maps, and a queue for
// each session. It passes the suite. The bug that it is given, if any, is what a
// case of the suite has to find; "" has none.
type memory struct {
	bug string

	mu       sync.Mutex
	room     int // for sessions and ends; 0 for any number
	evicts   bool
	maxBody  int
	sessions map[store.ID]*session
	tombs    map[store.ID]tomb
	ends     []*end
	scratch  []byte
	made     int       // sessions so far, which orders them, and ends
	started  time.Time // zero for a store that knows all there ever was
	disk     *memory   // what a store that is late to write has written
}

type session struct {
	rec      store.Record // LockAge unused
	n        int
	lockedAt time.Time
	expires  time.Time
	stale    time.Duration // the longest lock timeout seen
	queue    []*waiter
}

type tomb struct {
	why store.Reason
	at  time.Time
	was *session
}

type end struct {
	store.End
	claimed time.Time
}

type waiter struct {
	o    store.LockOptions
	done chan struct{} // closed when the lock is granted, or the session gone
	rec  store.Record
	err  error
}

func newMemory(bug string) *memory {
	return &memory{bug: bug, sessions: make(map[store.ID]*session), tombs: make(map[store.ID]tomb)}
}

func (m *memory) KeepsItems() bool { return true }

// get returns the session, or why it is not there. It is called with mu held.
func (m *memory) get(id store.ID) (*session, error) {
	se := m.sessions[id]
	if se != nil && !time.Now().Before(se.expires) {
		m.end(id, se, store.Reason{Kind: store.Expired})
		se = nil
	}
	if se != nil {
		return se, nil
	}
	t, ok := m.tombs[id]
	switch {
	case ok && m.bug == "tombstones kept a second" && time.Since(t.at) > time.Second:
	case ok:
		t.why.Age = time.Since(t.at)
		return nil, &store.NotFoundError{Reason: t.why}
	case !m.started.IsZero():
		return nil, &store.NotFoundError{Reason: store.Reason{Kind: store.Restarted, Age: time.Since(m.started)}}
	}
	return nil, store.ErrNotFound
}

// end ends a session. Those that wait for its lock hear of it.
func (m *memory) end(id store.ID, se *session, why store.Reason) {
	why.Age = 0
	delete(m.sessions, id)
	if m.bug != "IDs retained" {
		id = copyOf(id)
	}
	m.tombs[id] = tomb{why, time.Now(), se}
	if m.bug != "Remove leaves waiters" {
		for _, w := range se.queue {
			w.err = &store.NotFoundError{Reason: why}
			close(w.done)
		}
		se.queue = nil
	}
	if se.rec.Flags&store.Uninitialized != 0 || why.Kind == store.Moved && m.bug != "ends of what moved" {
		return
	}
	e := &end{End: store.End{Key: fmt.Sprint(se.n), ID: id, Reason: why, Record: se.rec}}
	switch m.bug {
	case "an end's key is the session's":
		e.Key = id.Session
	case "an end without content":
		e.Record.Body, e.Record.Items = nil, nil
	}
	m.ends = append(m.ends, e)
	if m.room > 0 && len(m.ends) > m.room && m.bug != "ends without bound" {
		m.ends = m.ends[len(m.ends)-m.room:]
	}
}

// restart restarts the timeout, which a lock may hold up.
func (m *memory) restart(se *session) {
	if m.bug == "a timeout that does not slide" {
		return
	}
	expires := time.Now().Add(se.rec.Timeout)
	if se.rec.Locked && m.bug != "a session expires under its lock" {
		if held := se.lockedAt.Add(se.stale); held.After(expires) {
			expires = held
		}
	}
	se.expires = expires
}

func (m *memory) read(se *session, rec *store.Record) {
	body := append(rec.Body[:0], se.rec.Body...)
	*rec = se.rec
	rec.Body = body
	if se.rec.Locked {
		rec.LockAge = time.Since(se.lockedAt)
	}
	if m.bug == "no versions" {
		rec.Version, rec.History, rec.Acquired = 0, [3]store.Version{}, 0
	}
}

func (m *memory) Load(_ context.Context, id store.ID, rec *store.Record) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	se, err := m.get(id)
	if err != nil {
		return err
	}
	if se.rec.Locked && m.bug == "Load waits for locks" {
		return &store.LockedError{Lock: se.rec.Lock}
	}
	m.restart(se)
	m.read(se, rec)
	switch body := slices.Clone(rec.Body); m.bug {
	case "torn reads":
		m.relax()
		m.read(se, rec)
		rec.Body = body
	case "one body for all":
		m.scratch = append(m.scratch[:0], body...)
		m.relax()
		rec.Body = append(body[:0], m.scratch...)
	}
	return nil
}

// relax lets others in, who should not be.
func (m *memory) relax() {
	m.mu.Unlock()
	time.Sleep(time.Millisecond)
	m.mu.Lock()
}

// grant makes the lock o's. It is called with mu held.
func (m *memory) grant(se *session, o store.LockOptions) {
	mine := se.rec.Locked && se.rec.Lock.Owner == o.Owner && m.bug != "no owner"
	if !mine && !(se.rec.Locked && m.bug == "a takeover keeps the cookie") {
		se.rec.Lock.Cookie = rand.Int32N(1<<31-1) + 1
		if m.bug == "counted cookies" {
			m.made++
			se.rec.Lock.Cookie = int32(m.made)
		}
	}
	if !(mine && m.bug == "a renewal keeps the age") && !(se.rec.Locked && !mine && m.bug == "a takeover keeps the age") {
		se.lockedAt = time.Now()
	}
	if m.bug == "Lock draws a version" {
		se.rec.Advance(store.NewVersion())
	}
	se.rec.Locked, se.rec.Lock.Owner, se.rec.Acquired = true, o.Owner, se.rec.Version
	se.stale = max(se.stale, o.Stale)
	m.keepUntil(se, o.Stale)
}

func (m *memory) keepUntil(se *session, stale time.Duration) {
	was := se.expires
	m.restart(se)
	if m.bug != "a session expires under its lock" && se.expires.Before(time.Now().Add(stale)) {
		se.expires = time.Now().Add(stale)
	}
	if se.expires.Before(was) {
		se.expires = was
	}
	if m.bug == "a lock that lets nothing expire" {
		se.expires = time.Now().Add(24 * time.Hour)
	}
}

// free releases the lock and grants it to who waits first, and to whoever waits as
// the same owner.
func (m *memory) free(se *session) {
	se.rec.Locked, se.rec.Lock.Owner = false, 0
	m.restart(se)
	if len(se.queue) == 0 || m.bug == "nobody wakes who waits" || m.bug == "who waits polls" {
		return
	}
	next := se.queue[0]
	if m.bug == "last come, first served" {
		next = se.queue[len(se.queue)-1]
	}
	m.grant(se, next.o)
	se.queue = slices.DeleteFunc(se.queue, func(w *waiter) bool {
		if w.o.Owner != se.rec.Lock.Owner {
			return false
		}
		m.read(se, &w.rec)
		close(w.done)
		return true
	})
}

func (m *memory) Lock(ctx context.Context, id store.ID, o store.LockOptions, rec *store.Record) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	se, err := m.get(id)
	if err != nil {
		if m.bug == "Lock creates" {
			m.sessions[copyOf(id)] = &session{rec: store.Record{Timeout: time.Hour}, expires: time.Now().Add(time.Hour)}
		}
		return err
	}
	w := &waiter{o: o, done: make(chan struct{})}
	end := time.NewTimer(o.Wait)
	defer end.Stop()
	for queued := false; ; queued = true {
		age := time.Since(se.lockedAt)
		switch {
		case !se.rec.Locked, m.bug == "locks shared", se.rec.Lock.Owner == o.Owner && m.bug != "no owner",
			o.Stale > 0 && age >= o.Stale && m.bug != "locks never stale" && !(queued && m.bug == "stale locks seen at first only"):
			m.grant(se, o)
			m.leave(se, w)
			m.read(se, rec)
			return nil
		case o.Wait == 0, m.bug == "nobody may wait":
			return &store.LockedError{Lock: se.rec.Lock, Age: age}
		}
		if !queued {
			se.queue = append(se.queue, w)
		}
		stale := time.NewTimer(max(o.Stale-age, time.Millisecond))
		if o.Stale == 0 {
			stale.Stop()
		}
		if m.bug == "who waits polls" {
			stale.Reset(47311 * time.Microsecond)
		}
		m.mu.Unlock()
		ended := false
		select {
		case <-w.done:
		case <-stale.C:
		case <-end.C:
			ended = true
		case <-ctx.Done():
		}
		stale.Stop()
		m.mu.Lock()

		select {
		case <-w.done: // perhaps at the same moment as something else
			if w.err == nil && ctx.Err() != nil {
				if se.rec.Lock == w.rec.Lock && m.bug != "a grant to who has left stays" {
					m.free(se)
				}
				return ctx.Err()
			}
			if w.err == nil {
				m.read(se, rec)
			}
			return w.err
		default:
		}
		if ctx.Err() != nil {
			if m.bug != "who left is still in the queue" {
				m.leave(se, w)
			}
			return ctx.Err()
		}
		if ended {
			m.leave(se, w)
			if m.bug != "who waits does not see expiry" {
				if _, err := m.get(id); err != nil {
					return err
				}
			}
			return &store.LockedError{Lock: se.rec.Lock, Age: time.Since(se.lockedAt)}
		}
	}
}

func (m *memory) leave(se *session, w *waiter) {
	se.queue = slices.DeleteFunc(se.queue, func(other *waiter) bool { return other == w })
}

func (m *memory) Create(_ context.Context, id store.ID, rec *store.Record, hold bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.writeLate()
	if se, err := m.get(id); err == nil && m.bug != "Create overwrites" {
		switch {
		case m.bug == "Create recognises nothing", m.bug == "no history" && se.rec.Version != rec.Version, !se.rec.Seen(rec.Version):
			return store.ErrExists
		case hold && m.bug == "Create, repeated, has no cookie":
			rec.Lock.Cookie = 0
		case hold:
			rec.Lock.Cookie = se.rec.Lock.Cookie
		}
		return nil
	}
	if m.maxBody > 0 && len(rec.Body) > m.maxBody && m.bug != "bodies of any size" {
		return store.ErrTooLarge
	}
	if _, ok := m.tombs[id]; ok && m.bug == "Create over a tombstone refused" {
		return store.ErrExists
	}
	if m.room > 0 && len(m.sessions) >= m.room {
		if !m.evicts {
			return store.ErrFull
		}
		m.evict()
	}
	m.made++
	se := &session{n: m.made, rec: store.Record{Version: rec.Version, History: rec.History, Timeout: seconds(rec.Timeout), Created: rec.Created,
		Flags: rec.Flags, Subject: rec.Subject, Body: slices.Clone(rec.Body), Items: rec.Items}}
	switch m.bug {
	case "bodies retained":
		se.rec.Body = rec.Body
	case "counted versions":
		se.rec.Version = 1
	}
	if se.rec.Created.IsZero() && m.bug != "no time of creation" {
		se.rec.Created = time.Now()
	}
	se.expires = time.Now().Add(se.rec.Timeout)
	if m.bug != "IDs retained" {
		id = copyOf(id)
	}
	m.sessions[id] = se
	if hold && m.bug != "hold ignored" {
		m.grant(se, store.LockOptions{Owner: rec.Lock.Owner})
		rec.Lock = se.rec.Lock
	}
	return nil
}

func copyOf(id store.ID) store.ID {
	return store.ID{App: strings.Clone(id.App), Session: strings.Clone(id.Session)}
}

// seconds rounds up.
func seconds(d time.Duration) time.Duration {
	return (d + time.Second - 1).Truncate(time.Second)
}

func (m *memory) evict() {
	var oldest store.ID
	for id, se := range m.sessions {
		if o := m.sessions[oldest]; o == nil || se.n < o.n {
			oldest = id
		}
	}
	m.end(oldest, m.sessions[oldest], store.Reason{Kind: store.Evicted})
}

func (m *memory) Save(_ context.Context, id store.ID, rec *store.Record, next store.Version, hold bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.writeLate()
	se, err := m.get(id)
	if err != nil {
		if m.bug == "upserting Save" || m.bug == "Save inserts over a tombstone" && store.ReasonOf(err).Kind != store.Unknown {
			m.made++
			m.sessions[id] = &session{n: m.made, rec: *rec, expires: time.Now().Add(rec.Timeout)}
			return nil
		}
		return err
	}
	had := !rec.Lock.IsZero()
	holds := se.rec.Locked && (rec.Lock.Names(se.rec.Lock) || m.bug == "no owner" && rec.Lock.Cookie == se.rec.Lock.Cookie)
	switch m.bug {
	case "a lock needs owner and cookie":
		holds = se.rec.Locked && rec.Lock == se.rec.Lock
	case "Save looks at no lock":
		holds = true
	}
	if m.bug == "locks before repeats" && se.rec.Locked && !holds {
		return store.ErrLockLost
	}
	if m.bug == "no versions" {
		rec = with(rec, string(rec.Body))
		rec.Version = se.rec.Version
	}
	seen := se.rec.Seen(next) || m.bug == "no history" && se.rec.Version == next
	if m.bug == "no history" && se.rec.Version != next || m.bug == "counted versions" || m.bug == "Save recognises nothing" {
		seen = false
	}
	if seen {
		if m.bug == "a Save that is repeated releases" && holds {
			m.free(se)
		}
		return nil
	}
	if se.rec.Locked && !holds {
		if had {
			return store.ErrLockLost
		}
		return &store.LockedError{Lock: se.rec.Lock, Age: time.Since(se.lockedAt)}
	}
	if se.rec.Version != rec.Version && m.bug != "Save compares no version" && !(had && m.bug == "Save with a lock compares nothing") {
		if had {
			return store.ErrLockLost
		}
		return store.ErrConflict
	}
	if had && !holds && m.bug == "a lock that is gone is lost" {
		return store.ErrLockLost
	}
	if m.maxBody > 0 && len(rec.Body) > m.maxBody {
		return store.ErrTooLarge
	}
	if m.room > 0 && len(m.sessions) >= m.room && !m.evicts && m.bug == "a full store saves nothing" {
		return store.ErrFull
	}
	if m.bug == "counted versions" {
		next = se.rec.Version + 1
	}
	if m.bug == "Save draws the version" {
		next = store.NewVersion()
	}
	se.rec.Advance(next)
	if m.bug == "no history" {
		se.rec.History = [3]store.Version{}
	}
	if m.bug != "Save keeps all but the body" {
		se.rec.Timeout, se.rec.Flags, se.rec.Subject = seconds(rec.Timeout), rec.Flags, rec.Subject
	}
	se.rec.Body, se.rec.Items = slices.Clone(rec.Body), rec.Items
	if m.bug == "bodies retained" {
		se.rec.Body = rec.Body
	}
	if m.bug == "Save changes its argument" {
		rec.Advance(next)
	}
	m.restart(se)
	switch {
	case hold && had && m.bug != "hold ignored" && !(m.bug == "hold takes nothing again" && !holds),
		hold && m.bug == "hold without a lock locks":
		se.rec.Locked, se.rec.Acquired, se.lockedAt = true, next, time.Now()
		if !holds {
			se.rec.Lock = rec.Lock
		}
	case se.rec.Locked && m.bug != "Save never releases":
		m.free(se)
	}
	return nil
}

func (m *memory) Unlock(_ context.Context, id store.ID, lock store.Lock) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	se, err := m.get(id)
	switch {
	case err != nil:
		return err
	case !se.rec.Locked && m.bug == "Unlock cannot be repeated":
		return store.ErrLockLost
	case !se.rec.Locked:
		return nil
	case !lock.Names(se.rec.Lock) && m.bug != "Unlock looks at no lock":
		return store.ErrLockLost
	}
	m.free(se)
	return nil
}

func (m *memory) Remove(_ context.Context, id store.ID, lock store.Lock, why store.Reason) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.writeLate()
	se, err := m.get(id)
	if err != nil {
		if t, ok := m.tombs[id]; ok && m.bug == "Remove, repeated, changes the why" {
			t.why = why
			m.tombs[id] = t
		}
		if m.bug == "Remove, repeated, succeeds" {
			return nil
		}
		return err
	}
	if !lock.IsZero() && !(se.rec.Locked && lock.Names(se.rec.Lock)) && m.bug != "Remove looks at no lock" {
		return store.ErrLockLost
	}
	if lock.IsZero() && se.rec.Locked && m.bug == "Remove waits for nobody" {
		return store.ErrLockLost
	}
	m.end(id, se, why)
	return nil
}

func (m *memory) Touch(_ context.Context, id store.ID) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if se := m.sessions[id]; se != nil && m.bug == "Touch revives" {
		se.expires = time.Now().Add(se.rec.Timeout)
	}
	se, err := m.get(id)
	if err != nil {
		return err
	}
	was := se.expires
	m.restart(se)
	switch {
	case m.bug == "Touch draws a version":
		se.rec.Advance(store.NewVersion())
	case m.bug == "Touch in the same second is lost" && was.Equal(se.expires):
		return store.ErrNotFound
	}
	return nil
}

func (m *memory) Ended(_ context.Context, app string, limit int, lease time.Duration) (ends []store.End, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.bug != "nobody looks for what expired" {
		for id, se := range m.sessions {
			if _, err := m.get(id); err != nil && m.bug == "what expired lives on" {
				m.sessions[id] = se
				m.restart(se)
			}
		}
	}
	m.ends = slices.DeleteFunc(m.ends, func(e *end) bool {
		switch {
		case e.ID.App != app && m.bug != "ends of all applications", len(ends) == limit && m.bug != "Ended without limit":
			return false
		case e.claimed.IsZero(), time.Since(e.claimed) >= lease, m.bug == "an end without claim":
			e.claimed = time.Now()
			ends = append(ends, e.End)
			return m.bug == "an end without lease"
		}
		return false
	})
	return ends, nil
}

func (m *memory) Ack(_ context.Context, app string, keys []string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ends = slices.DeleteFunc(m.ends, func(e *end) bool {
		return e.ID.App == app && slices.Contains(keys, e.Key)
	})
	return nil
}

func (m *memory) List(_ context.Context, q store.Query) (page []store.Listed, next string, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	limit := cmp.Or(q.Limit, 10)
	all := make(map[string]store.Listed)
	for id, se := range m.sessions {
		if !time.Now().Before(se.expires) && m.bug != "List shows what expired" {
			continue
		}
		if id.App != q.App && q.App != "" || q.Subject != "" && se.rec.Subject != q.Subject && m.bug != "List looks at no subject" {
			continue
		}
		if m.bug == "List restarts timeouts" {
			m.restart(se)
		}
		rec := se.rec
		rec.Body, rec.Items = nil, nil
		all[fmt.Sprintf("%q %q", id.App, id.Session)] = store.Listed{ID: id, Record: rec}
	}
	keys := make([]string, 0, len(all))
	for key := range all {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	if q.App == "" && m.bug == "List needs an application" {
		return nil, "", nil
	}
	last := q.After
	if m.bug == "List pages by number" {
		var from int
		fmt.Sscan(q.After, &from)
		for i := from; i < min(from+limit, len(keys)); i++ {
			page = append(page, all[keys[i]])
		}
		if from+limit < len(keys) {
			next = fmt.Sprint(from + limit)
		}
		return page, next, nil
	}
	for _, key := range keys {
		if key <= q.After {
			continue
		}
		if m.bug == "List ends with the first page" && len(page) == limit {
			return page, "", nil
		}
		if len(page) == limit && m.bug != "List without limit" {
			return page, last, nil
		}
		page, last = append(page, all[key]), key
	}
	return page, "", nil
}

// reopen is a restart: the store that opens what m has written.
func (m *memory) reopen(crash bool) *memory {
	m.mu.Lock()
	defer m.mu.Unlock()
	from := m
	if crash && m.disk != nil {
		from = m.disk
	}
	n := from.copy()
	for _, se := range n.sessions {
		if crash || m.bug == "locks lost in a restart" {
			se.rec.Locked, se.rec.Lock.Owner = false, 0
		}
	}
	if crash && m.bug == "ends lost in a crash" {
		n.ends = nil
	}
	if m.bug == "Remove lost in a restart" {
		for id, t := range n.tombs {
			if t.was != nil && t.why.Kind != store.Expired {
				n.sessions[id] = t.was
			}
		}
	}
	return n
}

// writeLate is called before a change: the disk has what was before it.
func (m *memory) writeLate() {
	if m.bug == "reply before durable" {
		m.disk = m.copy()
	}
}

func (m *memory) copy() *memory {
	n := newMemory(m.bug)
	n.room, n.evicts, n.maxBody, n.made = m.room, m.evicts, m.maxBody, m.made
	n.tombs, n.ends = maps.Clone(m.tombs), slices.Clone(m.ends)
	for id, se := range m.sessions {
		c := *se
		c.queue, c.rec.Body = nil, slices.Clone(se.rec.Body)
		n.sessions[id] = &c
	}
	return n
}
