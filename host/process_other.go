//go:build !unix

package host

import "os/exec"

func detach(*exec.Cmd) {}

// terminate ends p. There is no signal that asks for it here.
func (p *process) terminate() { p.kill() }

func (p *process) kill() { _ = p.cmd.Process.Kill() }
