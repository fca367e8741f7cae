//go:build !linux

package servers

import "syscall"

// attributes leaves all as it is: only Linux ends a server with the process of the test.
func attributes(*serverOwner) *syscall.SysProcAttr { return nil }
