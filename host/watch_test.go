package host

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// A burst is what a watcher reports.
type burst struct {
	changed, touched []string
}

// watching returns what is reported of these paths in dir until the test ends.
func watching(t *testing.T, dir string, w Watch) <-chan burst {
	t.Helper()
	for i, name := range w.Paths {
		w.Paths[i] = filepath.Join(dir, name)
	}
	watcher, err := newWatcher(w.roots(func(int) *exec.Cmd { return exec.Command("./app") }), w.Except, filepath.Join(dir, "journal"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	reports := make(chan burst, 100)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		watcher.run(ctx, func(d difference, _ time.Time) {
			all := d.changed[FileChanged]
			for _, names := range [][]string{all, d.touched} {
				for i := range names {
					names[i] = strings.TrimPrefix(names[i], dir+string(filepath.Separator))
				}
				slices.Sort(names)
			}
			if len(all)+len(d.touched) > 0 {
				reports <- burst{all, d.touched}
			}
		})
	}()
	t.Cleanup(func() { cancel(); <-done })
	return reports
}

func next(t *testing.T, reports <-chan burst) burst {
	t.Helper()
	select {
	case b := <-reports:
		return b
	case <-time.After(20 * time.Second):
		t.Fatal("nothing is reported")
		panic("not reached")
	}
}

// do does something to files in dir.
func do(t *testing.T, dir string, steps []string) {
	t.Helper()
	for _, step := range steps {
		f := strings.Fields(step)
		if f[0] != "link" { // which has a relative end
			f[1] = filepath.Join(dir, f[1])
		}
		if f[0] == "rename" || f[0] == "link" {
			f[2] = filepath.Join(dir, f[2])
		}
		var err error
		switch f[0] {
		case "write":
			err = os.WriteFile(f[1], []byte(f[2]), 0o644)
		case "touch":
			now := time.Now()
			err = os.Chtimes(f[1], now, now)
		case "rename":
			err = os.Rename(f[1], f[2])
		case "remove":
			err = os.RemoveAll(f[1])
		case "mkdir":
			err = os.MkdirAll(f[1], 0o755)
		case "link":
			err = os.Symlink(f[1], f[2])
		default:
			t.Fatalf("no such step: %s", step)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestWatcher(t *testing.T) {
	for name, c := range map[string]struct {
		before  []string
		paths   string
		except  string
		do      []string
		changed string
		touched string
		again   []string // what is done after the report
		then    string   // and reported then
	}{
		"one byte": {
			before: []string{"write app.yaml a"}, paths: "app.yaml",
			do: []string{"write app.yaml b"}, changed: "app.yaml has changed",
		},
		"touched": {
			before: []string{"write app.yaml a"}, paths: "app.yaml",
			do: []string{"touch app.yaml"}, touched: "app.yaml",
			again: []string{"write app.yaml b"}, then: "app.yaml has changed",
		},
		"written anew and the same": {
			before: []string{"write app.yaml a"}, paths: "app.yaml",
			do: []string{"write app.yaml b", "write app.yaml a"}, touched: "app.yaml",
		},
		"saved by rename": {
			before: []string{"write app.yaml a"}, paths: "app.yaml",
			do: []string{"write app.yaml.tmp b", "rename app.yaml.tmp app.yaml"}, changed: "app.yaml has changed",
			again: []string{"write app.yaml.tmp c", "rename app.yaml.tmp app.yaml"}, then: "app.yaml has changed",
		},
		"saved by vim": {
			before: []string{"mkdir conf", "write conf/app.yaml a"}, paths: "conf",
			do: []string{
				"write conf/.app.yaml.swp x", "write conf/4913 x", "remove conf/4913", "rename conf/app.yaml conf/app.yaml~",
				"write conf/app.yaml b", "remove conf/.app.yaml.swp",
			},
			changed: "conf/app.yaml has changed",
		},
		"removed and made again": {
			before: []string{"write app.yaml a"}, paths: "app.yaml",
			do: []string{"remove app.yaml"}, changed: "app.yaml is gone",
			again: []string{"write app.yaml a"}, then: "app.yaml is new",
		},
		"not there yet": {
			before: nil, paths: "etc/conf/app.yaml",
			do: []string{"mkdir etc/conf"}, changed: "",
			again: []string{"write etc/conf/app.yaml a"}, then: "etc/conf/app.yaml is new",
		},
		"a file beside it": {
			before: []string{"write app.yaml a"}, paths: "app.yaml",
			do:      []string{"write other.yaml a", "write app.yaml b", "remove other.yaml"},
			changed: "app.yaml has changed",
		},
		"a burst": {
			before: []string{"mkdir bin/sub", "write bin/a 1", "write bin/b 1", "write bin/sub/c 1"}, paths: "bin",
			do:      []string{"write bin/a 2", "write bin/b 2", "write bin/sub/c 2", "write bin/new 2"},
			changed: "bin/a has changed, bin/b has changed, bin/new is new, bin/sub/c has changed",
		},
		"a folder is made": {
			before: []string{"mkdir bin"}, paths: "bin",
			do: []string{"mkdir bin/sub/deep", "write bin/sub/deep/a 1"}, changed: "bin/sub/deep/a is new",
			again: []string{"write bin/sub/deep/a 2"}, then: "bin/sub/deep/a has changed",
		},
		"a folder is renamed": {
			before: []string{"mkdir bin/sub/deep", "write bin/sub/deep/a 1"}, paths: "bin",
			do:      []string{"rename bin/sub bin/bus"},
			changed: "bin/bus/deep/a is new, bin/sub is gone, bin/sub/deep is gone, bin/sub/deep/a is gone",
			again:   []string{"write bin/bus/deep/a 2"}, then: "bin/bus/deep/a has changed",
		},
		"a folder is replaced by another": {
			before: []string{"mkdir bin/sub", "mkdir next", "write bin/sub/a 1", "write next/a 2"}, paths: "bin",
			do:      []string{"rename bin/sub old", "rename next bin/sub"},
			changed: "bin/sub/a has changed",
			again:   []string{"write bin/sub/a 3"}, then: "bin/sub/a has changed",
		},
		"a folder is deleted": {
			before: []string{"mkdir bin/sub", "write bin/sub/a 1"}, paths: "bin",
			do: []string{"remove bin/sub"}, changed: "bin/sub is gone, bin/sub/a is gone",
		},
		"the folder itself is renamed": {
			before: []string{"mkdir bin", "write bin/a 1"}, paths: "bin",
			do: []string{"rename bin gone"}, changed: "bin is gone, bin/a is gone",
			again: []string{"mkdir bin", "write bin/a 1"}, then: "bin/a is new",
		},
		"the folder above is deleted": {
			before: []string{"mkdir srv/app/bin", "write srv/app/bin/a 1"}, paths: "srv/app/bin",
			do: []string{"remove srv"}, changed: "srv/app/bin is gone, srv/app/bin/a is gone",
			again: []string{"mkdir srv/app/bin", "write srv/app/bin/a 1"}, then: "srv/app/bin/a is new",
		},
		"a link leads elsewhere": { // as deployments do it
			before: []string{"mkdir v1", "mkdir v2", "write v1/a 1", "write v2/a 2", "write v1/b 0", "write v2/b 0", "link v1 current"}, paths: "current",
			do:      []string{"link v2 next", "rename next current"},
			changed: "current/a has changed",
			again:   []string{"write v2/b 1"}, then: "current/b has changed",
		},
		"a link leads elsewhere, to the same": {
			before: []string{"mkdir v1", "mkdir v2", "write v1/a 1", "write v2/a 1", "link v1 current"}, paths: "current",
			do:      []string{"link v2 next", "rename next current", "write v2/a 2"},
			changed: "current/a has changed",
		},
		"a file behind two links": { // as Kubernetes does it
			before: []string{"mkdir ..1", "mkdir ..2", "write ..1/a 1", "write ..2/a 2", "link ..1 ..data", "link ..data/a a"}, paths: "a",
			do: []string{"link ..2 ..tmp", "rename ..tmp ..data"}, changed: "a has changed",
		},
		"excepted": {
			before: []string{"mkdir app/data/deep", "mkdir app/.git", "write app/a 1"}, paths: "app", except: "*.log data",
			do:      []string{"write app/x.log 1", "write app/data/deep/x 1", "write app/.git/index 1", "write app/a 2"},
			changed: "app/a has changed",
		},
		"the host's own journal": {
			before: []string{"write a 1"}, paths: ".",
			do: []string{"write journal 1", "write journal.new 1", "rename journal.new journal", "write a 2"}, changed: "a has changed",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			do(t, dir, c.before)
			reports := watching(t, dir, Watch{Paths: strings.Fields(c.paths), Except: strings.Fields(c.except)})
			do(t, dir, c.do)
			if c.changed != "" || c.touched != "" {
				got := next(t, reports)
				// A system may take long to report a burst.
				if strings.Join(got.changed, ", ") != c.changed || c.touched != "" && strings.Join(got.touched, ", ") != c.touched {
					t.Errorf("reported: %q, touched %q; want %q and %q", got.changed, got.touched, c.changed, c.touched)
				}
			}
			if c.again != nil {
				do(t, dir, c.again)
				if got := next(t, reports); strings.Join(got.changed, ", ") != c.then {
					t.Errorf("then reported: %q, want %q", got.changed, c.then)
				}
			}
			select {
			case got := <-reports:
				t.Errorf("reported besides: %v", got)
			case <-time.After(2 * settleAfter):
			}
		})
	}
}

func TestWatcherRefuses(t *testing.T) {
	_, err := newWatcher(nil, []string{"[a"}, "", slog.New(slog.DiscardHandler))
	if err == nil || !strings.Contains(err.Error(), `"[a"`) {
		t.Errorf("a pattern that is none: %v", err)
	}
}

func TestSeveral(t *testing.T) {
	for n, want := range map[int]string{1: "f0", 3: "f0, f1, f2", 9: "f0, f1, f2 and 6 more"} {
		var all []string
		for i := range n {
			all = append(all, fmt.Sprint("f", i))
		}
		if got := several(all); got != want {
			t.Errorf("several of %d: %q", n, got)
		}
	}
}

func TestWithin(t *testing.T) {
	for _, c := range []struct {
		name, dir string
		want      bool
	}{
		{"/a/b", "/a", true}, {"/a", "/a", true}, {"/ab", "/a", false}, {"/a", "/", true}, {"/a", "/a/b", false},
	} {
		if got := within(filepath.FromSlash(c.name), filepath.FromSlash(c.dir)); got != c.want {
			t.Errorf("%s within %s: %v", c.name, c.dir, got)
		}
	}
}
