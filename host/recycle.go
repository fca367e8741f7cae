package host

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/holdfast-session/holdfast/host/internal/control"
)

const (
	// preparing is how long a worker may take to get ready for its successor.
	preparing = 5 * time.Second
	// askAgain is when a trigger that goes on, such as a limit on memory, is heard
	// again after a successor has not come up.
	askAgain = time.Minute
)

// A slot is a worker: what has its number, one process after another.
type slot struct {
	worker int
	poke   chan struct{} // gets a value when there is something to look at below

	// under Host.mu
	current *process // who gets the requests, or is to; nil while there is none
	asked   *ask     // the recycling that is asked for
	asleep  bool     // stopped until somebody asks for something
	givenUp bool     // failed too often
	over    bool     // nobody looks after it any more
}

// An ask is a wish to have a worker recycled.
type ask struct {
	reason Reason
	detail string
	at     time.Time
	about  *process       // the one it is about; nil: whichever runs
	done   []chan<- error // those who want to know; each has room
}

func (a *ask) answer(err error) {
	for _, c := range a.done {
		c <- err
	}
}

// ask has s recycled. The caller holds mu.
func (h *Host) ask(s *slot, a *ask) {
	if s.over {
		a.answer(errStopped)
		return
	}
	if s.asked != nil && s.asked.reason != Idle { // once is enough
		s.asked.done = append(s.asked.done, a.done...)
		s.asked.at = a.at
		s.asked.about = nil
	} else {
		s.asked = a
	}
	select {
	case s.poke <- struct{}{}:
	default:
	}
}

// askAll has all workers recycled, for something that happened at that time.
func (h *Host) askAll(reason Reason, detail string, at time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.slots {
		h.ask(s, &ask{reason: reason, detail: detail, at: at})
	}
}

// askFor has p recycled, if it gets requests.
func (h *Host) askFor(p *process, reason Reason, detail string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if p.ready && !p.asked {
		p.asked = true
		h.ask(h.slots[p.worker-1], &ask{reason: reason, detail: detail, at: time.Now(), about: p})
	}
}

// wanted returns what s is asked for, if p, which may be nil, has to do with it.
func (h *Host) wanted(s *slot, p *process) *ask {
	h.mu.Lock()
	defer h.mu.Unlock()
	a := s.asked
	s.asked = nil
	if a != nil && p != nil && (a.about != nil && a.about != p || a.at.Before(p.began)) {
		a.answer(nil) // it is done already: the process is a newer one
		return nil
	}
	return a
}

// wakeAll ends the sleep of the workers.
func (h *Host) wakeAll() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.slots {
		if !s.asleep {
			continue
		}
		s.asleep = false
		h.router().absent(s.worker, starting)
		select {
		case s.poke <- struct{}{}:
		default:
		}
	}
}

// supervise keeps the worker of s running until ctx is done. It returns an error only
// if there is no sense in trying again.
func (h *Host) supervise(ctx context.Context, s *slot) error {
	// The parent-death signal comes at the end of the thread that started the
	// process, so that thread stays until there is no process any more.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	var retired sync.WaitGroup
	defer func() {
		retired.Wait()
		h.mu.Lock()
		s.over = true
		h.mu.Unlock()
		if a := h.wanted(s, nil); a != nil {
			a.answer(errStopped)
		}
	}()
	f := failures{RapidFail: h.RapidFail}
	ever := false
	var last *process
	for h.mayStart(ctx, s, &f) {
		if h.keepsSessions(last) { // in a folder, perhaps
			select {
			case <-last.gone:
			case <-ctx.Done():
			}
		}
		p, err := h.start(s.worker, nil)
		if err != nil {
			if !ever {
				return &startError{s.worker, err}
			}
			h.log().Error("worker cannot be started", "worker", s.worker, "err", err)
			f.ended(time.Now(), true, err.Error())
			continue
		}
		ever = true
		if h.await(ctx, p) {
			h.promote(p, nil, nil)
			p = h.serve(ctx, s, p, &f, &retired)
		}
		last = p
		h.mu.Lock()
		s.current = nil
		reason, detail, began := p.reason, p.detail, p.began
		h.mu.Unlock()
		if reason == Idle || ctx.Err() != nil {
			continue
		}
		select { // its last words come before the next one's first
		case <-p.printed:
		case <-time.After(2 * outputGrace):
		}
		switch {
		case reason == Killed:
		case reason == "":
			f.ended(time.Now(), time.Since(began) < earlyEnd, p.cmd.ProcessState.String())
		default:
			f.ended(time.Now(), true, detail)
		}
	}
	return nil
}

// keepsSessions reports whether p, which may be nil, has sessions that it keeps and
// hands over.
func (h *Host) keepsSessions(p *process) bool { return h.control.peer(p) != nil }

// serve looks after p, which is ready, and its successors until one of them is gone,
// or told to go, which it returns.
func (h *Host) serve(ctx context.Context, s *slot, p *process, f *failures, retired *sync.WaitGroup) *process {
	for {
		select {
		case <-p.gone:
			return p
		case <-ctx.Done():
			h.retireNow(p)
			return p
		case <-s.poke:
		}
		a := h.wanted(s, p)
		switch {
		case a == nil:
		case a.reason == Idle:
			h.sleep(s, p, a)
			retired.Go(func() { h.retire(ctx, p) })
			return p
		default:
			q, err := h.replace(ctx, p, a, f)
			a.answer(err)
			if err != nil {
				continue
			}
			old := p
			retired.Go(func() { h.retire(ctx, old) })
			p = q
		}
	}
}

// replace starts the successor of p and, when it is ready, gives it the requests.
func (h *Host) replace(ctx context.Context, p *process, a *ask, f *failures) (*process, error) {
	h.mu.Lock()
	predecessor := p.predecessor
	h.mu.Unlock()
	if h.keepsSessions(predecessor) { // it hands them to p, and not past it
		select {
		case <-predecessor.gone:
		case <-p.gone:
		case <-ctx.Done():
		}
	}
	select {
	case h.turns <- struct{}{}:
		defer func() { <-h.turns }()
	case <-p.gone:
		return nil, ErrKept
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	h.log().Info("recycling worker", "worker", p.worker, "pid", p.pid, "reason", a.reason, "detail", a.detail)
	q, err := h.start(p.worker, p)
	why := "it could not be started"
	if err == nil && h.await(ctx, q) {
		h.introduce(p, q)
		if h.promote(q, p, a) {
			return q, nil
		}
		<-q.gone
	}
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case err != nil:
		why = err.Error()
	default:
		h.mu.Lock()
		if why = q.detail; q.reason == "" {
			why = q.cmd.ProcessState.String()
		}
		h.mu.Unlock()
	}
	detail := fmt.Sprintf("%s; its successor did not come up: %s", a.detail, why)
	h.log().Error("worker is not recycled, because its successor did not come up; the worker goes on",
		"worker", p.worker, "pid", p.pid, "reason", a.reason, "err", why)
	f.failed(time.Now(), why)
	h.book.add(Entry{Event: Kept, Worker: p.worker, PID: p.pid, Reason: a.reason, Detail: detail})
	time.AfterFunc(askAgain, func() { h.hearAgain(p) })
	return nil, ErrKept
}

// hearAgain lets p be asked for once more.
func (h *Host) hearAgain(p *process) {
	h.mu.Lock()
	p.asked = false
	h.mu.Unlock()
	h.checkAge(p)
}

// introduce lets p know that q is about to get its requests, and waits a moment for
// it to be prepared, if both talk to the host. Without that, q does without p.
func (h *Host) introduce(p, q *process) {
	from, to := h.control.peer(p), h.control.peer(q)
	if to == nil || from == nil {
		return
	}
	if h.tell(p, control.Message{Kind: control.Successor, Peer: to}) {
		late := time.NewTimer(preparing)
		defer late.Stop()
		select {
		case <-p.prepared:
			return
		case <-p.settled:
		case <-p.gone:
		case <-late.C:
		}
	}
	h.log().Warn("worker does not prepare for its successor; the sessions in its memory are lost", "worker", p.worker, "pid", p.pid)
	h.tell(q, control.Message{Kind: control.Gone, Peer: from})
}

// promote gives the requests to q, and takes them from p, because of a, where there
// is one. It reports whether q can have them.
func (h *Host) promote(q, p *process, a *ask) bool {
	h.mu.Lock()
	if q.reason != "" { // somebody has killed it meanwhile
		h.mu.Unlock()
		return false
	}
	q.ready = true
	h.slots[q.worker-1].current = q
	h.router().ready(q.backend)
	recycled := false
	if p != nil {
		p.ready = false
		recycled = p.reason == "" && h.all[p.run] == p
		if recycled {
			p.reason, p.detail = a.reason, a.detail
		}
	}
	h.mu.Unlock()
	if recycled {
		h.book.add(Entry{Event: Recycled, Worker: p.worker, PID: p.pid, Reason: a.reason, Detail: a.detail, Successor: q.pid})
	}
	h.book.add(Entry{Event: Started, Worker: q.worker, PID: q.pid})
	h.log().Info("worker ready", "worker", q.worker, "pid", q.pid, "after", time.Since(q.began).Round(time.Millisecond))
	h.checkAge(q)
	if h.Health.Path != "" {
		go h.watchHealth(q)
	}
	return true
}

// sleep takes p out of service until somebody asks for something.
func (h *Host) sleep(s *slot, p *process, a *ask) {
	h.mu.Lock()
	p.ready, s.asleep = false, true
	if p.reason == "" {
		p.reason, p.detail = a.reason, a.detail
	}
	h.router().drain(p.backend)
	h.router().absent(s.worker, asleep)
	h.mu.Unlock()
	h.book.add(Entry{Event: Recycled, Worker: p.worker, PID: p.pid, Reason: a.reason, Detail: a.detail})
	h.log().Info("worker is stopped until it is needed", "worker", p.worker, "pid", p.pid, "reason", a.reason, "detail", a.detail)
}
