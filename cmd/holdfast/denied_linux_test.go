package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// nobody is a user whom folders of mode 0700 keep out.
const nobody = 65534

// stranger makes cmd run as nobody if we are root, whom no folder keeps out. The program
// is run by a descriptor, because the folder that it is in is root's, too.
func stranger(t *testing.T) func(cmd *exec.Cmd) {
	t.Helper()
	return func(cmd *exec.Cmd) {
		if os.Geteuid() != 0 {
			return
		}
		program, err := os.Open("/proc/self/exe")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { program.Close() })
		cmd.ExtraFiles = []*os.File{program}
		cmd.Path = "/proc/self/fd/3"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
}

// Who may not ask a host hears that, and not that there is none.
func TestHostOfAnother(t *testing.T) {
	state := filepath.Join(t.TempDir(), "host-app")
	if err := os.Mkdir(state, 0o700); err != nil {
		t.Fatal(err)
	}
	p := start(t, "host", "--state", state, "--name", "app", "--listen", "127.0.0.1:0", "--", "/bin/sleep", "600")
	p.ready("holdfast: app on ")
	if os.Geteuid() != 0 {
		if err := os.Chmod(filepath.Join(state, "admin.sock"), 0); err != nil {
			t.Fatal(err)
		}
	}
	for _, command := range []string{"status", "recycle"} {
		q := startWith(t, stranger(t), "host", command, "--state", state)
		// (Whoever has the folder sees the journal all the same.)
		if q.wait(); !strings.Contains(q.stderr.String(), "permission denied; ask as the user that it runs as") {
			t.Errorf("%s: status %d, %s", command, q.wait(), q.stderr)
		}
	}
}
