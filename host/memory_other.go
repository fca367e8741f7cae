//go:build !linux

package host

import gops "github.com/shirou/gopsutil/v4/process"

// privateMemory is how many bytes of memory the process with this PID has; 0 if that
// cannot be known. Private and shared memory are not told apart here.
func privateMemory(pid int, _ []int, _ int64) int64 {
	p, err := gops.NewProcess(int32(pid))
	if err != nil {
		return 0
	}
	m, err := p.MemoryInfo()
	if err != nil {
		return 0
	}
	return int64(m.RSS)
}

func processGroups() map[int][]int { return nil }

func startTime(int) int64 { return 0 }

// killRun does nothing: descendants that have left the process group are not known
// here.
func (p *process) killRun() {}
