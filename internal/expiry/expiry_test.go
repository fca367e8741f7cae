package expiry

import (
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestWheel compares a wheel with a plain list.
func TestWheel(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 7))
	for round := range 50 {
		var w Wheel
		now := rng.Int64N(int64(100 * time.Hour))
		all := map[int64]int{} // how many there are, by tick
		for range 200 {
			switch rng.IntN(3) {
			case 0, 1:
				deadline := now + rng.Int64N(int64(3000*Tick))
				at := w.Place(deadline, now)
				if at*int64(Tick) > deadline+int64(Tick) || at <= w.swept || at >= w.swept+Slots {
					t.Fatalf("round %d: a deadline at %d went to tick %d, %d swept", round, deadline, at, w.swept)
				}
				all[at]++
			case 2:
				for at := range all {
					if all[at]--; all[at] == 0 {
						delete(all, at)
						w.Empty(int(at % Slots))
					}
					break
				}
			}
			want := int64(Never)
			for at := range all {
				want = min(want, at)
			}
			if got := w.Next(); got != want {
				t.Fatalf("round %d: next tick %d, want %d (%d swept)", round, got, want, w.swept)
			}
		}
		for now += int64(5000 * Tick); ; {
			slot, next, ok := w.Due(now)
			if !ok {
				if next != Never || len(all) > 0 {
					t.Fatalf("round %d: the next tick is %d, %d were not due", round, next, len(all))
				}
				break
			}
			if all[next] == 0 || slot != int(next%Slots) {
				t.Fatalf("round %d: tick %d is due, in slot %d", round, next, slot)
			}
			delete(all, next)
			w.Empty(slot)
		}
	}
}

// TestSweeper: the timer is there only while anything is, one sweep runs at a time,
// and none after Close.
func TestSweeper(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var mu sync.Mutex
		var left []int64 // ticks
		sweeps := 0
		var s Sweeper
		now := func() int64 { return int64(time.Since(start)) }
		empty := func() bool {
			mu.Lock()
			defer mu.Unlock()
			return len(left) == 0
		}
		s.Init(now, empty, func() int64 {
			mu.Lock()
			defer mu.Unlock()
			sweeps++
			for len(left) > 0 && left[0]*int64(Tick) <= now() {
				left = left[1:]
			}
			if len(left) == 0 {
				return Never
			}
			return left[0]
		})
		arm := func(at int64) {
			mu.Lock()
			left = append(left, at)
			mu.Unlock()
			s.Arm(at, now())
		}
		arm(10)
		arm(3600)
		time.Sleep(11 * time.Second)
		synctest.Wait()
		if sweeps != 1 || s.At() != 3600 {
			t.Errorf("%d sweeps, the next at tick %d; want 1, and 3600", sweeps, s.At())
		}
		mu.Lock()
		left = nil
		mu.Unlock()
		s.Rest()
		if s.At() != Never || s.timer.Stop() {
			t.Errorf("with nothing left, the timer runs, to tick %d", s.At())
		}
		time.Sleep(2 * time.Hour)
		arm(7300)
		time.Sleep(time.Hour)
		synctest.Wait()
		if sweeps != 2 || s.At() != Never {
			t.Errorf("%d sweeps, the next at tick %d; want 2 and none", sweeps, s.At())
		}
		arm(20000)
		s.Close()
		s.Sweep()
		if s.timer.Stop() || sweeps != 2 {
			t.Errorf("after Close: %d sweeps; want 2, and no timer", sweeps)
		}
	})
}
