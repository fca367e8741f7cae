package worker

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/holdfast-session/holdfast/inproc"
	"github.com/holdfast-session/holdfast/store"
)

// A folder is where the sessions of one worker number are kept over its processes:
// each process has a generation in it, which no other opens while it lives. Sessions go
// from generation to generation as they go from process to process; an old one that has
// none any more is removed.
type folder struct {
	dir  string // empty: nothing is kept
	open func(dir string) (store.Store, error)
	o    inproc.Options
	own  int         // the generation of this process
	back store.Store // and what is open there
}

func (f *folder) backed() bool { return f.back != nil }

func (f *folder) path(generation int) string {
	return filepath.Join(f.dir, strconv.Itoa(generation))
}

// generations are those that are there, the oldest first.
func (f *folder) generations() ([]int, error) {
	entries, err := os.ReadDir(f.dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	var all []int
	for _, e := range entries {
		if n, err := strconv.Atoi(e.Name()); err == nil && n > 0 && e.IsDir() {
			all = append(all, n)
		}
	}
	slices.Sort(all)
	return all, nil
}

// begin opens the generation of this process: a new one if the process before still
// has its own, else the last.
func (f *folder) begin(hasPredecessor bool) error {
	all, err := f.generations()
	if err != nil {
		return err
	}
	f.own = 1
	if n := len(all); n > 0 {
		f.own = all[n-1]
		if hasPredecessor {
			f.own++
		}
	}
	if err := os.MkdirAll(f.path(f.own), 0o700); err != nil {
		return err
	}
	f.back, err = f.open(f.path(f.own))
	return err
}

// A leftover is what a process has left behind that did not hand everything over.
type leftover struct {
	*inproc.Store
	back store.Store
	dir  string
}

// left opens the generation of an earlier process; nil if there is none.
func (w *Worker) left() (*leftover, error) {
	f := &w.folder
	if !f.backed() {
		return nil, nil
	}
	all, err := f.generations()
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(n int) bool { return n == f.own })
	if len(all) == 0 {
		return nil, nil
	}
	l := &leftover{dir: f.path(all[0])}
	if l.back, err = f.open(l.dir); err != nil {
		return nil, err
	}
	o := f.o
	o.Backing = l.back
	l.Store = inproc.New(&o)
	return l, nil
}

// discard removes it, now that it has no session any more.
func (l *leftover) discard() error {
	return errors.Join(l.Close(), closeStore(l.back), os.RemoveAll(l.dir))
}

// end closes the generation of this process, and removes it if its sessions have all
// gone elsewhere.
func (f *folder) end(empty bool) error {
	if !f.backed() {
		return nil
	}
	err := closeStore(f.back)
	if err == nil && empty {
		err = os.RemoveAll(f.path(f.own))
	}
	if err != nil {
		return fmt.Errorf("worker: %w", err)
	}
	return nil
}

func closeStore(s store.Store) error {
	if c, ok := s.(io.Closer); ok {
		return c.Close()
	}
	return nil
}
