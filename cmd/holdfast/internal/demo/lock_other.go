//go:build !(darwin || dragonfly || freebsd || illumos || linux || netbsd || openbsd)

package demo

import (
	"errors"
	"os"
)

func lock(*os.File) error { return errors.ErrUnsupported }
