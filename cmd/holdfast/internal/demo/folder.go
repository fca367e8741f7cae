package demo

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
)

// The names of demos' folders, and what they begin with before their lock is held.
const (
	folderPrefix    = "holdfast-demo-"
	newFolderPrefix = "holdfast-new-demo-"
)

// newFolder makes a folder for this demo, and removes those of demos that were killed:
// each demo that runs holds the lock of its own. remove is for the end.
func newFolder() (dir string, remove func(), err error) {
	removeFolders()
	made, err := os.MkdirTemp("", newFolderPrefix)
	if err != nil {
		return "", nil, err
	}
	held, err := os.Open(made)
	if err != nil {
		return "", nil, errors.Join(err, os.Remove(made))
	}
	if lock(held) != nil { // where there are no locks, nothing is removed
		held.Close()
	}
	dir = filepath.Join(filepath.Dir(made), strings.Replace(filepath.Base(made), newFolderPrefix, folderPrefix, 1))
	if err := os.Rename(made, dir); err != nil {
		held.Close()
		return "", nil, errors.Join(err, os.Remove(made))
	}
	return dir, func() {
		os.RemoveAll(dir)
		held.Close()
	}, nil
}

// removeFolders removes the folders whose demos have ended, as far as this user may.
func removeFolders() {
	all, _ := filepath.Glob(filepath.Join(os.TempDir(), folderPrefix+"*"))
	for _, dir := range all {
		if info, err := os.Lstat(dir); err != nil || !info.IsDir() {
			continue
		}
		f, err := os.Open(dir)
		if err != nil {
			continue
		}
		if lock(f) == nil {
			os.RemoveAll(dir)
		}
		f.Close()
	}
}
