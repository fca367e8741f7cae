package worker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/holdfast-session/holdfast/host/internal/control"
	"github.com/holdfast-session/holdfast/migrate"
	"github.com/holdfast-session/holdfast/stateserver"
	"github.com/holdfast-session/holdfast/store"
)

// toSuccessor is where sessions go that leave this process.
const toSuccessor = "successor"

var moving = &migrate.Options{Phase: migrate.Move, Name: toSuccessor}

// serve lets the processes before and after this one reach its sessions at a socket of
// the host's, for as long as the process lives.
func (w *Worker) serve(socket string) error {
	l, err := stateserver.Listen("unix:" + socket)
	if err != nil {
		return err
	}
	srv := &stateserver.Server{Store: exit{leaving{w.sessions.local, w.sessions}}, Logger: w.log}
	go func() { w.log.Error("worker: the socket for sessions has ended", "err", srv.Serve(l)) }()
	return nil
}

// reach returns the sessions of another process.
func reach(p *control.Peer) (entrance, error) {
	c, err := stateserver.Dial("unix:"+p.Socket, &stateserver.ClientOptions{
		Name: fmt.Sprintf("process %d", p.PID), Timeout: settle, NearCache: -1,
		OpenAfter: 200 * time.Millisecond, // a process that does not listen any more never will
	})
	return entrance{c}, err
}

// follow has the sessions of the predecessor found, and moves each that is used.
func (w *Worker) follow(p *control.Peer) {
	before, err := reach(p)
	if err != nil {
		w.log.Error("worker: the process before this one cannot be reached; its sessions are lost", "err", err)
		return
	}
	// What it says of a session that nobody has tells since when none was lost.
	ctx, cancel := context.WithTimeout(w.ctx, time.Second)
	defer cancel()
	err = before.Load(ctx, store.ID{App: "/", Session: fmt.Sprint(store.NewOwner())}, new(store.Record))
	if why := store.ReasonOf(err); why.Kind == store.Restarted {
		w.sessions.began.Store(time.Now().Add(-why.Age).UnixNano())
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.predecessor, w.before = p, before
	w.sessions.move(migrate.New(before, w.sessions.local, moving), true)
	if w.gone == p.PID { // meanwhile
		w.done.Go(func() { w.alone(p, true) })
	}
}

// alone ends what follow began: the predecessor is gone. If sessions were lost with it,
// that was now.
func (w *Worker) alone(p *control.Peer, lost bool) {
	w.mu.Lock()
	is, before := w.predecessor != nil && w.predecessor.PID == p.PID, w.before
	if is {
		w.predecessor = nil
	} else {
		w.gone = p.PID
	}
	w.mu.Unlock()
	if !is {
		return
	}
	defer before.Close()
	from, err := w.left()
	if err != nil {
		w.log.Error("worker: the folder of the process before this one cannot be read; its sessions are lost", "err", err)
	}
	if from == nil {
		if lost {
			w.sessions.began.Store(time.Now().UnixNano())
		}
		w.sessions.move(w.sessions.local, false)
		return
	}
	w.sessions.move(migrate.New(from, w.sessions.local, moving), false)
	if err := w.moveAll(w.ctx, from, w.sessions.local); err != nil {
		w.log.Error("worker: sessions of the process before this one stay where they are", "folder", from.dir, "err", err)
		return
	}
	w.sessions.move(w.sessions.local, false)
	if err := from.discard(); err != nil {
		w.log.Warn("worker: a folder without sessions cannot be removed", "folder", from.dir, "err", err)
	}
}

// precede has sessions go to the successor from now on: those that are used at once,
// the others at handOver.
func (w *Worker) precede(p *control.Peer) error {
	after, err := reach(p)
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.after = after
	w.sessions.move(migrate.New(leaving{w.sessions.local, w.sessions}, after, moving), false)
	return nil
}

// handOver gives the successor what is left, and says what became of the sessions.
func (w *Worker) handOver(ctx context.Context) control.Message {
	w.mu.Lock()
	after := w.after
	w.mu.Unlock()
	if after.remote != nil {
		if err := w.moveAll(ctx, leaving{w.sessions.local, w.sessions}, after); err != nil {
			w.log.Error("worker: not all sessions could be handed over", "err", err)
		}
	}
	here := w.count(context.WithoutCancel(ctx))
	w.empty = after.remote != nil && here == 0
	m := control.Message{Kind: control.Handed, Moved: int(w.sessions.moved.Load())}
	if w.folder.backed() {
		m.Left = here
	} else {
		m.Lost = here
	}
	return m
}

// count is how many sessions there are in this process.
func (w *Worker) count(ctx context.Context) (n int) {
	_ = each(ctx, w.sessions.local, func(one store.Listed) {
		if one.Record.Flags&store.Uninitialized == 0 {
			n++
		}
	})
	return n
}

// movers is how many sessions move at a time: enough that those whose ends are written
// to a disk share its syncs.
const movers = 16

// moveAll moves all sessions that from lists. Where a request has one locked, it waits:
// what [migrate.All] does for two stores with many users takes longer for that.
func (w *Worker) moveAll(ctx context.Context, from store.Lister, to store.Store) error {
	var (
		pair   = migrate.New(from, to, moving)
		ids    = make(chan store.ID)
		failed = make(chan error, movers)
		wg     sync.WaitGroup
	)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	for range movers {
		wg.Go(func() {
			for id := range ids {
				if err := w.moveOne(ctx, pair, id); err != nil {
					cancel(err)
					failed <- err
					return
				}
			}
		})
	}
	err := each(ctx, from, func(one store.Listed) {
		select {
		case ids <- one.ID:
		case <-ctx.Done():
		}
	})
	close(ids)
	wg.Wait()
	select {
	case err := <-failed:
		return err
	default:
		return err
	}
}

// moveOne moves a session, which takes that it is locked for a moment.
func (w *Worker) moveOne(ctx context.Context, pair store.Store, id store.ID) error {
	o := store.LockOptions{Owner: store.NewOwner(), Wait: w.stale, Stale: w.stale}
	err := pair.Lock(ctx, id, o, new(store.Record))
	if err == nil {
		err = pair.Unlock(context.WithoutCancel(ctx), id, store.Lock{Owner: o.Owner})
	}
	locked := new(store.LockedError)
	if errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrLockLost) || errors.As(err, &locked) {
		return nil // it has ended or moved, or a request works on
	}
	return err
}

// each calls f with each session that s lists.
func each(ctx context.Context, s store.Lister, f func(store.Listed)) error {
	for q := (store.Query{}); ; {
		page, next, err := s.List(ctx, q)
		if err != nil {
			return err
		}
		for _, one := range page {
			f(one)
		}
		if q.After = next; next == "" {
			return ctx.Err()
		}
	}
}
