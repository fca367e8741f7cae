package sqlstore

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-session/holdfast/store"
	"github.com/holdfast-session/holdfast/storetest"
)

// aspTestNow is a clock that moves only when it is put forward: on a busy machine
// more time passes than the cases expect.
const aspTestNow = "DATEADD(millisecond, (SELECT CONVERT(int, ahead / 1000 % 1000) FROM clock), " +
	"DATEADD(second, (SELECT CONVERT(int, ahead / 1000000) FROM clock), '20300101'))"

// openASPState returns a store over the database of the tests.
func openASPState(t testing.TB, d *database, o *ASPStateOptions) *ASPState {
	t.Helper()
	ctx := context.Background()
	if err := InstallASPState(ctx, d.db); err != nil {
		t.Fatal(err)
	}
	store, err := newASPState(ctx, d.db, o, aspTestNow)
	if err != nil {
		t.Fatal(err)
	}
	return store
}

// TestASPStateContract runs the suite with what the tables have no columns for left out;
// the comment of [ASPState] says what each costs.
func TestASPStateContract(t *testing.T) {
	d := openSQLServer(t)
	for _, c := range []struct {
		name string
		o    ASPStateOptions
	}{{"Plain", ASPStateOptions{}}, {"Compress", ASPStateOptions{Compress: true, MaxBytes: 4 << 20}}} {
		t.Run(c.name, func(t *testing.T) {
			storetest.Run(t, storetest.Harness{
				Open:    func(t testing.TB) store.Store { return openASPState(t, d, &c.o) },
				Second:  func(t testing.TB, _ store.Store) store.Store { return openASPState(t, d, &c.o) },
				Restart: func(t testing.TB, _ store.Store, crash bool) store.Store { return openASPState(t, d, &c.o) },
				Advance: d.advance,
				MaxBody: c.o.MaxBytes,
				Lacks: []storetest.Feature{
					storetest.Versions, storetest.History, storetest.Acquired, storetest.Metadata, // no columns
					storetest.RandomCookies, // they count
					storetest.AtomicLock,    // a second statement reads what the first has locked
					storetest.Tombstones,    // a row is deleted
					storetest.OrderAcross,   // the table has no line
					storetest.ReliableEnds,  // whoever deletes the row may tell nobody
				},
			})
		})
	}
}

// An aspNet is an ASP.NET application: it calls the procedures.
type aspNet struct {
	t  *testing.T
	db *sql.DB
}

// call executes a procedure, and returns the rows that it selects.
func (a aspNet) call(procedure string, args ...any) (rows [][]byte) {
	a.t.Helper()
	r, err := a.db.QueryContext(a.t.Context(), "dbo."+procedure, args...)
	if err != nil {
		a.t.Fatalf("%s: %v", procedure, err)
	}
	defer r.Close()
	for r.Next() {
		var row []byte
		if err := r.Scan(&row); err != nil {
			a.t.Fatalf("%s: %v", procedure, err)
		}
		rows = append(rows, row)
	}
	if err := r.Err(); err != nil {
		a.t.Fatalf("%s: %v", procedure, err)
	}
	return rows
}

// An aspGot is what a procedure that reads returns.
type aspGot struct {
	item    []byte
	found   bool
	locked  bool
	age     int64
	cookie  int64
	actions int64
}

// get reads the session, by one of the procedures that do.
func (a aspNet) get(procedure, key string) (got aspGot) {
	a.t.Helper()
	var locked, age, cookie, actions sql.NullInt64
	var short []byte
	rows := a.call(procedure, sql.Named("id", key), sql.Named("itemShort", sql.Out{Dest: &short}), sql.Named("locked", sql.Out{Dest: &locked}),
		sql.Named("lockAge", sql.Out{Dest: &age}), sql.Named("lockCookie", sql.Out{Dest: &cookie}), sql.Named("actionFlags", sql.Out{Dest: &actions}))
	got = aspGot{item: short, found: locked.Valid, locked: locked.Int64 == 1, age: age.Int64, cookie: cookie.Int64, actions: actions.Int64}
	if len(rows) > 0 {
		got.item = rows[0]
	}
	return got
}

// A session that an ASP.NET application has made is changed by Go and goes on there, and
// the row has every byte that it needs.
func TestASPStateRowByHand(t *testing.T) {
	d := openSQLServer(t)
	ctx := t.Context()
	if err := InstallASPState(ctx, d.db); err != nil {
		t.Fatal(err)
	}
	s, err := NewASPState(d.db, nil)
	if err != nil {
		t.Fatal(err)
	}
	id := store.ID{App: "/LM/W3SVC/1/ROOT", Session: "4m4irghotazmxblpyakfaw1d"}
	const key = "4m4irghotazmxblpyakfaw1d2014c0f1"
	item := vector(t, "item_two")
	d.exec(t, `INSERT INTO dbo.ASPStateTempApplications (AppId, AppName) VALUES (538231025, '/lm/w3svc/1/root')`)
	d.exec(t, `INSERT INTO dbo.ASPStateTempSessions (SessionId, Created, Expires, LockDate, LockDateLocal, LockCookie, Timeout, Locked, SessionItemShort, Flags)
VALUES (@p1, '2026-01-02 03:04:05.677', DATEADD(minute, 20, GETUTCDATE()), '2026-01-02 03:04:05.677', '2026-01-02 04:04:05.677', 1, 20, 0, @p2, 0)`, key, item)

	// row checks all of the row.
	row := func(when string, want []byte, cookie, timeout int, locked bool) {
		t.Helper()
		var created time.Time
		var gotCookie, gotTimeout, flags, left int
		var gotLocked bool
		var short, long []byte
		err := d.db.QueryRowContext(ctx, `SELECT Created, LockCookie, Timeout, Locked, Flags, DATEDIFF(second, GETUTCDATE(), Expires), SessionItemShort, SessionItemLong
FROM dbo.ASPStateTempSessions WHERE SessionId = @p1`, key).Scan(&created, &gotCookie, &gotTimeout, &gotLocked, &flags, &left, &short, &long)
		if err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		if !created.Equal(time.Date(2026, 1, 2, 3, 4, 5, 677e6, time.UTC)) || gotCookie != cookie || gotTimeout != timeout || gotLocked != locked || flags != 0 {
			t.Errorf("%s: Created %v, LockCookie %d, Timeout %d, Locked %v, Flags %d; want the date it had, %d, %d, %v, 0",
				when, created, gotCookie, gotTimeout, gotLocked, flags, cookie, timeout, locked)
		}
		if left > timeout*60+120 || left < timeout*60-120 {
			t.Errorf("%s: it expires in %d s; want %d minutes", when, left, timeout)
		}
		in, other := short, long
		if len(want) > 7000 {
			in, other = long, short
		}
		if !bytes.Equal(in, want) || other != nil {
			t.Errorf("%s: %d bytes in SessionItemShort and %d in SessionItemLong; want %d, as they were saved, in one of them", when, len(short), len(long), len(want))
		}
	}
	net := aspNet{t, d.db}
	// save is what Go does: lock, change, save.
	save := func(body []byte) {
		t.Helper()
		rec := new(store.Record)
		if err := s.Lock(ctx, id, store.LockOptions{Owner: store.NewOwner(), Stale: time.Minute}, rec); err != nil {
			t.Fatal(err)
		}
		rec.Body = body
		if err := s.Save(ctx, id, rec, store.NewVersion(), false); err != nil {
			t.Fatal(err)
		}
	}

	rec := new(store.Record)
	if err := s.Load(ctx, id, rec); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(rec.Body, item) || rec.Timeout != 20*time.Minute || rec.Locked || rec.Lock.Cookie != 1 || rec.Flags != 0 ||
		!rec.Created.Equal(time.Date(2026, 1, 2, 3, 4, 5, 677e6, time.UTC)) {
		t.Errorf("Load: %+v; want what was written by hand", rec)
	}
	row("after Load", item, 1, 20, false)

	long := bytes.Repeat(item, 7001/len(item)+1)
	cookie := 1
	for _, body := range [][]byte{long[:7000], long[:7001], long, long[:7001], long[:7000], {}, item} {
		save(body)
		cookie++
		row(fmt.Sprintf("after %d bytes from Go", len(body)), body, cookie, 20, false)
		got := net.get("TempGetStateItem3", key)
		if !got.found || got.locked || !bytes.Equal(got.item, body) || got.cookie != int64(cookie) || got.actions != 0 {
			t.Errorf("ASP.NET reads %+v; want %d bytes with the cookie %d", got, len(body), cookie)
		}
	}

	// A request of ASP.NET's: it locks, and Go reads what is there and waits.
	got := net.get("TempGetStateItemExclusive3", key)
	cookie++
	if !got.found || got.locked || got.cookie != int64(cookie) || !bytes.Equal(got.item, item) {
		t.Fatalf("ASP.NET locks and gets %+v; want the cookie %d", got, cookie)
	}
	row("under ASP.NET's lock", item, cookie, 20, true)
	if err := s.Load(ctx, id, rec); err != nil || !rec.Locked || int(rec.Lock.Cookie) != cookie || !bytes.Equal(rec.Body, item) {
		t.Errorf("Load under ASP.NET's lock: %+v, %v", rec, err)
	}
	locked := new(store.LockedError)
	rec.Lock, rec.Locked = store.Lock{}, false
	if err := s.Save(ctx, id, rec, store.NewVersion(), false); !errors.As(err, &locked) {
		t.Errorf("Save without a lock, under ASP.NET's: %v; want a *LockedError", err)
	}
	waits := make(chan error, 1)
	mine := new(store.Record)
	go func() {
		waits <- s.Lock(ctx, id, store.LockOptions{Owner: 5, Wait: time.Minute, Stale: time.Minute}, mine)
	}()
	net.call("TempUpdateStateItemShort", sql.Named("id", key), sql.Named("itemShort", item[:7]), sql.Named("timeout", 30), sql.Named("lockCookie", cookie))
	if err := <-waits; err != nil || !bytes.Equal(mine.Body, item[:7]) || mine.Timeout != 30*time.Minute {
		t.Fatalf("Lock behind ASP.NET's: %+v, %v; want what it saved", mine, err)
	}
	cookie++
	row("under Go's lock", item[:7], cookie, 30, true)

	// And ASP.NET waits for Go's.
	if got := net.get("TempGetStateItemExclusive3", key); !got.found || !got.locked || got.cookie != int64(cookie) || len(got.item) > 0 {
		t.Errorf("ASP.NET under Go's lock gets %+v", got)
	}
	net.call("TempUpdateStateItemShort", sql.Named("id", key), sql.Named("itemShort", []byte("late")), sql.Named("timeout", 30), sql.Named("lockCookie", cookie-1))
	row("after a late save of ASP.NET's", item[:7], cookie, 30, true)
	if err := s.Unlock(ctx, id, mine.Lock); err != nil {
		t.Fatal(err)
	}
	// What Go read before ASP.NET's change is out of date.
	if err := s.Save(ctx, id, rec, store.NewVersion(), false); !errors.Is(err, store.ErrConflict) {
		t.Errorf("Save of what was read before ASP.NET's: %v; want ErrConflict", err)
	}
	net.call("TempRemoveStateItem", sql.Named("id", key), sql.Named("lockCookie", cookie))
	if err := s.Touch(ctx, id); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Touch of what ASP.NET removed: %v", err)
	}

	// A session that ASP.NET began and did not use yet.
	net.call("TempInsertUninitializedItem", sql.Named("id", key), sql.Named("itemShort", vector(t, "item_empty_t20")), sql.Named("timeout", 20))
	if err := s.Load(ctx, id, rec); err != nil || rec.Flags != store.Uninitialized {
		t.Errorf("Load of what ASP.NET has begun: flags %v, %v", rec.Flags, err)
	}
	if got := net.get("TempGetStateItemExclusive3", key); got.actions != 1 || got.cookie != 2 {
		t.Errorf("ASP.NET's first request gets %+v; want it told that it is the first", got)
	}

	// Go begins one, of a minute and a half; ASP.NET counts in minutes.
	other := store.ID{App: id.App, Session: "go"}
	if err := s.Create(ctx, other, &store.Record{Version: store.NewVersion(), Timeout: 90 * time.Second, Body: item}, false); err != nil {
		t.Fatal(err)
	}
	if got := net.get("TempGetStateItem3", "go2014c0f1"); !got.found || !bytes.Equal(got.item, item) || got.actions != 0 {
		t.Errorf("ASP.NET reads %+v of what Go has begun", got)
	}
	if err := s.Load(ctx, other, rec); err != nil || rec.Timeout != 90*time.Second {
		t.Errorf("the timeout is %v, %v; want 90 s", rec.Timeout, err)
	}
}

// ASP.NET finds its application under the number that Go gave it.
func TestASPStateApplications(t *testing.T) {
	d := openSQLServer(t)
	s := openASPState(t, d, nil)
	net := aspNet{t, d.db}
	for _, name := range []string{"/LM/W3SVC/1/ROOT", "/LM/W3SVC/2/ROOT", "/LM/W3SVC/1/ROOT/MyApp", "/LM/W3SVC/7/ROOT/" + strings.Repeat("x", 200)} {
		at, err := s.at(t.Context(), store.ID{App: name})
		if err != nil {
			t.Fatal(err)
		}
		var id int64
		net.call("TempGetAppID", sql.Named("appName", name), sql.Named("appId", sql.Out{Dest: &id}))
		if want := fmt.Sprintf("%08x", uint32(id)); at.key != want {
			t.Errorf("the application %s is %s; ASP.NET has %s", name, at.key, want)
		}
	}
	// Another application's name has the hash of this one.
	d.exec(t, "INSERT INTO dbo.ASPStateTempApplications (AppId, AppName) VALUES (@p1, 'another')", aspAppID("/lm/w3svc/9/root"))
	_, err := s.at(t.Context(), store.ID{App: "/LM/W3SVC/9/ROOT"})
	if err == nil || !strings.Contains(err.Error(), "another") {
		t.Errorf("an application whose hash is another's: %v; want an error that names it", err)
	}
}

// Sessions of any name are kept apart, in the tables as ASP.NET's installer makes them
// too, where the server overlooks case.
func TestASPStateHostileNames(t *testing.T) {
	d := openSQLServer(t)
	s := openASPState(t, d, nil)
	ctx := t.Context()
	ids := make(map[store.ID]bool)
	for _, name := range hostile {
		ids[store.ID{App: "/shop", Session: name}] = true
		ids[store.ID{App: name, Session: name}] = true
	}
	for id := range ids {
		rec := &store.Record{Version: store.NewVersion(), Timeout: time.Hour, Subject: id.Session, Body: []byte(id.App + "\x00" + id.Session)}
		if err := s.Create(ctx, id, rec, false); err != nil {
			t.Fatalf("Create of %q: %v", id, err)
		}
	}
	for id := range ids {
		rec := new(store.Record)
		if err := s.Lock(ctx, id, store.LockOptions{Owner: 1}, rec); err != nil || string(rec.Body) != id.App+"\x00"+id.Session {
			t.Fatalf("Lock of %q: %q, %v", id, rec.Body, err)
		}
		if err := s.Save(ctx, id, rec, store.NewVersion(), false); err != nil {
			t.Fatalf("Save of %q: %v", id, err)
		}
	}
	for id := range ids {
		if err := s.Remove(ctx, id, store.Lock{}, store.Reason{Kind: store.Abandoned, To: id.Session}); err != nil {
			t.Fatalf("Remove of %q: %v", id, err)
		}
		if err := s.Touch(ctx, id); !errors.Is(err, store.ErrNotFound) {
			t.Fatalf("Touch of %q: %v", id, err)
		}
	}
}

// TestASPStateMerge: of those who save without a lock, beside those who lock, none
// overwrites what it has not read.
func TestASPStateMerge(t *testing.T) {
	d := openSQLServer(t)
	one, two := openASPState(t, d, nil), openASPState(t, d, nil)
	ctx, id := t.Context(), store.ID{App: "/shop", Session: "s"}
	if err := one.Create(ctx, id, &store.Record{Version: store.NewVersion(), Timeout: time.Hour}, false); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	const clients, each = 8, 5
	for n := range clients {
		s := one
		if n%2 == 1 {
			s = two
		}
		wg.Go(func() {
			for i := 0; i < each; {
				rec := new(store.Record)
				var err error
				if n%4 < 2 {
					err = s.Lock(ctx, id, store.LockOptions{Owner: store.NewOwner(), Wait: time.Minute}, rec)
				} else if err = s.Load(ctx, id, rec); err == nil {
					rec.Lock, rec.Locked = store.Lock{}, false
				}
				if err != nil {
					t.Error(err)
					return
				}
				rec.Body = fmt.Appendf(rec.Body, "%d.%d ", n, i)
				locked := new(store.LockedError)
				switch err := s.Save(ctx, id, rec, store.NewVersion(), false); {
				case err == nil:
					i++
				case rec.Lock.IsZero() && (errors.Is(err, store.ErrConflict) || errors.As(err, &locked)):
				default:
					t.Errorf("Save: %v", err)
					return
				}
			}
		})
	}
	wg.Wait()
	rec := new(store.Record)
	if err := two.Load(ctx, id, rec); err != nil {
		t.Fatal(err)
	}
	words := strings.Fields(string(rec.Body))
	slices.Sort(words)
	if n := len(slices.Compact(words)); n != clients*each || len(words) != n {
		t.Errorf("%d changes are there, %d of them different; want %d", len(words), n, clients*each)
	}
}

// TestASPStateSaveRules: what a version and a lock are good for.
func TestASPStateSaveRules(t *testing.T) {
	d := openSQLServer(t)
	s, other := openASPState(t, d, nil), openASPState(t, d, nil)
	ctx := t.Context()
	load := func(s *ASPState, id store.ID) *store.Record {
		t.Helper()
		rec := new(store.Record)
		if err := s.Load(ctx, id, rec); err != nil {
			t.Fatal(err)
		}
		rec.Lock, rec.Locked = store.Lock{}, false
		return rec
	}
	lock := func(s *ASPState, id store.ID, owner uint64) *store.Record {
		t.Helper()
		rec := new(store.Record)
		if err := s.Lock(ctx, id, store.LockOptions{Owner: owner}, rec); err != nil {
			t.Fatal(err)
		}
		return rec
	}
	create := func(id store.ID) {
		t.Helper()
		if err := s.Create(ctx, id, &store.Record{Version: store.NewVersion(), Timeout: time.Hour, Body: []byte("v0")}, false); err != nil {
			t.Fatal(err)
		}
	}
	save := func(s *ASPState, id store.ID, rec *store.Record, hold bool, want error) {
		t.Helper()
		if err := s.Save(ctx, id, rec, store.NewVersion(), hold); !errors.Is(err, want) {
			t.Errorf("Save: %v; want %v", err, want)
		}
	}

	id := store.ID{App: "/shop", Session: "conflict"}
	create(id)
	first := load(s, id)
	save(other, id, load(other, id), false, nil)
	save(s, id, first, false, store.ErrConflict)
	first = load(s, id)
	if err := other.Unlock(ctx, id, lock(other, id, 1).Lock); err != nil {
		t.Fatal(err)
	}
	save(s, id, first, false, store.ErrConflict) // a lock came between, for all that is known with a change

	// What is saved under a lock is new to those who read it, and the holder goes on.
	id.Session = "hold"
	create(id)
	held := lock(s, id, 2)
	before := load(other, id).Version
	held.Body = []byte("v1")
	save(s, id, held, true, nil)
	if after := load(other, id); after.Version == before || string(after.Body) != "v1" {
		t.Errorf("after a Save with hold: version %d as before, %q", after.Version, after.Body)
	}
	renewed := lock(s, id, 2)
	if renewed.Lock != held.Lock {
		t.Errorf("the lock, renewed, is %+v; want %+v", renewed.Lock, held.Lock)
	}
	save(s, id, held, false, nil)
	save(s, id, held, false, nil) // repeated, as after a lost reply
	lock(other, id, 3)
	save(s, id, held, false, store.ErrLockLost)

	// A session that ended and one that began later under its ID are two.
	id.Session = "again"
	create(id)
	old, oldHeld := load(s, id), lock(s, id, 4)
	if err := s.Remove(ctx, id, store.Lock{}, store.Reason{Kind: store.Abandoned}); err != nil {
		t.Fatal(err)
	}
	save(s, id, oldHeld, false, store.ErrNotFound)
	create(id)
	save(s, id, old, false, store.ErrConflict)
	save(s, id, oldHeld, false, store.ErrLockLost)
	fresh := lock(s, id, 5)
	save(s, id, oldHeld, false, store.ErrLockLost)
	save(s, id, fresh, false, nil)

	// Create, repeated.
	id.Session = "repeated"
	rec := &store.Record{Version: store.NewVersion(), Timeout: time.Hour, Lock: store.Lock{Owner: 6}}
	for range 2 {
		if err := s.Create(ctx, id, rec, true); err != nil || rec.Lock.Cookie <= 0 {
			t.Errorf("Create: %v, cookie %d", err, rec.Lock.Cookie)
		}
	}
	if err := other.Create(ctx, id, &store.Record{Version: store.NewVersion(), Timeout: time.Hour}, false); !errors.Is(err, store.ErrExists) {
		t.Errorf("Create by another: %v; want ErrExists", err)
	}
}

// TestASPStateSweep: what has expired is swept, and nothing else, by Go and by ASP.NET's
// procedure.
func TestASPStateSweep(t *testing.T) {
	d := openSQLServer(t)
	ctx := t.Context()
	if err := InstallASPState(ctx, d.db); err != nil {
		t.Fatal(err)
	}
	s, err := NewASPState(d.db, nil)
	if err != nil {
		t.Fatal(err)
	}
	fill := func(name string, n int, expires string) {
		t.Helper()
		d.exec(t, "DECLARE @i int = 0\nWHILE @i < @p1\nBEGIN\nINSERT INTO dbo.ASPStateTempSessions (SessionId, Expires, LockDate, LockDateLocal, LockCookie, Timeout, Locked)\n"+
			"VALUES (@p2 + CONVERT(nvarchar(10), @i), "+expires+", GETUTCDATE(), GETDATE(), 1, 20, 0)\nSET @i = @i + 1\nEND", n, name)
	}
	const past, future = "DATEADD(minute, -1, GETUTCDATE())", "DATEADD(hour, 1, GETUTCDATE())"
	fill("alive", 30, future)
	fill("expired", sweepBatch+20, past)
	d.exec(t, "UPDATE dbo.ASPStateTempSessions SET Locked = 1, LockDate = DATEADD(minute, -5, GETUTCDATE()), SessionItemShort = 0x0102 WHERE SessionId = N'alive7'")
	d.exec(t, "UPDATE dbo.ASPStateTempSessions SET SessionItemLong = 0x010203 WHERE SessionId = N'alive8'")
	status, err := StatusASPState(ctx, d.db)
	if err != nil || status.OldestLock < 5*time.Minute || status.OldestLock > 6*time.Minute {
		t.Errorf("StatusASPState: %+v, %v", status, err)
	}
	status.OldestLock = 0
	want := TableStatus{Dialect: SQLServer, Version: 2, Current: 2, Sessions: sweepBatch + 50, Expired: sweepBatch + 20, Locked: 1, Bytes: 5}
	if *status != want {
		t.Errorf("StatusASPState: %+v; want %+v", *status, want)
	}
	if n, err := s.Sweep(ctx); err != nil || n != sweepBatch+20 {
		t.Errorf("Sweep: %d, %v; want %d", n, err, sweepBatch+20)
	}
	fill("expired", 10, past)
	aspNet{t, d.db}.call("DeleteExpiredSessions")
	var left int
	d.scan(t, "SELECT COUNT(*) FROM dbo.ASPStateTempSessions", &left)
	if left != 30 {
		t.Errorf("%d sessions are left; want 30", left)
	}
}

// TestASPStateInstall: it is asked for, done once, and undone.
func TestASPStateInstall(t *testing.T) {
	d := openSQLServer(t)
	ctx := t.Context()
	if _, err := NewASPState(d.db, nil); err == nil || !strings.Contains(err.Error(), "holdfast sql install") {
		t.Errorf("without tables: %v; want an error that says how to make them", err)
	}
	if status, err := StatusASPState(ctx, d.db); err != nil || status.Version != 0 {
		t.Errorf("StatusASPState without tables: %+v, %v", status, err)
	}
	for range 2 {
		if err := InstallASPState(ctx, d.db); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := NewASPState(d.db, nil); err != nil {
		t.Error(err)
	}
	for range 2 {
		err := RemoveASPState(ctx, d.db)
		if err != nil && !strings.Contains(err.Error(), "no ASPState database") {
			t.Fatal(err)
		}
	}
	d.exec(t, "CREATE TABLE dbo.ASPStateTempSessions (SessionId int)")
	for what, err := range map[string]error{"Install": InstallASPState(ctx, d.db), "Remove": RemoveASPState(ctx, d.db)} {
		if err == nil {
			t.Errorf("%s over another table: success", what)
		}
	}
	d.exec(t, "SELECT SessionId FROM dbo.ASPStateTempSessions")
}
