// Command hosted has the code of the guide to the worker host: an application that hands
// its sessions to the process that replaces it.
//
//	holdfast host --workers 2 --routing session -- ./hosted
package main

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
)

var hits = holdfast.NewKey[int]("hits")

func main() {
	w, err := worker.Join(nil)
	if err != nil {
		log.Fatal(err)
	}
	sessions := holdfast.New(w.Store(), nil)

	l, err := net.Listen("tcp", "127.0.0.1:"+os.Getenv("PORT"))
	if err != nil {
		log.Fatal(err)
	}
	srv := &http.Server{Handler: sessions.Handler(page(w))}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	context.AfterFunc(ctx, func() { _ = srv.Shutdown(context.Background()) })
	if err := w.Ready(); err != nil {
		log.Print(err)
	}
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		log.Fatal(err)
	}
	end := context.Background()
	if err := errors.Join(sessions.Close(end), w.Close(end)); err != nil {
		log.Fatal(err)
	}
}

// page counts visits, and says why a session was lost.
func page(w *worker.Worker) http.HandlerFunc {
	return func(rw http.ResponseWriter, r *http.Request) {
		s := holdfast.From(r)
		if end, ok := w.Why(r.Context(), s.Lost()); ok {
			fmt.Fprintln(rw, "Your session was lost", end) // at 14:03:11: file changed, config.yaml has changed
		}
		hits.Update(s, func(n int) int { return n + 1 })
		fmt.Fprintf(rw, "%d visits to worker %d\n", hits.Get(s), w.Number())
	}
}
