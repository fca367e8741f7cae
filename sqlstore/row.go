package sqlstore

import (
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-session/holdfast/store"
)

// A key is the primary key of a session: eight bytes that its application has in common,
// so that an application's sessions are side by side, and 24 of its own. Whatever the
// names consist of, and however long they are, the database compares bytes of one length.
type key [32]byte

// keyOf returns the key of an ID, and the hash of its application.
func keyOf(id store.ID) (k key, app int64) {
	h := sha256.New()
	var size [8]byte
	binary.BigEndian.PutUint64(size[:], uint64(len(id.App)))
	h.Write(size[:])
	h.Write([]byte(id.App))
	h.Write([]byte(id.Session))
	h.Sum(k[:0])
	app = hashOf("app", id.App)
	binary.BigEndian.PutUint64(k[:8], uint64(app))
	return k, app
}

// hashOf returns the hash by which applications and subjects are found.
func hashOf(kind, name string) int64 {
	sum := sha256.Sum256([]byte(kind + "\x00" + name))
	return int64(binary.BigEndian.Uint64(sum[:]))
}

// bounds returns the keys before and after those of an application; of all, if it is
// empty.
func bounds(app string) (after, upTo key) {
	for i := range upTo {
		upTo[i] = 0xff
	}
	if app != "" {
		binary.BigEndian.PutUint64(after[:8], uint64(hashOf("app", app)))
		copy(upTo[:8], after[:8])
	}
	return after, upTo
}

// A row is a session or a tombstone as it is in the table, with the time of the reading.
// Times are in microseconds since 1970, by the clock of the database.
type row struct {
	state, reason, endedAt, expires, timeout   int64
	movedTo, subject                           []byte
	version, version1, version2, version3      int64
	acquired, cookie, owner, lockDate, created int64
	flags, now                                 int64

	// Of rows that were read with their content:
	packing int64
	items   sql.RawBytes // until the rows are closed
}

// meta are the places for peekColumns; with packing and items, those of allColumns.
func (r *row) meta() []any {
	return []any{&r.state, &r.reason, &r.movedTo, &r.endedAt, &r.expires, &r.timeout, &r.version, &r.version1, &r.version2, &r.version3,
		&r.acquired, &r.cookie, &r.owner, &r.lockDate, &r.created, &r.flags, &r.subject, &r.now}
}

func (r *row) all() []any { return append(r.meta(), &r.packing, &r.items) }

// micros is a number of microseconds as a duration, never negative: the clocks of two
// statements are not in their order.
func micros(n int64) time.Duration { return max(0, time.Duration(n)*time.Microsecond) }

func (r *row) locked() bool       { return r.lockDate != 0 }
func (r *row) lock() store.Lock   { return store.Lock{Cookie: int32(r.cookie), Owner: uint64(r.owner)} }
func (r *row) age() time.Duration { return micros(r.now - r.lockDate) }
func (r *row) expired() bool      { return r.state == stateAlive && r.expires <= r.now }

// ended is the reason why the session is not there any more.
func (r *row) ended() store.Reason {
	if r.expired() {
		return store.Reason{Kind: store.Expired, Age: micros(r.now - r.expires)}
	}
	return store.Reason{Kind: store.Kind(r.reason), Age: micros(r.now - r.endedAt), To: string(r.movedTo)}
}

func (r *row) lockedError() error { return &store.LockedError{Lock: r.lock(), Age: r.age()} }

func (r *row) seen(v store.Version) bool {
	rec := store.Record{Version: store.Version(r.version)}
	rec.History = [3]store.Version{store.Version(r.version1), store.Version(r.version2), store.Version(r.version3)}
	return rec.Seen(v)
}

// fill fills in all of a record but its content.
func (r *row) fill(rec *store.Record) {
	*rec = store.Record{
		Version:  store.Version(r.version),
		Lock:     store.Lock{Cookie: int32(r.cookie)},
		Timeout:  time.Duration(r.timeout) * time.Second,
		Created:  time.Unix(0, r.created).UTC(),
		Flags:    store.Flags(r.flags),
		History:  [3]store.Version{store.Version(r.version1), store.Version(r.version2), store.Version(r.version3)},
		Acquired: store.Version(r.acquired),
		Subject:  string(r.subject),
		Body:     rec.Body[:0],
	}
	if r.locked() && r.state == stateAlive {
		rec.Locked, rec.Lock, rec.LockAge = true, r.lock(), r.age()
	}
}

// errUnreadable means that a session's content is not what was written.
var errUnreadable = errors.New("sqlstore: the content of the session cannot be read")

// fillAll fills in all of a record.
func (s *Store) fillAll(id key, r *row, rec *store.Record) error {
	body := rec.Body[:0]
	r.fill(rec)
	body, err := s.packer.unpack(body, id, r.packing, r.items)
	if err != nil {
		return fmt.Errorf("%w: %w: %w", store.ErrUnavailable, errUnreadable, err)
	}
	rec.Body = body
	return nil
}

// slide is how long after now a session expires that has that timeout.
func slide(timeout time.Duration) int64 {
	return (timeout + min(timeout/slackPart, slackAtMost)).Microseconds()
}

// seconds is a timeout in whole seconds, not rounded down.
func seconds(timeout time.Duration) time.Duration {
	if rest := timeout % time.Second; rest > 0 {
		timeout += time.Second - rest
	}
	return timeout
}
