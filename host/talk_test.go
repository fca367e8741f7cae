package host_test

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-session/holdfast/host"
	"github.com/holdfast-session/holdfast/host/internal/control"
)

// liveVar is how many sessions a talker says it has.
const liveVar = "HOLDFAST_HOST_TEST_LIVE"

// sayHello connects a worker to its host.
func sayHello() *control.Link {
	conn, err := net.Dial("unix", os.Getenv(control.HostVar))
	if err != nil {
		fmt.Println(err)
		os.Exit(2)
	}
	link := control.NewLink(conn)
	link.Send(control.Message{Kind: control.Hello, Run: os.Getenv(control.RunVar)})
	m, err := link.Receive()
	if err != nil || m.Kind != control.Welcome {
		fmt.Println(m.Kind, err)
		os.Exit(2)
	}
	fmt.Printf("welcome to %d, after %v\n", m.Worker, m.Peer != nil)
	return link
}

// talk is the end of a worker that talks to its host: it hands over all but one of
// its sessions.
func talk(link *control.Link) {
	n, _ := strconv.Atoi(os.Getenv(liveVar))
	link.Send(control.Message{Kind: control.Live, Live: n})
	link.Send(control.Message{Kind: control.Ready})
	prepared := false
	for {
		m, err := link.Receive()
		if err != nil {
			return
		}
		switch m.Kind {
		case control.Successor:
			prepared = m.Peer.Socket != ""
			link.Send(control.Message{Kind: control.Prepared})
		case control.Handover:
			last := control.Message{Kind: control.Handed, Lost: n}
			if prepared {
				last.Moved, last.Lost = n-1, 1
			}
			link.Send(last)
		case control.Gone:
			fmt.Printf("predecessor %d is gone, clean %v\n", m.Peer.PID, m.Clean)
			link.Send(control.Message{Kind: control.Why, Ask: 7, Worker: m.Worker})
		case control.Because:
			fmt.Printf("answer %d: %s of %d, lost %d\n", m.Ask, m.Ends[0].Reason, m.Ends[0].PID, m.Ends[0].Lost)
		}
	}
}

func TestSessionsAreCounted(t *testing.T) {
	t.Setenv(liveVar, "12")
	r := newRig(t, &host.Host{Command: command("talker")})
	first := r.pids(1)[0]
	eventually(t, "it says how many sessions it has", func() bool {
		s := r.Status()
		return len(s) == 1 && s[0].Sessions != nil && *s[0].Sessions == 12
	})
	if err := r.Recycle(t.Context(), 1, "a test"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the predecessor ends", func() bool { return len(r.Exits()) == 1 })
	e := r.Exits()[0]
	if e.PID != first || e.Reason != host.Requested || e.Detail != "a test" || e.Sessions == nil || *e.Sessions != (host.Sessions{Carried: 11, Lost: 1}) {
		t.Errorf("recycled: %v", e)
	}
	for _, line := range []string{
		"welcome to 1, after false", "welcome to 1, after true",
		fmt.Sprintf("predecessor %d is gone, clean true", first),
		fmt.Sprintf("answer 7: requested of %d, lost 1", first),
	} {
		eventually(t, line, func() bool { return strings.Contains(r.out.String(), "] "+line+"\n") })
	}

	second := r.pids(1)[0]
	if err := r.Kill(t.Context(), second, "a test"); err != nil {
		t.Fatal(err)
	}
	if e := r.Exits()[1]; e.Reason != host.Killed || e.Sessions == nil || *e.Sessions != (host.Sessions{Lost: 12}) {
		t.Errorf("killed: %v", e)
	}
	r.pids(1)
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	if e := r.Exits()[2]; e.Reason != host.Stopped || e.Sessions == nil || *e.Sessions != (host.Sessions{Lost: 12}) {
		t.Errorf("stopped: %v", e)
	}
}

// A worker that says hello and never ready is not taken for one that is.
func TestHelloWithoutReady(t *testing.T) {
	r := newRig(t, &host.Host{Command: command("mute"), StartTimeout: 200 * time.Millisecond})
	eventually(t, "it is killed", func() bool { return len(r.Exits()) > 0 })
	if e := r.Exits()[0]; e.Reason != host.NotReady || !strings.Contains(e.Detail, "did not say that it is ready") {
		t.Errorf("exit: %v", e)
	}
}
