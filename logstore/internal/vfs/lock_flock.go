//go:build darwin || dragonfly || freebsd || illumos || linux || netbsd || openbsd

package vfs

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// lock takes a BSD lock: it belongs to the open file, not to the process, so it
// also keeps a second user in this process out, and the kernel releases it when
// the process ends. The number of the process in the file is for people only.
func lock(path string) (io.Closer, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err != syscall.EINTR {
			break
		}
	}
	switch err {
	case nil:
		// A full disk must not keep the lock from being taken.
		if f.Truncate(0) == nil {
			_, _ = f.WriteAt(strconv.AppendInt(nil, int64(os.Getpid()), 10), 0)
		}
		return f, nil
	case syscall.EWOULDBLOCK:
		err = ErrInUse
		var pid [20]byte
		if n, _ := f.ReadAt(pid[:], 0); n > 0 {
			err = fmt.Errorf("%w (pid %s)", ErrInUse, strings.TrimSpace(string(pid[:n])))
		}
	default:
		err = &os.PathError{Op: "flock", Path: path, Err: err}
	}
	return nil, errors.Join(err, f.Close())
}
