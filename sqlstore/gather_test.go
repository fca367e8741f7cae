package sqlstore

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-session/holdfast/store"
)

// together makes each call of a store one of those that are made together.
func (s *Store) together() {
	for _, st := range []*statement{s.st.load, s.st.lock, s.st.saveMine, s.st.unlock} {
		st.gathering.least = 1
	}
}

// A trip is what was made in one statement.
type trip struct {
	calls int
	alone bool
}

// A counterpart stands for the database: each trip takes a while.
type counterpart struct {
	gathering
	mu    sync.Mutex
	trips []trip
}

func newCounterpart(takes func(n int) time.Duration) *counterpart {
	p := new(counterpart)
	p.least, p.patience = 2, patience
	p.spawn = func(f func()) { go f() }
	p.gathering.together = func(ctx context.Context, calls []*call) {
		n := p.note(trip{calls: len(calls)})
		select {
		case <-time.After(takes(n)):
		case <-ctx.Done():
		}
		for i, c := range calls {
			c.changed, c.err = true, ctx.Err()
			for _, other := range calls[:i] {
				if other.id == c.id {
					c.err = errors.New("a session twice")
				}
			}
		}
	}
	p.single = func(ctx context.Context, c *call) {
		n := p.note(trip{1, true})
		select {
		case <-time.After(takes(n)):
		case <-ctx.Done():
		}
		c.changed, c.err = true, ctx.Err()
	}
	return p
}

func (p *counterpart) note(tr trip) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.trips = append(p.trips, tr)
	return len(p.trips)
}

func (p *counterpart) visit(ctx context.Context, id byte, takes time.Duration) error {
	c, err := p.do(ctx, key{id}, new(args), func() error {
		p.note(trip{1, true})
		time.Sleep(takes)
		return nil
	})
	if err == nil && c != nil && !c.changed {
		return errors.New("not made")
	}
	return err
}

func TestGathering(t *testing.T) {
	const took = 10 * time.Millisecond
	same := func(int) time.Duration { return took }
	run := func(name string, takes func(int) time.Duration, test func(t *testing.T, p *counterpart), want ...trip) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newCounterpart(takes)
				test(t, p)
				synctest.Wait()
				if got := fmt.Sprint(p.trips); got != fmt.Sprint(want) {
					t.Errorf("trips: %v; want %v", got, want)
				}
				if p.running != 0 || len(p.waiting) != 0 {
					t.Errorf("%d are running and %d waiting at the end", p.running, len(p.waiting))
				}
			})
		})
	}
	// crowd has so many come one after the other, while the first is at the database.
	crowd := func(t *testing.T, p *counterpart, ids ...byte) time.Duration {
		began := time.Now()
		var all sync.WaitGroup
		for _, id := range ids {
			all.Go(func() {
				if err := p.visit(t.Context(), id, took); err != nil {
					t.Errorf("%d: %v", id, err)
				}
			})
			synctest.Wait()
		}
		all.Wait()
		return time.Since(began)
	}
	many := func(n int) (ids []byte) {
		for i := range n {
			ids = append(ids, byte(i))
		}
		return ids
	}

	run("one after the other", same, func(t *testing.T, p *counterpart) {
		for range 3 {
			if took2 := crowd(t, p, 1); took2 != took {
				t.Errorf("took %v; want %v", took2, took)
			}
		}
	}, trip{1, true}, trip{1, true}, trip{1, true})
	run("two", same, func(t *testing.T, p *counterpart) { crowd(t, p, 1, 2) }, trip{1, true}, trip{1, true})
	run("some", same, func(t *testing.T, p *counterpart) {
		if took2 := crowd(t, p, many(8)...); took2 != 2*took {
			t.Errorf("took %v; want %v", took2, 2*took)
		}
	}, trip{1, true}, trip{7, false})
	run("one session twice", same, func(t *testing.T, p *counterpart) { crowd(t, p, 1, 2, 3, 2) },
		trip{1, true}, trip{2, false}, trip{1, true})
	run("so many that they do not wait", same, func(t *testing.T, p *counterpart) {
		if took2 := crowd(t, p, many(40)...); took2 != 2*took {
			t.Errorf("took %v; want %v", took2, 2*took)
		}
	}, trip{1, true}, trip{16, false}, trip{16, false}, trip{7, false})
	run("the first is stuck", same, func(t *testing.T, p *counterpart) {
		stuck := make(chan error)
		go func() { stuck <- p.visit(t.Context(), 99, time.Hour) }()
		synctest.Wait()
		if took2 := crowd(t, p, 1, 2, 3); took2 != patience+took {
			t.Errorf("took %v; want %v", took2, patience+took)
		}
		if err := <-stuck; err != nil {
			t.Error(err)
		}
	}, trip{1, true}, trip{3, false})
	run("two of one session, and all before are stuck", func(n int) time.Duration { return time.Hour / time.Duration(n*n*n) }, func(t *testing.T, p *counterpart) {
		var stuck sync.WaitGroup
		for _, id := range []byte{99, 1, 2} {
			stuck.Go(func() { p.visit(t.Context(), id, time.Hour) })
			synctest.Wait()
		}
		// Whose timer is the first is not certain.
		if took2 := crowd(t, p, 2); took2 > 2*patience+took {
			t.Errorf("took %v; want %v at most", took2, 2*patience+took)
		}
		stuck.Wait()
		p.trips = nil
	})
	run("some leave", func(int) time.Duration { return time.Hour }, func(t *testing.T, p *counterpart) {
		var all sync.WaitGroup
		all.Go(func() { p.visit(t.Context(), 99, took) })
		synctest.Wait()
		for i := range byte(4) { // the first leaves before it is made, the others meanwhile
			ctx, cancel := context.WithTimeout(t.Context(), took/2+time.Duration(i)*took)
			defer cancel()
			all.Go(func() {
				if err := p.visit(ctx, i, took); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("%d: %v; want that its time is over", i, err)
				}
			})
			synctest.Wait()
		}
		began := time.Now()
		all.Wait()
		if took2 := time.Since(began); took2 != took/2+3*took {
			t.Errorf("took %v", took2)
		}
	}, trip{1, true}, trip{3, false})
	run("it leaves when its turn comes", same, func(t *testing.T, p *counterpart) {
		for range 100 { // whichever comes first
			ctx, cancel := context.WithTimeout(t.Context(), took)
			var all sync.WaitGroup
			all.Go(func() { p.visit(t.Context(), 1, took) })
			synctest.Wait()
			all.Go(func() { p.visit(ctx, 2, took) })
			all.Wait()
			cancel()
			p.trips = nil
		}
	})
}

// What was made for a caller who had gone is undone, and nothing else.
func TestUndoOfWhoLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const took = time.Minute
		p := newCounterpart(func(int) time.Duration { return took })
		var undone []byte
		p.undo = func(c *call) { undone = append(undone, c.id[0]) }
		var all sync.WaitGroup
		all.Go(func() { p.visit(t.Context(), 99, time.Hour) })
		synctest.Wait()
		// The first leaves before it is made, the second meanwhile.
		for i, stays := range []time.Duration{patience / 2, took / 2, time.Hour} {
			all.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), stays)
				defer cancel()
				if err := p.visit(ctx, byte(i), took); (err == nil) != (stays > took) {
					t.Errorf("%d: %v", i, err)
				}
			})
		}
		all.Wait()
		if fmt.Sprint(undone) != "[1]" {
			t.Errorf("undone were %v; want [1]", undone)
		}
	})
}

// Of two locks that are taken in one statement, one has to wait for its row; the visitor
// who wants the other leaves meanwhile. Nobody has that lock afterwards.
func TestLockOfWhoLeft(t *testing.T) {
	t.Parallel()
	for _, each := range databases[:2] { // where rows have locks of their own
		t.Run(each.name, func(t *testing.T) {
			t.Parallel()
			d := each.make(t)
			db, count := d.counted(t)
			s := d.openAt(t, db, Options{Dialect: d.dialect})
			s.st.lock.gathering.patience = time.Hour // both have come when leave says that they may go
			ids := []store.ID{{App: "a", Session: "0"}, {App: "a", Session: "1"}}
			for _, id := range ids {
				if err := s.Create(t.Context(), id, &store.Record{Version: 1, Timeout: time.Hour}, false); err != nil {
					t.Fatal(err)
				}
			}
			for stuck := range ids { // the first row that the statement comes to, and the second
				leave(t, d, s, count, ids[stuck], ids[1-stuck])
			}
		})
	}
}

func leave(t *testing.T, d *database, s *Store, count *counter, stuck, left store.ID) {
	ctx := t.Context()
	tx, err := d.db.BeginTx(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	k, _ := keyOf(stuck)
	hold := compile(s.d, s.names, "UPDATE "+inTable+" SET waited = waited + 1 WHERE id = :id")
	if _, err := tx.Exec(hold.text, hold.values(&args{pID: k[:]})...); err != nil {
		t.Fatal(err)
	}
	g := s.st.lock.gathering
	g.mu.Lock()
	g.running++ // as if somebody else were at the database
	g.mu.Unlock()
	stays := make(chan error, 1)
	go func() { stays <- s.Lock(ctx, stuck, store.LockOptions{Owner: 1}, new(store.Record)) }()
	short, cancel := context.WithCancel(ctx)
	leaves := make(chan error, 1)
	go func() { leaves <- s.Lock(short, left, store.LockOptions{Owner: 2}, new(store.Record)) }()
	waiting := func() int {
		g.mu.Lock()
		defer g.mu.Unlock()
		return len(g.waiting)
	}
	until(t, "both wait", func() bool { return waiting() == 2 })
	count.take()
	g.back() // both go, in one statement
	cancel()
	if err := <-leaves; !errors.Is(err, context.Canceled) {
		t.Errorf("Lock of the visitor who left: %v", err)
	}
	if d.dialect == PostgreSQL { // what he gives back then finds nothing that it has to wait for
		until(t, "he gives back what he perhaps has", func() bool { return strings.Contains(verbs(count.take()), "SELECT") })
	}
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	if err := <-stays; err != nil {
		t.Errorf("Lock of the visitor who stayed: %v", err)
	}
	until(t, "the lock of the visitor who left is free", func() bool {
		rec := new(store.Record)
		if err := s.Load(ctx, left, rec); err != nil {
			t.Fatal(err)
		}
		return !rec.Locked
	})
	if err := s.Unlock(ctx, stuck, store.Lock{Owner: 1}); err != nil {
		t.Fatal(err)
	}
}

// A visitor leaves before the database has come to his Lock, which it carries out all the
// same, and after what he gave back. Nobody has that lock afterwards.
func TestLockTakenLate(t *testing.T) {
	everyDatabase(t, func(t *testing.T, d *database) {
		s := d.open(t, Options{})
		if !s.d.gathers() {
			return
		}
		ctx := t.Context()
		id := store.ID{App: "/", Session: "s"}
		if err := s.Create(ctx, id, &store.Record{Version: 1, Timeout: time.Hour}, false); err != nil {
			t.Fatal(err)
		}
		g := s.st.lock.gathering
		sent, comes, taken := make(chan struct{}), make(chan struct{}), make(chan bool)
		single := g.single
		g.single = func(ctx context.Context, c *call) {
			close(sent)
			<-comes
			single(ctx, c)
			taken <- c.changed && c.err == nil
		}
		short, cancel := context.WithCancel(ctx)
		left := make(chan error)
		go func() { left <- s.Lock(short, id, store.LockOptions{Owner: 1}, new(store.Record)) }()
		<-sent
		cancel()
		if err := <-left; !errors.Is(err, context.Canceled) {
			t.Errorf("Lock of the visitor who left: %v", err)
		}
		close(comes)
		if !<-taken {
			t.Fatal("the lock was not taken")
		}
		until(t, "it is free", func() bool {
			rec := new(store.Record)
			if err := s.Load(ctx, id, rec); err != nil {
				t.Fatal(err)
			}
			return !rec.Locked
		})
	})
}

// TestTogether has many visitors at once, of sessions of which some are locked and some
// are not there: each gets what it would get alone, in fewer statements.
func TestTogether(t *testing.T) {
	everyDatabase(t, func(t *testing.T, d *database) {
		db, count := d.counted(t)
		s := d.openAt(t, db, Options{Dialect: d.dialect})
		if !s.d.gathers() {
			return
		}
		ctx := t.Context()
		const n = 60
		id := func(i int) store.ID { return store.ID{App: "/", Session: fmt.Sprint(i)} }
		for i := range n {
			if i%10 == 9 {
				continue
			}
			if err := s.Create(ctx, id(i), &store.Record{Version: 1, Timeout: time.Hour, Body: fmt.Append(nil, "body ", i)}, i%10 == 8); err != nil {
				t.Fatal(err)
			}
		}
		count.take()
		g := s.st.lock.gathering
		g.mu.Lock()
		g.running++ // as if somebody else were at the database
		g.mu.Unlock()
		var all sync.WaitGroup
		for i := range n {
			all.Go(func() {
				rec := new(store.Record)
				err := s.Lock(ctx, id(i), store.LockOptions{Owner: uint64(i + 1)}, rec)
				var locked *store.LockedError
				switch {
				case i%10 == 9:
					if !errors.Is(err, store.ErrNotFound) {
						t.Errorf("Lock of %d, which is not there: %v", i, err)
					}
					return
				case i%10 == 8:
					if !errors.As(err, &locked) {
						t.Errorf("Lock of %d, which is locked: %v", i, err)
					}
					return
				case err != nil || string(rec.Body) != fmt.Sprint("body ", i) || rec.Lock.Owner != uint64(i+1):
					t.Errorf("Lock of %d: %q, %+v, %v", i, rec.Body, rec.Lock, err)
					return
				}
				if i%2 == 0 {
					if err := s.Unlock(ctx, id(i), rec.Lock); err != nil {
						t.Errorf("Unlock of %d: %v", i, err)
					}
					return
				}
				rec.Body = fmt.Append(nil, "changed ", i)
				if i%10 == 7 {
					rec.Lock.Cookie++ // which is not the lock that it has
				}
				if err := s.Save(ctx, id(i), rec, 2, false); (i%10 == 7) != errors.Is(err, store.ErrLockLost) || err != nil && i%10 != 7 {
					t.Errorf("Save of %d: %v", i, err)
				}
			})
		}
		all.Wait()
		g.back()
		asked := len(count.take())
		t.Logf("%d statements for %d visitors", asked, n)
		if asked > 2*n {
			t.Errorf("%d statements for %d visitors; want at most two each, since their locks are taken together", asked, n)
		}
		for i := range n {
			rec, want := new(store.Record), fmt.Sprint("body ", i)
			if i%2 == 1 && i%10 != 7 {
				want = fmt.Sprint("changed ", i)
			}
			if i%10 == 9 {
				continue
			}
			if err := s.Load(ctx, id(i), rec); err != nil || string(rec.Body) != want {
				t.Errorf("%d holds %q, %v; want %q", i, rec.Body, err, want)
			}
		}
	})
}
