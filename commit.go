package holdfast

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"sync"
	"time"

	"github.com/holdfast-session/holdfast/items"
	"github.com/holdfast-session/holdfast/store"
)

// ending says what becomes of the lock at a commit.
type ending uint8

const (
	keepLock ending = iota
	giveLock
	atEnd // give it, off the visitor's path if nothing is to be saved
)

// leave is the gate through which a response goes: it saves the session, and says
// in h what the browser and caches must know of it.
func (s *Session) leave(status int, h http.Header, why leaving) error {
	s.io.Lock()
	defer s.io.Unlock()
	err := s.pass(status, h, why)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refused = err
	return err
}

func (s *Session) pass(status int, h http.Header, why leaving) error {
	if s.phase.Load() != acquired {
		if s.m.cookieless { // the client stays where it is, whoever looks
			for _, id := range s.present(nil) {
				relocate(h, id)
			}
		}
		return nil
	}
	how := atEnd
	switch why {
	case leavingFull:
		how = keepLock
	case leavingFlushed, leavingHijacked:
		how = giveLock
	}
	saving, err := s.maySave(how)
	if err != nil {
		return err
	}
	if saving {
		if why == leavingHijacked && s.needsCookie() {
			return ErrHeadersSent
		}
		if s.m.cookieless && s.needsCookie() && !canMove(status, h) {
			return ErrNotRedirected
		}
		if err := s.commit(&s.ctx, how); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tell(h)
	return nil
}

// needsCookie reports whether the next commit has an ID to send.
func (s *Session) needsCookie() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.m.off:
		return false
	case s.sayID:
		return true
	case s.isBlank():
		return false
	}
	return s.newID || !s.stored
}

// isBlank reports whether the session has yet to begin, which it does with its first
// value: not with a timeout, a subject or a new ID. Called with io and mu held.
func (s *Session) isBlank() bool {
	return (!s.stored || s.rec.Flags&store.Uninitialized != 0) && !s.hasValues()
}

// hasValues reports whether anything is in the session. Called with mu held.
func (s *Session) hasValues() bool {
	for range s.names() {
		return true
	}
	return s.live != nil
}

// flushed saves what changed since the response began, before more of it leaves.
func (s *Session) flushed() error {
	s.io.Lock()
	defer s.io.Unlock()
	err := s.commitLate(giveLock)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refused = err
	return err
}

// leaveLate saves what changed since the response began, at its end.
func (s *Session) leaveLate() error {
	s.io.Lock()
	defer s.io.Unlock()
	return s.commitLate(atEnd)
}

func (s *Session) commitLate(how ending) error {
	if s.phase.Load() != acquired {
		return nil
	}
	saving, err := s.maySave(how)
	if !saving {
		return err
	}
	return s.commit(&s.ctx, how)
}

// maySave reports whether the request is to be saved. If it has failed as a whole, which
// its status says, its changes are dropped here. They are dropped by an error if its
// deadline has passed: that is how http.TimeoutHandler around us gives a request up, whose
// visitor has been told so. Within another's deadline it is ours to tell him.
func (s *Session) maySave(how ending) (bool, error) {
	s.mu.Lock()
	saved := s.saved
	s.mu.Unlock()
	if saved || !s.w.failed() {
		if err := s.sticky(); err != nil {
			return false, err
		}
		late := s.r.Context().Err()
		if !errors.Is(late, context.DeadlineExceeded) {
			return true, nil
		}
		if s.hasChanges() {
			return false, fmt.Errorf("holdfast: the deadline of the request passed before its session was saved: %w", late)
		}
	}
	s.drop(how)
	return false, nil
}

// hasChanges reports whether there is anything to be saved. Called with io held.
func (s *Session) hasChanges() bool {
	if s.m.off {
		return false
	}
	ch, err := s.collect()
	if err != nil {
		return true
	}
	s.mu.Lock()
	blank := s.isBlank()
	s.mu.Unlock()
	switch {
	case blank:
		return false
	case !s.stored, s.rec.Flags&store.Uninitialized != 0, ch.newID, ch.traits:
		return true
	}
	it, err := ch.over(s.base)
	return err != nil || it != s.base
}

// drop discards what was not saved yet.
func (s *Session) drop(how ending) {
	s.mu.Lock()
	s.discard()
	s.mu.Unlock()
	if how != keepLock {
		s.unlock(how == atEnd)
	}
}

// rollback ends a request that saves nothing more. What it has saved before, or
// ended, is told in the header, if that has not left, for whatever answer others give.
func (s *Session) rollback() {
	s.io.Lock()
	defer s.io.Unlock()
	s.drop(atEnd)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.finished = true
	if (s.sayID || s.sayGone) && !s.w.left() {
		s.tell(s.w.rw.Header())
	}
}

// settle ends a request that went well.
func (s *Session) settle() {
	s.io.Lock()
	defer s.io.Unlock()
	s.unlock(true) // of a handler that outlived its response's end; else long done
	s.mu.Lock()
	s.finished = true
	s.mu.Unlock()
	if s.phase.Load() == idle && !s.m.off {
		s.touchAll()
	}
}

// commit saves the changes, if there are any. Called with io held.
func (s *Session) commit(ctx context.Context, how ending) error {
	m := s.m
	if m.off {
		return nil
	}
	ch, err := s.collect()
	if err != nil {
		return err
	}
	s.mu.Lock()
	blank := s.isBlank()
	s.mu.Unlock()
	switch {
	case blank:
		if how != keepLock {
			s.unlock(how == atEnd)
		}
		return nil
	case !s.stored:
		return s.create(ctx, how)
	case s.rec.Flags&store.Uninitialized != 0:
		if ch, err = s.begin(); err != nil {
			return err
		}
	}
	if how == atEnd && s.isDue(&ch) {
		ch.newID, ch.renewal = true, true
	}
	if ch.newID {
		return s.regenerate(ctx, &ch, how)
	}
	it, err := ch.over(s.base)
	switch {
	case err != nil:
		return err
	case it == s.base && !ch.traits:
		s.applied(&ch, it)
		if how != keepLock {
			s.unlock(how == atEnd)
		}
		return nil
	case s.access == ReadOnly:
		return ErrReadOnly
	case s.locked:
		return s.put(ctx, &ch, it, how)
	}
	return s.merge(ctx, &ch, it)
}

// create stores a new session.
func (s *Session) create(ctx context.Context, how ending) error {
	m := s.m
	if s.w.left() {
		return ErrHeadersSent
	}
	ch, err := s.begin()
	if err != nil {
		return err
	}
	if m.o.Renewal > 0 {
		ch.now.since = time.Now().Unix()
	}
	it, err := ch.over(s.base)
	if err != nil {
		return err
	}
	s.rec = store.Record{Version: store.NewVersion()}
	hold := how == keepLock && s.access == Exclusive
	id, err := s.insert(ctx, &ch, it, hold)
	if err != nil {
		return err
	}
	s.born(id)
	s.applied(&ch, it)
	return nil
}

// begin has the application put in what every new session has.
func (s *Session) begin() (changes, error) {
	if s.m.o.OnStart != nil {
		s.m.o.OnStart(s)
		if err := s.sticky(); err != nil {
			return changes{}, err
		}
	}
	return s.collect()
}

// insert creates the record s.rec with content it under an ID of its own.
func (s *Session) insert(ctx context.Context, ch *changes, it *items.Item, hold bool) (string, error) {
	m := s.m
	release, err := s.fill(&s.rec, ch, it)
	if err != nil {
		return "", err
	}
	defer release()
	s.rec.Lock = store.Lock{}
	if hold {
		s.rec.Lock.Owner = store.NewOwner()
	}
	sctx, cancel := m.storeContext(ctx)
	defer cancel()
	for try := 1; ; try++ {
		id := m.o.IDs.New()
		key := m.keyOf(id)
		err := m.repeat(sctx, untilDefinite, func(ctx context.Context) error { return m.store.Create(ctx, key, &s.rec, hold) })
		switch {
		case err == nil:
			s.setKey(key)
			s.locked = hold
			if hold {
				m.lease.add(s, time.Now())
			}
			return id, nil
		case errors.Is(err, store.ErrExists) && try < 3:
		default:
			return "", s.outcome(err)
		}
	}
}

// born notes that the session is stored under a new ID.
func (s *Session) born(id string) {
	s.stored = true
	s.mu.Lock()
	defer s.mu.Unlock()
	s.id, s.sayID, s.sayGone = id, true, false
	s.merging = !s.locked
	s.created = s.rec.Created
}

// put saves the content it under our lock.
func (s *Session) put(ctx context.Context, ch *changes, it *items.Item, how ending) error {
	err := s.write(ctx, ch, it, s.rec.Lock, how == keepLock)
	switch {
	case err == nil:
		if how != keepLock {
			s.letGo()
		}
		return nil
	case errors.Is(err, store.ErrNotFound), errors.Is(err, store.ErrLockLost):
		s.letGo() // it is not ours any more
	}
	return s.outcome(err)
}

// merge saves the content it, laid over base, if that is still the newest.
// Otherwise, or behind another's lock, or at a store without versions, it takes the
// lock for a moment and lays the changes over what is there then.
//
// The merges of this process take turns, and who comes behind another does not try
// without the lock: side by side they would only refuse each other, and where a reply
// is lost at that, hide what has become of the call.
func (s *Session) merge(ctx context.Context, ch *changes, it *items.Item) error {
	key := s.key
	behind, err := s.m.saves.enter(context.WithoutCancel(ctx), key, math.MaxInt, s.m.o.LockWait)
	if err != nil {
		return err
	}
	defer s.m.saves.leave(key)
	var locked *store.LockedError
	if s.rec.Version != 0 && !behind {
		err := s.write(ctx, ch, it, store.Lock{}, false)
		if !errors.Is(err, store.ErrConflict) && !errors.As(err, &locked) {
			return s.outcome(err)
		}
	}
	const tries = 3 // a lock that we hold for a moment is hardly ever broken
	for try := 1; ; try++ {
		if err := s.relock(ctx, ch); err != nil {
			return err
		}
		it, err := ch.over(s.base)
		if err != nil || it == s.base && !ch.traits {
			if err == nil {
				s.applied(ch, it)
			}
			s.unlock(false)
			return err
		}
		err = s.write(ctx, ch, it, s.rec.Lock, false)
		if definite(err) && (err == nil || errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrLockLost)) {
			s.letGo()
		} else {
			s.unlock(true)
		}
		if errors.Is(err, store.ErrLockLost) && try < tries {
			continue
		}
		return s.outcome(err)
	}
}

// relock locks the session again, which we knew without a lock, and makes what is
// there now the base. What this request has not changed is for ch, too, as it is there.
func (s *Session) relock(ctx context.Context, ch *changes) error {
	key, created := s.key, s.rec.Created
	if err := s.lock(context.WithoutCancel(ctx), key); err != nil {
		return s.outcome(err)
	}
	base, err := s.content()
	if err == nil && !s.rec.Created.Equal(created) && !created.IsZero() {
		err = ErrEnded // another session by now
	}
	if err != nil {
		s.unlock(false)
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.base = base
	was, is := s.kept, traitsOf(base, s.rec.Subject)
	ch.now.follow(was, is)
	s.now.follow(was, is)
	s.kept = is
	ch.live = s.live // with those that others have put in
	ch.traits = ch.now != is || ch.live != s.liveKept
	return nil
}

// write makes one Save and, if it succeeds, the saved content the base.
func (s *Session) write(ctx context.Context, ch *changes, it *items.Item, lock store.Lock, hold bool) error {
	m := s.m
	s.next = s.rec
	rec := &s.next
	rec.Lock = lock
	rec.Flags &^= store.Uninitialized
	release, err := s.fill(rec, ch, it)
	if err != nil {
		return err
	}
	defer release()
	next := store.NewVersion()
	sctx, cancel := m.storeContext(ctx)
	defer cancel()
	key := s.key
	unsure := false
	err = m.repeat(sctx, untilDefinite, func(ctx context.Context) error {
		err := m.store.Save(ctx, key, rec, next, hold)
		unsure = unsure || !definite(err)
		return err
	})
	if err != nil {
		if unsure && definite(err) {
			return s.doubt(sctx, err)
		}
		return err
	}
	s.rec.Advance(next)
	s.rec.Flags = rec.Flags
	s.applied(ch, it)
	return nil
}

// doubt returns err, the refusal of a Save that an earlier call may have made, if it
// was certainly not made; else ErrUnsure. A record remembers its last four versions:
// if the one we began with is among them and ours is not, ours never was there.
func (s *Session) doubt(ctx context.Context, err error) error {
	if errors.Is(err, store.ErrNotFound) {
		return err
	}
	m, key := s.m, s.key
	var now store.Record
	if m.repeat(ctx, untilDefinite, func(ctx context.Context) error { return m.store.Load(ctx, key, &now) }) == nil && now.Seen(s.rec.Version) {
		return err
	}
	return fmt.Errorf("%w: a reply was lost, and too much was saved since (%v)", store.ErrUnsure, err)
}

var bodies = sync.Pool{New: func() any { return new([]byte) }}

// fill puts the content it into rec, as bytes, with the live values beside them.
func (s *Session) fill(rec *store.Record, ch *changes, it *items.Item) (release func(), err error) {
	rec.Timeout = slack(ch.now.timeout)
	rec.Subject = ch.now.subject
	rec.Body, rec.Items = nil, nil
	if n := it.Size(); n > s.m.o.MaxBytes {
		return nil, fmt.Errorf("%w: %d bytes of %d", ErrTooLarge, n, s.m.o.MaxBytes)
	}
	buf := bodies.Get().(*[]byte)
	*buf, err = it.Append((*buf)[:0])
	if err != nil {
		return nil, fmt.Errorf("holdfast: %w", err)
	}
	if ch.live != nil {
		rec.Items = &kept{string(*buf), ch.live}
		bodies.Put(buf)
		return func() {}, nil
	}
	rec.Body = *buf
	return func() { rec.Body = nil; bodies.Put(buf) }, nil
}

// outcome is what the application is told of a store's error at a save.
func (s *Session) outcome(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, store.ErrNotFound):
		return fmt.Errorf("%w (%v)", ErrEnded, store.ReasonOf(err).Kind)
	case errors.Is(err, store.ErrLockLost), errors.Is(err, store.ErrConflict):
		return fmt.Errorf("%w: %w", ErrConflict, err)
	case errors.Is(err, store.ErrTooLarge):
		return fmt.Errorf("%w: %w", ErrTooLarge, err)
	}
	return err
}

// letGo forgets a lock that the store has taken back, and lets the next in line go.
func (s *Session) letGo() {
	line := s.line
	s.m.lease.remove(s)
	s.locked, s.line = false, store.ID{}
	s.mu.Lock()
	s.merging = true
	s.mu.Unlock()
	if line.Session != "" {
		s.m.queue.leave(line)
	}
}

// unlock gives the lock up, if we have it. Called with io held.
func (s *Session) unlock(later bool) {
	if !s.locked {
		return
	}
	m, key, lock, line := s.m, s.key, s.rec.Lock, s.line
	s.line = store.ID{}
	s.letGo()
	switch {
	case m.local && m.store.Unlock(context.Background(), key, lock) == nil:
		if line.Session != "" {
			m.queue.leave(line)
		}
	case later:
		m.background.Go(func() { s.giveBack(key, lock, line) })
	default:
		s.giveBack(key, lock, line)
	}
}

// giveBack unlocks until that is certain, then lets the next in line go ahead.
func (s *Session) giveBack(key store.ID, lock store.Lock, line store.ID) {
	m := s.m
	ctx, cancel := context.WithTimeout(context.WithoutCancel(&s.ctx), m.o.LockTimeout)
	defer cancel()
	err := m.repeat(ctx, untilDefinite, func(ctx context.Context) error {
		err := m.store.Unlock(ctx, key, lock)
		if err != nil && line.Session != "" { // the next in line finds out for himself
			m.queue.leave(line)
			line = store.ID{}
		}
		return err
	})
	if err != nil && !errors.Is(err, store.ErrNotFound) && !errors.Is(err, store.ErrLockLost) {
		m.report(ctx, err, "a lock could not be given back", s)
	}
	if line.Session != "" {
		m.queue.leave(line)
	}
}

// overdue is the error of a call after the request has ended.
func (s *Session) overdue() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.finished {
		return ErrFinished
	}
	return nil
}
