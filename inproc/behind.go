package inproc

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/holdfast-session/holdfast/store"
)

// What is in memory is written to the backing behind the calls that change it.

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

// appendKeys appends up to limit keys of a map, whichever.
func appendKeys[K comparable, V any](to []K, of map[K]V, limit int) []K {
	for k := range of {
		if len(to) == limit {
			break
		}
		to = append(to, k)
	}
	return to
}

// flush writes up to limit sessions that have changed, and removes as many that ended by
// themselves. One whose stripe another has is left out, unless flush is to wait for it.
// An error that is about one session alone is returned when the others are written.
func (s *Store) flush(ctx context.Context, limit int, waits bool) error {
	b := s.behind
	var errs error
	b.mu.Lock()
	over := appendKeys(nil, b.expired, limit)
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
		sh.mu.Lock()
		some = appendKeys(some[:0], sh.dirty, limit)
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
