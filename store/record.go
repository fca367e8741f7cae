package store

import (
	"math/rand/v2"
	"time"
)

// A Version names one content of one session. It is opaque and random, drawn by
// the writer, and compared for equality only. (Where a record says that it is [Moving],
// its version is a place in the history, and names no content.) The zero Version belongs to no
// content: a record with it comes from a store without versions (a foreign state
// server), where only a lock protects an update.
type Version uint64

// NewVersion draws a version. It is never zero.
func NewVersion() Version { return Version(nonzero()) }

// NewOwner draws the owner of a lock. It is never zero.
func NewOwner() uint64 { return nonzero() }

func nonzero() uint64 {
	for {
		if v := rand.Uint64(); v != 0 {
			return v
		}
	}
}

// A Lock names one acquire of a session's lock. The zero Lock is no lock.
type Lock struct {
	// Cookie was drawn by the store for this acquire: random and positive, so that
	// it names no other (stores that share ASP.NET's tables count instead, and say
	// what that costs). Zero matches any: the owner alone decides.
	Cookie int32
	// Owner was drawn by whoever locked. Zero matches any: the cookie alone
	// decides, which is what an old client of ASP.NET's protocol knows.
	Owner uint64
}

// IsZero reports whether l is no lock.
func (l Lock) IsZero() bool { return l == Lock{} }

// Names reports whether l, as a caller gives it, names the lock held: each of its
// parts that is not zero is equal. The zero Lock names none.
func (l Lock) Names(held Lock) bool {
	if l.IsZero() {
		return false
	}
	return (l.Owner == 0 || l.Owner == held.Owner) && (l.Cookie == 0 || l.Cookie == held.Cookie)
}

// Flags mark the state that a session is in.
type Flags uint32

const (
	// Uninitialized marks a session that was made for an ID before anything was
	// put in (ASP.NET's CreateUninitializedItem). Package holdfast takes it for
	// absent.
	Uninitialized Flags = 1 << iota
	// Moving marks a session that is on its way here from another store and is
	// perhaps still to be removed there. As long as it does, the record's version
	// only has to be in its place in the history: the session may have been here
	// before, with that version and an older content. So a store that keeps contents
	// by version reads the content of a record with any flag but Uninitialized each
	// time.
	Moving
)

// A Record is a session as a store keeps it.
type Record struct {
	// Version of the content.
	Version Version
	// Lock is the lock that is held or, if Locked is false, the last that was: its
	// cookie is then the last one issued and its owner zero.
	Lock   Lock
	Locked bool
	// LockAge is the time since the lock was taken or renewed, by the store's
	// clock; zero if Locked is false.
	LockAge time.Duration
	// Timeout is the sliding timeout, in whole seconds, never rounded down. The
	// store ends the session when no call has restarted it for that long.
	Timeout time.Duration
	// Created is when the session began, by the clock of the store that first
	// created it. It is carried along by RegenerateID and by a move.
	Created time.Time
	Flags   Flags
	// History holds the versions before this one, newest first, zero where there
	// are fewer.
	History [3]Version
	// Acquired is what Version was at the last Lock. If it still is, the content
	// is what the last holder of the lock saw.
	Acquired Version
	// Subject says whose session it is (a user's name or number); optional. Stores
	// that implement [Lister] find sessions by it.
	Subject string
	// Body is the content, opaque to every store and server. Out, it is appended
	// to Body[:0]; in, it is not retained.
	Body []byte
	// Items is the content instead of Body, only between package holdfast and a
	// store that keeps it in this process ([ItemKeeper]). It is shared and never
	// changed by either side.
	Items any
}

// Seen reports whether v is the record's version or in its history: a writer who
// asks for it has been here before.
func (r *Record) Seen(v Version) bool {
	return v != 0 && (r.Version == v || r.History[0] == v || r.History[1] == v || r.History[2] == v)
}

// Advance makes next the version and moves the one before into the history.
func (r *Record) Advance(next Version) {
	r.History = [3]Version{r.Version, r.History[0], r.History[1]}
	r.Version = next
}

// A Kind is a reason why a session is not there.
type Kind uint8

const (
	// Unknown: the store knows nothing of such a session.
	Unknown Kind = iota
	// Expired: its sliding timeout, or its absolute lifetime, passed.
	Expired
	// Abandoned: the application ended it.
	Abandoned
	// Regenerated: it got a new ID, and this one is dead.
	Regenerated
	// Evicted: the store was full and dropped it.
	Evicted
	// Damaged: its latest content could not be read any more.
	Damaged
	// Moved: it is in another store now.
	Moved
	// Restarted: the store knows nothing of it, keeps nothing over a restart, and
	// restarted Age ago: if the session was there before, that is what ended it.
	Restarted
)

var kinds = [...]string{"unknown", "expired", "abandoned", "regenerated", "evicted", "damaged", "moved", "restarted"}

// String returns the kind's name, in lower case, as it travels on the wire.
func (k Kind) String() string {
	if int(k) < len(kinds) {
		return kinds[k]
	}
	return kinds[Unknown]
}

// ParseKind is the inverse of [Kind.String]; a name that it does not know is
// [Unknown].
func ParseKind(s string) Kind {
	for i, name := range kinds {
		if name == s {
			return Kind(i)
		}
	}
	return Unknown
}

// A Reason says why a session is not there. Its zero value knows nothing.
type Reason struct {
	Kind Kind
	// Age is how long ago the session ended (with [Restarted]: the store began),
	// by the store's clock. It is not read by Remove.
	Age time.Duration
	// To is where the session went: with [Moved] the new place, with [Regenerated]
	// the key of the session that follows it, where that may still be told.
	To string
}
