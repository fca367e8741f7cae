package sqlstore

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-session/holdfast/sqlstore/pgnotify"
	"github.com/holdfast-session/holdfast/store"
)

// What an operation costs in statements, each of them a round trip. docs/databases.md has
// the same table.
func TestStatementsPerOperation(t *testing.T) {
	type prices map[string]string
	returning := prices{
		"Create": "INSERT", "Load": "SELECT", "Load, due": "SELECT UPDATE", "Lock": "UPDATE", "Lock, held": "UPDATE SELECT",
		"Save": "UPDATE", "Save, held": "UPDATE", "Save, merged": "UPDATE", "Save, refused": "UPDATE SELECT",
		"Unlock": "UPDATE", "Touch": "UPDATE", "Remove": "UPDATE", "Load, gone": "SELECT", "List": "SELECT",
		"Ended": "UPDATE UPDATE", "Ack": "UPDATE",
	}
	want := map[string]prices{"PostgreSQL": returning, "SQLite": returning, "SQLServer": returning, "MariaDB": {
		"Lock": "UPDATE SELECT", "Ended": "UPDATE UPDATE SELECT", // it has no UPDATE … RETURNING
	}}
	for name, price := range returning {
		if want["MariaDB"][name] == "" {
			want["MariaDB"][name] = price
		}
	}
	t.Parallel()
	for _, each := range databases {
		t.Run(each.name, func(t *testing.T) {
			t.Parallel()
			d := each.make(t)
			db, count := d.counted(t)
			if _, err := New(db, nil); err == nil || !strings.Contains(err.Error(), "Options.Dialect") {
				t.Fatalf("New with a driver that is not known: %v; want an error that names Options.Dialect", err)
			}
			s := d.openAt(t, db, Options{Dialect: d.dialect, Ends: 1000})
			ctx, id := t.Context(), store.ID{App: "/shop", Session: "s"}
			rec, other := &store.Record{Version: 1, Timeout: time.Hour}, new(store.Record)
			next := store.Version(1)
			var ends []store.End
			steps := []struct {
				name string
				call func() error
			}{
				{"Create", func() error { return s.Create(ctx, id, rec, false) }},
				{"Load", func() error { return s.Load(ctx, id, rec) }},
				{"", func() error { d.advance(2 * time.Minute); return nil }},
				{"Load, due", func() error { return s.Load(ctx, id, rec) }},
				{"Load", func() error { return s.Load(ctx, id, rec) }},
				{"Lock", func() error { return s.Lock(ctx, id, store.LockOptions{Owner: 1}, rec) }},
				{"Lock, held", func() error { return wasRefused(s.Lock(ctx, id, store.LockOptions{Owner: 2}, other)) }},
				{"Save, held", func() error { next++; defer rec.Advance(next); return s.Save(ctx, id, rec, next, true) }},
				{"Save", func() error { next++; defer rec.Advance(next); return s.Save(ctx, id, rec, next, false) }},
				{"", func() error { rec.Lock = store.Lock{}; return nil }},
				{"Save, merged", func() error { next++; defer rec.Advance(next); return s.Save(ctx, id, rec, next, false) }},
				{"Save, refused", func() error {
					stale := *rec
					stale.Version = 99
					return wasRefused(s.Save(ctx, id, &stale, 100, false))
				}},
				{"Lock", func() error { return s.Lock(ctx, id, store.LockOptions{Owner: 1}, rec) }},
				{"Unlock", func() error { return s.Unlock(ctx, id, rec.Lock) }},
				{"Touch", func() error { return s.Touch(ctx, id) }},
				{"List", func() error { _, _, err := s.List(ctx, store.Query{App: id.App}); return err }},
				{"Remove", func() error { return s.Remove(ctx, id, store.Lock{}, store.Reason{Kind: store.Abandoned}) }},
				{"Load, gone", func() error { return wasRefused(s.Load(ctx, id, rec)) }},
				{"", func() error { _, err := s.Ended(ctx, id.App, 1, 0); return err }}, // the first one also says that they are wanted
				{"Ended", func() (err error) { ends, err = s.Ended(ctx, id.App, 10, time.Minute); return err }},
				{"Ack", func() error { return s.Ack(ctx, id.App, []string{ends[0].Key}) }},
			}
			count.take()
			for _, step := range steps {
				if err := step.call(); err != nil {
					t.Fatalf("%s: %v", step.name, err)
				}
				if got := verbs(count.take()); step.name != "" && got != want[each.name][step.name] {
					t.Errorf("%s: %s; want %s", step.name, got, want[each.name][step.name])
				}
			}
		})
	}
}

// wasRefused turns the error that was to come into none.
func wasRefused(err error) error {
	if isStoreError(err) {
		return nil
	}
	return fmt.Errorf("%v; want it to be refused", err)
}

// Fifty calls that wait for a lock ask no more than one would, and what it costs to hand
// the lock on is bounded.
func TestWaitersAskTogether(t *testing.T) {
	const waiters, held = 50, time.Second
	everyDatabase(t, func(t *testing.T, d *database) { waitersAsk(t, d, false, waiters, held) })
	t.Run("Notified", func(t *testing.T) {
		t.Parallel()
		waitersAsk(t, databases[0].make(t), true, waiters, held)
	})
}

func waitersAsk(t *testing.T, d *database, told bool, waiters int, held time.Duration) {
	db, count := d.counted(t)
	o := Options{Dialect: d.dialect}
	if told {
		o.Notifier = pgnotify.New(d.db)
	}
	s := d.openAt(t, db, o)
	ctx, id := t.Context(), store.ID{App: "/shop", Session: "s"}
	if err := s.Create(ctx, id, &store.Record{Version: 1, Timeout: time.Hour, Lock: store.Lock{Owner: 7}}, true); err != nil {
		t.Fatal(err)
	}
	count.take()
	began := time.Now()
	order := make(chan int, waiters)
	var wg sync.WaitGroup
	for i := range waiters {
		wg.Go(func() {
			rec := new(store.Record)
			if err := s.Lock(ctx, id, store.LockOptions{Owner: store.NewOwner(), Wait: time.Minute, Stale: time.Minute}, rec); err != nil {
				t.Errorf("Lock: %v", err)
				return
			}
			order <- i
			if err := s.Unlock(ctx, id, rec.Lock); err != nil {
				t.Errorf("Unlock: %v", err)
			}
		})
	}
	<-time.After(held) // a measure, and nothing to wait for
	asked, took := len(count.take()), time.Since(began)
	// One asks after pauses that grow from 2 ms to 100 ms, in two statements each.
	perSecond := 60
	if told {
		perSecond = 10
	}
	if most := float64(perSecond) * took.Seconds(); float64(asked) > most {
		t.Errorf("%d waiters asked %d times in %v; want at most %.0f", waiters, asked, took, most)
	}
	if err := s.Unlock(ctx, id, store.Lock{Owner: 7}); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	handed := len(count.take())
	if handed > 10*waiters {
		t.Errorf("handing the lock on %d times took %d statements; want at most ten each", waiters, handed)
	}
	t.Logf("%d waiters: %d statements in %v while the lock is held, %.1f for each that had it", waiters, asked, took, float64(handed)/float64(waiters))
}

// A lock that is given up at one process is had by another at once, where PostgreSQL tells.
func TestHandover(t *testing.T) {
	t.Parallel()
	d := databases[0].make(t)
	table := d.newTable()
	node := func() *Store {
		db := d.connect(t)
		return d.openAt(t, db, Options{Table: table, Notifier: pgnotify.New(db)})
	}
	median := handover(t, node(), node(), true, 30)
	t.Logf("hand-over between two processes: %v at the median", median)
	if limit := toldPause / 2; median > limit { // who is not told asks again after toldPause
		t.Errorf("the median is %v; want at most %v, on a machine however busy", median, limit)
	}
}

// Who waits for a lock is not forgotten when the lock is renewed, or taken over because it
// was stale: he is told when it is given up.
func TestRenewalKeepsWaiters(t *testing.T) {
	everyDatabase(t, func(t *testing.T, d *database) {
		s := d.open(t, Options{})
		ctx, id := t.Context(), store.ID{App: "a", Session: "s"}
		if err := s.Create(ctx, id, &store.Record{Version: 1, Timeout: time.Hour}, false); err != nil {
			t.Fatal(err)
		}
		k, _ := keyOf(id)
		lock := func(owner uint64, wantWaited int) {
			t.Helper()
			if err := s.Lock(ctx, id, store.LockOptions{Owner: owner, Stale: time.Minute}, new(store.Record)); err != nil {
				t.Fatalf("Lock by %d: %v", owner, err)
			}
			var waited int
			if d.scan(t, "SELECT waited FROM "+s.names.table, &waited); waited != wantWaited {
				t.Errorf("after Lock by %d: waited is %d; want %d", owner, waited, wantWaited)
			}
		}
		lock(1, 0)
		if _, err := s.tryLock(ctx, k, store.LockOptions{Owner: 2, Stale: time.Minute}, true, new(store.Record)); wasRefused(err) != nil {
			t.Fatal(err)
		}
		lock(1, 1)
		d.advance(time.Hour / 2)
		lock(3, 1)
		if err := s.Unlock(ctx, id, store.Lock{Owner: 3}); err != nil {
			t.Fatal(err)
		}
		lock(4, 0) // and now nobody waits for this one
	})
}

// handover measures how long after its Unlock at one node a lock is had at the other.
func handover(t testing.TB, a, b *Store, told bool, n int) (median time.Duration) {
	ctx, id := context.Background(), store.ID{App: "/handover", Session: "s"}
	if err := a.Create(ctx, id, &store.Record{Version: 1, Timeout: time.Hour}, false); err != nil {
		t.Fatal(err)
	}
	var all []time.Duration
	for range n {
		rec, got := new(store.Record), make(chan time.Time)
		if err := a.Lock(ctx, id, store.LockOptions{Owner: store.NewOwner()}, rec); err != nil {
			t.Fatal(err)
		}
		go func() {
			other := new(store.Record)
			if err := b.Lock(ctx, id, store.LockOptions{Owner: store.NewOwner(), Wait: time.Minute}, other); err != nil {
				t.Errorf("Lock: %v", err)
			}
			got <- time.Now()
			if err := b.Unlock(ctx, id, other.Lock); err != nil {
				t.Errorf("Unlock: %v", err)
			}
			close(got)
		}()
		until(t, "it waits", func() bool {
			var waiting int
			if err := a.scan(ctx, "SELECT MAX(waited) FROM "+a.names.table, &waiting); err != nil {
				t.Fatal(err)
			}
			b.queue.mu.Lock()
			defer b.queue.mu.Unlock()
			return len(b.queue.lines) == 1 && (waiting == 1 || !told)
		})
		began := time.Now()
		if err := a.Unlock(ctx, id, rec.Lock); err != nil {
			t.Fatal(err)
		}
		all = append(all, (<-got).Sub(began))
		<-got
	}
	return middle(all)
}
