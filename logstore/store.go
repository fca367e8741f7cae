package logstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-session/holdfast/internal/lockqueue"
	"github.com/holdfast-session/holdfast/logstore/internal/wal"
	"github.com/holdfast-session/holdfast/store"
)

// errClosed is why a store that is closed is unavailable.
var errClosed = errors.New("logstore: closed")

// unavailable says that a call was not applied, and why.
func unavailable(why error) error {
	switch {
	case errors.Is(why, wal.ErrFull):
		return store.ErrFull
	case errors.Is(why, wal.ErrTooLarge):
		return store.ErrTooLarge
	}
	return fmt.Errorf("%w: %w", store.ErrUnavailable, why)
}

// after is the moment d from now; one that is too far away to be met is none.
func after(now int64, d time.Duration) int64 { return lockqueue.After(now, d) }

// A found is a session that a call is about, its shard locked. Its entry is nil if it
// is not there.
type found struct {
	*entry
	ref uint32
	now int64
}

// find returns the session if it is there at this moment.
func (s *Store) find(sh *shard, key wal.Key, id store.ID) (found, error) {
	if sh.closed {
		return found{}, unavailable(errClosed)
	}
	now := s.now()
	ref := sh.index.find(tag(key), func(ref uint32) bool { return s.is(sh.entries.at(ref), id) })
	if ref == 0 {
		return found{now: now}, nil
	}
	e := sh.entries.at(ref)
	if now >= e.deadline {
		there, err := s.settle(sh, ref, e, now)
		if err != nil {
			return found{}, unavailable(err)
		}
		if !there {
			return found{now: now}, nil
		}
	}
	return found{e, ref, now}, nil
}

// findWarm is find for a call that reads the body. While that is read from the log,
// the shard is not locked, so anything may have happened before.
func (s *Store) findWarm(sh *shard, key wal.Key, id store.ID) (found, error) {
	for {
		f, err := s.find(sh, key, id)
		if err != nil || f.entry == nil || !f.cold() {
			return f, err
		}
		if err := s.warm(sh, key, id, f); err != nil {
			return found{}, err
		}
	}
}

// begin makes e, with its hold and its subject if it is to have them, a session.
func (s *Store) begin(sh *shard, key wal.Key, ref uint32, e *entry, now int64) {
	sh.index.put(tag(key), ref)
	s.count.Add(1) // before Arm, or who removes the last one lets the sweeper rest
	s.sweeper.Arm(sh.link(ref, e, now), now)
}

// end is the one place where a session ends, for whatever reason: why.Age ago. An
// error means that the log does not take it and that the session is there still.
func (s *Store) end(sh *shard, ref uint32, e *entry, key wal.Key, r store.Reason, now int64) error {
	w := newWhy(r, now)
	told := w.kind != store.Moved && e.flags&store.Uninitialized == 0 && s.ends.wants(s.apps.name(e.app))
	name := uint64(0)
	typ, record := typeRemove, sh.scratch[:0]
	if told {
		name = s.ends.draw()
		typ, record = typeEnd, appendUint64(record, name)
	}
	record = appendWhy(record, w)
	sh.scratch = record
	_, seq, err := s.append(key, typ, wal.End, record, nil)
	if err != nil {
		return err
	}
	sh.ended = seq
	s.tombstones.add(key, w, seq, s.log.Synced())
	s.leave(sh, key, ref, e, &store.NotFoundError{Reason: w.reason(now)})
	s.kinds[min(int(w.kind), len(s.kinds)-1)].Add(1)
	if told {
		s.addEnd(&end{name: name, why: w, shard: sh, ref: ref, seq: seq}, e)
	} else {
		s.discard(sh, ref, e, 0)
	}
	return nil
}

// leave takes a session out of everything that finds it, and tells who waits for it.
// A deadline of zero tells an entry that is kept for its end from a session.
func (s *Store) leave(sh *shard, key wal.Key, ref uint32, e *entry, err error) {
	sh.index.delete(tag(key), ref)
	sh.unlink(e)
	e.deadline = 0
	s.part(e)
	if h := sh.hold(e); h != nil {
		h.End(err)
		s.unlock(sh, e)
	}
	if s.count.Add(-1) == 0 {
		s.sweeper.Rest()
	}
}

// discard gives back what a session takes that nobody asks for any more. Its record
// has prefix bytes before what every session's has.
func (s *Store) discard(sh *shard, ref uint32, e *entry, prefix uint32) {
	at := s.place(e)
	at.Size += prefix
	s.log.Free(at)
	s.forgetBody(e)
	s.blocks.release(e.block &^ isCold)
	sh.entries.put(ref)
	s.kept.Add(-1)
}

// restart makes the session expire its timeout from now, though not before its
// holder was promised.
func (s *Store) restart(sh *shard, f found) {
	d := after(f.now, time.Duration(f.timeout)*time.Second)
	if h := sh.hold(f.entry); h != nil {
		d = max(d, after(h.Since, h.Stale))
	}
	s.expireAt(sh, f.ref, f.entry, d, f.now)
}

// expireAt sets the deadline. The wheel learns by itself of one that was put off;
// it must be told of one that came nearer (a shorter timeout).
func (s *Store) expireAt(sh *shard, ref uint32, e *entry, deadline, now int64) {
	sooner := deadline < e.deadline
	e.deadline = deadline
	if sooner {
		sh.unlink(e)
		s.sweeper.Arm(sh.link(ref, e, now), now)
	}
}

// touch lets the log know that the session was used, if it last knew that more than
// about a twelfth of the timeout ago. After a crash a tenth is added, so nothing has to
// wait for this; where the log does not take it, the next call tries again.
func (s *Store) touch(sh *shard, key wal.Key, f found) {
	unit := f.unit(f.now)
	if unit-f.touched < 6 {
		return
	}
	sh.scratch = appendUint64(sh.scratch[:0], uint64(f.now))
	if at, _, err := s.append(key, typeTouch, wal.Change, sh.scratch, nil); err == nil {
		s.log.Free(at) // compaction knows the latest one by its time
		f.touched = unit
	}
}

// append appends a record whose payload is a and b.
func (s *Store) append(key wal.Key, t wal.Type, c wal.Class, a, b []byte) (wal.At, uint64, error) {
	at, seq, err := s.log.Append(key, t, c, a, b)
	if err != nil {
		return at, seq, err
	}
	s.logged.Add(int64(at.Size))
	if t == typeRemove || t == typeEnd || t == typeAck {
		s.removals.add(at)
	}
	if s.segment.Load() != at.Segment {
		s.segment.Store(at.Segment)
		s.nudge()
	}
	return at, seq, nil
}

// put appends the state of a session that n is to have, with names and body behind it,
// and notes in n where it is. used is when it was used last.
func (s *Store) put(sh *shard, key wal.Key, c wal.Class, n *entry, app, session, subject string, body []byte, used int64) error {
	record := appendHead(sh.scratch[:0], n, app, used)
	record = appendNames(record, session, subject)
	sh.scratch = record
	at, seq, err := s.append(key, typePut, c, record, body)
	if err != nil {
		return err
	}
	n.segment, n.offset, n.seq, n.touched = at.Segment, at.Offset, seq, n.unit(used)
	return nil
}

// fill writes names and body into a block.
func (s *Store) fill(b block, session, subject string, body []byte) {
	into := s.blocks.bytes(b)
	into = appendNames(into[:0], session, subject)
	_ = append(into, body...) // which has the room
}

// told returns err once the end is durable that it tells of.
func (s *Store) told(seq uint64, err error) error {
	if commit := s.log.CommitEnd(seq); commit != nil {
		return unavailable(commit)
	}
	return err
}

// absent unlocks the shard and returns the error of a call on a session that is not
// there.
func (s *Store) absent(sh *shard, key wal.Key, now int64) error {
	w, seq, known := s.tombstones.why(key)
	sh.mu.Unlock()
	if !known {
		return &store.NotFoundError{}
	}
	return s.told(seq, &store.NotFoundError{Reason: w.reason(now)})
}

// shown returns nil once what a call has read is durable.
func (s *Store) shown(seq uint64) error {
	if s.log.Durable(seq) {
		return nil
	}
	if err := s.log.Commit(seq); err != nil {
		return unavailable(err)
	}
	return nil
}

// written returns nil once what a call has written is durable.
func (s *Store) written(err error) error {
	s.shrink()
	if err != nil {
		return fmt.Errorf("%w: %w", store.ErrUnsure, err)
	}
	return nil
}

// Load implements [store.Store].
func (s *Store) Load(ctx context.Context, id store.ID, rec *store.Record) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	key := keyOf(id)
	sh := s.of(key)
	sh.mu.Lock()
	f, err := s.findWarm(sh, key, id)
	switch {
	case err != nil:
		sh.mu.Unlock()
		return err
	case f.entry == nil:
		return s.absent(sh, key, f.now)
	}
	s.restart(sh, f)
	s.touch(sh, key, f)
	s.readAll(sh, f.entry, rec, f.now)
	seq := f.seq
	sh.mu.Unlock()
	s.shrink()
	return s.shown(seq)
}

// Lock implements [store.Store]. Whoever waits gets the lock in order of arrival,
// except that a caller whose o.Stale has passed takes it from its holder without
// regard to others who wait for longer than that.
func (s *Store) Lock(ctx context.Context, id store.ID, o store.LockOptions, rec *store.Record) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	key := keyOf(id)
	sh := s.of(key)
	sh.mu.Lock()
	f, err := s.findWarm(sh, key, id)
	if err == nil && f.entry != nil {
		if h := sh.hold(f.entry); h != nil && h.Waiting() > 0 { // who came before us is served before us
			var there bool
			if there, err = s.settle(sh, f.ref, f.entry, f.now); err != nil {
				err = unavailable(err)
			} else if !there {
				f.entry = nil
			}
		}
	}
	switch {
	case err != nil:
		sh.mu.Unlock()
		return err
	case f.entry == nil:
		return s.absent(sh, key, f.now)
	}
	h := sh.hold(f.entry)
	renewed := h != nil && h.By(o.Owner)
	switch {
	case h == nil, h.IsStale(o.Stale, f.now) && !renewed:
		s.acquire(sh, f.entry, o.Owner, o.Stale, f.now)
	case renewed:
		s.renew(sh, f.entry, o.Stale, f.now)
	case o.Wait > 0:
		w := h.Queue(o, rec, f.now)
		sleep := w.Patience(h, f.deadline, f.now)
		sh.mu.Unlock()
		if err := s.wait(ctx, sh, f.ref, w, sleep); err != nil {
			return s.refused(sh, err)
		}
		return s.granted(sh, key, id, rec)
	default:
		err := sh.lockedError(f.entry, f.now)
		sh.mu.Unlock()
		return err
	}
	s.touch(sh, key, f)
	s.readAll(sh, f.entry, rec, f.now)
	seq := f.seq
	sh.mu.Unlock()
	s.shrink()
	if err := s.shown(seq); err != nil {
		if !renewed { // else it was the caller's before, and still is
			s.giveBack(sh, key, id, rec.Lock)
		}
		return err
	}
	return nil
}

// refused returns the error of a call that has waited for the lock.
func (s *Store) refused(sh *shard, err error) error {
	if !errors.Is(err, store.ErrNotFound) {
		return err
	}
	sh.mu.Lock()
	seq := sh.ended
	sh.mu.Unlock()
	return s.told(seq, err)
}

// granted returns nil once what a call has read that got the lock while it waited is
// durable.
func (s *Store) granted(sh *shard, key wal.Key, id store.ID, rec *store.Record) error {
	seq := s.log.Last()
	sh.mu.Lock()
	if f, err := s.find(sh, key, id); err == nil && f.entry != nil && f.hold != 0 && sh.lock(f.entry) == rec.Lock {
		seq = f.seq
		s.touch(sh, key, f)
	}
	sh.mu.Unlock()
	if err := s.shown(seq); err != nil {
		s.giveBack(sh, key, id, rec.Lock)
		return err
	}
	return nil
}

// giveBack gives up a lock that its caller will not hear of.
func (s *Store) giveBack(sh *shard, key wal.Key, id store.ID, lock store.Lock) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if f, err := s.find(sh, key, id); err == nil && f.entry != nil && f.hold != 0 && sh.lock(f.entry) == lock {
		s.release(sh, f.ref, f.entry, f.now)
	}
}

// Create implements [store.Store].
func (s *Store) Create(ctx context.Context, id store.ID, rec *store.Record, hold bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if tooLarge(id, rec) {
		return store.ErrTooLarge
	}
	app, ok := s.apps.of(id.App)
	if !ok {
		return store.ErrFull
	}
	key := keyOf(id)
	sh := s.of(key)
	var seq uint64
	err := s.withRoom(ctx, func() (err error) {
		sh.mu.Lock()
		defer sh.mu.Unlock()
		seq, err = s.create(sh, key, id, app, rec, hold)
		return err
	})
	if err == store.ErrExists {
		if shown := s.shown(seq); shown != nil {
			return shown
		}
	}
	if err != nil {
		return err
	}
	return s.written(s.log.Commit(seq))
}

// maxTries is how often a call has room made, which others may take.
const maxTries = 10

// withRoom makes a call, and if there is no room for it again, as long as room can be
// made: what is garbage by now may still take it.
func (s *Store) withRoom(ctx context.Context, call func() error) error {
	for range maxTries {
		if err := call(); err != store.ErrFull {
			return err
		}
		if !s.makeRoom(ctx) {
			break // but somebody else may have had room made just before
		}
	}
	return call()
}

// tooLarge reports whether the session could not be written.
func tooLarge(id store.ID, rec *store.Record) bool {
	return len(id.App) > maxAppName || int64(namesSize(id.Session, rec.Subject))+int64(len(rec.Body)) > maxContent
}

// create is Create with the shard locked. It returns the record to wait for.
func (s *Store) create(sh *shard, key wal.Key, id store.ID, app uint16, rec *store.Record, hold bool) (seq uint64, err error) {
	f, err := s.find(sh, key, id)
	if err != nil {
		return 0, err
	}
	if f.entry != nil {
		if !f.seen(rec.Version) {
			return f.seq, store.ErrExists
		}
		if hold && sh.hold(f.entry).By(rec.Lock.Owner) {
			rec.Lock.Cookie = f.cookie
		}
		return f.seq, nil
	}
	now := f.now
	created := rec.Created
	if created.IsZero() {
		created = time.Now()
	}
	n := entry{
		deadline: after(now, time.Duration(seconds(rec.Timeout))*time.Second),
		created:  created.UnixNano(),
		app:      app,
	}
	n.write(rec, rec.Version)
	n.history = rec.History
	if hold {
		n.cookie = sh.nextCookie(0)
		n.acquired = n.version
	}
	size := namesSize(id.Session, rec.Subject)
	n.size = uint32(size + len(rec.Body))
	if s.crowded(int64(size)) {
		return 0, store.ErrFull
	}
	b, ok := s.blocks.alloc(int(n.size))
	if !ok {
		return 0, store.ErrFull
	}
	n.block = b
	if err := s.put(sh, key, wal.New, &n, id.App, id.Session, rec.Subject, rec.Body, now); err != nil {
		s.blocks.release(b)
		return 0, unavailable(err)
	}
	s.fill(b, id.Session, rec.Subject, rec.Body)
	ref, e := sh.entries.get()
	*e = n
	s.kept.Add(1)
	s.bodies.Add(int64(len(rec.Body)))
	if rec.Subject != "" {
		s.join(sh.number, ref, e, rec.Subject)
	}
	if hold {
		h := sh.newHold(e)
		s.locked.Add(1)
		h.Owner, h.Since = rec.Lock.Owner, now
		rec.Lock.Cookie = e.cookie
	}
	s.begin(sh, key, ref, e, now)
	return e.seq, nil
}

// Save implements [store.Store].
func (s *Store) Save(ctx context.Context, id store.ID, rec *store.Record, next store.Version, hold bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	key := keyOf(id)
	sh := s.of(key)
	seq, err := s.trySave(sh, key, id, rec, next, hold)
	if err == store.ErrFull {
		err = s.withRoom(ctx, func() (err error) {
			seq, err = s.trySave(sh, key, id, rec, next, hold)
			return err
		})
	}
	if err != nil {
		return err
	}
	return s.written(s.log.Commit(seq))
}

// trySave is Save but for waiting. It returns the record to wait for.
func (s *Store) trySave(sh *shard, key wal.Key, id store.ID, rec *store.Record, next store.Version, hold bool) (seq uint64, err error) {
	sh.mu.Lock()
	f, err := s.find(sh, key, id)
	switch {
	case err != nil:
	case f.entry == nil:
		return 0, s.absent(sh, key, f.now)
	case f.seen(next):
	case f.hold != 0 && !rec.Lock.Names(sh.lock(f.entry)):
		err = store.ErrLockLost
		if rec.Lock.IsZero() {
			err = sh.lockedError(f.entry, f.now)
		}
	case f.version != rec.Version:
		err = store.ErrLockLost
		if rec.Lock.IsZero() {
			err = store.ErrConflict
		}
	case tooLarge(id, rec):
		err = store.ErrTooLarge
	default:
		err = s.save(sh, key, id, f, rec, next, hold && !rec.Lock.IsZero())
	}
	if err == nil {
		seq = f.seq
	}
	sh.mu.Unlock()
	return seq, err
}

// save writes what Save is to write: into the log, or else not at all.
func (s *Store) save(sh *shard, key wal.Key, id store.ID, f found, rec *store.Record, next store.Version, hold bool) error {
	n := *f.entry
	n.write(rec, next)
	if hold {
		n.acquired = next
		if n.hold == 0 { // the lock was gone, and nobody was there in between
			n.cookie = rec.Lock.Cookie
			if n.cookie == 0 {
				n.cookie = sh.nextCookie(f.cookie)
			}
		}
	}
	n.size = uint32(namesSize(id.Session, rec.Subject) + len(rec.Body))
	_, have := blockClass(len(s.blocks.bytes(f.block &^ isCold)))
	if _, want := blockClass(int(n.size)); want != have || f.cold() {
		var ok bool
		if n.block, ok = s.blocks.alloc(int(n.size)); !ok {
			return store.ErrFull
		}
	}
	if err := s.put(sh, key, wal.Change, &n, id.App, id.Session, rec.Subject, rec.Body, f.now); err != nil {
		if n.block != f.block {
			s.blocks.release(n.block)
		}
		return unavailable(err)
	}
	e := f.entry
	s.log.Free(s.place(e))
	s.forgetBody(e)
	if rec.Subject != string(s.subject(e)) {
		s.part(e)
		if n.member = 0; rec.Subject != "" {
			s.join(sh.number, f.ref, &n, rec.Subject)
		}
	}
	if n.block != e.block {
		s.blocks.release(e.block &^ isCold)
	}
	s.fill(n.block, id.Session, rec.Subject, rec.Body)
	*e = n
	s.bodies.Add(int64(len(rec.Body)))
	if !hold {
		s.release(sh, f.ref, e, f.now)
		return nil
	}
	if e.hold == 0 {
		sh.newHold(e).Owner = rec.Lock.Owner
		s.locked.Add(1)
	}
	sh.hold(e).Keep(f.now)
	s.restart(sh, f)
	return nil
}

// Unlock implements [store.Store].
func (s *Store) Unlock(ctx context.Context, id store.ID, lock store.Lock) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	key := keyOf(id)
	sh := s.of(key)
	sh.mu.Lock()
	f, err := s.find(sh, key, id)
	switch {
	case err != nil:
	case f.entry == nil:
		return s.absent(sh, key, f.now)
	case f.hold == 0:
	case !lock.Names(sh.lock(f.entry)):
		err = store.ErrLockLost
	default:
		s.release(sh, f.ref, f.entry, f.now)
		s.touch(sh, key, f)
	}
	sh.mu.Unlock()
	return err
}

// Remove implements [store.Store].
func (s *Store) Remove(ctx context.Context, id store.ID, lock store.Lock, r store.Reason) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	r.Age = 0
	key := keyOf(id)
	sh := s.of(key)
	var seq uint64
	err := s.withRoom(ctx, func() (err error) {
		seq, err = s.tryRemove(sh, key, id, lock, r)
		return err
	})
	if err != nil {
		return err
	}
	s.reap()
	return s.written(s.log.CommitEnd(seq))
}

// tryRemove is Remove but for waiting. It returns the record to wait for.
func (s *Store) tryRemove(sh *shard, key wal.Key, id store.ID, lock store.Lock, r store.Reason) (seq uint64, err error) {
	sh.mu.Lock()
	f, err := s.find(sh, key, id)
	switch {
	case err != nil:
	case f.entry == nil:
		return 0, s.absent(sh, key, f.now)
	case !lock.IsZero() && (f.hold == 0 || !lock.Names(sh.lock(f.entry))):
		err = store.ErrLockLost
	default:
		if err = s.end(sh, f.ref, f.entry, key, r, f.now); err != nil {
			err = unavailable(err)
		}
	}
	seq = sh.ended
	sh.mu.Unlock()
	return seq, err
}

// Touch implements [store.Store].
func (s *Store) Touch(ctx context.Context, id store.ID) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	key := keyOf(id)
	sh := s.of(key)
	sh.mu.Lock()
	f, err := s.find(sh, key, id)
	switch {
	case err != nil:
		sh.mu.Unlock()
		return err
	case f.entry == nil:
		return s.absent(sh, key, f.now)
	}
	s.restart(sh, f)
	s.touch(sh, key, f)
	seq := f.seq
	sh.mu.Unlock()
	return s.shown(seq)
}
