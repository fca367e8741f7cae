package inproc

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-session/holdfast/store"
)

// long is whether tests that have a long form run in it. (A variable would be set too
// early for go test to know that its cached result depends on it.)
func long() bool { return os.Getenv("HOLDFAST_LONG") != "" }

func ended(t testing.TB, s *Store, app string, limit int, lease time.Duration) []store.End {
	t.Helper()
	ends, err := s.Ended(ctx, app, limit, lease)
	if err != nil {
		t.Fatalf("Ended: %v", err)
	}
	return ends
}

func ack(t testing.TB, s *Store, ends ...store.End) {
	t.Helper()
	for _, e := range ends {
		wantErr(t, "Ack", s.Ack(ctx, e.ID.App, []string{e.Key}), nil)
	}
}

func remove(t testing.TB, s *Store, id store.ID) {
	t.Helper()
	wantErr(t, "Remove", s.Remove(ctx, id, store.Lock{}, store.Reason{Kind: store.Abandoned}), nil)
}

// wantEnds checks which sessions' ends those are, in order.
func wantEnds(t testing.TB, what string, got []store.End, want ...string) {
	t.Helper()
	var names []string
	for _, e := range got {
		names = append(names, e.ID.Session)
	}
	if fmt.Sprint(names) != fmt.Sprint(want) {
		t.Errorf("%s: the ends of %v, want %v", what, names, want)
	}
}

// checkNoEnds checks that nothing of any end is left.
func checkNoEnds(t testing.TB, s *Store) {
	t.Helper()
	x := &s.ends
	if x.all.len != 0 || x.all.first != nil || x.all.last != nil || x.bytes != 0 {
		t.Errorf("%d ends of %d bytes are left", x.all.len, x.bytes)
	}
	for name, a := range x.apps {
		if a.waiting.len != 0 || a.claimed.len != 0 || len(a.claimants) != 0 {
			t.Errorf("%s: %d ends wait, %d are claimed, %d have claimants", name, a.waiting.len, a.claimed.len, len(a.claimants))
		}
	}
}

func TestEndsAreRememberedOnceAskedFor(t *testing.T) {
	s := open(t, nil)
	other := store.ID{App: "/other", Session: "x"}
	for _, id := range []store.ID{sid("before"), other} {
		create(t, s, id, time.Minute)
		remove(t, s, id)
	}
	checkNoEnds(t, s)
	wantEnds(t, "a first call with the limit 0", ended(t, s, "/", 0, time.Minute))
	for _, id := range []store.ID{sid("after"), other} {
		create(t, s, id, time.Minute)
		remove(t, s, id)
	}
	if n := s.ends.all.len; n != 1 {
		t.Errorf("%d ends are remembered, want that of one application alone", n)
	}
	ends := ended(t, s, "/", 10, time.Minute)
	wantEnds(t, "Ended", ends, "after")
	ack(t, s, ends...)
	checkNoEnds(t, s)
}

func TestEndsOfAllFromTheBeginning(t *testing.T) {
	s := open(t, &Options{Ends: 5})
	for i := range 8 {
		create(t, s, sid(fmt.Sprint(i)), time.Minute)
		remove(t, s, sid(fmt.Sprint(i)))
	}
	ends := ended(t, s, "/", 2, time.Minute)
	wantEnds(t, "the first", ends, "3", "4")
	create(t, s, sid("8"), time.Minute)
	remove(t, s, sid("8")) // drops an end that is claimed
	ack(t, s, ends...)
	wantEnds(t, "the others", ended(t, s, "/", 10, time.Minute), "5", "6", "7", "8")
}

func TestNoEnds(t *testing.T) {
	s := open(t, &Options{Ends: -1})
	ended(t, s, "/", 1, time.Minute)
	create(t, s, sid("a"), time.Minute)
	remove(t, s, sid("a"))
	wantEnds(t, "Ended", ended(t, s, "/", 1, time.Minute))
	checkNoEnds(t, s)
}

// TestEndsKeepToTheirMemory: a quarter of MaxBytes, across applications.
func TestEndsKeepToTheirMemory(t *testing.T) {
	const all = 1 << 20
	s := open(t, &Options{Ends: 1 << 20, MaxBytes: all})
	for i := range 1000 {
		id := store.ID{App: fmt.Sprint(i % 3), Session: fmt.Sprint(i)}
		rec := store.Record{Version: 1, Timeout: time.Minute, Body: make([]byte, 1000)}
		wantErr(t, "Create", s.Create(ctx, id, &rec, false), nil)
		remove(t, s, id)
		if s.ends.bytes > all/4 {
			t.Fatalf("ends take %d bytes", s.ends.bytes)
		}
	}
	n := s.ends.all.len
	if n < all/4/1600 || n > all/4/1000 {
		t.Errorf("%d ends are remembered", n)
	}
	for app := range 3 {
		ends := ended(t, s, fmt.Sprint(app), 1000, time.Minute)
		if len(ends) < n/3 || ends[len(ends)-1].ID.Session < "997" {
			t.Errorf("of application %d, %d ends, the last one %v", app, len(ends), ends[len(ends)-1].ID)
		}
		ack(t, s, ends...)
	}
	checkNoEnds(t, s)
}

// TestEndsOfAnotherProcess: a claimer that outlives the process of the store
// acknowledges nothing in the next one.
func TestEndsOfAnotherProcess(t *testing.T) {
	var ends [2][]store.End
	for i := range ends {
		s := open(t, &Options{Ends: 100})
		create(t, s, sid("a"), time.Minute)
		remove(t, s, sid("a"))
		ends[i] = ended(t, s, "/", 1, time.Minute)
		ack(t, s, ends[0]...)
		if n := s.ends.all.len; n != i {
			t.Errorf("process %d: %d ends are left", i, n)
		}
	}
	if ends[0][0].Key == ends[1][0].Key {
		t.Error("two processes have the same key")
	}
}

func TestLeaseOfAnEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, &Options{Ends: 100})
		for _, name := range []string{"a", "b", "c"} {
			create(t, s, sid(name), time.Hour)
			why := store.Reason{Kind: store.Regenerated, To: "next to " + name}
			wantErr(t, "Remove", s.Remove(ctx, sid(name), store.Lock{}, why), nil)
		}
		advance(10 * time.Second)
		first := ended(t, s, "/", 1, time.Minute)
		wantEnds(t, "the first", first, "a")
		if got, want := first[0].Reason, (store.Reason{Kind: store.Regenerated, To: "next to a", Age: 10 * time.Second}); got != want {
			t.Errorf("the reason %+v, want %+v", got, want)
		}
		advance(30 * time.Second)
		wantEnds(t, "the second", ended(t, s, "/", 1, time.Minute), "b")
		advance(31 * time.Second)
		again := ended(t, s, "/", 5, time.Minute)
		wantEnds(t, "the first, again, before the third", again, "a", "c")
		if again[0].Key != first[0].Key || again[0].Reason.Age != 71*time.Second {
			t.Errorf("the first one came as %+v, then as %+v", first[0], again[0])
		}
		wantEnds(t, "nothing at once, with the lease 0", ended(t, s, "/", 0, 0))
		advance(1)
		wantEnds(t, "with the lease 0", ended(t, s, "/", 9, 0), "b", "a", "c")
	})
}

// TestEveryEndIsDelivered has many sessions end, for all reasons, while claimers take
// notice: each once, with what it last held. Then half the claimers die now and then,
// and each end comes at least once.
func TestEveryEndIsDelivered(t *testing.T) {
	n := 50_000
	if long() {
		n = 1_000_000
	}
	for _, crashes := range []bool{false, true} {
		t.Run(fmt.Sprintf("%d/crashes=%v", n, crashes), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { deliverEveryEnd(t, n, crashes) })
		})
	}
}

func deliverEveryEnd(t *testing.T, n int, crashes bool) {
	const claimers, lease = 4, 10 * time.Second
	s := open(t, &Options{MaxSessions: n - n/20, MaxBytes: -1}) // so the last ones evict others
	ended(t, s, "/", 0, lease)

	kinds := []store.Kind{store.Abandoned, store.Regenerated, store.Damaged, store.Evicted, store.Expired}
	var mu sync.Mutex
	times := make([]int, n)
	byKind := make(map[store.Kind]int)
	last := make([]store.Version, n) // what each session last held; written before it ends
	var removed, moved []int
	take := func(c int, rng *rand.Rand) int {
		ends := ended(t, s, "/", 1000, lease)
		dealt, acked := len(ends), len(ends)
		if crashes && c%2 == 0 && rng.IntN(3) == 0 { // it dies
			dealt = rng.IntN(dealt + 1)
			acked = rng.IntN(dealt + 1)
		}
		mu.Lock()
		for _, e := range ends[:dealt] {
			var i int
			fmt.Sscan(e.ID.Session, &i)
			times[i]++
			byKind[e.Reason.Kind]++
			if e.Record.Items != last[i] || e.Record.Version != last[i] {
				t.Errorf("session %d ended with %v of version %v, want %v", i, e.Record.Items, e.Record.Version, last[i])
			}
		}
		mu.Unlock()
		keys := make([]string, acked)
		for i, e := range ends[:acked] {
			keys[i] = e.Key
		}
		wantErr(t, "Ack", s.Ack(ctx, "/", keys), nil)
		return len(ends)
	}
	stop := make(chan struct{})
	var claiming sync.WaitGroup
	for c := range claimers {
		claiming.Go(func() {
			rng := rand.New(rand.NewPCG(3, uint64(c)))
			poll := time.NewTicker(time.Second)
			defer poll.Stop()
			for {
				for take(c, rng) > 0 {
				}
				select {
				case <-poll.C:
				case <-stop:
					return
				}
			}
		})
	}

	rng := rand.New(rand.NewPCG(1, 2))
	id := func(i int) store.ID { return sid(fmt.Sprint(i)) }
	for i := range n {
		mu.Lock()
		last[i] = store.NewVersion()
		rec := store.Record{Version: last[i], Timeout: time.Duration(600+rng.IntN(600)) * time.Second, Items: last[i]}
		mu.Unlock()
		wantErr(t, "Create", s.Create(ctx, id(i), &rec, false), nil)
	}
	for _, i := range rng.Perm(n) {
		if rng.IntN(n/1000) == 0 {
			advance(time.Second)
		}
		var rec store.Record
		if s.Load(ctx, id(i), &rec) != nil {
			continue // it has ended
		}
		if rng.IntN(2) == 0 {
			next := store.NewVersion()
			rec.Items = next
			mu.Lock()
			last[i] = next
			mu.Unlock()
			wantErr(t, "Save", s.Save(ctx, id(i), &rec, next, false), nil)
		}
		switch k := rng.IntN(8); {
		case k == 7:
			wantErr(t, "Remove", s.Remove(ctx, id(i), store.Lock{}, store.Reason{Kind: store.Moved, To: "away"}), nil)
			moved = append(moved, i)
		case kinds[k%len(kinds)] != store.Expired:
			wantErr(t, "Remove", s.Remove(ctx, id(i), store.Lock{}, store.Reason{Kind: kinds[k%len(kinds)]}), nil)
			removed = append(removed, i)
		}
	}
	advance(21 * time.Minute) // the others expire
	for range 10 {
		advance(lease + time.Second)
	}
	close(stop)
	claiming.Wait()
	for take(1, rng) > 0 {
	}

	for _, i := range moved {
		if times[i] != 0 {
			t.Errorf("session %d, which moved, has an end", i)
		}
		times[i] = 1
	}
	again := 0
	for i, k := range times {
		if k == 0 || k > 1 && !crashes {
			t.Errorf("the end of session %d came %d times", i, k)
		}
		if k > 1 {
			again++
		}
	}
	if crashes != (again > 0) {
		t.Errorf("%d ends came more than once", again)
	}
	for _, k := range kinds {
		if byKind[k] == 0 {
			t.Errorf("no session %v", k)
		}
	}
	checkNoEnds(t, s)
	checkIdle(t, s)
	t.Logf("%d removed, %d moved, delivered %v, %d more than once", len(removed), len(moved), byKind, again)
}

// TestCapabilitiesEndWithTheContext: as every other call.
func TestCapabilitiesEndWithTheContext(t *testing.T) {
	s := open(t, &Options{Ends: 10})
	createOf(t, s, sid("a"), "alice")
	createOf(t, s, sid("b"), "alice")
	remove(t, s, sid("a"))
	ends := ended(t, s, "/", 1, time.Hour)
	gone, cancel := context.WithCancel(ctx)
	cancel()
	_, err := s.Ended(gone, "/", 1, 0)
	wantErr(t, "Ended", err, context.Canceled)
	wantErr(t, "Ack", s.Ack(gone, "/", []string{ends[0].Key}), context.Canceled)
	for _, q := range []store.Query{{}, {Subject: "alice"}} {
		_, _, err = s.List(gone, q)
		wantErr(t, "List", err, context.Canceled)
	}
	ack(t, s, store.End{ID: store.ID{App: "never heard of"}, Key: ends[0].Key})
	if n := s.ends.all.len; n != 1 {
		t.Errorf("%d ends, want 1", n)
	}
}
