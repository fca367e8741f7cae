package holdfasttest

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-session/holdfast/inproc"
	"github.com/holdfast-session/holdfast/store"
)

// Down takes the store down, or up again. While it is down every call fails with
// [store.ErrUnavailable]: a request that needs its session is answered with 503, at
// once if it had not got it yet, after Options.StoreTimeout if it is to be saved.
func (ht *Sessions) Down(down bool) {
	ht.faults.mu.Lock()
	defer ht.faults.mu.Unlock()
	ht.faults.down = down
}

// Before has f called before each call of the store that the application causes, until
// the next Before; nil for no more. The method is a name of package store: "Load" or
// "Lock" where a session is had, "Create" or "Save" where it is saved, "Remove" where
// it is ended, "Touch", "List", "Ended", "Ack". ("Unlock" is never asked about: the
// Manager does not give that up.)
//
// If f returns an error, the call is not made and fails with it: store.ErrUnavailable,
// store.ErrFull. f may also wait, count calls, or do what another visitor does at this
// moment. It is called for several calls at once where requests run at once.
func (ht *Sessions) Before(f func(method string) error) {
	ht.faults.mu.Lock()
	defer ht.faults.mu.Unlock()
	ht.faults.before = f
}

// LoseReply loses the reply to the next call of a method, by the names of
// [Sessions.Before]: it is made, and the Manager is not told. No visitor notices,
// because the Manager asks again.
func (ht *Sessions) LoseReply(method string) {
	ht.t.Helper()
	if !slices.Contains(methods, method) {
		ht.t.Fatalf("holdfasttest: LoseReply(%q): the store's methods are %q", method, methods)
	}
	ht.faults.mu.Lock()
	defer ht.faults.mu.Unlock()
	ht.faults.lose = append(ht.faults.lose, method)
}

var methods = []string{"Load", "Lock", "Create", "Save", "Remove", "Touch", "List", "Ended", "Ack"}

// faults say what goes wrong.
type faults struct {
	mu     sync.Mutex
	down   bool
	before func(method string) error
	lose   []string // methods whose next reply is lost
}

func (f *faults) clear() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.down, f.before, f.lose = false, nil, nil
}

// do makes one call, as f says.
func (f *faults) do(method string, call func() error) error {
	f.mu.Lock()
	down, before := f.down, f.before
	f.mu.Unlock()
	if before != nil {
		if err := before(method); err != nil {
			return err
		}
	}
	if down {
		return store.ErrUnavailable
	}
	err := call()
	f.mu.Lock()
	defer f.mu.Unlock()
	if i := slices.Index(f.lose, method); i >= 0 {
		f.lose = slices.Delete(f.lose, i, i+1)
		return store.ErrUnsure
	}
	return err
}

// write makes a call that writes to rec, which one that fails leaves alone.
func (f *faults) write(method string, rec *store.Record, call func(rec *store.Record) error) error {
	got := *rec
	err := f.do(method, func() error { return call(&got) })
	if err == nil {
		*rec = got
	}
	return err
}

// faulty is a store in this process with faults. What is not wrapped never fails.
type faulty struct {
	*inproc.Store
	f *faults
}

func (s faulty) Load(ctx context.Context, id store.ID, rec *store.Record) error {
	return s.f.write("Load", rec, func(rec *store.Record) error { return s.Store.Load(ctx, id, rec) })
}

func (s faulty) Lock(ctx context.Context, id store.ID, o store.LockOptions, rec *store.Record) error {
	return s.f.write("Lock", rec, func(rec *store.Record) error { return s.Store.Lock(ctx, id, o, rec) })
}

func (s faulty) Create(ctx context.Context, id store.ID, rec *store.Record, hold bool) error {
	return s.f.write("Create", rec, func(rec *store.Record) error { return s.Store.Create(ctx, id, rec, hold) })
}

func (s faulty) Save(ctx context.Context, id store.ID, rec *store.Record, next store.Version, hold bool) error {
	return s.f.do("Save", func() error { return s.Store.Save(ctx, id, rec, next, hold) })
}

func (s faulty) Remove(ctx context.Context, id store.ID, lock store.Lock, why store.Reason) error {
	return s.f.do("Remove", func() error { return s.Store.Remove(ctx, id, lock, why) })
}

func (s faulty) Touch(ctx context.Context, id store.ID) error {
	return s.f.do("Touch", func() error { return s.Store.Touch(ctx, id) })
}

func (s faulty) List(ctx context.Context, q store.Query) (page []store.Listed, next string, err error) {
	err = s.f.do("List", func() (err error) {
		page, next, err = s.Store.List(ctx, q)
		return err
	})
	if err != nil {
		return nil, "", err
	}
	return page, next, nil
}

func (s faulty) Ended(ctx context.Context, app string, limit int, lease time.Duration) (ends []store.End, err error) {
	err = s.f.do("Ended", func() (err error) {
		ends, err = s.Store.Ended(ctx, app, limit, lease)
		return err
	})
	if err != nil {
		return nil, err
	}
	return ends, nil
}

func (s faulty) Ack(ctx context.Context, app string, keys []string) error {
	return s.f.do("Ack", func() error { return s.Store.Ack(ctx, app, keys) })
}
