package stateserver

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-session/holdfast/inproc"
	"github.com/holdfast-session/holdfast/store"
)

// Where the hostile test's clients are. Only the good ones are trusted.
const (
	goodAddr   = "127.0.0.2"
	evilAddrs  = "127.0.1.%d"
	idleAddrs  = "127.0.3.%d"
	idleOfAddr = 20
)

// runServer is the program in which this test binary is a server, until its input
// ends. Its limits are those of an operator who knows the machines that may ask a lot.
func runServer() error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	s := &Server{
		Store: inproc.New(nil), Logger: quiet,
		MaxBody: 1 << 20, MaxBuffered: 32 << 20, ReadTimeout: 2 * time.Second, WriteTimeout: 2 * time.Second,
		Access: Access{
			Trusted:  []netip.Prefix{netip.MustParsePrefix(goodAddr + "/32")},
			MaxConns: 100, Rate: 50, Burst: 300,
		},
	}
	go s.Serve(l)
	fmt.Println(l.Addr())
	io.Copy(io.Discard, os.Stdin)
	return s.Close()
}

// runAttack is the program in which this test binary is all the hostile clients, until
// its input ends.
func runAttack(addr, large string) error {
	ctx, cancel := context.WithCancel(context.Background())
	wait := attack(ctx, addr, large)
	<-time.After(time.Second) // for those to gather that stay
	fmt.Println("attacking")
	io.Copy(io.Discard, os.Stdin)
	cancel()
	return wait()
}

// A childProcess is one of these programs, running.
type childProcess struct {
	cmd  *exec.Cmd
	line string // the first one that it printed
	stop func() // ends it, and is called once
}

func startChild(t testing.TB, env string) *childProcess {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), env, "GORACE=atexit_sleep_ms=0 "+os.Getenv("GORACE"))
	cmd.Stderr = os.Stderr
	input, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	output, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop := sync.OnceFunc(func() {
		input.Close()
		patience := time.AfterFunc(limit, func() { cmd.Process.Kill() })
		defer patience.Stop()
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s: %v", env, err)
		}
	})
	t.Cleanup(stop)
	line, err := bufio.NewReader(output).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return &childProcess{cmd, strings.TrimSpace(line), stop}
}

// dialerFrom dials from an address of this machine.
func dialerFrom(addr string) *net.Dialer {
	return &net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(addr), 0)), Timeout: limit}
}

// A hostile client does one thing wrong, again and again.
type hostile struct {
	name string
	do   func(nc net.Conn)
}

// hostileEvery is the time between two connections of one kind of them.
const hostileEvery = 100 * time.Millisecond

// hostiles do it until their connection ends, or they have done it.
func hostiles(large string) []hostile {
	say := func(s string) func(net.Conn) {
		return func(nc net.Conn) {
			io.WriteString(nc, s)
			io.Copy(io.Discard, nc)
		}
	}
	drip := func(s string) func(net.Conn) {
		return func(nc net.Conn) {
			tick := time.NewTicker(20 * time.Millisecond)
			defer tick.Stop()
			for i := range len(s) {
				<-tick.C
				if _, err := nc.Write([]byte(s[i : i+1])); err != nil {
					return
				}
			}
		}
	}
	get := "GET " + large + " HTTP/1.1\r\nHoldfast: 1\r\n\r\n"
	return []hostile{
		{"slow head", drip("GET /" + strings.Repeat("a", 1000))},
		{"slow body", drip("PUT /a HTTP/1.1\r\nContent-Length: 100000\r\n\r\n" + strings.Repeat("a", 1000))},
		{"half of a body", func(nc net.Conn) {
			io.WriteString(nc, "PUT /a HTTP/1.1\r\nContent-Length: 1000000\r\n\r\n"+strings.Repeat("a", 300000))
			io.Copy(io.Discard, nc)
		}},
		{"slow reader", func(nc net.Conn) {
			nc.(*net.TCPConn).SetReadBuffer(4 << 10)
			io.WriteString(nc, strings.Repeat(get, 100))
			<-time.After(4 * time.Second)
		}},
		{"garbage", say(strings.Repeat("nonsense\r\n\x00\xff", 1000))},
		{"TLS", say("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")},
		{"oversized head", say("GET /" + strings.Repeat("a", 100000))},
		{"many lines", say("GET /a HTTP/1.1\r\n" + strings.Repeat("X:\r\n", 1000))},
		{"oversized body", say("PUT /a HTTP/1.1\r\nHoldfast: 1\r\nContent-Length: 2000000000\r\n\r\n" + strings.Repeat("x", 100000))},
		{"malformed after good", say(strings.Repeat("HEAD /a HTTP/1.1\r\nHoldfast: 1\r\n\r\n", 10) + "DELETE /a HTTP/1.1\r\nHoldfast: 1\r\n\r\n")},
		{"reset", func(nc net.Conn) {
			io.WriteString(nc, get+get)
			nc.(*net.TCPConn).SetLinger(0)
		}},
		{"half open", func(nc net.Conn) {
			nc.(*net.TCPConn).CloseWrite()
			io.Copy(io.Discard, nc)
		}},
	}
}

// attack lets them loose until ctx ends. wait returns when all are gone, with what
// kept one from connecting.
func attack(ctx context.Context, addr, large string) (wait func() error) {
	var wg sync.WaitGroup
	var failed atomic.Pointer[error]
	for i, h := range hostiles(large) {
		d := dialerFrom(fmt.Sprintf(evilAddrs, i+1))
		wg.Go(func() {
			tick := time.NewTicker(hostileEvery)
			defer tick.Stop()
			for {
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
				}
				nc, err := d.Dial("tcp", addr)
				if err != nil {
					err = fmt.Errorf("%s: %w", h.name, err)
					failed.Store(&err)
					return
				}
				nc.SetDeadline(time.Now().Add(limit))
				wg.Go(func() {
					defer nc.Close()
					stop := context.AfterFunc(ctx, func() { nc.Close() })
					defer stop()
					h.do(nc)
				})
			}
		})
	}
	return func() error {
		wg.Wait()
		if err := failed.Load(); err != nil {
			return *err
		}
		return nil
	}
}

// goodRequests has good clients lock and save for a while, which all succeeds, and
// returns how many requests that was.
func goodRequests(t testing.TB, c *Client, d time.Duration) int {
	t.Helper()
	var wg sync.WaitGroup
	var n atomic.Int64
	end := time.Now().Add(d)
	for i := range goodSessions {
		wg.Go(func() {
			id := store.ID{App: "/", Session: fmt.Sprint(i)}
			var rec store.Record
			for time.Now().Before(end) {
				if err := c.Lock(context.Background(), id, store.LockOptions{Owner: store.NewOwner()}, &rec); err != nil {
					t.Errorf("Lock: %v", err)
					return
				}
				if err := c.Save(context.Background(), id, &rec, store.NewVersion(), false); err != nil {
					t.Errorf("Save: %v", err)
					return
				}
				n.Add(2)
			}
		})
	}
	wg.Wait()
	return int(n.Load())
}

// goodSessions is how many sessions are used side by side.
const goodSessions = 16
