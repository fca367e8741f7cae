package inproc_test

import (
	"testing"

	"github.com/holdfast-session/holdfast/inproc"
	"github.com/holdfast-session/holdfast/store"
	"github.com/holdfast-session/holdfast/storetest"
)

func TestContract(t *testing.T) {
	open := func(o inproc.Options) func(t testing.TB) store.Store {
		return func(t testing.TB) store.Store {
			s := inproc.New(&o)
			t.Cleanup(func() { s.Close() })
			return s
		}
	}
	for _, c := range []struct {
		name        string
		open, small inproc.Options
		lacks       []storetest.Feature
	}{
		// By default, ends are remembered only once somebody has asked for them.
		{"Default", inproc.Options{}, inproc.Options{MaxSessions: 1000}, []storetest.Feature{storetest.ReliableEnds}},
		{"Ends", inproc.Options{Ends: 10000}, inproc.Options{Ends: 1000, MaxSessions: 1000}, nil},
		{"RefuseNew", inproc.Options{Full: inproc.RefuseNew, Ends: 10000}, inproc.Options{Full: inproc.RefuseNew, Ends: 1000, MaxSessions: 1000}, nil},
		{"RefuseNewBytes", inproc.Options{Full: inproc.RefuseNew, Ends: 10000}, inproc.Options{Full: inproc.RefuseNew, Ends: 10000, MaxBytes: 400 << 10}, nil},
		{"CountCookies", inproc.Options{CountCookies: true, Ends: 10000}, inproc.Options{CountCookies: true, Ends: 1000, MaxSessions: 1000}, []storetest.Feature{storetest.RandomCookies}},
	} {
		t.Run(c.name, func(t *testing.T) {
			storetest.Run(t, storetest.Harness{
				Bubble:    true,
				Open:      open(c.open),
				OpenSmall: open(c.small),
				Restart: func(t testing.TB, s store.Store, crash bool) store.Store {
					s.(*inproc.Store).Close()
					return open(c.open)(t)
				},
				Lacks: append(c.lacks, storetest.Durability, storetest.LocksOverRestart),
			})
		})
	}
}
