package inproc_test

import (
	"testing"

	"github.com/holdfast-session/holdfast/inproc"
	"github.com/holdfast-session/holdfast/store"
	"github.com/holdfast-session/holdfast/storetest"
)

func TestContract(t *testing.T) {
	open := func(o *inproc.Options) func(t testing.TB) store.Store {
		return func(t testing.TB) store.Store {
			s := inproc.New(o)
			t.Cleanup(func() { s.Close() })
			return s
		}
	}
	restart := func(t testing.TB, s store.Store, crash bool) store.Store {
		s.(*inproc.Store).Close()
		return open(nil)(t)
	}
	t.Run("Default", func(t *testing.T) {
		storetest.Run(t, storetest.Harness{
			Bubble:  true,
			Open:    open(nil),
			Restart: restart,
			Lacks:   []storetest.Feature{storetest.Durability, storetest.LocksOverRestart},
		})
	})
	t.Run("CountCookies", func(t *testing.T) {
		storetest.Run(t, storetest.Harness{
			Bubble:  true,
			Open:    open(&inproc.Options{CountCookies: true}),
			Restart: restart,
			Lacks:   []storetest.Feature{storetest.RandomCookies, storetest.Durability, storetest.LocksOverRestart},
		})
	})
}
