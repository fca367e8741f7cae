package main

import (
	"bytes"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"
)

const shopReady = "holdfast: demo shop ready on "

// openDemo starts the demo and a browser.
func openDemo(t *testing.T, args ...string) (*program, *browser) {
	t.Helper()
	p := start(t, append([]string{"demo", "--listen", "127.0.0.1:0"}, args...)...)
	return p, open(t, p.ready(shopReady))
}

// bothAnswer waits until two workers take turns.
func (b *browser) bothAnswer() {
	b.t.Helper()
	eventually(b.t, "both workers are up", func() bool {
		one := b.get("/").pid()
		return b.get("/").pid() != one
	})
}

// children are the PIDs that the log of p speaks of.
func (p *program) children() []int {
	p.t.Helper()
	seen := map[int]bool{}
	var all []int
	for _, m := range regexp.MustCompile(`pid[= ](\d+)`).FindAllStringSubmatch(p.stderr.String(), -1) {
		if pid, err := strconv.Atoi(m[1]); err == nil && !seen[pid] && pid != p.cmd.Process.Pid {
			seen[pid] = true
			all = append(all, pid)
		}
	}
	return all
}

// alive reports whether pid runs, where that can be known.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, state, _ := bytes.Cut(stat, []byte(") "))
	return len(state) > 0 && state[0] != 'Z' && state[0] != 'X'
}

// Two workers, a state server: the cart survives kill after kill.
func TestDemoKeepsTheCart(t *testing.T) {
	p, b := openDemo(t)
	b.post("/cart/add", "slug", "rope", "qty", "2", "back", "/")
	b.post("/cart/add", "slug", "lamp", "back", "/")
	cart := b.get("/cart")
	cart.says("Three-strand manila", "Anchor lamp", "€237.00", "StateServer")
	session := cart.session()
	dead := map[int]bool{}
	for range 5 {
		pid := cart.pid()
		if dead[pid] {
			t.Fatalf("worker %d answers from the grave", pid)
		}
		dead[pid] = true
		cart = b.kill(cart)
		cart.says(fmt.Sprintf("Worker process %d is dead. Your session is not.", pid), "3 articles", "€237.00")
		if cart.pid() == pid || cart.session() != session {
			t.Fatalf("after the kill of %d: worker %d, session %s (was %s)", pid, cart.pid(), cart.session(), session)
		}
	}

	in := b.post("/signin", "name", "Ada")
	in.says("Welcome aboard, Ada.")
	if in.articles() != 3 || in.session() == session {
		t.Errorf("signed in: %d articles, session %s (was %s)", in.articles(), in.session(), session)
	}
	b.kill(in).says("Ada", "3 articles")
	b.post("/order").says("Thank you, Ada", "3 articles for €237.00")
	out := b.post("/signout")
	out.says("You are signed out.")
	if out.articles() != 0 || out.session() != "none yet" {
		t.Errorf("signed out: %d articles, session %s", out.articles(), out.session())
	}

	children := p.children()
	p.stop()
	for _, pid := range children {
		if alive(pid) {
			t.Errorf("process %d outlives the demo", pid)
		}
	}
}

// Both workers answer, in turn, and share the sessions.
func TestDemoTakesTurns(t *testing.T) {
	_, b := openDemo(t)
	b.post("/cart/add", "slug", "bell", "back", "/")
	count := map[int]int{}
	eventually(t, "both workers answer", func() bool {
		cart := b.get("/cart")
		if cart.articles() != 1 {
			t.Fatalf("worker %d knows of %d articles", cart.pid(), cart.articles())
		}
		count[cart.pid()]++
		return len(count) == 2
	})
}

// One worker, InProc: the same click loses the cart, and the page says why.
func TestDemoInProcLosesTheCartAndSaysWhy(t *testing.T) {
	p, b := openDemo(t, "--mode", "inproc")
	cart := b.post("/cart/add", "slug", "rope", "qty", "2", "back", "/cart")
	cart.says("Three-strand manila", "InProc", "of 1<")
	pid := cart.pid()
	cart = b.kill(cart)
	cart.says("Your session is gone", "kept in the memory of a worker process, and ended with it",
		fmt.Sprintf("after worker 1 (PID %d) was killed by the button on the page at ", pid), "There is nothing in it yet")
	if cart.articles() != 0 || cart.session() != "none yet" || cart.pid() == pid {
		t.Errorf("%d articles, session %s, worker %d", cart.articles(), cart.session(), cart.pid())
	}
	// Whoever goes on shopping is told, too.
	b.post("/cart/add", "slug", "bell", "back", "/cart").says("Your session is gone", "What you put in since is in a new one", "Ship’s bell")
	p.stop()
}

// Two workers, InProc: sessions flicker, and the page names that.
func TestDemoInProcWithTwoWorkersFlickers(t *testing.T) {
	_, b := openDemo(t, "--mode", "inproc", "--workers", "2")
	b.bothAnswer()
	b.post("/cart/add", "slug", "rope", "back", "/")
	knows, knowsNot := map[int]bool{}, map[int]bool{}
	for range 6 {
		cart := b.get("/cart")
		if cart.articles() == 1 {
			knows[cart.pid()] = true
			continue
		}
		knowsNot[cart.pid()] = true
		cart.says("This worker does not know your session", "2 workers take turns here, each with sessions of its own", "This is what a web garden does to InProc")
	}
	if len(knows) != 1 || len(knowsNot) != 1 {
		t.Errorf("the cart is known to %v and unknown to %v", knows, knowsNot)
	}
}

// The state server is killed: that does lose the cart, and the page says so.
func TestDemoStateServerKilled(t *testing.T) {
	p, b := openDemo(t)
	b.post("/cart/add", "slug", "rope", "back", "/cart")
	m := regexp.MustCompile(`msg="state server ready" pid=(\d+)`).FindStringSubmatch(p.stderr.String())
	if m == nil {
		t.Fatal("the log does not name the state server's PID")
	}
	pid, _ := strconv.Atoi(m[1])
	state, err := os.FindProcess(pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := state.Kill(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is started again", func() bool { return strings.Count(p.stderr.String(), `msg="state server ready"`) == 2 })
	b.get("/cart").says("Your session is gone", "kept in the memory of the state server")
	if got := b.post("/cart/add", "slug", "bell", "back", "/cart"); got.articles() != 1 {
		t.Errorf("%d articles after that", got.articles())
	}
	p.stop()
}

func TestDemoKillIsOnlyForItsOwnPages(t *testing.T) {
	p, b := openDemo(t, "--mode", "inproc")
	pid := b.get("/").pid()
	form := url.Values{"pid": {strconv.Itoa(pid)}}
	req, err := http.NewRequest("POST", b.base+"/kill", strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Origin", "http://evil.example")
	resp, err := b.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusForbidden {
		t.Errorf("from another site: %s", resp.Status)
	}
	// Nor for processes that are none of its workers.
	b.post("/kill", "pid", strconv.Itoa(p.cmd.Process.Pid), "back", "/")
	b.post("/kill", "pid", strconv.Itoa(os.Getpid()), "back", "/")
	if now := b.get("/").pid(); now != pid {
		t.Errorf("worker %d became %d", pid, now)
	}
}

// Nothing is left when the demo itself is killed.
func TestDemoKilledLeavesNoOrphans(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("looks into /proc")
	}
	p, b := openDemo(t)
	b.bothAnswer()
	children := p.children()
	if len(children) < 3 {
		t.Fatalf("children: %v", children)
	}
	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for _, pid := range children {
		eventually(t, fmt.Sprintf("process %d ends", pid), func() bool { return !alive(pid) })
	}
}
