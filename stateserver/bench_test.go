package stateserver

import (
	"bytes"
	"fmt"
	"sync"
	"testing"

	"github.com/holdfast-session/holdfast/inproc"
	"github.com/holdfast-session/holdfast/store"
)

// BenchmarkClient reads, and locks and saves, sessions of 500 and 5000 bytes over
// loopback TCP, with client and server in this process, for so many callers at a
// time.
func BenchmarkClient(b *testing.B) {
	const most = 512
	for _, size := range []int{500, 5000} {
		c := dial(b, serve(b, &Server{Store: inproc.New(nil)}), nil)
		body := string(bytes.Repeat([]byte("x"), size))
		ids := make([]store.ID, most)
		for i := range ids {
			ids[i] = store.ID{App: "/", Session: fmt.Sprint(i)}
			mustCreate(b, c, ids[i], body)
		}
		for _, op := range []struct {
			name string
			do   func(id store.ID, rec *store.Record) error
		}{
			{"load", func(id store.ID, rec *store.Record) error { return c.Load(b.Context(), id, rec) }},
			{"lock and save", func(id store.ID, rec *store.Record) error {
				if err := c.Lock(b.Context(), id, store.LockOptions{Owner: store.NewOwner()}, rec); err != nil {
					return err
				}
				return c.Save(b.Context(), id, rec, store.NewVersion(), false)
			}},
		} {
			for _, callers := range []int{1, 8, 64, most} {
				b.Run(fmt.Sprintf("%s/%d bytes/%d callers", op.name, size, callers), func(b *testing.B) {
					b.ReportAllocs()
					var wg sync.WaitGroup
					for i := range callers {
						wg.Go(func() {
							var rec store.Record
							for range b.N/callers + 1 {
								if err := op.do(ids[i], &rec); err != nil {
									b.Error(err)
									return
								}
							}
						})
					}
					wg.Wait()
				})
			}
		}
	}
}
