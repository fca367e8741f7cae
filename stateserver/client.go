package stateserver

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-session/holdfast/store"
)

// What ClientOptions' zero fields mean.
const (
	DefaultMaxConns        = 32
	DefaultMaxWaits        = 256
	DefaultTimeout         = 10 * time.Second
	DefaultConnIdleTimeout = time.Minute
)

// ClientOptions configure a [Client]. Their zero value, and a nil pointer, is a
// good choice.
type ClientOptions struct {
	// MaxConns is how many requests are under way at a time, each on a connection of
	// its own; further ones wait for their turn. 0 means DefaultMaxConns.
	MaxConns int

	// MaxWaits is how many calls of Lock may wait for another's lock at a time, on
	// connections besides those of MaxConns; further ones wait here. 0 means
	// DefaultMaxWaits.
	MaxWaits int

	// Timeout is how long a call takes at most, besides what a Lock waits, if its
	// context has no deadline. 0 means DefaultTimeout.
	Timeout time.Duration

	// IdleTimeout is how long a connection without a request is kept; 0 means
	// DefaultConnIdleTimeout.
	IdleTimeout time.Duration

	// Compat allows sessions to be written to a foreign server: Microsoft's, or
	// another one of the protocol that is not Holdfast's. It has no versions, so
	// that nothing but the lock protects an update, and a lock that was broken, a
	// reply that was lost, or a restart may lose one. Without Compat, Create and
	// Save on such a server are an error.
	Compat bool

	// DialContext makes the connections; nil means that of a net.Dialer.
	DialContext func(ctx context.Context, network, address string) (net.Conn, error)
}

// A Client keeps sessions on a state server. It is a [store.Store], safe for
// concurrent use.
//
// A call whose reply was lost is repeated with the same tokens, on another
// connection, until there is an answer or its time is over; then its error is
// [store.ErrUnsure]. If the server cannot be reached to begin with, that is
// [store.ErrUnavailable], at once.
type Client struct {
	network, address string
	host             string // as sent
	options          ClientOptions
	calls            *pool
	waits            *pool
	foreign          atomic.Bool // who answered last is a foreign server
	cookies          cookies

	prefixes struct {
		sync.RWMutex
		of map[string]string // by application
	}

	ctx    context.Context // of what goes on in the background
	cancel context.CancelFunc

	mu         sync.Mutex
	closed     bool
	takingBack map[uint64]chan struct{} // locks by owner, until nobody has them
	background sync.WaitGroup           // what takes them back; not added to once closed
}

var _ store.Store = (*Client)(nil)

// Dial returns a client of the server at addr, as [ParseAddr] reads it. It does
// not connect yet, so that the server may be down; an addr that is none is an
// error. A nil o means the defaults.
func Dial(addr string, o *ClientOptions) (*Client, error) {
	network, address, err := ParseAddr(addr)
	if err != nil {
		return nil, err
	}
	c := &Client{network: network, address: address, host: address}
	if network == "unix" {
		c.host = "localhost"
	}
	if o != nil {
		c.options = *o
	}
	if c.options.MaxConns <= 0 {
		c.options.MaxConns = DefaultMaxConns
	}
	if c.options.MaxWaits <= 0 {
		c.options.MaxWaits = DefaultMaxWaits
	}
	if c.options.Timeout <= 0 {
		c.options.Timeout = DefaultTimeout
	}
	if c.options.IdleTimeout <= 0 {
		c.options.IdleTimeout = DefaultConnIdleTimeout
	}
	if c.options.DialContext == nil {
		c.options.DialContext = new(net.Dialer).DialContext
	}
	c.prefixes.of = make(map[string]string)
	c.takingBack = make(map[uint64]chan struct{})
	c.ctx, c.cancel = context.WithCancel(context.Background())
	dial := func(ctx context.Context) (net.Conn, error) {
		return c.options.DialContext(ctx, c.network, c.address)
	}
	c.calls = newPool(c.options.MaxConns, c.options.IdleTimeout, dial)
	c.waits = newPool(c.options.MaxWaits, c.options.IdleTimeout, dial)
	return c, nil
}

// Close closes all connections. Calls that are under way fail, and so do later
// ones. It returns when nothing goes on in the background any more.
func (c *Client) Close() error {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.cancel()
	c.calls.close()
	c.waits.close()
	c.background.Wait()
	return nil
}

// Load implements [store.Store]. On a foreign server the record has no version,
// and a session that is locked is a [*store.LockedError].
func (c *Client) Load(ctx context.Context, id store.ID, rec *store.Record) error {
	a, err := c.do(ctx, id, &call{method: methodGet, out: rec})
	if err != nil {
		return err
	}
	return a.err(nil, nil)
}

// Lock implements [store.Store]. It waits on connections that no other call
// needs. On a foreign server it has to ask again and again while it waits, and a
// lock cannot be renewed there: the second Lock of an owner is a
// [*store.LockedError] as any other's.
func (c *Client) Lock(ctx context.Context, id store.ID, o store.LockOptions, rec *store.Record) error {
	start := time.Now()
	if err := c.takenBack(ctx, o.Owner); err != nil {
		return err
	}
	q := &call{
		method: methodGet, exclusive: exclusiveAcquire,
		lock: store.Lock{Owner: o.Owner}, stale: o.Stale, out: rec,
	}
	a, err := c.do(ctx, id, q)
	if err == nil && a.status == statusLocked && !a.foreign && o.Wait > 0 {
		// It is another's: go where waiting does not keep others from their calls,
		// the one that will unlock it among them.
		q.wait = max(o.Wait-time.Since(start), time.Millisecond)
		a, err = c.do(ctx, id, q)
	}
	switch {
	case err != nil:
		return err
	case a.foreign:
		return c.foreignLock(ctx, id, o, a, rec, start)
	}
	return a.err(nil, nil)
}

// Create implements [store.Store].
func (c *Client) Create(ctx context.Context, id store.ID, rec *store.Record, hold bool) error {
	q := &call{method: methodPut, create: true, next: rec.Version, in: rec}
	if hold {
		q.lock.Owner = rec.Lock.Owner
	}
	a, err := c.do(ctx, id, q)
	switch {
	case err != nil:
		return err
	case a.foreign:
		return c.foreignCreate(ctx, id, rec, hold)
	}
	if err := a.err(nil, store.ErrExists); err != nil {
		return err
	}
	if hold && a.cookie != 0 {
		rec.Lock.Cookie = a.cookie
	}
	return nil
}

// Save implements [store.Store].
func (c *Client) Save(ctx context.Context, id store.ID, rec *store.Record, next store.Version, hold bool) error {
	a, err := c.do(ctx, id, &call{method: methodPut, match: rec.Version, next: next, lock: rec.Lock, hold: hold, in: rec})
	switch {
	case err != nil:
		return err
	case a.foreign:
		return c.foreignSave(ctx, id, rec, hold)
	case rec.Lock.IsZero():
		return a.err(nil, store.ErrConflict)
	}
	return a.err(store.ErrLockLost, store.ErrLockLost)
}

// Unlock implements [store.Store].
func (c *Client) Unlock(ctx context.Context, id store.ID, lock store.Lock) error {
	q := &call{method: methodGet, exclusive: exclusiveRelease, lock: c.cookies.of(lock)}
	if q.lock.IsZero() {
		q.lock.Owner = store.NewOwner() // which names no lock, as the zero Lock does
	}
	a, err := c.do(ctx, id, q)
	if err != nil {
		return err
	}
	c.cookies.forget(lock)
	return a.err(store.ErrLockLost, nil)
}

// Remove implements [store.Store].
func (c *Client) Remove(ctx context.Context, id store.ID, lock store.Lock, why store.Reason) error {
	q := &call{method: methodDelete, lock: c.cookies.of(lock), always: lock.IsZero(), why: &why}
	for {
		a, err := c.do(ctx, id, q)
		if err != nil {
			return err
		}
		if a.foreign && q.always && a.status == statusLocked {
			q.lock = store.Lock{Cookie: a.cookie} // over the holder's head, as told to
			continue
		}
		c.cookies.forget(lock)
		return a.err(store.ErrLockLost, nil)
	}
}

// Touch implements [store.Store].
func (c *Client) Touch(ctx context.Context, id store.ID) error {
	a, err := c.do(ctx, id, &call{method: methodHead})
	if err != nil {
		return err
	}
	return a.err(nil, nil)
}

// prefix returns what the targets of an application's sessions begin with.
func (c *Client) prefix(app string) string {
	c.prefixes.RLock()
	prefix, ok := c.prefixes.of[app]
	c.prefixes.RUnlock()
	if ok {
		return prefix
	}
	prefix = appPrefix(app)
	c.prefixes.Lock()
	defer c.prefixes.Unlock()
	if len(c.prefixes.of) >= 1024 { // somebody makes applications up
		clear(c.prefixes.of)
	}
	c.prefixes.of[strings.Clone(app)] = prefix
	return prefix
}

// An answer is what a server said, without the buffer that it came in.
type answer struct {
	status  int
	foreign bool
	fresh   bool // ActionFlags: 1
	cookie  int32
	owner   uint64
	lockAge time.Duration
	reason  store.Reason
	text    string // of a failure
}

// err is the error that an answer means: locked for 423, where nil stands for
// another's lock, and failed for 412.
func (a *answer) err(locked, failed error) error {
	switch a.status {
	case statusOK:
		return nil
	case statusNotFound:
		return &store.NotFoundError{Reason: a.reason}
	case statusLocked:
		if locked != nil {
			return locked
		}
		return &store.LockedError{Lock: store.Lock{Cookie: a.cookie, Owner: a.owner}, Age: a.lockAge}
	case statusConflict:
		if failed != nil {
			return failed
		}
	case statusTooLarge:
		return store.ErrTooLarge
	case statusFull:
		return store.ErrFull
	case statusUnavailable:
		return a.failure(store.ErrUnavailable)
	case statusBadRequest:
		// It was not done, and will not be if it is repeated.
		return a.failure(store.ErrUnavailable)
	}
	return a.failure(store.ErrUnsure)
}

func (a *answer) failure(err error) error {
	return fmt.Errorf("stateserver: the server answers %d %q: %w", a.status, a.text, err)
}
