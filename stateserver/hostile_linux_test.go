package stateserver

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/holdfast-session/holdfast/store"
)

// rss is how much memory the process has, in KiB; peak the most that it had.
func (p *childProcess) rss(t testing.TB) (now, peak int) {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(b) {
		if f := bytes.Fields(line); len(f) == 3 {
			n, _ := strconv.Atoi(string(f[1]))
			switch string(f[0]) {
			case "VmRSS:":
				now = n
			case "VmHWM:":
				peak = n
			}
		}
	}
	return now, peak
}

// cpu is the processor time that the process has used.
func (p *childProcess) cpu(t testing.TB) time.Duration {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	f := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	ticks := 0
	for _, one := range f[11:13] { // utime and stime
		n, err := strconv.Atoi(string(one))
		if err != nil {
			t.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * (time.Second / 100)
}

// TestHostileClients has a server, in a process of its own, that serves good clients
// while others do all that is wrong: it lives, keeps its memory, and serves them at
// nearly the same cost.
func TestHostileClients(t *testing.T) {
	long := os.Getenv("HOLDFAST_LONG") != ""
	idle, busy, rounds := 1000, 500*time.Millisecond, 1
	if long {
		idle, busy, rounds = 5000, 3*time.Second, 5
	}
	p := startChild(t, serverVar+"=1")
	c := dial(t, p.line, &ClientOptions{DialContext: dialerFrom(goodAddr).DialContext})
	body := string(bytes.Repeat([]byte("x"), 500))
	for i := range goodSessions {
		mustCreate(t, c, store.ID{App: "/", Session: fmt.Sprint(i)}, body)
	}
	large := store.ID{App: "/", Session: "large"}
	mustCreate(t, c, large, string(make([]byte, 200<<10)))
	cost := func() time.Duration {
		before := p.cpu(t)
		n := goodRequests(t, c, busy)
		return (p.cpu(t) - before) / time.Duration(max(n, 1))
	}
	cost() // to warm up

	// What connections cost that have asked once and are idle now.
	before, _ := p.rss(t)
	conns := make([]net.Conn, idle)
	for i := range conns {
		nc, err := dialerFrom(fmt.Sprintf(idleAddrs, i/idleOfAddr)).Dial("tcp", p.line)
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		w := wireOver(t, nc)
		if got := status(w.ask("", "HEAD /a HTTP/1.1")); got != notFound {
			t.Fatal(got)
		}
		conns[i] = nc
	}
	after, _ := p.rss(t)
	t.Logf("%d idle connections: %d KiB, %.1f KiB each", idle, after-before, float64(after-before)/float64(idle))

	var ratios []float64
	for range rounds {
		quiet := cost()
		attackers := startChild(t, attackVar+"="+p.line+" "+targetOf(large))
		attacked := cost()
		attackers.stop()
		if quiet > 0 {
			ratios = append(ratios, float64(attacked)/float64(quiet))
		}
		t.Logf("CPU per good request: %v, under attack %v", quiet, attacked)
	}
	slices.Sort(ratios)
	_, peak := p.rss(t)
	t.Logf("CPU per good request under attack: x %.2f; the most memory: %d MiB", ratios, peak>>10)
	if raceEnabled {
		return // which changes all figures
	}
	if most := 160 << 10; peak > most {
		t.Errorf("the server had %d KiB at its peak; want %d at most", peak, most)
	}
	if long && ratios[len(ratios)/2] > 1.3 {
		t.Errorf("a good request costs %.2f times as much under attack; want 1.3 times at most", ratios[len(ratios)/2])
	}
}
