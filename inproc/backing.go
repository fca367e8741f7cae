package inproc

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
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

// changed notes that a session is to be written. Called with the shard's mutex.
func (s *Store) changed(sh *shard, e *entry) {
	if s.behind == nil || !isKept(e.content) {
		return
	}
	if sh.dirty == nil {
		sh.dirty = make(map[*entry]struct{})
	}
	if _, is := sh.dirty[e]; !is {
		sh.dirty[e] = struct{}{}
		s.behind.dirty.Add(1)
	}
}

// clean takes a session off the list of those to be written. Called with the shard's
// mutex.
func (s *Store) clean(sh *shard, e *entry) {
	if _, is := sh.dirty[e]; is {
		delete(sh.dirty, e)
		s.behind.dirty.Add(-1)
	}
}

// gone notes that a session has ended by itself. Called with the shard's mutex.
func (s *Store) gone(sh *shard, e *entry, why store.Reason) {
	s.clean(sh, e)
	if why.Kind == store.Expired || why.Kind == store.Evicted {
		b := s.behind
		b.mu.Lock()
		b.expired[e.id()] = why
		b.mu.Unlock()
	}
}

// writable returns an error if nothing is written any more. Whoever looks with the shard's
// mutex, and makes a change with it, has that written: closeBehind takes it later.
func (s *Store) writable() error {
	if b := s.behind; b != nil && b.closed.Load() {
		return fmt.Errorf("inproc: the store is closed: %w", store.ErrUnavailable)
	}
	return nil
}

// mayChange makes sure that a change can be written: while too many wait for that, by
// writing some.
func (s *Store) mayChange(ctx context.Context) error {
	b := s.behind
	if err := s.writable(); err != nil || b.dirty.Load() < maxBehind {
		return err
	}
	if err := s.flush(ctx, maxBehind/16, false); b.dirty.Load() >= maxBehind {
		return fmt.Errorf("inproc: what changed could not be written to the backing (%v): %w", err, store.ErrUnavailable)
	}
	return nil
}

// flush writes up to limit sessions that have changed, and removes as many that ended by
// themselves. One whose stripe another has is left out, unless flush is to wait for it.
// An error that is about one session alone is returned when the others are written.
func (s *Store) flush(ctx context.Context, limit int, waits bool) error {
	b := s.behind
	var errs error
	var over []store.ID
	b.mu.Lock()
	for id := range b.expired {
		if len(over) == limit {
			break
		}
		over = append(over, id)
	}
	b.mu.Unlock()
	for _, id := range over {
		if err := s.removeBehind(ctx, id, waits); err != nil {
			errs = err
			break
		}
	}
	var some []*entry
	first := rand.IntN(shards)
	for i := range shards {
		sh := &s.shard[(first+i)%shards]
		some = some[:0]
		sh.mu.Lock()
		for e := range sh.dirty {
			if len(some) == limit {
				break
			}
			some = append(some, e)
		}
		sh.mu.Unlock()
		for _, e := range some {
			err := s.write(ctx, sh, e, waits)
			switch {
			case errors.Is(err, store.ErrTooLarge), errors.Is(err, store.ErrFull):
				errs = err
			case err != nil:
				return err
			}
			limit--
		}
	}
	return errs
}

// removeBehind removes a session that ended by itself.
func (s *Store) removeBehind(ctx context.Context, id store.ID, waits bool) error {
	b := s.behind
	mu := b.stripeOf(s.key(id))
	if ok, err := mu.take(ctx, waits); !ok {
		return err
	}
	defer mu.unlock()
	b.mu.Lock()
	why, over := b.expired[id]
	b.mu.Unlock()
	if !over { // else what the backing has under this ID by now is another session
		return nil
	}
	if err := b.store.Remove(ctx, id, store.Lock{}, coded(why)); err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	b.mu.Lock()
	delete(b.expired, id)
	b.mu.Unlock()
	return nil
}

// write writes one session.
func (s *Store) write(ctx context.Context, sh *shard, e *entry, waits bool) error {
	key := s.key(e.id())
	mu := s.behind.stripeOf(key)
	if ok, err := mu.take(ctx, waits); !ok {
		return err
	}
	defer mu.unlock()
	return s.writeLocked(ctx, sh, key, e)
}

// writeLocked writes one session, if that is to be done. Called with its stripe.
func (s *Store) writeLocked(ctx context.Context, sh *shard, key uint64, e *entry) error {
	id := e.id()
	var rec store.Record
	sh.mu.Lock()
	if _, is := sh.dirty[e]; !is || sh.sessions.get(key, id) != e {
		sh.mu.Unlock()
		return nil
	}
	e.read(&rec, s.now())
	tail := appendTrailer(nil, e)
	sh.mu.Unlock()
	if k, ok := rec.Items.(keeper); ok {
		rec.Body = k.AppendBody(nil)
	}
	rec.Items = nil
	rec.Body = append(rec.Body, tail...)
	b := s.behind
	b.mu.Lock()
	why, over := b.expired[id]
	b.mu.Unlock()
	if over { // another session of this ID, which a Save would take this one for
		if err := b.store.Remove(ctx, id, store.Lock{}, coded(why)); err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
	}
	if err := s.upsert(ctx, id, &rec); err != nil {
		return err
	}
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.sessions.get(key, id) == e { // else it has ended meanwhile, and that is still to be done there
		b.mu.Lock()
		delete(b.expired, id)
		b.mu.Unlock()
	}
	if e.version == rec.Version {
		s.clean(sh, e)
	}
	return nil
}

// upsert makes rec what the backing has.
func (s *Store) upsert(ctx context.Context, id store.ID, rec *store.Record) error {
	next := rec.Version
	rec.Lock, rec.Locked, rec.Timeout = store.Lock{}, false, rec.Timeout+backingSlack
	rec.Version = rec.History[0] // most likely
	for range 4 {
		err := s.behind.store.Save(ctx, id, rec, next, false)
		switch {
		case errors.Is(err, store.ErrNotFound):
			rec.Version = next
			err = s.behind.store.Create(ctx, id, rec, false)
			if !errors.Is(err, store.ErrExists) {
				return err
			}
		case errors.Is(err, store.ErrConflict):
		default:
			rec.Version = next
			return err
		}
		var there store.Record
		if err := s.behind.store.Load(ctx, id, &there); err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		rec.Version = there.Version
	}
	return fmt.Errorf("inproc: another process changes the backing: %w", store.ErrUnavailable)
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

// touchBehind tells the backing that a session was used. One that it does not have is
// written again: it may have expired there while it could not be told.
func (s *Store) touchBehind(ctx context.Context, id store.ID) error {
	err := s.behind.store.Touch(ctx, id)
	if errors.Is(err, store.ErrNotFound) {
		s.writeAgain(id)
		return nil
	}
	return err
}

// writeAgain notes that a session is to be written, if it is still in memory, because the
// backing may not have it.
func (s *Store) writeAgain(id store.ID) {
	key := s.key(id)
	sh := s.of(key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if e := sh.sessions.get(key, id); e != nil {
		s.changed(sh, e)
	}
}

func (sh *shard) isDirty(e *entry) bool {
	_, is := sh.dirty[e]
	return is
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

// work writes what has changed until the store is closed.
func (s *Store) work() {
	b := s.behind
	defer close(b.done)
	tick := time.NewTicker(b.interval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-b.stop:
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		s.flush(ctx, 1<<30, false)
		if s.now()-b.touched.Load() >= int64(touchInterval) {
			s.touchUsed(ctx)
		}
		cancel()
	}
}

// touchUsed tells the backing which sessions were used since it was told last, so that
// it keeps them. After an error it is to be told of all of them again.
func (s *Store) touchUsed(ctx context.Context) error {
	b := s.behind
	begun, since := s.now(), b.touched.Load()
	var used []store.ID
	for i := range s.shard {
		sh := &s.shard[i]
		used = used[:0]
		sh.mu.Lock()
		now := s.now()
		for _, at := range sh.sessions.slots {
			if at.e != nil && isKept(at.e.content) && (at.e.hold != nil || at.e.used(now) >= since) {
				used = append(used, at.e.id())
			}
		}
		sh.mu.Unlock()
		for _, id := range used {
			if err := s.touchBehind(ctx, id); err != nil {
				return err
			}
		}
	}
	b.touched.Store(begun)
	return nil
}

// closeBehind writes all that has changed, and nothing from then on.
func (s *Store) closeBehind() error {
	b := s.behind
	b.once.Do(func() {
		b.closed.Store(true)
		close(b.stop)
		<-b.done
	})
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for {
		if err := s.flush(ctx, 1<<30, true); err != nil {
			return fmt.Errorf("inproc: %d sessions that changed could not be written to the backing: %w", b.dirty.Load(), err)
		}
		b.mu.Lock()
		over := len(b.expired)
		b.mu.Unlock()
		if over == 0 && b.dirty.Load() == 0 {
			if err := s.touchUsed(ctx); err != nil {
				return fmt.Errorf("inproc: the backing could not be told which sessions were used: %w", err)
			}
			return nil
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
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
