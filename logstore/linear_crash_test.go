package logstore

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-session/holdfast/stateserver"
	"github.com/holdfast-session/holdfast/store"
	"github.com/holdfast-session/holdfast/storetest"
)

const (
	linearClients = 4
	linearVisits  = 60 // of each client in one round
	linearFaults  = 4  // of the network in one round
	linearLimit   = 30 * time.Second
)

// TestLinearizable kills a state server in every round, and starts it again, while
// clients share a few sessions by way of proxies that delay and cut their connections.
// What they were told must be explained by their calls having happened one after the
// other: as TestKill, but with several writers of a session, and its locks.
func TestLinearizable(t *testing.T) {
	for _, mode := range []Sync{Always, Interval} {
		t.Run(fmt.Sprint(mode), func(t *testing.T) {
			t.Parallel()
			n := &network{
				addr:   filepath.Join(t.TempDir(), "data.sock"),
				rand:   rand.New(rand.NewPCG(9, uint64(mode))),
				opened: make(chan struct{}),
				ended:  make(chan struct{}),
			}
			p := n.serve(t, mode)
			for round := range runs(25, 100) {
				p = n.round(t, p, mode, round)
				if t.Failed() {
					return
				}
			}
			p.stop()
		})
	}
}

// A network lies between clients and the server at addr.
type network struct {
	addr  string
	ended chan struct{} // closed at the end of each round

	mu     sync.Mutex
	rand   *rand.Rand
	faults int           // left in this round
	opened chan struct{} // closed while there is a server
}

// serve starts the server.
func (n *network) serve(t *testing.T, mode Sync) *server {
	t.Helper()
	p := startServer(t, n.addr[:len(n.addr)-len(".sock")], mode)
	p.says("ready")
	n.mu.Lock()
	defer n.mu.Unlock()
	close(n.opened)
	return p
}

// shut keeps new connections waiting for the next server.
func (n *network) shut() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.opened = make(chan struct{})
}

// open waits until there is a server.
func (n *network) open(until <-chan struct{}) {
	n.mu.Lock()
	opened := n.opened
	n.mu.Unlock()
	select {
	case <-opened:
	case <-until:
	}
}

func (n *network) intN(limit int) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.rand.IntN(limit)
}

// round has clients work, and the server killed and started, and checks what came
// of it.
func (n *network) round(t *testing.T, p *server, mode Sync, round int) *server {
	t.Helper()
	n.faults, n.ended = linearFaults, make(chan struct{})
	app := fmt.Sprint("/", round)
	var ids []store.ID
	for _, name := range []string{"a", "b", "c"} {
		ids = append(ids, store.ID{App: app, Session: name})
	}
	h := storetest.NewVisits(uint64(n.intN(1<<30)), 20*time.Millisecond, ids...)
	impatient, leave := context.WithCancel(t.Context())
	defer leave()
	var (
		left    atomic.Int64
		moment  = make(chan struct{})
		working sync.WaitGroup
		proxies sync.WaitGroup
		clients []*stateserver.Client
	)
	left.Store(int64(10 + n.intN(linearClients*linearVisits/2)))
	for i := range linearClients {
		var v *storetest.Visitor
		addr := n.proxy(t, &proxies)
		dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
			nc, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
			if err != nil {
				return nil, err
			}
			return &watchedConn{TCPConn: nc.(*net.TCPConn), lost: v.Lost}, nil
		}
		client, err := stateserver.Dial("server:1", &stateserver.ClientOptions{Conns: 1, OpenAfter: -1, DialContext: dial})
		if err != nil {
			t.Fatal(err)
		}
		clients = append(clients, client)
		v = h.Visitor(client)
		working.Go(func() {
			ctx := impatient
			if i%2 == 0 {
				ctx = t.Context()
			}
			for range linearVisits {
				err := v.Visit(ctx)
				if left.Add(-1) == 0 {
					close(moment)
				}
				if err != nil { // of the kill, or of what was left of a request
					ctx = t.Context()
					n.open(ctx.Done())
				}
			}
		})
	}
	<-moment
	n.shut()
	h.Crash(p.kill)
	leave()
	p = n.serve(t, mode)
	working.Wait()
	for _, c := range clients {
		_ = c.Close()
	}
	close(n.ended)
	proxies.Wait()
	h.Check(t, linearLimit)
	return p
}

// A watchedConn tells when it is lost, and of each request that is sent after that.
type watchedConn struct {
	*net.TCPConn
	lost  func()
	ended atomic.Bool
}

func (c *watchedConn) Read(b []byte) (int, error) {
	n, err := c.TCPConn.Read(b)
	if err != nil && !c.ended.Swap(true) {
		c.lost()
	}
	return n, err
}

func (c *watchedConn) Write(b []byte) (int, error) {
	if c.ended.Load() {
		c.lost()
	}
	return c.TCPConn.Write(b)
}

func (c *watchedConn) Close() error {
	if !c.ended.Swap(true) {
		c.lost()
	}
	return c.TCPConn.Close()
}

// proxy starts a proxy of the server and returns its address.
func (n *network) proxy(t *testing.T, running *sync.WaitGroup) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := n.ended
	running.Go(func() {
		<-ended
		_ = l.Close()
	})
	running.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() { n.connect(nc.(*net.TCPConn), ended) })
		}
	})
	return l.Addr().String()
}

// connect takes one connection to the server, once there is one.
func (n *network) connect(client *net.TCPConn, ended <-chan struct{}) {
	defer func() { _ = client.Close() }()
	n.open(ended)
	nc, err := net.Dial("unix", n.addr)
	if err != nil {
		return
	}
	server := nc.(*net.UnixConn)
	defer func() { _ = server.Close() }()
	over := make(chan struct{})
	defer close(over)
	go func() {
		select {
		case <-ended:
		case <-over:
		}
		_ = client.Close()
		_ = server.Close()
	}()
	var both sync.WaitGroup
	cut := func() { _ = client.SetLinger(0); _ = client.Close(); _ = server.Close() }
	both.Go(func() { n.pump(server, client, cut) })
	both.Go(func() { n.pump(client, server, cut) })
	both.Wait()
}

type halfConn interface {
	net.Conn
	CloseWrite() error
}

// pump passes on what comes from one end to the other, some of it late. In the middle
// of a message it may cut the connection, or tell the other end that nothing more comes.
func (n *network) pump(to, from halfConn, cut func()) {
	buf := make([]byte, 512)
	for strike := n.intN(6000); ; {
		got, err := from.Read(buf)
		if late := n.intN(4000); late < 1000 {
			<-time.After(time.Duration(late) * 3 * time.Microsecond)
		}
		if got > strike && n.fault() {
			_, _ = to.Write(buf[:strike])
			if n.intN(3) > 0 {
				cut()
			} else {
				_ = to.CloseWrite()
			}
			return
		}
		strike -= min(got, strike)
		if _, werr := to.Write(buf[:got]); err != nil || werr != nil {
			_ = to.CloseWrite()
			return
		}
	}
}

// fault reports whether there is a fault left in this round.
func (n *network) fault() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.faults--
	return n.faults >= 0
}
