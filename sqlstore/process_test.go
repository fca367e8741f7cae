package sqlstore

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/holdfast-session/holdfast/store"
)

// visitorFile makes the test binary a process that counts a session up, in the file that
// it names.
const visitorFile = "HOLDFAST_TEST_SQLITE"

const visitorTurns = 100

func beVisitor() {
	err := func() error {
		db, err := sql.Open("sqlite", sqliteDSN(os.Getenv(visitorFile)))
		if err != nil {
			return err
		}
		defer db.Close()
		s, err := New(db, nil)
		if err != nil {
			return err
		}
		defer s.Close()
		return countUp(s, visitorTurns)
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

var counted = store.ID{App: "/shop", Session: "counted"}

// countUp adds to the number that is the session's content, half of the time under the
// lock, else by comparing versions.
func countUp(s *Store, turns int) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	rec := new(store.Record)
	for done := 0; done < turns; {
		var err error
		if done%2 == 0 {
			err = s.Lock(ctx, counted, store.LockOptions{Owner: store.NewOwner(), Wait: time.Minute}, rec)
		} else if err = s.Load(ctx, counted, rec); err == nil {
			rec.Lock = store.Lock{}
		}
		if err != nil {
			return err
		}
		n, err := strconv.Atoi(string(rec.Body))
		if err != nil {
			return err
		}
		rec.Body = strconv.AppendInt(rec.Body[:0], int64(n+1), 10)
		err = s.Save(ctx, counted, rec, store.NewVersion(), false)
		switch {
		case err == nil:
			done++
		case rec.Lock.IsZero() && wasRefused(err) == nil: // another was faster
		default:
			return err
		}
	}
	return nil
}

// Two processes share a file, and neither loses what the other does.
func TestTwoProcesses(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "shared.db")
	db, err := sql.Open("sqlite", sqliteDSN(file))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	s, err := New(db, &Options{AutoInstall: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Create(t.Context(), counted, &store.Record{Version: 1, Timeout: time.Hour, Body: []byte("0")}, false); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	const others = 2
	ended := make(chan error)
	for range others {
		cmd := exec.CommandContext(t.Context(), self)
		cmd.Env = append(os.Environ(), visitorFile+"="+file)
		cmd.Stderr = os.Stderr
		go func() { ended <- cmd.Run() }()
	}
	if err := countUp(s, visitorTurns); err != nil {
		t.Error(err)
	}
	for range others {
		if err := <-ended; err != nil {
			t.Errorf("the other process: %v", err)
		}
	}
	rec := new(store.Record)
	if err := s.Load(t.Context(), counted, rec); err != nil || string(rec.Body) != strconv.Itoa((others+1)*visitorTurns) || rec.Locked {
		t.Errorf("the session counted to %s, locked %v, %v; want %d", rec.Body, rec.Locked, err, (others+1)*visitorTurns)
	}
}
