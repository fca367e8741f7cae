package store

import (
	"context"
	"time"
)

// What follows are capabilities: small interfaces that a [Store] may implement
// besides, found by type assertion. A wrapper of a store that has one has it too.

// An ItemKeeper is a store in this process that can keep a session's content as
// [Record.Items] instead of as bytes. Package holdfast then gives it no Body.
type ItemKeeper interface {
	Store
	// KeepsItems reports whether it does. (A wrapper answers for what it wraps.)
	KeepsItems() bool
}

// An End is a session that has ended, with what it last held.
type End struct {
	// Key names this end, the same at every delivery, in Ack.
	Key    string
	ID     ID
	Reason Reason
	// Record is the session as last saved.
	Record Record
}

// An Ender remembers the sessions that ended until somebody has taken notice. A
// store that reports a session expired has ended it. Uninitialized sessions and
// those that moved have no end.
type Ender interface {
	Store
	// Ended claims up to limit ends of app for the time of lease, and returns them:
	// those that nobody has claimed, or whose claim has run out; none if there are
	// none now. Each end is delivered at least once, and once only unless a claimer
	// does not acknowledge in time. A store bounds how many it remembers, and drops
	// the oldest past that.
	Ended(ctx context.Context, app string, limit int, lease time.Duration) ([]End, error)
	// Ack forgets ends that were dealt with. A key that is not known is ignored.
	Ack(ctx context.Context, app string, keys []string) error
}

// A Query selects sessions for [Lister.List].
type Query struct {
	// App is the application; empty for all of them.
	App string
	// Subject selects one subject's sessions; empty for all.
	Subject string
	// After continues where an earlier call stopped; empty to begin.
	After string
	// Limit is how many to return at most; 0 for a number of the store's choice.
	Limit int
}

// Listed is one session of a list: its record without content.
type Listed struct {
	ID     ID
	Record Record
}

// A Lister enumerates the sessions that are there.
type Lister interface {
	Store
	// List returns a page of sessions and, if there are more, where the next one
	// starts ([Query.After]). Sessions that come or go meanwhile may be in it or
	// not; every other is in exactly one page. It restarts no timeout.
	List(ctx context.Context, q Query) (page []Listed, next string, err error)
}
