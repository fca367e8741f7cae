package stateserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/holdfast-session/holdfast/store"
)

// What a Client does on a foreign server, Microsoft's for example: plain [MS-ASP],
// with the lock for all the protection that there is.

// pollForeign is how often a lock is asked for that another has.
const pollForeign = 100 * time.Millisecond

var (
	errForeign = errors.New("stateserver: the server is not Holdfast's and cannot protect updates: " +
		"serve the sessions with `holdfast serve`, or set ClientOptions.Compat to save there all the same")
	errForeignMerge = errors.New("stateserver: the server is not Holdfast's and knows no versions: lock the session to save it")
)

// foreignLock goes on where a foreign server gave the first answer, a.
func (c *Client) foreignLock(ctx context.Context, id store.ID, o store.LockOptions, a answer, rec *store.Record, start time.Time) error {
	for {
		switch {
		case !a.foreign: // replaced by one of ours
			o.Wait = max(o.Wait-time.Since(start), 0)
			return c.Lock(ctx, id, o, rec)
		case a.status == statusOK:
			rec.Lock.Owner, rec.Locked = o.Owner, true
			return nil
		case a.status != statusLocked:
			return a.err(nil, nil)
		case o.Stale > 0 && a.lockAge >= o.Stale:
			if _, err := c.release(ctx, id, a.cookie); err != nil {
				return err
			}
		case time.Since(start) >= o.Wait:
			return a.err(nil, nil)
		default:
			t := time.NewTimer(min(pollForeign, o.Wait-time.Since(start)))
			select {
			case <-t.C:
			case <-ctx.Done():
				t.Stop()
				return c.failed(store.ErrUnavailable, ctx.Err())
			}
		}
		var err error
		if a, err = c.acquire(ctx, id, o.Owner, rec); err != nil {
			return err
		}
	}
}

// acquire asks for a lock once.
func (c *Client) acquire(ctx context.Context, id store.ID, owner uint64, rec *store.Record) (answer, error) {
	return c.do(ctx, id, &call{method: methodGet, exclusive: exclusiveAcquire, lock: store.Lock{Owner: owner}, out: rec})
}

// release unlocks by the cookie.
func (c *Client) release(ctx context.Context, id store.ID, cookie int32) (answer, error) {
	return c.do(ctx, id, &call{method: methodGet, exclusive: exclusiveRelease, lock: store.Lock{Cookie: cookie}, plain: true})
}

// foreignCreate makes a session that is not there. As with ASP.NET's own clients,
// an uninitialized session is inserted, which never overwrites, and whoever is the
// first to acquire it has made it.
func (c *Client) foreignCreate(ctx context.Context, id store.ID, rec *store.Record, hold bool) error {
	if !c.options.Compat {
		return errForeign
	}
	if rec.Flags&store.Uninitialized != 0 {
		a, err := c.do(ctx, id, &call{method: methodHead})
		if err != nil {
			return err
		}
		if a.status == statusOK {
			return store.ErrExists
		}
	}
	in := store.Record{Timeout: rec.Timeout, Flags: store.Uninitialized, Body: rec.Body}
	a, err := c.do(ctx, id, &call{method: methodPut, plain: true, in: &in})
	if err == nil {
		err = a.err(store.ErrExists, nil)
	}
	if err != nil || rec.Flags&store.Uninitialized != 0 {
		return err
	}
	var got store.Record
	if a, err = c.acquire(ctx, id, store.NewOwner(), &got); err == nil {
		err = a.err(store.ErrExists, nil)
	}
	if err != nil {
		return err
	}
	mine := a.fresh && bytes.Equal(got.Body, rec.Body)
	if mine && hold {
		rec.Lock.Cookie = a.cookie
		return nil
	}
	if a, err = c.release(ctx, id, a.cookie); err == nil {
		err = a.err(store.ErrLockLost, nil)
	}
	if !mine {
		return store.ErrExists
	}
	return err
}

// foreignSave stores a session by its lock.
func (c *Client) foreignSave(ctx context.Context, id store.ID, rec *store.Record, hold bool) error {
	lock := c.cookies.of(rec.Lock)
	switch {
	case !c.options.Compat:
		return errForeign
	case rec.Lock.IsZero():
		return errForeignMerge
	case lock.Cookie == 0:
		return store.ErrLockLost
	}
	in := store.Record{Timeout: rec.Timeout, Body: rec.Body}
	a, err := c.do(ctx, id, &call{method: methodPut, plain: true, lock: lock, in: &in})
	if err == nil {
		err = a.err(store.ErrLockLost, nil)
	}
	if err != nil {
		return err
	}
	c.cookies.forget(rec.Lock)
	if !hold {
		return nil
	}
	// A PUT unlocks there. The content is saved; if another is faster now, the next
	// Save under this lock is the one that is refused.
	var got store.Record
	a, err = c.acquire(ctx, id, rec.Lock.Owner, &got)
	if err != nil {
		return fmt.Errorf("stateserver: saved, but not locked again: %w", err)
	}
	if a.status != statusOK || !bytes.Equal(got.Body, rec.Body) {
		if a.status == statusOK {
			c.release(ctx, id, a.cookie)
		}
		a.cookie = 0
	}
	c.cookies.set(rec.Lock.Owner, a.cookie)
	return nil
}

// cookies are those of locks that a foreign server has issued anew, so that the
// cookie that the holder knows is not the current one; 0 if it was lost over that.
type cookies struct {
	mu      sync.Mutex
	byOwner map[uint64]int32
}

// of is lock with the cookie that it has now.
func (k *cookies) of(lock store.Lock) store.Lock {
	k.mu.Lock()
	defer k.mu.Unlock()
	if cookie, ok := k.byOwner[lock.Owner]; ok {
		lock.Cookie = cookie
	}
	return lock
}

func (k *cookies) set(owner uint64, cookie int32) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.byOwner == nil {
		k.byOwner = make(map[uint64]int32)
	}
	k.byOwner[owner] = cookie
}

func (k *cookies) forget(lock store.Lock) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.byOwner, lock.Owner)
}
