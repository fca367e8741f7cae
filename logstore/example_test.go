package logstore_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/holdfast-session/holdfast/logstore"
	"github.com/holdfast-session/holdfast/store"
)

// Applications pass the store to holdfast.New and never call it themselves. What they
// saved is there when the program starts again.
func Example() {
	dir, err := os.MkdirTemp("", "sessions")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)

	ctx := context.Background()
	id := store.ID{App: "/", Session: "xk3vbbsoamqhpobn3ujz4ljc"}
	var rec store.Record
	for run := range 3 {
		s, err := logstore.Open(dir, nil)
		if err != nil {
			log.Fatal(err)
		}
		if run == 0 {
			first := store.Record{Version: store.NewVersion(), Timeout: 20 * time.Minute, Body: []byte("1 visit")}
			fmt.Println("create:", s.Create(ctx, id, &first, false))
		} else {
			fmt.Println("lock:", s.Lock(ctx, id, store.LockOptions{Owner: store.NewOwner()}, &rec), string(rec.Body))
			rec.Body = fmt.Appendf(nil, "%d visits", run+1)
			fmt.Println("save:", s.Save(ctx, id, &rec, store.NewVersion(), false))
		}
		if err := s.Close(); err != nil {
			log.Fatal(err)
		}
	}
	// Output:
	// create: <nil>
	// lock: <nil> 1 visit
	// save: <nil>
	// lock: <nil> 2 visits
	// save: <nil>
}

// A small machine, and data worth a sync of the disk for each save.
func ExampleOptions() {
	dir, err := os.MkdirTemp("", "sessions")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)

	s, err := logstore.Open(dir, &logstore.Options{
		Sync:      logstore.Always,
		MaxMemory: 64 << 20,
		MaxDisk:   1 << 30,
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(s.Stats().Sessions, s.Close())
	// Output: 0 <nil>
}
