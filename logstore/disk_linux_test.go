package logstore

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/holdfast-session/holdfast/logstore/internal/vfs"
)

// tmpfs mounts a real file system of that many bytes, if this process may.
func tmpfs(t *testing.T, size int64) []disk {
	t.Helper()
	path := mount(t, fmt.Sprintf("size=%d", size))
	if path == "" {
		return nil
	}
	folder, err := vfs.Dir(filepath.Join(path, "data"))
	if err != nil {
		t.Fatal(err)
	}
	filler := filepath.Join(path, "filler")
	return []disk{{
		name: "tmpfs", folder: folder,
		take: func(t *testing.T) {
			f, err := os.Create(filler)
			if err != nil {
				t.Fatal(err)
			}
			page := make([]byte, 4096)
			for err == nil {
				_, err = f.Write(page)
			}
			if !errors.Is(err, syscall.ENOSPC) {
				t.Fatal(err)
			}
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
		},
		free: func(t *testing.T) {
			if err := os.Remove(filler); err != nil {
				t.Fatal(err)
			}
		},
	}}
}

// mount returns a new folder with a tmpfs in it, or nothing if this process may not
// mount any.
func mount(t *testing.T, options string) string {
	t.Helper()
	path := t.TempDir()
	err := syscall.Mount("tmpfs", path, "tmpfs", 0, options)
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EACCES) {
		t.Logf("no tmpfs: %v", err)
		return ""
	}
	if err != nil {
		t.Fatalf("mount: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(path, syscall.MNT_DETACH); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	return path
}

// TestReadOnlyFolder opens a store that it may read only.
func TestReadOnlyFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	readOnly := func() error { return os.Chmod(dir, 0o500) }
	writable := func() error { return os.Chmod(dir, 0o700) }
	if path := mount(t, ""); path != "" { // root writes where it likes, except there
		dir = filepath.Join(path, "data")
		readOnly = func() error { return syscall.Mount("", path, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, "") }
		writable = func() error { return syscall.Mount("", path, "", syscall.MS_REMOUNT, "") }
	}
	v := guest(6)
	synctest.Test(t, func(t *testing.T) {
		s, err := Open(dir, diskOptions())
		if err != nil {
			t.Fatal(err)
		}
		for i := range 100 {
			if err := v.create(t.Context(), s, idOf(i)); err != nil {
				t.Fatal(err)
			}
		}
		mustClose(t, s)
	})
	if err := readOnly(); err != nil {
		t.Fatal(err)
	}
	if s, err := Open(dir, diskOptions()); err == nil {
		t.Error("a store opens that cannot be written")
		_ = s.Close()
	} else if !errors.Is(err, syscall.EROFS) && !errors.Is(err, os.ErrPermission) {
		t.Errorf("the error does not say that it is read-only: %v", err)
	}
	if err := writable(); err != nil {
		t.Fatal(err)
	}
	s, err := Open(dir, diskOptions())
	if err != nil {
		t.Fatal(err)
	}
	defer mustClose(t, s)
	checkAll(t, s, v, "writable again")
}
