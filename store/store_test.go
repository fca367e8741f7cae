package store_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/holdfast-session/holdfast/store"
)

func TestLockNames(t *testing.T) {
	held := store.Lock{Cookie: 7, Owner: 9}
	for lock, want := range map[store.Lock]bool{
		{}:                    false, // no lock names none
		{Cookie: 7}:           true,  // what an old client knows
		{Owner: 9}:            true,
		{Cookie: 7, Owner: 9}: true,
		{Cookie: 8}:           false,
		{Owner: 8}:            false,
		{Cookie: 7, Owner: 8}: false,
		{Cookie: 8, Owner: 9}: false, // an earlier acquire of the same owner's
	} {
		if got := lock.Names(held); got != want {
			t.Errorf("%+v.Names(%+v) = %v, want %v", lock, held, got, want)
		}
	}
}

func TestRecordHistory(t *testing.T) {
	rec := store.Record{Version: 1}
	for v := store.Version(2); v <= 6; v++ {
		rec.Advance(v)
	}
	if want := [3]store.Version{5, 4, 3}; rec.Version != 6 || rec.History != want {
		t.Errorf("version %d, history %v, want 6 and %v", rec.Version, rec.History, want)
	}
	for v := range store.Version(8) {
		if got, want := rec.Seen(v), v >= 3 && v <= 6; got != want {
			t.Errorf("Seen(%d) = %v, want %v", v, got, want)
		}
	}
	if (&store.Record{}).Seen(0) {
		t.Error("the zero version, which belongs to no content, was seen")
	}
}

func TestKindsByName(t *testing.T) {
	for k := store.Unknown; k <= store.Restarted; k++ {
		if got := store.ParseKind(k.String()); got != k {
			t.Errorf("ParseKind(%q) = %d, want %d", k, got, k)
		}
	}
	if store.ParseKind("of a later version") != store.Unknown || store.Kind(200).String() != "unknown" {
		t.Error("what is not known is not Unknown")
	}
}

func TestReasonOf(t *testing.T) {
	why := store.Reason{Kind: store.Expired, Age: time.Minute}
	err := fmt.Errorf("wrapped: %w", &store.NotFoundError{Reason: why})
	if !errors.Is(err, store.ErrNotFound) || store.ReasonOf(err) != why {
		t.Errorf("ReasonOf(%v) = %+v", err, store.ReasonOf(err))
	}
	if store.ReasonOf(store.ErrNotFound) != (store.Reason{}) || store.ReasonOf(nil) != (store.Reason{}) {
		t.Error("an error without a reason has one")
	}
}

// What a store returns for a session that is not there says why.
func ExampleReasonOf() {
	err := error(&store.NotFoundError{Reason: store.Reason{Kind: store.Abandoned, Age: 90 * time.Second}})
	why := store.ReasonOf(err)
	fmt.Println(errors.Is(err, store.ErrNotFound), why.Kind, why.Age)
	// Output: true abandoned 1m30s
}

// A writer that repeats a Save is recognised by the version that it draws.
func ExampleRecord_Seen() {
	rec := store.Record{Version: store.NewVersion()}
	next := store.NewVersion()
	rec.Advance(next)
	rec.Advance(store.NewVersion()) // somebody else's
	fmt.Println(rec.Seen(next), rec.Seen(store.NewVersion()))
	// Output: true false
}
