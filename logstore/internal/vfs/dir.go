package vfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Dir returns the folder at path, which it makes (mode 0700) if it is not there. Its own
// name is durable then.
func Dir(path string) (FS, error) {
	path, err := filepath.Abs(path) // the process may change its directory
	if err != nil {
		return nil, err
	}
	if err := makeDir(path, syncDir); err != nil {
		return nil, err
	}
	return dir(path), nil
}

// makeDir makes a folder, and those above it that are not there, each durable in the one
// above it: what is synced in a folder whose name is lost is lost with it.
func makeDir(path string, sync func(path string) error) error {
	_, err := os.Stat(path)
	above := filepath.Dir(path)
	isNew := errors.Is(err, fs.ErrNotExist) && above != path
	if isNew {
		if err := makeDir(above, sync); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(path, 0o700); err != nil || !isNew {
		return err
	}
	if err := sync(above); err != nil && !errors.Is(err, fs.ErrPermission) { // a folder may be one to write to, and not to read
		return err
	}
	return nil
}

type dir string

func (d dir) path(name string) string { return filepath.Join(string(d), name) }

func (d dir) Create(name string) (File, error) {
	f, err := os.OpenFile(d.path(name), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	return file{f}, nil
}

func (d dir) Open(name string) (File, error) {
	f, err := os.OpenFile(d.path(name), os.O_RDWR, 0)
	if isReadOnly(err) {
		f, err = os.Open(d.path(name))
	}
	if err != nil {
		return nil, err
	}
	return file{f}, nil
}

func (d dir) Remove(name string) error     { return os.Remove(d.path(name)) }
func (d dir) Rename(from, to string) error { return os.Rename(d.path(from), d.path(to)) }
func (d dir) SyncDir() error               { return syncDir(string(d)) }

func (d dir) List() ([]Info, error) {
	entries, err := os.ReadDir(string(d))
	if err != nil {
		return nil, err
	}
	list := make([]Info, 0, len(entries))
	for _, e := range entries {
		if !e.Type().IsRegular() {
			continue
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed meanwhile
		}
		if err != nil {
			return nil, err
		}
		list = append(list, Info{Name: e.Name(), Size: info.Size()})
	}
	return list, nil
}

func (d dir) Lock() (io.Closer, error) {
	c, err := lock(d.path("lock"))
	if errors.Is(err, ErrInUse) {
		return nil, fmt.Errorf("%s: %w", string(d), err)
	}
	return c, err
}

// file is an os.File, whose methods are all there already but these.
type file struct{ *os.File }

func (f file) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

func (f file) Sync() error { return datasync(f.File) }

func (f file) Allocate(size int64) error {
	have, err := f.Size()
	if err != nil || have >= size {
		return err
	}
	err = allocate(f.File, size)
	if errors.Is(err, errors.ErrUnsupported) {
		return f.fill(have, size)
	}
	return err
}

// fill writes zeros, which reserves their blocks on any file system.
func (f file) fill(from, to int64) error {
	zeros := make([]byte, min(to-from, 256<<10))
	for from < to {
		n, err := f.WriteAt(zeros[:min(int64(len(zeros)), to-from)], from)
		if err != nil {
			return err
		}
		from += int64(n)
	}
	return nil
}
