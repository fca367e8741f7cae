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

// A folder that is another's is what is wrong, not the port.
func TestServeInTheFolderOfAnother(t *testing.T) {
	dir, err := os.MkdirTemp("", "holdfast")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o555); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ args, want string }{
		{"--data " + dir, "this user cannot write to the data folder; change whose it is, or name another with --data: "},
		{"--memory --listen unix:" + dir + "/s.sock", "This user may make no socket in " + dir + "; change whose that is, or choose another path with --listen"},
	} {
		p := startWith(t, stranger(t), append([]string{"serve"}, strings.Fields(c.args)...)...)
		if p.wait() != 1 || !strings.Contains(p.stderr.String(), c.want) {
			t.Errorf("serve %s: status %d, %s", c.args, p.wait(), p.stderr)
		}
	}
}

func TestTakeoverFromAnother(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	p := start(t, "serve", "--listen", "127.0.0.1:0", "--data", dir)
	p.ready(ready)
	if os.Geteuid() != 0 {
		if err := os.Chmod(filepath.Join(dir, "control.sock"), 0); err != nil {
			t.Fatal(err)
		}
	}
	q := startWith(t, stranger(t), "serve", "--listen", "127.0.0.1:0", "--data", dir, "--takeover")
	if q.wait() != 1 || !strings.Contains(q.stderr.String(), "taking over: this user may not ask the server that has the folder; run this as the user that it runs as") {
		t.Errorf("status %d, %s", q.wait(), q.stderr)
	}
}
