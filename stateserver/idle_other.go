//go:build !unix

package stateserver

import (
	"net"
	"syscall"
)

// rawConn returns nil: an idle connection keeps its buffers here.
func rawConn(net.Conn) syscall.RawConn { return nil }

func (c *conn) turn(uintptr) bool { return true }
