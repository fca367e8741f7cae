//go:build unix

package stateserver

import (
	"net"
	"syscall"
)

// alive reports whether an idle connection is still open, as far as can be seen
// without sending: nothing is there to be read, not even its end. A request that is
// sent on a closed connection would be one whose outcome nobody knows. A read deadline
// that has passed looks like the end: clear it before.
func alive(nc net.Conn) bool {
	if t, ok := nc.(interface{ NetConn() net.Conn }); ok { // TLS
		nc = t.NetConn()
	}
	sc, ok := nc.(syscall.Conn)
	if !ok {
		return true
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return false
	}
	open := false
	err = raw.Read(func(fd uintptr) bool {
		var b [1]byte
		_, err := syscall.Read(int(fd), b[:])
		open = err == syscall.EAGAIN || err == syscall.EINTR
		return true
	})
	return err == nil && open
}
