//go:build unix

package host

import (
	"fmt"
	"io"
	"log/slog"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"github.com/holdfast-session/holdfast/host/internal/control"
)

// A guard is a process that outlives a host which is killed, and ends the process
// groups of its workers: it reads them from a pipe that only the host can write to,
// and acts when the pipe ends. It is a few lines of shell, so that no program that has
// a host in it has to know what to do when it is started as a guard.
type guard struct {
	dir string // of the control socket, removed at the end
	log *slog.Logger

	mu     sync.Mutex
	groups map[int]bool
	pipe   io.WriteCloser // to the guard that runs; nil if none does
	closed bool
	done   chan struct{} // closed when the guard that runs has ended
}

// guardScript reads lines such as "+ 4711" and "- 4711", and "q 0" if there is nothing
// to do any more. At the end of its input it kills those groups, and on Linux every process that has the host's socket in its environment,
// which all descendants of a worker have.
const guardScript = `
trap '' HUP INT TERM PIPE
groups=' '
while read -r op group; do
	case $op in
	+) groups="$groups$group " ;;
	q) exit 0 ;;
	-) case $groups in *" $group "*) groups="${groups%% $group *} ${groups#* $group }" ;; esac ;;
	esac
done
for group in $groups; do kill -s KILL -- "-$group"; done
if [ -n "$1" ]; then
	for environ in /proc/[0-9]*/environ; do
		case " $(tr '\0' ' ' <"$environ") " in
		*" ` + control.HostVar + `=$1/"*)
			pid=${environ#/proc/}
			kill -s KILL "${pid%/environ}" ;;
		esac
	done
	rm -rf "$1"
fi
`

// newGuard starts a guard.
func newGuard(dir string, log *slog.Logger) *guard {
	g := &guard{dir: dir, log: log, groups: make(map[int]bool)}
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.start(); err != nil {
		log.Warn("no process can watch over this one; if it is killed, what its workers have started may stay", "err", err)
	}
	return g
}

// start starts the process. The caller holds mu.
func (g *guard) start() error {
	cmd := exec.Command("/bin/sh", "-c", guardScript, "holdfast-guard", g.dir)
	cmd.Env = []string{"PATH=/usr/bin:/bin"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a Ctrl-C is not for it
	pipe, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	g.pipe, g.done = pipe, make(chan struct{})
	for group := range g.groups {
		g.write('+', group)
	}
	go func() {
		_ = cmd.Wait()
		g.mu.Lock()
		defer g.mu.Unlock()
		close(g.done)
		g.pipe = nil
		if !g.closed {
			g.log.Error("the process that watches over this one was ended; starting it again", "pid", cmd.Process.Pid)
			time.AfterFunc(firstPause, g.restart)
		}
	}()
	return nil
}

func (g *guard) restart() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return
	}
	if err := g.start(); err != nil {
		time.AfterFunc(lastPause, g.restart)
	}
}

// write writes a line. The caller holds mu.
func (g *guard) write(op byte, group int) {
	if g.pipe != nil {
		_, _ = fmt.Fprintf(g.pipe, "%c %d\n", op, group) // if it is gone, a new one is told everything
	}
}

// add has the group ended with the host.
func (g *guard) add(group int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.groups[group] = true
	g.write('+', group)
}

// remove takes back what add said.
func (g *guard) remove(group int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.groups, group)
	g.write('-', group)
}

// close ends the guard when all workers have ended.
func (g *guard) close() {
	g.mu.Lock()
	g.closed = true
	g.write('q', 0)
	pipe, done := g.pipe, g.done
	g.mu.Unlock()
	if pipe != nil {
		pipe.Close()
		<-done
	}
}
