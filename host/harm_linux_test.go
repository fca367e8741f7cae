package host_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A host that has nothing to do does nothing.
func TestIdleHostUsesNoProcessor(t *testing.T) {
	t.Parallel()
	h := startHost(t, "", "")
	used := func() time.Duration {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", h.cmd.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		f := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
		user, _ := strconv.Atoi(string(f[11]))
		system, _ := strconv.Atoi(string(f[12]))
		return time.Duration(user+system) * 10 * time.Millisecond
	}
	settled := time.After(500 * time.Millisecond)
	<-settled
	before := used()
	<-time.After(3 * time.Second)
	if spent := used() - before; spent > 60*time.Millisecond {
		t.Errorf("%s of processor time in 3 s", spent)
	}
}

// The process that watches over the host may be killed, too.
func TestGuardIsKilled(t *testing.T) {
	t.Parallel()
	h := startHost(t, "", "")
	guards := func() (pids []int) {
		names, _ := filepath.Glob("/proc/[0-9]*/stat")
		for _, name := range names {
			stat, _ := os.ReadFile(name)
			f := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
			cmdline, _ := os.ReadFile(filepath.Join(filepath.Dir(name), "cmdline"))
			if len(f) > 1 && f[1] == fmt.Sprint(h.cmd.Process.Pid) && bytes.Contains(cmdline, []byte("holdfast-guard")) {
				pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(name)))
				pids = append(pids, pid)
			}
		}
		return pids
	}
	first := guards()
	if len(first) != 1 {
		t.Fatalf("guards: %v", first)
	}
	if err := syscall.Kill(first[0], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "there is another", func() bool { now := guards(); return len(now) == 1 && now[0] != first[0] && alive(now[0]) })
	if err := h.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = h.cmd.Wait()
	for _, pid := range h.pids {
		eventually(t, "the worker ends", func() bool { return !alive(pid) })
	}
}
