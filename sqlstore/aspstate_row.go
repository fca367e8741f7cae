package sqlstore

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-session/holdfast/store"
)

// An aspRow is the row of a session, as a statement returned it.
type aspRow struct {
	done             bool // whether the statement made its change
	now              time.Time
	cookie           int32
	locked           bool
	minutes          int32
	flags            int32
	lockDate         time.Time
	created, expires time.Time
	item             []byte
}

// ask makes a call of which changes says whether more than the timeout may change. It
// returns what there is to see of the row, nil if there is none.
func (s *ASPState) ask(ctx context.Context, changes bool, query string, args ...sql.NamedArg) (row *aspRow, err error) {
	all := make([]any, len(args))
	for i := range args {
		all[i] = args[i]
	}
	err = repeat(ctx, sqlServer{}, changes, func() (err error) {
		row, err = s.askOnce(ctx, query, all)
		return err
	})
	return row, err
}

func (s *ASPState) askOnce(ctx context.Context, query string, args []any) (*aspRow, error) {
	rows, err := s.db.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var row *aspRow
	for more := true; more; more = rows.NextResultSet() { // what was deleted, and a look
		for rows.Next() {
			if row, err = scanASPRow(rows); err != nil {
				return nil, err
			}
		}
	}
	return row, rows.Err()
}

// scanASPRow reads a row of which the first columns may be all that there are, and what
// comes behind all columns into more.
func scanASPRow(rows *sql.Rows, more ...any) (*aspRow, error) {
	columns, err := rows.Columns()
	if err != nil {
		return nil, err
	}
	row := new(aspRow)
	var short, long sql.RawBytes
	into := append([]any{&row.done, &row.now, &row.cookie, &row.locked, &row.minutes, &row.flags, &row.lockDate, &row.created, &row.expires,
		&short, &long}, more...)
	if err := rows.Scan(into[:min(len(columns), len(into))]...); err != nil {
		return nil, err
	}
	if short == nil {
		short = long
	}
	row.item = bytes.Clone(short)
	return row, nil
}

// gone returns why the session is not there, or nil if it is.
func (r *aspRow) gone() error {
	switch {
	case r == nil:
		return new(store.NotFoundError)
	case !r.expires.After(r.now):
		return &store.NotFoundError{Reason: store.Reason{Kind: store.Expired, Age: r.now.Sub(r.expires)}}
	}
	return nil
}

// was reports whether the change was made.
func (r *aspRow) was() bool { return r != nil && r.done }

// absent is gone for a statement that fails only where the session is not there: if it
// is there now, it came after the statement.
func (r *aspRow) absent() error {
	if err := r.gone(); err != nil {
		return err
	}
	return new(store.NotFoundError)
}

// age is that of the lock. The server's clock may have been set back.
func (r *aspRow) age() time.Duration { return max(r.now.Sub(r.lockDate), 0) }

// version names what the row holds. Without a lock that is the date and the cookie,
// which [ASPState.Save] compares: every holder of a lock has added to the cookie, and so
// has every Save without. A holder may save several times, so under a lock it is what is
// held; nobody else can save then.
func (r *aspRow) version() store.Version {
	plain := uint64(aspStamp(r.created))<<32 | uint64(uint32(r.cookie))
	if !r.locked {
		return store.Version(plain)
	}
	h := sha256.New()
	h.Write(binary.BigEndian.AppendUint64(nil, plain))
	h.Write(r.item)
	return store.Version(binary.BigEndian.Uint64(h.Sum(nil)))
}

// aspVersion is the inverse of version, for those without a lock.
func aspVersion(v store.Version) (stamp int64, cookie int32) {
	return int64(v >> 32), int32(uint32(v))
}

// aspStamp is what versions and statements have of the column Created: 32 bits of the
// milliseconds since 2000, from which a session and a later one under the same ID can be
// told, beside their cookies.
func aspStamp(created time.Time) uint32 { return uint32(aspMillis(created)) }

// fill gives rec what the row has.
func (s *ASPState) fill(rec *store.Record, r *aspRow) error {
	body := rec.Body[:0]
	*rec = store.Record{
		Version: r.version(),
		Lock:    store.Lock{Cookie: r.cookie},
		Locked:  r.locked,
		Timeout: aspTimeout(r.minutes, r.flags),
		Created: r.created.UTC(),
		Flags:   store.Flags(r.flags & (aspUninitialized | aspMoving)),
	}
	if r.locked {
		rec.LockAge = r.age()
	}
	var err error
	rec.Body, err = s.decode(body, r.item)
	return err
}

// aspEpoch is the beginning of the year 2000, in Unix time.
const aspEpoch = 946684800_000

// aspMillis is t in milliseconds since 2000, or 0 if the column Created cannot have it.
func aspMillis(t time.Time) int64 {
	if y := t.UTC().Year(); y < 1753 || y > 9999 {
		return 0
	}
	return t.UnixMilli() - aspEpoch
}

// aspMinutes returns a timeout as the columns have it: whole minutes, rounded up, and in
// the flags how many seconds less it is.
func aspMinutes(timeout time.Duration) (seconds, minutes, flags int32) {
	const most = 1<<31 - 1 - 60
	seconds = int32(min(max((timeout+time.Second-1)/time.Second, 1), most))
	minutes = (seconds + 59) / 60
	return seconds, minutes, (60*minutes - seconds) << aspSecondsShift
}

func aspTimeout(minutes, flags int32) time.Duration {
	const most = 250 * 365 * 24 * 60 // more does not fit a Duration
	return time.Duration(min(minutes, most))*time.Minute - time.Duration(flags&aspSecondsMask>>aspSecondsShift)*time.Second
}

// encode returns a record's content as an item. It is an error if it is too large.
func (s *ASPState) encode(body []byte) ([]byte, error) {
	_, body, err := s.packer.pack(key{}, body)
	if err != nil || !s.compress {
		return body, err
	}
	item, err := s.packer.deflate(body)
	return append(item, aspEndMark), err
}

// decode appends the content of an item to dst.
func (s *ASPState) decode(dst, item []byte) ([]byte, error) {
	if !s.compress {
		return append(dst, item...), nil
	}
	dst, err := s.packer.unpack(dst, key{}, packDeflated, item) // what is behind it, ASP.NET does not look at either
	if err != nil {
		err = fmt.Errorf("%w: sqlstore: the item cannot be read; is compression set in all applications alike? %w", store.ErrUnavailable, err)
	}
	return dst, err
}

// aspEndMark is behind a compressed item.
const aspEndMark = 0xff

// aspItem returns the kind of statement that writes the item, and its parameters. The
// driver declares a parameter as long as it is, and the server makes a plan for each
// declaration, so short items are sent in few lengths.
func aspItem(item []byte) (kind int, args []sql.NamedArg) {
	size := sql.Named("size", len(item))
	if len(item) > aspShortItem {
		return aspLong, []sql.NamedArg{sql.Named("item", item), size}
	}
	room := 256
	for room < len(item) {
		room *= 2
	}
	padded := make([]byte, room)
	copy(padded, item)
	return aspShort, []sql.NamedArg{sql.Named("item", padded), size}
}

// aspLocks are the locks that this process has taken and not given up, by key: the
// table knows no owners.
type aspLocks struct {
	mu    sync.Mutex
	byKey map[string]aspLock
	purge int // the size at which to look for those that were forgotten
}

type aspLock struct {
	owner   uint64
	issued  int32 // the cookie that the owner was told
	cookie  int32 // the one that the row has
	version store.Version
	since   time.Time
}

// aspForgotten is the age from which a lock that was neither renewed nor given up is
// forgotten here.
const aspForgotten = 24 * time.Hour

// take notes that owner has the lock.
func (l *aspLocks) take(key string, lock aspLock) {
	lock.since = time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.byKey == nil {
		l.byKey, l.purge = make(map[string]aspLock), 1024
	}
	l.byKey[strings.Clone(key)] = lock
	if len(l.byKey) < l.purge {
		return
	}
	for key, other := range l.byKey {
		if time.Since(other.since) > aspForgotten {
			delete(l.byKey, key)
		}
	}
	l.purge = max(2*len(l.byKey), 1024)
}

// drop forgets the lock with that cookie; by now, there may be another.
func (l *aspLocks) drop(key string, cookie int32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.byKey[key].cookie == cookie {
		delete(l.byKey, key)
	}
}

// current returns the lock that this process has, if it has one.
func (l *aspLocks) current(key string) aspLock {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.byKey[key]
}

// of returns the lock that owner has.
func (l *aspLocks) of(key string, owner uint64) (held aspLock, ok bool) {
	held = l.current(key)
	return held, owner != 0 && held.owner == owner
}

// owner returns who has the lock with that cookie, 0 if it is none of this process.
func (l *aspLocks) owner(key string, cookie int32) uint64 {
	if held := l.current(key); held.cookie == cookie {
		return held.owner
	}
	return 0
}

// noCookie is in no row.
const noCookie = -1

// cookie returns the cookie that the row must have for the lock to be the current one,
// or noCookie.
func (l *aspLocks) cookie(key string, lock store.Lock) int32 {
	l.mu.Lock()
	defer l.mu.Unlock()
	held, known := l.byKey[key]
	switch {
	case lock.IsZero():
		return noCookie
	case lock.Owner == 0 || !known || held.cookie != lock.Cookie && held.issued != lock.Cookie && lock.Cookie != 0:
		if lock.Cookie == 0 {
			return noCookie
		}
		return lock.Cookie // of another process, or an earlier lock
	case held.owner != lock.Owner:
		return noCookie
	}
	return held.cookie
}
