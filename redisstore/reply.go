package redisstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"
	"unsafe"

	"github.com/valkey-io/valkey-go"

	"github.com/holdfast-session/holdfast/internal/nearcache"
	"github.com/holdfast-session/holdfast/store"
)

// What scripts answer, as lua/session.lua has it.
const (
	codeOK = iota
	codeNotFound
	codeLocked
	codeLockLost
	codeConflict
	codeExists
	codeTurn
	codeSubject
)

// errReply means that an answer is none that a script of ours gives.
var errReply = errors.New("redisstore: an answer that does not make sense")

// headerSize is how long the header of a session is, without the subject behind it.
// Where it is changed, a new prefix is needed: processes of both versions run side by
// side during a deployment.
const headerSize = 96

// parseHeader reads what a session is stored as, apart from its content.
//
//	deadline 8 | version 8 | history 24 | acquired 8 | timeout 8 | created 8 | flags 4 |
//	cookie 4 | owner 8 | since 8 | stale 8 | subject
func parseHeader(m string, rec *store.Record) error {
	if len(m) < headerSize {
		return fmt.Errorf("%w: a header of %d bytes", errReply, len(m))
	}
	b := unsafe.Slice(unsafe.StringData(m), headerSize)
	u64 := func(at int) uint64 { return binary.BigEndian.Uint64(b[at:]) }
	rec.Version = store.Version(u64(8))
	rec.History = [3]store.Version{store.Version(u64(16)), store.Version(u64(24)), store.Version(u64(32))}
	rec.Acquired = store.Version(u64(40))
	timeout := int64(u64(48))
	if timeout < 0 || timeout > maxMicros {
		return fmt.Errorf("%w: a timeout of %d µs", errReply, timeout)
	}
	rec.Timeout = time.Duration(timeout) * time.Microsecond
	rec.Created = time.Unix(0, int64(u64(56)))
	rec.Flags = store.Flags(binary.BigEndian.Uint32(b[64:]))
	rec.Lock = store.Lock{Cookie: int32(binary.BigEndian.Uint32(b[68:])), Owner: u64(72)}
	rec.Locked = u64(80) != 0
	rec.LockAge = 0
	rec.Subject = m[headerSize:]
	rec.Items = nil
	return nil
}

// deadlineOf and sinceOf are when a session expires, and when its lock was taken.
func deadlineOf(m string) int64 { return int64(binary.BigEndian.Uint64([]byte(m[:8]))) }
func sinceOf(m string) int64    { return int64(binary.BigEndian.Uint64([]byte(m[80:88]))) }

// maxMicros is the longest time.Duration.
const maxMicros = int64(1<<63-1) / int64(time.Microsecond)

// micros is d in microseconds, rounded up.
func micros(d time.Duration) int64 {
	us := d.Microseconds()
	if time.Duration(us)*time.Microsecond < d {
		us++
	}
	return us
}

func duration(us int64) time.Duration {
	return time.Duration(min(max(us, 0), maxMicros)) * time.Microsecond
}

// An answer is what a script says of a session.
type answer struct {
	code  int64
	parts []valkey.ValkeyMessage // after the code
}

func parseAnswer(v valkey.ValkeyMessage) (answer, error) {
	parts, err := v.ToArray()
	if err != nil || len(parts) == 0 {
		return answer{}, fmt.Errorf("%w: %v", errReply, err)
	}
	code, err := parts[0].ToInt64()
	if err != nil {
		return answer{}, fmt.Errorf("%w: %v", errReply, err)
	}
	return answer{code, parts[1:]}, nil
}

// int and text are the i-th part, zero and empty if it is missing.
func (a *answer) int(i int) int64 {
	if i >= len(a.parts) {
		return 0
	}
	n, _ := a.parts[i].ToInt64()
	return n
}

func (a *answer) text(i int) string {
	if i >= len(a.parts) {
		return ""
	}
	s, _ := a.parts[i].ToString()
	return s
}

// refused reports whether a Save was, of a session that is there.
func (a *answer) refused() bool {
	return a.code == codeLocked || a.code == codeLockLost || a.code == codeConflict
}

// err is the error that an answer means.
func (a *answer) err() error {
	switch a.code {
	case codeOK:
		return nil
	case codeNotFound:
		return &store.NotFoundError{Reason: store.Reason{Kind: store.Kind(a.int(0)), Age: duration(a.int(1)), To: a.text(2)}}
	case codeLocked:
		lock := store.Lock{Cookie: int32(a.int(0))}
		if owner := a.text(1); len(owner) == 8 {
			lock.Owner = binary.BigEndian.Uint64([]byte(owner))
		}
		return &store.LockedError{Lock: lock, Age: duration(a.int(2))}
	case codeLockLost:
		return store.ErrLockLost
	case codeConflict:
		return store.ErrConflict
	case codeExists:
		return store.ErrExists
	}
	return fmt.Errorf("%w: code %d", errReply, a.code)
}

// record reads a session: its age under a lock, its header and, unless it is the one
// that is near, its content.
func (a *answer) record(near *nearcache.Entry, rec *store.Record) error {
	age, body := a.int(0), rec.Body[:0]
	if err := parseHeader(a.text(1), rec); err != nil {
		return err
	}
	switch {
	case len(a.parts) > 2:
		body = append(body, a.text(2)...)
	case near != nil && near.Version == rec.Version:
		body = append(body, near.Body...)
	default:
		return fmt.Errorf("%w: a session without content", errReply)
	}
	rec.Body = body
	if rec.Locked {
		rec.LockAge = duration(age)
	}
	return nil
}

// parseEnd reads an end, as lua/session.lua stores it.
//
//	claimed 8 | at 8 | kind 1 | length of to 2 | to | length of the header 2 | header | content
func parseEnd(e string, now int64, end *store.End) error {
	const fixed = 19
	if len(e) < fixed {
		return fmt.Errorf("%w: an end of %d bytes", errReply, len(e))
	}
	b := []byte(e[:fixed])
	at, to := int64(binary.BigEndian.Uint64(b[8:])), int(binary.BigEndian.Uint16(b[17:]))
	rest := e[fixed:]
	if len(rest) < to+2 {
		return fmt.Errorf("%w: an end that ends too soon", errReply)
	}
	end.Reason = store.Reason{Kind: store.Kind(b[16]), Age: duration(now - at), To: rest[:to]}
	header := int(binary.BigEndian.Uint16([]byte(rest[to : to+2])))
	if rest = rest[to+2:]; len(rest) < header {
		return fmt.Errorf("%w: an end that ends too soon", errReply)
	}
	if err := parseHeader(rest[:header], &end.Record); err != nil {
		return err
	}
	end.Record.Lock.Owner, end.Record.Locked = 0, false // it has gone with the session
	end.Record.Body = []byte(rest[header:])
	return nil
}
