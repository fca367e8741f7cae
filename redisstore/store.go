package redisstore

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/valkey-io/valkey-go"

	"github.com/holdfast-session/holdfast/internal/nearcache"
	"github.com/holdfast-session/holdfast/store"
)

// What Options' zero fields mean.
const (
	DefaultPrefix      = "holdfast"
	DefaultTimeout     = 5 * time.Second
	DefaultNearCache   = 16 << 20
	DefaultWaitTimeout = time.Second
	DefaultEnds        = 1 << 20
)

// Options configure a [Store]. Their zero value, and a nil pointer, is a good choice.
// All processes that share sessions have the same Prefix, WaitReplicas and Ends.
type Options struct {
	// Prefix is what all keys and channels begin with: letters, digits and any of
	// "-_./:". Empty means DefaultPrefix.
	Prefix string

	// Timeout is how long a call takes at most, besides what a Lock waits, if its
	// context has no deadline: a call that Redis refuses for the moment (a failover, a
	// slot that moves, a server that loads its data) is made again until then. When
	// nothing answers at all for two seconds, calls fail sooner. 0 means
	// DefaultTimeout.
	Timeout time.Duration

	// NearCache is how many bytes the process spends on the bodies of sessions that it
	// has read or written, so that those that have not changed meanwhile need not
	// travel again. Redis is asked each time all the same, so nothing is ever out of
	// date. 0 means DefaultNearCache, less than 0 none.
	NearCache int

	// Staleness lets Load answer from this process, without asking Redis, as long as
	// Redis has not told it that the session has changed since (client-side caching,
	// RESP3), and for that long at most. It is told a moment after the change; so for
	// that moment, and in the worst case for Staleness, a session is read as it was,
	// also one that was signed out meanwhile, and promise 3 is weaker by as much. What
	// this process itself has changed it sees at once, and Lock and Save are never
	// stale. The client's DisableCache must be off. 0, the default, asks each time.
	Staleness time.Duration

	// WaitReplicas is how many replicas must have a change (Create, Save, Remove)
	// before it is acknowledged; see the package comment for what that protects from.
	// If they have not within WaitTimeout, the error is [store.ErrUnsure]. Each such
	// call has a connection to itself. 0, the default, waits for none.
	WaitReplicas int
	// WaitTimeout is how long it waits for them. 0 means DefaultWaitTimeout.
	WaitTimeout time.Duration

	// Ends is how many ended sessions of an application are remembered at most, with
	// what they last held, until [Store.Ack]; past it, the oldest are dropped, and after
	// three days all are. It is divided among 1,024 buckets, so a bound of a few
	// thousand is a rough one.
	//
	// Default 0: DefaultEnds, and only of applications for which some process has
	// called [Store.Ended] within a day. (A process that had the application before
	// learns it within seconds.) More than 0: that many, of all applications, from the
	// beginning. Negative: none.
	Ends int

	// Logger is told once, when the store begins, of settings of the server that put
	// sessions at risk, and later of sweeps that fail. Nil means slog.Default().
	Logger *slog.Logger
}

// Store is a [store.Store] in Redis or Valkey. It is safe for concurrent use.
type Store struct {
	client  valkey.Client
	owned   bool // Close closes it
	o       Options
	keys    keyspace
	scripts *scripts
	near    *nearcache.Cache
	recent  recent
	environment

	began  time.Time
	silent atomic.Int64 // since when nobody answers: nanoseconds after began, 0 if somebody does
	ahead  atomic.Int64 // the server's clock minus this one's, in microseconds
	closed atomic.Bool

	line       waiters
	apps       applications
	evicts     atomic.Bool
	ctx        context.Context // of what goes on in the background
	cancel     context.CancelFunc
	background group
}

// A group is goroutines, of which none begins once wait was called.
type group struct {
	mu   sync.Mutex
	over bool
	wg   sync.WaitGroup
}

func (g *group) run(f func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.over {
		g.wg.Go(f)
	}
}

func (g *group) wait() {
	g.mu.Lock()
	g.over = true
	g.mu.Unlock()
	g.wg.Wait()
}

// New returns a store over the application's client, which it shares, and does not
// close. It looks at the server's settings, and says through Options.Logger what of them
// puts sessions at risk. A server that does not answer now may do so later; one that is
// older than Redis 6.2 is an error.
//
// A client made for the store should have a short ConnWriteTimeout (3 s) and, on a
// cluster, ShardsRefreshInterval or, with Sentinel, TopologyRefreshInterval (5 s), so
// that it notices soon when a server hangs or is replaced. [Open] has them.
func New(client valkey.Client, o *Options) (*Store, error) {
	return newStore(client, o, environment{clock: source("clock"), buckets: maxBuckets})
}

// An environment is what tests change of a store.
type environment struct {
	clock   string        // Lua that defines now
	shift   *atomic.Int64 // is sent along, for that; in microseconds
	buckets int
	lost    func() // is told when the reply to a change of a session is lost
}

func newStore(client valkey.Client, o *Options, env environment) (*Store, error) {
	s := &Store{client: client, environment: env, began: time.Now()}
	if o != nil {
		s.o = *o
	}
	if err := s.o.complete(); err != nil {
		return nil, err
	}
	s.keys = keyspace{s.o.Prefix, env.buckets}
	s.scripts = newScripts(env.clock, s.keys.inboxes(), s.o.Staleness)
	if s.o.NearCache > 0 {
		s.near = nearcache.New(s.o.NearCache, nearMin)
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.line.init()
	s.apps.init()
	if err := s.inspect(); err != nil {
		s.cancel()
		return nil, err
	}
	return s, nil
}

// nearMin is from which size a body is kept near.
const nearMin = 64

func (o *Options) complete() error {
	o.Prefix = cmp.Or(o.Prefix, DefaultPrefix)
	const allowed = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:"
	if strings.Trim(o.Prefix, allowed) != "" {
		return fmt.Errorf("redisstore: Options.Prefix %q: it may have letters, digits and any of %s", o.Prefix, "-_./:")
	}
	for _, d := range []struct {
		name string
		n    int64
	}{{"Timeout", int64(o.Timeout)}, {"Staleness", int64(o.Staleness)}, {"WaitReplicas", int64(o.WaitReplicas)}, {"WaitTimeout", int64(o.WaitTimeout)}} {
		if d.n < 0 {
			return fmt.Errorf("redisstore: Options.%s is less than zero", d.name)
		}
	}
	o.Timeout = cmp.Or(o.Timeout, DefaultTimeout)
	o.WaitTimeout = cmp.Or(o.WaitTimeout, DefaultWaitTimeout)
	o.NearCache = cmp.Or(o.NearCache, DefaultNearCache)
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return nil
}

// Close ends what goes on in the background, and closes the client if [Open] made it.
// The sessions stay. It is called once, when no call is under way.
func (s *Store) Close() error {
	s.closed.Store(true)
	s.cancel()
	s.background.wait()
	if s.owned {
		s.client.Close()
	}
	return nil
}

var (
	_ store.Ender  = (*Store)(nil)
	_ store.Lister = (*Store)(nil)
)

// An args is the first argument of a script of a session: its numbers, one behind the
// other.
type args []byte

// begin returns the arguments of a script, which begin with whether ends are kept.
func (a *application) begin(size int) args {
	return append(make(args, 0, 1+size), flag(a.keeps()))
}

func flag(set bool) byte {
	if set {
		return '1'
	}
	return '0'
}

func (a args) u64(n uint64) args { return binary.BigEndian.AppendUint64(a, n) }
func (a args) u32(n uint32) args { return binary.BigEndian.AppendUint32(a, n) }
func (a args) known(near *nearcache.Entry) args {
	if near == nil {
		return a
	}
	return a.u64(uint64(near.Version))
}

// ask runs a script of a session.
func (s *Store) ask(ctx context.Context, c *call) (answer, error) {
	v, err := s.one(ctx, c)
	if err != nil {
		return answer{}, err
	}
	return parseAnswer(v)
}

// Load implements [store.Store]. It is one round trip, without the content if that has
// not changed since this process had it.
func (s *Store) Load(ctx context.Context, id store.ID, rec *store.Record) error {
	a := s.apps.get(s, id.App)
	key := a.keys.session(id.Session)
	if s.o.Staleness > 0 && s.loadCached(ctx, key, rec) {
		return nil
	}
	near := s.near.Pin(id)
	defer near.Unpin()
	ans, err := s.ask(ctx, &call{script: s.scripts.load, key: key, args: []string{string(a.begin(8).known(near))}})
	if err != nil {
		return err
	}
	return s.read(ctx, a, id, &ans, near, rec)
}

// read reads what Load and Lock are answered.
func (s *Store) read(ctx context.Context, a *application, id store.ID, ans *answer, near *nearcache.Entry, rec *store.Record) error {
	if ans.code != codeOK {
		return s.refusal(ctx, a, id, ans)
	}
	if err := ans.record(near, rec); err != nil {
		return err
	}
	s.near.Put(id, rec.Version, rec.Body)
	return nil
}

// refusal is the error that an answer means, and notes what follows from it.
func (s *Store) refusal(ctx context.Context, a *application, id store.ID, ans *answer) error {
	err := ans.err()
	var absent *store.NotFoundError
	if !errors.As(err, &absent) {
		return err
	}
	s.near.Drop(id)
	switch absent.Reason.Kind {
	case store.Expired:
		a.hint(s.keys.bucketOf(id.Session)) // its end, if it was this call that found out
	case store.Unknown:
		if s.evicts.Load() && s.indexed(ctx, a, id.Session) {
			absent.Reason.Kind = store.Evicted
		}
	}
	return err
}

// indexed reports whether a session that is not there is in the index: its end was
// nobody's doing but the server's.
func (s *Store) indexed(ctx context.Context, a *application, session string) bool {
	v, err := s.one(ctx, &call{command: "ZSCORE", key: a.keys.index(s.keys.bucketOf(session)), args: []string{session}})
	return err == nil && !v.IsNil()
}

// Touch implements [store.Store].
func (s *Store) Touch(ctx context.Context, id store.ID) error {
	a := s.apps.get(s, id.App)
	ans, err := s.ask(ctx, &call{script: s.scripts.touch, key: a.keys.session(id.Session), args: []string{string(a.begin(0))}})
	if err != nil {
		return err
	}
	return s.settled(ctx, a, id, &ans)
}

// settled is the error of a call whose answer has nothing but a code.
func (s *Store) settled(ctx context.Context, a *application, id store.ID, ans *answer) error {
	if ans.code == codeOK {
		return nil
	}
	return s.refusal(ctx, a, id, ans)
}

// maxNames bounds the subject, and where a session went: they are in the header.
const maxNames = 16 << 10

// newCookie draws a lock's cookie.
func newCookie() uint32 { return uint32(1 + rand.Int32N(1<<31-1)) }

// Create implements [store.Store]. It sets rec.Created if that is zero.
func (s *Store) Create(ctx context.Context, id store.ID, rec *store.Record, hold bool) error {
	if len(rec.Subject) > maxNames {
		return fmt.Errorf("%w: a subject of %d bytes", store.ErrTooLarge, len(rec.Subject))
	}
	a := s.apps.get(s, id.App)
	if err := s.announce(ctx, a); err != nil {
		return err
	}
	if err := s.register(ctx, a, id.Session, rec.Subject, rec.Timeout); err != nil {
		return err
	}
	in := append(a.begin(80), flag(s.o.WaitReplicas > 0)).u64(uint64(rec.Version))
	for _, v := range rec.History {
		in = in.u64(uint64(v))
	}
	var created, owner uint64
	if !rec.Created.IsZero() {
		created = uint64(rec.Created.UnixNano())
	}
	if hold {
		owner = rec.Lock.Owner
	}
	timeout := micros(rec.Timeout)
	in = in.u64(uint64(timeout)).u64(created).u32(uint32(rec.Flags)).u32(newCookie()).u64(owner)
	body := borrow(rec.Body)
	calls := []call{
		{script: s.scripts.due, key: a.keys.index(s.keys.bucketOf(id.Session)), args: []string{strings.Clone(id.Session), itoa(timeout)}},
		{script: s.scripts.create, key: a.keys.session(id.Session), args: []string{string(in), strings.Clone(rec.Subject), body.text()},
			replicate: s.o.WaitReplicas > 0},
	}
	ans, err := s.askIndexed(ctx, calls)
	if err != nil {
		return err
	}
	body.done(&calls[1])
	s.wrote(calls[1].key)
	if err := s.settled(ctx, a, id, &ans); err != nil {
		return err
	}
	s.near.Put(id, rec.Version, rec.Body)
	if hold {
		rec.Lock.Cookie = int32(ans.int(0))
	}
	if created := ans.text(1); rec.Created.IsZero() && len(created) == 8 {
		rec.Created = time.Unix(0, int64(binary.BigEndian.Uint64([]byte(created))))
	}
	return nil
}

// askIndexed makes two calls in their order, in one round trip unless replicas are waited
// for: one tells the index of a session, the other asks that. It returns the answer to the
// second.
func (s *Store) askIndexed(ctx context.Context, calls []call) (ans answer, err error) {
	var index valkey.ValkeyMessage
	if calls[1].replicate {
		if index, err = s.one(ctx, &calls[0]); err != nil {
			return answer{}, err
		}
		ans, err = s.ask(ctx, &calls[1])
	} else {
		all, failed := s.several(ctx, calls)
		if failed != nil && !calls[1].done {
			return answer{}, failed
		}
		index = all[0]
		ans, err = parseAnswer(all[1])
	}
	// The index is told once more if only the first call was refused, although they went
	// together; and if it had the session before: a sweep may have looked between the two
	// calls, seen that one gone, and taken it out.
	if was, failed := index.AsInt64(); failed != nil || was != 0 {
		again := calls[0]
		again.done = false
		s.later(func(ctx context.Context) { _, _ = s.one(ctx, &again) })
	}
	return ans, err
}

// later does something in the background.
func (s *Store) later(do func(ctx context.Context)) {
	s.background.run(func() {
		ctx, cancel := context.WithTimeout(s.ctx, s.o.Timeout)
		defer cancel()
		do(ctx)
	})
}

// Save implements [store.Store]. It is one round trip, three if it changes the subject,
// and two if it shortens the timeout.
func (s *Store) Save(ctx context.Context, id store.ID, rec *store.Record, next store.Version, hold bool) error {
	if len(rec.Subject) > maxNames {
		return fmt.Errorf("%w: a subject of %d bytes", store.ErrTooLarge, len(rec.Subject))
	}
	a := s.apps.get(s, id.App)
	const registered = 2 // where that is in the arguments
	in := append(a.begin(64), flag(s.o.WaitReplicas > 0), '0', flag(hold))
	in = in.u64(uint64(rec.Version)).u64(uint64(next)).u64(rec.Lock.Owner).u32(uint32(rec.Lock.Cookie))
	in = in.u32(newCookie()).u64(uint64(micros(rec.Timeout))).u32(uint32(rec.Flags))
	body := borrow(rec.Body)
	key := a.keys.session(id.Session)
	unsure := false
	for {
		c := call{script: s.scripts.save, key: key, args: []string{string(in), strings.Clone(rec.Subject), body.text()},
			replicate: s.o.WaitReplicas > 0}
		ans, err := s.ask(ctx, &c)
		unsure = unsure || c.unsure
		if err != nil {
			return err
		}
		if ans.code == codeSubject && in[registered] == '0' {
			if err := s.register(ctx, a, id.Session, rec.Subject, rec.Timeout); err != nil {
				return err
			}
			in[registered] = '1'
			continue
		}
		body.done(&c)
		s.wrote(key)
		if err := s.settled(ctx, a, id, &ans); err != nil {
			if unsure && ans.refused() && ans.int(len(ans.parts)-1) == 0 {
				return fmt.Errorf("%w: a reply was lost, and too much was saved since: %w", store.ErrUnsure, err)
			}
			return err
		}
		s.near.Put(id, next, rec.Body)
		s.moved(a, id.Session, &ans, rec)
		return nil
	}
}

// moved brings the indexes up to date after a Save. What it does not come to, the sweep
// or a list will.
func (s *Store) moved(a *application, session string, ans *answer, rec *store.Record) {
	sooner, before := ans.int(0) == 1, ans.text(1)
	if !sooner && before == "" {
		return
	}
	session = strings.Clone(session)
	timeout := itoa(micros(rec.Timeout))
	s.later(func(ctx context.Context) {
		if sooner {
			_, _ = s.one(ctx, &call{script: s.scripts.due, key: a.keys.index(s.keys.bucketOf(session)), args: []string{session, timeout}})
		}
		if before != "" {
			_ = s.unregister(ctx, a, before, session)
		}
	})
}

// Unlock implements [store.Store].
func (s *Store) Unlock(ctx context.Context, id store.ID, lock store.Lock) error {
	a := s.apps.get(s, id.App)
	in := append(a.begin(13), '0').u64(lock.Owner).u32(uint32(lock.Cookie))
	key := a.keys.session(id.Session)
	ans, err := s.ask(ctx, &call{script: s.scripts.unlock, key: key, args: []string{string(in)}})
	if err != nil {
		return err
	}
	s.wrote(key)
	return s.settled(ctx, a, id, &ans)
}

// Remove implements [store.Store].
func (s *Store) Remove(ctx context.Context, id store.ID, lock store.Lock, why store.Reason) error {
	if len(why.To) > maxNames {
		return fmt.Errorf("%w: a reason of %d bytes", store.ErrTooLarge, len(why.To))
	}
	a := s.apps.get(s, id.App)
	in := append(a.begin(14), flag(s.o.WaitReplicas > 0)).u64(lock.Owner).u32(uint32(lock.Cookie))
	session, index := strings.Clone(id.Session), a.keys.index(s.keys.bucketOf(id.Session))
	calls := []call{
		{script: s.scripts.remove, key: a.keys.session(session), args: []string{string(append(in, byte(why.Kind))), strings.Clone(why.To)},
			replicate: s.o.WaitReplicas > 0},
		// It is looked at next: its end is claimed, or the index forgets it. If this
		// call does not come to that, that is when it would have expired.
		{command: "ZADD", key: index, args: []string{"XX", "LT", "0", session}},
	}
	if a.keeps() && why.Kind != store.Moved {
		calls[1] = call{script: s.scripts.ended, key: index, args: []string{session, itoa(int64(s.endsOfBucket()))}}
	}
	var ans answer
	var err error
	var indexed valkey.ValkeyMessage
	if calls[0].replicate {
		if ans, err = s.ask(ctx, &calls[0]); err == nil {
			indexed, _ = s.one(ctx, &calls[1])
		}
	} else {
		var all []valkey.ValkeyMessage
		if all, err = s.several(ctx, calls); all != nil && calls[0].done {
			indexed = all[1]
			ans, err = parseAnswer(all[0])
		}
	}
	if err != nil {
		return err
	}
	s.near.Drop(id)
	s.wrote(calls[0].key)
	a.hint(s.keys.bucketOf(id.Session))
	s.dropOldest(a, s.keys.bucketOf(id.Session), indexed)
	err = s.settled(ctx, a, id, &ans)
	if calls[0].unsure && errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("%w: a reply was lost, and by now there is no session: %w", store.ErrUnsure, err)
	}
	return err
}

// A body is a copy of a content on its way: a call that is given up may be sent still.
type body struct{ b *[]byte }

var bodies = sync.Pool{New: func() any { return new([]byte) }}

func borrow(b []byte) body {
	buf := bodies.Get().(*[]byte)
	*buf = append((*buf)[:0], b...)
	return body{buf}
}

func (b body) text() string { return valkey.BinaryString(*b.b) }

// done gives the buffer back, unless a call that has it may be on its way still.
func (b body) done(c *call) {
	if !c.unsure && cap(*b.b) <= 1<<20 {
		bodies.Put(b.b)
	}
}
