//go:build !unix

package host_test

import (
	"os"
	"os/exec"
)

func leaveGroup(*exec.Cmd) {}

// alive reports whether pid runs.
func alive(pid int) bool {
	p, err := os.FindProcess(pid)
	if err != nil {
		return false
	}
	p.Release()
	return true
}
