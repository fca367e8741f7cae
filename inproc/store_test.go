package inproc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/holdfast-session/holdfast/store"
)

var ctx = context.Background()

func sid(name string) store.ID { return store.ID{App: "/", Session: name} }

// advance moves the fake clock of a bubble and lets everybody do what that brings.
func advance(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func open(t testing.TB, o *Options) *Store {
	s := New(o)
	t.Cleanup(func() { s.Close() })
	return s
}

// create makes a session whose content is its version, and returns its record.
func create(t testing.TB, s *Store, id store.ID, timeout time.Duration) store.Record {
	t.Helper()
	v := store.NewVersion()
	rec := store.Record{Version: v, Timeout: timeout, Items: v}
	if err := s.Create(ctx, id, &rec, false); err != nil {
		t.Fatalf("Create: %v", err)
	}
	return rec
}

// lock takes the lock at once.
func lock(t testing.TB, s *Store, id store.ID, owner uint64, stale time.Duration) store.Record {
	t.Helper()
	var rec store.Record
	if err := s.Lock(ctx, id, store.LockOptions{Owner: owner, Stale: stale}, &rec); err != nil {
		t.Fatalf("Lock by %d: %v", owner, err)
	}
	return rec
}

func load(t testing.TB, s *Store, id store.ID) store.Record {
	t.Helper()
	var rec store.Record
	if err := s.Load(ctx, id, &rec); err != nil {
		t.Fatalf("Load: %v", err)
	}
	return rec
}

// save saves rec with its version as the content.
func save(t testing.TB, s *Store, id store.ID, rec store.Record, hold bool) store.Version {
	t.Helper()
	next := store.NewVersion()
	rec.Items = next
	if err := s.Save(ctx, id, &rec, next, hold); err != nil {
		t.Fatalf("Save: %v", err)
	}
	return next
}

func wantErr(t testing.TB, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

func wantReason(t testing.TB, what string, err error, want store.Reason) {
	t.Helper()
	if got := store.ReasonOf(err); !errors.Is(err, store.ErrNotFound) || got != want {
		t.Errorf("%s: %v (reason %+v), want not found with %+v", what, err, got, want)
	}
}

// checkIdle checks that an empty store has nothing left that could wake it.
func checkIdle(t testing.TB, s *Store) {
	t.Helper()
	if n, at := s.count.Load(), s.sweeper.At(); n != 0 || at != never {
		t.Errorf("%d sessions, timer at tick %d; want none and never", n, at)
	}
	if b, x := s.bytes.Load(), len(s.subjects.byName); b != 0 || x != 0 {
		t.Errorf("%d bytes, %d subjects; want none", b, x)
	}
	for i := range s.shard {
		sh := &s.shard[i]
		if sh.sessions.used != 0 || sh.wheel.Next() != never {
			t.Errorf("shard %d: %d sessions, wheel's next tick %d", i, sh.sessions.used, sh.wheel.Next())
		}
	}
}

func TestRecordComesBackWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, nil)
		rec := store.Record{
			Version: 5, History: [3]store.Version{4, 3, 2}, Timeout: 90*time.Second + 1, Created: time.Unix(1e9, 7),
			Flags: store.Uninitialized | store.Moving, Subject: "alice", Items: "content", Lock: store.Lock{Owner: 9},
		}
		if err := s.Create(ctx, sid("a"), &rec, true); err != nil {
			t.Fatal(err)
		}
		if rec.Lock.Cookie <= 0 {
			t.Errorf("Create set the cookie %d", rec.Lock.Cookie)
		}
		advance(3 * time.Second)
		got := store.Record{Body: []byte("left from before"), Acquired: 77, Subject: "bob"}
		if err := s.Load(ctx, sid("a"), &got); err != nil {
			t.Fatal(err)
		}
		want := rec
		want.Locked, want.LockAge, want.Acquired, want.Timeout = true, 3*time.Second, 5, 91*time.Second
		want.Created = want.Created.UTC()
		if len(got.Body) != 0 {
			t.Errorf("a body of %d bytes besides the items", len(got.Body))
		}
		got.Body = nil
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("Load:\n %+v, want\n %+v", got, want)
		}
	})
}

func TestCreatedIsNowByDefault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, nil)
		advance(time.Minute)
		create(t, s, sid("a"), time.Hour)
		if got := load(t, s, sid("a")).Created; !got.Equal(time.Now()) {
			t.Errorf("Created %v, want %v", got, time.Now())
		}
	})
}

func TestBodyIsCopied(t *testing.T) {
	s := open(t, nil)
	in := []byte("first")
	rec := store.Record{Version: 1, Timeout: time.Minute, Body: in}
	if err := s.Create(ctx, sid("a"), &rec, false); err != nil {
		t.Fatal(err)
	}
	copy(in, "XXXXX")
	rec.Body = make([]byte, 0, 100)
	room := &rec.Body[:1][0]
	if err := s.Load(ctx, sid("a"), &rec); err != nil || string(rec.Body) != "first" || rec.Items != nil {
		t.Fatalf("Load: %v, body %q, items %v", err, rec.Body, rec.Items)
	}
	if &rec.Body[0] != room {
		t.Error("the body was not appended to rec.Body[:0]")
	}
	copy(rec.Body, "YYYYY")
	out := rec.Body
	rec.Body = []byte("second")
	if err := s.Save(ctx, sid("a"), &rec, 2, false); err != nil {
		t.Fatal(err)
	}
	if got := load(t, s, sid("a")); string(got.Body) != "second" || string(out) != "YYYYY" {
		t.Errorf("body %q, an earlier one %q", got.Body, out)
	}
	rec.Version, rec.Body, rec.Items = 2, nil, 7
	if err := s.Save(ctx, sid("a"), &rec, 3, false); err != nil {
		t.Fatal(err)
	}
	if got := load(t, s, sid("a")); got.Items != 7 || len(got.Body) != 0 {
		t.Errorf("items %v, body %q; want only items", got.Items, got.Body)
	}
}

func TestBodyThatShrankGivesMemoryBack(t *testing.T) {
	s := open(t, nil)
	rec := store.Record{Version: 1, Timeout: time.Minute, Body: make([]byte, 1<<20)}
	if err := s.Create(ctx, sid("a"), &rec, false); err != nil {
		t.Fatal(err)
	}
	rec.Body = []byte("small")
	if err := s.Save(ctx, sid("a"), &rec, 2, false); err != nil {
		t.Fatal(err)
	}
	key := s.key(sid("a"))
	if c := cap(s.of(key).sessions.get(key, sid("a")).content.(*body).bytes); c > 1024 {
		t.Errorf("%d bytes are kept for 5", c)
	}
}

// aliasing is a string over a buffer, as servers make them of what they read.
func aliasing(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// TestIDsAreCloned gives the store IDs that alias a buffer, as a server does.
func TestIDsAreCloned(t *testing.T) {
	s := open(t, nil)
	buf := bytes.Repeat([]byte("a"), 8)
	id := func() store.ID { return store.ID{App: aliasing(buf[:4]), Session: aliasing(buf[4:])} }
	rec := store.Record{Version: 1, Timeout: time.Minute, Subject: aliasing(buf[2:6])}
	if err := s.Create(ctx, id(), &rec, false); err != nil {
		t.Fatal(err)
	}
	copy(buf, "bbbbbbbb")
	wantErr(t, "Touch of another session", s.Touch(ctx, id()), store.ErrNotFound)
	if got := load(t, s, store.ID{App: "aaaa", Session: "aaaa"}); got.Subject != "aaaa" {
		t.Errorf("subject %q", got.Subject)
	}
}

func TestEveryCallMinds(t *testing.T) {
	s := open(t, nil)
	create(t, s, sid("a"), time.Minute)
	done, cancel := context.WithCancel(ctx)
	cancel()
	var rec store.Record
	for name, err := range map[string]error{
		"Load":   s.Load(done, sid("a"), &rec),
		"Lock":   s.Lock(done, sid("a"), store.LockOptions{Owner: 1}, &rec),
		"Create": s.Create(done, sid("b"), &rec, false),
		"Save":   s.Save(done, sid("a"), &rec, 1, false),
		"Unlock": s.Unlock(done, sid("a"), store.Lock{Owner: 1}),
		"Remove": s.Remove(done, sid("a"), store.Lock{}, store.Reason{}),
		"Touch":  s.Touch(done, sid("a")),
	} {
		wantErr(t, name+" with a context that has ended", err, context.Canceled)
	}
	if load(t, s, sid("a")).Locked {
		t.Error("locked by nobody")
	}
}

// TestSaveRules walks through the rules of Save in their order.
func TestSaveRules(t *testing.T) {
	s := open(t, nil)
	id := sid("a")
	wantErr(t, "absent", s.Save(ctx, id, &store.Record{}, 9, false), store.ErrNotFound)

	first := create(t, s, id, time.Minute)
	mine := lock(t, s, id, 1, 0)
	var locked *store.LockedError
	if err := s.Save(ctx, id, &first, 9, false); !errors.As(err, &locked) || locked.Lock != mine.Lock {
		t.Errorf("merge under a lock: %v, want a LockedError that names it", err)
	}
	other := mine
	other.Lock.Owner = 2
	wantErr(t, "another's lock", s.Save(ctx, id, &other, 9, false), store.ErrLockLost)

	v2 := save(t, s, id, mine, true)
	rec := load(t, s, id)
	if !rec.Locked || rec.Lock != mine.Lock || rec.Acquired != v2 || rec.Version != v2 || rec.History[0] != first.Version {
		t.Errorf("after a save with hold: %+v", rec)
	}
	wantErr(t, "its repeat", s.Save(ctx, id, &mine, v2, true), nil)
	if !load(t, s, id).Locked {
		t.Error("the repeat gave the lock up")
	}
	wantErr(t, "the lock with an old version", s.Save(ctx, id, &mine, 9, false), store.ErrLockLost)

	mine.Version = v2
	v3 := save(t, s, id, mine, false)
	wantErr(t, "its repeat", s.Save(ctx, id, &mine, v3, false), nil)
	wantErr(t, "merge with an old version", s.Save(ctx, id, &first, 9, false), store.ErrConflict)
	wantErr(t, "a lock long gone", s.Save(ctx, id, &mine, 9, false), store.ErrLockLost)

	// A lock that is gone still saves what nobody has changed.
	mine = lock(t, s, id, 3, 0)
	wantErr(t, "Unlock", s.Unlock(ctx, id, mine.Lock), nil)
	v4 := save(t, s, id, mine, true)
	if rec = load(t, s, id); !rec.Locked || rec.Lock != mine.Lock || rec.Acquired != v4 {
		t.Errorf("lock taken again: %+v, want %+v", rec, mine.Lock)
	}
	mine.Version = v4
	v5 := save(t, s, id, mine, false)
	wantErr(t, "a version five writes old", s.Save(ctx, id, &first, first.Version, false), store.ErrConflict)
	wantErr(t, "a version three writes old", s.Save(ctx, id, &first, v2, false), nil)
	if rec = load(t, s, id); rec.Version != v5 || rec.Items != v5 || rec.Locked || rec.Lock.Owner != 0 || rec.Lock.Cookie != mine.Lock.Cookie {
		t.Errorf("at the end: %+v", rec)
	}
}

func TestCreateRepeated(t *testing.T) {
	s := open(t, nil)
	rec := store.Record{Version: 1, Timeout: time.Minute, Lock: store.Lock{Owner: 5}}
	wantErr(t, "Create", s.Create(ctx, sid("a"), &rec, true), nil)
	again := store.Record{Version: 1, Timeout: time.Minute, Lock: store.Lock{Owner: 5}}
	wantErr(t, "its repeat", s.Create(ctx, sid("a"), &again, true), nil)
	if again.Lock != rec.Lock {
		t.Errorf("the repeat got the lock %+v, the first call %+v", again.Lock, rec.Lock)
	}
	save(t, s, sid("a"), rec, false)
	wantErr(t, "a repeat after a save", s.Create(ctx, sid("a"), &again, true), nil)
	wantErr(t, "another's", s.Create(ctx, sid("a"), &store.Record{Version: 2}, false), store.ErrExists)
	wantErr(t, "one without a version", s.Create(ctx, sid("a"), &store.Record{}, false), store.ErrExists)
}

func TestRemoveAndUnlockMindTheLock(t *testing.T) {
	s := open(t, nil)
	id := sid("a")
	create(t, s, id, time.Minute)
	wantErr(t, "Unlock of what is free", s.Unlock(ctx, id, store.Lock{Owner: 1}), nil)
	wantErr(t, "Remove with a lock of what is free", s.Remove(ctx, id, store.Lock{Owner: 1}, store.Reason{}), store.ErrLockLost)
	held := lock(t, s, id, 1, 0).Lock
	for _, l := range []store.Lock{{Owner: 2}, {Cookie: held.Cookie ^ 1}, {Cookie: held.Cookie, Owner: 2}} {
		wantErr(t, "Unlock of another's", s.Unlock(ctx, id, l), store.ErrLockLost)
		wantErr(t, "Remove with another's", s.Remove(ctx, id, l, store.Reason{}), store.ErrLockLost)
	}
	wantErr(t, "Unlock with the zero lock", s.Unlock(ctx, id, store.Lock{}), store.ErrLockLost)
	wantErr(t, "Remove by cookie", s.Remove(ctx, id, store.Lock{Cookie: held.Cookie}, store.Reason{Kind: store.Abandoned}), nil)
	wantErr(t, "Unlock", s.Unlock(ctx, id, held), store.ErrNotFound)
}

func TestAppsNeverMeet(t *testing.T) {
	s := open(t, nil)
	a, b := store.ID{App: "a", Session: "b"}, store.ID{App: "b", Session: "a"}
	same := store.ID{App: "b", Session: "b"}
	create(t, s, a, time.Minute)
	for _, id := range []store.ID{b, same, {App: "ab"}, {Session: "ab"}} {
		err := s.Touch(ctx, id)
		wantErr(t, fmt.Sprint(id), err, store.ErrNotFound)
	}
	create(t, s, same, time.Minute)
	wantErr(t, "Remove", s.Remove(ctx, a, store.Lock{}, store.Reason{Kind: store.Abandoned}), nil)
	wantErr(t, "the other application's session", s.Touch(ctx, same), nil)
}

func TestWorksAfterClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(nil)
		create(t, s, sid("a"), time.Minute)
		for range 2 {
			wantErr(t, "Close", s.Close(), nil)
		}
		create(t, s, sid("b"), time.Minute)
		wantErr(t, "Touch", s.Touch(ctx, sid("a")), nil)
		advance(time.Hour)
		if n := s.count.Load(); n != 2 {
			t.Errorf("%d sessions, want 2: nobody sweeps any more", n)
		}
		wantErr(t, "Touch of what has expired", s.Touch(ctx, sid("a")), store.ErrNotFound)
	})
}

// TestTable compares a table with a map, with keys that meet often.
func TestTable(t *testing.T) {
	var tab table
	model := map[store.ID]*entry{}
	key := func(id store.ID) uint64 { return uint64(len(id.Session)) * 0x100000003 }
	rng := rand.New(rand.NewPCG(1, 2))
	for step := range 20000 {
		name := make([]byte, 1+rng.IntN(40))
		for i := range name {
			name[i] = 'a' + byte(rng.IntN(2))
		}
		id := sid(string(name))
		if rng.IntN(100) < 1 { // now and then most of them go
			for id, e := range model {
				if rng.IntN(10) > 0 {
					tab.delete(key(id), e)
					delete(model, id)
				}
			}
		}
		e := tab.get(key(id), id)
		if e != model[id] {
			t.Fatalf("step %d: get %s: %p, want %p", step, name, e, model[id])
		}
		if e == nil {
			e = newEntry(id, &store.Record{})
			tab.put(key(id), e)
			model[id] = e
		} else if rng.IntN(3) == 0 {
			tab.delete(key(id), e)
			delete(model, id)
		}
		if tab.used != len(model) {
			t.Fatalf("step %d: %d used, want %d", step, tab.used, len(model))
		}
	}
	for id, e := range model {
		if tab.get(key(id), id) != e {
			t.Errorf("%v is lost", id)
		}
		tab.delete(key(id), e)
	}
	if tab.used != 0 || len(tab.slots) > minSlots {
		t.Errorf("empty: %d used of %d slots", tab.used, len(tab.slots))
	}
}

// TestHammer has goroutines count in a few sessions, some giving up early, some
// ending sessions. No count may be lost, and everything is quiet in the end.
func TestHammer(t *testing.T) {
	s := open(t, nil)
	const sessions, workers, rounds = 4, 16, 300
	var acked, removed [sessions]atomic.Int64
	for i := range sessions {
		rec := store.Record{Version: 1, Timeout: time.Hour, Items: int64(0)}
		if err := s.Create(ctx, sid(fmt.Sprint(i)), &rec, false); err != nil {
			t.Fatal(err)
		}
	}
	var all sync.WaitGroup
	for w := range workers {
		all.Go(func() {
			rng := rand.New(rand.NewPCG(3, uint64(w)))
			for range rounds {
				n := rng.IntN(sessions)
				id := sid(fmt.Sprint(n))
				c, cancel := ctx, context.CancelFunc(func() {})
				if rng.IntN(3) == 0 {
					c, cancel = context.WithTimeout(ctx, time.Duration(rng.IntN(200))*time.Microsecond)
				}
				var rec store.Record
				err := s.Lock(c, id, store.LockOptions{Owner: store.NewOwner(), Wait: time.Minute}, &rec)
				cancel()
				switch {
				case errors.Is(err, context.DeadlineExceeded), errors.Is(err, store.ErrNotFound):
					continue
				case err != nil:
					t.Errorf("Lock: %v", err)
					return
				}
				count := rec.Items.(int64)
				if rng.IntN(50) == 0 {
					if err := s.Remove(ctx, id, rec.Lock, store.Reason{Kind: store.Abandoned}); err != nil {
						t.Errorf("Remove: %v", err)
					}
					removed[n].Add(count)
					fresh := store.Record{Version: store.NewVersion(), Timeout: time.Hour, Items: int64(0)}
					if err := s.Create(ctx, id, &fresh, false); err != nil {
						t.Errorf("Create: %v", err)
					}
					continue
				}
				rec.Items = count + 1
				if err := s.Save(ctx, id, &rec, store.NewVersion(), false); err != nil {
					t.Errorf("Save: %v", err)
				}
				acked[n].Add(1)
			}
		})
	}
	all.Wait()
	for i := range sessions {
		rec := load(t, s, sid(fmt.Sprint(i)))
		if got := rec.Items.(int64) + removed[i].Load(); got != acked[i].Load() || rec.Locked {
			t.Errorf("session %d: counted %d, acknowledged %d, locked %v", i, got, acked[i].Load(), rec.Locked)
		}
		wantErr(t, "Remove", s.Remove(ctx, sid(fmt.Sprint(i)), store.Lock{}, store.Reason{}), nil)
	}
	checkIdle(t, s)
}
