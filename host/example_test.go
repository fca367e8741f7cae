package host_test

import (
	"context"
	"log"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"time"

	"github.com/holdfast-session/holdfast/host"
)

// Four copies of an application behind one port, which are recycled when they use too
// much memory, every night, and when their configuration changes. The application
// listens on 127.0.0.1 at $PORT.
func Example() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()

	h := &host.Host{
		Command: func(int) *exec.Cmd { return exec.Command("./app", "-v") },
		Workers: 4,
		Limits:  host.Limits{MemoryPercent: 20, Times: []time.Duration{3 * time.Hour}},
		Watch:   host.Watch{Paths: []string{"config.yaml"}},
	}
	l, err := net.Listen("tcp", ":8080")
	if err != nil {
		log.Fatal(err)
	}
	running, end := context.WithCancel(context.Background())
	go func() {
		defer end() // first no new requests, then no workers
		if err := h.Serve(ctx, l); err != nil {
			log.Println(err)
		}
	}()
	if err := h.Run(running); err != nil {
		log.Fatal(err)
	}
	for _, e := range h.Journal() {
		log.Println(e) // 2026-05-01 14:03:00 worker 2 (PID 4711) recycled: file changed (config.yaml has changed)
	}
}
