package sqlstore

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-session/holdfast/store"
)

// ASPState is a store over an ASPState database, the one of ASP.NET's mode SQLServer:
// its tables, its keys, its lock cookies, its flags and its item bytes, so that Go
// applications and ASP.NET applications that run share their sessions, old ones
// included. A Go application takes part in the sessions of an ASP.NET application by
// having its name for its own (/LM/W3SVC/1/ROOT) and session IDs as they are
// (holdfast's Options.App and PlainIDs).
//
// It is safe for concurrent use, and any number of processes may use one database. It
// keeps the contract of package store, but for what ASPState has no columns for:
//
//   - No version is stored. [store.Record.Version] is made of Created and LockCookie, so
//     the store draws it, not the writer, and it also changes when a lock is taken that
//     then saves nothing. A Save without a lock succeeds only on a session that is not
//     locked and has both as they were read, and adds one to the cookie. A Save with a
//     lock is guarded by the lock's cookie.
//   - There is no history, and Acquired is known only to who has just locked. Whoever
//     loses the reply to a Save without a lock gets [store.ErrUnsure], and by repeating
//     it no better answer than [store.ErrConflict]. A Create is recognised by its repeat.
//   - Lock cookies count, as ASP.NET's do. The first one of a session that Go creates is a
//     random number, so that it and a later session under its ID have no cookies in
//     common; ASP.NET's begin with 1.
//   - The owner of a lock is known to the process that took it and to no other. If the
//     reply to a Lock is lost, nobody knows of the lock; it is taken over when it is
//     [store.LockOptions.Stale] old. So is a lock whose process died.
//   - There is no subject: it is lost, and the store lists no sessions.
//   - A row that ends is deleted, by whoever comes first. There are no tombstones, so why a
//     session is not there is known only between its expiry and its removal from the
//     table. Ends are told by who deletes the row, if that is a Go application and lives on
//     (see [ASPState.Ended]).
//   - Created is kept to a three-hundredth of a second, the precision of the column.
//   - Waiters of one process get the lock in order of arrival, those of several in none.
//
// The column Timeout counts minutes. A timeout that is no whole number of them is
// rounded up there, and that is what ASP.NET applications see; unused bits of the
// column Flags, which ASP.NET leaves alone, say how many seconds less it is.
//
// A session that has expired and is still in the table is gone for Go applications; a
// Create may replace it. ASP.NET applications find it until it is removed.
//
// One update can be lost that no store on these tables can save: ASP.NET changes
// neither cookie nor date when it breaks a lock that is too old, and its late holder
// may still write. If Go reads the session after the break and saves it without a lock
// after the late write, that write is lost. Lock the session where ASP.NET's requests may
// outlast their executionTimeout.
type ASPState struct {
	db       *sql.DB
	packer   *packer
	compress bool
	sql      *aspStatements
	held     aspLocks
	ends     aspEnds
	queue    queue
	mu       sync.Mutex
	appIDs   map[string]int32 // of applications that are known to be in the table
}

var _ store.Store = (*ASPState)(nil)

// ASPStateOptions are what can be chosen about an [ASPState] store. A nil pointer means
// the defaults.
type ASPStateOptions struct {
	// Compress stores items compressed, as ASP.NET does with compressionEnabled.
	// Nothing in the table says whether an item is, so all applications that share a
	// session must agree.
	Compress bool

	// MaxBytes is the size of the largest item, before it is compressed; a larger one is
	// refused with [store.ErrTooLarge]. Default 0: as large as the database takes.
	MaxBytes int
}

// NewASPState returns a store over the ASPState database that db is connected to by a
// driver for SQL Server (go-mssqldb). It checks that the tables are there, in this
// database or, where ASP.NET's installer puts them by default, in tempdb. The error, if
// they are not, says how to make them. The store does not close db.
func NewASPState(db *sql.DB, o *ASPStateOptions) (*ASPState, error) {
	ctx, cancel := context.WithTimeout(context.Background(), checkWithin)
	defer cancel()
	return newASPState(ctx, db, o, "GETUTCDATE()")
}

// newASPState is NewASPState with another clock: now is the expression of the UTC time.
func newASPState(ctx context.Context, db *sql.DB, o *ASPStateOptions, now string) (*ASPState, error) {
	if o == nil {
		o = new(ASPStateOptions)
	}
	tables, err := findASPState(ctx, db)
	if err != nil {
		return nil, err
	}
	return &ASPState{
		db: db, sql: newASPStatements(tables, now), appIDs: make(map[string]int32),
		packer: &packer{max: o.MaxBytes}, compress: o.Compress,
	}, nil
}

// at returns the session's place in the table.
func (s *ASPState) at(ctx context.Context, id store.ID) (aspSession, error) {
	s.mu.Lock()
	appID, known := s.appIDs[id.App]
	s.mu.Unlock()
	if !known {
		err := insertAgain(func() error {
			return repeat(ctx, sqlServer{}, false, func() (err error) {
				appID, err = s.register(ctx, id.App)
				return err
			})
		})
		if err != nil {
			return aspSession{}, err
		}
	}
	return aspSession{s, aspKey(id.Session, appID)}, nil
}

// maxApps is how many applications are remembered, so that a server for any number of
// them does not fill its memory.
const maxApps = 10000

// register sees to it that the application is in the table, as ASP.NET does when an
// application starts: two whose names have the same hash would share their sessions.
func (s *ASPState) register(ctx context.Context, app string) (appID int32, err error) {
	name := aspAppName(app)
	rows, err := s.db.QueryContext(ctx, s.sql.register, sql.Named("app", name), sql.Named("hash", aspAppID(name)))
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	found, other := false, ""
	for rows.Next() {
		var id int32
		var has string
		if err := rows.Scan(&id, &has); err != nil {
			return 0, err
		}
		if has = strings.TrimRight(has, " "); strings.ToLower(has) == name {
			appID, found = id, true
		} else {
			other = has
		}
	}
	if err := rows.Err(); err != nil {
		return 0, err
	}
	if !found {
		return 0, fmt.Errorf("sqlstore: the application %q cannot be in one ASPState database with %q, whose name has the same hash: rename it", app, other)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.appIDs) >= maxApps {
		clear(s.appIDs)
	}
	s.appIDs[strings.Clone(app)] = appID
	return appID, nil
}

// Load implements [store.Store].
func (s *ASPState) Load(ctx context.Context, id store.ID, rec *store.Record) error {
	at, err := s.at(ctx, id)
	if err != nil {
		return err
	}
	row, err := s.ask(ctx, false, s.sql.load, sql.Named("id", at.key))
	if err != nil {
		return err
	}
	if !row.was() {
		return row.absent()
	}
	return s.fill(rec, row)
}

// Lock implements [store.Store].
func (s *ASPState) Lock(ctx context.Context, id store.ID, o store.LockOptions, rec *store.Record) error {
	at, err := s.at(ctx, id)
	if err != nil {
		return err
	}
	return s.queue.lock(ctx, at, at.line(), o, false, rec)
}

// An aspSession is a session's place in the table.
type aspSession struct {
	*ASPState
	key string
}

// line is the key of the line in which this process waits for the session's lock.
func (s aspSession) line() key { return sha256.Sum256([]byte(s.key)) }

// tryLock implements locker. A statement that is broken off may have taken a lock that
// nobody can name, so it goes on when ctx ends, and what it took is given back.
func (s aspSession) tryLock(ctx context.Context, _ key, o store.LockOptions, _ bool, rec *store.Record) (taken store.Lock, err error) {
	type outcome struct {
		row   *aspRow
		taken store.Lock
		err   error
	}
	done := make(chan outcome, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), aspStatementLimit)
		defer cancel()
		var out outcome
		out.row, out.taken, out.err = s.takeLock(ctx, o)
		done <- out
	}()
	select {
	case out := <-done:
		if out.err != nil {
			return out.taken, out.err
		}
		if err := s.fill(rec, out.row); err != nil {
			s.giveBack(key{}, out.taken, true)
			return store.Lock{}, err
		}
		held, _ := s.held.of(s.key, o.Owner)
		rec.Lock = store.Lock{Cookie: held.issued, Owner: o.Owner}
		rec.Version, rec.Acquired = held.version, held.version
		return out.taken, nil
	case <-ctx.Done():
		go func() {
			if out := <-done; out.err == nil {
				s.giveBack(key{}, out.taken, true)
			}
		}()
		return store.Lock{}, ctx.Err()
	}
}

// aspStatementLimit bounds a statement whose caller may have left.
const aspStatementLimit = 30 * time.Second

// takeLock takes the lock or renews it. taken is zero if the owner had it already.
func (s aspSession) takeLock(ctx context.Context, o store.LockOptions) (row *aspRow, taken store.Lock, err error) {
	mine, renews := s.held.of(s.key, o.Owner)
	if !renews {
		mine.cookie = noCookie
	}
	for {
		row, err = s.ask(ctx, true, s.sql.lock, sql.Named("id", s.key), sql.Named("mine", mine.cookie),
			sql.Named("stale", int32(min((o.Stale+time.Second-1)/time.Second, maxStale))))
		if err == nil {
			err = row.gone()
		}
		if err == nil && !row.done && row.locked {
			err = s.locked(row)
		}
		if err != nil {
			return nil, store.Lock{}, err
		}
		if row.done && row.locked { // else another gave the lock up, or broke ours, in between
			break
		}
	}
	if row.cookie != mine.cookie {
		mine = aspLock{owner: o.Owner, issued: row.cookie, cookie: row.cookie, version: row.version()}
		taken = store.Lock{Cookie: row.cookie, Owner: o.Owner}
	}
	s.held.take(s.key, mine)
	return row, taken, nil
}

// giveBack implements locker.
func (s aspSession) giveBack(_ key, taken store.Lock, wait bool) {
	if taken.IsZero() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), aspStatementLimit)
	unlock := func() {
		defer cancel()
		s.unlock(ctx, taken)
	}
	if wait {
		unlock()
	} else {
		go unlock()
	}
}

// locked is the error of who has no lock of a session that another has.
func (s aspSession) locked(r *aspRow) error {
	return &store.LockedError{Lock: store.Lock{Cookie: r.cookie, Owner: s.held.owner(s.key, r.cookie)}, Age: r.age()}
}

// maxStale is the most seconds that a lock timeout counts.
const maxStale = 10 * 365 * 24 * time.Hour / time.Second

// Create implements [store.Store].
func (s *ASPState) Create(ctx context.Context, id store.ID, rec *store.Record, hold bool) error {
	item, err := s.encode(rec.Body)
	if err != nil {
		return err
	}
	at, err := s.at(ctx, id)
	if err != nil {
		return err
	}
	const random = 1<<30 - 1 // which leaves as many to count
	cookie := 1 + int32(rec.Version&random)
	var created int64
	if !rec.Created.IsZero() {
		created = aspMillis(rec.Created)
	}
	kind, args := aspItem(item)
	args = append(args, sql.Named("id", at.key), sql.Named("cookie", cookie), sql.Named("created", created), sql.Named("hold", hold))
	args = append(args, aspTraits(rec)...)
	var row *aspRow
	err = insertAgain(func() (err error) {
		row, err = s.ask(ctx, true, s.sql.create[kind], args...)
		return err
	})
	switch {
	case err != nil:
		return err
	case !row.was() && !row.isCreated(cookie, hold):
		return store.ErrExists
	case hold:
		s.held.take(at.key, aspLock{owner: rec.Lock.Owner, issued: cookie, cookie: cookie, version: rec.Version})
		rec.Lock.Cookie = cookie
	}
	return nil
}

// insertAgain makes a call that inserts a row if there is none. Two at once may both see
// none; the primary key tells the second, who sees the row then.
func insertAgain(call func() error) (err error) {
	for range 3 {
		err = call()
		if v, said := judge(sqlServer{}, err); !said || v != duplicate {
			break
		}
	}
	return err
}

// isCreated reports whether the row is as an earlier call made it that was the same, or
// was locked since.
func (r *aspRow) isCreated(cookie int32, hold bool) bool {
	return r.gone() == nil && (r.cookie == cookie && r.locked == hold || r.cookie == cookie+1 && r.locked && !hold)
}

// aspTraits are the parameters of the columns that are not the item.
func aspTraits(rec *store.Record) []sql.NamedArg {
	seconds, minutes, flags := aspMinutes(rec.Timeout)
	flags |= int32(rec.Flags) & (aspUninitialized | aspMoving)
	return []sql.NamedArg{sql.Named("seconds", seconds), sql.Named("minutes", minutes), sql.Named("flags", flags)}
}

// Save implements [store.Store]. It does not store next.
func (s *ASPState) Save(ctx context.Context, id store.ID, rec *store.Record, next store.Version, hold bool) error {
	item, err := s.encode(rec.Body)
	if err != nil {
		return err
	}
	at, err := s.at(ctx, id)
	if err != nil {
		return err
	}
	kind, args := aspItem(item)
	query := s.sql.saveLocked[kind]
	var stamp int64
	var cookie int32
	if rec.Lock.IsZero() {
		query, hold = s.sql.saveAt[kind], false
		stamp, cookie = aspVersion(rec.Version)
	} else {
		cookie = s.held.cookie(at.key, rec.Lock)
		if !rec.Created.IsZero() {
			stamp = int64(aspStamp(rec.Created))
		}
	}
	args = append(args, sql.Named("id", at.key), sql.Named("cookie", cookie), sql.Named("created", stamp), sql.Named("hold", hold))
	args = append(args, aspTraits(rec)...)
	row, err := s.ask(ctx, true, query, args...)
	switch {
	case err != nil:
		return err
	case row.was() && hold:
		s.held.take(at.key, aspLock{owner: rec.Lock.Owner, issued: rec.Lock.Cookie, cookie: row.cookie, version: next})
	case row.was():
		s.held.drop(at.key, cookie)
		s.queue.wake(at.line())
	case row.gone() != nil:
		s.held.drop(at.key, cookie)
		return row.gone()
	case !rec.Lock.IsZero():
		return store.ErrLockLost
	case row.locked:
		return at.locked(row)
	default:
		return store.ErrConflict
	}
	return nil
}

// Unlock implements [store.Store].
func (s *ASPState) Unlock(ctx context.Context, id store.ID, lock store.Lock) error {
	at, err := s.at(ctx, id)
	if err != nil {
		return err
	}
	return at.unlock(ctx, lock)
}

func (s aspSession) unlock(ctx context.Context, lock store.Lock) error {
	cookie := s.held.cookie(s.key, lock)
	row, err := s.ask(ctx, true, s.sql.unlock, sql.Named("id", s.key), sql.Named("cookie", cookie))
	switch {
	case err != nil:
		return err
	case row.was():
		s.held.drop(s.key, cookie)
		s.queue.wake(s.line())
		return nil
	case row.gone() != nil:
		s.held.drop(s.key, cookie)
		return row.gone()
	case row.locked:
		return store.ErrLockLost
	}
	return nil
}

// Remove implements [store.Store]. Nothing is kept of the session, nor why it ended.
func (s *ASPState) Remove(ctx context.Context, id store.ID, lock store.Lock, why store.Reason) error {
	at, err := s.at(ctx, id)
	if err != nil {
		return err
	}
	cookie, held := int32(0), s.held.current(at.key) // any lock, or none
	if !lock.IsZero() {
		cookie = s.held.cookie(at.key, lock)
	}
	query, told := s.sql.remove, why.Kind != store.Moved && s.ends.wants(id.App)
	if told {
		query = s.sql.removeTold
	}
	row, err := s.ask(ctx, true, query, sql.Named("id", at.key), sql.Named("cookie", cookie))
	switch {
	case err != nil:
		return err
	case !row.was() && row.gone() == nil:
		return store.ErrLockLost
	}
	s.held.drop(at.key, held.cookie)
	s.queue.wake(at.line())
	if !row.was() {
		return row.gone()
	}
	if told && row.flags&aspUninitialized == 0 {
		s.ends.add(s.endOf(id, row, why))
	}
	return nil
}

// Touch implements [store.Store].
func (s *ASPState) Touch(ctx context.Context, id store.ID) error {
	at, err := s.at(ctx, id)
	if err != nil {
		return err
	}
	row, err := s.ask(ctx, false, s.sql.touch, sql.Named("id", at.key))
	if err == nil && !row.was() {
		err = row.absent()
	}
	return err
}

// Sweep deletes the sessions that have expired, as ASP.NET's procedure
// DeleteExpiredSessions does, and returns how many there were. It deletes few at a time
// and passes those by that are in use. Call it every minute where nothing else does.
func (s *ASPState) Sweep(ctx context.Context) (n int64, err error) {
	for {
		var some int64
		err := repeat(ctx, sqlServer{}, false, func() error {
			return s.db.QueryRowContext(ctx, s.sql.sweep, sql.Named("limit", sweepBatch)).Scan(&some)
		})
		n += some
		if err != nil || some < sweepBatch {
			return n, err
		}
	}
}
