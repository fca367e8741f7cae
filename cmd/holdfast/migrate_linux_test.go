package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
	"unsafe"
)

// terminal returns the two ends of a pseudo-terminal.
func terminal(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close() })
	ioctl := func(request uintptr, n *int32) {
		if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, master.Fd(), request, uintptr(unsafe.Pointer(n))); errno != 0 {
			t.Fatal(errno)
		}
	}
	var number int32
	ioctl(syscall.TIOCSPTLCK, &number) // unlocks it
	ioctl(syscall.TIOCGPTN, &number)
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { slave.Close() })
	return master, slave
}

// TestMigrateOnATerminal: there it draws a bar, on one line.
func TestMigrateOnATerminal(t *testing.T) {
	one, old := stateServer(t)
	two, _ := stateServer(t)
	c := group{t: t}
	c.begin(old, "/shop", 100)
	master, slave := terminal(t)
	shown := make(chan string)
	go func() {
		text, _ := io.ReadAll(master) // ends with an error, when the other end is closed
		shown <- string(text)
	}()
	var out bytes.Buffer
	status := run([]string{"migrate", "--yes", "--rate", "200", "--from", "stateserver://" + one, "--to", "stateserver://" + two}, &out, slave)
	slave.Close()
	got := <-shown
	if status != 0 || !strings.HasSuffix(got, "\r\x1b[K[============================] 100 of 100 moved\r\n") {
		t.Errorf("status %d, and at last %q", status, got)
	}
	if n := strings.Count(got, "\r\x1b[K["); n < 3 || strings.Count(got, "\n") != 1 {
		t.Errorf("it drew %d times: %q", n, got)
	}
	if got := out.String(); got != "100 sessions moved, 0 gone before their turn came, 0 still in use\n" {
		t.Errorf("standard output: %q", got)
	}
}
