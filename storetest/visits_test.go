package storetest

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-session/holdfast/store"
)

// visit has three visitors take turns, each by way of a store that wrap makes, and
// returns what the check of one session reports.
func visit(t *testing.T, crashes bool, wrap func(s store.Store, v **Visitor) store.Store) string {
	t.Helper()
	r := &recorder{TB: t}
	synctest.Test(t, func(t *testing.T) {
		s := newMemory("")
		for seed := range uint64(20) {
			h := NewVisits(seed, time.Second, store.ID{App: t.Name(), Session: string(rune('a' + seed))})
			visitors := make([]*Visitor, 3)
			for i := range visitors {
				visitors[i] = h.Visitor(wrap(s, &visitors[i]))
			}
			for i := range 120 {
				err := visitors[i%3].Visit(t.Context())
				if err != nil && !errors.Is(err, store.ErrUnavailable) && !errors.Is(err, store.ErrUnsure) {
					t.Errorf("Visit returns %v", err)
				}
				if crashes && i%20 == 0 {
					h.Crash(func() {})
				}
			}
			h.Check(r, time.Minute)
		}
	})
	return strings.Join(r.failures, "\n")
}

func TestVisitsOfStoreThatFails(t *testing.T) {
	f := &Faults{Rule: Random(1, 0.1, 0.02)}
	if got := visit(t, false, func(s store.Store, _ **Visitor) store.Store { return f.Wrap(s) }); got != "" {
		t.Errorf("histories that are right fail:\n%s", got)
	}
}

func TestVisitsOfStoreThatRepeats(t *testing.T) {
	n := 0
	wrap := func(s store.Store, v **Visitor) store.Store {
		return repeating{s, func() bool {
			n++
			if n%4 == 0 {
				(*v).Lost()
			}
			return n%4 == 0
		}}
	}
	if got := visit(t, false, wrap); got != "" {
		t.Errorf("histories that are right fail:\n%s", got)
	}
	silent := func(s store.Store, v **Visitor) store.Store {
		return repeating{s, func() bool { n++; return n%4 == 0 }}
	}
	if got := visit(t, false, silent); !strings.Contains(got, "no order of these calls explains") {
		t.Errorf("Removes that were made and then answered with ErrNotFound pass: %q", got)
	}
}

func TestVisitsOfLocksThatSurviveACrash(t *testing.T) {
	got := visit(t, true, func(s store.Store, _ **Visitor) store.Store { return s })
	if !strings.Contains(got, "no order of these calls explains") || !strings.Contains(got, "Crash → ok") {
		t.Errorf("locks that are held over a crash pass: %q", got)
	}
}

// A repeating store makes some Removes again, as one does whose first reply was lost.
type repeating struct {
	store.Store
	again func() bool
}

func (s repeating) Remove(ctx context.Context, id store.ID, lock store.Lock, why store.Reason) error {
	err := s.Store.Remove(ctx, id, lock, why)
	if s.again() {
		return s.Store.Remove(ctx, id, lock, why)
	}
	return err
}
