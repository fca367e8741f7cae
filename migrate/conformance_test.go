package migrate_test

import (
	"sync"
	"testing"

	"github.com/holdfast-session/holdfast/inproc"
	"github.com/holdfast-session/holdfast/migrate"
	"github.com/holdfast-session/holdfast/store"
	"github.com/holdfast-session/holdfast/storetest"
)

// TestContract runs the suite over two stores in each phase, and with a second process
// that is in the other one.
func TestContract(t *testing.T) {
	for name, phase := range map[string]migrate.Phase{"Prepare": migrate.Prepare, "Move": migrate.Move} {
		t.Run(name, func(t *testing.T) {
			pairs := make(map[store.Store][2]*inproc.Store)
			open := func(o inproc.Options) func(t testing.TB) store.Store {
				return func(t testing.TB) store.Store {
					from, to := inproc.New(&o), inproc.New(&o)
					t.Cleanup(func() { from.Close(); to.Close() })
					s := migrate.New(from, to, &migrate.Options{Phase: phase})
					pairs[s] = [2]*inproc.Store{from, to}
					return s
				}
			}
			var lacks []storetest.Feature
			if phase == migrate.Prepare {
				// Those who wait in the old place arrive in the new one all at once.
				lacks = append(lacks, storetest.OrderAcross)
			}
			storetest.Run(t, storetest.Harness{
				Bubble:    true,
				Open:      open(inproc.Options{Ends: 10000}),
				OpenSmall: open(inproc.Options{Ends: 500, MaxSessions: 500}),
				Second: func(t testing.TB, s store.Store) store.Store {
					return migrate.New(pairs[s][0], pairs[s][1], &migrate.Options{Phase: migrate.Move - phase})
				},
				Lacks: lacks,
			})
		})
	}
}

// TestContractToRedis runs the suite while sessions move from a folder to Redis. It really
// waits, so it is of the long run; TestPairs has these two in every run.
func TestContractToRedis(t *testing.T) {
	if !long() {
		return
	}
	pairs := new(sync.Map)
	storetest.Run(t, storetest.Harness{
		Open: func(t testing.TB) store.Store {
			from, to := openLogstore(t), openRedis(t)
			s := migrate.New(from, to, &migrate.Options{Phase: migrate.Move})
			pairs.Store(s, [2]place{from, to})
			return s
		},
		Second: func(t testing.TB, s store.Store) store.Store {
			p, _ := pairs.Load(s)
			return migrate.New(p.([2]place)[0], p.([2]place)[1], &migrate.Options{Phase: migrate.Prepare})
		},
	})
}
