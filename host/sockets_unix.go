//go:build unix

package host

import (
	"errors"
	"net"
	"os"
	"os/exec"
)

// passListener makes cmd start with l as descriptor 3, by systemd's convention. The
// variable that has the worker's own PID can only be set by the worker's process, so
// a shell does that before it becomes the worker. What is returned is closed after the
// start.
func passListener(cmd *exec.Cmd, l net.Listener) (*os.File, error) {
	if len(cmd.ExtraFiles) > 0 {
		return nil, errors.New("the command has files of its own where the socket is to be")
	}
	if cmd.Err != nil {
		return nil, cmd.Err
	}
	f, err := l.(*net.TCPListener).File()
	if err != nil {
		return nil, err
	}
	cmd.ExtraFiles = []*os.File{f}
	cmd.Env = append(cmd.Env, "LISTEN_FDS=1", "LISTEN_FDNAMES=http")
	cmd.Args = append([]string{"sh", "-c", `LISTEN_PID=$$; export LISTEN_PID; exec "$0" "$@"`, cmd.Path}, cmd.Args[1:]...)
	cmd.Path = "/bin/sh"
	return f, nil
}
