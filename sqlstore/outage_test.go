package sqlstore

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-session/holdfast/internal/servers"
	"github.com/holdfast-session/holdfast/sqlstore/pgnotify"
	"github.com/holdfast-session/holdfast/store"
)

// TestOutages has servers of its own, set as in production, fail while they are busy.
func TestOutages(t *testing.T) {
	t.Parallel()
	test := func(t *testing.T, d *database) {
		t.Run("Killed", func(t *testing.T) { killed(t, d) })
		t.Run("Paused", func(t *testing.T) { paused(t, d) })
	}
	t.Run("PostgreSQL", func(t *testing.T) {
		t.Parallel()
		test(t, inPostgres(t, servers.StartPostgres(t, &servers.PostgresOptions{Durable: true})))
	})
	t.Run("MariaDB", func(t *testing.T) {
		t.Parallel()
		test(t, inMariaDB(t, servers.StartMariaDB(t, &servers.MariaDBOptions{Durable: true})))
	})
}

// What a crash of PostgreSQL undoes that was answered: not that a session was removed, even
// where nothing is set to be durable; perhaps that a lock was given up, which is stale then.
func TestCrash(t *testing.T) {
	t.Parallel()
	d := inPostgres(t, servers.StartPostgres(t, &servers.PostgresOptions{Durable: true,
		Settings: []string{"synchronous_commit=off", "wal_writer_delay=10s"}})) // so that it is undone
	s := d.open(t, Options{})
	ctx := t.Context()
	removed, unlocked := store.ID{App: "a", Session: "removed"}, store.ID{App: "a", Session: "unlocked"}
	rec := new(store.Record)
	for _, id := range []store.ID{removed, unlocked} {
		if err := s.Create(ctx, id, &store.Record{Version: 1, Timeout: time.Hour}, false); err != nil {
			t.Fatal(err)
		}
		if err := s.Lock(ctx, id, store.LockOptions{Owner: 1, Stale: time.Minute}, rec); err != nil {
			t.Fatal(err)
		}
	}
	d.exec(t, "CHECKPOINT")
	if err := s.Remove(ctx, removed, store.Lock{Owner: 1}, store.Reason{Kind: store.Abandoned}); err != nil {
		t.Fatal(err)
	}
	if err := s.Unlock(ctx, unlocked, rec.Lock); err != nil {
		t.Fatal(err)
	}
	d.process.Kill()
	d.process.Restart()
	if err := s.Load(ctx, removed, rec); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Load of a session that was removed: %v; want that it is not there", err)
	}
	d.advance(time.Minute)
	if err := s.Lock(ctx, unlocked, store.LockOptions{Owner: 2, Stale: time.Minute}, rec); err != nil {
		t.Errorf("Lock of a session that was unlocked, when that is stale: %v", err)
	}
}

// A visits is a session with a number that visitors count up under the lock.
// What a visitor was told is acknowledged; what he was not told is in doubt.
type visits struct {
	s                     *Store
	id                    store.ID
	acknowledged, inDoubt atomic.Int64
}

// visit counts up once, as package holdfast does: it repeats what it got no answer to
// until its time is over.
func (v *visits) visit(ctx context.Context) error {
	rec := new(store.Record)
	o := store.LockOptions{Owner: store.NewOwner(), Wait: 5 * time.Second, Stale: 5 * time.Second}
	if err, _ := repeatedly(ctx, func() error { return v.s.Lock(ctx, v.id, o, rec) }); err != nil {
		return err
	}
	n, err := strconv.Atoi(string(rec.Body))
	if err != nil {
		return fmt.Errorf("the content is %q", rec.Body)
	}
	rec.Body, rec.Timeout = []byte(strconv.Itoa(n+1)), time.Hour
	next := store.NewVersion()
	err, unsure := repeatedly(ctx, func() error { return v.s.Save(ctx, v.id, rec, next, false) })
	switch {
	case err == nil:
		v.acknowledged.Add(1)
	case unsure: // also if it was refused then: four others may have saved since
		v.inDoubt.Add(1)
	}
	return err
}

// repeatedly makes a call until its outcome is known, and says whether it ever was not.
func repeatedly(ctx context.Context, call func() error) (err error, unsure bool) {
	for {
		err = call()
		unsure = unsure || errors.Is(err, store.ErrUnsure) || errors.Is(err, context.DeadlineExceeded)
		if !errors.Is(err, store.ErrUnsure) && !errors.Is(err, store.ErrUnavailable) || sleep(ctx, 5*time.Millisecond) != nil {
			return err, unsure
		}
	}
}

// total reads the counter.
func (v *visits) total(t *testing.T) int64 {
	t.Helper()
	rec := new(store.Record)
	if err := v.s.Load(context.Background(), v.id, rec); err != nil {
		t.Fatal(err)
	}
	n, err := strconv.ParseInt(string(rec.Body), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// busy has visitors come to several sessions, two at a time to each, until stop is called,
// which returns when they are gone.
func busy(t *testing.T, s *Store, patience time.Duration) (all []*visits, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for i := range 4 {
		v := &visits{s: s, id: store.ID{App: "/shop", Session: fmt.Sprint(i)}}
		if err := s.Create(ctx, v.id, &store.Record{Version: store.NewVersion(), Timeout: time.Hour, Body: []byte("0")}, false); err != nil {
			t.Fatal(err)
		}
		all = append(all, v)
		for range 2 {
			wg.Go(func() {
				for ctx.Err() == nil {
					one, cancel := context.WithTimeout(context.Background(), patience)
					err := v.visit(one)
					cancel()
					var locked *store.LockedError
					switch {
					case err == nil, errors.As(err, &locked), errors.Is(err, context.DeadlineExceeded),
						errors.Is(err, store.ErrUnavailable), errors.Is(err, store.ErrUnsure), errors.Is(err, store.ErrLockLost):
					default:
						t.Errorf("a visit: %v", err)
						return
					}
				}
			})
		}
	}
	return all, func() { cancel(); wg.Wait() }
}

func sum(all []*visits) (n int64) {
	for _, v := range all {
		n += v.acknowledged.Load()
	}
	return n
}

// more waits until the visitors have been answered n more times.
func more(t *testing.T, all []*visits, n int64) {
	t.Helper()
	from := sum(all)
	until(t, fmt.Sprintf("%d more visits", n), func() bool { return sum(all) >= from+n })
}

// check checks that nothing is lost, nothing is there twice, and no connection is.
func check(t *testing.T, d *database, all []*visits) {
	t.Helper()
	for _, v := range all {
		got, least, most := v.total(t), v.acknowledged.Load(), v.acknowledged.Load()+v.inDoubt.Load()
		if got < least || got > most {
			t.Errorf("the session %s counted to %d; want at least the %d visits that were told so, and at most %d with those in doubt", v.id.Session, got, least, most)
		}
	}
	until(t, "no connection is in use but the one that listens", func() bool { return d.db.Stats().InUse <= 1 })
}

// killed kills the server again and again, whatever the connections are doing.
func killed(t *testing.T, d *database) {
	o := Options{}
	if d.dialect == PostgreSQL {
		o.Notifier = pgnotify.New(d.db)
	}
	s := d.open(t, o)
	all, stop := busy(t, s, 20*time.Second)
	for range 3 {
		more(t, all, 30)
		d.process.Kill()
		d.process.Restart()
	}
	more(t, all, 30)
	stop()
	check(t, d, all)
	t.Logf("%d visits, nothing lost", sum(all))
}

// paused stops the server where it is. Requests wait, those that have no time fail, and
// nothing is lost when it goes on.
func paused(t *testing.T, d *database) {
	pause := 1500 * time.Millisecond
	if long() {
		pause = 5 * time.Second
	}
	s := d.open(t, Options{})
	all, stop := busy(t, s, pause/3)
	more(t, all, 30)
	d.process.Pause()
	before := sum(all)
	ctx, cancel := context.WithTimeout(t.Context(), pause)
	err := s.Load(ctx, all[0].id, new(store.Record))
	cancel()
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Load of a server that does not answer: %v; want the error of its context", err)
	}
	if n := sum(all) - before; n > 8 { // whose answers were on their way
		t.Errorf("%d visits to a server that was stopped", n)
	}
	d.process.Resume()
	more(t, all, 30)
	stop()
	check(t, d, all)
}
