package migrate_test

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-session/holdfast/inproc"
	"github.com/holdfast-session/holdfast/migrate"
	"github.com/holdfast-session/holdfast/mode"
	"github.com/holdfast-session/holdfast/store"
	"github.com/holdfast-session/holdfast/storetest"
)

// caching are the places whose stores keep contents near, by version. Each has a function
// that opens one more store of the same place, as another process does.
var caching = map[string]func(t testing.TB) (another func() store.Store){
	"redis": func(t testing.TB) func() store.Store {
		spec := redis(t).URL() + "?prefix=" + anyName()
		return func() store.Store {
			s, err := mode.Open(spec)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { s.Close() })
			return s
		}
	},
	"stateserver": func(t testing.TB) func() store.Store {
		addr := serve(t)
		return func() store.Store { return dial(t, addr) }
	},
}

// A wayBack is a session on its way back to a place that caches: there its content was
// "old", and another process has that near; where it is it was saved once, and is "new".
type wayBack struct {
	t             *testing.T
	ctx           context.Context
	id            store.ID
	open          func() store.Store
	mover, reader store.Store // two of the place that it goes back to
	from          store.Store
	version       store.Version
}

func newWayBack(t *testing.T, open func() store.Store) *wayBack {
	t.Helper()
	w := &wayBack{t: t, ctx: t.Context(), id: store.ID{App: "/back", Session: anyName()}, open: open,
		mover: open(), reader: open(), from: inproc.New(nil), version: store.NewVersion()}
	rec := store.Record{Version: store.NewVersion(), Timeout: timeout, Body: large("old")}
	w.ok(w.mover.Create(w.ctx, w.id, &rec, false), "Create")
	w.ok(w.reader.Load(w.ctx, w.id, &rec), "Load by another process, which has it near then")
	there := migrate.New(w.mover, w.from, &migrate.Options{Phase: migrate.Move})
	w.ok(there.Lock(w.ctx, w.id, store.LockOptions{Owner: store.NewOwner()}, &rec), "Lock, which moves it")
	rec.Body = large("new")
	w.ok(there.Save(w.ctx, w.id, &rec, w.version, false), "Save")
	return w
}

// large is a content that is kept near.
func large(what string) []byte { return bytes.Repeat([]byte(what+" "), 500) }

// process is a store of a process that knows both places, by its store of the new one.
func (w *wayBack) process(f *storetest.Faults, to store.Store) store.Store {
	from := w.from
	if f != nil {
		from, to = f.Wrap(from), f.Wrap(to)
	}
	return migrate.New(from, to, &migrate.Options{Phase: migrate.Move})
}

func (w *wayBack) ok(err error, what string) {
	w.t.Helper()
	if err != nil {
		w.t.Fatalf("%s: %v", what, err)
	}
}

func (w *wayBack) isNew(rec *store.Record, what string) {
	w.t.Helper()
	if rec.Version != w.version || !bytes.Equal(rec.Body, large("new")) {
		w.t.Fatalf("%s has %.8q…, its version is the last one: %v; want what was saved last", what, rec.Body, rec.Version == w.version)
	}
}

// TestWayBackPastOldNearCopies has a mover die before and after each of its calls, on the
// way back to where another process still has near what the session was when it left. That
// process then reads what was saved last, and so does everybody after it.
func TestWayBackPastOldNearCopies(t *testing.T) {
	for name, place := range caching {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			open := place(t)
			for _, last := range []storetest.Fault{storetest.Refuse, storetest.LoseReply} {
				for n, died := 1, true; died; n++ {
					died = newWayBack(t, open).dies(n, last)
				}
			}
		})
	}
}

// dies has a mover die at its n-th call, and reports whether it made as many.
func (w *wayBack) dies(n int, last storetest.Fault) bool {
	w.t.Helper()
	var mu sync.Mutex
	calls := 0
	f := &storetest.Faults{Rule: func(storetest.Call) storetest.Fault {
		mu.Lock()
		defer mu.Unlock()
		switch calls++; {
		case calls < n:
			return storetest.None
		case calls == n:
			return last
		}
		return storetest.Refuse
	}}
	var rec store.Record
	err := w.process(f, w.mover).Lock(w.ctx, w.id, store.LockOptions{Owner: store.NewOwner()}, &rec)
	if calls < n {
		w.ok(err, "Lock, which moves it back")
		w.isNew(&rec, "the mover")
		return false
	}
	p := w.process(nil, w.reader)
	w.ok(p.Load(w.ctx, w.id, &rec), "Load")
	w.isNew(&rec, "Load after a mover that died")
	o := store.LockOptions{Owner: store.NewOwner(), Wait: time.Minute, Stale: 20 * time.Millisecond}
	w.ok(p.Lock(w.ctx, w.id, o, &rec), "Lock")
	w.isNew(&rec, "Lock after a mover that died")
	w.ok(p.Unlock(w.ctx, w.id, rec.Lock), "Unlock")
	w.ok(w.open().Load(w.ctx, w.id, &rec), "Load by a third process")
	w.isNew(&rec, "Load by a third process")
	return true
}

// TestWayBackReadMeanwhile has that process read the session before each call of a mover,
// and merge what it read with something of its own.
func TestWayBackReadMeanwhile(t *testing.T) {
	for name, place := range caching {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			open := place(t)
			for n, read := 1, true; read; n++ {
				read = newWayBack(t, open).reads(n)
			}
		})
	}
}

// reads reads before the n-th call of a mover, and reports whether it made as many.
func (w *wayBack) reads(n int) bool {
	w.t.Helper()
	reader := w.process(nil, w.reader)
	var got, rec store.Record
	calls := 0
	f := &storetest.Faults{Before: func(context.Context, storetest.Call) {
		if calls++; calls == n {
			w.ok(reader.Load(w.ctx, w.id, &got), "Load")
			w.isNew(&got, "Load while it moves")
		}
	}}
	back := w.process(f, w.mover)
	w.ok(back.Lock(w.ctx, w.id, store.LockOptions{Owner: store.NewOwner()}, &rec), "Lock, which moves it back")
	w.isNew(&rec, "the mover")
	w.ok(back.Unlock(w.ctx, w.id, rec.Lock), "Unlock")
	if calls < n {
		return false
	}
	got.Lock = store.Lock{}
	got.Body = append(got.Body, "more"...)
	err := reader.Save(w.ctx, w.id, &got, store.NewVersion(), false)
	if errors.Is(err, store.ErrConflict) {
		w.t.Fatal("Save of what was read while the session moved is refused")
	}
	w.ok(err, "Save")
	w.ok(w.open().Load(w.ctx, w.id, &rec), "Load by a third process")
	if want := append(large("new"), "more"...); !bytes.Equal(rec.Body, want) {
		w.t.Fatalf("the session has %.8q…, %d bytes; want %d", rec.Body, len(rec.Body), len(want))
	}
	return true
}
