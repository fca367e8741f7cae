//go:build !unix

package stateserver

import "net"

// alive reports whether an idle connection is still open, as far as can be seen
// without sending, which here is not at all.
func alive(net.Conn) bool { return true }
