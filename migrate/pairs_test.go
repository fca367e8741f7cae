package migrate_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-session/holdfast/inproc"
	"github.com/holdfast-session/holdfast/internal/servers"
	"github.com/holdfast-session/holdfast/logstore"
	"github.com/holdfast-session/holdfast/migrate"
	"github.com/holdfast-session/holdfast/mode"
	"github.com/holdfast-session/holdfast/stateserver"
	"github.com/holdfast-session/holdfast/store"
	"github.com/holdfast-session/holdfast/storetest"
)

// redis and postgres are the servers of all tests; each store has a prefix, or a table, of
// its own there.
var (
	redis    = servers.Shared(func(t testing.TB) *servers.Redis { return servers.StartRedis(t, nil) })
	postgres = servers.Shared(func(t testing.TB) string { return servers.StartPostgres(t, nil).Database(t) })
)

func TestMain(m *testing.M) {
	flag.Parse()
	// Tests mostly wait, for servers and for time to pass.
	if err := flag.Set("test.parallel", "8"); err != nil {
		panic(err)
	}
	servers.Main(m)
}

// places are the stores between which sessions move, in every pair. A mode that is to be
// among them is a line here, and a function that opens a store of it.
var places = []struct {
	name string
	open func(t testing.TB) place
}{
	{"inproc", openInproc},
	{"logstore", openLogstore},
	{"redis", openRedis},
	{"postgres", func(t testing.TB) place { return openMode(t, postgres(t)+"&install=1&conns=4&table="+anyName()) }},
	{"sqlite", func(t testing.TB) place {
		return openMode(t, "sqlite:"+filepath.Join(t.TempDir(), "sessions.db")+"?install=1&sync=normal")
	}},
	{"stateserver", openStateServer},
}

func anyName() string { return fmt.Sprintf("pairs_%x", rand.Uint64()) }

// openMode opens a store that remembers the ends of all sessions.
func openMode(t testing.TB, spec string) place {
	t.Helper()
	s, err := mode.Open(spec + "&ends=100000")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s.(place)
}

func openRedis(t testing.TB) place { return openMode(t, redis(t).URL()+"?prefix="+anyName()) }

func openInproc(t testing.TB) place {
	s := inproc.New(&inproc.Options{Ends: 100_000})
	t.Cleanup(func() { s.Close() })
	return s
}

func openLogstore(t testing.TB) place {
	s, err := logstore.Open(t.TempDir(), &logstore.Options{Ends: 100_000})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func openStateServer(t testing.TB) place { return dial(t, serve(t)) }

// serve starts a state server, and returns its address.
func serve(t testing.TB) string {
	// A socket's path is short, and that of a test's folder need not be.
	dir, err := os.MkdirTemp("", "migrate")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	l, err := net.Listen("unix", filepath.Join(dir, "socket"))
	if err != nil {
		t.Fatal(err)
	}
	s := &stateserver.Server{Store: openInproc(t), Logger: slog.New(slog.DiscardHandler)}
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Close()
		<-served
	})
	return "unix:" + l.Addr().String()
}

func dial(t testing.TB, addr string) *stateserver.Client {
	c, err := stateserver.Dial(addr, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// eachPair runs f for every pair of places, side by side.
func eachPair(t *testing.T, f func(t *testing.T, from, to place)) {
	for i := range places {
		for j := range places {
			onPair(t, i, j, f)
		}
	}
}

// somePairs runs f for pairs in which every place is once the old and once the new one,
// or in the long run for all of them.
func somePairs(t *testing.T, f func(t *testing.T, from, to place)) {
	if long() {
		eachPair(t, f)
		return
	}
	for i := range places {
		onPair(t, i, (i+1)%len(places), f)
	}
}

func onPair(t *testing.T, i, j int, f func(t *testing.T, from, to place)) {
	from, to := places[i], places[j]
	t.Run(from.name+" to "+to.name, func(t *testing.T) {
		t.Parallel()
		f(t, from.open(t), to.open(t))
	})
}

// long reports whether the tests run that take minutes.
func long() bool { return os.Getenv("HOLDFAST_LONG") != "" }

// worldOf has a session of its own in stores that others use as well.
func worldOf(t *testing.T, from, to place, saves int) *world {
	// Every trial has an application of its own, whose list is short.
	w := &world{t: t, ctx: t.Context(), from: from, to: to, stale: 20 * time.Millisecond,
		id: store.ID{App: fmt.Sprintf("/pairs/%016x", rand.Uint64()), Session: "s"}}
	w.begin(saves)
	return w
}

// TestMoveCrashPoints has a mover die before and after each of its calls, and another
// process go on, between real stores and in real time. Every deed in every phase is in
// TestMoverDies already, in a bubble.
func TestMoveCrashPoints(t *testing.T) {
	names := []string{"nothing", "Update", "Remove"}
	if long() {
		names = names[:0]
		for name := range deeds {
			names = append(names, name)
		}
		slices.Sort(names)
	}
	somePairs(t, func(t *testing.T, from, to place) {
		for _, name := range names {
			for _, last := range []storetest.Fault{storetest.Refuse, storetest.LoseReply} {
				for n, phase := 1, migrate.Move; ; n, phase = n+1, migrate.Move-phase {
					w := worldOf(t, from, to, 1)
					if !w.dies(name, n, last, phase) {
						break
					}
					if t.Failed() {
						t.Fatalf("%s in phase %d, at call %d, fault %d", name, phase, n, last)
					}
				}
			}
		}
	})
}

// dies has a mover die at its n-th call, and then a process in that phase do its deed. It
// reports whether the mover made as many calls.
func (w *world) dies(deed string, n int, last storetest.Fault, phase migrate.Phase) bool {
	w.t.Helper()
	err, died := w.updateAndDie(n, last)
	if !died {
		w.ok(err, "update")
		return false
	}
	removed := deeds[deed](w, w.process(phase, nil))
	w.check(deed, removed, err)
	return true
}

// TestPairs is what a move must leave as it is, between every two stores.
func TestPairs(t *testing.T) {
	eachPair(t, func(t *testing.T, from, to place) {
		t.Run("Contract", func(t *testing.T) { worldOf(t, from, to, 2).contract() })
		t.Run("Crowd", func(t *testing.T) { worldOf(t, from, to, 1).crowd() })
	})
}

// TestThereAndBack moves whole applications, and brings them back.
func TestThereAndBack(t *testing.T) { somePairs(t, thereAndBack) }

// contract goes through the calls of a session's life in both phases.
func (w *world) contract() {
	before, mover := w.process(migrate.Prepare, nil), w.process(migrate.Move, nil)
	wants := func(err, want error, what string) {
		w.t.Helper()
		if !errors.Is(err, want) {
			w.t.Fatalf("%s: %v, want %v", what, err, want)
		}
	}
	old := *new(store.Record)
	w.ok(before.Load(w.ctx, w.id, &old), "Load")
	owner := store.LockOptions{Owner: store.NewOwner()}
	var rec store.Record
	w.ok(mover.Lock(w.ctx, w.id, owner, &rec), "Lock, which moves it")
	if rec.Version != w.version || rec.History != w.history || rec.Subject != "anna" || string(rec.Body) != "0 " {
		w.t.Errorf("it has become %+v", rec)
	}
	wants(w.from.Load(w.ctx, w.id, new(store.Record)), store.ErrNotFound, "Load in the old place")
	err := before.Lock(w.ctx, w.id, store.LockOptions{Owner: store.NewOwner()}, new(store.Record))
	if locked := new(store.LockedError); !errors.As(err, &locked) {
		w.t.Errorf("Lock of another: %v, want a LockedError", err)
	}
	w.ok(mover.Lock(w.ctx, w.id, owner, &rec), "Lock, repeated")
	rec.Body = append(rec.Body, "held "...)
	next := store.NewVersion()
	w.ok(before.Save(w.ctx, w.id, &rec, next, true), "Save, holding")
	w.ok(mover.Save(w.ctx, w.id, &rec, next, true), "Save, repeated")
	rec.Advance(next)
	w.ok(mover.Save(w.ctx, w.id, &rec, store.NewVersion(), false), "Save")
	wants(before.Save(w.ctx, w.id, &old, store.NewVersion(), false), store.ErrConflict, "Save of what was read before")
	w.ok(before.Unlock(w.ctx, w.id, rec.Lock), "Unlock of what is free")
	w.ok(before.Touch(w.ctx, w.id), "Touch")
	fresh := store.Record{Version: store.NewVersion(), Timeout: timeout}
	for _, s := range []store.Store{before, mover} {
		wants(s.Create(w.ctx, w.id, &fresh, false), store.ErrExists, "Create")
	}
	w.all(1)
	w.ok(before.Remove(w.ctx, w.id, store.Lock{}, store.Reason{Kind: store.Abandoned}), "Remove")
	w.isGone("at once")
	w.ok(mover.Create(w.ctx, w.id, &fresh, false), "Create after an end")
	w.ok(before.Load(w.ctx, w.id, &rec), "Load of what began in the new place")
}

// crowd has visitors in processes of both phases add to one session while movers go over
// the stores.
func (w *world) crowd() {
	const visitors = 12
	w.stale = 2 * time.Second // nobody dies
	var wg sync.WaitGroup
	for i := range visitors {
		phase := migrate.Prepare
		if i%3 > 0 {
			phase = migrate.Move
		}
		s := w.process(phase, nil)
		wg.Go(func() {
			if err := w.visit(s, i); err != nil {
				w.t.Errorf("visitor %d: %v", i, err)
			}
		})
	}
	wg.Go(func() {
		if _, err := migrate.All(w.ctx, w.from, w.to, &migrate.AllOptions{App: w.id.App, LockTimeout: w.stale}); err != nil {
			w.t.Errorf("All: %v", err)
		}
	})
	wg.Wait()
	got := w.body()
	for i := range visitors {
		if n := strings.Count(got, fmt.Sprintf(" %d.", i)); n != 1 {
			w.t.Errorf("visitor %d's update is there %d times: %q", i, n, got)
		}
	}
	w.all(1)
}

// thereAndBack moves sessions, a part of which a dying mover left halfway, and brings all
// of them back.
func thereAndBack(t *testing.T, from, to place) {
	app := fmt.Sprintf("/back/%016x", rand.Uint64())
	bodies := make(map[string]string)
	for i := range 60 {
		rec := store.Record{Version: store.NewVersion(), Timeout: timeout, Body: fmt.Appendf(nil, "body %d", i)}
		id := store.ID{App: app, Session: fmt.Sprintf("s%02d", i)}
		bodies[id.Session] = string(rec.Body)
		if err := from.Create(t.Context(), id, &rec, false); err != nil {
			t.Fatal(err)
		}
	}
	// Movers that die, each at another call, and leave their locks behind.
	var moved []store.ID
	o := &migrate.AllOptions{App: app, LockTimeout: 20 * time.Millisecond, Parallel: 4, Moved: func(id store.ID) { moved = append(moved, id) }}
	for n := range 8 {
		var mu sync.Mutex
		left := 40 + 3*n
		f := &storetest.Faults{Rule: func(storetest.Call) storetest.Fault {
			mu.Lock()
			defer mu.Unlock()
			if left--; left < 0 {
				return storetest.Refuse
			}
			return storetest.None
		}}
		if _, err := migrate.All(t.Context(), f.Wrap(from), f.Wrap(to), o); err == nil {
			t.Fatal("a mover that dies has no error")
		}
	}
	count := func(from, to store.Store, moved []store.ID) migrate.Count {
		t.Helper()
		counts, err := migrate.Verify(t.Context(), from, to, o, moved)
		if err != nil || len(counts) != 1 || counts[0].App != app {
			t.Fatalf("Verify: %+v, %v", counts, err)
		}
		return counts[0]
	}
	if c := count(from, to, moved); c.Moved == 0 || c.Found != c.Moved || c.Missing != 0 || c.Old == 0 {
		t.Fatalf("after movers that died: %+v", c)
	}
	finish(t, from, to, o, migrate.Finish)
	if c := count(from, to, moved); c.Halfway != 0 || c.Old+c.New != len(bodies) {
		t.Fatalf("after Finish: %+v", c)
	}
	moved = nil
	finish(t, to, from, o, migrate.All)
	if c := count(to, from, moved); !c.Done() || c.New != len(bodies) || c.Found != len(moved) || len(moved) == 0 {
		t.Fatalf("back again: %+v", c)
	}
	for session, want := range bodies {
		var rec store.Record
		if err := from.Load(t.Context(), store.ID{App: app, Session: session}, &rec); err != nil || string(rec.Body) != want || rec.Flags != 0 {
			t.Errorf("%s is %+v, %v", session, rec, err)
		}
	}
}

// finish calls do until nothing is busy.
func finish(t *testing.T, from, to place, o *migrate.AllOptions, do func(ctx context.Context, from, to store.Store, o *migrate.AllOptions) (migrate.Progress, error)) {
	t.Helper()
	for range 20 {
		p, err := do(t.Context(), from, to, o)
		if err != nil {
			t.Fatal(err)
		}
		if p.Busy == 0 {
			return
		}
	}
	t.Fatal("something is busy for ever")
}
