package stateserver

import (
	"errors"
	"hash/maphash"
	"sync"

	"github.com/holdfast-session/holdfast/store"
)

// What Microsoft's server does differently. It works on one key one request at a
// time, which the stripes below do for it; that makes it as exact as it is useless
// to share the store with anybody else.

// stripe is the mutex of a key.
func (s *Server) stripe(key []byte) *sync.Mutex {
	return &s.stripes[maphash.Bytes(s.seed, key)%uint64(len(s.stripes))]
}

// exactPut stores a session as Microsoft's server does: always, unless another has
// the lock. A changed timeout starts the session anew, with the request's cookie
// for the last one issued.
func (c *conn) exactPut(id store.ID) error {
	err := c.load(id)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return c.create(id, 0)
	case err != nil:
		return err
	case c.terms.insert:
		return nil
	case c.rec.Locked && (c.req.cookie != c.rec.Lock.Cookie || !c.req.has(fieldLockCookie)):
		return c.locked()
	case c.terms.timeout == c.rec.Timeout:
		return c.save(id, c.rec.Timeout, c.rec.Flags)
	}
	if err := c.s.Store.Remove(c.s.base, id, store.Lock{}, store.Reason{Kind: store.Abandoned}); err != nil {
		return err
	}
	return c.create(id, c.req.cookie)
}
