package redisstore_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-session/holdfast/redisstore"
	"github.com/holdfast-session/holdfast/store"
)

// Applications pass the store to holdfast.New and never call it themselves.
func ExampleOpen() {
	s, err := redisstore.Open("redis://localhost:1", &redisstore.Options{
		Prefix:       "shop",
		WaitReplicas: 1, // a save is with a replica before it is acknowledged
	})
	if err != nil {
		fmt.Println("no Redis there")
		return
	}
	defer s.Close()

	ctx := context.Background()
	id := store.ID{App: "/", Session: "xk3vbbsoamqhpobn3ujz4ljc"}
	rec := store.Record{Version: store.NewVersion(), Timeout: 20 * time.Minute, Body: []byte("1 visit")}
	if err := s.Create(ctx, id, &rec, false); errors.Is(err, store.ErrUnsure) {
		fmt.Println("perhaps it is there; Create it again with the same version")
	}
	// Output: no Redis there
}
