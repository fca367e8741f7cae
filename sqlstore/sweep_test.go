package sqlstore

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-session/holdfast/store"
)

// fillTable puts n sessions into a table, made by the database itself: every tenth has
// expired, every tenth after it has been used since it was last looked at.
func fillTable(t testing.TB, d *database, s *Store, n int) {
	t.Helper()
	series := map[Dialect]string{
		PostgreSQL: fmt.Sprintf("(SELECT generate_series AS n, decode(md5(generate_series::text) || md5('b' || generate_series::text), 'hex') AS id FROM generate_series(1, %d)) AS series", n),
		MySQL:      fmt.Sprintf("(SELECT seq AS n, UNHEX(SHA2(seq, 256)) AS id FROM seq_1_to_%d) AS series", n),
		SQLite: fmt.Sprintf("(WITH RECURSIVE counter(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM counter WHERE n < %d) "+
			"SELECT n, CAST(printf('%%032d', n * 7919) AS BLOB) AS id FROM counter) AS series", n),
		SQLServer: fmt.Sprintf("(SELECT n, HASHBYTES('SHA2_256', CONVERT(varchar(20), n)) AS id FROM "+
			"(SELECT TOP (%d) ROW_NUMBER() OVER (ORDER BY (SELECT NULL)) AS n FROM sys.all_columns AS a CROSS JOIN sys.all_columns AS b) AS numbers) AS series", n),
	}[d.dialect]
	const hour = "3600000000"
	query := s.names.replacer().Replace("INSERT INTO " + inTable + " (id, app, app_hash, session_id, state, due, created, expires, timeout, slide, version, version1, version2, " +
		"version3, acquired, lock_cookie, lock_owner, lock_date, lock_timeout, flags, subject, subject_hash, ended_at, reason, packing, items) " +
		"SELECT id, id, 1, id, 0, " + inNow + " + CASE WHEN n % 10 < 2 THEN -n ELSE " + hour + " END, 0, " + inNow + " + CASE WHEN n % 10 = 0 THEN -n ELSE " + hour + " END, " +
		"3600, " + hour + ", 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, id, n / 3, 0, 0, 0, id FROM " + series)
	const patient = "PRAGMA busy_timeout = 30000; " // on a machine however busy
	if d.dialect == SQLite {
		query = patient + query
	}
	d.exec(t, query)
	switch d.dialect {
	case PostgreSQL:
		d.exec(t, "ANALYZE")
	case MySQL:
		d.exec(t, "ANALYZE TABLE "+s.names.table)
	case SQLite:
		d.exec(t, patient+"ANALYZE")
	case SQLServer:
		d.exec(t, "EXEC sp_updatestats")
	}
}

// TestSweepOfMany ends what has expired of many sessions in small steps by an index, while
// requests come at a fixed rate; windows with the sweep and without take turns.
func TestSweepOfMany(t *testing.T) {
	n, window := 20_000, 50*time.Millisecond
	if long() {
		n, window = 1_000_000, 2*time.Second
	}
	everyDatabase(t, func(t *testing.T, d *database) {
		db, count := d.counted(t)
		s := d.openAt(t, db, Options{Dialect: d.dialect})
		fillTable(t, d, s, n)
		v := newVisitors(t, s)
		v.visit(window) // to warm up
		count.take()

		var alone, during []time.Duration
		var swept int64
		for range 5 {
			alone = append(alone, v.visit(window)...)
			swept += sweepBeside(t, s, window, func() { during = append(during, v.visit(window)...) })
		}
		v.done.Wait()
		rest, err := s.sweep(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		swept += rest.Ended
		var ended, left int
		d.scan(t, s.names.replacer().Replace("SELECT COUNT(*) FROM "+inTable+" WHERE state <> 0"), &ended)
		d.scan(t, s.names.replacer().Replace("SELECT COUNT(*) FROM "+inTable+" WHERE state = 0 AND expires <= "+inNow), &left)
		if ended != n/10 || left != 0 {
			t.Errorf("%d sessions ended, and %d that have expired are left; want %d and none", ended, left, n/10)
		}
		var took []time.Duration
		for _, call := range count.take() {
			if strings.Contains(call.text, "ORDER BY due") {
				took = append(took, call.took)
				if call.rows > sweepBatch {
					t.Errorf("a statement changed %d rows; want at most %d", call.rows, sweepBatch)
				}
			}
		}
		slices.Sort(took)
		t.Logf("%d of %d sessions ended, %d in the windows, by %d statements: median %v, p99 %v, longest %v; %d requests at p95: %v without, %v with the sweep, %.2f times",
			ended, n, swept-rest.Ended, len(took), took[len(took)/2], took[len(took)*99/100], took[len(took)-1],
			len(alone)+len(during), p95(alone), p95(during), float64(p95(during))/float64(p95(alone)))
		plans(t, d, s)
	})
}

func p95(all []time.Duration) time.Duration {
	slices.Sort(all)
	return all[len(all)*95/100]
}

// sweepBeside sweeps for as long as a window lasts, in which something else is done, and
// returns how many sessions ended.
func sweepBeside(t *testing.T, s *Store, window time.Duration, do func()) int64 {
	ctx, cancel := context.WithTimeout(t.Context(), window)
	defer cancel()
	var swept Swept
	done := make(chan struct{})
	go func() {
		defer close(done)
		var err error
		if swept, err = s.sweep(ctx); err != nil && ctx.Err() == nil {
			t.Error(err)
		}
	}()
	do()
	<-done
	return swept.Ended
}

// visitors make requests at a fixed rate, each in a session that it locks and saves.
type visitors struct {
	t    *testing.T
	s    *Store
	i    int
	done sync.WaitGroup
}

const visitorsPerSecond = 100

func newVisitors(t *testing.T, s *Store) *visitors {
	v := &visitors{t: t, s: s}
	for i := range visitorsPerSecond {
		if err := s.Create(t.Context(), v.id(i), &store.Record{Version: store.NewVersion(), Timeout: time.Hour}, false); err != nil {
			t.Fatal(err)
		}
	}
	return v
}

func (v *visitors) id(i int) store.ID {
	return store.ID{App: "visitors", Session: fmt.Sprint(i % visitorsPerSecond)}
}

// visit makes requests in a window of time, and returns how long each took that ended in
// it, from when it was due.
func (v *visitors) visit(window time.Duration) []time.Duration {
	var mu sync.Mutex
	var all []time.Duration
	tick := time.NewTicker(time.Second / visitorsPerSecond)
	defer tick.Stop()
	over := time.After(window)
	for {
		select {
		case due := <-tick.C:
			id := v.id(v.i)
			v.i++
			v.done.Go(func() {
				rec := new(store.Record)
				err := v.s.Lock(context.Background(), id, store.LockOptions{Owner: store.NewOwner(), Wait: time.Minute}, rec)
				if err == nil {
					err = v.s.Save(context.Background(), id, rec, store.NewVersion(), false)
				}
				if err != nil {
					v.t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				all = append(all, time.Since(due))
			})
		case <-over:
			v.done.Wait()
			return all
		}
	}
}

// babelfishPlans is followed by ON or OFF.
const babelfishPlans = "SET BABELFISH_SHOWPLAN_ALL "

// plans checks that each statement finds its rows by an index.
func plans(t *testing.T, d *database, s *Store) {
	t.Helper()
	if d.dialect == SQLServer {
		if _, err := d.db.Exec(babelfishPlans + "OFF"); err != nil {
			t.Logf("the plans are looked at with Babelfish only: %v", err)
			return
		}
	}
	n := strings.Trim(s.o.Table, `"`)
	k, _ := keyOf(store.ID{})
	after, upTo := bounds("")
	a := &args{
		pID: k[:], pAfter: after[:], pUpTo: upTo[:], pAppHash: int64(2), pSubjectHash: int64(7), pLimit: int64(10), pLease: int64(1), pOwner: int64(1), pCookie: int64(1), pStale: int64(1),
		pWanted: 0, pQuiet: 0, pReason: int64(1), pVersion: int64(1), pMyOwner: int64(1), pMyCookie: int64(1),
	}
	primary := map[Dialect]string{PostgreSQL: n + "_pkey", MySQL: "PRIMARY", SQLite: "sqlite_autoindex_" + n, SQLServer: n + "_pkey"}[d.dialect]
	type found struct {
		st    *statement
		index string
	}
	all := map[string]found{
		"load": {s.st.load, primary}, "lock": {s.st.lock, primary}, "remove": {s.st.remove, primary}, "unlock": {s.st.unlock, primary},
		"expireFirst": {s.st.expireFirst, n + "_due"}, "delayFirst": {s.st.delayFirst, n + "_due"}, "forgetFirst": {s.st.forgetFirst, n + "_due"},
		"claim": {s.st.claim, n + "_ends"}, "listSubject": {s.st.listSubject, n + "_subject"},
	}
	if s.d.gathers() {
		for name, st := range map[string][]*statement{
			"loadAll": s.st.loadAll, "lockAll": s.st.lockAll, "saveMineAll": s.st.saveMineAll, "unlockAll": s.st.unlockAll,
		} {
			all[name] = found{st[3], primary}
		}
	}
	for name, c := range all {
		several := make([]*args, maxTogether)
		for i := range several {
			one, k := *a, key{byte(i)}
			one[pID] = k[:]
			several[i] = &one
		}
		plan := explain(t, d, c.st, several...)
		if !strings.Contains(plan, c.index) {
			t.Errorf("%s does not use the index %s:\n%s", name, c.index, plan)
		}
		if testing.Verbose() {
			t.Logf("%s:\n%.1000s", name, plan)
		}
	}
}

func explain(t *testing.T, d *database, st *statement, a ...*args) string {
	t.Helper()
	c, err := d.db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	how := map[Dialect]string{PostgreSQL: "EXPLAIN ", MySQL: "EXPLAIN ", SQLite: "EXPLAIN QUERY PLAN "}[d.dialect]
	if d.dialect == SQLServer {
		if _, err := c.ExecContext(t.Context(), babelfishPlans+"ON"); err != nil {
			t.Fatal(err)
		}
		defer c.ExecContext(context.WithoutCancel(t.Context()), babelfishPlans+"OFF")
	}
	// Of SQL Server's two ways to read what was changed, Babelfish shows no plan.
	text, _, _ := strings.Cut(st.text, "\nIF ")
	text = regexp.MustCompile(" OUTPUT .*? WHERE ").ReplaceAllString(text, " WHERE ")
	rows, err := c.QueryContext(t.Context(), how+text, st.values(a...)...)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for rows.Next() {
		to := make([]any, len(columns))
		for i := range to {
			to[i] = new(any)
		}
		if err := rows.Scan(to...); err != nil {
			t.Fatal(err)
		}
		for _, v := range to {
			switch v := (*v.(*any)).(type) {
			case []byte:
				fmt.Fprintf(&b, " %s", v)
			default:
				fmt.Fprintf(&b, " %v", v)
			}
		}
		b.WriteByte('\n')
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// The sweep is one process's at a time: for as long as it goes on, and one that is stopped
// there is not waited for.
func TestSweepTakesTurns(t *testing.T) {
	everyDatabase(t, func(t *testing.T, d *database) {
		table := d.newTable()
		ctx := t.Context()
		var won []*turn
		var mu sync.Mutex
		var wg sync.WaitGroup
		for range 8 {
			s := d.open(t, Options{Table: table})
			wg.Go(func() {
				turn, err := s.takeTurn(ctx)
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				if turn != nil {
					won = append(won, turn)
				}
			})
		}
		wg.Wait()
		if len(won) != 1 {
			t.Fatalf("%d of 8 have the turn; want one", len(won))
		}
		s := d.open(t, Options{Table: table})
		take := func(want bool, when string) *turn {
			t.Helper()
			turn, err := s.takeTurn(ctx)
			if err != nil || (turn != nil) != want {
				t.Fatalf("%s another has the turn: %v, %v; want %v", when, turn != nil, err, want)
			}
			return turn
		}
		first := won[0]
		const passed = sweepTurn - 30*time.Second
		for range 2 { // a sweep that takes longer than a turn
			d.advance(passed)
			first.kept = first.kept.Add(-passed)
			if _, err := first.s.sweepIn(ctx, first); err != nil {
				t.Fatalf("the sweep of who has the turn: %v", err)
			}
			take(false, "while one still sweeps")
		}
		d.advance(sweepTurn + time.Minute) // what a busy machine takes is added to a turn that is kept
		second := take(true, "after the turn of one who never came back")
		first.kept = first.kept.Add(-sweepTurn)
		if _, err := first.s.sweepIn(ctx, first); !errors.Is(err, errTurnLost) {
			t.Errorf("the sweep of who has lost the turn: %v; want that it ends", err)
		}
		if err := first.over(ctx); err != nil {
			t.Fatal(err)
		}
		d.advance(sweepEvery)
		take(false, "when he who has lost the turn is done")
		if err := second.over(ctx); err != nil {
			t.Fatal(err)
		}
		d.advance(sweepEvery)
		take(true, "when who has the turn is done")
	})
}

// Tombstones go when nobody can come for their sessions any more, and those of sessions
// whose ends are to be delivered stay.
func TestTombstonesAreForgotten(t *testing.T) {
	everyDatabase(t, func(t *testing.T, d *database) {
		s := d.open(t, Options{})
		ctx := t.Context()
		remove := func(id store.ID) {
			if err := s.Create(ctx, id, &store.Record{Version: 1, Timeout: time.Minute, Body: []byte("last held")}, false); err != nil {
				t.Fatal(err)
			}
			if err := s.Remove(ctx, id, store.Lock{}, store.Reason{Kind: store.Abandoned}); err != nil {
				t.Fatal(err)
			}
		}
		quiet, told := store.ID{App: "quiet", Session: "s"}, store.ID{App: "told", Session: "s"}
		if _, err := s.Ended(ctx, told.App, 0, 0); err != nil {
			t.Fatal(err)
		}
		remove(quiet)
		remove(told)
		for _, step := range []struct {
			passed    time.Duration
			forgotten int64
			left      int64
		}{{time.Second, 0, 2}, {2 * time.Minute, 1, 1}, {100 * time.Hour, 0, 1}} {
			d.advance(step.passed)
			swept, err := s.sweep(ctx)
			if err != nil || swept.Forgotten != step.forgotten {
				t.Errorf("after %v: %+v, %v; want %d forgotten", step.passed, swept, err, step.forgotten)
			}
			if status, err := Status(ctx, d.db, &Options{Table: s.o.Table}); err != nil || status.Ended != step.left {
				t.Errorf("after %v: %+v, %v; want %d tombstones", step.passed, status, err, step.left)
			}
		}
		ends, err := s.Ended(ctx, told.App, 10, time.Minute)
		if err != nil || len(ends) != 1 || string(ends[0].Record.Body) != "last held" {
			t.Fatalf("Ended: %+v, %v", ends, err)
		}
		if err := s.Ack(ctx, told.App, []string{ends[0].Key}); err != nil {
			t.Fatal(err)
		}
		if swept, err := s.sweep(ctx); err != nil || swept.Forgotten != 1 {
			t.Errorf("after Ack: %+v, %v; want one forgotten", swept, err)
		}
	})
}

// Past Options.Ends the oldest ends are dropped, with their content.
func TestEndsAreBounded(t *testing.T) {
	const n, most = 150, 100
	everyDatabase(t, func(t *testing.T, d *database) {
		s := d.open(t, Options{Ends: most})
		ctx := t.Context()
		for i := range n {
			id := store.ID{App: "a", Session: fmt.Sprint(i)}
			if err := s.Create(ctx, id, &store.Record{Version: 1, Timeout: time.Minute, Body: []byte("x")}, false); err != nil {
				t.Fatal(err)
			}
			if err := s.Remove(ctx, id, store.Lock{}, store.Reason{Kind: store.Abandoned}); err != nil {
				t.Fatal(err)
			}
		}
		ends, err := s.Ended(ctx, "a", 2*n, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		// The clock may be the same for several of them, which go together.
		if len(ends) > most || len(ends) < most/2 {
			t.Fatalf("%d ends of %d; want at most %d, and not many fewer", len(ends), n, most)
		}
		for i, end := range ends {
			if want := n - len(ends) + i; d.dialect != SQLite && end.ID.Session != fmt.Sprint(want) {
				t.Errorf("the %d. end is that of %s; want %d", i, end.ID.Session, want)
			}
		}
		status, err := Status(ctx, d.db, &Options{Table: s.o.Table})
		if err != nil || status.PendingEnds != int64(len(ends)) || status.Ended != n {
			t.Errorf("Status: %+v, %v", status, err)
		}
	})
}

// With Options.Ends below zero a process remembers none of the ends that it makes.
func TestEndsOff(t *testing.T) {
	everyDatabase(t, func(t *testing.T, d *database) {
		table := d.newTable()
		on, off := d.open(t, Options{Table: table, Ends: 10}), d.open(t, Options{Table: table, Ends: -1})
		ctx, id := t.Context(), store.ID{App: "a", Session: "s"}
		for i, s := range []*Store{off, on} {
			if err := s.Create(ctx, id, &store.Record{Version: 1, Timeout: time.Minute}, false); err != nil {
				t.Fatal(err)
			}
			if err := s.Remove(ctx, id, store.Lock{}, store.Reason{Kind: store.Abandoned}); err != nil {
				t.Fatal(err)
			}
			if none, err := off.Ended(ctx, "a", 10, time.Minute); err != nil || len(none) != 0 {
				t.Errorf("Ended where it is off: %v, %v", none, err)
			}
			if ends, err := on.Ended(ctx, "a", 10, time.Minute); err != nil || len(ends) != i {
				t.Errorf("Ended: %v, %v; want %d", ends, err, i)
			}
		}
	})
}
