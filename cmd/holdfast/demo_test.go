package main

import (
	"bytes"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

const shopReady = "holdfast: demo shop ready on "

// openDemo starts the demo, which is stopped at the end of the test, and a browser.
func openDemo(t *testing.T, args ...string) (*program, *browser) {
	t.Helper()
	p := start(t, append([]string{"demo", "--listen", "127.0.0.1:0"}, args...)...)
	t.Cleanup(func() {
		select {
		case <-p.ended:
		default:
			p.stop()
		}
	})
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
	cart.says("Your session was lost at ", ", because worker 1 was killed by the button on the page.",
		fmt.Sprintf("kept in the memory of worker 1 (PID %d), and ended with it", pid), "There is nothing in it yet")
	if cart.articles() != 0 || cart.session() != "none yet" || cart.pid() == pid {
		t.Errorf("%d articles, session %s, worker %d", cart.articles(), cart.session(), cart.pid())
	}
	// Whoever goes on shopping is told, too.
	b.post("/cart/add", "slug", "bell", "back", "/cart").says("Your session was lost at ", "What you put in since is in a new one", "Ship’s bell")
	// A recycle loses it as well, and a change of a file is one.
	b.post("/recycle", "worker", "1", "back", "/cart").says(", because worker 1 was recycled by the button on the page.")
	b.post("/cart/add", "slug", "bell", "back", "/cart")
	b.get("/cart").says("Ship’s bell")
	b.post("/touch", "back", "/cart").says("config.yaml was touched, and nothing was recycled.", "Ship’s bell")
	b.post("/change", "back", "/cart").says(", because config.yaml has changed.", "There is nothing in it yet")
	b.get("/journal").says("config.yaml has changed", "lost with it; how many is not known")
	p.stop()
}

// Two workers, a state server: recycling, touching and changing the watched file loses
// nothing, and the journal has all of it.
func TestDemoRecyclesAndSaysWhy(t *testing.T) {
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	p, b := openDemo(t)
	b.bothAnswer()
	b.get("/").says("Ropes, lamps and ground tackle")
	cart := b.post("/cart/add", "slug", "rope", "qty", "2", "back", "/cart")
	session := cart.session()
	for _, c := range []struct {
		form []string
		says []string
	}{
		{[]string{"/recycle", "worker", "1"}, []string{"Worker 1 was recycled. Your session was not lost.", "2 articles in your cart are still there"}},
		{[]string{"/recycle", "worker", "2"}, []string{"Worker 2 was recycled. Your session was not lost."}},
		{[]string{"/touch"}, []string{"config.yaml was touched, and nothing was recycled.", "Ignored so far: 1."}},
		{[]string{"/touch"}, []string{"Ignored so far: 2."}},
		{[]string{"/change"}, []string{"config.yaml has changed, and every worker was recycled. Your session was not lost."}},
	} {
		cart = b.post(c.form[0], append(c.form[1:], "back", "/cart")...)
		cart.says(c.says...)
		if cart.articles() != 2 || cart.session() != session {
			t.Fatalf("after %v: %d articles, session %s (was %s)", c.form, cart.articles(), cart.session(), session)
		}
	}
	b.get("/").says("Open until the tide turns")
	journal := b.get("/journal")
	if n := strings.Count(journal.text, ">recycled<"); n != 4 {
		t.Errorf("the journal has %d recycles, want 4", n)
	}
	if n := strings.Count(journal.text, ">ignored<"); n != 1 { // the same touch again is counted only
		t.Errorf("the journal has %d ignored touches, want 1", n)
	}
	journal.says("requested", "by the button on the page", "file changed", "config.yaml has changed", "config.yaml: touched, and the same", "kept in the state server")
	p.stop()
	if left, err := os.ReadDir(temp); err != nil || len(left) > 0 {
		t.Errorf("the demo has left %v (%v)", left, err)
	}
}

// A worker that leaks is recycled when it reaches its limit.
func TestDemoRecyclesAWorkerThatLeaks(t *testing.T) {
	_, b := openDemo(t)
	b.post("/cart/add", "slug", "rope", "back", "/")
	leaking := b.post("/leak").number(`Worker process (\d+) has sprung`)
	eventually(t, "it is recycled", func() bool {
		live := b.get("/journal/live")
		if live.articles() != 1 {
			t.Fatalf("%d articles", live.articles())
		}
		return regexp.MustCompile(fmt.Sprintf(`PID %d</small></span><div><span class="badge ">ended</span> <b>memory limit</b>`, leaking)).MatchString(live.text)
	})
}

func TestDemoHandoverIsForInProc(t *testing.T) {
	var out, errs bytes.Buffer
	if status := run([]string{"demo", "--handover"}, &out, &errs); status != 1 || !strings.Contains(errs.String(), "only with --mode inproc") {
		t.Errorf("status %d, %s", status, &errs)
	}
}

// Two workers, InProc with hand-over: a recycle carries the sessions over, a kill loses
// them.
func TestDemoHandsOver(t *testing.T) {
	p, b := openDemo(t, "--mode", "inproc", "--handover")
	cart := b.post("/cart/add", "slug", "rope", "qty", "2", "back", "/cart")
	session, worker := cart.session(), cart.find(`worker <b>(\d)</b> of 2`)
	for range 3 {
		pid := cart.pid()
		cart = b.post("/recycle", "worker", worker, "back", "/cart")
		cart.says("was recycled. Your session was not lost.", "2 articles in your cart are still there")
		if cart.pid() == pid || cart.session() != session {
			t.Fatalf("after the recycle of %d: worker %d, session %s (was %s)", pid, cart.pid(), cart.session(), session)
		}
	}
	b.post("/change", "back", "/cart").says("2 articles in your cart are still there")
	eventually(t, "the journal says so", func() bool { return strings.Count(b.get("/journal").text, "1 carried over") == 4 })
	cart = b.kill(b.get("/cart"))
	cart.says("Your session was lost at ", fmt.Sprintf(", because worker %s was killed by the button on the page.", worker), "There is nothing in it yet")
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

func TestDemoButtonsAreOnlyForItsOwnPages(t *testing.T) {
	p, b := openDemo(t, "--mode", "inproc")
	pid := b.get("/").pid()
	form := url.Values{"pid": {strconv.Itoa(pid)}, "worker": {"1"}}
	for _, path := range []string{"/kill", "/recycle", "/leak", "/touch", "/change"} {
		req, err := http.NewRequest("POST", b.base+path, strings.NewReader(form.Encode()))
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
			t.Errorf("%s from another site: %s", path, resp.Status)
		}
	}
	// Nor for processes that are none of its workers.
	b.post("/kill", "pid", strconv.Itoa(p.cmd.Process.Pid), "back", "/").says("There is no worker process")
	b.post("/kill", "pid", strconv.Itoa(os.Getpid()), "back", "/")
	if now := b.get("/").pid(); now != pid {
		t.Errorf("worker %d became %d", pid, now)
	}
}
