//go:build unix

package stateserver

import (
	"io"
	"net"
	"os"
	"syscall"
)

// rawConn returns what readNow needs of nc, or nil: what wraps a connection has more
// to do with each byte than the kernel knows of.
func rawConn(nc net.Conn) syscall.RawConn {
	var raw syscall.RawConn
	switch nc := nc.(type) {
	case *net.TCPConn:
		raw, _ = nc.SyscallConn()
	case *net.UnixConn:
		raw, _ = nc.SyscallConn()
	}
	return raw
}

// readNow reads what is there into the empty buffer. It reports false if nothing is
// there yet, and then the connection has no buffers any more.
func (c *conn) readNow(fd uintptr) bool {
	if c.buffers == nil {
		c.unpark()
	}
	for {
		n, err := syscall.Read(int(fd), c.in)
		switch {
		case err == syscall.EINTR:
			continue
		case err == syscall.EAGAIN:
			c.park()
			return false
		case err != nil:
			c.err = os.NewSyscallError("read", err)
		case n == 0:
			c.err = io.EOF
		default:
			c.w = n
		}
		return true
	}
}
