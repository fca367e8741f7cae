package host

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"
)

// Watch is what has the workers recycled when it changes: when the content of a file
// does, or the name of one in a folder, not when it is only touched, which the journal
// records as [Ignored]. Changes that come in a burst are one. It needs a file system
// that reports changes, as those of networks do not.
type Watch struct {
	// Paths are files and folders, which count with everything in them. One that is
	// not there counts from when it is.
	Paths []string

	// Except are patterns in the form of [path.Match] of what does not count in the
	// folders: of a name anywhere in them (*.log), or of a path from a folder on
	// (data/uploads). What does not count in any case are the folders of version
	// control (.git, .hg, .svn) and the temporary files of editors.
	Except []string

	// Program counts the executable of worker 1.
	Program bool
}

// A root is a file or folder that is watched.
type root struct {
	path   string // absolute
	name   string // as it was given
	reason Reason
}

func (w *Watch) roots(command func(int) *exec.Cmd) []root {
	var all []root
	add := func(name string, reason Reason) {
		full, err := filepath.Abs(name)
		if err != nil { // there is no working directory any more
			full = name
		}
		all = append(all, root{full, filepath.Clean(name), reason})
	}
	for _, name := range w.Paths {
		add(name, FileChanged)
	}
	if w.Program {
		add(command(1).Path, ProgramChanged)
	}
	return all
}

const (
	// settleAfter is how long there is no event before a burst is over, and
	// settleWithin how long it may last.
	settleAfter  = 300 * time.Millisecond
	settleWithin = 3 * time.Second
)

// A watcher knows the content of files, and learns when it changes.
type watcher struct {
	roots  []root
	except []string
	own    string // the host's journal, which does not count
	log    *slog.Logger
	events *fsnotify.Watcher
	known  map[string]stamp       // by the path that roots lead to, through no link
	dirs   map[string]os.FileInfo // that are watched
	loose  map[string]bool        // those of them where any name counts, because of a link
}

// A stamp is what is known of a file or folder.
type stamp struct {
	root  int
	name  string // to be shown
	dir   bool
	info  os.FileInfo // nil where nothing was read
	sum   [sha256.Size]byte
	apart string // what stands for the content where there is none to read: a link's end, an error
	real  string // where it really is
}

func (s stamp) same(o stamp) bool {
	return s.dir == o.dir && s.sum == o.sum && s.apart == o.apart
}

// unmoved reports whether s is the same file as before, of the same size and time. (The
// time alone does not tell: clocks of file systems are coarse.)
func (s stamp) unmoved(before stamp) bool {
	return s.info == nil && before.info == nil ||
		s.info != nil && before.info != nil && s.info.Size() == before.info.Size() &&
			s.info.ModTime().Equal(before.info.ModTime()) && os.SameFile(s.info, before.info)
}

// newWatcher returns a watcher that knows what there is at this moment. own is the
// host's journal, or empty.
func newWatcher(roots []root, except []string, own string, log *slog.Logger) (*watcher, error) {
	for _, pattern := range except {
		if _, err := path.Match(pattern, ""); err != nil {
			return nil, fmt.Errorf("host: the pattern %q: %w", pattern, err)
		}
	}
	w := &watcher{roots: roots, except: except, log: log}
	if own != "" {
		w.own, _ = filepath.Abs(own)
		if dir, err := filepath.EvalSymlinks(filepath.Dir(w.own)); err == nil {
			w.own = filepath.Join(dir, filepath.Base(w.own))
		}
	}
	if err := w.renew(); err != nil {
		if w.events != nil {
			w.events.Close()
		}
		return nil, fmt.Errorf("host: files cannot be watched: %w", explained(err))
	}
	for _, r := range roots {
		if _, err := os.Stat(r.path); errors.Is(err, fs.ErrNotExist) {
			log.Warn("what is to be watched is not there yet; it counts from when it is", "path", r.path)
		}
	}
	return w, nil
}

// renew begins to watch anew what is there now.
func (w *watcher) renew() error {
	events, err := fsnotify.NewWatcher()
	if err != nil {
		return err
	}
	if w.events != nil {
		w.events.Close()
	}
	w.events, w.dirs = events, nil
	// Twice: what changes between the first look at a folder and the moment when it
	// is watched is seen by the second.
	return errors.Join(w.look(nil), w.look(nil))
}

// explained adds what to do about a limit of the system.
func explained(err error) error {
	switch {
	case errors.Is(err, syscall.ENOSPC):
		return fmt.Errorf("%w; on Linux, raise fs.inotify.max_user_watches, or watch fewer folders", err)
	case errors.Is(err, syscall.EMFILE):
		return fmt.Errorf("%w; on Linux, raise fs.inotify.max_user_instances", err)
	}
	return err
}

// look looks at everything again, and reads what has another size or time than before
// or is in touched, by its real path.
func (w *watcher) look(touched map[string]bool) error {
	before, dirs := w.known, w.dirs
	w.known, w.dirs, w.loose = make(map[string]stamp), make(map[string]os.FileInfo), make(map[string]bool)
	var failed error
	watch := func(dir string) {
		if w.dirs[dir] != nil {
			return
		}
		info, err := os.Stat(dir)
		if err == nil && dirs[dir] == nil {
			err = w.events.Add(dir)
		}
		switch {
		case err == nil:
			w.dirs[dir] = info
		case !errors.Is(err, fs.ErrNotExist):
			failed = err
		}
	}
	for i, r := range w.roots {
		real, err := filepath.EvalSymlinks(r.path)
		if err != nil {
			real = r.path // it is not there, or not now
		}
		above := existing(filepath.Dir(r.path))
		watch(above)
		if real != r.path {
			w.loose[above] = true
			watch(existing(filepath.Dir(real)))
		}
		_ = filepath.WalkDir(real, func(at string, d fs.DirEntry, err error) error {
			rel, _ := filepath.Rel(real, at)
			if err != nil || rel != "." && w.excepted(at, rel) {
				if d != nil && d.IsDir() {
					return fs.SkipDir
				}
				return nil
			}
			if d.IsDir() {
				watch(at)
			}
			key := filepath.Join(r.path, rel)
			s := stamp{root: i, name: filepath.Join(r.name, rel), real: at}
			if s.read(d, before[key], touched[at]) {
				w.known[key] = s
			}
			return nil
		})
	}
	return failed
}

// existing is dir, or the nearest folder above it that there is.
func existing(dir string) string {
	for {
		if info, err := os.Stat(dir); err == nil && info.IsDir() || dir == filepath.Dir(dir) {
			return dir
		}
		dir = filepath.Dir(dir)
	}
}

// excepted reports whether what is at a place, rel from a root on, does not count.
func (w *watcher) excepted(at, rel string) bool {
	if w.own != "" && (at == w.own || at == w.own+newJournal) {
		return true
	}
	rel = filepath.ToSlash(rel)
	name := path.Base(rel)
	switch name {
	case ".git", ".hg", ".svn", "4913": // the last is vim's, which tries whether it may write
		return true
	}
	for _, pattern := range [...]string{"*~", ".*.sw?", ".#*", "#*#"} {
		if ok, _ := path.Match(pattern, name); ok {
			return true
		}
	}
	for _, pattern := range w.except {
		byName, _ := path.Match(pattern, name)
		byPath, _ := path.Match(pattern, rel)
		if byName || byPath {
			return true
		}
	}
	return false
}

// read fills s in, and reports whether there is something that counts. What was known
// before is taken over if it looks the same, unless the file was touched.
func (s *stamp) read(d fs.DirEntry, before stamp, touched bool) bool {
	if d.IsDir() {
		s.dir = true
		return true
	}
	info, err := os.Stat(s.real)
	if d.Type()&fs.ModeSymlink != 0 && (err != nil || !info.Mode().IsRegular()) {
		s.apart, _ = os.Readlink(s.real)
		return true
	}
	if err != nil || !info.Mode().IsRegular() {
		return false
	}
	s.info = info
	if !touched && s.unmoved(before) {
		s.sum, s.apart = before.sum, before.apart
		return true
	}
	f, err := os.Open(s.real)
	if errors.Is(err, fs.ErrNotExist) {
		return false
	}
	sum := sha256.New()
	if err == nil {
		_, err = io.Copy(sum, f)
		f.Close()
	}
	if err != nil {
		s.apart = err.Error()
		return true
	}
	sum.Sum(s.sum[:0])
	return true
}

// concerns reports whether an event may be about something that is watched.
func (w *watcher) concerns(e fsnotify.Event) bool {
	if w.loose[filepath.Dir(e.Name)] {
		return true
	}
	for _, r := range w.roots {
		if within(r.path, e.Name) { // the root, or a folder that it is in
			return true
		}
		for _, at := range [...]string{r.path, w.known[r.path].real} {
			if at != "" && within(e.Name, at) {
				if rel, err := filepath.Rel(at, e.Name); err == nil && (rel == "." || !w.excepted(e.Name, rel)) {
					return true
				}
			}
		}
	}
	return false
}

// within reports whether name is dir or something in it.
func within(name, dir string) bool {
	rest, ok := strings.CutPrefix(name, dir)
	return ok && (rest == "" || os.IsPathSeparator(rest[0]) || os.IsPathSeparator(dir[len(dir)-1]))
}

// A difference is what a burst of events came to.
type difference struct {
	changed map[Reason][]string // by what they are recycled for
	touched []string            // that are the same
}

// settle looks again after a burst that was about these paths.
func (w *watcher) settle(touched map[string]bool) difference {
	before, dirs := w.known, w.dirs
	err := w.look(touched)
	for dir, info := range dirs {
		if now := w.dirs[dir]; now == nil || !os.SameFile(now, info) {
			// What is reported of a folder that was renamed, and of those in it, comes
			// under their old names.
			err = w.renew()
			break
		}
	}
	if err != nil {
		w.log.Error("not all files can be watched", "err", explained(err))
	}
	d := difference{changed: make(map[Reason][]string)}
	change := func(s stamp, how string) {
		reason := w.roots[s.root].reason
		d.changed[reason] = append(d.changed[reason], s.name+" "+how)
	}
	for _, key := range slices.Sorted(maps.Keys(w.known)) {
		now := w.known[key]
		was, ok := before[key]
		switch {
		case !ok && !now.dir:
			change(now, "is new")
		case ok && !now.same(was):
			change(now, "has changed")
		case !now.dir && (touched[now.real] || !now.unmoved(was)):
			d.touched = append(d.touched, now.name)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(before)) {
		if _, ok := w.known[key]; !ok {
			change(before[key], "is gone")
		}
	}
	return d
}

// run reports what changes until ctx is done: what a burst came to, and when its last
// event was.
func (w *watcher) run(ctx context.Context, report func(difference, time.Time)) {
	defer func() { w.events.Close() }() // the one of then
	quiet, late := time.NewTimer(0), time.NewTimer(0)
	quiet.Stop()
	late.Stop()
	var touched map[string]bool // nil while there is no burst
	var last time.Time
	event := func() {
		last = time.Now()
		quiet.Reset(settleAfter)
		if touched == nil {
			touched = make(map[string]bool)
			late.Reset(settleWithin)
		}
	}
	for {
		select {
		case e := <-w.events.Events:
			if w.concerns(e) {
				event()
				touched[e.Name] = true
			}
			continue
		case err := <-w.events.Errors:
			w.log.Warn("not every change of a file was reported; looking at all of them", "err", err)
			event()
			continue
		case <-quiet.C:
		case <-late.C:
		case <-ctx.Done():
			return
		}
		quiet.Stop()
		late.Stop()
		d := w.settle(touched)
		touched = nil
		report(d, last)
	}
}

// watchFiles has the workers recycled when files change.
func (h *Host) watchFiles(ctx context.Context, w *watcher) {
	var said string
	w.run(ctx, func(d difference, at time.Time) {
		for reason, all := range d.changed {
			h.askAll(reason, several(all), at)
		}
		if len(d.touched) == 0 {
			return
		}
		// A scanner that touches the same files all day fills no journal.
		if detail := several(d.touched) + ": touched, and the same"; detail != said {
			said = detail
			h.log().Info("files were touched and are the same; nothing is recycled", "files", several(d.touched))
			h.book.add(Entry{Event: Ignored, Reason: FileChanged, Detail: detail})
		} else {
			h.book.count(Entry{Event: Ignored, Reason: FileChanged})
		}
	})
}

// several names the first of all.
func several(all []string) string {
	const most = 3
	if len(all) <= most {
		return strings.Join(all, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(all[:most], ", "), len(all)-most)
}
