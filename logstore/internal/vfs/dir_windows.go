package vfs

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"syscall"
)

// syncDir has nothing to do: NTFS journals names in order, and a folder cannot be
// flushed.
func syncDir(string) error { return nil }

const (
	errorHandleDiskFull   syscall.Errno = 39
	errorDiskFull         syscall.Errno = 112
	errorSharingViolation syscall.Errno = 32
)

// IsFull reports whether err says that the disk, or the user's share of it, is
// full.
func IsFull(err error) bool {
	return errors.Is(err, errorDiskFull) || errors.Is(err, errorHandleDiskFull) || errors.Is(err, syscall.ENOSPC)
}

// isReadOnly reports whether err says that a file cannot be written.
func isReadOnly(err error) bool { return errors.Is(err, fs.ErrPermission) }

// lock opens the file without sharing it: nobody else can open it until this
// process closes it or ends.
func lock(path string) (io.Closer, error) {
	name, err := syscall.UTF16PtrFromString(path)
	if err != nil {
		return nil, err
	}
	h, err := syscall.CreateFile(name, syscall.GENERIC_READ|syscall.GENERIC_WRITE, 0, nil,
		syscall.OPEN_ALWAYS, syscall.FILE_ATTRIBUTE_NORMAL, 0)
	if err == errorSharingViolation {
		return nil, ErrInUse
	}
	if err != nil {
		return nil, &os.PathError{Op: "lock", Path: path, Err: err}
	}
	return os.NewFile(uintptr(h), path), nil
}
