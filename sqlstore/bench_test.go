package sqlstore

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-session/holdfast/sqlstore/pgnotify"
	"github.com/holdfast-session/holdfast/store"
)

// What a request costs: one that reads, one that changes, one that leaves the session as
// it is. Each goroutine has a session of 2 KB.
func BenchmarkRequest(b *testing.B) {
	for _, each := range databases {
		b.Run(each.name, func(b *testing.B) {
			s := each.make(b).open(b, Options{})
			var visitors atomic.Int64
			visitor := func(b *testing.B) (id store.ID, rec *store.Record) {
				id = store.ID{App: b.Name(), Session: fmt.Sprint(visitors.Add(1))}
				rec = &store.Record{Version: store.NewVersion(), Timeout: 20 * time.Minute, Body: make([]byte, 2048)}
				if err := s.Create(b.Context(), id, rec, false); err != nil {
					b.Fatal(err)
				}
				return id, rec
			}
			for _, request := range []struct {
				name string
				make func(b *testing.B, id store.ID, rec *store.Record) error
			}{
				{"Load", func(b *testing.B, id store.ID, rec *store.Record) error { return s.Load(b.Context(), id, rec) }},
				{"LockSave", func(b *testing.B, id store.ID, rec *store.Record) error {
					if err := s.Lock(b.Context(), id, store.LockOptions{Owner: store.NewOwner(), Wait: time.Minute}, rec); err != nil {
						return err
					}
					return s.Save(b.Context(), id, rec, store.NewVersion(), false)
				}},
				{"LockUnlock", func(b *testing.B, id store.ID, rec *store.Record) error {
					if err := s.Lock(b.Context(), id, store.LockOptions{Owner: store.NewOwner(), Wait: time.Minute}, rec); err != nil {
						return err
					}
					return s.Unlock(b.Context(), id, rec.Lock)
				}},
			} {
				b.Run(request.name, func(b *testing.B) {
					b.ReportAllocs()
					b.SetParallelism(16) // as many visitors as a server has
					b.RunParallel(func(pb *testing.PB) {
						id, rec := visitor(b)
						for pb.Next() {
							if err := request.make(b, id, rec); err != nil {
								b.Error(err)
								return
							}
						}
					})
				})
			}
		})
	}
}

// How long after an Unlock at one process another has the lock.
func BenchmarkHandover(b *testing.B) {
	for _, told := range []bool{true, false} {
		b.Run(fmt.Sprintf("PostgreSQL/told=%v", told), func(b *testing.B) {
			d := databases[0].make(b)
			table := d.newTable()
			node := func() *Store {
				db := d.connect(b)
				o := Options{Table: table}
				if told {
					o.Notifier = pgnotify.New(db)
				}
				return d.openAt(b, db, o)
			}
			one, other := node(), node()
			b.ResetTimer()
			median := handover(b, one, other, told, b.N)
			b.ReportMetric(float64(median.Microseconds())/1000, "ms-p50")
		})
	}
}
