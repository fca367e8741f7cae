package host

import (
	"os/exec"
	"syscall"
)

// detach makes cmd the leader of a process group, so that a Ctrl-C at the terminal
// is the host's alone and its descendants can be ended with it, and lets it die with
// the thread that starts it.
func detach(cmd *exec.Cmd) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
}
