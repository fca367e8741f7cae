package memlimit

import (
	"runtime/debug"
	"testing"
	"testing/fstest"
)

func TestMemoryOfTheMachine(t *testing.T) {
	file := func(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }
	const meminfo = "MemTotal:       16384000 kB\nMemFree:         4503 kB\n"
	const machine = 16384000 << 10
	for _, c := range []struct {
		name string
		root fstest.MapFS
		want int64
	}{
		{"not Linux", fstest.MapFS{}, unknownMemory},
		{"no groups", fstest.MapFS{"proc/meminfo": file(meminfo)}, machine},
		{"damaged", fstest.MapFS{
			"proc/meminfo":             file("MemTotal:\nMemTotal: x kB\n"),
			"proc/self/cgroup":         file("0:\n:::\n"),
			"sys/fs/cgroup/memory.max": file("-5"),
		}, unknownMemory},
		{"version 2 without a limit", fstest.MapFS{
			"proc/meminfo":               file(meminfo),
			"proc/self/cgroup":           file("0::/app\n"),
			"sys/fs/cgroup/app/cpu.stat": file(""), "sys/fs/cgroup/app/memory.max": file("max\n"),
		}, machine},
		{"version 2 with limits on the way", fstest.MapFS{
			"proc/meminfo":                       file(meminfo),
			"proc/self/cgroup":                   file("0::/a/b/c\n"),
			"sys/fs/cgroup/a/b/c/memory.max":     file("4000000000\n"),
			"sys/fs/cgroup/a/memory.max":         file("3000000000\n"),
			"sys/fs/cgroup/elsewhere/memory.max": file("1000\n"),
		}, 3000000000},
		{"version 2 in a container", fstest.MapFS{
			"proc/meminfo":             file(meminfo),
			"proc/self/cgroup":         file("0::/\n"),
			"sys/fs/cgroup/memory.max": file("268435456\n"),
		}, 268435456},
		{"version 1 with a path of outside", fstest.MapFS{
			"proc/meminfo":     file(meminfo),
			"proc/self/cgroup": file("5:cpu,cpuacct:/docker/1f\n4:memory:/docker/1f\n1:name=systemd:/docker/1f\n"),
			"sys/fs/cgroup/memory/memory.limit_in_bytes": file("536870912\n"),
		}, 536870912},
		{"version 1 without a limit", fstest.MapFS{
			"proc/meminfo":     file(meminfo),
			"proc/self/cgroup": file("4:memory:/a\n"),
			"sys/fs/cgroup/memory/a/memory.limit_in_bytes": file("9223372036854771712\n"),
		}, machine},
	} {
		if got := memory(c.root); got != c.want {
			t.Errorf("%s: %d bytes, want %d", c.name, got, c.want)
		}
	}
	if got := Process(); got < 1<<20 || got > 1<<50 {
		t.Errorf("this process can have %d bytes", got)
	}

	limit := debug.SetMemoryLimit(2 << 30)
	defer debug.SetMemoryLimit(limit)
	if got := memory(fstest.MapFS{"proc/meminfo": file(meminfo)}); got != 2<<30 {
		t.Errorf("with GOMEMLIMIT at 2 GiB: %d bytes", got)
	}
	if got := memory(fstest.MapFS{}); got != 2<<30 {
		t.Errorf("elsewhere, with GOMEMLIMIT at 2 GiB: %d bytes", got)
	}
}
