package load

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// What the kernel knows about the server's process. All of it is Linux's /proc:
// elsewhere these functions fail, and figures of the server are left out.

var errNoProc = fmt.Errorf("load: the CPU time of another process is known on Linux only, not on %s", runtime.GOOS)

// CPUTime returns the processor time that a process has had, user and system. It
// adds up what the scheduler counted, in nanoseconds, for the threads that live; a
// kernel that does not count that way has the ticks of 10 ms.
func CPUTime(pid int) (time.Duration, error) {
	if runtime.GOOS != "linux" {
		return 0, errNoProc
	}
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil {
		return 0, err
	}
	var sum time.Duration
	for _, name := range threads {
		b, err := os.ReadFile(name)
		if err != nil {
			continue // the thread is gone
		}
		running, _, _ := bytes.Cut(b, []byte(" "))
		n, err := strconv.ParseInt(string(running), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("load: %s: %w", name, err)
		}
		sum += time.Duration(n)
	}
	if sum > 0 {
		return sum, nil
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("load: process %d: %w", pid, err)
	}
	// The name, in parentheses, may hold anything; utime and stime are the 12th and
	// 13th field behind it.
	f := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(f) < 13 {
		return 0, fmt.Errorf("load: /proc/%d/stat has %d fields", pid, len(f))
	}
	const tick = 10 * time.Millisecond
	for _, field := range f[11:13] {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("load: /proc/%d/stat: %w", pid, err)
		}
		sum += time.Duration(n) * tick
	}
	return sum, nil
}

// Resident returns how many bytes of memory a process has.
func Resident(pid int) (int64, error) {
	if runtime.GOOS != "linux" {
		return 0, errNoProc
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			n, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return n << 10, err
		}
	}
	return 0, fmt.Errorf("load: process %d has no VmRSS", pid)
}

// ErrNoProcess means that no process of this machine was found that listens on an
// address, or none that this user may look at.
var ErrNoProcess = errors.New("load: no process found that listens there")

// ListenerPID finds the process of this machine that listens on an address, as
// package net writes it.
func ListenerPID(network, address string) (int, error) {
	if runtime.GOOS != "linux" {
		return 0, errNoProc
	}
	var inodes map[string]bool
	if network == "unix" {
		inodes = listeningUnix(address)
	} else {
		host, port, err := net.SplitHostPort(address)
		if err != nil {
			return 0, err
		}
		if !onThisMachine(host) {
			return 0, ErrNoProcess
		}
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil {
			return 0, err
		}
		inodes = listeningTCP(uint16(n))
	}
	if len(inodes) == 0 {
		return 0, ErrNoProcess
	}
	links, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return 0, err
	}
	for _, link := range links {
		target, err := os.Readlink(link)
		if err != nil {
			continue
		}
		if inode, ok := strings.CutPrefix(target, "socket:["); ok && inodes[strings.TrimSuffix(inode, "]")] {
			return strconv.Atoi(strings.Split(link, "/")[2])
		}
	}
	return 0, ErrNoProcess
}

// onThisMachine reports whether host is one of this machine's addresses.
func onThisMachine(host string) bool {
	if host == "" || host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	if ip == nil {
		return false
	}
	if ip.IsLoopback() || ip.IsUnspecified() {
		return true
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.Equal(ip) {
			return true
		}
	}
	return false
}

// listeningTCP returns the inodes of the sockets that listen on port.
func listeningTCP(port uint16) map[string]bool {
	const listening = "0A"
	inodes := make(map[string]bool)
	for _, name := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		eachLine(name, func(f []string) {
			// sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode
			if len(f) > 9 && f[3] == listening && strings.HasSuffix(f[1], fmt.Sprintf(":%04X", port)) {
				inodes[f[9]] = true
			}
		})
	}
	return inodes
}

// listeningUnix returns the inodes of the sockets that listen on path.
func listeningUnix(path string) map[string]bool {
	const accepting = "00010000" // the flag __SO_ACCEPTCON
	inodes := make(map[string]bool)
	eachLine("/proc/net/unix", func(f []string) {
		// Num RefCount Protocol Flags Type St Inode Path
		if len(f) > 7 && f[3] == accepting && f[7] == path {
			inodes[f[6]] = true
		}
	})
	return inodes
}

func eachLine(name string, do func(fields []string)) {
	file, err := os.Open(name)
	if err != nil {
		return
	}
	defer file.Close()
	for s := bufio.NewScanner(file); s.Scan(); {
		do(strings.Fields(s.Text()))
	}
}
