// Package store is the contract between package holdfast and the places where
// sessions are kept, as database/sql/driver is to database/sql. Applications do
// not call it; they pass a [Store] to holdfast.New. Write one of your own by
// implementing the seven methods of [Store] and running package storetest on it.
//
// One sentence to remember: the version keeps data safe, the lock is only a
// queue, and clocks decide when, never whether.
//
// # Versions
//
// A [Version] names one content of one session. The writer draws it at random
// ([NewVersion]) and the store compares it for equality, nothing else. It is new
// on every change of content and unchanged by Lock, Unlock, Touch and Load. A
// record keeps its last four versions ([Record.Seen]), so that a writer that
// never got the answer to its Save repeats the call with the same next version
// and is recognised instead of being refused, or written twice.
//
// # Locks
//
// A [Lock] is a lease on a place in a queue. It is named by the random owner that
// the caller drew, and by a cookie that the store drew, which is all that the old
// clients of ASP.NET's protocol know. A lock may be broken at any time, by age or
// by a restart: a Save that comes late is then refused because the version has
// moved on, and goes through if it has not, since nobody was there in between.
//
// # Absent sessions
//
// Only Create makes a session. Every other call on a session that is absent, or
// removed while the call waited, is a [*NotFoundError], whose [Reason] comes from
// the tombstone that Remove, expiry and eviction leave behind. A tombstone is kept
// at least the longer of the session's timeout and twice the lock timeout; a store
// may bound their number, because dropping one early costs a reason, never safety.
//
// # Unknown outcomes
//
// An error that is [ErrUnavailable] says that the call was certainly not applied;
// [ErrUnsure] says that it perhaps was. Every call is made so that repeating it
// with the same owner, lock, version and next version until a definite answer
// comes is safe and gives the answer that the first one would have given.
//
// With one limit, that of the history: if four others have saved between a Save
// whose reply was lost and its repeat, the repeat is refused ([ErrConflict],
// [ErrLockLost]) although the first was perhaps applied. Load tells: if the version
// that the Save began with is still [Record.Seen], it was not. A store that repeats
// calls by itself says [ErrUnsure] then, and so where a Remove that it repeats is
// [ErrNotFound], since its caller does not know that there was a call before.
//
// # Durability
//
// No reply, of a read or of a lock either, leaves the store before what it saw is
// as durable as the store promises. A graceful restart keeps the locks; a crash
// drops them, and the versions fence whoever still believed to hold one.
//
// # Clocks
//
// Ages and expiry are by the store's own clock, monotonic inside one process. A
// clock that jumps delays the expiry of sessions; it never breaks the rules above.
package store

import (
	"context"
	"time"
)

// An ID names a session: the application's namespace and, inside it, the session.
// Two applications never meet, whatever their session IDs are. Both strings may
// alias a buffer of the caller's: a store clones what it keeps.
type ID struct {
	App     string
	Session string
}

// LockOptions are the terms of one [Store.Lock].
type LockOptions struct {
	// Owner names the lock. It is random ([NewOwner]), never zero, drawn once for
	// each acquire and kept for the repeats of that call.
	Owner uint64
	// Wait is how long to queue behind another's lock; 0 tries once.
	Wait time.Duration
	// Stale is the age from which another's lock is taken over, atomically and at
	// any time during the wait; 0 never takes one over. It is the lock timeout of
	// the caller, so it also bounds how soon a session may expire under its lock.
	Stale time.Duration

	// Renew says that the caller has the lock, as Owner, and only renews it. It is a
	// Lock like others, but what is granted stays with the caller whatever becomes of
	// the call: that its reply was lost must not take the lock away from who has it.
	Renew bool
}

// A Store keeps sessions. Its methods are safe for concurrent use, and each is
// atomic: it happens wholly or not at all, at one moment between call and reply.
// A record's Timeout is at least a second; what a store does with less is its own
// affair.
//
// Besides the errors named at a method, every method may fail with [ErrUnavailable]
// or [ErrUnsure], or with the error of ctx if that ended first; an error of ctx
// says as little about the outcome as [ErrUnsure].
type Store interface {
	// Load reads the session into rec, as last saved.
	//
	// It never waits and never fails because of a lock: under a lock it returns
	// the state before the holder's changes, with Locked, Lock.Cookie and LockAge
	// set (Lock.Owner may be kept from those who do not have it).
	// (A foreign state server cannot do that; only there is the error a
	// [*LockedError].) It restarts the timeout and changes no flag and no version.
	//
	// Every field of rec is overwritten; the body is appended to rec.Body[:0].
	// Errors: [ErrNotFound].
	Load(ctx context.Context, id ID, rec *Record) error

	// Lock takes the session's lock and reads the session into rec, as Load does,
	// with rec.Lock the lock that was taken and rec.Acquired equal to rec.Version.
	//
	//   - Free: granted. The session expires no earlier than it would have, than
	//     its timeout from now, and than o.Stale from now.
	//   - Held by o.Owner: the same lock again, its age restarted. That is how a
	//     lock is renewed, and how a call is repeated whose reply was lost.
	//   - Held by another and at least o.Stale old: taken over, with a new cookie.
	//   - Held by another: waits up to o.Wait, in order of arrival within this
	//     process, and across processes where the store can (else without starving
	//     anyone); then a [*LockedError] that names the holder's lock and its age.
	//   - Absent, or removed while waiting: [ErrNotFound].
	//   - ctx ended, or the grant cannot be delivered to the caller: given back,
	//     so that nobody waits for a lock that nobody knows to hold; not so with
	//     o.Renew, whose caller knows.
	//
	// A wait is served without polling by the caller.
	Lock(ctx context.Context, id ID, o LockOptions, rec *Record) error

	// Create stores a session that is not there.
	//
	//   - Absent, or a tombstone: stored with rec's Version, History, Timeout,
	//     Created (now, if zero), Flags, Subject and content. With hold it is
	//     locked by rec.Lock.Owner, and rec.Lock.Cookie is set.
	//   - Present with rec.Version as its version or in its history: success,
	//     nothing written: the caller's own call, repeated.
	//   - Present otherwise: [ErrExists].
	//   - No room: [ErrFull], [ErrTooLarge].
	//
	// rec.Body is not retained; rec.Items is, and is not changed by anyone any more.
	Create(ctx context.Context, id ID, rec *Record, hold bool) error

	// Save replaces the session's content. rec is what Load or Lock returned, with
	// new content: rec.Version is the version that was read, rec.Lock the lock that
	// is held or the zero Lock (Merge), next the new version. In this order:
	//
	//  1. Absent: [ErrNotFound]. Save never inserts.
	//  2. next is the version, or in its history: success, nothing written. With
	//     hold the caller's lock stays as it is.
	//  3. Locked by another: [ErrLockLost] if rec has a lock, else a [*LockedError].
	//  4. The version is not rec.Version: [ErrLockLost] if rec has a lock, else
	//     [ErrConflict].
	//  5. Written: content, Timeout, Flags and Subject are rec's, Created stays, the
	//     version is next and the one before enters the history. The timeout
	//     restarts. The lock is released, or with hold kept (its age restarted, and
	//     Acquired moved along to next; taken again if it was gone).
	//
	// A lock that is gone while the version is the same still saves, by rule 5:
	// nobody was there in between, so the order of the two is as if the lock had
	// held. That lets a restart of the store pass unseen.
	//
	// hold without a lock in rec is ignored. What is not written stays exactly as
	// it was, also for [ErrFull] and [ErrTooLarge]. rec is not changed; rec.Body is
	// not retained.
	Save(ctx context.Context, id ID, rec *Record, next Version, hold bool) error

	// Unlock gives a lock up without saving.
	//
	//   - lock is the current one: released, and the timeout restarted.
	//   - Free: nil. So it is safe to repeat.
	//   - Another's: [ErrLockLost].
	//   - Absent: [ErrNotFound].
	Unlock(ctx context.Context, id ID, lock Lock) error

	// Remove ends the session and leaves a tombstone with why (its Kind and To).
	//
	//   - The zero lock: unconditional, also over the holder of a lock, whose Save
	//     then gets [ErrNotFound], and whoever waits for the lock gets it now.
	//   - A lock: it must be the current one, else [ErrLockLost] (also if the
	//     session is free).
	//   - Absent: [ErrNotFound]; on a repeat that is success to the caller. The
	//     tombstone that is there keeps its reason.
	//
	// It is durable before the reply, however the store is set.
	Remove(ctx context.Context, id ID, lock Lock, why Reason) error

	// Touch restarts the timeout and changes nothing else: no version, no lock.
	// Errors: [ErrNotFound].
	Touch(ctx context.Context, id ID) error
}
