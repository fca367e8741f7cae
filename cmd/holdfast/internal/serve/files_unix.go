//go:build unix

package serve

import (
	"net"
	"os"
	"syscall"
)

// maxFiles is how many descriptors go with one message: what Linux allows.
const maxFiles = 253

// writeFiles writes text, with the descriptors of files beside its first byte.
func writeFiles(c *net.UnixConn, text []byte, files []*os.File) error {
	var fds []int
	for _, f := range files {
		// Not by Fd, which would make the listener block in both processes.
		raw, err := f.SyscallConn()
		if err != nil {
			return err
		}
		if err := raw.Control(func(fd uintptr) { fds = append(fds, int(fd)) }); err != nil {
			return err
		}
	}
	var rights []byte
	if len(fds) > 0 {
		rights = syscall.UnixRights(fds...)
	}
	n, _, err := c.WriteMsgUnix(text, rights, nil)
	if err == nil && n < len(text) {
		_, err = c.Write(text[n:])
	}
	return err
}

// readFiles reads into text, and what descriptors came along.
func readFiles(c *net.UnixConn, text []byte) (n int, files []*os.File, err error) {
	rights := make([]byte, syscall.CmsgSpace(4*maxFiles))
	n, nr, _, _, err := c.ReadMsgUnix(text, rights)
	if err != nil {
		return n, nil, err
	}
	messages, err := syscall.ParseSocketControlMessage(rights[:nr])
	if err != nil {
		return n, nil, err
	}
	for _, m := range messages {
		fds, err := syscall.ParseUnixRights(&m)
		if err != nil {
			return n, files, err
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "handed over"))
		}
	}
	return n, files, nil
}
