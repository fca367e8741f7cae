package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"time"
)

// A suite is one run of the rows.
type suite struct {
	rounds int
	window window
	// full measures every cell, quick only the telling ones.
	full, quick bool
	// many is how many sessions a full server has, and cold how many are in no cache
	// of the processor.
	many, cold int
	// handovers is how often a lock changes hands, and arrivals how many queue.
	handovers, arrivals int
	dir                 string // for sockets, binaries and data
	log                 io.Writer

	built    map[string]string // binaries by name
	cleanups []func()
	absent   []string // what could not be measured, and why
}

func newSuite(dir string, log io.Writer) *suite {
	return &suite{
		rounds:    5,
		window:    window{150 * time.Millisecond, 500 * time.Millisecond},
		many:      1_000_000,
		cold:      1 << 17,
		handovers: 500,
		arrivals:  40,
		dir:       dir,
		log:       log,
		built:     make(map[string]string),
	}
}

// hurry makes it a run of two minutes.
func (s *suite) hurry() {
	s.quick = true
	s.rounds = 3
	s.window = window{30 * time.Millisecond, 100 * time.Millisecond}
	s.many = 200_000
	s.handovers = 100
	s.arrivals = 20
}

// later undoes something when the row is over, the last first.
func (s *suite) later(undo func()) { s.cleanups = append(s.cleanups, undo) }

func (s *suite) cleanUp() {
	for _, undo := range slices.Backward(s.cleanups) {
		undo()
	}
	s.cleanups = nil
}

// missing notes what cannot be measured here, so that the results name it.
func (s *suite) missing(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if !slices.Contains(s.absent, text) {
		s.absent = append(s.absent, text)
		fmt.Fprintln(s.log, "missing:", text)
	}
}

// temp returns a new folder.
func (s *suite) temp(name string) (string, error) {
	dir, err := os.MkdirTemp(s.dir, name)
	if err == nil {
		s.later(func() { os.RemoveAll(dir) })
	}
	return dir, err
}
