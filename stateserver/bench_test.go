package stateserver

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/holdfast-session/holdfast/inproc"
	"github.com/holdfast-session/holdfast/store"
)

// BenchmarkClient locks and saves sessions of 500 bytes over loopback TCP, with
// client and server in this process.
func BenchmarkClient(b *testing.B) {
	c := dial(b, serve(b, &Server{Store: inproc.New(nil)}), &ClientOptions{MaxConns: 64})
	body := string(bytes.Repeat([]byte("x"), 500))
	for i := range 64 {
		mustCreate(b, c, store.ID{App: "/", Session: fmt.Sprint(i)}, body)
	}
	cycle := func(b *testing.B, id store.ID, rec *store.Record) {
		if err := c.Lock(b.Context(), id, store.LockOptions{Owner: store.NewOwner()}, rec); err != nil {
			b.Error(err)
			return
		}
		if err := c.Save(b.Context(), id, rec, store.NewVersion(), false); err != nil {
			b.Error(err)
		}
	}
	b.Run("one caller", func(b *testing.B) {
		b.ReportAllocs()
		var rec store.Record
		for b.Loop() {
			cycle(b, store.ID{App: "/", Session: "0"}, &rec)
		}
	})
	b.Run("64 callers", func(b *testing.B) {
		b.ReportAllocs()
		sessions := make(chan int, 64)
		for i := range 64 {
			sessions <- i
		}
		b.SetParallelism(32)
		b.RunParallel(func(pb *testing.PB) {
			i := <-sessions
			defer func() { sessions <- i }()
			id := store.ID{App: "/", Session: fmt.Sprint(i)}
			var rec store.Record
			for pb.Next() {
				cycle(b, id, &rec)
			}
		})
	})
}
