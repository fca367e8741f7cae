//go:build unix && !race

package host_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-session/holdfast/host"
)

// costVar is the folder of a process in the role "cost". It has, in front of one worker,
// a host at ours.sock, and a bare ReverseProxy at bare.sock, and at pooled.sock one with
// a BufferPool. At told.sock it says what it costs.
const costVar = "HOLDFAST_HOST_TEST_COST"

func init() {
	roles["cost"] = func() {
		if err := costs(os.Getenv(costVar)); err != nil {
			fmt.Println(err)
		}
	}
}

func costs(dir string) error {
	h := &host.Host{Command: command("app"), Output: io.Discard, Logger: slog.New(slog.DiscardHandler)}
	running, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- h.Run(running) }()
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		stop()
	}()
	every := time.NewTicker(time.Millisecond)
	defer every.Stop()
	for len(h.Status()) == 0 || h.Status()[0].State != host.Ready {
		select {
		case err := <-ended:
			return fmt.Errorf("the host has ended: %v", err)
		case <-every.C:
		}
	}
	bare := func(pool httputil.BufferPool) http.Handler {
		p := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: h.Status()[0].Addr})
		p.Transport = &http.Transport{MaxIdleConnsPerHost: 256, DisableCompression: true}
		p.BufferPool = pool
		return p
	}

	told := http.NewServeMux()
	told.HandleFunc("/cpu", func(w http.ResponseWriter, _ *http.Request) {
		var u syscall.Rusage
		_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
		fmt.Fprint(w, u.Utime.Nano()+u.Stime.Nano())
	})
	var profile bytes.Buffer
	told.HandleFunc("/begin", func(http.ResponseWriter, *http.Request) {
		profile.Reset()
		_ = pprof.StartCPUProfile(&profile)
	})
	told.HandleFunc("/end", func(w http.ResponseWriter, _ *http.Request) {
		pprof.StopCPUProfile()
		_, _ = w.Write(profile.Bytes())
	})

	for name, serve := range map[string]func(net.Listener) error{
		"ours.sock":   func(l net.Listener) error { return h.Serve(context.Background(), l) },
		"bare.sock":   func(l net.Listener) error { return http.Serve(l, bare(nil)) },
		"pooled.sock": func(l net.Listener) error { return http.Serve(l, bare(&pool{})) },
		"told.sock":   func(l net.Listener) error { return http.Serve(l, told) },
	} {
		l, err := net.Listen("unix", filepath.Join(dir, name))
		if err != nil {
			return err
		}
		go serve(l)
	}
	return <-ended
}

// A pool is a BufferPool.
type pool struct{ sync.Pool }

func (p *pool) Get() []byte {
	if b, ok := p.Pool.Get().(*[32 << 10]byte); ok {
		return b[:]
	}
	return make([]byte, 32<<10)
}

func (p *pool) Put(b []byte) { p.Pool.Put((*[32 << 10]byte)(b)) }

// A cost asks such a process.
type cost struct {
	t   testing.TB
	dir string
}

func newCost(t testing.TB) *cost {
	c := &cost{t, t.TempDir()}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), roleVar+"=cost", costVar+"="+c.dir)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	lifeline, err := cmd.StdinPipe() // it ends with us, however we end
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		lifeline.Close()
		_ = cmd.Wait()
	})
	every := time.NewTicker(5 * time.Millisecond)
	defer every.Stop()
	for range 4000 {
		<-every.C
		if _, err := os.Stat(filepath.Join(c.dir, "told.sock")); err == nil && c.load("ours", 1, 1) == nil && c.load("bare", 1, 1) == nil && c.load("pooled", 1, 1) == nil {
			return c
		}
	}
	t.Fatal("the proxies do not start")
	return nil
}

// told asks the process itself.
func (c *cost) told(path string) []byte {
	client := c.client("told")
	defer client.CloseIdleConnections()
	resp, err := client.Get("http://told" + path)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return b
}

func (c *cost) client(name string) *http.Client {
	return &http.Client{Transport: &http.Transport{
		MaxIdleConnsPerHost: 64, DisableCompression: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(c.dir, name+".sock"))
		},
	}}
}

// load makes n requests through a proxy, at a time by so many clients.
func (c *cost) load(name string, clients, n int) error {
	client := c.client(name)
	defer client.CloseIdleConnections()
	var wg sync.WaitGroup
	var done atomic.Int64
	failed := make(chan error, clients)
	for range clients {
		wg.Go(func() {
			for done.Add(1) <= int64(n) {
				resp, err := client.Get("http://shop.example/?a=1")
				if err == nil {
					_, err = io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
				}
				if err == nil && resp.StatusCode != http.StatusOK {
					err = fmt.Errorf("%s", resp.Status)
				}
				if err != nil {
					failed <- err
					return
				}
			}
		})
	}
	wg.Wait()
	select {
	case err := <-failed:
		return err
	default:
		return nil
	}
}

func (c *cost) cpu() int64 {
	n, err := strconv.ParseInt(string(c.told("/cpu")), 10, 64)
	if err != nil {
		c.t.Fatal(err)
	}
	return n
}

// BenchmarkCost is what a request costs the host's process in CPU time, and what it
// costs a bare ReverseProxy, in turn; -benchtime=20x makes 20 rounds.
func BenchmarkCost(b *testing.B) {
	const requests = 4000
	c := newCost(b)
	names := []string{"ours", "bare", "pooled"}
	per := map[string][]float64{}
	for round := range b.N + 1 { // the first one warms up
		for _, name := range names {
			before := c.cpu()
			if err := c.load(name, 8, requests); err != nil {
				b.Fatal(err)
			}
			if round > 0 {
				per[name] = append(per[name], float64(c.cpu()-before)/requests)
			}
		}
	}
	median := func(all []float64) float64 {
		all = slices.Sorted(slices.Values(all))
		return all[len(all)/2]
	}
	b.ReportMetric(0, "ns/op")
	for _, name := range names {
		b.ReportMetric(median(per[name])/1e3, name+"-µs/request")
		var ratios []float64
		for i := range per[name] {
			ratios = append(ratios, per["ours"][i]/per[name][i])
		}
		b.ReportMetric(median(ratios), "ours/"+name)
	}
}

// Of the CPU samples of a host under load, no more than one in twenty is our code's, or
// is the runtime's on its behalf.
func TestOwnShareOfTheCPU(t *testing.T) {
	c := newCost(t)
	c.told("/begin")
	var own, all int64
	var stacks map[string]int64
	for all < 300 {
		if err := c.load("ours", 8, 10_000); err != nil {
			t.Fatal(err)
		}
		o, a, s := share(t, c.told("/end"))
		own, all, stacks = own+o, all+a, s
		c.told("/begin")
	}
	t.Logf("%d of %d samples, %.1f %%", own, all, 100*float64(own)/float64(all))
	if own*20 > all {
		t.Errorf("%d of %d samples are ours:\n%v", own, all, stacks)
	}
}

// share counts the samples of a profile, and those for which our code is to blame: it
// or, below it, only what it uses of the runtime and the like.
func share(t *testing.T, profile []byte) (own, all int64, stacks map[string]int64) {
	z, err := gzip.NewReader(bytes.NewReader(profile))
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	// The fields of profile.proto.
	const sample, location, function, stringTable = 2, 4, 5, 6
	var names []string
	nameOf, functionsOf := map[uint64]uint64{}, map[uint64][]uint64{}
	fields(text, func(field int, _ uint64, b []byte) {
		switch field {
		case stringTable:
			names = append(names, string(b))
		case function: // 1 id, 2 name
			var id uint64
			fields(b, func(field int, n uint64, _ []byte) {
				switch field {
				case 1:
					id = n
				case 2:
					nameOf[id] = n
				}
			})
		case location: // 1 id, 4 line: the innermost of inlined ones first
			var id uint64
			fields(b, func(field int, n uint64, line []byte) {
				switch field {
				case 1:
					id = n
				case 4:
					fields(line, func(field int, n uint64, _ []byte) {
						if field == 1 {
							functionsOf[id] = append(functionsOf[id], n)
						}
					})
				}
			})
		}
	})
	stacks = map[string]int64{}
	fields(text, func(field int, _ uint64, b []byte) {
		if field != sample {
			return
		}
		var stack []string
		var count int64
		counted := false
		number := func(field int, n uint64) {
			switch {
			case field == 1: // a location
				for _, f := range functionsOf[n] {
					stack = append(stack, names[nameOf[f]])
				}
			case field == 2 && !counted: // how many samples, before how long they took
				count, counted = int64(n), true
			}
		}
		fields(b, func(field int, n uint64, packed []byte) {
			if packed == nil {
				number(field, n)
			}
			for len(packed) > 0 {
				n, size := binary.Uvarint(packed)
				packed = packed[size:]
				number(field, n)
			}
		})
		all += count
		if i := slices.IndexFunc(stack, func(f string) bool { return !isHelper(f) }); i >= 0 && strings.Contains(stack[i], "/holdfast/host.") {
			own += count
			stacks[strings.Join(stack[:i+1], " < ")] += count
		}
	})
	return own, all, stacks
}

// isHelper reports whether a function works for whoever calls it.
func isHelper(function string) bool {
	for _, p := range []string{"runtime.", "internal/", "sync.", "sync/", "time.", "context.", "strings.", "slices.", "maps.", "errors.", "net/netip.", "strconv.", "unicode", "aeshash", "memeq", "cmpbody", "indexbyte"} {
		if strings.HasPrefix(function, p) {
			return true
		}
	}
	return false
}

// fields calls f with each field of a message of protocol buffers: a number, or bytes.
func fields(b []byte, f func(field int, n uint64, b []byte)) {
	for len(b) > 0 {
		tag, size := binary.Uvarint(b)
		b = b[size:]
		n, size := binary.Uvarint(b)
		b = b[size:]
		if tag&7 == 2 {
			f(int(tag>>3), 0, b[:n])
			b = b[n:]
		} else {
			f(int(tag>>3), n, nil)
		}
	}
}
