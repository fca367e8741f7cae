// Package customstore keeps sessions in a bbolt database, a file that one process uses. It
// is the example of docs/custom-store.md.
package customstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"go.etcd.io/bbolt"

	"github.com/holdfast-session/holdfast/store"
)

// A Store is a store.Store in a bbolt database.
type Store struct {
	db   *bbolt.DB
	stop context.CancelFunc // ends the sweeping

	mu    sync.Mutex
	lines map[store.ID][]*waiter // who waits for a lock, in order of arrival
}

// A session is what the database has for an ID: a session or, if Why is set or it has
// expired, what is left to tell of one.
type session struct {
	store.Record
	LockedAt time.Time
	Expires  time.Time // or when it ended
	Why      store.Kind
	To       string
}

var bucket = []byte("sessions")

// Open opens the database at path, and makes it if it is not there.
func Open(path string, o *bbolt.Options) (*Store, error) {
	db, err := bbolt.Open(path, 0o600, o)
	if err != nil {
		return nil, err
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		_, err := tx.CreateBucketIfNotExists(bucket)
		return err
	})
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	ctx, stop := context.WithCancel(context.Background())
	s := &Store{db: db, stop: stop, lines: make(map[store.ID][]*waiter)}
	go s.sweep(ctx)
	return s, nil
}

// Close closes the database.
func (s *Store) Close() error {
	s.stop()
	return s.db.Close()
}

// update makes one call, which is one transaction: f is given the session that is there,
// and what f makes of it is written, unless f returns an error. bbolt runs one such
// transaction at a time, so each call is atomic, and update returns when it is on disk.
func (s *Store) update(ctx context.Context, id store.ID, f func(e *session, now time.Time) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	var e session
	var refused error
	err := s.db.Update(func(tx *bbolt.Tx) error {
		key, now := []byte(id.App+"\x00"+id.Session), time.Now()
		value := tx.Bucket(bucket).Get(key)
		if value != nil {
			if err := json.Unmarshal(value, &e); err != nil {
				return err
			}
			if e.Why == store.Unknown && !now.Before(e.Expires) {
				e.Why = store.Expired
			}
		}
		if refused = f(&e, now); refused != nil {
			return refused
		}
		value, err := json.Marshal(&e)
		if err != nil {
			return err
		}
		return tx.Bucket(bucket).Put(key, value)
	})
	switch {
	case refused != nil:
		return refused
	case err != nil: // the disk is full, or worse
		return fmt.Errorf("%w: %v", store.ErrUnsure, err)
	case !e.Locked:
		s.wake(id)
	}
	return nil
}

// change is update for a session that must be there.
func (s *Store) change(ctx context.Context, id store.ID, f func(e *session, now time.Time) error) error {
	return s.update(ctx, id, func(e *session, now time.Time) error {
		switch {
		case e.Expires.IsZero():
			return store.ErrNotFound
		case e.Why != store.Unknown:
			return &store.NotFoundError{Reason: store.Reason{Kind: e.Why, To: e.To, Age: now.Sub(e.Expires)}}
		}
		return f(e, now)
	})
}

// Load implements store.Store.
func (s *Store) Load(ctx context.Context, id store.ID, rec *store.Record) error {
	return s.change(ctx, id, func(e *session, now time.Time) error {
		e.postpone(now, e.Timeout)
		e.read(rec, now)
		return nil
	})
}

// Create implements store.Store.
func (s *Store) Create(ctx context.Context, id store.ID, rec *store.Record, hold bool) error {
	return s.update(ctx, id, func(e *session, now time.Time) error {
		if !e.Expires.IsZero() && e.Why == store.Unknown {
			if !e.Seen(rec.Version) {
				return store.ErrExists
			}
			if hold && e.Locked && e.Lock.Owner == rec.Lock.Owner {
				rec.Lock.Cookie = e.Lock.Cookie
			}
			return nil
		}
		*e = session{Record: *rec}
		e.Lock, e.Locked, e.Acquired = store.Lock{}, false, 0
		if e.Created.IsZero() {
			e.Created = now
		}
		if hold {
			e.take(rec.Lock.Owner, now)
			rec.Lock.Cookie = e.Lock.Cookie
		}
		e.Expires = now.Add(e.Timeout)
		return nil
	})
}

// Save implements store.Store. The order of the cases is that of the contract.
func (s *Store) Save(ctx context.Context, id store.ID, rec *store.Record, next store.Version, hold bool) error {
	return s.change(ctx, id, func(e *session, now time.Time) error {
		lost := store.ErrLockLost
		if rec.Lock.IsZero() {
			lost = store.ErrConflict
		}
		switch {
		case e.Seen(next):
			return nil
		case e.Locked && rec.Lock.IsZero():
			return e.lockedError(now)
		case e.Locked && !rec.Lock.Names(e.Lock), e.Version != rec.Version:
			return lost
		}
		e.Advance(next)
		e.Timeout, e.Flags, e.Subject, e.Body = rec.Timeout, rec.Flags, rec.Subject, rec.Body
		if !hold || rec.Lock.IsZero() {
			e.release(now)
			return nil
		}
		if !e.Locked { // it was gone, and nobody was there in between
			e.take(rec.Lock.Owner, now)
			if rec.Lock.Cookie != 0 {
				e.Lock.Cookie = rec.Lock.Cookie
			}
		}
		e.LockedAt, e.Acquired = now, e.Version
		e.postpone(now, e.Timeout)
		return nil
	})
}

// Unlock implements store.Store.
func (s *Store) Unlock(ctx context.Context, id store.ID, lock store.Lock) error {
	return s.change(ctx, id, func(e *session, now time.Time) error {
		if e.Locked && !lock.Names(e.Lock) {
			return store.ErrLockLost
		}
		if e.Locked {
			e.release(now)
		}
		return nil
	})
}

// Remove implements store.Store.
func (s *Store) Remove(ctx context.Context, id store.ID, lock store.Lock, why store.Reason) error {
	return s.change(ctx, id, func(e *session, now time.Time) error {
		if !lock.IsZero() && !(e.Locked && lock.Names(e.Lock)) {
			return store.ErrLockLost
		}
		*e = session{Record: store.Record{Timeout: e.Timeout}, Expires: now, Why: why.Kind, To: why.To}
		return nil
	})
}

// Touch implements store.Store.
func (s *Store) Touch(ctx context.Context, id store.ID) error {
	return s.change(ctx, id, func(e *session, now time.Time) error {
		e.postpone(now, e.Timeout)
		return nil
	})
}

// postpone has the session expire no earlier than d from now.
func (e *session) postpone(now time.Time, d time.Duration) {
	if later := now.Add(d); later.After(e.Expires) {
		e.Expires = later
	}
}

// read fills rec with all there is to know.
func (e *session) read(rec *store.Record, now time.Time) {
	body := append(rec.Body[:0], e.Body...)
	*rec = e.Record
	rec.Body = body
	if rec.Locked {
		rec.LockAge = now.Sub(e.LockedAt)
	}
}

// take gives the lock to owner.
func (e *session) take(owner uint64, now time.Time) {
	last := e.Lock.Cookie
	for e.Lock.Cookie == last || e.Lock.Cookie == 0 {
		e.Lock.Cookie = rand.Int32()
	}
	e.Lock.Owner, e.Locked, e.LockedAt, e.Acquired = owner, true, now, e.Version
}

// release frees the lock, and restarts the timeout.
func (e *session) release(now time.Time) {
	e.Lock.Owner, e.Locked = 0, false
	e.Expires = now.Add(e.Timeout)
}

func (e *session) lockedError(now time.Time) error {
	return &store.LockedError{Lock: e.Lock, Age: now.Sub(e.LockedAt)}
}

// sweep deletes, every minute, what nobody asks for any more.
func (s *Store) sweep(ctx context.Context) {
	minute := time.NewTicker(time.Minute)
	defer minute.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-minute.C:
			// What fails is tried again in a minute.
			_ = s.db.Update(func(tx *bbolt.Tx) error { return forget(tx.Bucket(bucket), now) })
		}
	}
}

// remembered is how long at least the end of a session can be told: twice the lock
// timeout of an application, and more.
const remembered = 10 * time.Minute

func forget(b *bbolt.Bucket, now time.Time) error {
	c := b.Cursor()
	for key, value := c.First(); key != nil; key, value = c.Next() {
		var e session
		if err := json.Unmarshal(value, &e); err != nil {
			return err
		}
		if now.Sub(e.Expires) > max(e.Timeout, remembered) {
			if err := c.Delete(); err != nil {
				return err
			}
		}
	}
	return nil
}
