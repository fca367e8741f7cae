package main

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-session/holdfast/inproc"
	"github.com/holdfast-session/holdfast/stateserver"
)

// TestMain makes this test binary the program itself where a test starts it.
func TestMain(m *testing.M) {
	if os.Getenv("SHOP_MAIN") != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// open starts the program and returns its address, and how to stop it.
func open(t *testing.T, args ...string) (shop string, stop func()) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, append([]string{"-addr", "127.0.0.1:0"}, args...)...)
	cmd.Env = append(os.Environ(), "SHOP_MAIN=1")
	cmd.Stderr = t.Output()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cmd.Process.Signal(syscall.SIGTERM)
		kill := time.AfterFunc(20*time.Second, func() { cmd.Process.Kill() })
		defer kill.Stop()
		if err := cmd.Wait(); err != nil {
			t.Errorf("the program ended with %v", err)
		}
	}
	t.Cleanup(stop)
	text, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("the program did not start: %v", err)
	}
	_, shop, _ = strings.Cut(strings.TrimSpace(text), " at ")
	return strings.TrimSuffix(shop, "/"), stop
}

// A browser keeps cookies and follows redirects.
type browser struct {
	t *testing.T
	http.Client
}

func newBrowser(t *testing.T) *browser {
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &browser{t, http.Client{Jar: jar, Timeout: 20 * time.Second}}
}

// sees fails the test unless the page has all of want and nothing of what follows "!".
func (b *browser) sees(res *http.Response, err error, want ...string) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
	defer res.Body.Close()
	page, err := io.ReadAll(res.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	for _, text := range want {
		if hidden, not := strings.CutPrefix(text, "!"); not && strings.Contains(string(page), hidden) || !not && !strings.Contains(string(page), text) {
			b.t.Errorf("%s: %d, want %q in\n%s", res.Request.URL, res.StatusCode, text, page)
		}
	}
}

func (b *browser) get(page string, want ...string) {
	b.t.Helper()
	res, err := b.Get(page)
	b.sees(res, err, want...)
}

func (b *browser) post(page, name, value string, want ...string) {
	b.t.Helper()
	res, err := b.PostForm(page, url.Values{name: {value}})
	b.sees(res, err, want...)
}

func TestShop(t *testing.T) {
	shop, _ := open(t)
	b := newBrowser(t)
	b.get(shop+"/", "here 1 times", "cart is empty", "!Hello")
	b.post(shop+"/cart", "article", "rope", "here 2 times", "1 × rope", "It is in your cart.")
	b.post(shop+"/cart", "article", "lamp", "1 × rope", "1 × lamp")
	b.post(shop+"/cart", "article", "rope", "2 × rope", "1 × lamp")
	b.get(shop+"/", "!It is in your cart.")
	b.get(shop+"/count", "3")
	b.post(shop+"/cart", "article", "", "Which article?")

	before := b.Jar.Cookies(must(url.Parse(shop)))[0].Value
	b.post(shop+"/signin", "name", "Ann", "Hello, Ann", "2 × rope")
	if after := b.Jar.Cookies(must(url.Parse(shop)))[0].Value; after == before {
		t.Error("signing in kept the ID")
	}
	newBrowser(t).get(shop+"/", "here 1 times", "!Ann", "!rope")
	b.post(shop+"/signout", "", "", "!Hello", "cart is empty", "here 1 times")
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// TestShopOnAStateServer: with -state the sessions survive a restart of the program.
func TestShopOnAStateServer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &stateserver.Server{Store: inproc.New(nil)}
	go server.Serve(l)
	defer server.Close()

	shop, stop := open(t, "-state", l.Addr().String())
	b := newBrowser(t)
	b.post(shop+"/cart", "article", "rope", "1 × rope")
	b.post(shop+"/signin", "name", "Ann", "Hello, Ann")
	stop()
	shop, _ = open(t, "-state", l.Addr().String())
	b.post(shop+"/cart", "article", "lamp", "Hello, Ann", "1 × rope", "1 × lamp", "here 3 times")
}

// TestRunSaysWhyItCannot is for a port that is taken, and an address that is none.
func TestRunSaysWhyItCannot(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := run(context.Background(), l.Addr().String(), ""); err == nil {
		t.Error("two programs listen on one port")
	}
	if err := run(context.Background(), "127.0.0.1:0", "nowhere:at:all"); err == nil {
		t.Error("a state server's address that is none was taken")
	}
}
