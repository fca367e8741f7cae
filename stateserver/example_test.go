package stateserver_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/holdfast-session/holdfast/inproc"
	"github.com/holdfast-session/holdfast/stateserver"
	"github.com/holdfast-session/holdfast/store"
)

func ExampleServer() {
	s := &stateserver.Server{Store: inproc.New(nil)}
	l, err := net.Listen("tcp", "localhost:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	served := make(chan error)
	go func() { served <- s.Serve(l) }()

	// …until the program is to end:
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	fmt.Println(s.Shutdown(ctx))
	fmt.Println(<-served)
	// Output:
	// <nil>
	// stateserver: server closed
}

func ExamplePartitioned() {
	var servers []*stateserver.Client
	for _, addr := range []string{"10.0.0.1:42424", "10.0.0.2:42424", "10.0.0.3:42424"} {
		c, err := stateserver.Dial(addr, nil)
		if err != nil {
			fmt.Println(err)
			return
		}
		servers = append(servers, c)
	}
	sessions := stateserver.Partitioned(servers...) // a store.Store
	defer sessions.Close()

	// By default each session is on the server that its ID decides. A resolver of
	// one's own can go by anything else that every process knows:
	sessions.Resolve = func(id store.ID) int {
		if id.App == "/shop" {
			return 0
		}
		return 1
	}
	c, err := sessions.Server(store.ID{App: "/shop", Session: "lit3py55t21z5v55vlm25s55"})
	fmt.Println(c == servers[0], err)
	// Output: true <nil>
}

func ExampleClient() {
	l, err := net.Listen("tcp", "localhost:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	s := &stateserver.Server{Store: inproc.New(nil)}
	go s.Serve(l)
	defer s.Close()

	c, err := stateserver.Dial(l.Addr().String(), nil) // "localhost:42424", usually
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()

	// Package holdfast makes these calls: holdfast.New(c, nil).
	ctx := context.Background()
	id := store.ID{App: "/shop", Session: "lit3py55t21z5v55vlm25s55"}
	rec := store.Record{Version: store.NewVersion(), Timeout: 20 * time.Minute, Body: []byte("one")}
	fmt.Println(c.Create(ctx, id, &rec, false))

	fmt.Println(c.Lock(ctx, id, store.LockOptions{Owner: store.NewOwner(), Wait: time.Second}, &rec))
	rec.Body = append(rec.Body, ", two"...)
	fmt.Println(c.Save(ctx, id, &rec, store.NewVersion(), false))

	fmt.Println(c.Load(ctx, id, &rec), string(rec.Body))
	fmt.Println(c.Remove(ctx, id, store.Lock{}, store.Reason{Kind: store.Abandoned}))
	err = c.Touch(ctx, id)
	fmt.Println(errors.Is(err, store.ErrNotFound), store.ReasonOf(err).Kind)
	// Output:
	// <nil>
	// <nil>
	// <nil>
	// <nil> one, two
	// <nil>
	// true abandoned
}
