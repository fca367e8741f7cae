package worker_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"

	"github.com/holdfast-session/holdfast"
	"github.com/holdfast-session/holdfast/host/worker"
	"github.com/holdfast-session/holdfast/logstore"
	"github.com/holdfast-session/holdfast/store"
)

var visits = holdfast.NewKey[int]("visits")

// An application that keeps its sessions over recycles, and over crashes because of
// the folder, and tells visitors why one was lost nevertheless. Run it with
//
//	holdfast host --routing session -- ./app
func Example() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	w, err := worker.Join(&worker.Options{
		Folder: "/var/lib/shop/sessions",
		Open:   func(dir string) (store.Store, error) { return logstore.Open(dir, nil) },
	})
	if err != nil {
		log.Fatal(err)
	}
	sessions := holdfast.New(w.Store(), nil)
	srv := &http.Server{Handler: sessions.Handler(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		s := holdfast.From(r)
		if end, ok := w.Why(r.Context(), s.Lost()); ok {
			fmt.Fprintln(rw, "Your session was lost", end) // at 14:03:11: file changed, config.yaml
		}
		visits.Update(s, func(n int) int { return n + 1 })
		fmt.Fprintln(rw, visits.Get(s), "visits")
	}))}
	l, err := net.Listen("tcp", "127.0.0.1:"+os.Getenv("PORT"))
	if err != nil {
		log.Fatal(err)
	}
	finished := make(chan error)
	go func() {
		<-ctx.Done()
		finished <- srv.Shutdown(context.Background())
	}()
	if err := w.Ready(); err != nil {
		log.Fatal(err)
	}
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		log.Fatal(err)
	}
	<-finished // requests first, then what they use
	_ = sessions.Close(context.Background())
	_ = w.Close(context.Background())
}

// Where there is no host, a Worker is a store in memory and no more.
func ExampleJoin() {
	w, err := worker.Join(nil)
	if err != nil {
		log.Fatal(err)
	}
	defer w.Close(context.Background())
	fmt.Println(w.Number(), w.Ready())
	_, known := w.Why(context.Background(), store.Reason{Kind: store.Restarted})
	fmt.Println(known)
	// Output:
	// 0 <nil>
	// false
}
