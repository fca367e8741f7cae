package servers

import "syscall"

// attributes makes a server run as owner, in a process group of its own, so that a
// Ctrl-C at the terminal is the test's alone, and end with the process of the test.
func attributes(owner *serverOwner) *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if owner != nil {
		a.Credential = &syscall.Credential{Uid: uint32(owner.uid), Gid: uint32(owner.gid)}
	}
	return a
}
