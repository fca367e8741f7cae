// Package storetest checks that a store keeps the contract of package store. Every
// provider's tests call [Run] once:
//
//	func TestContract(t *testing.T) {
//		storetest.Run(t, storetest.Harness{
//			Bubble: true,
//			Open: func(t testing.TB) store.Store {
//				s := mystore.New()
//				t.Cleanup(func() { s.Close() })
//				return s
//			},
//		})
//	}
//
// Each case is a subtest, named for the promise that it checks. What a store cannot
// do it declares in [Harness.Lacks]; exactly those cases are skipped, and say so.
//
// A [Faults] makes any store fail on purpose. The suite uses it, and so can the
// tests of an application.
package storetest

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-session/holdfast/store"
)

// A Harness tells the suite how to use the stores of one provider. Only Open is
// needed; what another field being nil leaves unchecked is skipped and says so.
type Harness struct {
	// Open returns an empty store, and registers what ends it with t.Cleanup. Each
	// case opens its own and uses applications that no other case uses, so stores
	// over one database do not disturb each other.
	Open func(t testing.TB) store.Store

	// OpenSmall returns a store that has room for at most 1000 sessions with 100
	// bytes each, and remembers at most 1000 ends. It may refuse more sessions or
	// evict others.
	OpenSmall func(t testing.TB) store.Store

	// Second returns another node over the data of s, as a second process is to a
	// shared store.
	Second func(t testing.TB, s store.Store) store.Store

	// Restart ends s, gracefully or as a killed process ends, and returns the store
	// that opens its data again. A store that keeps nothing returns an empty one,
	// and lacks [Durability].
	Restart func(t testing.TB, s store.Store, crash bool) store.Store

	// Bubble runs each case in a bubble of testing/synctest, where time is fake and
	// waiting costs nothing. It is for stores wholly in this process; files and
	// net.Pipe are all right there, sockets are not.
	Bubble bool

	// Advance moves the clock of the stores that are open. Without it, and without
	// Bubble, the suite really waits, for four minutes in all, and its cases run in
	// parallel.
	Advance func(d time.Duration)

	// MaxBody is the size of the largest body that the stores take; 0 if that is
	// 1 MiB or more.
	MaxBody int

	// Lacks declares what these stores cannot do.
	Lacks []Feature
}

// A Feature is a part of the contract that some stores cannot keep, for what they
// are built on. A store that lacks one says what that costs its users.
type Feature string

// The features.
const (
	// Versions: a record has a version, and Save compares it. Without, only a lock
	// protects an update.
	Versions Feature = "Versions"
	// History: a version is still recognised after three more.
	History Feature = "History"
	// Acquired: a record knows its version at the last Lock.
	Acquired Feature = "Acquired"
	// Owner: a lock is named by its owner, so that the call can be repeated.
	Owner Feature = "Owner"
	// RandomCookies: lock cookies are drawn at random, not counted.
	RandomCookies Feature = "RandomCookies"
	// AtomicLock: Lock takes the lock and reads the session at one moment. Without, it may
	// lock a session that another ends before it is read, and Lock goes on as if it had not:
	// for that moment others see it locked.
	AtomicLock Feature = "AtomicLock"
	// ReadUnderLock: Load answers while the session is locked.
	ReadUnderLock Feature = "ReadUnderLock"
	// Hold: Create and Save can keep the lock.
	Hold Feature = "Hold"
	// Metadata: Created, Flags and Subject are kept.
	Metadata Feature = "Metadata"
	// Tombstones: ErrNotFound carries its reason.
	Tombstones Feature = "Tombstones"
	// Order: waiters of one process get the lock in order of arrival.
	Order Feature = "Order"
	// OrderAcross: so do those of several nodes.
	OrderAcross Feature = "OrderAcross"
	// Durability: sessions are there after a restart.
	Durability Feature = "Durability"
	// LocksOverRestart: so are locks, after a graceful one.
	LocksOverRestart Feature = "LocksOverRestart"
	// ReliableEnds: every end of a store that is an Ender is delivered, and only
	// once while claimers live.
	ReliableEnds Feature = "ReliableEnds"
)

var features = []Feature{Versions, History, Acquired, Owner, RandomCookies, AtomicLock, ReadUnderLock, Hold, Metadata,
	Tombstones, Order, OrderAcross, Durability, LocksOverRestart, ReliableEnds}

// Run checks the stores that h opens, each case in a subtest of t.
func Run(t *testing.T, h Harness) {
	if err := h.check(); err != nil {
		t.Fatal(err)
	}
	s := suite{Harness: h}
	for _, tc := range cases() {
		t.Run(tc.name, func(t *testing.T) {
			if !h.Bubble && h.Advance == nil {
				t.Parallel()
			}
			s.run(t, tc)
		})
	}
}

func (h Harness) check() error {
	if h.Open == nil {
		return errors.New("storetest: Harness.Open is nil")
	}
	for _, f := range h.Lacks {
		if !slices.Contains(features, f) {
			return fmt.Errorf("storetest: Harness.Lacks has %q, which is no Feature", f)
		}
	}
	return nil
}

// A testCase is one promise. Its run ends early, by c.Fatalf or c.skip, or returns.
type testCase struct {
	name  string
	needs []Feature
	run   func(c *trial)
}

func cases() []testCase {
	return slices.Concat(recordCases, createCases, saveCases, lockCases, queueCases, removeCases, timeCases,
		restartCases, endCases, listCases, crowdCases, linearCases)
}

const (
	// callLimit ends the calls of a case, by its context: in fake time where there
	// is a bubble. hangLimit is real time for the whole case.
	callLimit = 2 * time.Minute
	hangLimit = 4 * time.Minute
	// bubbleLimit is callLimit in a bubble.
	bubbleLimit = 24 * time.Hour
)

// A suite runs cases. Its zero fields are what Run uses; the tests of this package
// set them to see cases fail.
type suite struct {
	Harness
	report    func(testing.TB) testing.TB // wraps where failures are reported
	hangLimit time.Duration
}

func (s suite) lacks(f Feature) bool { return slices.Contains(s.Lacks, f) }

// lacking returns what the store lacks of what the case needs.
func (s suite) lacking(tc testCase) (Feature, bool) {
	for _, f := range tc.needs {
		if s.lacks(f) {
			return f, true
		}
	}
	return "", false
}

// run runs one case and does not hang, whatever the store does.
func (s suite) run(t *testing.T, tc testCase) {
	if f, lacking := s.lacking(tc); lacking {
		t.Skipf("not checked: the harness declares that the store lacks %s", f)
	}
	if s.report == nil {
		s.report = func(t testing.TB) testing.TB { return t }
	}
	if s.hangLimit == 0 {
		s.hangLimit = hangLimit
	}
	c := &trial{suite: s}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer func() {
			if deadlock := recover(); deadlock != nil { // as synctest reports it
				s.report(t).Errorf("a call never ended: %v\n%s", deadlock, stacks())
			}
		}()
		if s.Bubble {
			synctest.Test(t, func(t *testing.T) { c.start(t, tc) })
		} else {
			c.start(t, tc)
		}
	}()
	select {
	case <-ended:
	case <-time.After(s.hangLimit):
		s.report(t).Errorf("the case hangs\n%s", stacks())
		return
	}
	for _, check := range c.later {
		check(s.report(t))
	}
	if c.skipped != "" && !t.Failed() {
		t.Skip(c.skipped)
	}
}

func stacks() []byte {
	buf := make([]byte, 1<<20)
	return buf[:runtime.Stack(buf, true)]
}
