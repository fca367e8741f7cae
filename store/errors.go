package store

import (
	"errors"
	"fmt"
	"time"
)

var (
	// ErrNotFound is matched (errors.Is) by every [*NotFoundError]. A store that
	// knows no reason may return it as it is.
	ErrNotFound = errors.New("store: session not found")

	// ErrExists means that Create met a session that is not the caller's own.
	ErrExists = errors.New("store: session exists")

	// ErrLockLost means that the caller's lock is another's by now, or that
	// somebody saved since it was taken: what the caller holds is out of date.
	ErrLockLost = errors.New("store: lock lost")

	// ErrConflict means that the session changed since the caller loaded it,
	// without a lock. Load it again and repeat the change on what is there now.
	ErrConflict = errors.New("store: session changed since it was loaded")

	// ErrFull means that the store has no room for a new session. Those that are
	// there go on.
	ErrFull = errors.New("store: full")

	// ErrTooLarge means that the session is larger than the store takes.
	ErrTooLarge = errors.New("store: session too large")

	// ErrUnavailable means that the store could not be asked: the call was
	// certainly not applied.
	ErrUnavailable = errors.New("store: unavailable")

	// ErrUnsure means that the reply was lost: the call was perhaps applied.
	// Repeat it with the same owner, lock and versions until the answer is another.
	ErrUnsure = errors.New("store: outcome unknown")
)

// A NotFoundError is an absent session with the reason, as far as the store
// knows. It matches [ErrNotFound].
type NotFoundError struct{ Reason Reason }

func (e *NotFoundError) Error() string {
	if e.Reason.Kind == Unknown {
		return ErrNotFound.Error()
	}
	return fmt.Sprintf("%s: %s %s ago", ErrNotFound, e.Reason.Kind, e.Reason.Age.Round(time.Millisecond))
}

// Is makes every NotFoundError match [ErrNotFound].
func (e *NotFoundError) Is(target error) bool { return target == ErrNotFound }

// ReasonOf returns the reason that err, an [ErrNotFound], carries, or the zero
// Reason.
func ReasonOf(err error) Reason {
	var nf *NotFoundError
	if errors.As(err, &nf) {
		return nf.Reason
	}
	return Reason{}
}

// A LockedError means that the session's lock is another's, and names it: its
// cookie, and its age by the store's clock.
type LockedError struct {
	Lock Lock
	Age  time.Duration
}

func (e *LockedError) Error() string {
	return fmt.Sprintf("store: session locked by another for %s", e.Age.Round(time.Millisecond))
}
