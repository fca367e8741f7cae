//go:build !unix

package host

import (
	"errors"
	"net"
	"os"
	"os/exec"
)

func passListener(*exec.Cmd, net.Listener) (*os.File, error) {
	return nil, errors.New("sockets are not passed on here; workers listen on $PORT")
}
