//go:build darwin || dragonfly || freebsd || illumos || linux || netbsd || openbsd

package demo

import (
	"os"
	"syscall"
)

// lock takes a lock that ends with f, also if the process is killed. It fails if another
// has it.
func lock(f *os.File) error { return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) }
