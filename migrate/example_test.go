package migrate_test

import (
	"context"
	"fmt"
	"time"

	"github.com/holdfast-session/holdfast/inproc"
	"github.com/holdfast-session/holdfast/migrate"
	"github.com/holdfast-session/holdfast/stateserver"
	"github.com/holdfast-session/holdfast/store"
)

// A session that is in the old store moves when it is locked, and is the same.
func ExampleNew() {
	ctx := context.Background()
	old, fresh := inproc.New(nil), inproc.New(nil)
	defer old.Close()
	defer fresh.Close()
	id := store.ID{App: "/shop", Session: "s"}
	old.Create(ctx, id, &store.Record{Version: 7, Timeout: time.Hour, Body: []byte("cart")}, false)

	sessions := migrate.New(old, fresh, &migrate.Options{Phase: migrate.Move})
	var rec store.Record
	err := sessions.Lock(ctx, id, store.LockOptions{Owner: store.NewOwner()}, &rec)
	fmt.Println(string(rec.Body), rec.Version, err)
	fmt.Println(store.ReasonOf(old.Load(ctx, id, &rec)).Kind)
	// Output:
	// cart 7 <nil>
	// moved
}

// All moves what nobody uses.
func ExampleAll() {
	ctx := context.Background()
	old, fresh := inproc.New(nil), inproc.New(nil)
	defer old.Close()
	defer fresh.Close()
	for i := range 100 {
		id := store.ID{App: "/shop", Session: fmt.Sprint(i)}
		old.Create(ctx, id, &store.Record{Version: store.NewVersion(), Timeout: time.Hour}, false)
	}
	progress, err := migrate.All(ctx, old, fresh, nil)
	fmt.Println(progress.Moved, progress.Busy, err)
	// Output: 100 0 <nil>
}

// A list of state servers grows by one. Only the sessions whose server changes move;
// the others are used as before.
func Example_grow() {
	dial := func(addr string) *stateserver.Client {
		c, err := stateserver.Dial(addr, nil)
		if err != nil {
			panic(err)
		}
		return c
	}
	one, two, three := dial("one:42424"), dial("two:42424"), dial("three:42424")
	before := stateserver.Partitioned(one, two)
	after := stateserver.Partitioned(one, two, three)
	defer after.Close()
	stays := func(id store.ID) bool {
		a, err1 := before.Server(id)
		b, err2 := after.Server(id)
		return err1 == nil && err2 == nil && a == b
	}
	sessions := migrate.New(before, after, &migrate.Options{Phase: migrate.Move, Stays: stays})
	_ = sessions // for holdfast.New

	moving := 0
	for i := range 3000 {
		if !stays(store.ID{App: "/shop", Session: fmt.Sprint(i)}) {
			moving++
		}
	}
	fmt.Println("about a third:", 900 < moving && moving < 1100)
	// Output: about a third: true
}
