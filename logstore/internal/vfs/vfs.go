// Package vfs is the file system as a log needs it: one folder, plain files, and
// the calls that make them durable. [Dir] is the real one; [Mem] is one in memory
// that remembers what was synced, so that a test can cut its power, fail any call
// and run out of space.
package vfs

import (
	"errors"
	"io"
)

// ErrInUse means that another process, or another user in this one, holds the
// folder's lock.
var ErrInUse = errors.New("folder is in use by another process")

// An FS is one folder. Names are names of plain files in it, without separators.
// Its methods are safe for concurrent use.
//
// Errors match fs.ErrExist, fs.ErrNotExist, fs.ErrPermission and fs.ErrClosed as
// those of package os do; [IsFull] tells an error of a full disk.
type FS interface {
	// Create makes a new, empty file for reading and writing. A file that is there
	// is fs.ErrExist. The name is durable after SyncDir.
	Create(name string) (File, error)
	// Open opens a file for reading and writing; where that is not permitted, for
	// reading only. A file that is not there is fs.ErrNotExist.
	Open(name string) (File, error)
	// Remove removes the name. Whoever has the file open keeps it, except on
	// Windows, where an open file can be neither removed nor renamed. Durable after
	// SyncDir.
	Remove(name string) error
	// Rename gives a file another name, at one moment, in place of a file that has
	// that name already. Durable after SyncDir.
	Rename(from, to string) error
	// List returns the plain files, sorted by name.
	List() ([]Info, error)
	// SyncDir makes all creations, removals and renames before it durable.
	SyncDir() error
	// Lock takes the folder for this process until the Closer is closed or the
	// process ends, however it ends. While another has it: [ErrInUse]. The file
	// that it is taken on is called "lock" and stays.
	Lock() (io.Closer, error)
}

// A File is an open file. Its methods are safe for concurrent use, except that
// Close must wait until the others have returned.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	// Size returns the length in bytes.
	Size() (int64, error)
	// Truncate sets the length: what is behind it is gone, what is new is zeros.
	Truncate(size int64) error
	// Allocate grows the file to size bytes with zeros, if it is shorter, and
	// reserves the blocks, so that a WriteAt inside does not run out of space (on
	// file systems that overwrite in place). When it fails the file may have grown.
	Allocate(size int64) error
	// Sync makes the content and the length durable. After an error nothing is
	// known of what was written since the last Sync that succeeded, and a later
	// Sync that succeeds says nothing about it either.
	Sync() error
}

// Info is one file of a folder.
type Info struct {
	Name string
	Size int64 // bytes
}
