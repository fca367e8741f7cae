// Package worker is for Go applications that run under `holdfast host` and keep their
// sessions in their own memory (mode InProc): it tells the host when the application
// is ready and how many sessions it holds, and hands these to the process that
// replaces it when the host recycles it. Without it, such sessions are lost, as they
// are in ASP.NET. An application whose sessions are in a state server or a database
// does not need it.
//
//	w, err := worker.Join(nil)
//	if err != nil {
//		log.Fatal(err)
//	}
//	sessions := holdfast.New(w.Store(), nil)
//	…
//	l, err := net.Listen("tcp", "127.0.0.1:"+os.Getenv("PORT"))
//	…
//	w.Ready()
//	srv.Serve(l)      // until SIGTERM, then srv.Shutdown
//	sessions.Close(ctx)
//	w.Close(ctx)
//
// Outside of a host all of this works, too, and does nothing more than inproc.New.
//
// # How sessions get to the next process
//
// One by one, by the mechanism of package migrate. Each process serves its sessions on
// a Unix socket that the host has given it. While the host changes from one process to
// the next, both know both places: a request that comes to the new process takes its
// session along, one that the old process still works on saves wherever the session
// is by then. When the old process has no request any more, it hands over the rest.
//
// Live values ([holdfast.LiveKey]) stay behind. The session is then without them, and
// [holdfast.Session.Lost] says so.
//
// With [Options.Folder] the sessions are in a folder besides, and outlive a crash as
// well. Each process has a folder of its own in there, so that none is ever open twice.
//
// [holdfast.LiveKey]: https://pkg.go.dev/github.com/holdfast-session/holdfast#LiveKey
// [holdfast.Session.Lost]: https://pkg.go.dev/github.com/holdfast-session/holdfast#Session.Lost
package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/holdfast-session/holdfast/host/internal/control"
	"github.com/holdfast-session/holdfast/inproc"
	"github.com/holdfast-session/holdfast/store"
)

// Options configure [Join]. The zero value, and a nil pointer, is a good choice.
type Options struct {
	// InProc is how the sessions are kept; its Backing is not used.
	InProc inproc.Options

	// Folder, if not empty, is a folder where the sessions are kept besides, so that
	// they outlive a crash. The workers of a web garden have the same Folder, in which
	// each makes one of its own, by its number. It needs Open.
	Folder string

	// Open opens the store in a folder, such as
	//
	//	func(dir string) (store.Store, error) { return logstore.Open(dir, nil) }
	Open func(dir string) (store.Store, error)

	// LockTimeout is that of holdfast.Options; default 20 seconds. It is the age at which
	// the lock of a request that has died is not waited for any more when sessions are
	// handed over.
	LockTimeout time.Duration

	// Logger is told what goes wrong; default slog.Default().
	Logger *slog.Logger
}

// A Worker is a process that runs under a host, or alone. It is safe for concurrent
// use.
type Worker struct {
	log      *slog.Logger
	number   int
	sessions *sessions
	folder   folder
	link     *control.Link // nil: there is no host
	stale    time.Duration

	ctx  context.Context // until Close
	stop context.CancelFunc
	done sync.WaitGroup
	cut  chan struct{} // closed when the host hangs up

	handing sync.Mutex // held while sessions are handed over
	handed  bool       // the host was told what became of them
	empty   bool       // they have all gone to the successor

	mu          sync.Mutex
	predecessor *control.Peer // nil: there is none any more
	before      entrance      // to it
	gone        int           // the PID of one that is gone before it was followed
	after       entrance      // to the successor; zero: there is none yet
	asked       int64
	asks        map[int64]chan []control.End
}

// joinWithin is how long the host may take to answer.
const joinWithin = 10 * time.Second

// Join tells the host that this process is a worker that talks to it, and opens the
// sessions. Call it first of all, before the application listens: the host then waits
// for [Worker.Ready]. Where there is no host, or it does not take this process for its
// worker (but for one that its worker has started), Join works the same and no session
// is handed over. The error is about Options.Folder.
func Join(o *Options) (*Worker, error) {
	if o == nil {
		o = &Options{}
	}
	w := &Worker{log: o.Logger, stale: o.LockTimeout, asks: make(map[int64]chan []control.End), cut: make(chan struct{})}
	if w.log == nil {
		w.log = slog.Default()
	}
	if w.stale <= 0 {
		w.stale = 20 * time.Second
	}
	w.ctx, w.stop = context.WithCancel(context.Background())
	welcome, err := w.greet()
	if err != nil {
		w.log.Warn("worker: the host does not take this process for its worker", "err", err)
	}
	inside := o.InProc
	inside.Backing = nil
	if o.Folder != "" {
		if o.Open == nil {
			return nil, errors.New("worker: Options.Folder needs Options.Open")
		}
		w.folder = folder{dir: filepath.Join(o.Folder, fmt.Sprintf("worker-%d", max(w.number, 1))), open: o.Open, o: inside}
		if err := w.folder.begin(welcome.Peer != nil); err != nil {
			return nil, fmt.Errorf("worker: %w", err)
		}
		inside.Backing = w.folder.back
	}
	w.sessions = newSessions(&inside)
	if w.link == nil {
		return w, w.inherit()
	}
	w.done.Go(w.listen)
	if err := w.serve(welcome.Socket); err != nil {
		w.log.Error("worker: no sessions can be handed over", "err", err)
	}
	if welcome.Peer != nil {
		w.follow(welcome.Peer)
	} else if err := w.inherit(); err != nil {
		return nil, err
	}
	w.done.Go(w.report)
	return w, nil
}

// greet says hello, if there is a host, and sets link and number.
func (w *Worker) greet() (welcome control.Message, err error) {
	socket := os.Getenv(control.HostVar)
	if socket == "" {
		return welcome, nil
	}
	c, err := net.DialTimeout("unix", socket, joinWithin)
	if err != nil {
		return welcome, err
	}
	link := control.NewLink(c)
	_ = c.SetReadDeadline(time.Now().Add(joinWithin))
	if err = link.Send(control.Message{Kind: control.Hello, Run: os.Getenv(control.RunVar)}); err == nil {
		welcome, err = link.Receive()
	}
	if err == nil && welcome.Kind != control.Welcome {
		err = fmt.Errorf("it says %q", welcome.Kind)
	}
	if err != nil {
		c.Close()
		return control.Message{}, err
	}
	_ = c.SetReadDeadline(time.Time{})
	w.link, w.number = link, welcome.Worker
	return welcome, nil
}

// inherit takes over what earlier processes have left in the folder besides the
// generation that is now this process's.
func (w *Worker) inherit() error {
	for {
		from, err := w.left()
		if err != nil || from == nil {
			return err
		}
		if err := w.moveAll(w.ctx, from, w.sessions.local); err != nil {
			return fmt.Errorf("worker: taking sessions over from %s: %w", from.dir, err)
		}
		if err := from.discard(); err != nil {
			return err
		}
	}
}

// Number is the worker's number, from 1; 0 if there is no host.
func (w *Worker) Number() int { return w.number }

// Store is where the application's sessions are: mode InProc. It lasts until Close.
func (w *Worker) Store() store.Store { return w.sessions }

// Ready tells the host that requests can come. The application listens by then.
func (w *Worker) Ready() error {
	if w.link == nil {
		return nil
	}
	return w.link.Send(control.Message{Kind: control.Ready})
}

// Close closes the store, when the application's server has shut down and its Manager
// is closed: what has changed is written to the folder. If the host has not asked for
// the sessions before, it is told what becomes of them; ctx bounds that.
func (w *Worker) Close(ctx context.Context) error {
	w.stop() // also what is being handed over: the host did not wait for it
	w.tell(ctx)
	if w.link != nil {
		w.link.Close()
	}
	w.done.Wait()
	return errors.Join(w.sessions.local.Close(), w.folder.end(w.empty))
}

// tell hands over what there is, and tells the host, once.
func (w *Worker) tell(ctx context.Context) {
	w.handing.Lock()
	defer w.handing.Unlock()
	if w.handed {
		return
	}
	w.handed = true
	m := w.handOver(ctx)
	if w.link != nil {
		_ = w.link.Send(m)
	}
}

// listen does what the host says, until it hangs up.
func (w *Worker) listen() {
	defer close(w.cut)
	for {
		m, err := w.link.Receive()
		if err != nil {
			return
		}
		switch m.Kind {
		case control.Successor:
			if m.Peer == nil {
				continue
			}
			if err := w.precede(m.Peer); err != nil {
				w.log.Error("worker: the successor cannot be reached; it gets no sessions", "err", err)
				continue
			}
			_ = w.link.Send(control.Message{Kind: control.Prepared})
		case control.Handover:
			w.done.Go(func() { w.tell(w.ctx) })
		case control.Gone:
			if m.Peer != nil {
				lost := !m.Clean || len(m.Ends) == 0 || m.Ends[0].Lost != 0
				w.done.Go(func() { w.alone(m.Peer, lost) })
			}
		case control.Because:
			w.mu.Lock()
			answer := w.asks[m.Ask]
			delete(w.asks, m.Ask)
			w.mu.Unlock()
			if answer != nil {
				answer <- m.Ends
			}
		}
	}
}

// reportEvery is how often the host is told how many sessions there are.
const reportEvery = 2 * time.Second

// report tells the host how many sessions would be lost if the process died.
func (w *Worker) report() {
	tick := time.NewTicker(reportEvery)
	defer tick.Stop()
	said := -1
	for {
		n := 0
		if !w.folder.backed() {
			n = int(w.sessions.local.Stats().Sessions)
		}
		if n != said {
			said = n
			if w.link.Send(control.Message{Kind: control.Live, Live: n}) != nil {
				return
			}
		}
		select {
		case <-tick.C:
		case <-w.ctx.Done():
			return
		}
	}
}
