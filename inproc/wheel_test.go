package inproc

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-session/holdfast/store"
)

func TestSweep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, nil)
		advance(1234567890 * time.Nanosecond)
		timeouts := []time.Duration{time.Second, 20 * time.Minute, 17 * time.Minute, wheelSlots * tick, time.Hour, 30 * 24 * time.Hour, 365 * 24 * time.Hour}
		for i, d := range timeouts {
			create(t, s, sid(fmt.Sprint(i)), d)
		}
		gone := time.Duration(0)
		for i, d := range []int{0, 2, 3, 1, 4, 5, 6} {
			advance(timeouts[d] - gone - 1)
			left := int64(len(timeouts) - i)
			if n := s.count.Load(); n != left {
				t.Errorf("%v: %d sessions, want %d", timeouts[d]-1, n, left)
			}
			advance(1 + tick)
			gone = timeouts[d] + tick
			if n := s.count.Load(); n != left-1 {
				t.Errorf("%v: %d sessions, want %d", gone, n, left-1)
			}
		}
		checkIdle(t, s)
		wantReason(t, "Touch", s.Touch(ctx, sid("0")), store.Reason{Kind: store.Expired, Age: gone - time.Second})
	})
}

// TestExpiryIsExact: a call meets the session until the timeout has passed, and not
// from then on, whether or not the sweep has been there.
func TestExpiryIsExact(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, nil)
		advance(tick / 3)
		create(t, s, sid("a"), 10*time.Second)
		for range 5 {
			advance(10*time.Second - 1)
			wantErr(t, "Touch", s.Touch(ctx, sid("a")), nil)
		}
		advance(10 * time.Second)
		wantReason(t, "Touch", s.Touch(ctx, sid("a")), store.Reason{Kind: store.Expired})
		advance(time.Minute)
		wantReason(t, "Touch", s.Touch(ctx, sid("a")), store.Reason{Kind: store.Expired, Age: time.Minute})
		checkIdle(t, s)
		create(t, s, sid("a"), 10*time.Second)
		wantErr(t, "Touch of the next one", s.Touch(ctx, sid("a")), nil)
	})
}

// TestEveryCallRestarts: all but a Create that is repeated and calls that fail.
func TestEveryCallRestarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, nil)
		id := sid("a")
		rec := create(t, s, id, 10*time.Second)
		calls := []func(){
			func() { load(t, s, id) },
			func() { wantErr(t, "Touch", s.Touch(ctx, id), nil) },
			func() { rec = lock(t, s, id, 1, 0) },
			func() { rec.Version = save(t, s, id, rec, true) },
			func() { wantErr(t, "Unlock", s.Unlock(ctx, id, rec.Lock), nil) },
			func() {
				rec = load(t, s, id)
				save(t, s, id, store.Record{Version: rec.Version, Timeout: rec.Timeout}, false)
			},
		}
		for i := range 3 * len(calls) {
			advance(9 * time.Second)
			calls[i%len(calls)]()
		}
		rec = load(t, s, id)
		advance(9 * time.Second)
		wantErr(t, "Create", s.Create(ctx, id, &rec, false), nil)
		wantErr(t, "Save", s.Save(ctx, id, &store.Record{}, 1, false), store.ErrConflict)
		wantErr(t, "Unlock of what is free", s.Unlock(ctx, id, store.Lock{Owner: 1}), nil)
		advance(time.Second)
		wantErr(t, "Touch", s.Touch(ctx, id), store.ErrNotFound)
	})
}

func TestTimeoutShortened(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, nil)
		rec := create(t, s, sid("a"), 24*time.Hour)
		rec.Timeout = 5 * time.Second
		save(t, s, sid("a"), rec, false)
		advance(5*time.Second + tick)
		checkIdle(t, s)
	})
}

// TestTimerIsThereOnlyWhileNeeded watches what would keep a dropped store in memory.
// (That the timer has stopped, package expiry tests.)
func TestTimerIsThereOnlyWhileNeeded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, nil)
		checkIdle(t, s)
		for range 3 {
			create(t, s, sid("a"), time.Hour)
			create(t, s, sid("b"), 2*time.Minute)
			if at, want := s.sweeper.At(), (s.now()+int64(2*time.Minute)+int64(tick)-1)/int64(tick); at != want {
				t.Errorf("timer at tick %d, want %d", at, want)
			}
			for _, name := range []string{"a", "b"} {
				wantErr(t, "Remove", s.Remove(ctx, sid(name), store.Lock{}, store.Reason{Kind: store.Abandoned}), nil)
			}
			checkIdle(t, s)
			advance(12 * time.Hour)
		}
	})
}

// TestSweepMeetsCalls runs the sweep against everything else; the race detector and
// checkIdle look on.
func TestSweepMeetsCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, nil)
		for w := range 8 {
			go func() {
				rng := rand.New(rand.NewPCG(1, uint64(w)))
				for range 2000 {
					id := sid(fmt.Sprint(rng.IntN(200)))
					var rec store.Record
					switch rng.IntN(4) {
					case 0:
						rec = store.Record{Version: store.NewVersion(), Timeout: time.Duration(1+rng.IntN(20)) * time.Second}
						s.Create(ctx, id, &rec, false)
					case 1:
						s.Touch(ctx, id)
					case 2:
						o := store.LockOptions{Owner: store.NewOwner(), Wait: time.Second, Stale: 3 * time.Second}
						if s.Lock(ctx, id, o, &rec) == nil && rng.IntN(4) > 0 {
							rec.Timeout = time.Duration(1+rng.IntN(20)) * time.Second
							s.Save(ctx, id, &rec, store.NewVersion(), false)
						}
					case 3:
						time.Sleep(time.Duration(rng.IntN(2000)) * time.Millisecond)
					}
				}
			}()
		}
		advance(24 * time.Hour)
		checkIdle(t, s)
	})
}

// TestFarDeadlinesSpread: sessions that live for longer than the wheel is round are
// not looked at all at once, whether they came one after the other or together.
func TestFarDeadlinesSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, nil)
		for i := range 6000 {
			create(t, s, sid(fmt.Sprint(i)), 24*time.Hour)
			if i < 3000 {
				advance(tick)
			}
		}
		slots := map[int64]int{}
		for i := range s.shard {
			w := &s.shard[i].wheel
			for slot, e := range w.slots {
				for ; e != nil; e = e.next {
					slots[int64(slot)]++
				}
			}
		}
		for slot, n := range slots {
			if n > 60 {
				t.Errorf("slot %d has %d of 6000 sessions", slot, n)
			}
		}
	})
}

// TestProcessSlept: the machine was suspended for longer than the wheel is round.
func TestProcessSlept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, nil)
		for i := range 500 {
			create(t, s, sid(fmt.Sprint(i)), time.Duration(i+1)*10*time.Second)
		}
		s.sweeper.Close() // the test sweeps
		for _, c := range []struct {
			slept time.Duration
			left  int64
		}{{3000 * time.Second, 200}, {2001 * time.Second, 0}} {
			time.Sleep(c.slept)
			s.sweepAll()
			if n := s.count.Load(); n != c.left {
				t.Errorf("%d sessions, want %d", n, c.left)
			}
		}
	})
}
