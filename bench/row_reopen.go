package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/holdfast-session/holdfast/internal/load"
	"github.com/holdfast-session/holdfast/logstore"
	"github.com/holdfast-session/holdfast/store"
)

var reopenRow = row{
	name:  "reopen",
	title: "Log store: opening it again",
	note: "A folder with sessions of 500 bytes is opened by a new process: after the one before has closed it, and after that was killed (SIGKILL) when it had saved a tenth of the sessions. " +
		"Then all of them are there. Memory is that of the process, by the session.",
	metrics: []metric{metricOpening, metricClosing, metricEach},
	slow:    true,
	cells:   reopenCells,
}

// reopenRole begins the role of a worker that opens a log store, and is followed by its
// folder.
const reopenRole = "reopen"

func reopenCells(s *suite) ([]cell, error) {
	count := s.many
	if s.quick {
		count = min(count, 20_000)
	}
	dir, err := s.temp("reopen-")
	if err != nil {
		return nil, err
	}
	if err := fillFolder(dir, count); err != nil {
		return nil, err
	}
	// Each leaves the folder as the other wants to find it, or as it was.
	measure := func(before func(*worker) error) func(context.Context, window) (figures, error) {
		return func(context.Context, window) (figures, error) {
			w, _, err := s.reopen(dir, count)
			if err == nil {
				err = before(w)
			}
			if err != nil {
				return nil, err
			}
			w, f, err := s.reopen(dir, count)
			if err != nil {
				return nil, err
			}
			resident, err := load.Resident(w.pid)
			if err != nil {
				return nil, err
			}
			f[metricEach.Name] = float64(resident) / float64(count)
			f[metricClosing.Name], err = w.closed()
			return f, err
		}
	}
	return []cell{{fmt.Sprintf("%s sessions", number(float64(count))), []side{
		{"after it was closed", measure(func(w *worker) error { _, err := w.closed(); return err })},
		{"after it was killed", measure(func(w *worker) error {
			if err := w.say("save %d", count/10); err != nil {
				return err
			}
			if _, err := w.hear(); err != nil {
				return err
			}
			return w.kill()
		})},
	}}}, nil
}

// fillFolder makes a log store with sessions.
func fillFolder(dir string, count int) (err error) {
	st, err := openFolder(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	rec := store.Record{Version: store.NewVersion(), Timeout: idleTimeout, Body: make([]byte, smallSession)}
	for i := range count {
		if err := st.Create(context.Background(), callerID(i), &rec, false); err != nil {
			return err
		}
	}
	return nil
}

func openFolder(dir string) (*logstore.Store, error) {
	return logstore.Open(dir, &logstore.Options{MaxMemory: -1})
}

// reopen opens the store in a process of its own, which has to find all sessions.
func (s *suite) reopen(dir string, count int) (*worker, figures, error) {
	w, err := s.worker(reopenRole + "\t" + dir)
	if err != nil {
		return nil, nil, err
	}
	f, err := w.hear()
	if err != nil {
		return nil, nil, err
	}
	if f[1] != strconv.Itoa(count) {
		return nil, nil, fmt.Errorf("%s of %d sessions are there", f[1], count)
	}
	return w, figures{metricOpening.Name: atof(f[0])}, nil
}

// closed tells the worker to close the store, and returns how many milliseconds that
// took.
func (w *worker) closed() (float64, error) {
	if err := w.say("close 0"); err != nil {
		return 0, err
	}
	f, err := w.hear()
	if err != nil {
		return 0, err
	}
	return atof(f[0]), nil
}

// serveFolder is a worker that opens a log store and does what it is told.
func serveFolder(dir string, in io.Reader, out io.Writer) error {
	begin := time.Now()
	st, err := openFolder(dir)
	if err != nil {
		return err
	}
	fmt.Fprintln(out, millis(time.Since(begin)), st.Stats().Sessions)
	for {
		var what string
		var n int
		if _, err := fmt.Fscanln(in, &what, &n); err != nil {
			return errors.Join(err, st.Close())
		}
		if what == "close" {
			begin := time.Now()
			err := st.Close()
			fmt.Fprintln(out, millis(time.Since(begin)))
			return err
		}
		for i := range n {
			ctx := context.Background()
			var rec store.Record
			if err := st.Load(ctx, callerID(i), &rec); err != nil {
				return err
			}
			if err := st.Save(ctx, callerID(i), &rec, store.NewVersion(), false); err != nil {
				return err
			}
		}
		fmt.Fprintln(out, n)
	}
}

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
