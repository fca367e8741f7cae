package storetest

import (
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
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
	h.Restart = func(testing.TB, store.Store, bool) store.Store {
		m := newMemory(bug)
		if bug != "a restart that is not told" {
			m.started = time.Now()
		}
		return m
	}
	return h
}

func TestReference(t *testing.T) { Run(t, reference("", nil)) }

func TestReferenceEvicting(t *testing.T) { Run(t, evicting("")) }

func TestReferenceForgetful(t *testing.T) { Run(t, forgetful("")) }

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
	r := &recorder{TB: t}
	s := suite{Harness: h, report: func(t testing.TB) testing.TB { return r }, hangLimit: 20 * time.Second}
	s.run(t, cases()[i])
	return r.failures
}
