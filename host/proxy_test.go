package host_test

import (
	"bufio"
	"context"
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-session/holdfast/host"
)

// roles are what else the test binary can be, by [roleVar].
var roles = map[string]func(){}

// proxyPages are what the application has for the tests of the proxy.
func proxyPages(mux *http.ServeMux) {
	mux.HandleFunc("/headers", func(w http.ResponseWriter, r *http.Request) { _ = r.Header.Write(w) })
	mux.HandleFunc("/login", func(w http.ResponseWriter, r *http.Request) {
		http.SetCookie(w, &http.Cookie{Name: "JSESSIONID", Value: fmt.Sprint(os.Getpid(), ".", time.Now().UnixNano()), Path: "/"})
	})
	mux.HandleFunc("/sink", func(w http.ResponseWriter, r *http.Request) {
		first := make([]byte, 1)
		n, _ := io.ReadFull(r.Body, first)
		fmt.Println("the upload begins")
		rest, err := io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, int64(n)+rest, " ", err)
	})
	mux.HandleFunc("/source", func(w http.ResponseWriter, r *http.Request) {
		n, _ := strconv.ParseInt(r.FormValue("bytes"), 10, 64)
		if r.FormValue("length") != "" {
			w.Header().Set("Content-Length", r.FormValue("bytes"))
		}
		for piece := make([]byte, 256<<10); n > 0; n -= int64(len(piece)) {
			if _, err := w.Write(piece[:min(n, int64(len(piece)))]); err != nil {
				fmt.Println("the download is cut")
				return
			}
		}
	})
	mux.HandleFunc("/left", func(_ http.ResponseWriter, r *http.Request) {
		fmt.Println("it has begun")
		<-r.Context().Done()
		fmt.Println("the client has left")
	})
	mux.HandleFunc("/events", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for n := range 3 {
			fmt.Fprintf(w, "data: %d\n\n", n)
			_ = http.NewResponseController(w).Flush()
		}
		<-r.Context().Done()
	})
	mux.HandleFunc("/socket", webSocket)
	mux.HandleFunc("/refuse", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusForbidden) })
	mux.HandleFunc("/early", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Link", "</a.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Set("Trailer", "Sum")
		io.WriteString(w, "the body")
		w.Header().Set("Sum", "8")
	})
}

// webSocket says hello as RFC 6455 has it, and returns each byte that it gets.
func webSocket(w http.ResponseWriter, r *http.Request) {
	sum := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	c, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer c.Close()
	fmt.Fprintf(rw, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n",
		base64.StdEncoding.EncodeToString(sum[:]))
	_ = rw.Flush()
	_, _ = io.Copy(c, rw)
	fmt.Println("the socket is closed")
}

// A front is a host that serves a Unix socket, as Host.Serve does.
type front struct {
	*rig
	socket string
	served chan error
	end    context.CancelFunc
}

// newFront starts one. Requests to any host name reach it.
func newFront(t *testing.T, h *host.Host) *front {
	t.Helper()
	f := &front{rig: newRig(t, h), socket: filepath.Join(t.TempDir(), "front.sock"), served: make(chan error, 1)}
	l, err := net.Listen("unix", f.socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	f.end = cancel
	go func() { f.served <- h.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-f.served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	jar, _ := cookiejar.New(nil)
	f.url = "http://shop.example"
	f.client = &http.Client{Jar: jar, Transport: &http.Transport{DialContext: f.dial}}
	t.Cleanup(f.client.CloseIdleConnections)
	return f
}

// allReady waits until all workers get requests.
func (f *front) allReady() {
	f.t.Helper()
	eventually(f.t, "all workers are ready", func() bool {
		ready := 0
		for _, s := range f.Status() {
			if s.State == host.Ready {
				ready++
			}
		}
		return ready == f.Workers
	})
}

func (f *front) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "unix", f.socket)
}

// from asks as a client with that address.
func (f *front) from(addr string) (pid int) {
	f.t.Helper()
	req, _ := http.NewRequest("GET", f.url+"/headers", nil)
	req.Header.Set("X-Forwarded-For", addr)
	resp, err := f.client.Do(req)
	if err != nil {
		f.t.Fatal(err)
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	if resp.StatusCode != http.StatusOK {
		f.t.Fatalf("from %s: %s", addr, resp.Status)
	}
	pid, _ = strconv.Atoi(resp.Header.Get("Worker-Pid"))
	return pid
}

// printed waits until a worker has printed text.
func (f *front) printed(text string) {
	f.t.Helper()
	eventually(f.t, fmt.Sprintf("%q is printed", text), func() bool { return strings.Contains(f.out.String(), text) })
}

func TestRoutingByAddress(t *testing.T) {
	f := newFront(t, &host.Host{Command: command("app"), Workers: 3, Proxy: host.Proxy{Routing: host.ByIP}})
	f.allReady()
	workers := map[int]bool{}
	for i := range 30 {
		addr := netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}).String()
		pid := f.from(addr)
		workers[pid] = true
		for range 3 {
			if now := f.from(addr); now != pid {
				t.Errorf("%s was with %d and is with %d", addr, pid, now)
			}
		}
	}
	if len(workers) != 3 {
		t.Errorf("30 addresses use %d workers, want 3", len(workers))
	}
}

func TestRoutingBySession(t *testing.T) {
	for _, cookie := range []string{"", "JSESSIONID"} {
		t.Run("cookie "+cookie, func(t *testing.T) {
			f := newFront(t, &host.Host{Command: command("app"), Workers: 4, Proxy: host.Proxy{Routing: host.BySession, Cookie: cookie}})
			f.allReady()
			workers := map[int]bool{}
			for range 12 {
				f.client.Jar, _ = cookiejar.New(nil)
				_, pid, _ := f.ask("GET", "/login", "")
				workers[pid] = true
				for range 4 {
					if _, now, _ := f.ask("GET", "/", ""); now != pid {
						t.Fatalf("a visitor who was with %d is with %d", pid, now)
					}
				}
			}
			if len(workers) != 4 {
				t.Errorf("12 visitors use %d workers, want 4", len(workers))
			}
			// One whose worker ends is with another, and stays there.
			_, pid, _ := f.ask("GET", "/login", "")
			if err := f.Kill(context.Background(), pid, "test"); err != nil {
				t.Fatal(err)
			}
			_, next, _ := f.ask("GET", "/login", "")
			if _, now, _ := f.ask("GET", "/", ""); now != next || now == pid {
				t.Errorf("after %d was killed, with %d and then with %d", pid, next, now)
			}
		})
	}
}

// A session that the host has not seen begin still has one worker.
func TestRoutingByAnUnknownSession(t *testing.T) {
	f := newFront(t, &host.Host{Command: command("app"), Workers: 4, Proxy: host.Proxy{Routing: host.BySession, Cookie: "JSESSIONID"}})
	f.allReady()
	f.client.Jar = nil
	workers := map[int]bool{}
	for i := range 20 {
		var pids []int
		for range 3 {
			req, _ := http.NewRequest("GET", f.url+"/", nil)
			req.Header.Set("Cookie", fmt.Sprintf("a=b; JSESSIONID=old%d", i))
			resp, err := f.client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			pid, _ := strconv.Atoi(resp.Header.Get("Worker-Pid"))
			pids = append(pids, pid)
		}
		if pids[0] != pids[1] || pids[0] != pids[2] {
			t.Errorf("session %d was with %v", i, pids)
		}
		workers[pids[0]] = true
	}
	if len(workers) < 2 {
		t.Error("20 sessions use one worker")
	}
}

func TestRequestsThatWaitAreBounded(t *testing.T) {
	f := newFront(t, &host.Host{Command: command("deaf"), WaitTimeout: time.Second / 2, Proxy: host.Proxy{MaxWaiting: 3}})
	type end struct {
		status int
		retry  string
		took   time.Duration
	}
	ends := make(chan end, 20)
	for range cap(ends) {
		go func() {
			began := time.Now()
			resp, err := f.client.Get(f.url)
			if err != nil {
				ends <- end{}
				return
			}
			resp.Body.Close()
			ends <- end{resp.StatusCode, resp.Header.Get("Retry-After"), time.Since(began)}
		}()
	}
	waited := 0
	for range cap(ends) {
		e := <-ends
		if e.status != http.StatusServiceUnavailable || e.retry == "" {
			t.Errorf("%+v, want 503 and Retry-After", e)
		}
		if e.took >= time.Second/2 {
			waited++
		}
	}
	if waited < 1 || waited > 3 {
		t.Errorf("%d requests have waited, want at most 3", waited)
	}
}

func TestTrustedProxyIsBelieved(t *testing.T) {
	for _, c := range []struct {
		name    string
		trusted []netip.Prefix
		want    []string
	}{
		{"nobody", nil, []string{"X-Forwarded-For: 127.0.0.1", "X-Forwarded-Host: shop.example", "X-Forwarded-Proto: http"}},
		{"loopback", []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
			[]string{"X-Forwarded-For: 1.1.1.1, 198.51.100.1, 127.0.0.1", "X-Forwarded-Host: public.example", "X-Forwarded-Prefix: /a", "X-Forwarded-Proto: https"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, &host.Host{Command: command("app"), Proxy: host.Proxy{Trusted: c.trusted}})
			req, _ := http.NewRequest("GET", r.url+"/headers", nil)
			req.Host = "shop.example"
			req.Header = http.Header{
				"X-Forwarded-For":   {"1.1.1.1", "198.51.100.1"},
				"X-Forwarded-Host":  {"public.example"},
				"X-Forwarded-Proto": {"https"}, "X-Forwarded-Prefix": {"/a"},
				"Te": {"trailers"}, "Connection": {"Private"}, "Private": {"1"},
			}
			resp, err := r.client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			var got []string
			for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
				name, _, _ := strings.Cut(lines.Text(), ":")
				if strings.HasPrefix(name, "X-") || name == "Private" {
					got = append(got, lines.Text())
				}
			}
			if strings.Join(got, "\n") != strings.Join(c.want, "\n") {
				t.Errorf("the worker got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(c.want, "\n"))
			}
		})
	}
}

func TestBodyLimit(t *testing.T) {
	f := newFront(t, &host.Host{Command: command("app"), Proxy: host.Proxy{MaxBody: 1000}})
	for _, c := range []struct {
		name string
		body io.Reader
		want int
	}{
		{"as large as allowed", strings.NewReader(strings.Repeat("x", 1000)), 200},
		{"larger", strings.NewReader(strings.Repeat("x", 1001)), 413},
		{"larger, without a length", io.MultiReader(strings.NewReader(strings.Repeat("x", 1001))), 413},
		{"much larger, without a length", io.MultiReader(strings.NewReader(strings.Repeat("x", 1<<20))), 413},
	} {
		resp, err := f.client.Post(f.url+"/sink", "text/plain", c.body)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		resp.Body.Close()
		if resp.StatusCode != c.want {
			t.Errorf("%s: %s, want %d", c.name, resp.Status, c.want)
		}
	}
}

func TestHeaderLimit(t *testing.T) {
	f := newFront(t, &host.Host{Command: command("app"), Proxy: host.Proxy{MaxHeader: 8 << 10}})
	for size, want := range map[int]int{4 << 10: 200, 32 << 10: 431} {
		req, _ := http.NewRequest("GET", f.url, nil)
		req.Header.Set("X-Large", strings.Repeat("x", size))
		resp, err := f.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("a header of %d bytes: %s, want %d", size, resp.Status, want)
		}
	}
}

func TestWorkerThatTakesTooLong(t *testing.T) {
	f := newFront(t, &host.Host{Command: command("app"), Proxy: host.Proxy{ResponseTimeout: 100 * time.Millisecond}})
	if status, _, text := f.ask("GET", "/hang", ""); status != http.StatusGatewayTimeout {
		t.Errorf("%d: %s, want 504", status, text)
	}
	if status, _, _ := f.ask("GET", "/", ""); status != http.StatusOK {
		t.Errorf("the next request: %d", status)
	}
}

func TestClientThatStallsIsCutOff(t *testing.T) {
	h := &host.Host{Command: command("app"), Proxy: host.Proxy{StallTimeout: 300 * time.Millisecond}}
	f := newFront(t, h)
	if status, _, _ := f.ask("POST", "/sink", "all of it"); status != http.StatusOK {
		t.Fatalf("status %d", status)
	}
	t.Run("sending", func(t *testing.T) {
		c, err := f.dial(t.Context(), "", "")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		fmt.Fprintf(c, "POST /sink HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhalf")
		_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil || resp.StatusCode != http.StatusRequestTimeout {
			t.Errorf("%v, %v, want 408", resp, err)
		}
	})
	t.Run("taking", func(t *testing.T) {
		c, err := f.dial(t.Context(), "", "")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		fmt.Fprintf(c, "GET /source?bytes=%d HTTP/1.1\r\nHost: a\r\n\r\n", 1<<30)
		f.printed("the download is cut")
	})
	t.Run("resting", func(t *testing.T) { // between requests nobody stalls
		c, err := f.dial(t.Context(), "", "")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		b := bufio.NewReader(c)
		for range 2 {
			fmt.Fprintf(c, "POST /sink HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nhalf")
			resp, err := http.ReadResponse(b, nil)
			if err != nil || resp.StatusCode != http.StatusOK {
				t.Fatalf("%v, %v", resp, err)
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = c.SetReadDeadline(time.Now().Add(time.Second / 2))
			if _, err := b.Peek(1); !os.IsTimeout(err) {
				t.Fatalf("an idle connection: %v", err)
			}
			_ = c.SetReadDeadline(time.Time{})
		}
	})
}

func TestClientThatLeavesIsNoticed(t *testing.T) {
	f := newFront(t, &host.Host{Command: command("app")})
	ctx, cancel := context.WithCancel(context.Background())
	req, _ := http.NewRequestWithContext(ctx, "GET", f.url+"/left", nil)
	go func() {
		if resp, err := f.client.Do(req); err == nil {
			resp.Body.Close()
		}
	}()
	f.printed("it has begun")
	cancel()
	f.printed("the client has left")
}

// What a response has besides its header and its body passes, too.
func TestTrailersAndHintsPass(t *testing.T) {
	f := newFront(t, &host.Host{Command: command("app")})
	c, err := f.dial(t.Context(), "", "")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintf(c, "GET /early HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
	all, err := io.ReadAll(c)
	text := string(all)
	if err != nil || !strings.HasPrefix(text, "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n") ||
		!strings.Contains(text, "HTTP/1.1 200 OK\r\n") || !strings.HasSuffix(text, "\r\nSum: 8\r\n\r\n") {
		t.Errorf("%v\n%s", err, text)
	}
}
