package vfs

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// both runs a test on the real file system and on Mem.
func both(t *testing.T, test func(t *testing.T, folder FS)) {
	t.Run("Dir", func(t *testing.T) {
		d, err := Dir(filepath.Join(t.TempDir(), "new"))
		if err != nil {
			t.Fatal(err)
		}
		test(t, d)
	})
	t.Run("Mem", func(t *testing.T) { test(t, NewMem()) })
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// make makes a file with a content.
func put(t *testing.T, folder FS, name, content string) File {
	t.Helper()
	f, err := folder.Create(name)
	ok(t, err)
	t.Cleanup(func() { _ = f.Close() })
	write(t, f, content, 0)
	return f
}

func write(t *testing.T, f File, content string, off int64) {
	t.Helper()
	n, err := f.WriteAt([]byte(content), off)
	if n != len(content) || err != nil {
		t.Fatalf("WriteAt(%d bytes, %d) = %d, %v", len(content), off, n, err)
	}
}

// content returns what the file of that name holds, or "absent".
func content(t *testing.T, folder FS, name string) string {
	t.Helper()
	f, err := folder.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return "absent"
	}
	ok(t, err)
	defer func() { ok(t, f.Close()) }()
	return text(t, f)
}

func text(t *testing.T, f File) string {
	t.Helper()
	size, err := f.Size()
	ok(t, err)
	b, err := io.ReadAll(io.NewSectionReader(f, 0, size))
	ok(t, err)
	if int64(len(b)) != size {
		t.Fatalf("read %d bytes of %d", len(b), size)
	}
	return string(b)
}

func names(t *testing.T, folder FS) []Info {
	t.Helper()
	list, err := folder.List()
	ok(t, err)
	return slices.DeleteFunc(list, func(i Info) bool { return i.Name == "lock" })
}

func TestFiles(t *testing.T) {
	both(t, func(t *testing.T, folder FS) {
		f := put(t, folder, "b", "hello")
		put(t, folder, "a", "")
		if _, err := folder.Create("a"); !errors.Is(err, fs.ErrExist) {
			t.Errorf("Create of a file that is there: %v", err)
		}
		if _, err := folder.Open("none"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Open of a file that is not there: %v", err)
		}
		if err := folder.Remove("none"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Remove of a file that is not there: %v", err)
		}
		if err := folder.Rename("none", "a"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Rename of a file that is not there: %v", err)
		}

		write(t, f, "HOLE", 8)
		if got := content(t, folder, "b"); got != "hello\x00\x00\x00HOLE" {
			t.Errorf("behind a gap: %q", got)
		}
		ok(t, f.Truncate(3))
		ok(t, f.Truncate(6))
		if got := text(t, f); got != "hel\x00\x00\x00" {
			t.Errorf("shortened and lengthened: %q", got)
		}
		ok(t, f.Allocate(9))
		ok(t, f.Allocate(4)) // never shortens
		if got := text(t, f); got != "hel\x00\x00\x00\x00\x00\x00" {
			t.Errorf("allocated: %q", got)
		}
		buf := make([]byte, 4)
		if n, err := f.ReadAt(buf, 7); n != 2 || err != io.EOF {
			t.Errorf("ReadAt over the end = %d, %v", n, err)
		}
		if n, err := f.ReadAt(buf, 99); n != 0 || err != io.EOF {
			t.Errorf("ReadAt behind the end = %d, %v", n, err)
		}
		ok(t, f.Sync())
		ok(t, folder.SyncDir())

		want := []Info{{"a", 0}, {"b", 9}}
		if got := names(t, folder); !cmp.Equal(got, want) {
			t.Errorf("List = %v, want %v", got, want)
		}
		ok(t, folder.Rename("b", "a"))
		if got := names(t, folder); !cmp.Equal(got, []Info{{"a", 9}}) {
			t.Errorf("after Rename onto another, List = %v", got)
		}
	})
}

func TestClosedFile(t *testing.T) {
	both(t, func(t *testing.T, folder FS) {
		f, err := folder.Create("a")
		ok(t, err)
		ok(t, f.Close())
		_, err = f.WriteAt([]byte("x"), 0)
		for call, err := range map[string]error{
			"WriteAt": err, "Truncate": f.Truncate(1), "Sync": f.Sync(), "Close": f.Close(),
		} {
			if err == nil {
				t.Errorf("%s of a closed file succeeds", call)
			}
		}
	})
}

func TestLock(t *testing.T) {
	both(t, func(t *testing.T, folder FS) {
		held, err := folder.Lock()
		ok(t, err)
		if _, err := folder.Lock(); !errors.Is(err, ErrInUse) {
			t.Errorf("Lock of a folder in use: %v", err)
		}
		ok(t, held.Close())
		again, err := folder.Lock()
		ok(t, err)
		ok(t, again.Close())
	})
}

func TestLockNamesItsFolder(t *testing.T) {
	path := t.TempDir()
	d, err := Dir(path)
	ok(t, err)
	held, err := d.Lock()
	ok(t, err)
	defer func() { ok(t, held.Close()) }()
	if _, err := d.Lock(); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("the error %v does not name the folder %s", err, path)
	}
}

func TestDirListsPlainFilesOnly(t *testing.T) {
	path := t.TempDir()
	ok(t, os.Mkdir(filepath.Join(path, "folder"), 0o700))
	ok(t, os.WriteFile(filepath.Join(path, "file"), []byte("abc"), 0o600))
	d, err := Dir(path)
	ok(t, err)
	if got := names(t, d); !cmp.Equal(got, []Info{{"file", 3}}) {
		t.Errorf("List = %v", got)
	}
}

// The zeros that Allocate writes where the file system cannot reserve blocks.
func TestFill(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "a"))
	ok(t, err)
	defer func() { ok(t, f.Close()) }()
	ok(t, file{f}.fill(5, 600_000))
	if got := text(t, file{f}); got != strings.Repeat("\x00", 600_000) {
		t.Errorf("%d bytes, or not zeros", len(got))
	}
}

// TestNewFolderIsDurable: a folder that was made is synced in the one above it.
func TestNewFolderIsDurable(t *testing.T) {
	top := t.TempDir()
	var synced []string
	sync := func(path string) error {
		synced = append(synced, path)
		return syncDir(path)
	}
	path := filepath.Join(top, "a", "b")
	ok(t, makeDir(path, sync))
	if diff := cmp.Diff([]string{top, filepath.Join(top, "a")}, synced); diff != "" {
		t.Errorf("folders that were synced:\n%s", diff)
	}
	synced = nil
	ok(t, makeDir(path, sync))
	if len(synced) > 0 {
		t.Errorf("%q were synced for a folder that was there", synced)
	}
}
