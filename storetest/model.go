package storetest

import (
	"errors"

	"github.com/anishathalye/porcupine"

	"github.com/holdfast-session/holdfast/store"
)

// A model is the contract of one session, whose calls come one after the other and
// whose timeout never passes.
type model struct {
	reasons bool // of sessions that are absent are told
	forgets bool // of a session that never was it may be told that it ended in a restart
	early   bool // a Lock may have locked something before it locked what it returns
}

// A state is what is to be known of the session. It is compared with ==.
type state struct {
	present  bool
	why      store.Kind // if it is not present
	version  store.Version
	history  [3]store.Version
	acquired store.Version // zero before the first Lock
	locked   bool
	owner    uint64
	cookie   int32 // zero before the first Lock, and while its reply is not known
	body     string
}

func (m model) porcupine() porcupine.Model {
	return porcupine.Model{
		Init: func() any { return state{} },
		Step: func(s, in, out any) (bool, any) {
			q, p := in.(*request), out.(*reply)
			if p.lost {
				return true, m.apply(s.(state), q)
			}
			return m.step(s.(state), q, p)
		},
	}
}

// apply is the state after a call whose reply is not known.
func (m model) apply(s state, q *request) state {
	switch q.method {
	case "Lock":
		if s.present && (!s.locked || s.owner == q.options.Owner) {
			s.grant(q.options.Owner, 0)
		}
	case "Create":
		s, _ = s.create(q)
	case "Save":
		s, _ = s.save(q)
	case "Unlock":
		s, _ = s.unlock(q.lock)
	case "Remove":
		s, _ = s.remove(q)
	}
	return s
}

// step says whether the reply is what the contract answers in state s, and what the
// state is after it.
func (m model) step(s state, q *request, p *reply) (bool, state) {
	if errors.Is(p.err, store.ErrNotFound) {
		return !s.present && m.told(s, store.ReasonOf(p.err).Kind), s
	}
	switch q.method {
	case "Crash":
		return true, s.crash()
	case "Load":
		return p.err == nil && s.present && s.shows(&p.rec), s.seen(&p.rec)
	case "Lock":
		return s.lock(q, p)
	case "Create":
		next, want := s.create(q)
		if !sameError(p.err, want) {
			return false, s
		}
		if want == nil && q.hold && next.locked && next.owner == q.rec.Lock.Owner {
			return p.lock.Cookie > 0 && next.holds(p.lock), next.seen(&store.Record{Lock: p.lock})
		}
		return true, next
	case "Save":
		next, want := s.save(q)
		return s.names(p.err) && sameError(p.err, want), next
	case "Unlock":
		next, want := s.unlock(q.lock)
		return sameError(p.err, want), next
	case "Remove":
		next, want := s.remove(q)
		return sameError(p.err, want), next
	}
	return false, s
}

// told says whether kind is what is to be said of a session that is not present.
func (m model) told(s state, kind store.Kind) bool {
	return !m.reasons || kind == s.why || kind == store.Restarted && s.why == store.Unknown && m.forgets
}

// sameError compares errors as callers tell them apart.
func sameError(got, want error) bool {
	if locked := new(store.LockedError); errors.As(want, &locked) {
		return errors.As(got, &locked)
	}
	if want == nil {
		return got == nil
	}
	return errors.Is(got, want)
}

// names says whether err, if it is a *LockedError, names the lock that is held.
func (s state) names(err error) bool {
	locked := new(store.LockedError)
	if !errors.As(err, &locked) {
		return true
	}
	return s.locked && (s.cookie == 0 || locked.Lock.Cookie == s.cookie) && (locked.Lock.Owner == 0 || locked.Lock.Owner == s.owner)
}

// shows says whether rec is what is to be read.
func (s state) shows(rec *store.Record) bool {
	switch {
	case rec.Version != s.version, rec.History != s.history, string(rec.Body) != s.body, rec.Locked != s.locked:
		return false
	case s.cookie != 0 && rec.Lock.Cookie != s.cookie, s.acquired != 0 && rec.Acquired != s.acquired:
		return false
	}
	return !s.locked || rec.Lock.Owner == 0 || rec.Lock.Owner == s.owner
}

// seen is the state once the cookie has been read.
func (s state) seen(rec *store.Record) state {
	if s.acquired != 0 && s.cookie == 0 {
		s.cookie = rec.Lock.Cookie
	}
	return s
}

func (s state) has(v store.Version) bool {
	rec := store.Record{Version: s.version, History: s.history}
	return rec.Seen(v)
}

// holds says whether l, as a caller gives it, is the lock that is held. A cookie
// that nobody has been told is not one that a caller gives.
func (s state) holds(l store.Lock) bool {
	if s.cookie == 0 {
		return s.locked && l.Owner == s.owner
	}
	return s.locked && l.Names(store.Lock{Cookie: s.cookie, Owner: s.owner})
}

func (s *state) grant(owner uint64, cookie int32) {
	if !s.locked || s.owner != owner {
		s.cookie = cookie
	}
	s.locked, s.owner, s.acquired = true, owner, s.version
}

func (s *state) free() { s.locked, s.owner = false, 0 }

// crash drops the lock, and what is to be known of the last one.
func (s state) crash() state {
	s.free()
	s.cookie, s.acquired = 0, 0
	return s
}

func (s state) lock(q *request, p *reply) (bool, state) {
	if !s.present {
		return false, s
	}
	mine := s.locked && s.owner == q.options.Owner
	if p.err != nil {
		return sameError(p.err, &store.LockedError{}) && s.locked && !mine && s.names(p.err), s
	}
	if s.locked && !mine && q.options.Stale == 0 {
		return false, s
	}
	if !mine && s.cookie != 0 && p.rec.Lock.Cookie == s.cookie || p.rec.Lock.Cookie <= 0 || p.rec.Lock.Owner != q.options.Owner {
		return false, s
	}
	s.grant(q.options.Owner, p.rec.Lock.Cookie)
	return s.shows(&p.rec), s.seen(&p.rec)
}

func (s state) create(q *request) (state, error) {
	if s.present {
		if s.has(q.rec.Version) {
			return s, nil
		}
		return s, store.ErrExists
	}
	s = state{present: true, version: q.rec.Version, history: q.rec.History, body: string(q.rec.Body)}
	if q.hold {
		s.grant(q.rec.Lock.Owner, 0)
	}
	return s, nil
}

func (s state) save(q *request) (state, error) {
	had, holds := !q.rec.Lock.IsZero(), s.holds(q.rec.Lock)
	switch {
	case !s.present:
		return s, store.ErrNotFound
	case s.has(q.next):
		return s, nil
	case s.locked && !holds && had:
		return s, store.ErrLockLost
	case s.locked && !holds:
		return s, &store.LockedError{}
	case s.version != q.rec.Version && had:
		return s, store.ErrLockLost
	case s.version != q.rec.Version:
		return s, store.ErrConflict
	}
	rec := store.Record{Version: s.version, History: s.history}
	rec.Advance(q.next)
	s.version, s.history, s.body = rec.Version, rec.History, string(q.rec.Body)
	if !q.hold || !had {
		s.free()
		return s, nil
	}
	if !holds { // it is the caller's again, under a cookie of the store's choice
		s.owner, s.cookie = q.rec.Lock.Owner, 0
	}
	s.locked, s.acquired = true, s.version
	return s, nil
}

func (s state) unlock(l store.Lock) (state, error) {
	switch {
	case !s.present:
		return s, store.ErrNotFound
	case !s.locked:
		return s, nil
	case !s.holds(l):
		return s, store.ErrLockLost
	}
	s.free()
	return s, nil
}

func (s state) remove(q *request) (state, error) {
	switch {
	case !s.present:
		return s, store.ErrNotFound
	case !q.lock.IsZero() && !s.holds(q.lock):
		return s, store.ErrLockLost
	}
	return state{why: q.why}, nil
}
