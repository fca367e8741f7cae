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

// runServer is the program in which this test binary is a server, until its input
// ends.
func runServer() error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	s := &Server{
		Store: inproc.New(nil), Logger: quiet,
		MaxBody: 1 << 20, MaxBuffered: 32 << 20, ReadTimeout: 2 * time.Second, WriteTimeout: 2 * time.Second,
		Access: Access{MaxConns: 6000, Rate: 1e6},
	}
	go s.Serve(l)
	fmt.Println(l.Addr())
	io.Copy(io.Discard, os.Stdin)
	return s.Close()
}

// A serverProcess is that program, running.
type serverProcess struct {
	cmd  *exec.Cmd
	addr string
}

func startServer(t testing.TB) *serverProcess {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), serverVar+"=1", "GORACE=atexit_sleep_ms=0 "+os.Getenv("GORACE"))
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
	t.Cleanup(func() {
		input.Close()
		patience := time.AfterFunc(limit, func() { cmd.Process.Kill() })
		defer patience.Stop()
		if err := cmd.Wait(); err != nil {
			t.Errorf("the server: %v", err)
		}
	})
	addr, err := bufio.NewReader(output).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return &serverProcess{cmd, strings.TrimSpace(addr)}
}

// dialerFrom dials from an address of this machine.
func dialerFrom(addr string) *net.Dialer {
	return &net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(addr), 0)), Timeout: limit}
}

// A hostile client does one thing wrong, again and again.
type hostile struct {
	name  string
	every time.Duration // between two of them
	do    func(nc net.Conn)
}

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
		{"slow head", 100 * time.Millisecond, drip("GET /" + strings.Repeat("a", 1000))},
		{"slow body", 100 * time.Millisecond, drip("PUT /a HTTP/1.1\r\nContent-Length: 100000\r\n\r\n" + strings.Repeat("a", 1000))},
		{"half of a body", 100 * time.Millisecond, func(nc net.Conn) {
			io.WriteString(nc, "PUT /a HTTP/1.1\r\nContent-Length: 1000000\r\n\r\n"+strings.Repeat("a", 300000))
			io.Copy(io.Discard, nc)
		}},
		{"slow reader", 100 * time.Millisecond, func(nc net.Conn) {
			nc.(*net.TCPConn).SetReadBuffer(4 << 10)
			io.WriteString(nc, strings.Repeat(get, 100))
			<-time.After(4 * time.Second)
		}},
		{"garbage", 100 * time.Millisecond, say(strings.Repeat("nonsense\r\n\x00\xff", 1000))},
		{"TLS", 100 * time.Millisecond, say("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")},
		{"oversized head", 100 * time.Millisecond, say("GET /" + strings.Repeat("a", 100000))},
		{"many lines", 100 * time.Millisecond, say("GET /a HTTP/1.1\r\n" + strings.Repeat("X:\r\n", 1000))},
		{"oversized body", 100 * time.Millisecond, say("PUT /a HTTP/1.1\r\nHoldfast: 1\r\nContent-Length: 2000000000\r\n\r\n" + strings.Repeat("x", 100000))},
		{"malformed after good", 100 * time.Millisecond, say(strings.Repeat("HEAD /a HTTP/1.1\r\nHoldfast: 1\r\n\r\n", 10) + "DELETE /a HTTP/1.1\r\nHoldfast: 1\r\n\r\n")},
		{"reset", 100 * time.Millisecond, func(nc net.Conn) {
			io.WriteString(nc, get+get)
			nc.(*net.TCPConn).SetLinger(0)
		}},
		{"half open", 100 * time.Millisecond, func(nc net.Conn) {
			nc.(*net.TCPConn).CloseWrite()
			io.Copy(io.Discard, nc)
		}},
	}
}

// attack lets them loose until ctx ends, and returns when all are gone.
func attack(ctx context.Context, t testing.TB, addr, large string) (wait func()) {
	var wg sync.WaitGroup
	for i, h := range hostiles(large) {
		d := dialerFrom(fmt.Sprintf("127.0.1.%d", i+1))
		wg.Go(func() {
			tick := time.NewTicker(h.every)
			defer tick.Stop()
			for {
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
				}
				nc, err := d.Dial("tcp", addr)
				if err != nil {
					t.Errorf("%s: %v", h.name, err)
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
	return wg.Wait
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
