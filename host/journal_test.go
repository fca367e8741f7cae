package host

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func testJournal(t *testing.T, path string) *journal {
	t.Helper()
	j, err := openJournal(path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(j.close)
	return j
}

func TestJournalIsKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state", "journal")
	j := testJournal(t, path)
	at := time.Date(2026, 5, 1, 14, 3, 0, 0, time.UTC)
	want := []Entry{
		{Time: at, Event: HostStarted, PID: 7},
		{Time: at, Event: Started, Worker: 1, PID: 8},
		{Time: at, Event: Recycled, Worker: 1, PID: 8, Reason: FileChanged, Detail: "config.yaml has changed", Successor: 9},
		{Time: at, Event: Ended, Worker: 1, PID: 8, Began: at, Reason: FileChanged, Detail: "config.yaml has changed", Sessions: &Sessions{1, 2}},
		{Time: at, Event: HostStopped, PID: 7},
	}
	for _, e := range want {
		j.add(e)
	}
	j.close()
	if diff := cmp.Diff(want, testJournal(t, path).all()); diff != "" {
		t.Error(diff)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file: %v, %v", info, err)
	}
}

// The host was killed while it wrote, and left two workers.
func TestJournalOfAHostThatWasKilled(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	text := `{"time":"2026-05-01T14:03:00Z","event":"started","worker":3,"pid":3}
{"time":"2026-05-01T14:03:00Z","event":"host started","pid":7}
{"time":"2026-05-01T14:03:00Z","event":"started","worker":1,"pid":8}
{"time":"2026-05-01T14:03:00Z","event":"started","worker":2,"pid":9}
not a line of ours
{"time":"2026-05-01T14:04:00Z","event":"started","worker":1,"pid":10}
{"time":"2026-05-01T14:04:00Z","event":"ended","worker":1,"pid":8,"reason":"killed"}
{"time":"2026-05-01T14:05:00Z","event":"sta`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	j := testJournal(t, path)
	all := j.all()
	if len(all) != 8 {
		t.Fatalf("%d entries: %v", len(all), all)
	}
	for i, want := range []Entry{{Worker: 2, PID: 9}, {Worker: 1, PID: 10}} {
		e := all[6+i]
		if e.Event != Ended || e.Reason != HostDied || e.Worker != want.Worker || e.PID != want.PID || time.Since(e.Time) > time.Minute {
			t.Errorf("entry %d: %v", 6+i, e)
		}
	}
	j.close()
	if again := testJournal(t, path).all(); len(again) != 8 {
		t.Errorf("at the second start: %v", again)
	}
}

func TestJournalIsBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	j := testJournal(t, path)
	detail := strings.Repeat("ü", 3000)
	for i := range 3 * keptEntries {
		j.add(Entry{Event: Ended, Worker: 1, PID: i + 1, Reason: Crashed, Detail: detail})
		if info, err := os.Stat(path); err != nil || info.Size() > maxJournal+4096 {
			t.Fatalf("the file: %d bytes, %v", info.Size(), err)
		}
	}
	all := j.all()
	if len(all) != keptEntries || all[keptEntries-1].PID != 3*keptEntries || len(all[0].Detail) > longestDetail+8 {
		t.Errorf("%d entries, the last %d", len(all), all[len(all)-1].PID)
	}
	if n := j.totals.Entries[Cause{Ended, Crashed}]; n != 3*keptEntries {
		t.Errorf("%d are counted", n)
	}
	j.close()
	again := testJournal(t, path).all()
	if len(again) < keptEntries/4 || again[len(again)-1].PID != 3*keptEntries {
		t.Errorf("%d entries are left in the file", len(again))
	}
}

// A file that cannot be written stops nothing.
func TestJournalThatCannotBeWritten(t *testing.T) {
	j := testJournal(t, filepath.Join(t.TempDir(), "journal"))
	j.file.Close()
	j.add(Entry{Event: Ignored})
	if len(j.all()) != 1 {
		t.Error("nothing in memory")
	}
	if _, err := openJournal(t.TempDir(), slog.New(slog.DiscardHandler)); err == nil {
		t.Error("a folder is taken for a journal")
	}
}

func TestEntryInALine(t *testing.T) {
	at := time.Date(2026, 5, 1, 14, 3, 0, 0, time.Local)
	for want, e := range map[string]Entry{
		"2026-05-01 14:03:00 worker 2 (PID 4711) ended: file changed (config.yaml has changed), sessions: 3 carried over, 1 lost": {
			Time: at, Event: Ended, Worker: 2, PID: 4711, Reason: FileChanged, Detail: "config.yaml has changed", Sessions: &Sessions{3, 1},
		},
		"2026-05-01 14:03:00 worker 2 gave up: crashed (why)": {Time: at, Event: GaveUp, Worker: 2, Reason: Crashed, Detail: "why"},
		"2026-05-01 14:03:00 host started":                    {Time: at, Event: HostStarted, PID: 7},
	} {
		if got := e.String(); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

func FuzzJournal(f *testing.F) {
	f.Add([]byte(`{"time":"2026-05-01T14:03:00Z","event":"started","worker":1,"pid":8}` + "\n"))
	f.Add([]byte(`{"event":"ended","sessions":{"carried":1,"lost":2},"began":"2026-05-01T14:03:00+02:00"}` + "\n\n{"))
	f.Add([]byte("\x00\n[]\nnull\n1e999\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		entries, broken := parseJournal(bytes.NewReader(text))
		if n := bytes.Count(text, []byte("\n")) + 1; len(entries)+broken > n || len(entries) > keptEntries {
			t.Fatalf("%d entries and %d broken of %d lines", len(entries), broken, n)
		}
		_ = orphaned(entries)
		// What is read is written so that it is read as the same.
		var again bytes.Buffer
		for _, e := range entries {
			line, err := json.Marshal(e)
			if err != nil {
				return // a time that has no form in JSON
			}
			fmt.Fprintf(&again, "%s\n", line)
		}
		twice, broken := parseJournal(&again)
		if diff := cmp.Diff(entries, twice); diff != "" || broken > 0 {
			t.Errorf("%d broken, %s", broken, diff)
		}
	})
}
