package storetest

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/holdfast-session/holdfast/store"
)

// A Call is one call of a store that a [Faults] wraps.
type Call struct {
	// Method is its name: "Load", "Lock", "Create", "Save", "Unlock", "Remove",
	// "Touch", "Ended", "Ack" or "List".
	Method string
	// ID is the session; only App is set for Ended, Ack and List.
	ID store.ID
	// N says that it is the n-th call of Method, from 1.
	N int
}

// A Fault is what befalls a call.
type Fault int

const (
	// None: the call is made, and its reply returned.
	None Fault = iota
	// Refuse: the call is not made and fails with [store.ErrUnavailable].
	Refuse
	// LoseReply: the call is made, but the caller gets [store.ErrUnsure] and
	// nothing of what it read.
	LoseReply
)

// A Faults makes stores fail on purpose, and counts the calls that reach them. Its
// zero value lets every call through. It is safe for concurrent use; its fields are
// set before the first call.
type Faults struct {
	// Rule chooses what befalls a call, before it is made; nil: nothing does. It
	// may be called for several calls at once. See [Nth] and [Random].
	Rule func(Call) Fault
	// Before is called before a call is made, After when it is made and before its
	// reply is returned. They may wait, to delay a call or its reply; ctx is the
	// caller's. Neither is called for a call that is refused.
	Before, After func(ctx context.Context, call Call)

	mu    sync.Mutex
	count map[string]int
}

// Nth returns a rule by which fault befalls the n-th call of method, from 1, and
// nothing the others.
func Nth(method string, n int, fault Fault) func(Call) Fault {
	return func(call Call) Fault {
		if call.Method == method && call.N == n {
			return fault
		}
		return None
	}
}

// Random returns a rule that refuses calls, and loses replies, with these
// probabilities. The same seed gives the same sequence of faults.
func Random(seed uint64, refuse, loseReply float64) func(Call) Fault {
	var mu sync.Mutex
	r := rand.New(rand.NewPCG(seed, 0))
	return func(Call) Fault {
		mu.Lock()
		defer mu.Unlock()
		switch f := r.Float64(); {
		case f < refuse:
			return Refuse
		case f < refuse+loseReply:
			return LoseReply
		}
		return None
	}
}

// Count returns how many calls of the methods there were so far, with their faults;
// of all methods, if none is named.
func (f *Faults) Count(methods ...string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, m := range methods {
		n += f.count[m]
	}
	if len(methods) == 0 {
		for _, c := range f.count {
			n += c
		}
	}
	return n
}

// Wrap returns a store that passes calls on to s as f says. It has the capabilities
// that s has. A Faults may wrap several stores, as the nodes of a farm; it counts
// their calls together.
func (f *Faults) Wrap(s store.Store) store.Store {
	w := faulty{f, s}
	e, ender := s.(store.Ender)
	l, lister := s.(store.Lister)
	switch {
	case ender && lister:
		return struct {
			faulty
			faultyEnder
			faultyLister
		}{w, faultyEnder{f, e}, faultyLister{f, l}}
	case ender:
		return struct {
			faulty
			faultyEnder
		}{w, faultyEnder{f, e}}
	case lister:
		return struct {
			faulty
			faultyLister
		}{w, faultyLister{f, l}}
	}
	return w
}

// do makes one call, as the rule says.
func (f *Faults) do(ctx context.Context, m string, id store.ID, apply func() error) (lost bool, err error) {
	f.mu.Lock()
	if f.count == nil {
		f.count = make(map[string]int)
	}
	f.count[m]++
	call := Call{Method: m, ID: id, N: f.count[m]}
	f.mu.Unlock()

	fault := None
	if f.Rule != nil {
		fault = f.Rule(call)
	}
	if fault == Refuse {
		return false, store.ErrUnavailable
	}
	if f.Before != nil {
		f.Before(ctx, call)
	}
	err = apply()
	if f.After != nil {
		f.After(ctx, call)
	}
	if fault == LoseReply {
		return true, store.ErrUnsure
	}
	return false, err
}

// read makes a call that writes to rec, which a lost reply must leave alone.
func (f *Faults) read(ctx context.Context, m string, id store.ID, rec *store.Record, apply func(rec *store.Record) error) error {
	got := *rec
	got.Body = nil
	if _, err := f.do(ctx, m, id, func() error { return apply(&got) }); err != nil {
		return err
	}
	body := append(rec.Body[:0], got.Body...)
	*rec = got
	rec.Body = body
	return nil
}

type faulty struct {
	f *Faults
	s store.Store
}

func (w faulty) KeepsItems() bool {
	k, ok := w.s.(store.ItemKeeper)
	return ok && k.KeepsItems()
}

func (w faulty) Load(ctx context.Context, id store.ID, rec *store.Record) error {
	return w.f.read(ctx, "Load", id, rec, func(rec *store.Record) error { return w.s.Load(ctx, id, rec) })
}

func (w faulty) Lock(ctx context.Context, id store.ID, o store.LockOptions, rec *store.Record) error {
	return w.f.read(ctx, "Lock", id, rec, func(rec *store.Record) error { return w.s.Lock(ctx, id, o, rec) })
}

func (w faulty) Create(ctx context.Context, id store.ID, rec *store.Record, hold bool) error {
	sent := *rec
	lost, err := w.f.do(ctx, "Create", id, func() error { return w.s.Create(ctx, id, &sent, hold) })
	if !lost {
		rec.Lock, rec.Created = sent.Lock, sent.Created
	}
	return err
}

func (w faulty) Save(ctx context.Context, id store.ID, rec *store.Record, next store.Version, hold bool) error {
	_, err := w.f.do(ctx, "Save", id, func() error { return w.s.Save(ctx, id, rec, next, hold) })
	return err
}

func (w faulty) Unlock(ctx context.Context, id store.ID, lock store.Lock) error {
	_, err := w.f.do(ctx, "Unlock", id, func() error { return w.s.Unlock(ctx, id, lock) })
	return err
}

func (w faulty) Remove(ctx context.Context, id store.ID, lock store.Lock, why store.Reason) error {
	_, err := w.f.do(ctx, "Remove", id, func() error { return w.s.Remove(ctx, id, lock, why) })
	return err
}

func (w faulty) Touch(ctx context.Context, id store.ID) error {
	_, err := w.f.do(ctx, "Touch", id, func() error { return w.s.Touch(ctx, id) })
	return err
}

type faultyEnder struct {
	f *Faults
	e store.Ender
}

func (w faultyEnder) Ended(ctx context.Context, app string, limit int, lease time.Duration) (ends []store.End, err error) {
	lost, err := w.f.do(ctx, "Ended", store.ID{App: app}, func() (err error) {
		ends, err = w.e.Ended(ctx, app, limit, lease)
		return err
	})
	if lost {
		return nil, err
	}
	return ends, err
}

func (w faultyEnder) Ack(ctx context.Context, app string, keys []string) error {
	_, err := w.f.do(ctx, "Ack", store.ID{App: app}, func() error { return w.e.Ack(ctx, app, keys) })
	return err
}

type faultyLister struct {
	f *Faults
	l store.Lister
}

func (w faultyLister) List(ctx context.Context, q store.Query) (page []store.Listed, next string, err error) {
	lost, err := w.f.do(ctx, "List", store.ID{App: q.App}, func() (err error) {
		page, next, err = w.l.List(ctx, q)
		return err
	})
	if lost {
		return nil, "", err
	}
	return page, next, err
}
