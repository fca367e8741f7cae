// Package memlimit tells how much memory this process can have.
package memlimit

import (
	"io/fs"
	"math"
	"os"
	"path"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
)

// Process returns how many bytes of memory this process can have: the least of the
// machine's, those of its control groups, and GOMEMLIMIT, as they were at the first
// call; 4 GiB where none is known (Linux tells them all, others the last).
var Process = sync.OnceValue(func() int64 { return memory(os.DirFS("/")) })

// Machine returns the memory of the machine or, where they have less, of the control
// groups of this process; 0 where that is not known.
func Machine() int64 {
	root := os.DirFS("/")
	if machine := meminfo(root); machine > 0 {
		return min(machine, cgroupMemory(root))
	}
	return 0
}

// unknownMemory stands for the memory of a machine that does not tell.
const unknownMemory = 4 << 30

// memory returns how many bytes of memory this process can have: the smallest of the
// machine's, those of its control groups, and GOMEMLIMIT. root is the machine's file
// system; where it is not Linux's, only GOMEMLIMIT is known.
func memory(root fs.FS) int64 {
	limit := debug.SetMemoryLimit(-1)
	machine := meminfo(root)
	if machine == 0 && limit == math.MaxInt64 {
		return unknownMemory
	}
	if machine > 0 {
		limit = min(limit, machine)
	}
	return min(limit, cgroupMemory(root))
}

// meminfo returns the machine's memory, or 0.
func meminfo(root fs.FS) int64 {
	text, _ := fs.ReadFile(root, "proc/meminfo")
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == "MemTotal:" {
			kB, _ := strconv.ParseInt(f[1], 10, 64)
			return kB << 10
		}
	}
	return 0
}

// cgroupMemory returns the smallest limit of the control groups that the process is
// in, of version 2 or 1, or what is no limit. Inside a container, the group's path
// may be one that is only known outside; its own limit is then at the top.
func cgroupMemory(root fs.FS) int64 {
	limit := int64(math.MaxInt64)
	text, _ := fs.ReadFile(root, "proc/self/cgroup")
	for line := range strings.Lines(string(text)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3) // number, controllers, path
		if len(f) < 3 {
			continue
		}
		mount, file := "sys/fs/cgroup", "memory.max"
		switch {
		case f[1] == "":
		case strings.Contains(","+f[1]+",", ",memory,"):
			mount, file = "sys/fs/cgroup/memory", "memory.limit_in_bytes"
		default:
			continue
		}
		for dir := path.Clean("/" + f[2]); ; dir = path.Dir(dir) {
			text, _ := fs.ReadFile(root, path.Join(mount, dir, file))
			if n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64); err == nil && n > 0 { // not "max"
				limit = min(limit, n)
			}
			if dir == "/" {
				break
			}
		}
	}
	return limit
}
