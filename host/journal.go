package host

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// An Entry is a line of the journal: what happened to a worker, and why.
type Entry struct {
	Time   time.Time `json:"time"`
	Event  Event     `json:"event"`
	Worker int       `json:"worker,omitempty"` // 0: all, or the host itself
	PID    int       `json:"pid,omitempty"`
	// Began is when the process was started, in Ended.
	Began  time.Time `json:"began,omitzero"`
	Reason Reason    `json:"reason,omitempty"`
	// Detail is what triggered it, such as a file's name or the bytes used, or how a
	// process ended, such as "exit status 2" or "signal: killed".
	Detail string `json:"detail,omitempty"`
	// Successor is the PID of the process that has taken over, in Recycled; 0 if
	// there is none.
	Successor int `json:"successor,omitempty"`
	// Sessions is what became of the sessions in the memory of a process that Ended;
	// nil where that is not known, because it does not report them.
	Sessions *Sessions `json:"sessions,omitempty"`
}

// An Event is what an [Entry] tells of.
type Event string

const (
	// Started: a process is ready and gets requests.
	Started Event = "started"
	// Recycled: the process gets no more requests, and ends when it has finished
	// those that it has.
	Recycled Event = "recycled"
	// Ended: a process is gone, and what is lost with it is lost.
	Ended Event = "ended"
	// Kept: a successor did not come up, and the worker goes on.
	Kept Event = "kept"
	// GaveUp: the worker has failed too often and is not started any more.
	GaveUp Event = "gave up"
	// Ignored: watched files were touched and are the same.
	Ignored Event = "ignored"
	// HostStarted and HostStopped are of the host itself.
	HostStarted Event = "host started"
	HostStopped Event = "host stopped"
)

// A Reason says why a worker was recycled or ended.
type Reason string

const (
	// Crashed: it ended by itself, or somebody outside of the host ended it.
	Crashed Reason = "crashed"
	// Killed: by [Host.Kill].
	Killed Reason = "killed"
	// NotReady: it did not get ready in time, and was killed.
	NotReady Reason = "not ready"
	// HostDied: the host was killed, or crashed, and its workers with it. The next
	// host writes that down.
	HostDied Reason = "host died"

	// Stopped: the host stopped.
	Stopped Reason = "host stopped"
	// Requested: by [Host.Recycle].
	Requested Reason = "requested"
	// MemoryLimit, RequestLimit, AgeLimit, Scheduled and Idle are of [Limits].
	MemoryLimit  Reason = "memory limit"
	RequestLimit Reason = "request limit"
	AgeLimit     Reason = "age limit"
	Scheduled    Reason = "schedule"
	Idle         Reason = "idle"
	// FileChanged and ProgramChanged are of [Watch].
	FileChanged    Reason = "file changed"
	ProgramChanged Reason = "program changed"
	// Unhealthy is of [Health].
	Unhealthy Reason = "unhealthy"
)

// planned reports whether the worker was let finish its requests.
func (r Reason) planned() bool {
	switch r {
	case Crashed, Killed, NotReady, HostDied:
		return false
	}
	return true
}

// Sessions counts the sessions that a process had in its memory.
type Sessions struct {
	// Carried were handed to the successor, or are in a store that outlives the
	// process.
	Carried int `json:"carried"`
	// Lost are gone. At a crash it is what the process had reported last.
	Lost int `json:"lost"`
}

// String describes the entry in a line.
func (e Entry) String() string {
	var b strings.Builder
	b.WriteString(e.Time.Local().Format(time.DateTime))
	switch {
	case e.Worker > 0 && e.PID > 0:
		fmt.Fprintf(&b, " worker %d (PID %d)", e.Worker, e.PID)
	case e.Worker > 0:
		fmt.Fprintf(&b, " worker %d", e.Worker)
	}
	fmt.Fprintf(&b, " %s", e.Event)
	if e.Reason != "" {
		fmt.Fprintf(&b, ": %s", e.Reason)
	}
	if e.Detail != "" {
		fmt.Fprintf(&b, " (%s)", e.Detail)
	}
	if s := e.Sessions; s != nil {
		fmt.Fprintf(&b, ", sessions: %d carried over, %d lost", s.Carried, s.Lost)
	}
	return b.String()
}

const (
	// keptEntries bounds how many entries are remembered.
	keptEntries = 1000
	// maxJournal bounds the file; past it, the older half is dropped.
	maxJournal = 1 << 20
	// longestDetail bounds a line of it.
	longestDetail = 1000
	// newJournal is behind the name of a file that is about to be the journal.
	newJournal = ".new"
)

// A journal is what happened, in memory and in a file.
type journal struct {
	path string // "" for none
	log  *slog.Logger

	mu      sync.Mutex
	file    *os.File
	size    int64
	failing bool // the last write did, and was logged
	entries []Entry
	totals  Totals
}

// openJournal opens the journal at path, which need not exist, and notes the end of
// workers whose host did not come to it.
func openJournal(path string, log *slog.Logger) (*journal, error) {
	j := &journal{path: path, log: log, totals: Totals{Entries: make(map[Cause]int64)}}
	if path == "" {
		return j, nil
	}
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("host: the journal cannot be read: %w", err)
	}
	var broken int
	if j.entries, broken = parseJournal(bytes.NewReader(text)); broken > 0 {
		log.Warn("the journal has lines that cannot be read", "file", path, "lines", broken)
	}
	if err := j.rewrite(); err != nil {
		return nil, fmt.Errorf("host: the journal cannot be written: %w", err)
	}
	for _, e := range orphaned(j.entries) {
		e.Time, e.Event, e.Reason, e.Detail = time.Now(), Ended, HostDied, "noticed at the next start of the host"
		j.add(e)
	}
	clear(j.totals.Entries)
	return j, nil
}

// ReadJournal returns the entries in the journal of a host, which need not run, the
// oldest first.
func ReadJournal(path string) ([]Entry, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	entries, _ := parseJournal(f)
	return entries, nil
}

// parseJournal returns the last entries of a journal, and how many lines are no entry,
// such as the last one of a host that was killed, or of a disk that was full.
func parseJournal(r io.Reader) (entries []Entry, broken int) {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxJournal)
	for lines.Scan() {
		if len(bytes.TrimSpace(lines.Bytes())) == 0 {
			continue
		}
		var e Entry
		if json.Unmarshal(lines.Bytes(), &e) != nil || e.Event == "" {
			broken++
			continue
		}
		entries = append(entries, e)
	}
	if lines.Err() != nil {
		broken++
	}
	return slices.Clone(entries[max(0, len(entries)-keptEntries):]), broken
}

// orphaned are the entries of processes that have started and not ended.
func orphaned(entries []Entry) []Entry {
	var all []Entry
	for _, e := range entries {
		switch e.Event {
		case Started:
			all = append(all, Entry{Worker: e.Worker, PID: e.PID, Began: e.Time})
		case Ended:
			all = slices.DeleteFunc(all, func(o Entry) bool { return o.Worker == e.Worker && o.PID == e.PID })
		case HostStarted: // what that host found, it has written down
			all = nil
		}
	}
	return all
}

// add adds an entry, at this moment if it does not say when. A file that cannot be
// written stops nothing.
func (j *journal) add(e Entry) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	if len(e.Detail) > longestDetail {
		e.Detail = strings.ToValidUTF8(e.Detail[:longestDetail], "") + "…"
	}
	if len(j.entries) == keptEntries {
		j.entries = append(j.entries[:0], j.entries[1:]...)
	}
	j.entries = append(j.entries, e)
	j.totals.Entries[Cause{e.Event, e.Reason}]++
	if e.Sessions != nil {
		j.totals.Lost += int64(e.Sessions.Lost)
		j.totals.Carried += int64(e.Sessions.Carried)
	}
	if j.file == nil {
		return
	}
	line, err := json.Marshal(e)
	if err == nil {
		var n int
		n, err = j.file.Write(append(line, '\n'))
		j.size += int64(n)
	}
	if err == nil && j.size > maxJournal {
		err = j.rewrite()
	}
	if err != nil && !j.failing {
		j.log.Error("the journal cannot be written; it goes on in memory", "file", j.path, "err", err)
	}
	j.failing = err != nil
}

// count counts e without writing it down.
func (j *journal) count(e Entry) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.totals.Entries[Cause{e.Event, e.Reason}]++
}

// rewrite writes the newest entries to a new file, as many as fit into half of the
// bound. The caller holds mu, or is alone.
func (j *journal) rewrite() error {
	var lines [][]byte
	size := 0
	for _, e := range slices.Backward(j.entries) {
		line, err := json.Marshal(e)
		if err != nil {
			return err
		}
		if size += len(line) + 1; size > maxJournal/2 {
			break
		}
		lines = append(lines, append(line, '\n'))
	}
	slices.Reverse(lines)
	if err := os.MkdirAll(filepath.Dir(j.path), 0o700); err != nil {
		return err
	}
	temp := j.path + newJournal
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	if _, err = f.Write(slices.Concat(lines...)); err == nil {
		if j.file != nil {
			j.file.Close() // some systems rename no open file
			j.file = nil
		}
		err = os.Rename(temp, j.path)
	}
	if err != nil {
		f.Close()
		return errors.Join(err, os.Remove(temp))
	}
	j.file, j.size = f, int64(min(size, maxJournal/2))
	return nil
}

// all returns the entries, the oldest first.
func (j *journal) all() []Entry {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.entries)
}

func (j *journal) close() {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.file != nil {
		j.file.Close()
		j.file = nil
	}
}
