package storetest

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-session/holdfast/store"
)

const maxBody = 1 << 21

// reference is the harness of memory, in a bubble; bug and twist break it.
func reference(bug string, twist func(store.Store) store.Store) Harness {
	if twist == nil {
		twist = func(s store.Store) store.Store { return s }
	}
	open := func() *memory {
		m := newMemory(bug)
		m.maxBody = maxBody
		return m
	}
	under := func(s store.Store) *memory {
		if t, ok := s.(*twisted); ok {
			return t.memory
		}
		return s.(*memory)
	}
	return Harness{
		Bubble:  true,
		MaxBody: maxBody,
		Open:    func(testing.TB) store.Store { return twist(open()) },
		OpenSmall: func(testing.TB) store.Store {
			m := open()
			m.room = 1000
			return twist(m)
		},
		Second: func(_ testing.TB, s store.Store) store.Store { return twist(under(s)) },
		Restart: func(_ testing.TB, s store.Store, crash bool) store.Store {
			return twist(under(s).reopen(crash))
		},
	}
}

// evicting is the reference whose small store makes room by itself.
func evicting(bug string) Harness {
	h := reference(bug, nil)
	h.OpenSmall = func(testing.TB) store.Store {
		m := newMemory(bug)
		m.room, m.evicts = 1000, true
		return m
	}
	return h
}

// forgetful is the reference that keeps nothing over a restart.
func forgetful(bug string) Harness {
	h := reference(bug, nil)
	h.Lacks = []Feature{Durability}
	start := func() store.Store {
		m := newMemory(bug)
		m.maxBody = maxBody
		if bug != "a restart that is not told" {
			m.started = time.Now()
		}
		return m
	}
	h.Open = func(testing.TB) store.Store { return start() }
	h.Restart = func(testing.TB, store.Store, bool) store.Store { return start() }
	return h
}

func TestReference(t *testing.T) { Run(t, reference("", nil)) }

func TestReferenceEvicting(t *testing.T) { Run(t, evicting("")) }

func TestReferenceForgetful(t *testing.T) { Run(t, forgetful("")) }

// TestWeakStoresPass has stores that lack something, and say so.
func TestWeakStoresPass(t *testing.T) {
	for bug, lacks := range map[string][]Feature{
		"no versions":             {Versions, History, Acquired},
		"no history":              {History},
		"no Acquired":             {Acquired},
		"no owner":                {Owner},
		"counted cookies":         {RandomCookies},
		"Load waits for locks":    {ReadUnderLock},
		"hold ignored":            {Hold},
		"no metadata":             {Metadata},
		"no reasons":              {Tombstones},
		"last come, first served": {Order, OrderAcross},
		"locks lost in a restart": {LocksOverRestart},
		"an end without lease":    {ReliableEnds},
	} {
		t.Run(bug, func(t *testing.T) {
			h := harnessOf(bug)
			h.Lacks = lacks
			Run(t, h)
		})
	}
}

// TestAdvance runs the suite on stores whose clock the harness moves.
func TestAdvance(t *testing.T) {
	for _, tc := range cases() {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := reference("", nil)
				h.Bubble = false
				h.Advance = time.Sleep
				suite{Harness: h}.run(t, tc)
			})
		})
	}
}

// TestWaiting runs the suite as it waits for stores that no bubble can hold, in a
// bubble of its own.
func TestWaiting(t *testing.T) {
	var total time.Duration
	for _, tc := range cases() {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				h := reference("", nil)
				h.Bubble = false
				suite{Harness: h}.run(t, tc)
				d := time.Since(start)
				if d > time.Minute {
					t.Errorf("the case waits %v; want at most a minute", d)
				}
				total += d
			})
		})
	}
	if total > 4*time.Minute {
		t.Errorf("the suite waits %v in all; want at most four minutes", total)
	}
}

// A recorder takes failures instead of a test.
type recorder struct {
	testing.TB
	mu       sync.Mutex
	failures []string
}

func (r *recorder) fail(s string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failures = append(r.failures, s)
}

func (r *recorder) Helper()                   {}
func (r *recorder) Error(args ...any)         { r.fail(fmt.Sprint(args...)) }
func (r *recorder) Errorf(f string, a ...any) { r.fail(fmt.Sprintf(f, a...)) }
func (r *recorder) Fatal(args ...any)         { r.Error(args...); runtime.Goexit() }
func (r *recorder) Fatalf(f string, a ...any) { r.Errorf(f, a...); runtime.Goexit() }
func (r *recorder) FailNow()                  { runtime.Goexit() }
func (r *recorder) Failed() bool              { r.mu.Lock(); defer r.mu.Unlock(); return len(r.failures) > 0 }

// failures runs one case and returns how it fails.
func failures(t *testing.T, h Harness, name string) []string {
	i := slices.IndexFunc(cases(), func(tc testCase) bool { return tc.name == name })
	if i < 0 {
		t.Fatalf("there is no case %q", name)
	}
	return record(t, h, cases()[i], time.Minute)
}

func record(t *testing.T, h Harness, tc testCase, hangLimit time.Duration) []string {
	r := new(recorder)
	report := func(t testing.TB) testing.TB {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.TB = t
		return r
	}
	suite{Harness: h, report: report, hangLimit: hangLimit}.run(t, tc)
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.failures)
}

// TestCallThatNeverReturns has a store that ignores every context: its case fails,
// and does not hang.
func TestCallThatNeverReturns(t *testing.T) {
	never := testCase{name: "never", run: func(c *trial) { c.ok(c.open().Touch(c.ctx, c.id("s")), "Touch") }}
	for _, bubble := range []bool{true, false} {
		release := make(chan struct{})
		h := Harness{Bubble: bubble, Open: func(testing.TB) store.Store {
			if bubble {
				return stuck{in: make(chan struct{})}
			}
			return stuck{in: release}
		}}
		got := record(t, h, never, 100*time.Millisecond)
		if len(got) == 0 || !strings.Contains(got[0], "stuck") {
			t.Errorf("with Bubble %v the case fails with %q; want where the call is stuck", bubble, got)
		}
		close(release)
	}
}

type stuck struct {
	store.Store
	in chan struct{}
}

func (s stuck) Touch(context.Context, store.ID) error {
	<-s.in
	return nil
}

func TestHarnessChecked(t *testing.T) {
	open := func(testing.TB) store.Store { return newMemory("") }
	for _, h := range []Harness{{}, {Open: open, Lacks: []Feature{Owner, "Speed"}}} {
		if err := h.check(); err == nil {
			t.Errorf("the harness %+v is accepted; want an error", h)
		}
	}
	if err := (Harness{Open: open, Lacks: features}).check(); err != nil {
		t.Errorf("a harness that lacks everything: %v", err)
	}
}

// TestLackingCasesAreSkipped has exactly the cases skipped that need what is lacking.
func TestLackingCasesAreSkipped(t *testing.T) {
	for _, f := range features {
		s := suite{Harness: Harness{Lacks: []Feature{f}}}
		for _, tc := range cases() {
			got, skipped := s.lacking(tc)
			if want := slices.Contains(tc.needs, f); skipped != want || skipped && got != f {
				t.Errorf("without %s, %s is skipped is %v (for %s); want %v", f, tc.name, skipped, got, want)
			}
		}
	}
}

// TestCasesAreUnique has every name once, and every feature known.
func TestCasesAreUnique(t *testing.T) {
	seen := make(map[string]bool)
	for _, tc := range cases() {
		if seen[tc.name] {
			t.Errorf("two cases are named %s", tc.name)
		}
		seen[tc.name] = true
		for _, f := range tc.needs {
			if !slices.Contains(features, f) {
				t.Errorf("%s needs %q, which is no Feature", tc.name, f)
			}
		}
	}
}
