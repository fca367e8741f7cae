package host_test

import (
	"context"
	"log"
	"net/http"
	"os"
	"os/exec"
	"os/signal"

	"github.com/holdfast-session/holdfast/host"
)

// Four copies of an application behind one port. The application listens on
// 127.0.0.1 at $PORT.
func Example() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()

	h := &host.Host{
		Command: func(int) *exec.Cmd { return exec.Command("./app", "-v") },
		Workers: 4,
	}
	srv := &http.Server{Addr: ":8080", Handler: h}
	go func() { log.Println(srv.ListenAndServe()) }()

	running, end := context.WithCancel(context.Background())
	go func() {
		<-ctx.Done()
		_ = srv.Shutdown(context.Background()) // first no new requests,
		end()                                  // then no workers
	}()
	if err := h.Run(running); err != nil {
		log.Fatal(err)
	}
	for _, e := range h.Exits() {
		log.Println(e) // worker 2 (PID 4711) crashed at 14:03:11: signal: killed
	}
}
