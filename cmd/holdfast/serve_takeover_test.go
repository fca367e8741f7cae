//go:build unix

package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-session/holdfast/stateserver"
	"github.com/holdfast-session/holdfast/store"
)

// A crowd is the clients of a server whose place another one takes meanwhile.
type crowd struct {
	t       *testing.T
	client  *stateserver.Client
	free    []atomic.Uint64 // by session: how often it was counted up, and that was acknowledged
	longest atomic.Int64    // of all requests that need not wait for another's lock
	total   atomic.Int64
	stop    chan struct{}
	work    sync.WaitGroup
}

// body is a session that was counted up n times, of the usual size.
func body(n uint64) []byte {
	return binary.BigEndian.AppendUint64(make([]byte, 492), n)
}

func counted(rec *store.Record) uint64 { return binary.BigEndian.Uint64(rec.Body[492:]) }

func (c *crowd) id(i int) store.ID {
	return store.ID{App: "shop", Session: fmt.Sprintf("session%08d", i)}
}

// timed makes one request that has to succeed.
func (c *crowd) timed(what string, request func(ctx context.Context) error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	start := time.Now()
	if err := request(ctx); err != nil {
		c.t.Errorf("%s: %v after %v", what, err, time.Since(start))
	}
	c.total.Add(1)
	d := int64(time.Since(start))
	for old := c.longest.Load(); d > old && !c.longest.CompareAndSwap(old, d); old = c.longest.Load() {
	}
}

// fill makes n sessions, with many callers at a time.
func (c *crowd) fill(n int) {
	c.free = make([]atomic.Uint64, n)
	var next atomic.Int64
	var work sync.WaitGroup
	for range 64 {
		work.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				rec := store.Record{Version: store.NewVersion(), Timeout: time.Hour, Body: body(0)}
				c.timed("create", func(ctx context.Context) error { return c.client.Create(ctx, c.id(i), &rec, false) })
			}
		})
	}
	work.Wait()
}

// visit counts sessions up under their locks until the end, or only reads them.
func (c *crowd) visit(worker int) {
	random := rand.New(rand.NewPCG(uint64(worker), 7))
	for {
		select {
		case <-c.stop:
			return
		default:
		}
		i := random.IntN(len(c.free))
		var rec store.Record
		if random.IntN(4) > 0 {
			c.timed("load", func(ctx context.Context) error { return c.client.Load(ctx, c.id(i), &rec) })
			continue
		}
		owner := store.NewOwner()
		c.timed("lock", func(ctx context.Context) error {
			return c.client.Lock(ctx, c.id(i), store.LockOptions{Owner: owner, Wait: 30 * time.Second, Stale: time.Minute}, &rec)
		})
		if len(rec.Body) != 500 {
			c.t.Errorf("session %d has %d bytes", i, len(rec.Body))
			return
		}
		n := counted(&rec) + 1
		rec.Body = body(n)
		c.timed("save", func(ctx context.Context) error { return c.client.Save(ctx, c.id(i), &rec, store.NewVersion(), false) })
		c.free[i].Add(1)
	}
}

// A holder has the lock of a session while the servers change places, and then saves.
type holder struct {
	id  store.ID
	rec store.Record
}

func (c *crowd) hold(i int) *holder {
	h := &holder{id: store.ID{App: "held", Session: fmt.Sprintf("session%08d", i)}}
	h.rec = store.Record{Version: store.NewVersion(), Timeout: time.Hour, Body: body(0)}
	h.rec.Lock.Owner = store.NewOwner()
	c.timed("create a held one", func(ctx context.Context) error { return c.client.Create(ctx, h.id, &h.rec, true) })
	return h
}

// A new process takes the place of the one that serves, with clients at work all the
// time: no request fails, none takes long, no session and no lock is lost.
func TestTakeover(t *testing.T) {
	long := os.Getenv("HOLDFAST_LONG") != ""
	switch {
	case raceDetector: // which makes everything ten times slower
		takeOver(t, 10_000, 10*time.Second, false)
	case long:
		t.Run("100k", func(t *testing.T) { takeOver(t, 100_000, time.Second, true) })
		t.Run("1M", func(t *testing.T) { takeOver(t, 1_000_000, time.Minute, true) }) // is reported
	default:
		takeOver(t, 100_000, time.Second, false)
	}
}

// takeOver changes the process that serves n sessions several times. No request may
// take longer than limit at each change or, on a machine that is busy with other
// things, at the fastest.
func takeOver(t *testing.T, n int, limit time.Duration, each bool) {
	dir := t.TempDir()
	old := start(t, "serve", "--listen", "127.0.0.1:0", "--data", dir, "--max-memory", "none")
	addr := old.ready(ready)
	client, err := stateserver.Dial(addr, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	c := &crowd{t: t, client: client, stop: make(chan struct{})}
	c.fill(n)
	var holders []*holder
	for i := range 8 {
		holders = append(holders, c.hold(i))
	}
	for i := range 16 {
		c.work.Go(func() { c.visit(i) })
	}
	// Who waits for the lock of a holder. Each gets it once, in some order.
	var waits sync.WaitGroup
	got := make([]atomic.Uint64, len(holders))
	for i := range 3 * len(holders) {
		h := holders[i%len(holders)]
		waits.Go(func() {
			var rec store.Record
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
			defer cancel()
			o := store.LockOptions{Owner: store.NewOwner(), Wait: 2 * time.Minute, Stale: 5 * time.Minute}
			if err := client.Lock(ctx, h.id, o, &rec); err != nil {
				t.Errorf("who waited for a lock: %v", err)
				return
			}
			if n := got[i%len(holders)].Add(1); counted(&rec) != n {
				t.Errorf("who waited as number %d sees %d saves", n, counted(&rec))
			}
			rec.Body = body(counted(&rec) + 1)
			if err := client.Save(ctx, h.id, &rec, store.NewVersion(), false); err != nil {
				t.Errorf("who waited for a lock saves: %v", err)
			}
		})
	}
	eventually(t, "all wait", func() bool {
		return figure(t, "unix:"+filepath.Join(dir, "admin.sock"), "holdfast_requests_waiting") >= 3*float64(len(holders))
	})
	steady := c.longest.Swap(0)
	before := c.total.Load()

	shortest, rounds := time.Duration(math.MaxInt64), 0
	for ; rounds < 2 || rounds < 6 && (each || shortest > limit); rounds++ {
		c.longest.Store(0)
		next := start(t, "serve", "--listen", "127.0.0.1:0", "--data", dir, "--max-memory", "none", "--takeover")
		if took := next.ready(ready); took != addr {
			t.Fatalf("the new one serves on %s, the old one did on %s", took, addr)
		}
		if status := old.wait(); status != 0 {
			t.Fatalf("the old one ends with status %d", status)
		}
		old.logs("handed over")
		from := c.total.Load()
		eventually(t, "the clients go on", func() bool { return c.total.Load() > from+1000 })
		old = next
		longest := time.Duration(c.longest.Load())
		t.Logf("change %d: the longest request took %v", rounds+1, longest)
		shortest = min(shortest, longest)
		if each && longest > limit {
			t.Errorf("change %d: the longest request took %v; want %v at most", rounds+1, longest, limit)
		}
	}
	if shortest > limit {
		t.Errorf("the longest request of the fastest change took %v", shortest)
	}
	for _, h := range holders {
		var locked *store.LockedError
		var rec store.Record
		if err := client.Lock(context.Background(), h.id, store.LockOptions{Owner: store.NewOwner(), Stale: time.Hour}, &rec); !errors.As(err, &locked) {
			t.Errorf("a lock that was held is free: %v", err)
		}
		h.rec.Body = body(1)
		c.timed("save by a holder", func(ctx context.Context) error { return client.Save(ctx, h.id, &h.rec, store.NewVersion(), false) })
	}
	waits.Wait()
	close(c.stop)
	c.work.Wait()

	t.Logf("%d sessions, %d changes, %d requests meanwhile (without a change the longest took %v)", n, rounds, c.total.Load()-before, time.Duration(steady))
	c.check()
	old.stop()
}

// check wants every session to be there and to have been counted up as often as was
// acknowledged.
func (c *crowd) check() {
	var work sync.WaitGroup
	for w := range 16 {
		work.Go(func() {
			for i := w; i < len(c.free); i += 16 {
				var rec store.Record
				if err := c.client.Load(context.Background(), c.id(i), &rec); err != nil {
					c.t.Errorf("session %d: %v", i, err)
					return
				}
				if counted(&rec) != c.free[i].Load() {
					c.t.Errorf("session %d was counted up %d times and has %d", i, c.free[i].Load(), counted(&rec))
				}
			}
		})
	}
	work.Wait()
}

// An heir speaks to the process that serves as a new one does.
type heir struct {
	t *testing.T
	c *net.UnixConn
	r *bufio.Reader
}

func newHeir(t *testing.T, dir string) *heir {
	t.Helper()
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: filepath.Join(dir, "control.sock"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return &heir{t, c, bufio.NewReader(c)}
}

func (h *heir) says(op string) {
	h.t.Helper()
	if _, err := fmt.Fprintf(h.c, "{\"op\":%q,\"pid\":1}\n", op); err != nil {
		h.t.Fatal(err)
	}
}

func (h *heir) hears(op string) {
	h.t.Helper()
	line, err := h.r.ReadString('\n')
	if err != nil {
		h.t.Fatal(err)
	}
	var m struct{ Op string }
	if err := json.Unmarshal([]byte(line), &m); err != nil || m.Op != op {
		h.t.Fatalf("%s, want %s (%v)", line, op, err)
	}
}

// Wherever the new process dies, the old one goes on with what it had.
func TestTakeoverThatDies(t *testing.T) {
	dir := t.TempDir()
	p := start(t, "serve", "--listen", "127.0.0.1:0", "--listen", "unix:"+filepath.Join(dir, "s.sock"), "--data", dir)
	addrs := strings.Fields(p.ready(ready))
	var clients []*stateserver.Client
	for _, addr := range addrs {
		c, err := stateserver.Dial(addr, nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		clients = append(clients, c)
	}
	id := store.ID{App: "shop", Session: "s1"}
	first := store.Record{Version: store.NewVersion(), Timeout: time.Hour, Body: body(1)}
	if err := clients[0].Create(context.Background(), id, &first, false); err != nil {
		t.Fatal(err)
	}
	for i, die := range []func(h *heir){
		func(h *heir) {},
		func(h *heir) { h.says("something else"); h.hears("refused") },
		func(h *heir) { h.says("takeover"); h.hears("listeners") },
		func(h *heir) { h.says("takeover"); h.hears("listeners"); h.says("release") },
		func(h *heir) { h.says("takeover"); h.hears("listeners"); h.says("release"); h.hears("released") },
	} {
		h := newHeir(t, dir)
		die(h)
		h.c.Close()
		for j, c := range clients {
			var rec store.Record
			if err := c.Load(context.Background(), id, &rec); err != nil || counted(&rec) != 1 {
				t.Errorf("after heir %d, on %s: %v", i, addrs[j], err)
			}
		}
	}
	p.logs("the other process did not take over; serving on")
	next := start(t, "serve", "--listen", addrs[0], "--data", dir, "--takeover")
	next.ready(ready)
	if status := p.wait(); status != 0 {
		t.Errorf("status %d", status)
	}
	var rec store.Record
	if err := clients[0].Load(context.Background(), id, &rec); err != nil || counted(&rec) != 1 {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "s.sock")); err == nil {
		t.Error("a socket that the new one does not listen on is still there")
	}
	next.stop()
}

// A new process that dies may leave the folder a moment after its connection: the old
// one waits for that.
func TestTakeoverThatDiesWithTheFolder(t *testing.T) {
	dir := t.TempDir()
	p := start(t, "serve", "--listen", "127.0.0.1:0", "--data", dir)
	addr := p.ready(ready)
	dial(t, addr).wants(put+"hello", http.StatusOK)
	h := newHeir(t, dir)
	h.says("takeover")
	h.hears("listeners")
	h.says("release")
	h.hears("released")
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		t.Fatal(err)
	}
	h.c.Close()
	p.logs("the other process still has the folder")
	f.Close()
	p.logs("the other process did not take over; serving on")
	dial(t, addr).wants("GET /app/s1 HTTP/1.1\r\nHost: h\r\n\r\n", http.StatusOK)
	p.stop()
}

// Whenever a real one is killed, or told to stop twice, one of the two serves, or has
// stopped in order.
func TestTakeoverThatIsKilled(t *testing.T) {
	for _, signals := range [][]syscall.Signal{{syscall.SIGKILL}, {syscall.SIGTERM, syscall.SIGTERM}} {
		for range 4 {
			dir := t.TempDir()
			p := start(t, "serve", "--listen", "127.0.0.1:0", "--data", dir)
			p.ready(ready)
			next := start(t, "serve", "--listen", "127.0.0.1:0", "--data", dir, "--takeover")
			p.logs("the folder is free for the other process")
			for _, s := range signals {
				if err := next.cmd.Process.Signal(s); err != nil {
					break // it has ended already
				}
			}
			next.wait()
			eventually(t, "the old one knows", func() bool {
				log := p.stderr.String()
				return strings.Contains(log, "handed over") || strings.Contains(log, "serving on") || strings.Contains(log, "cannot be had back")
			})
			if strings.Contains(p.stderr.String(), "handed over") {
				if status := p.wait(); status != 0 {
					t.Errorf("status %d", status)
				}
				continue
			}
			p.stop()
		}
	}
}

// One that does not answer is left alone.
func TestTakeoverFromOneThatHangs(t *testing.T) {
	dir := t.TempDir()
	old := start(t, "serve", "--listen", "127.0.0.1:0", "--data", dir)
	addr := old.ready(ready)
	dial(t, addr).wants(put+"hello", http.StatusOK)
	old.signal(syscall.SIGSTOP)
	next := start(t, "serve", "--listen", "127.0.0.1:0", "--data", dir, "--takeover=500ms")
	if status := next.wait(); status != 1 || !strings.Contains(next.stderr.String(), "does not answer within 500ms") {
		t.Errorf("status %d: %s", status, next.stderr)
	}
	old.signal(syscall.SIGCONT)
	dial(t, addr).wants("GET /app/s1 HTTP/1.1\r\nHost: h\r\n\r\n", http.StatusOK)
	old.stop()
}

// A client that takes its time with a request does not keep the new one waiting for
// longer than it is ready to.
func TestTakeoverDespiteASlowClient(t *testing.T) {
	dir := t.TempDir()
	old := start(t, "serve", "--listen", "127.0.0.1:0", "--data", dir, "--drain", "1h")
	addr := old.ready(ready)
	c := dial(t, addr)
	if _, err := c.c.Write([]byte(put + "hel")); err != nil { // and no more
		t.Fatal(err)
	}
	eventually(t, "the request's beginning is read", func() bool {
		return figure(t, "unix:"+filepath.Join(dir, "admin.sock"), "holdfast_received_bytes_total") > 0
	})
	next := start(t, "serve", "--listen", "127.0.0.1:0", "--data", dir, "--takeover=2s")
	next.ready(ready)
	if status := old.wait(); status != 0 {
		t.Errorf("status %d", status)
	}
	old.logs("some connections were still busy and are cut")
	dial(t, addr).wants("GET /app/s1 HTTP/1.1\r\nHost: h\r\n\r\n", http.StatusNotFound)
	next.stop()
}

// One whose configuration is wrong does not disturb the one that serves.
func TestTakeoverWithAMistake(t *testing.T) {
	dir := t.TempDir()
	old := start(t, "serve", "--listen", "127.0.0.1:0", "--data", dir)
	addr := old.ready(ready)
	c := dial(t, addr)
	c.wants(put+"hello", http.StatusOK)
	next := start(t, "serve", "--listen", "0.0.0.0:0", "--data", dir, "--takeover")
	if status := next.wait(); status != 1 {
		t.Errorf("status %d: %s", status, next.stderr)
	}
	c.wants("GET /app/s1 HTTP/1.1\r\nHost: h\r\n\r\n", http.StatusOK) // on the same connection
	old.stop()
}

func TestTakeoverFromNobody(t *testing.T) {
	p := start(t, "serve", "--listen", "127.0.0.1:0", "--data", t.TempDir(), "--takeover")
	dial(t, p.ready(ready)).wants(put+"hello", http.StatusOK)
	p.logs("nobody to take over from")
	p.stop()
}
