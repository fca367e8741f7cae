package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/holdfast-session/holdfast/host"
	"github.com/holdfast-session/holdfast/host/worker"
	"github.com/holdfast-session/holdfast/store"
)

// The host's journal, as the shop shows it, and what it tells of a lost session.

// report asks the host.
func (s *shop) report(ctx context.Context) (report, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.Host, nil)
	if err != nil {
		return report{}, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return report{}, err
	}
	defer resp.Body.Close()
	var all report
	if resp.StatusCode != http.StatusOK {
		return all, fmt.Errorf("%s: %s", s.Host, resp.Status)
	}
	return all, json.NewDecoder(resp.Body).Decode(&all)
}

// An entry is one of the journal, as it is shown.
type entry struct {
	host.Entry
	Tone string // "good", "bad", or neither
	Fate string // what has become of its sessions, in words
}

// A journalView is the page of the journal.
type journalView struct {
	Workers []host.Status
	Entries []entry // the newest first
	Limit   int64
	Name    string // of the worker that answers
}

func (s *shop) journal(w http.ResponseWriter, r *http.Request) { s.showJournal(w, r, "journal") }

// journalLive answers with those parts of the page that may change.
func (s *shop) journalLive(w http.ResponseWriter, r *http.Request) { s.showJournal(w, r, "live") }

func (s *shop) showJournal(w http.ResponseWriter, r *http.Request, page string) {
	all, err := s.report(r.Context())
	if err != nil {
		s.log.Warn("the host does not answer", "err", err)
		s.failure(w, r, http.StatusServiceUnavailable, "The host does not answer", "It is about to end, or has much to do. Please try again.")
		return
	}
	v := journalView{Workers: all.Workers, Limit: memoryLimit, Name: s.name()}
	for _, e := range slices.Backward(all.Journal) {
		v.Entries = append(v.Entries, s.entry(e))
	}
	s.show(w, r, page, view{Title: "Journal", Active: "journal", Data: v})
}

func (s *shop) entry(e host.Entry) entry {
	shown := entry{Entry: e}
	switch e.Event {
	case host.Started:
		shown.Tone = "good"
	case host.Kept, host.GaveUp:
		shown.Tone = "bad"
	case host.Ended:
		switch e.Reason {
		case host.Crashed, host.Killed, host.NotReady, host.HostDied:
			shown.Tone = "bad"
		}
		shown.Fate = s.became(e.Sessions)
	}
	return shown
}

// became says what has become of the sessions of a process that ended.
func (s *shop) became(n *host.Sessions) string {
	switch {
	case s.Mode == StateServer:
		return "kept in the state server"
	case n == nil:
		return "lost with it; how many is not known"
	case n.Carried == 0 && n.Lost == 0:
		return "none"
	case n.Lost == 0:
		return fmt.Sprintf("%d carried over", n.Carried)
	case n.Carried == 0:
		return fmt.Sprintf("%d lost", n.Lost)
	}
	return fmt.Sprintf("%d carried over, %d lost", n.Carried, n.Lost)
}

// whyLost says how the process ended that had a lost session.
func (s *shop) whyLost(ctx context.Context, lost store.Reason) (worker.End, bool) {
	if s.why != nil {
		if end, ok := s.why(ctx, lost); ok {
			return end, true
		}
	}
	return s.lastEnd(ctx)
}

// lastEnd says how the process of this worker before this one came to its end.
func (s *shop) lastEnd(ctx context.Context) (end worker.End, ok bool) {
	if s.Host == "" {
		return end, false
	}
	all, err := s.report(ctx)
	if err != nil {
		s.log.Warn("the host does not say why a session was lost", "err", err)
		return end, false
	}
	for _, e := range all.Journal {
		if e.Event != host.Recycled && e.Event != host.Ended || e.Worker != s.Number || e.PID == os.Getpid() || e.Reason == host.NotReady {
			continue
		}
		if e.PID != end.PID { // what was recycled ends later, for the same reason
			end = worker.End{Time: e.Time, Worker: e.Worker, PID: e.PID, Reason: string(e.Reason), Detail: e.Detail, Lost: -1}
		}
	}
	return end, end.PID != 0
}

// because says what ended a process.
func because(end worker.End) string {
	who := fmt.Sprintf("worker %d", end.Worker)
	switch host.Reason(end.Reason) {
	case host.FileChanged:
		return end.Detail
	case host.Requested:
		return who + " was recycled " + end.Detail
	case host.Killed:
		return who + " was killed " + end.Detail
	case host.MemoryLimit:
		return fmt.Sprintf("%s reached its memory limit (%s)", who, end.Detail)
	case host.Crashed:
		return fmt.Sprintf("%s crashed (%s)", who, end.Detail)
	}
	return fmt.Sprintf("%s ended (%s)", who, end.Reason)
}

// A leak is slow enough to be seen in time, and steady.
const (
	leakEvery = 20 * time.Millisecond
	leakStep  = 16 << 20 / int64(time.Second/leakEvery)
)

// A leak is memory that a worker does not give back.
type leak struct {
	once sync.Once
	all  [][]byte
}

// startLeak has this worker leak until it ends.
func (s *shop) startLeak(w http.ResponseWriter, r *http.Request) {
	s.leak.once.Do(func() {
		go func() {
			for range time.Tick(leakEvery) {
				b := make([]byte, leakStep)
				for i := range b {
					b[i] = 1 // what is never written is no memory yet
				}
				s.leak.all = append(s.leak.all, b)
			}
		}()
	})
	http.Redirect(w, r, "/journal?"+url.Values{"leaks": {strconv.Itoa(os.Getpid())}}.Encode(), http.StatusSeeOther)
}
