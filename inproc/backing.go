package inproc

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-session/holdfast/store"
)

// defaultBackingInterval is how late a change is written, if nobody says otherwise.
const defaultBackingInterval = time.Second

const (
	// maxBehind is how many sessions may wait to be written. Who changes one more has
	// to write some.
	maxBehind = 1 << 16

	// touchInterval is how late the backing learns that a session was used without a
	// change; backingSlack is how much longer it keeps one, so that it never ends a
	// session that is alive here.
	touchInterval = 10 * time.Second
	backingSlack  = 3 * touchInterval

	// roomTimeout is how long a call waits for the backing, so that others leave memory.
	roomTimeout = time.Second

	stripes = 256
)

// behind is what a store with a backing has besides.
//
// A session is in memory, and then that is the truth; or it is in the backing alone. A
// stripe is held while a session comes from the one to the other or is written
// or removed there. It is taken before those of the package comment, and no call has
// two; who may have one already, only tries.
type behind struct {
	store    store.Store
	interval time.Duration
	stripe   [stripes]stripe
	dirty    atomic.Int64 // sessions to be written
	touched  atomic.Int64 // of sessions that were used before that, the backing knows it
	closed   atomic.Bool

	mu      sync.Mutex
	expired map[store.ID]store.Reason // ended here, and still to be removed there

	once sync.Once
	stop chan struct{}
	done chan struct{}
}

func newBehind(o *Options) *behind {
	if o.Backing == nil {
		return nil
	}
	b := &behind{store: o.Backing, interval: o.BackingInterval, expired: make(map[store.ID]store.Reason), stop: make(chan struct{}), done: make(chan struct{})}
	if b.interval <= 0 {
		b.interval = defaultBackingInterval
	}
	for i := range b.stripe {
		b.stripe[i] = make(stripe, 1)
	}
	return b
}

// A stripe is a mutex for a part of the sessions. It is held while the backing is called,
// which may take long, so who waits for it can give up.
type stripe chan struct{}

func (s stripe) lock(ctx context.Context) error {
	if s.tryLock() {
		return nil
	}
	select {
	case s <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s stripe) tryLock() bool {
	select {
	case s <- struct{}{}:
		return true
	default:
		return false
	}
}

// take locks a stripe, or reports that another has it and the caller is not to wait.
func (s stripe) take(ctx context.Context, waits bool) (ok bool, err error) {
	if !waits {
		return s.tryLock(), nil
	}
	err = s.lock(ctx)
	return err == nil, err
}

func (s stripe) unlock() { <-s }

func (b *behind) stripeOf(key uint64) stripe { return b.stripe[key%stripes] }

// A keeper is a content that can leave the process as bytes (package holdfast's, with
// live values, leaves these behind).
type keeper interface{ AppendBody(b []byte) []byte }

// isKept reports whether a content can be written.
func isKept(content any) bool {
	switch content.(type) {
	case nil, *body, keeper:
		return true
	}
	return false
}

// What the backing has no field for, because its own history and locks are another
// thing, is behind the content, in that many bytes.
const trailerSize = 4 + 4 + 8*4

func appendTrailer(b []byte, e *entry) []byte {
	b = binary.LittleEndian.AppendUint32(b, e.timeout)
	b = binary.LittleEndian.AppendUint32(b, uint32(e.cookie))
	for _, v := range [...]store.Version{e.acquired, e.history[0], e.history[1], e.history[2]} {
		b = binary.LittleEndian.AppendUint64(b, uint64(v))
	}
	return b
}

// cutTrailer takes what appendTrailer wrote off the body, and into the record.
func cutTrailer(rec *store.Record) error {
	n := len(rec.Body) - trailerSize
	if n < 0 {
		return errors.New("inproc: a session in the backing was not written by this package")
	}
	t := rec.Body[n:]
	rec.Body = rec.Body[:n]
	rec.Timeout = time.Duration(binary.LittleEndian.Uint32(t)) * time.Second
	rec.Lock = store.Lock{Cookie: int32(binary.LittleEndian.Uint32(t[4:]))}
	rec.Locked, rec.LockAge = false, 0
	rec.Acquired = store.Version(binary.LittleEndian.Uint64(t[8:]))
	for i := range rec.History {
		rec.History[i] = store.Version(binary.LittleEndian.Uint64(t[16+8*i:]))
	}
	return nil
}

// A session that ended here has moved, to the backing, so that it has no end there. The
// reason is in To.
const endedHere = "inproc: "

func coded(why store.Reason) store.Reason {
	return store.Reason{Kind: store.Moved, To: endedHere + why.Kind.String() + " " + why.To}
}

// decoded returns the error of the backing with the reason as it was here.
func decoded(err error) error {
	why := store.ReasonOf(err)
	text, ok := strings.CutPrefix(why.To, endedHere)
	if why.Kind != store.Moved || !ok {
		return err
	}
	kind, to, _ := strings.Cut(text, " ")
	return &store.NotFoundError{Reason: store.Reason{Kind: store.ParseKind(kind), Age: why.Age, To: to}}
}

// missed returns whether to make a call again that failed with err, because its session
// was not in memory and is now. Else err is what the call returns.
func (s *Store) missed(ctx context.Context, id store.ID, err error) (again bool, _ error) {
	if store.ReasonOf(err).Kind != store.Restarted { // else it is known how it ended
		return false, err
	}
	key := s.key(id)
	mu := s.behind.stripeOf(key)
	if err := mu.lock(ctx); err != nil {
		return false, err
	}
	defer mu.unlock()
	err = s.readBack(ctx, key, id)
	return err == nil, err
}

// readBack brings a session into memory, if it is not there. Called with its stripe.
func (s *Store) readBack(ctx context.Context, key uint64, id store.ID) error {
	sh := s.of(key)
	sh.mu.Lock()
	there := sh.sessions.get(key, id) != nil
	sh.mu.Unlock()
	if there {
		return nil
	}
	b := s.behind
	b.mu.Lock()
	why, over := b.expired[id]
	b.mu.Unlock()
	if over {
		return &store.NotFoundError{Reason: why}
	}
	var rec store.Record
	if err := b.store.Load(ctx, id, &rec); err != nil {
		return decoded(err)
	}
	if err := cutTrailer(&rec); err != nil {
		return err
	}
	e := newEntry(id, &rec)
	e.history, e.acquired, e.cookie = rec.History, rec.Acquired, rec.Lock.Cookie
	size := cost(e.session, rec.Subject, e.content)
	e.setCost(size)
	for !s.takeNew(size) {
		if err := s.makeRoom(want{key: key, size: size, sessions: 1, bytes: size}); err != nil {
			return fmt.Errorf("inproc: no memory for a session that is in the backing: %w", store.ErrUnavailable)
		}
	}
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if rec.Subject != "" {
		s.subjects.set(e, rec.Subject)
	}
	s.begin(sh, key, e, s.now())
	return nil
}

// pageOut takes a session out of memory that the backing has as it is, but for the last
// cookie and what goes with it. Called with its stripe and the shard's mutex.
func (s *Store) pageOut(sh *shard, key uint64, e *entry) {
	sh.sessions.delete(key, e)
	sh.wheel.unlink(e)
	s.tombstones.forget(key)
	if e.subject != nil {
		s.subjects.remove(e)
	}
	s.bytes.Add(-e.cost())
	if s.count.Add(-1) == 0 {
		s.sweeper.Rest()
	}
}

// touchUnknown tells the backing that a session was used which is to leave memory, if it
// may not know that yet: from then on its deadline there is the one that counts. One
// that the backing does not have is to be written again. Called with its stripe.
func (s *Store) touchUnknown(c candidate) error {
	b := s.behind
	if c.used < b.touched.Load() {
		return nil
	}
	c.sh.mu.Lock()
	leaves := c.sh.sessions.get(c.key, c.e.id()) == c.e && c.e.hold == nil && !c.sh.isDirty(c.e) && isKept(c.e.content)
	c.sh.mu.Unlock()
	if !leaves {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), roomTimeout)
	defer cancel()
	return s.touchBehind(ctx, c.e.id())
}

// mayLeave reports whether a session can be taken out of memory now: it is written, and
// nobody has its stripe, which may be the caller.
func (s *Store) mayLeave(sh *shard, at slot) bool {
	if s.behind == nil {
		return true
	}
	mu := s.behind.stripeOf(at.key)
	if sh.isDirty(at.e) || !mu.tryLock() {
		return false
	}
	mu.unlock()
	return true
}

// evictWritten writes what has changed, so that there is something that can leave
// memory, and is evict then. It waits a moment for what others are writing.
func (s *Store) evictWritten(except uint64) bool {
	if s.behind == nil {
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), roomTimeout)
	defer cancel()
	for range 50 {
		err := s.flush(ctx, 1024, false)
		if s.evict(except) {
			return true
		}
		if err != nil && !errors.Is(err, store.ErrTooLarge) || ctx.Err() != nil {
			return false
		}
		time.Sleep(time.Millisecond)
	}
	return false
}

// createBehind is Create with a backing, which may have the session.
func (s *Store) createBehind(ctx context.Context, id store.ID, rec *store.Record, hold bool) error {
	if err := s.mayChange(ctx); err != nil {
		return err
	}
	key := s.key(id)
	mu := s.behind.stripeOf(key)
	if err := mu.lock(ctx); err != nil {
		return err
	}
	defer mu.unlock()
	if err := s.readBack(ctx, key, id); err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	return s.createHere(ctx, id, rec, hold)
}

// removeThrough is Remove with a backing: first there, so that what is said to have
// ended does not come back after a crash, and then here.
func (s *Store) removeThrough(ctx context.Context, id store.ID, lock store.Lock, why store.Reason) error {
	key := s.key(id)
	sh := s.of(key)
	mu := s.behind.stripeOf(key)
	if err := mu.lock(ctx); err != nil {
		return err
	}
	defer mu.unlock()
	back := s.readBack(ctx, key, id)
	if back != nil && !errors.Is(back, store.ErrNotFound) {
		return back
	}
	sh.mu.Lock()
	e := s.find(sh, key, id, s.now())
	free := e != nil && (lock.IsZero() || e.hold != nil && lock.Names(e.lock()))
	sh.mu.Unlock()
	if free {
		err := s.behind.store.Remove(ctx, id, store.Lock{}, coded(why))
		if errors.Is(err, store.ErrNotFound) { // it is so new; but the reason is to be known there
			if err = s.writeLocked(ctx, sh, key, e); err == nil {
				err = s.behind.store.Remove(ctx, id, store.Lock{}, coded(why))
			}
		}
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			s.writeAgain(id) // it lives on, and may be gone there
			return err
		}
	}
	err := s.removeHere(ctx, id, lock, why)
	switch {
	case err == nil:
	case errors.Is(err, store.ErrNotFound):
		if back != nil && store.ReasonOf(err).Kind == store.Restarted {
			err = back
		}
	case free: // the lock was taken over in between: it lives on
		s.writeAgain(id)
	}
	return err
}

// ofBacking is before the keys of ends that the backing has.
const ofBacking = "backing:"

// endedBehind claims ends of sessions that ended in the backing, because they were in
// memory no more.
func (s *Store) endedBehind(ctx context.Context, app string, limit int, lease time.Duration) ([]store.End, error) {
	ender, ok := s.behind.store.(store.Ender)
	if !ok || s.ends.max <= 0 {
		return nil, nil
	}
	ended, err := ender.Ended(ctx, app, limit, lease)
	if err != nil {
		return nil, err
	}
	for i := range ended {
		if rec := &ended[i].Record; cutTrailer(rec) != nil { // damaged there, so that it comes without content
			rec.Body = nil
			rec.Timeout -= backingSlack
		}
		ended[i].Key = ofBacking + ended[i].Key
	}
	return ended, nil
}

// ackBehind acknowledges these, and returns the other keys.
func (s *Store) ackBehind(ctx context.Context, app string, keys []string) ([]string, error) {
	ender, ok := s.behind.store.(store.Ender)
	if !ok {
		return keys, nil
	}
	var here, there []string
	for _, key := range keys {
		if k, ok := strings.CutPrefix(key, ofBacking); ok {
			there = append(there, k)
		} else {
			here = append(here, key)
		}
	}
	if len(there) == 0 {
		return here, nil
	}
	return here, ender.Ack(ctx, app, there)
}

// listBehind lists the sessions that the backing has, which is all of them once it is
// written what has changed, but those that cannot be written.
func (s *Store) listBehind(ctx context.Context, q store.Query) (page []store.Listed, next string, err error) {
	lister, ok := s.behind.store.(store.Lister)
	if !ok {
		return nil, "", fmt.Errorf("inproc: the backing, a %T, cannot list sessions: %w", s.behind.store, errors.ErrUnsupported)
	}
	if err := s.flush(ctx, 1<<30, true); err != nil {
		return nil, "", err
	}
	page, next, err = lister.List(ctx, q)
	if err != nil {
		return nil, "", err
	}
	listed := page[:0]
	for _, one := range page {
		key := s.key(one.ID)
		sh := s.of(key)
		sh.mu.Lock()
		e := sh.sessions.get(key, one.ID)
		sh.mu.Unlock()
		if e == nil {
			one.Record.Timeout -= backingSlack
			listed = append(listed, one)
		} else if one, there := s.listed(key, e, nil); there {
			listed = append(listed, one)
		}
	}
	return listed, next, nil
}
