package stateserver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-session/holdfast/internal/nearcache"
	"github.com/holdfast-session/holdfast/store"
)

// What ClientOptions' zero fields mean.
const (
	DefaultConns           = 4
	DefaultMaxConns        = 32
	DefaultMaxWaits        = 256
	DefaultTimeout         = 10 * time.Second
	DefaultConnIdleTimeout = time.Minute
	DefaultOpenAfter       = 2 * time.Second
	DefaultNearCache       = 16 << 20
)

// nearMin is from which size a body is kept near: naming the version of a smaller one
// costs both sides as much as moving it.
const nearMin = 1 << 10

// ClientOptions configure a [Client]. Their zero value, and a nil pointer, is a
// good choice.
type ClientOptions struct {
	// Name is what the server is called among those of [Partitioned]. Empty means
	// its address.
	Name string

	// Token is sent with each request, for a server that asks for one. Empty means
	// none. Whoever sees the traffic sees it: use TLS, or a network that is yours.
	Token string

	// TLS, if not nil, is how connections are encrypted. A ServerName that is empty
	// is taken from the address.
	TLS *tls.Config

	// Conns is how many connections requests share, sent one behind the other. 0
	// means DefaultConns, or MaxConns if that is less; that serves thousands of
	// callers, and with more connections fewer requests go along in one packet.
	Conns int

	// MaxConns is how many requests, besides these, have a connection to themselves
	// at a time: large bodies, lists, and all on a foreign server, which may not
	// expect more than one. Further ones wait for their turn. 0 means DefaultMaxConns.
	MaxConns int

	// MaxWaits is how many calls of Lock may wait for another's lock at a time, on
	// connections besides those of MaxConns; further ones wait here. 0 means
	// DefaultMaxWaits.
	MaxWaits int

	// Timeout is how long a call takes at most, besides what a Lock waits, if its
	// context has no deadline. 0 means DefaultTimeout.
	Timeout time.Duration

	// OpenAfter is for how long calls are tried again while there is no answer at
	// all, and so how long a restart of the server may take without being felt. Then
	// the server is taken for gone: calls fail at once with [store.ErrUnavailable],
	// but for one now and then that tries it. 0 means DefaultOpenAfter, less than 0
	// that every call tries for as long as it may.
	OpenAfter time.Duration

	// NearCache is how many bytes the client spends on the bodies of sessions that it
	// has read or written, so that those that have not changed meanwhile need not
	// travel again. The server is asked each time all the same, so nothing is ever
	// out of date. 0 means DefaultNearCache, less than 0 none.
	NearCache int

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
// Requests share a few connections, where each is sent behind the others without
// waiting for their answers. A Lock that waits for another's has a connection to
// itself meanwhile.
//
// A call whose reply was lost is repeated with the same tokens, on another
// connection, until there is an answer or its time is over; then its error is
// [store.ErrUnsure]. So it is if the repeat of a change is refused, which says nothing
// of the call before. A server that cannot be reached is tried again for a while
// ([ClientOptions.OpenAfter]); after that, calls under way end, and others fail at
// once with [store.ErrUnavailable] until it is back.
//
// A call that is given up, because its context ended, does not disturb others. What
// a Lock that was given up may have got is released in the background.
type Client struct {
	network, address string
	head             string // the host as it is sent, and what else each head has
	options          ClientOptions
	begun            time.Time
	shared           *mux
	calls            *pool
	waits            *pool
	breaker          *breaker
	near             *nearcache.Cache
	foreign          atomic.Bool // who answered last is a foreign server
	cookies          cookies
	exchanges        sync.Pool
	prefixes         atomic.Pointer[map[string]string] // by application; never changed

	ctx    context.Context // of what goes on in the background
	cancel context.CancelFunc

	mu         sync.Mutex
	closed     bool
	takingBack map[uint64]chan struct{} // locks by owner, until nobody has them
	takings    atomic.Int32             // how many
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
	c := &Client{network: network, address: address, head: address, begun: time.Now()}
	if network == "unix" {
		c.head = "localhost"
	}
	if o != nil {
		c.options = *o
	}
	if c.options.Token != "" {
		if !isToken(c.options.Token) {
			return nil, errors.New("stateserver: ClientOptions.Token has characters that cannot be sent; " +
				"it may have letters, digits and -._~+/=")
		}
		c.head += "\r\nAuthorization: Bearer " + c.options.Token
	}
	if c.options.Name == "" {
		c.options.Name = address
	}
	if c.options.Conns <= 0 {
		c.options.Conns = DefaultConns
		if n := c.options.MaxConns; n > 0 {
			c.options.Conns = min(n, DefaultConns)
		}
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
	if c.options.OpenAfter == 0 {
		c.options.OpenAfter = DefaultOpenAfter
	}
	if c.options.NearCache == 0 {
		c.options.NearCache = DefaultNearCache
	}
	if c.options.NearCache > 0 {
		c.near = nearcache.New(c.options.NearCache, nearMin)
	}
	c.prefixes.Store(new(map[string]string))
	c.takingBack = make(map[uint64]chan struct{})
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.breaker = newBreaker(max(c.options.OpenAfter, 0))
	c.shared = newMux(c.options.Conns)
	c.calls = newPool(c.options.MaxConns, c.options.IdleTimeout, c.dial)
	c.waits = newPool(c.options.MaxWaits, c.options.IdleTimeout, c.dial)
	return c, nil
}

// isToken reports whether s can be a bearer token (RFC 6750).
func isToken(s string) bool {
	for i := range len(s) {
		if c := s[i]; !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("-._~+/=", c) >= 0) {
			return false
		}
	}
	return true
}

// dial makes a connection. It gives up, to try again, before the server is taken for
// gone.
func (c *Client) dial(ctx context.Context) (net.Conn, error) {
	if limit := c.options.OpenAfter; limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	nc, err := c.options.DialContext(ctx, c.network, c.address)
	if err != nil || c.options.TLS == nil {
		return nc, err
	}
	config := c.options.TLS
	if config.ServerName == "" {
		config = config.Clone()
		config.ServerName = "localhost"
		if host, _, err := net.SplitHostPort(c.address); err == nil {
			config.ServerName = host
		}
	}
	secure := tls.Client(nc, config)
	if err := secure.HandshakeContext(ctx); err != nil {
		nc.Close()
		return nil, err
	}
	return secure, nil
}

// at is t as the client counts it: in nanoseconds since it was made.
func (c *Client) at(t time.Time) int64 { return int64(t.Sub(c.begun)) }

// Close closes all connections. Calls that are under way fail, and so do later
// ones. It returns when nothing goes on in the background any more.
func (c *Client) Close() error {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.cancel()
	c.shared.close()
	c.calls.close()
	c.waits.close()
	c.background.Wait()
	return nil
}

// Load implements [store.Store]. On a foreign server the record has no version,
// and a session that is locked is a [*store.LockedError].
func (c *Client) Load(ctx context.Context, id store.ID, rec *store.Record) error {
	near := c.near.Pin(id)
	defer near.Unpin()
	a, err := c.do(ctx, id, &call{method: methodGet, out: rec, near: near})
	if err != nil {
		return err
	}
	c.keep(id, &a, rec.Version, rec)
	return a.err(nil, nil)
}

// keep notes for the near cache that the answer a says of a session that rec is its
// content at version.
func (c *Client) keep(id store.ID, a *answer, version store.Version, rec *store.Record) {
	switch {
	case a.foreign:
	case a.status == statusOK:
		c.near.Put(id, version, rec.Body)
	case a.status == statusNotFound:
		c.near.Drop(id)
	}
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
	near := c.near.Pin(id)
	defer near.Unpin()
	q := &call{
		method: methodGet, exclusive: exclusiveAcquire,
		lock: store.Lock{Owner: o.Owner}, stale: o.Stale, hold: o.Renew, out: rec, near: near,
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
	c.keep(id, &a, rec.Version, rec)
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
	c.keep(id, &a, rec.Version, rec)
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
	}
	c.keep(id, &a, next, rec)
	if rec.Lock.IsZero() {
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
		c.near.Drop(id)
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
	known := *c.prefixes.Load()
	if prefix, ok := known[app]; ok {
		return prefix
	}
	more := make(map[string]string, len(known)+1)
	if len(known) < 1024 { // else somebody makes applications up
		maps.Copy(more, known)
	}
	prefix := appPrefix(app)
	more[strings.Clone(app)] = prefix
	c.prefixes.Store(&more)
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
	case statusNoToken, statusDenied:
		return a.failure(fs.ErrPermission)
	case statusUnsupported:
		return a.failure(errors.ErrUnsupported)
	case statusUnavailable, statusTooMany:
		return a.failure(store.ErrUnavailable)
	case statusBadRequest:
		// It was not done, and will not be if it is repeated.
		return a.failure(store.ErrUnavailable)
	}
	return a.failure(store.ErrUnsure)
}

func (a *answer) failure(err error) error { return &answerError{a.status, a.text, err} }

// An answerError is what an answer that refuses a call means. Whoever needs to know which
// answer it was (see the package comment) asks for one that has a Status.
type answerError struct {
	status int
	text   string
	err    error
}

func (e *answerError) Status() int   { return e.status }
func (e *answerError) Unwrap() error { return e.err }

func (e *answerError) Error() string {
	return fmt.Sprintf("stateserver: the server answers %d %q: %v", e.status, e.text, e.err)
}
