//go:build !unix

package serve

import (
	"errors"
	"net"
	"os"
)

var errNoHandOver = errors.New("listeners cannot be handed to another process on this platform; stop the old one first")

func writeFiles(c *net.UnixConn, text []byte, files []*os.File) error { return errNoHandOver }

func readFiles(c *net.UnixConn, text []byte) (int, []*os.File, error) { return 0, nil, errNoHandOver }
