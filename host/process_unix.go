//go:build unix

package host

import "syscall"

// terminate asks p and its descendants to end.
func (p *process) terminate() { _ = syscall.Kill(-p.pid, syscall.SIGTERM) }

// kill ends p and its descendants. That there are none is no error.
func (p *process) kill() { _ = syscall.Kill(-p.pid, syscall.SIGKILL) }
