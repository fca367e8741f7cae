//go:build !linux

package main

import "os/exec"

// dieWithParent ends a server also when this program is killed; only Linux can.
func dieWithParent(*exec.Cmd) {}
