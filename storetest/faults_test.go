package storetest

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-session/holdfast/store"
)

// plain has no capability.
type plain struct{ store.Store }

func TestFaultsRule(t *testing.T) {
	ctx, id := t.Context(), store.ID{App: "/", Session: "s"}
	rec := func() *store.Record {
		return &store.Record{Version: store.NewVersion(), Timeout: time.Minute, Body: []byte("v0")}
	}
	for _, tt := range []struct {
		fault   Fault
		err     error
		applied bool
	}{
		{None, nil, true},
		{Refuse, store.ErrUnavailable, false},
		{LoseReply, store.ErrUnsure, true},
	} {
		inner := newMemory("")
		s := (&Faults{Rule: Nth("Create", 1, tt.fault)}).Wrap(inner)
		err := s.Create(ctx, id, rec(), false)
		if !errors.Is(err, tt.err) {
			t.Errorf("Create with the fault %d: %v; want %v", tt.fault, err, tt.err)
		}
		if applied := inner.Touch(ctx, id) == nil; applied != tt.applied {
			t.Errorf("Create with the fault %d is applied is %v; want %v", tt.fault, applied, tt.applied)
		}
	}
}

// TestFaultsEveryMethod has each method fail by name, once, and work otherwise.
func TestFaultsEveryMethod(t *testing.T) {
	ctx, id := t.Context(), store.ID{App: "/", Session: "s"}
	for method, call := range map[string]func(s store.Store) error{
		"Load": func(s store.Store) error { return s.Load(ctx, id, new(store.Record)) },
		"Lock": func(s store.Store) error {
			return s.Lock(ctx, id, store.LockOptions{Owner: 1}, new(store.Record))
		},
		"Create": func(s store.Store) error {
			return s.Create(ctx, id, &store.Record{Version: 1, Timeout: time.Minute}, false)
		},
		"Save": func(s store.Store) error {
			return s.Save(ctx, id, &store.Record{Version: 1, Timeout: time.Minute}, 2, false)
		},
		"Unlock": func(s store.Store) error { return s.Unlock(ctx, id, store.Lock{Owner: 1}) },
		"Touch":  func(s store.Store) error { return s.Touch(ctx, id) },
		"Ended": func(s store.Store) error {
			_, err := s.(store.Ender).Ended(ctx, "/", 1, time.Minute)
			return err
		},
		"Ack": func(s store.Store) error { return s.(store.Ender).Ack(ctx, "/", nil) },
		"List": func(s store.Store) error {
			_, _, err := s.(store.Lister).List(ctx, store.Query{App: "/"})
			return err
		},
		"Remove": func(s store.Store) error { return s.Remove(ctx, id, store.Lock{}, store.Reason{}) },
	} {
		inner := newMemory("")
		if err := inner.Create(ctx, id, &store.Record{Version: 1, Timeout: time.Minute}, false); err != nil {
			t.Fatal(err)
		}
		f := &Faults{Rule: Nth(method, 1, Refuse)}
		s := f.Wrap(inner)
		if err := call(s); !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("%s, refused: %v; want ErrUnavailable", method, err)
		}
		if err := call(s); err != nil {
			t.Errorf("%s after one that was refused: %v", method, err)
		}
		if n := f.Count(method); n != 2 || f.Count() != 2 {
			t.Errorf("%d calls of %s, and %d in all; want 2", n, method, f.Count())
		}
	}
}

// TestFaultsLostReadsTellNothing has a record that is as it was, when the reply that
// would have filled it is lost.
func TestFaultsLostReadsTellNothing(t *testing.T) {
	ctx, id := t.Context(), store.ID{App: "/", Session: "s"}
	inner := newMemory("")
	created := &store.Record{Version: 1, Timeout: time.Minute, Body: []byte("content")}
	if err := inner.Create(ctx, id, created, false); err != nil {
		t.Fatal(err)
	}
	s := (&Faults{Rule: func(Call) Fault { return LoseReply }}).Wrap(inner)
	rec := &store.Record{Version: 7, Body: []byte("before!")}
	want := clone(rec)
	if err := s.Load(ctx, id, rec); !errors.Is(err, store.ErrUnsure) {
		t.Errorf("Load: %v; want ErrUnsure", err)
	}
	if err := s.Lock(ctx, id, store.LockOptions{Owner: 9}, rec); !errors.Is(err, store.ErrUnsure) {
		t.Errorf("Lock: %v; want ErrUnsure", err)
	}
	if d := cmp.Diff(want, rec); d != "" {
		t.Errorf("the record changed (-want +got):\n%s", d)
	}
	held := &store.Record{Version: 2, Timeout: time.Minute, Lock: store.Lock{Owner: 5}}
	if err := s.Create(ctx, store.ID{App: "/", Session: "held"}, held, true); !errors.Is(err, store.ErrUnsure) || held.Lock.Cookie != 0 {
		t.Errorf("Create, held: %v, with the cookie %d; want ErrUnsure and none", err, held.Lock.Cookie)
	}
	if ends, err := s.(store.Ender).Ended(ctx, "/", 1, time.Minute); !errors.Is(err, store.ErrUnsure) || ends != nil {
		t.Errorf("Ended: %v, %v; want ErrUnsure", ends, err)
	}
	if page, next, err := s.(store.Lister).List(ctx, store.Query{}); !errors.Is(err, store.ErrUnsure) || page != nil || next != "" {
		t.Errorf("List: %v, %q, %v; want ErrUnsure", page, next, err)
	}
}

// TestFaultsKeepCapabilities has a wrapper with what the store that it wraps has.
func TestFaultsKeepCapabilities(t *testing.T) {
	m := newMemory("")
	for name, s := range map[string]store.Store{
		"all":           m,
		"none":          plain{m},
		"an Ender":      struct{ store.Ender }{m},
		"a Lister":      struct{ store.Lister }{m},
		"an ItemKeeper": struct{ store.ItemKeeper }{m},
	} {
		w := new(Faults).Wrap(s)
		_, isEnder := s.(store.Ender)
		_, isLister := s.(store.Lister)
		k, isKeeper := s.(store.ItemKeeper)
		keeps := isKeeper && k.KeepsItems()
		if _, ok := w.(store.Ender); ok != isEnder {
			t.Errorf("%s: the wrapper is an Ender is %v; want %v", name, ok, isEnder)
		}
		if _, ok := w.(store.Lister); ok != isLister {
			t.Errorf("%s: the wrapper is a Lister is %v; want %v", name, ok, isLister)
		}
		if k, ok := w.(store.ItemKeeper); (ok && k.KeepsItems()) != keeps {
			t.Errorf("%s: the wrapper keeps items is %v; want %v", name, !keeps, keeps)
		}
	}
}

func TestFaultsHooks(t *testing.T) {
	type key struct{}
	ctx, id := context.WithValue(t.Context(), key{}, "the caller's"), store.ID{App: "/", Session: "s"}
	var order []string
	note := func(when string) func(context.Context, Call) {
		return func(ctx context.Context, call Call) {
			if ctx.Value(key{}) != "the caller's" || call.ID != id {
				t.Errorf("%s: %v with another context, or of %v", when, call, call.ID)
			}
			order = append(order, when+" "+call.Method)
		}
	}
	f := &Faults{Rule: Nth("Touch", 2, Refuse), Before: note("before"), After: note("after")}
	s := f.Wrap(newMemory(""))
	for range 2 {
		_ = s.Touch(ctx, id)
	}
	_ = s.Unlock(ctx, id, store.Lock{Owner: 1})
	want := []string{"before Touch", "after Touch", "before Unlock", "after Unlock"}
	if !slices.Equal(order, want) {
		t.Errorf("the hooks ran as %q; want %q", order, want)
	}
	if got := [...]int{f.Count("Touch"), f.Count("Unlock"), f.Count("Load"), f.Count("Touch", "Load", "Unlock")}; got != [...]int{2, 1, 0, 3} {
		t.Errorf("the counts are %v; want 2, 1, 0 and 3", got)
	}
}

func TestFaultsRandom(t *testing.T) {
	sequence := func(seed uint64, refuse, lose float64) (faults []Fault) {
		rule := Random(seed, refuse, lose)
		for range 1000 {
			faults = append(faults, rule(Call{}))
		}
		return faults
	}
	count := func(faults []Fault, f Fault) (n int) {
		for _, other := range faults {
			if other == f {
				n++
			}
		}
		return n
	}
	one := sequence(1, 0.1, 0.3)
	if !slices.Equal(one, sequence(1, 0.1, 0.3)) {
		t.Error("the same seed gives another sequence")
	}
	if slices.Equal(one, sequence(2, 0.1, 0.3)) {
		t.Error("another seed gives the same sequence")
	}
	if n := count(one, Refuse); n < 50 || n > 150 {
		t.Errorf("%d of 1000 calls are refused; want about 100", n)
	}
	if n := count(one, LoseReply); n < 230 || n > 370 {
		t.Errorf("%d of 1000 replies are lost; want about 300", n)
	}
	if n := count(sequence(1, 0, 0), None); n != 1000 {
		t.Errorf("with no probabilities, %d of 1000 calls go well; want all", n)
	}
}
