package worker

import (
	"context"
	"fmt"
	"time"

	"github.com/holdfast-session/holdfast/host/internal/control"
	"github.com/holdfast-session/holdfast/store"
)

// An End is how a process of a worker ended, as the host's journal has it.
type End struct {
	Time   time.Time
	Worker int
	PID    int
	// Reason and Detail are those of package host's Entry, such as "files changed" and
	// "config.yaml".
	Reason, Detail string
	// Lost is how many sessions were lost with it; -1 if that is not known.
	Lost int
}

// String says it in a line, for people.
func (e End) String() string {
	if e.Detail == "" {
		return fmt.Sprintf("at %s: %s", e.Time.Format(time.TimeOnly), e.Reason)
	}
	return fmt.Sprintf("at %s: %s, %s", e.Time.Format(time.TimeOnly), e.Reason, e.Detail)
}

// Why asks the host's journal why a session was lost, given what holdfast's
// Session.Lost says of it: the last end of a process of this worker, or else of another
// one, that has lost sessions. It reports false if lost is of another kind than
// [store.Restarted], or the journal knows nothing. ctx bounds the question, which
// takes a moment.
func (w *Worker) Why(ctx context.Context, lost store.Reason) (End, bool) {
	if lost.Kind != store.Restarted {
		return End{}, false
	}
	since := time.Now().Add(-lost.Age - time.Minute)
	if lost.Age == 0 { // its live values: the process before this one had them
		since = time.Time{}
	}
	var best End
	seen := make(map[int]bool) // PIDs; what is about to end is in the journal twice
	for _, end := range w.ends(ctx, since) {
		own := end.Worker == w.number
		switch {
		case seen[end.PID]:
		case own && (end.Lost != 0 || lost.Age == 0):
			return endOf(end), true
		case best.PID == 0 && end.Lost != 0:
			best = endOf(end)
		}
		seen[end.PID] = true
	}
	return best, best.PID != 0
}

func endOf(e control.End) End {
	return End{Time: e.Time, Worker: e.Worker, PID: e.PID, Reason: e.Reason, Detail: e.Detail, Lost: e.Lost}
}

// whyWithin is how long the host may take to answer.
const whyWithin = 2 * time.Second

// ends asks the journal for the ends of processes since then, the newest first.
func (w *Worker) ends(ctx context.Context, since time.Time) []control.End {
	if w.link == nil {
		return nil
	}
	answer := make(chan []control.End, 1)
	w.mu.Lock()
	w.asked++
	ask := w.asked
	w.asks[ask] = answer
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		delete(w.asks, ask)
		w.mu.Unlock()
	}()
	if w.link.Send(control.Message{Kind: control.Why, Ask: ask, Since: since}) != nil {
		return nil
	}
	late := time.NewTimer(whyWithin)
	defer late.Stop()
	select {
	case ends := <-answer:
		return ends
	case <-late.C:
	case <-w.cut:
	case <-ctx.Done():
	}
	return nil
}
