//go:build unix

package stateserver

import (
	"io"
	"net"
	"os"
	"syscall"
)

// rawConn returns what turn needs of nc, or nil: what wraps a connection has more
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

// turn reads what is there into the empty buffer, and reports false to be called when
// there is more. While there is nothing, the connection has no buffers.
//
// What a Holdfast client asks for is answered here and not by serve, so that the next
// wait begins without a read that finds nothing: a read that did not fill the buffer
// has emptied the socket, and whatever comes after it wakes the poller, which tells of
// changes, once more (see epoll(7), "edge-triggered"). Only the end of a connection
// that came together with the last request is not told of; a client of ours that goes
// away does not wait for an answer, and our writing it to nobody is told of.
func (c *conn) turn(fd uintptr) bool {
	if c.buffers == nil {
		c.unpark()
	}
	n, err := syscall.Read(int(fd), c.in)
	for err == syscall.EINTR {
		n, err = syscall.Read(int(fd), c.in)
	}
	if err == syscall.EAGAIN {
		c.park()
		return false
	}
	switch {
	case err != nil:
		err = os.NewSyscallError("read", err)
	case n == 0:
		err = io.EOF
	default:
		c.w = n
	}
	if !c.wake() {
		c.w = 0
		return true
	}
	if !c.got(c.w, err) || c.w == len(c.in) || !c.marked {
		return true
	}
	if !c.deal(false) || c.r < c.w || !c.rest() {
		return true
	}
	c.park()
	return false
}
