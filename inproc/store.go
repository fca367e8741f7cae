// Package inproc keeps sessions in this process: ASP.NET's mode InProc. It is the
// fastest place for them and the shortest-lived: they end with the process.
//
//	sessions := holdfast.New(inproc.New(nil), nil)
//
// A session's content is kept as package holdfast made it ([store.Record].Items),
// shared and never copied; where it comes as bytes (a state server that keeps
// everything in memory), these are copied in and out.
//
// # Expiry
//
// A session whose timeout has passed is gone for every call at that moment. The
// memory it takes is given back by a sweep at most about a second later, which
// costs a store without sessions nothing: there is no goroutine between two sweeps,
// and no timer while nothing is there.
//
// # Concurrency
//
// Sessions are spread over shards by a hash of their ID, each under a mutex of its
// own that is held for the length of one call (or of a small batch of a sweep),
// never while anybody waits. The lock of a session has nothing to do with it: that
// is a field, and those who wait for it sleep on a channel of their own.
//
// Mutexes are taken in this order, the later ones briefly and as the last:
//
//	shard.mu → expiry.Sweeper's
//	shard.mu → tombstones.mu
//	shard.mu → subjects.mu
//	shard.mu → ends.mu
//	behind.stripe → shard.mu → behind.mu
//
// No call has two shards, nor two of those that come after them.
//
// # Memory
//
// [Options].MaxBytes bounds what the sessions of a store take, and what it remembers
// of ended ones: what is alive on the heap, with a fixed 600 kB or so besides. The
// process takes more than that. Go's garbage collector lets the heap grow to
// (1 + GOGC/100) times what is alive before it collects, so with the usual GOGC of
// 100 it takes about twice MaxBytes, in a flood up to two and a half times. GOMEMLIMIT makes it
// collect sooner: set to MaxBytes, a quarter more, and what else the program needs, it
// holds.
//
// The store counts what the allocator hands out for a session, its ID and its share
// of the table. For a content that comes as items it asks these, by a method
// MemSize() int, or as package items has them, Len() int and Size() int. Content that
// has neither counts as 256 bytes.
package inproc

import (
	"context"
	"hash/maphash"
	"math/bits"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"time"

	"github.com/holdfast-session/holdfast/internal/expiry"
	"github.com/holdfast-session/holdfast/store"
)

// Options configure a [Store]. The zero value, and a nil pointer, is a good choice.
type Options struct {
	// Tombstones is how many ended sessions are remembered at most, the latest
	// ones, so that a request that still carries the ID of one is told how it ended.
	// Each takes up to 80 bytes, and about as many again if it tells where the session
	// went. Default 131,072; negative for none. There are no more of them than have
	// room in an eighth of MaxBytes, at 80 bytes each.
	Tombstones int

	// MaxSessions is how many sessions there are at most. Default 0: any number that
	// MaxBytes has room for.
	MaxSessions int

	// MaxBytes is how much memory the sessions, with tombstones and ends, take at
	// most; see the package's section on memory. Default 0: a quarter of what the
	// process can have, which is the least of the machine's memory, the limits of its
	// control groups, and GOMEMLIMIT, or 1 GiB where none is known (Linux tells them
	// all, others the last). Negative: no limit.
	//
	// A session larger than all of it is refused with [store.ErrTooLarge].
	MaxBytes int64

	// Full is what happens when MaxSessions or MaxBytes is reached. Default
	// [EvictLeastRecentlyUsed].
	Full Policy

	// Ends is how many ended sessions are remembered at most, with what they last
	// held, until [Store.Ack]; past it the oldest are dropped. They are also dropped
	// past a quarter of MaxBytes, which is then theirs alone: the sessions have the
	// rest.
	//
	// Default 0: 1,048,576, and only of applications for which [Store.Ended] has been
	// called; a store that nobody asks keeps none. More than 0: that many, of all
	// applications, from the beginning. Negative: none.
	Ends int

	// CountCookies makes the lock cookies of a session count from 1, as those of
	// Microsoft's state server do, instead of being random. A client that knows a
	// lock by its cookie alone may then take another's lock for its own after the
	// session was removed and created again. In this mode Create takes rec's
	// Lock.Cookie, if it is not zero, for the last one issued.
	CountCookies bool

	// Backing keeps the sessions besides, so that they are read back from it, by
	// their ID, after this process has ended. It is typically a logstore; New's caller
	// opens it, and closes it after this store. No other process may use it meanwhile,
	// and what is in it is for this package to read. Default nil: none.
	//
	// Changes are written behind, so that nobody waits for them; [Store.Close] writes
	// the rest. A process that dies loses those of the last BackingInterval, and the
	// locks. Ends are written at once. If the backing fails, changes wait here; when
	// there are too many, Create and Save fail with [store.ErrUnavailable].
	//
	// Where memory is full, the sessions that would be evicted leave it and stay in
	// the backing, whatever Full says; nothing is evicted. Such a session, and one that
	// is read back after a restart, may expire up to a minute late. Content that comes as items
	// is written if these have a method AppendBody([]byte) []byte, which appends what
	// they are as bytes; otherwise it lives and ends in this process.
	Backing store.Store

	// BackingInterval is how late changes are written to Backing. Default 1 second.
	BackingInterval time.Duration
}

// defaultTombstones covers a timeout of twenty minutes at a hundred ends a second.
const defaultTombstones = 1 << 17

// shards is a power of two, so large that even on a large machine two calls seldom
// meet, and so small that an empty store is small.
const (
	shards     = 64
	shardShift = 64 - 6 // a key's upper bits name its shard
)

// Store is a [store.Store] in this process. It is safe for concurrent use.
type Store struct {
	start  time.Time // the origin of all times here: what now counts from
	seed   maphash.Seed
	exact  bool // Options.CountCookies
	app    atomic.Pointer[app]
	limits limits
	behind *behind // nil without Options.Backing

	_     [64]byte     // keeps what every call reads from what changes
	count atomic.Int64 // sessions that are there, or expired and not swept yet
	bytes atomic.Int64 // what they cost
	ended [store.Restarted + 1]atomic.Uint64

	sweeper    expiry.Sweeper
	tombstones tombstones
	ends       ends
	subjects   subjects
	shard      [shards]shard
}

var (
	_ store.ItemKeeper = (*Store)(nil)
	_ store.Ender      = (*Store)(nil)
	_ store.Lister     = (*Store)(nil)
)

// New returns an empty store. A nil o means the defaults.
func New(o *Options) *Store {
	if o == nil {
		o = &Options{}
	}
	s := &Store{start: time.Now(), seed: maphash.MakeSeed(), exact: o.CountCookies}
	s.sweeper.Init(s.now, func() bool { return s.count.Load() == 0 }, s.sweepAll)
	s.setLimits(o)
	for i := range s.shard {
		s.shard[i].random.Seed(rand.Uint64(), rand.Uint64())
	}
	if s.behind = newBehind(o); s.behind != nil {
		go s.work()
	}
	return s
}

// Close stops the sweeping for good. Calls that are still under way, and later
// ones, work as before, but what expires is not given back any more. It may be called
// again.
//
// With a backing, it writes what is still to be written, and returns an error if that
// fails: then it can be tried again. After it, Create and Save fail with
// [store.ErrUnavailable]. Without a backing it returns nil.
func (s *Store) Close() error {
	s.sweeper.Close()
	if s.behind != nil {
		return s.closeBehind()
	}
	return nil
}

// KeepsItems reports true: this store keeps [store.Record].Items.
func (s *Store) KeepsItems() bool { return true }

// now is the store's clock: nanoseconds since it was made, monotonic, so that a
// jump of the wall clock ends no session.
func (s *Store) now() int64 { return int64(time.Since(s.start)) }

// key is what the session is found by. Two IDs may share one.
func (s *Store) key(id store.ID) uint64 {
	h := maphash.String(s.seed, id.Session)
	if a := s.app.Load(); a != nil && a.name == id.App {
		return h ^ a.hash
	}
	return h ^ s.appHash(id.App)
}

// An app is an application's name with its hash.
type app struct {
	name string
	hash uint64
}

// appHash returns the part of the key that the application makes. The first one's is
// kept at hand, because most stores serve no other.
func (s *Store) appHash(name string) uint64 {
	hash := bits.RotateLeft64(maphash.String(s.seed, name), 29) // two equal strings must not cancel out
	if s.app.Load() == nil {
		s.app.CompareAndSwap(nil, &app{strings.Clone(name), hash})
	}
	return hash
}

// of returns the shard of a key. (Its table goes by the lower bits.)
func (s *Store) of(key uint64) *shard { return &s.shard[key>>shardShift%shards] }

// Load implements [store.Store].
func (s *Store) Load(ctx context.Context, id store.ID, rec *store.Record) error {
	for {
		err := s.loadHere(ctx, id, rec)
		if err == nil || s.behind == nil {
			return err
		}
		if again, err := s.missed(ctx, id, err); !again {
			return err
		}
	}
}

// Lock implements [store.Store]. Whoever waits gets the lock in order of arrival,
// except that a caller whose o.Stale has passed takes it from its holder without
// regard to others who wait for longer than that.
func (s *Store) Lock(ctx context.Context, id store.ID, o store.LockOptions, rec *store.Record) error {
	for {
		err := s.lockHere(ctx, id, o, rec)
		if err == nil || s.behind == nil {
			return err
		}
		if again, err := s.missed(ctx, id, err); !again {
			return err
		}
	}
}

// Create implements [store.Store].
func (s *Store) Create(ctx context.Context, id store.ID, rec *store.Record, hold bool) error {
	if s.behind != nil {
		return s.createBehind(ctx, id, rec, hold)
	}
	return s.createHere(ctx, id, rec, hold)
}

// Save implements [store.Store].
func (s *Store) Save(ctx context.Context, id store.ID, rec *store.Record, next store.Version, hold bool) error {
	if s.behind != nil {
		if err := s.mayChange(ctx); err != nil {
			return err
		}
	}
	for {
		err := s.saveHere(ctx, id, rec, next, hold)
		if err == nil || s.behind == nil {
			return err
		}
		if again, err := s.missed(ctx, id, err); !again {
			return err
		}
	}
}

// Unlock implements [store.Store].
func (s *Store) Unlock(ctx context.Context, id store.ID, lock store.Lock) error {
	for {
		err := s.unlockHere(ctx, id, lock)
		if err == nil || s.behind == nil {
			return err
		}
		if again, err := s.missed(ctx, id, err); !again {
			return err
		}
	}
}

// Remove implements [store.Store].
func (s *Store) Remove(ctx context.Context, id store.ID, lock store.Lock, why store.Reason) error {
	if s.behind != nil {
		return s.removeThrough(ctx, id, lock, why)
	}
	return s.removeHere(ctx, id, lock, why)
}

// Touch implements [store.Store].
func (s *Store) Touch(ctx context.Context, id store.ID) error {
	for {
		err := s.touchHere(ctx, id)
		if err == nil || s.behind == nil {
			return err
		}
		if again, err := s.missed(ctx, id, err); !again {
			return err
		}
	}
}

func (s *Store) loadHere(ctx context.Context, id store.ID, rec *store.Record) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	key := s.key(id)
	sh := s.of(key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	now := s.now()
	e := s.find(sh, key, id, now)
	if e == nil {
		return s.absent(key, now)
	}
	s.restart(sh, e, now)
	e.read(rec, now)
	return nil
}

func (s *Store) lockHere(ctx context.Context, id store.ID, o store.LockOptions, rec *store.Record) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	key := s.key(id)
	sh := s.of(key)
	sh.mu.Lock()
	now := s.now()
	e := s.find(sh, key, id, now)
	if e != nil && e.hold != nil && e.hold.Waiting() > 0 {
		e = s.settle(sh, e, now) // who came before us is served before us
	}
	if e == nil {
		sh.mu.Unlock()
		return s.absent(key, now)
	}
	h := e.hold
	switch {
	case h == nil:
		s.acquire(sh, e, o.Owner, o.Stale, now)
	case h.By(o.Owner):
		s.renew(e, o.Stale, now)
	case h.IsStale(o.Stale, now):
		s.acquire(sh, e, o.Owner, o.Stale, now)
	case o.Wait > 0:
		w := h.Queue(o, rec, now)
		sleep := w.Patience(h, e.deadline, now)
		sh.mu.Unlock()
		return s.wait(ctx, sh, e, w, sleep)
	default:
		err := e.lockedError(now)
		sh.mu.Unlock()
		return err
	}
	e.read(rec, now)
	sh.mu.Unlock()
	return nil
}

func (s *Store) createHere(ctx context.Context, id store.ID, rec *store.Record, hold bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	key := s.key(id)
	sh := s.of(key)
	e := newEntry(id, rec) // outside the mutex: it allocates and copies
	size := cost(e.session, rec.Subject, e.content)
	e.setCost(size)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	now := s.now()
	for {
		if have := s.find(sh, key, id, now); have != nil {
			if !have.seen(rec.Version) {
				return store.ErrExists
			}
			if hold && have.hold.By(rec.Lock.Owner) {
				rec.Lock.Cookie = have.cookie
			}
			return nil
		}
		if err := s.writable(); err != nil {
			return err
		}
		if s.takeNew(size) {
			break
		}
		if err := s.makeRoomFrom(sh, want{key: key, size: size, sessions: 1, bytes: size}); err != nil {
			return err
		}
		now = s.now()
	}
	if rec.Subject != "" {
		s.subjects.set(e, rec.Subject)
	}
	if s.exact {
		e.cookie = max(rec.Lock.Cookie, 1)
	}
	if hold {
		if !s.exact {
			e.cookie = s.nextCookie(sh, e)
		}
		e.acquired = e.version
		e.hold = sh.free.Get()
		e.hold.Owner, e.hold.Since = rec.Lock.Owner, now
		rec.Lock.Cookie = e.cookie
	}
	s.begin(sh, key, e, now)
	s.changed(sh, e)
	return nil
}

func (s *Store) saveHere(ctx context.Context, id store.ID, rec *store.Record, next store.Version, hold bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	key := s.key(id)
	sh := s.of(key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	for {
		now := s.now()
		e := s.find(sh, key, id, now)
		switch {
		case e == nil:
			return s.absent(key, now)
		case e.seen(next):
			return nil
		case e.hold != nil && !rec.Lock.Names(e.lock()):
			if rec.Lock.IsZero() {
				return e.lockedError(now)
			}
			return store.ErrLockLost
		case e.version != rec.Version:
			if rec.Lock.IsZero() {
				return store.ErrConflict
			}
			return store.ErrLockLost
		}
		if err := s.writable(); err != nil {
			return err
		}
		content := e.contain(rec)
		size := cost(e.session, rec.Subject, content)
		if more := size - e.cost(); more != 0 {
			if !s.takeMore(more) {
				if err := s.makeRoomFrom(sh, want{key: key, size: size, bytes: more}); err != nil {
					return err
				}
				continue
			}
			e.setCost(size)
		}
		if rec.Subject != e.owner() {
			s.subjects.set(e, rec.Subject)
		}
		e.write(rec, next, content)
		s.changed(sh, e)
		if hold && !rec.Lock.IsZero() {
			s.keep(sh, e, rec.Lock, now)
			s.restart(sh, e, now)
		} else {
			s.release(sh, e, now)
		}
		return nil
	}
}

func (s *Store) unlockHere(ctx context.Context, id store.ID, lock store.Lock) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	key := s.key(id)
	sh := s.of(key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	now := s.now()
	e := s.find(sh, key, id, now)
	switch {
	case e == nil:
		return s.absent(key, now)
	case e.hold == nil:
		return nil
	case !lock.Names(e.lock()):
		return store.ErrLockLost
	}
	s.release(sh, e, now)
	return nil
}

func (s *Store) removeHere(ctx context.Context, id store.ID, lock store.Lock, why store.Reason) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	key := s.key(id)
	sh := s.of(key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	now := s.now()
	e := s.find(sh, key, id, now)
	switch {
	case e == nil:
		return s.absent(key, now)
	case !lock.IsZero() && (e.hold == nil || !lock.Names(e.lock())):
		return store.ErrLockLost
	}
	why.Age = 0
	s.end(sh, key, e, why, now)
	return nil
}

func (s *Store) touchHere(ctx context.Context, id store.ID) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	key := s.key(id)
	sh := s.of(key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	now := s.now()
	e := s.find(sh, key, id, now)
	if e == nil {
		return s.absent(key, now)
	}
	s.restart(sh, e, now)
	return nil
}

// absent is the error of a call on a session that is not there.
func (s *Store) absent(key uint64, now int64) error {
	why, known := s.tombstones.reason(key, now)
	if !known {
		why = store.Reason{Kind: store.Restarted, Age: time.Duration(now)}
	}
	return &store.NotFoundError{Reason: why}
}
