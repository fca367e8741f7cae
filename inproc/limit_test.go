package inproc

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-session/holdfast/items"
	"github.com/holdfast-session/holdfast/store"
)

// createBody makes a session with a body of that size.
func createBody(s *Store, id store.ID, size int) (store.Record, error) {
	rec := store.Record{Version: store.NewVersion(), Timeout: time.Hour, Body: make([]byte, size)}
	return rec, s.Create(ctx, id, &rec, false)
}

// there reports whether a session is there, without restarting its timeout.
func there(s *Store, id store.ID) bool {
	key := s.key(id)
	sh := s.of(key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return sh.sessions.get(key, id) != nil
}

// checkCounts compares what the store counts with what is there.
func checkCounts(t testing.TB, s *Store) {
	t.Helper()
	n, size := int64(0), int64(0)
	for i := range s.shard {
		s.shard[i].mu.Lock()
		defer s.shard[i].mu.Unlock()
	}
	for i := range s.shard {
		for _, at := range s.shard[i].sessions.slots {
			if at.e != nil {
				n++
				size += cost(at.e.session, at.e.owner(), at.e.content)
			}
		}
	}
	if s.count.Load() != n || s.bytes.Load() != size {
		t.Errorf("the store counts %d sessions, %d bytes; there are %d, %d", s.count.Load(), s.bytes.Load(), n, size)
	}
}

func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestCostIsTheTruth: what a session is taken to cost is what it takes, or somewhat
// more.
func TestCostIsTheTruth(t *testing.T) {
	text := func(n int) items.Value { return encode(t, strings.Repeat("x", n)) }
	itemsOf := func(n int, v func(i int) items.Value) func(int, *store.Record) {
		return func(i int, rec *store.Record) {
			it := new(items.Item)
			for j := range n {
				it.Set("item"+strconv.Itoa(j), v(i))
			}
			rec.Items = it.Clone()
		}
	}
	for _, c := range []struct {
		name  string
		n     int
		fill  func(i int, rec *store.Record)
		atMin float64 // what is taken, of what is counted
	}{
		{"empty", 50000, func(int, *store.Record) {}, 0.85},
		{"a body of 10", 50000, func(_ int, rec *store.Record) { rec.Body = make([]byte, 10) }, 0.85},
		{"a body of 600", 20000, func(_ int, rec *store.Record) { rec.Body = make([]byte, 600) }, 0.9},
		{"a body of 5000", 5000, func(_ int, rec *store.Record) { rec.Body = make([]byte, 5000) }, 0.95},
		{"a body of 2 MB", 20, func(_ int, rec *store.Record) { rec.Body = make([]byte, 2e6) }, 0.95},
		{"five numbers", 50000, itemsOf(5, func(i int) items.Value { return encode(t, i) }), 0.7},
		{"three texts of 600", 20000, itemsOf(3, func(i int) items.Value { return text(600) }), 0.9},
		{"a subject", 50000, func(i int, rec *store.Record) { rec.Subject = "user number " + strconv.Itoa(i) }, 0.6},
		{"two sessions each", 50000, func(i int, rec *store.Record) { rec.Subject = "user number " + strconv.Itoa(i/2) }, 0.5},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := open(t, &Options{MaxBytes: -1})
			ids := benchIDs(c.n)
			for i := range s.shard { // the wheel is part of the fixed size
				s.shard[i].wheel.slots = new([wheelSlots]*entry)
			}
			before := heap()
			for i, id := range ids {
				rec := store.Record{Version: 1, Timeout: time.Hour}
				c.fill(i, &rec)
				wantErr(t, "Create", s.Create(ctx, id, &rec, false), nil)
			}
			taken, counted := heap()-before, s.bytes.Load()
			part := float64(taken) / float64(counted)
			t.Logf("%d bytes each, %.0f%% of the %d counted", taken/int64(c.n), 100*part, counted/int64(c.n))
			if !raceEnabled && (part > 1.02 || part < c.atMin) {
				t.Errorf("sessions that are counted as %d bytes take %d", counted/int64(c.n), taken/int64(c.n))
			}
			checkCounts(t, s)
			runtime.KeepAlive(ids)
		})
	}
}

func encode[T any](t testing.TB, v T) items.Value {
	c, err := items.NewCodec[T]()
	if err != nil {
		t.Fatal(err)
	}
	val, err := c.Encode(v)
	if err != nil {
		t.Fatal(err)
	}
	return val
}

// A grower is content that says each time that it is larger, as one may that refers to
// what others share.
type grower struct{ size int }

func (g *grower) MemSize() int { g.size += 1000; return g.size }

// TestCostIsGivenBack: as much as was taken, whatever the content says later.
func TestCostIsGivenBack(t *testing.T) {
	s := open(t, &Options{Ends: 10, MaxBytes: -1})
	for _, size := range []int{0, 1, 100_000, 523_000, 524_000, 524_300, 525_000, 10 << 20, math.MaxInt - 1<<20} {
		rec := store.Record{Version: store.NewVersion(), Timeout: time.Hour, Items: &grower{size}}
		wantErr(t, "Create", s.Create(ctx, sid("a"), &rec, false), nil)
		least := min(int64(size), 2<<30-coarse)
		if n := s.bytes.Load(); n < least || n > least+least/8+2000 {
			t.Errorf("%d bytes are counted as %d", size, n)
		}
		wantErr(t, "Save", s.Save(ctx, sid("a"), &rec, rec.Version+1, false), nil)
		remove(t, s, sid("a"))
		checkIdle(t, s)
		ack(t, s, ended(t, s, "/", 1, 0)...)
		checkNoEnds(t, s)
	}
}

// rss is how much memory the process has at this moment, or 0.
func rss() (n int64) {
	status, _ := os.ReadFile("/proc/self/status")
	if _, after, ok := bytes.Cut(status, []byte("VmRSS:")); ok {
		fmt.Sscan(string(after), &n)
	}
	return n << 10
}

// TestFloodStaysWithinMaxBytes: new sessions without end, of all sizes, which grow
// and shrink, from several sides. What is alive on the heap stays within MaxBytes,
// with ends remembered or not, what the process takes is what the package's section on
// memory says, and no session in use goes.
func TestFloodStaysWithinMaxBytes(t *testing.T) {
	maxBytes, flood := int64(64<<20), 120_000
	if long() {
		maxBytes, flood = 256<<20, 600_000
	}
	for _, c := range []struct {
		name  string
		o     Options
		limit bool    // there is a GOMEMLIMIT of a quarter more
		times float64 // how much of MaxBytes the process may grow
	}{
		{"Evict", Options{}, false, 3},
		{"EvictWithEnds", Options{Ends: 1 << 30}, true, 1.4},
		{"Refuse", Options{Full: RefuseNew}, true, 1.4},
	} {
		t.Run(c.name, func(t *testing.T) {
			debug.FreeOSMemory()
			base, baseRSS := heap(), rss()
			if c.limit {
				var m runtime.MemStats
				runtime.ReadMemStats(&m)
				defer debug.SetMemoryLimit(debug.SetMemoryLimit(int64(m.Sys-m.HeapReleased) + maxBytes + maxBytes/4))
			}
			c.o.MaxBytes = maxBytes
			s := open(t, &c.o)
			var inUse []store.Record
			user := func(i int) store.ID { return sid(fmt.Sprint("in use ", i)) }
			for i := range 200 {
				rec, err := createBody(s, user(i), 5000)
				wantErr(t, "Create", err, nil)
				wantErr(t, "Lock", s.Lock(ctx, user(i), store.LockOptions{Owner: 7, Stale: time.Hour}, &rec), nil)
				inUse = append(inUse, rec)
			}
			var most, mostRSS, mostCounted int64
			const rounds, sides = 6, 4
			for round := range rounds {
				var all sync.WaitGroup
				for side := range sides {
					all.Go(func() {
						rng := rand.New(rand.NewPCG(uint64(round), uint64(side)))
						for i := range flood / rounds / sides {
							id := sid(fmt.Sprintf("%d-%d-%d", round, side, i))
							rec, err := createBody(s, id, rng.IntN(4000))
							if errors.Is(err, store.ErrFull) && c.o.Full == RefuseNew {
								id = sid(fmt.Sprintf("0-%d-%d", side, i%1000))
								if err = s.Load(ctx, id, &rec); err != nil {
									t.Errorf("Load: %v", err)
									return
								}
							}
							if err != nil {
								t.Errorf("Create: %v", err)
								return
							}
							rec.Body = make([]byte, rng.IntN(8000))
							err = s.Save(ctx, id, &rec, store.NewVersion(), false)
							if err != nil && !errors.Is(err, store.ErrNotFound) && !(c.o.Full == RefuseNew && errors.Is(err, store.ErrFull)) {
								t.Errorf("Save: %v", err)
								return
							}
						}
					})
				}
				all.Wait()
				mostRSS = max(mostRSS, rss()-baseRSS)
				most = max(most, heap()-base)
				mostCounted = max(mostCounted, s.bytes.Load()+s.ends.bytes)
				if live := heap() - base; live > maxBytes+1<<20 { // with the fixed part
					t.Errorf("round %d: %d MiB are alive, more than the %d of MaxBytes", round, live>>20, maxBytes>>20)
				}
				checkCounts(t, s)
			}
			t.Logf("MaxBytes %d MiB: at most %d MiB alive, %d counted, process grew by %d MiB; %d sessions, %d ends",
				maxBytes>>20, most>>20, mostCounted>>20, mostRSS>>20, s.count.Load(), s.ends.all.len)
			if !raceEnabled && most < maxBytes*7/10 {
				t.Errorf("%d MiB at most were alive: MaxBytes is not used", most>>20)
			}
			if !raceEnabled && float64(mostRSS) > c.times*float64(maxBytes) {
				t.Errorf("the process grew by %d MiB, more than %g times MaxBytes", mostRSS>>20, c.times)
			}
			for i, rec := range inUse {
				wantErr(t, "Save of a session in use", s.Save(ctx, user(i), &rec, store.NewVersion(), false), nil)
			}
			runtime.KeepAlive(s)
		})
	}
}

func TestLeastRecentlyUsedAreEvicted(t *testing.T) {
	const n, evicted = 8000, 800
	synctest.Test(t, func(t *testing.T) {
		s := open(t, &Options{MaxSessions: n})
		rng := rand.New(rand.NewPCG(1, 1))
		for i := range n {
			create(t, s, sid(fmt.Sprint(i)), time.Duration(1+rng.IntN(24))*time.Hour) // the timeout plays no part
		}
		advance(time.Minute)
		for i := range n / 2 {
			id := sid(fmt.Sprint(i))
			switch i % 3 {
			case 0:
				load(t, s, id)
			case 1:
				wantErr(t, "Touch", s.Touch(ctx, id), nil)
			case 2:
				save(t, s, id, lock(t, s, id, 1, 48*time.Hour), false)
			}
		}
		for i := range evicted {
			create(t, s, sid(fmt.Sprint("new", i)), time.Hour)
			if c := s.count.Load(); c != n {
				t.Fatalf("%d sessions", c)
			}
		}
		gone := 0
		for i := range n {
			if !there(s, sid(fmt.Sprint(i))) {
				wantReason(t, "evicted", s.Touch(ctx, sid(fmt.Sprint(i))), store.Reason{Kind: store.Evicted})
				gone++
				if i < n/2 {
					t.Errorf("session %d, used of late, was evicted", i)
				}
			}
		}
		if gone != evicted {
			t.Errorf("%d sessions are gone, want %d", gone, evicted)
		}
		checkCounts(t, s)
	})
}

// TestSmallStoreEvictsTheOldest: where the store looks at all, it is exact.
func TestSmallStoreEvictsTheOldest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, &Options{MaxSessions: 4})
		for i := range 100 {
			create(t, s, sid(fmt.Sprint(i)), time.Hour)
			advance(time.Second)
			if i >= 4 && there(s, sid(fmt.Sprint(i-4))) {
				t.Fatalf("session %d is still there after %d", i-4, i)
			}
		}
	})
}

func TestExpiredGoBeforeEvicted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, &Options{MaxSessions: 4})
		create(t, s, sid("oldest"), time.Hour)
		advance(time.Millisecond)
		create(t, s, sid("short"), time.Second)
		create(t, s, sid("a"), time.Hour)
		create(t, s, sid("b"), time.Hour)
		advance(time.Second)
		create(t, s, sid("c"), time.Hour)
		wantReason(t, "short", s.Touch(ctx, sid("short")), store.Reason{Kind: store.Expired})
		wantErr(t, "oldest", s.Touch(ctx, sid("oldest")), nil)
	})
}

func TestSessionsInUseAreNotEvicted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, &Options{MaxSessions: 3})
		var held []store.Record
		for i := range 3 {
			create(t, s, sid(fmt.Sprint(i)), time.Second)
			held = append(held, lock(t, s, sid(fmt.Sprint(i)), 1, time.Hour))
		}
		advance(time.Minute)
		rec := store.Record{Version: 1, Timeout: time.Hour, Lock: store.Lock{Owner: 5}}
		wantErr(t, "Create with all others in use", s.Create(ctx, sid("new"), &rec, true), store.ErrFull)
		if rec.Lock.Cookie != 0 || s.count.Load() != 3 {
			t.Errorf("Create that failed set the cookie %d; %d sessions", rec.Lock.Cookie, s.count.Load())
		}
		wantErr(t, "Unlock", s.Unlock(ctx, sid("1"), held[1].Lock), nil)
		wantErr(t, "Create with one not in use", s.Create(ctx, sid("new"), &rec, true), nil)
		wantReason(t, "that one", s.Touch(ctx, sid("1")), store.Reason{Kind: store.Evicted})
		save(t, s, sid("0"), held[0], false)
		save(t, s, sid("2"), held[2], false)
	})
}

// TestRepeatedCreateEvictsNothing: nor does it need room.
func TestRepeatedCreateEvictsNothing(t *testing.T) {
	for _, policy := range []Policy{EvictLeastRecentlyUsed, RefuseNew} {
		s := open(t, &Options{MaxSessions: 2, Full: policy})
		first := create(t, s, sid("a"), time.Hour)
		create(t, s, sid("b"), time.Hour)
		wantErr(t, "Create, repeated", s.Create(ctx, sid("a"), &first, false), nil)
		first.Version++
		wantErr(t, "Create of what is there", s.Create(ctx, sid("a"), &first, false), store.ErrExists)
		load(t, s, sid("a"))
		load(t, s, sid("b"))
		checkCounts(t, s)
	}
}

// TestSaveMakesRoom: a session that grows has others evicted, and never itself.
func TestSaveMakesRoom(t *testing.T) {
	const all = 1 << 20
	s := open(t, &Options{MaxBytes: all})
	ids := make([]store.ID, 8)
	for i := range ids {
		ids[i] = sid(fmt.Sprint(i))
		if _, err := createBody(s, ids[i], 80<<10); err != nil {
			t.Fatal(err)
		}
	}
	rec := load(t, s, ids[0]) // and without a lock
	rec.Body = make([]byte, 800<<10)
	v := store.NewVersion()
	wantErr(t, "Save", s.Save(ctx, ids[0], &rec, v, false), nil)
	if now := load(t, s, ids[0]); now.Version != v || len(now.Body) != 800<<10 {
		t.Errorf("the session has %d bytes", len(now.Body))
	}
	checkCounts(t, s)
	left := 0
	for _, id := range ids[1:] {
		if there(s, id) {
			left++
		}
	}
	if left > 1 || s.bytes.Load() > all {
		t.Errorf("%d others are left, %d bytes", left, s.bytes.Load())
	}

	rec = load(t, s, ids[0])
	rec.Body = make([]byte, all)
	wantErr(t, "Save of more than there is", s.Save(ctx, ids[0], &rec, v+1, false), store.ErrTooLarge)
	_, err := createBody(s, sid("giant"), all)
	wantErr(t, "Create of more than there is", err, store.ErrTooLarge)
	if now := load(t, s, ids[0]); now.Version != v || len(now.Body) != 800<<10 || s.count.Load() != int64(left+1) {
		t.Errorf("afterwards, the session has %d bytes; %d sessions", len(now.Body), s.count.Load())
	}

	held := lock(t, s, ids[0], 1, time.Hour)
	for range left {
		if !s.evict(s.key(ids[0])) {
			t.Fatal("nothing evicted")
		}
	}
	_, err = createBody(s, sid("new"), 200<<10)
	wantErr(t, "Create beside what is in use", err, store.ErrFull)
	held.Body = held.Body[:10]
	wantErr(t, "Save of less", s.Save(ctx, ids[0], &held, v+2, false), nil)
	_, err = createBody(s, sid("new"), 200<<10)
	wantErr(t, "Create, with room", err, nil)
	checkCounts(t, s)
}

func TestRefuseNewLetsOthersGrow(t *testing.T) {
	s := open(t, &Options{MaxBytes: 4 << 20, Full: RefuseNew})
	n := 0
	for ; ; n++ {
		if _, err := createBody(s, sid(fmt.Sprint(n)), 1000); err != nil {
			wantErr(t, "Create", err, store.ErrFull)
			break
		}
	}
	grown := 0
	for i := range n {
		rec := load(t, s, sid(fmt.Sprint(i)))
		rec.Body = append(rec.Body, make([]byte, 1000)...)
		if err := s.Save(ctx, sid(fmt.Sprint(i)), &rec, store.NewVersion(), false); err != nil {
			wantErr(t, "Save", err, store.ErrFull)
			if now := load(t, s, sid(fmt.Sprint(i))); now.Version != rec.Version || len(now.Body) != 1000 {
				t.Errorf("what was not saved has version %v, %d bytes", now.Version, len(now.Body))
			}
			break
		}
		grown++
	}
	if room := 4 << 20 / 16 / 1200; grown < room*9/10 || grown > room*3/2 {
		t.Errorf("%d sessions of %d grew, want about %d", grown, n, room)
	}
	rec := load(t, s, sid("0"))
	rec.Body[0]++
	wantErr(t, "Save of as much", s.Save(ctx, sid("0"), &rec, store.NewVersion(), false), nil)
	checkCounts(t, s)
}

// TestCountsStayTrue goes through everything that changes a size.
func TestCountsStayTrue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, &Options{MaxSessions: 150, MaxBytes: 3 << 20, Ends: 50})
		var all sync.WaitGroup
		for w := range 4 {
			all.Go(func() {
				rng := rand.New(rand.NewPCG(9, uint64(w)))
				fill := func(rec *store.Record) {
					rec.Body, rec.Items, rec.Subject = nil, nil, ""
					switch rng.IntN(4) {
					case 0:
						rec.Body = make([]byte, int(math.Exp2(rng.Float64()*20)))
					case 1:
						rec.Items = new(items.Item)
					case 2:
						rec.Items = 1
					}
					if rng.IntN(2) == 0 {
						rec.Subject = fmt.Sprint("subject", rng.IntN(20))
					}
					rec.Timeout = time.Duration(rng.IntN(100)) * time.Second
				}
				for range 3000 {
					id := sid(fmt.Sprint(rng.IntN(300)))
					rec := store.Record{Version: store.NewVersion()}
					switch rng.IntN(8) {
					case 0, 1, 2:
						fill(&rec)
						s.Create(ctx, id, &rec, rng.IntN(10) == 0)
					case 3:
						s.Remove(ctx, id, store.Lock{}, store.Reason{Kind: store.Abandoned})
					case 4:
						time.Sleep(time.Duration(rng.IntN(1000)) * time.Millisecond)
					default:
						if s.Load(ctx, id, &rec) == nil {
							fill(&rec)
							s.Save(ctx, id, &rec, store.NewVersion(), false)
						}
					}
				}
			})
		}
		all.Wait()
		synctest.Wait()
		checkCounts(t, s)
		advance(time.Hour)
		checkIdle(t, s)
		ack(t, s, ended(t, s, "/", 1000, time.Hour)...)
		checkNoEnds(t, s)
	})
}

func BenchmarkCreateEvict(b *testing.B) {
	ids := benchIDs(1 << 18)
	s := New(&Options{MaxSessions: 1 << 17})
	defer s.Close()
	rec := store.Record{Version: 1, Timeout: 20 * time.Minute}
	for _, id := range ids[:1<<17] {
		s.Create(ctx, id, &rec, false)
	}
	b.ReportAllocs()
	i := 1 << 17
	for b.Loop() {
		rec.Version++
		s.Create(ctx, ids[i&(1<<18-1)], &rec, false)
		i++
	}
}
