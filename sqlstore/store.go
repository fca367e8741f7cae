package sqlstore

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/holdfast-session/holdfast/store"
)

// Store is a [store.Store] in a database. It is safe for concurrent use. Any number of
// them, in any number of processes, may use one table.
type Store struct {
	admin
	st     *statements
	packer *packer
	writer chan struct{} // who has put something in may write; nil if all may
	queue  queue

	listener io.Closer // nil without a Notifier
	stop     context.CancelFunc
	running  sync.WaitGroup // what runs beside the calls

	mu       sync.Mutex
	prepared []*sql.Stmt
	asked    map[int64]bool // the applications whose ends were asked for, by hash
	trimmed  time.Time
}

var (
	_ store.Ender  = (*Store)(nil)
	_ store.Lister = (*Store)(nil)
)

// New returns a store over a database, which stays the caller's to close, after the
// store. A nil o means the defaults.
//
// It looks at the schema: where the tables are missing or of another version, it returns
// an error that says which command mends that, or mends it if Options.AutoInstall is set.
// So the database must be there; its outages later are the business of each call.
func New(db *sql.DB, o *Options) (*Store, error) { return newStore(db, o, "") }

// checkWithin is how long New may take to look at the schema.
const checkWithin = 30 * time.Second

// newStore is New with another time than the database's: an expression, if not empty.
func newStore(db *sql.DB, o *Options, now string) (*Store, error) {
	ctx, cancel := context.WithTimeout(context.Background(), checkWithin)
	defer cancel()
	s, err := open(ctx, db, o, now)
	if err != nil {
		return nil, err
	}
	if s.o.Notifier != nil {
		channel := s.names.channel
		if s.d.wake(channel) == "" {
			return nil, errors.New("sqlstore: Options.Notifier is for PostgreSQL only")
		}
		s.listener, err = s.o.Notifier.Listen(ctx, channel, s.queue.notified)
		if err != nil {
			return nil, fmt.Errorf("sqlstore: Options.Notifier: %w", err)
		}
	}
	background, stop := context.WithCancel(context.Background())
	s.stop = stop
	s.running.Go(func() { s.sweepAlways(background) })
	return s, nil
}

// open returns a store that does nothing but what it is called for.
func open(ctx context.Context, db *sql.DB, o *Options, now string) (*Store, error) {
	a, err := newAdmin(db, o)
	if err != nil {
		return nil, err
	}
	if now != "" {
		a.names.now = now
	}
	packer, err := newPacker(&a.o)
	if err != nil {
		return nil, fmt.Errorf("sqlstore: %w", err)
	}
	if err := a.check(ctx); err != nil {
		return nil, err
	}
	if query := a.d.most(); query != "" {
		if err := a.scan(ctx, query, &packer.most); err != nil {
			return nil, fmt.Errorf("sqlstore: asking how much the server takes at once: %w", err)
		}
	}
	s := &Store{admin: *a, st: newStatements(a.d, a.names), packer: packer, stop: func() {}, asked: make(map[int64]bool)}
	if s.d.oneWriter() {
		s.writer = make(chan struct{}, 1)
	}
	s.gathers(s.st.load, s.st.loadAll, false, true)
	s.gathers(s.st.lock, s.st.lockAll, true, true)
	s.gathers(s.st.saveMine, s.st.saveMineAll, true, false)
	s.gathers(s.st.unlock, s.st.unlockAll, true, false)
	if g := s.st.lock.gathering; g != nil {
		// What [try] gives back, it may have given back before the lock was taken.
		g.undo = func(c *call) {
			s.giveBack(c.id, store.Lock{Cookie: int32(c.a[pCookie].(int64)), Owner: uint64(c.a[pOwner].(int64))}, false)
		}
	}
	return s, nil
}

// Close ends what the store does beside its calls, and waits for that. Calls that are
// under way, and later ones, are not safe any more. The database stays open.
func (s *Store) Close() error {
	s.stop()
	var err error
	if s.listener != nil {
		err = s.listener.Close()
	}
	s.running.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, st := range s.prepared {
		err = errors.Join(err, st.Close())
	}
	s.prepared = nil
	return err
}

// Load implements [store.Store]. It is one query; where the session would otherwise
// expire too soon, which is once in a tenth of its timeout or in a minute, a second one
// restarts the timeout.
func (s *Store) Load(ctx context.Context, id store.ID, rec *store.Record) error {
	k, _ := keyOf(id)
	r, err := s.there(ctx, k, func() (*row, error) {
		return s.read(ctx, s.st.load, k, &args{pID: k[:]}, false, rec, func(r *row) bool { return r.state == stateAlive && !r.expired() })
	})
	if err != nil {
		return err
	}
	if r.expires-r.now < rec.Timeout.Microseconds() {
		return s.touch(ctx, k)
	}
	return nil
}

// Lock implements [store.Store]. Who waits in this process gets the lock in order of
// arrival; several processes get it as it comes, without any of them being passed over
// for long.
func (s *Store) Lock(ctx context.Context, id store.ID, o store.LockOptions, rec *store.Record) error {
	k, _ := keyOf(id)
	return s.queue.lock(ctx, s, k, o, s.listener != nil, rec)
}

// tryLock implements locker.
func (s *Store) tryLock(ctx context.Context, k key, o store.LockOptions, told bool, rec *store.Record) (taken store.Lock, err error) {
	taken = store.Lock{Cookie: newCookie(), Owner: o.Owner}
	stale := o.Stale.Microseconds()
	if o.Stale%time.Microsecond > 0 {
		stale++ // 0 would be never
	}
	a := &args{pID: k[:], pOwner: int64(o.Owner), pCookie: int64(taken.Cookie), pStale: stale}
	for {
		r, err := s.acquire(ctx, k, a, rec)
		switch {
		case errors.Is(err, errUnreadable):
			s.giveBack(k, taken, true)
			return store.Lock{}, err
		case err != nil:
			return taken, err
		case r != nil && int32(r.cookie) != taken.Cookie: // he had it
			return store.Lock{}, nil
		case r != nil:
			return taken, nil
		}
		if told {
			switch r, err := s.one(ctx, s.st.mark, a, true, scanMeta); {
			case err != nil:
				return store.Lock{}, err
			case r != nil:
				return store.Lock{}, r.lockedError()
			}
		}
		r, err = s.peek(ctx, k)
		switch {
		case err != nil:
			return store.Lock{}, err
		case r.locked() && uint64(r.owner) != o.Owner && !(o.Stale > 0 && r.age() >= o.Stale):
			return store.Lock{}, r.lockedError()
		case ctx.Err() != nil:
			return store.Lock{}, ctx.Err()
		}
	}
}

// acquire runs the statement of Lock, and reads the session if it got the lock. Else it
// returns nil.
func (s *Store) acquire(ctx context.Context, k key, a *args, rec *store.Record) (*row, error) {
	// Where the row is read by a second statement, another may have taken over meanwhile.
	isMine := func(r *row) bool { return r.state == stateAlive && r.locked() && r.owner == a[pOwner] }
	if s.d.returns() {
		r, err := s.read(ctx, s.st.lock, k, a, true, rec, isMine)
		if err != nil || r == nil || !isMine(r) {
			return nil, err
		}
		return r, nil
	}
	if n, err := s.change(ctx, s.st.lock, k, a); err != nil || n == 0 {
		return nil, err
	}
	r, err := s.read(ctx, s.st.load, k, a, false, rec, isMine)
	switch {
	case errors.Is(err, errUnreadable) || ctx.Err() != nil:
		return nil, err
	case err != nil: // but the lock was taken
		return nil, fmt.Errorf("%w: %w", store.ErrUnsure, err)
	case r == nil || !isMine(r):
		return nil, nil
	}
	return r, nil
}

// giveBack implements locker.
func (s *Store) giveBack(k key, taken store.Lock, wait bool) {
	done := make(chan struct{})
	s.running.Go(func() {
		defer close(done)
		ctx, cancel := context.WithTimeout(context.Background(), giveBackWithin)
		defer cancel()
		if err := s.unlock(ctx, k, taken); err == nil { // else it will be stale
			s.queue.wake(k)
		}
	})
	if wait {
		select {
		case <-done:
		case <-time.After(lateAnswer):
		}
	}
}

// giveBackWithin is how long a lock is tried to be given back whose caller is gone.
const giveBackWithin = 10 * time.Second

// Create implements [store.Store].
func (s *Store) Create(ctx context.Context, id store.ID, rec *store.Record, hold bool) error {
	if err := cmp.Or(checkName("application", id.App), checkName("session ID", id.Session), checkName("subject", rec.Subject)); err != nil {
		return err
	}
	k, app := keyOf(id)
	packing, items, err := s.packer.pack(k, rec.Body)
	if err != nil {
		return err
	}
	timeout := seconds(rec.Timeout)
	a := &args{
		pID: k[:], pApp: []byte(id.App), pAppHash: app, pSession: []byte(id.Session),
		pVersion: int64(rec.Version), pVersion1: int64(rec.History[0]), pVersion2: int64(rec.History[1]), pVersion3: int64(rec.History[2]),
		pTimeout: int64(timeout / time.Second), pSlide: slide(timeout), pHasCreated: 0, pCreated: int64(0), pFlags: int64(rec.Flags),
		pHold: 0, pCookie: int64(0), pOwner: int64(0), pAcquired: int64(0), pPacking: packing, pItems: items,
	}
	if !rec.Created.IsZero() {
		a[pHasCreated], a[pCreated] = 1, rec.Created.UnixNano()
	}
	a.setSubject(rec.Subject)
	var cookie int32
	if hold {
		cookie = newCookie()
		a[pHold], a[pCookie], a[pOwner], a[pAcquired] = 1, int64(cookie), int64(rec.Lock.Owner), int64(rec.Version)
	}
	there, err := s.insert(ctx, k, a)
	switch {
	case err != nil:
		return err
	case there == nil:
	case !there.seen(rec.Version):
		return store.ErrExists
	case there.locked() && uint64(there.owner) == rec.Lock.Owner:
		cookie = int32(there.cookie)
	default:
		return nil
	}
	if hold {
		rec.Lock.Cookie = cookie
	}
	return nil
}

// insert makes a session, or returns the one that is there.
func (s *Store) insert(ctx context.Context, k key, a *args) (there *row, err error) {
	for {
		n, err := s.exec(ctx, s.st.create, a)
		if v, said := judge(s.d, err); err != nil && !(said && v == duplicate) {
			return nil, err
		}
		if err == nil && n > 0 {
			return nil, nil
		}
		there, err = s.peek(ctx, k)
		if !errors.Is(err, store.ErrNotFound) {
			return there, err
		}
		if done, err := s.replace(ctx, k, a); done || err != nil {
			return nil, err
		}
	}
}

// replace puts a new session into the place of a tombstone, if there is one. If the end of
// that is still to be delivered, it stays under another key, which is no session's.
func (s *Store) replace(ctx context.Context, k key, a *args) (done bool, err error) {
	other := k
	for i := 8; i < len(other); i += 8 {
		binary.BigEndian.PutUint64(other[i:], rand.Uint64())
	}
	b := *a
	b[pNewID] = other[:]
	give, err := s.take(ctx)
	if err != nil {
		return false, err
	}
	defer give()
	err = repeat(ctx, s.d, true, func() error {
		tx, err := s.db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		defer tx.Rollback()
		for _, st := range []*statement{s.st.forget, s.st.rename, s.st.create} {
			result, err := tx.ExecContext(ctx, st.text, st.values(&b)...)
			if v, said := judge(s.d, err); said && v == duplicate {
				return nil // another was faster
			}
			if err != nil {
				return err
			}
			n, err := result.RowsAffected()
			if err != nil {
				return err
			}
			done = st == s.st.create && n > 0
		}
		if !done {
			return nil
		}
		return tx.Commit()
	})
	return done && err == nil, err
}

// Save implements [store.Store].
func (s *Store) Save(ctx context.Context, id store.ID, rec *store.Record, next store.Version, hold bool) error {
	if err := checkName("subject", rec.Subject); err != nil {
		return err
	}
	k, _ := keyOf(id)
	packing, items, err := s.packer.pack(k, rec.Body)
	if err != nil {
		return err
	}
	timeout := seconds(rec.Timeout)
	a := &args{
		pID: k[:], pVersion: int64(rec.Version), pNext: int64(next), pTimeout: int64(timeout / time.Second), pSlide: slide(timeout),
		pFlags: int64(rec.Flags), pPacking: packing, pItems: items, pOwner: int64(rec.Lock.Owner), pCookie: int64(rec.Lock.Cookie),
	}
	a.setMine(rec.Lock)
	a.setSubject(rec.Subject)
	st, mine := s.st.save, !rec.Lock.IsZero()
	switch {
	case mine && hold:
		st = s.st.hold
		if rec.Lock.Cookie == 0 {
			a[pCookie] = int64(newCookie())
		}
	case mine:
		st = s.st.saveMine
	}
	err = s.decide(ctx, k, st, a, func(r *row) (error, bool) {
		switch {
		case r.seen(next):
			return nil, true
		case r.locked() && !rec.Lock.Names(r.lock()):
			if mine {
				return store.ErrLockLost, true
			}
			return r.lockedError(), true
		case store.Version(r.version) != rec.Version:
			if mine {
				return store.ErrLockLost, true
			}
			return store.ErrConflict, true
		}
		return nil, false
	})
	if err == nil && st != s.st.hold {
		s.queue.wake(k)
	}
	return err
}

// Unlock implements [store.Store].
func (s *Store) Unlock(ctx context.Context, id store.ID, lock store.Lock) error {
	k, _ := keyOf(id)
	err := s.unlock(ctx, k, lock)
	if err == nil {
		s.queue.wake(k)
	}
	return err
}

func (s *Store) unlock(ctx context.Context, k key, lock store.Lock) error {
	a := &args{pID: k[:]}
	a.setMine(lock)
	st := s.st.unlock
	if lock.IsZero() { // it names none
		st = nil
	}
	return s.decide(ctx, k, st, a, func(r *row) (error, bool) {
		switch {
		case !r.locked():
			return nil, true
		case !lock.Names(r.lock()):
			return store.ErrLockLost, true
		}
		return nil, false
	})
}

// Remove implements [store.Store].
func (s *Store) Remove(ctx context.Context, id store.ID, lock store.Lock, why store.Reason) error {
	if err := checkName("place that it moved to", why.To); err != nil {
		return err
	}
	k, _ := keyOf(id)
	a := s.endArgs()
	a[pID], a[pReason] = k[:], int64(why.Kind)
	a[pMovedTo] = []byte(nil)
	if why.To != "" {
		a[pMovedTo] = []byte(why.To)
	}
	if why.Kind == store.Moved {
		a[pQuiet] = 1
	}
	a.setMine(lock)
	st := s.st.remove
	if !lock.IsZero() {
		st = s.st.removeMine
	}
	err := s.decide(ctx, k, st, a, func(r *row) (error, bool) {
		if !lock.IsZero() && !(r.locked() && lock.Names(r.lock())) {
			return store.ErrLockLost, true
		}
		return nil, false
	})
	if err == nil {
		s.queue.wake(k)
	}
	return err
}

// endArgs say which ends are remembered: those that somebody asks for, all, or none.
func (s *Store) endArgs() *args {
	a := &args{pWanted: 0, pQuiet: 0}
	if s.o.Ends > 0 {
		a[pWanted] = 1
	}
	if s.o.Ends < 0 {
		a[pQuiet] = 1
	}
	return a
}

// Touch implements [store.Store].
func (s *Store) Touch(ctx context.Context, id store.ID) error {
	k, _ := keyOf(id)
	return s.touch(ctx, k)
}

func (s *Store) touch(ctx context.Context, k key) error {
	return s.decide(ctx, k, s.st.touch, &args{pID: k[:]}, func(*row) (error, bool) {
		return nil, true // it is there: touched a microsecond ago, and so not changed
	})
}

// decide runs a statement that changes the session or not, all conditions being its own.
// If it changed nothing, why says what the call comes to, for a session that is there;
// or that by now the statement should have changed it, because another was in between.
func (s *Store) decide(ctx context.Context, k key, st *statement, a *args, why func(*row) (err error, done bool)) error {
	for {
		if st != nil {
			if n, err := s.change(ctx, st, k, a); err != nil || n > 0 {
				return err
			}
		}
		r, err := s.peek(ctx, k)
		if err != nil {
			return err
		}
		if err, done := why(r); done {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}

// peek reads a session without its content. One that is not there is an error with its
// reason.
func (s *Store) peek(ctx context.Context, k key) (*row, error) {
	return s.there(ctx, k, func() (*row, error) {
		return s.one(ctx, s.st.peek, &args{pID: k[:]}, false, scanMeta)
	})
}

// there reads a row, and returns it if it is a session. One that has expired is ended by
// that, so that no clock that is put back makes it appear again. If it could not be ended,
// because a call that came first has restarted its timeout, or ended it for another reason,
// it is read again.
func (s *Store) there(ctx context.Context, k key, read func() (*row, error)) (*row, error) {
	for {
		r, err := read()
		switch {
		case err != nil:
			return r, err
		case r == nil:
			return nil, &store.NotFoundError{}
		case r.expired():
			a := s.endArgs()
			a[pID] = k[:]
			n, err := s.exec(ctx, s.st.expire, a)
			if err != nil {
				return r, err
			}
			s.queue.wake(k)
			if n == 0 {
				continue
			}
		case r.state == stateAlive:
			return r, nil
		}
		return r, &store.NotFoundError{Reason: r.ended()}
	}
}

func (a *args) setMine(lock store.Lock) {
	a[pMyOwner], a[pMyCookie] = int64(lock.Owner), int64(lock.Cookie)
}

func (a *args) setSubject(subject string) {
	a[pSubject] = []byte(nil) // NULL, and to the driver the column's type
	if subject != "" {
		a[pSubject], a[pSubjectHash] = []byte(subject), hashOf("subject", subject)
	}
}

// newCookie draws the cookie of a lock.
func newCookie() int32 { return 1 + rand.Int32N(1<<31-1) }

func checkName(what, name string) error {
	if len(name) <= maxName {
		return nil
	}
	return fmt.Errorf("%w: sqlstore: the %s has %d bytes; %d is the most", store.ErrTooLarge, what, len(name), maxName)
}
