package host

import (
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/holdfast-session/holdfast/host/internal/control"
)

// privateMemory is how many bytes only the process with this PID and the others of its
// group use; 0 if that cannot be known. From doubt on, it is exact: what a process
// shares with the one that it was forked from is left out.
func privateMemory(pid int, group []int, doubt int64) int64 {
	total := func(of func(pid int) int64) int64 {
		sum := of(pid)
		for _, member := range group {
			if member != pid {
				sum += of(member)
			}
		}
		return sum
	}
	// The kernel goes through all pages for the exact figure.
	if n := total(unbacked); n < doubt {
		return n
	}
	return total(private)
}

// unbacked is what a process has in memory that no file backs: a little more than what
// it has for itself alone.
func unbacked(pid int) int64 {
	f := strings.Fields(procFile(pid, "statm")) // size resident shared text lib data dt, in pages
	if len(f) < 3 {
		return 0
	}
	resident, _ := strconv.ParseInt(f[1], 10, 64)
	shared, _ := strconv.ParseInt(f[2], 10, 64)
	return (resident - shared) * int64(os.Getpagesize())
}

// private is what only this process has in memory.
func private(pid int) int64 {
	rollup := procFile(pid, "smaps_rollup")
	if rollup == "" { // not allowed, or an old kernel
		return unbacked(pid)
	}
	var sum int64
	for line := range strings.Lines(rollup) {
		if f := strings.Fields(line); len(f) == 3 && strings.HasPrefix(f[0], "Private_") {
			kB, _ := strconv.ParseInt(f[1], 10, 64)
			sum += kB << 10
		}
	}
	return sum
}

func procFile(pid int, name string) string {
	text, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/" + name)
	return string(text)
}

// processGroups returns the members of every process group.
func processGroups() map[int][]int {
	groups := make(map[int][]int)
	for _, pid := range allProcesses() {
		if group := statField(pid, statGroup); group > 0 {
			groups[int(group)] = append(groups[int(group)], pid)
		}
	}
	return groups
}

// Fields of /proc/PID/stat, from the one behind the name on.
const (
	statGroup = 2  // process group
	statStart = 19 // when it was started, in ticks since the machine was
)

// statField is a field of a process; 0 if there is none.
func statField(pid, field int) int64 {
	stat := procFile(pid, "stat")
	f := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:]) // the name may have anything in it
	if len(f) <= field {
		return 0
	}
	n, _ := strconv.ParseInt(f[field], 10, 64)
	return n
}

// allProcesses are the PIDs of this machine, or container.
func allProcesses() []int {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(-1)
	var pids []int
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// startTime is when a process was started, by a clock of the system's own.
func startTime(pid int) int64 { return statField(pid, statStart) }

// killRun ends what p has started and what has left its process group: a descendant is
// known by the environment that it has inherited. Only younger processes are asked for
// theirs, since the answer may have to wait for one that is busy.
func (p *process) killRun() {
	mark := "\x00" + control.RunVar + "=" + p.run + "\x00"
	for _, pid := range allProcesses() {
		if startTime(pid) >= p.started && strings.Contains("\x00"+procFile(pid, "environ"), mark) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}
