package stateserver

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-session/holdfast/inproc"
	"github.com/holdfast-session/holdfast/store"
)

const (
	shopSecret  = "shop-0123456789abcdef"
	readSecret  = "read-0123456789abcdef"
	adminSecret = "admin-0123456789abcdef"
)

var testTokens = []Token{
	{Name: "shop", Hash: HashToken(shopSecret), Apps: []string{"/shop", "plain"}, Right: Write},
	{Name: "reader", Hash: HashToken(readSecret)},
	{Name: "admin", Hash: HashToken(adminSecret), Right: Admin},
}

// A logBuffer is what a server has logged.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *logBuffer) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// count is how many lines have all of words.
func (l *logBuffer) count(words ...string) int {
	n := 0
	for line := range strings.Lines(l.String()) {
		if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(line, w) }) {
			n++
		}
	}
	return n
}

func TestTokens(t *testing.T) {
	kept := inproc.New(nil)
	addr := serve(t, &Server{Store: kept, Access: Access{Tokens: testTokens}})
	ctx := testContext(t)
	shop := dial(t, addr, &ClientOptions{Token: shopSecret})
	reader := dial(t, addr, &ClientOptions{Token: readSecret})
	admin := dial(t, addr, &ClientOptions{Token: adminSecret})
	nobody := dial(t, addr, nil)
	stranger := dial(t, addr, &ClientOptions{Token: shopSecret + "x"})

	mine, plain, others := store.ID{App: "/shop", Session: "s"}, store.ID{App: "plain", Session: "s"}, store.ID{App: "/bank", Session: "s"}
	mustCreate(t, shop, mine, "mine")
	mustCreate(t, shop, plain, "plain")
	mustCreate(t, admin, others, "others")

	denied := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, fs.ErrPermission) || errors.Is(err, store.ErrUnavailable) || errors.Is(err, store.ErrUnsure) {
			t.Errorf("%s: %v; want an error that matches fs.ErrPermission and no other", what, err)
		}
	}
	denied("no token", nobody.Touch(ctx, mine))
	denied("a wrong token", stranger.Touch(ctx, mine))
	denied("Create without a token", nobody.Create(ctx, store.ID{App: "/shop", Session: "new"}, &store.Record{Version: 1, Timeout: time.Minute}, false))

	// An application that is another's looks like one that does not exist.
	there := shop.Touch(ctx, others)
	absent := shop.Touch(ctx, store.ID{App: "/nowhere", Session: "s"})
	denied("another's application", shop.Load(ctx, others, new(store.Record)))
	denied("another's application", there)
	if fmt.Sprint(there) != fmt.Sprint(absent) {
		t.Errorf("another's application is answered %q, an unknown one %q; want the same", there, absent)
	}

	if err := reader.Touch(ctx, mine); err != nil {
		t.Errorf("Touch by a reader: %v", err)
	}
	if got := mustLoad(t, reader, others); string(got.Body) != "others" {
		t.Errorf("a reader got %q", got.Body)
	}
	denied("Lock by a reader", reader.Lock(ctx, mine, store.LockOptions{Owner: 1}, new(store.Record)))
	denied("Save by a reader", reader.Save(ctx, mine, mustLoad(t, reader, mine), 2, false))
	denied("Unlock by a reader", reader.Unlock(ctx, mine, store.Lock{Owner: 1}))
	denied("Remove by a reader", reader.Remove(ctx, mine, store.Lock{}, store.Reason{}))
	_, err := reader.Ended(ctx, "/shop", 1, time.Minute)
	denied("Ended by a reader", err)
	if page, _, err := reader.List(ctx, store.Query{App: "/shop"}); err != nil || len(page) != 1 {
		t.Errorf("List by a reader: %v, %v", page, err)
	}
	_, _, err = reader.List(ctx, store.Query{})
	denied("List of everything by a reader", err)
	_, _, err = shop.List(ctx, store.Query{App: "/bank"})
	denied("List of another's application", err)
	if page, _, err := admin.List(ctx, store.Query{}); err != nil || len(page) != 3 {
		t.Errorf("List of everything by an admin: %v, %v", page, err)
	}
	if err := shop.Remove(ctx, plain, store.Lock{}, store.Reason{Kind: store.Abandoned}); err != nil {
		t.Errorf("Remove: %v", err)
	}
}

// TestTokensOnTheWire: what is refused before the server knows who asks.
func TestTokensOnTheWire(t *testing.T) {
	log := new(logBuffer)
	s := &Server{Store: inproc.New(nil), Logger: log.logger(), Access: Access{Tokens: testTokens}}
	addr := serve(t, s)
	w := connect(t, addr)
	get := "GET " + targetOf(store.ID{App: "/shop", Session: "s"}) + " HTTP/1.1"
	for _, tc := range []struct {
		name string
		head []string
		want string
	}{
		{"another scheme", []string{"Holdfast: 1", "Authorization: Basic " + shopSecret}, "401 Unauthorized"},
		{"no secret", []string{"Holdfast: 1", "Authorization: Bearer"}, "401 Unauthorized"},
		{"a right one", []string{"Holdfast: 1", "AUTHORIZATION: bearer  " + shopSecret}, notFound},
		{"a wrong one after a right one", []string{"Holdfast: 1", "Authorization: Bearer " + shopSecret + "0"}, "401 Unauthorized"},
		{"another right one", []string{"Holdfast: 1", "Authorization: Bearer " + readSecret}, notFound},
		{"none after a right one", []string{"Holdfast: 1"}, "401 Unauthorized"},
		{"an old client", nil, "400 Bad Request"},
		{"an old client with a token", []string{"Authorization: Bearer " + shopSecret}, notFound},
		{"a malformed field", []string{"Holdfast: 1", "If-None-Match: x"}, "401 Unauthorized"},
	} {
		if got := status(w.ask("", append([]string{get}, tc.head...)...)); got != tc.want {
			t.Errorf("%s: %s; want %s", tc.name, got, tc.want)
		}
	}
	// A body is not waited for, however the head comes.
	put := lines("", "PUT /a HTTP/1.1", "Holdfast: 1", "Content-Length: 1000000")
	w.send(put)
	if got := status(w.receive(methodPut)); got != "401 Unauthorized" {
		t.Errorf("a large body without a token: %s; want 401", got)
	}
	w.Conn.(*net.TCPConn).CloseWrite()
	w.ends()
	split := func(addr string, s *Server) string {
		w := connect(t, addr)
		before := s.Stats().BytesIn
		w.send(put[:20])
		waitFor(t, "the head's beginning to be read", func() bool { return s.Stats().BytesIn == before+20 })
		w.send(put[20:])
		return status(w.receive(methodPut))
	}
	if got := split(addr, s); got != "401 Unauthorized" {
		t.Errorf("a large body without a token, the head in two pieces: %s; want 401", got)
	}
	closed := &Server{Store: inproc.New(nil), Access: Access{Allow: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}}
	if got := split(serve(t, closed), closed); got != "403 Forbidden" {
		t.Errorf("a large body on a connection that is refused, the head in two pieces: %s; want 403", got)
	}
	if n := log.count("refused", "why=token"); n != 1 {
		t.Errorf("%d lines in the log; want one:\n%s", n, log)
	}
	if strings.Contains(log.String(), "0123456789abcdef") {
		t.Errorf("a secret is in the log:\n%s", log)
	}
	if got := s.Stats().Refused["token"]; got != 8 {
		t.Errorf("%d refusals were counted; want 8", got)
	}
}

func TestSetAccess(t *testing.T) {
	kept := inproc.New(nil)
	s := &Server{Store: kept}
	addr := serve(t, s)
	mustCreate(t, kept, targetID, "")
	ask := func(w *wire, head ...string) string {
		return status(w.ask("", append([]string{"HEAD " + target + " HTTP/1.1", "Holdfast: 1"}, head...)...))
	}
	w := connect(t, addr)
	set := func(a Access) {
		t.Helper()
		if err := s.SetAccess(a); err != nil {
			t.Fatal(err)
		}
	}
	want := func(got, want, when string) {
		t.Helper()
		if got != want {
			t.Errorf("%s: %s; want %s", when, got, want)
		}
	}
	bearer := func(secret string) string { return "Authorization: Bearer " + secret }
	want(ask(w), ok, "with open access")
	set(Access{Tokens: testTokens})
	want(ask(w), "401 Unauthorized", "once tokens are needed")
	want(ask(w, bearer(readSecret)), ok, "with a token")
	set(Access{Tokens: testTokens[:1]})
	want(ask(w, bearer(readSecret)), "401 Unauthorized", "with a token that was withdrawn")
	want(ask(w, bearer(shopSecret)), "403 Forbidden", "with another application's token")
	set(Access{Tokens: testTokens, Trusted: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}})
	want(ask(w), ok, "from a trusted network")
	want(status(w.ask("", "HEAD "+target+" HTTP/1.1")), ok, "an old client in a trusted network")
	set(Access{Allow: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}})
	want(ask(w), "403 Forbidden", "from a network that may not connect any more")
	w.ends()
	want(ask(connect(t, addr)), "403 Forbidden", "from a network that may not connect")
	set(Access{ClientCerts: true})
	if b, err := connect(t, addr).r.ReadByte(); err == nil {
		t.Errorf("a connection without a certificate was answered %q", b)
	}
	set(Access{})
	want(ask(connect(t, addr)), ok, "with open access again")

	for name, bad := range map[string]Access{
		"no hash":          {Tokens: []Token{{Name: "a", Hash: "secret"}}},
		"one secret twice": {Tokens: []Token{testTokens[0], {Name: "b", Hash: testTokens[0].Hash}}},
		"a bounded admin":  {Tokens: []Token{{Name: "a", Hash: testTokens[0].Hash, Apps: []string{"/"}, Right: Admin}}},
		"a right of none":  {Tokens: []Token{{Name: "a", Hash: testTokens[0].Hash, Right: 7}}},
		"no network":       {Allow: []netip.Prefix{{}}},
		"a negative limit": {MaxConns: -1},
	} {
		if err := s.SetAccess(bad); err == nil {
			t.Errorf("%s was taken", name)
		}
		if err := (&Server{Store: kept, Access: bad}).ListenAndServe("127.0.0.1:0"); err == nil || err == ErrServerClosed {
			t.Errorf("Serve with %s: %v", name, err)
		}
	}
	want(ask(connect(t, addr)), ok, "after settings that were refused")
}

// TestSetAccessWhileServing is for the race detector.
func TestSetAccessWhileServing(t *testing.T) {
	s := &Server{Store: inproc.New(nil)}
	addr := serve(t, s)
	c := dial(t, addr, &ClientOptions{Token: readSecret})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 200 {
				if err := c.Touch(t.Context(), targetID); !errors.Is(err, store.ErrNotFound) {
					t.Errorf("Touch: %v", err)
					return
				}
			}
		})
	}
	for i := range 100 {
		a := Access{Tokens: testTokens, Rate: 1e6}
		if i%2 == 0 {
			a = Access{}
		}
		if err := s.SetAccess(a); err != nil {
			t.Error(err)
		}
		s.Stats()
	}
	wg.Wait()
}

func TestProtectedServersListenAnywhere(t *testing.T) {
	for name, a := range map[string]Access{"tokens": {Tokens: testTokens}, "certificates": {ClientCerts: true}} {
		l, err := net.Listen("tcp", "0.0.0.0:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Run(name, func(t *testing.T) {
			s := &Server{Store: inproc.New(nil), Access: a}
			serve(t, s, l)
			if r := s.rules.Load(); r != nil && !r.welcomes(netip.MustParseAddr("10.0.0.9"), false) {
				t.Error("a remote peer is not welcome")
			}
		})
	}
}

// A peerFrom is a connection from an address of a test's choice.
type peerFrom struct {
	net.Conn
	from netip.Addr
}

func (p peerFrom) RemoteAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(p.from, 1))
}

// from connects from an address.
func (p *pipes) from(t testing.TB, addr string) *wire {
	near, far := net.Pipe()
	p.conns <- peerFrom{far, netip.MustParseAddr(addr)}
	t.Cleanup(func() { near.Close() })
	return &wire{t, near, bufio.NewReader(near)}
}

// TestConnsOfAnAddress: the limit of one address is not that of another, and comes
// free again.
func TestConnsOfAnAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kept := inproc.New(nil)
		defer kept.Close()
		net := newPipes()
		log := new(logBuffer)
		s := &Server{Store: kept, AllowRemote: true, Access: Access{MaxConns: 2}, Logger: log.logger()}
		serve(t, s, net)
		head := func(w *wire) string { return status(w.ask("", "HEAD /a HTTP/1.1", "Holdfast: 1")) }
		const first, second = "2001:db8::1", "2001:db8::2" // of one network
		a, b := net.from(t, first), net.from(t, second)
		if head(a) != notFound || head(b) != notFound {
			t.Error("two connections are not served")
		}
		c := net.from(t, first)
		if got := head(c); got != "429 Too Many Requests" {
			t.Errorf("the third connection: %s; want 429", got)
		}
		c.ends()
		if got := head(net.from(t, "2001:db8:0:1::1")); got != notFound {
			t.Errorf("another network: %s; want 404", got)
		}
		silent := net.from(t, first)
		start := time.Now()
		silent.ends()
		if d := time.Since(start); d < time.Second || d > 5*time.Second {
			t.Errorf("a refused connection that asks for nothing was kept for %v", d)
		}
		var many []*wire
		for range 2 * maxDenials {
			many = append(many, net.from(t, second))
		}
		synctest.Wait()
		if got := len(s.conns); got > 3+maxDenials {
			t.Errorf("%d connections are open; want %d refused ones at most", got, maxDenials)
		}
		for _, w := range many {
			w.Close()
		}
		a.Close()
		synctest.Wait()
		if got := head(net.from(t, second)); got != notFound {
			t.Errorf("after one ended: %s; want 404", got)
		}
		if n := log.count("why=connections"); n != 1 {
			t.Errorf("%d lines in the log in a minute; want one:\n%s", n, log)
		}
		<-time.After(logEvery)
		net.from(t, second).ends()
		if n := log.count("why=connections", fmt.Sprintf("times=%d", 2+2*maxDenials)); n != 1 {
			t.Errorf("the log a minute later does not tell how many there were:\n%s", log)
		}
	})
}

// TestRate: who asks too often waits, and then is refused; others are served.
func TestRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kept := inproc.New(nil)
		defer kept.Close()
		net := newPipes()
		s := &Server{Store: kept, AllowRemote: true, Access: Access{Rate: 10, Burst: 4 + connCost}}
		serve(t, s, net)
		head := func(w *wire) string { return status(w.ask("", "HEAD /a HTTP/1.1", "Holdfast: 1")) }
		w := net.from(t, "10.0.0.1")
		start := time.Now()
		for i := range 4 { // and the connection
			if got := head(w); got != notFound || time.Since(start) > 0 {
				t.Errorf("request %d: %s after %v; want it answered at once", i, got, time.Since(start))
			}
		}
		for i := range 20 {
			if got, want := head(w), time.Duration(i+1)*100*time.Millisecond; got != notFound || time.Since(start) != want {
				t.Errorf("request %d past the burst: %s after %v; want it answered after %v", i, got, time.Since(start), want)
			}
		}
		if got := head(net.from(t, "10.0.0.2")); got != notFound || time.Since(start) != 2*time.Second {
			t.Errorf("another address: %s after %v; want it answered at once", got, time.Since(start))
		}
		// Many connections of one address take turns, and those for which there is no
		// turn within a second are refused.
		<-time.After(time.Second)
		start = time.Now()
		results := make(chan string, 100)
		for range cap(results) {
			go func() {
				w := net.from(t, "10.0.0.1")
				if _, err := w.Write([]byte("HEAD /a HTTP/1.1\r\nHoldfast: 1\r\n\r\n")); err != nil {
					results <- "closed"
					return
				}
				results <- status(w.receive(methodHead))
			}()
		}
		served := 0
		for range cap(results) {
			if <-results == notFound {
				served++
			}
		}
		if d := time.Since(start); served == 0 || served > 4+int(d.Seconds()*10) || d > 5*time.Second {
			t.Errorf("%d of %d requests were served in %v", served, cap(results), d)
		}
		if n := s.Stats().Refused["rate"]; n == 0 {
			t.Error("nothing was refused")
		}
	})
}

// TestLowRate: however low the rate is, who keeps to it gets in and is served.
func TestLowRate(t *testing.T) {
	for _, a := range []Access{{Rate: 4}, {Rate: 0.5}, {Rate: 4, Burst: 1}} {
		synctest.Test(t, func(t *testing.T) {
			kept := inproc.New(nil)
			defer kept.Close()
			net := newPipes()
			s := &Server{Store: kept, AllowRemote: true, Access: a}
			serve(t, s, net)
			for range 3 {
				start := time.Now()
				w := net.from(t, "10.0.0.1")
				if got := status(w.ask("", "HEAD /a HTTP/1.1", "Holdfast: 1")); got != notFound || time.Since(start) > maxPause {
					t.Errorf("%+v: %s after %v; want 404 in a second", a, got, time.Since(start))
				}
				w.Close()
				<-time.After(time.Duration((connCost + 1) / a.Rate * float64(time.Second)))
			}
		})
	}
}

// TestTrustedHasNoLimits: limits are for those who are not named.
func TestTrustedHasNoLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kept := inproc.New(nil)
		defer kept.Close()
		net := newPipes()
		s := &Server{Store: kept, AllowRemote: true, Access: Access{
			Trusted: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24")}, MaxConns: 1, Rate: 1, Burst: connCost + 1, MaxWaits: 1,
		}}
		serve(t, s, net)
		mustCreate(t, kept, targetID, "")
		held := mustLock(t, kept, targetID, store.LockOptions{})
		start := time.Now()
		locked := make(chan string)
		for i := range 3 {
			w := net.from(t, "10.0.0.1")
			w.send(lockLine(uint64(i + 2)))
			go func() { locked <- status(w.receive(methodGet)) }()
		}
		synctest.Wait()
		if got := s.Stats().Waiting; got != 3 {
			t.Errorf("%d wait for the lock, on a connection each; want 3", got)
		}
		if err := kept.Remove(t.Context(), targetID, held.Lock, store.Reason{}); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if got := <-locked; got != notFound {
				t.Errorf("after the session ended: %s; want 404", got)
			}
		}
		if d := time.Since(start); d > 0 {
			t.Errorf("a trusted client was held back for %v", d)
		}
		other := net.from(t, "10.0.1.1")
		if got := status(other.ask("", "HEAD /a HTTP/1.1", "Holdfast: 1")); got != notFound {
			t.Errorf("another client: %s; want 404", got)
		}
		if got := status(net.from(t, "10.0.1.1").ask("", "HEAD /a HTTP/1.1", "Holdfast: 1")); got != "429 Too Many Requests" {
			t.Errorf("another client's second connection: %s; want 429", got)
		}
	})
}

func TestWaitsOfAnAddress(t *testing.T) {
	kept := watched(inproc.New(nil))
	mustCreate(t, kept, targetID, "")
	held := mustLock(t, kept, targetID, store.LockOptions{})
	s := &Server{Store: kept, Access: Access{MaxWaits: 1}}
	addr := serve(t, s)
	first, second := connect(t, addr), connect(t, addr)
	first.send(lockLine(2))
	<-kept.waiting
	if got := s.Stats().Waiting; got != 1 {
		t.Errorf("Stats().Waiting is %d; want 1", got)
	}
	second.send(lockLine(3))
	if got := status(second.receive(methodGet)); got != "429 Too Many Requests" {
		t.Errorf("the second waiter: %s; want 429", got)
	}
	if err := kept.Unlock(t.Context(), targetID, held.Lock); err != nil {
		t.Fatal(err)
	}
	if got := status(first.receive(methodGet)); got != ok {
		t.Errorf("the first waiter: %s; want 200", got)
	}
	second.send(lockLine(3))
	<-kept.waiting
	first.send(lines("", "GET "+target+" HTTP/1.1", "Holdfast: 1", "Exclusive: release", "Lock-Token: 0000000000000002"))
	if got := status(second.receive(methodGet)); got != ok {
		t.Errorf("the second waiter, after the first: %s; want 200", got)
	}
	if got := s.Stats(); got.Waited.Count() != 2 || got.Waiting != 0 {
		t.Errorf("%d requests waited, and %d still do; want 2 and none", got.Waited.Count(), got.Waiting)
	}
}

// TestSourcesBounded: addresses that come and go are forgotten, also if each left
// something to remember.
func TestSourcesBounded(t *testing.T) {
	var x sources
	now := int64(1)
	for i := range 2*maxQuiet + 4096 {
		addr := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		from, entered := x.enter(addr, 1, now)
		if !entered {
			t.Fatalf("%v may not enter", addr)
		}
		if i < maxQuiet+2048 {
			from.logged[refusedToken].log(now, logEvery)
		}
		x.leave(from, now)
		if len(x.of) > maxQuiet+4096 {
			t.Fatalf("after %d addresses, %d are remembered", i+1, len(x.of))
		}
	}
	now += int64(logEvery)
	x.sweep(now)
	if len(x.of) != 0 {
		t.Errorf("%d addresses are remembered; want none", len(x.of))
	}
}

func TestRights(t *testing.T) {
	for r := Read; r <= Admin; r++ {
		if got, err := ParseRight(r.String()); got != r || err != nil {
			t.Errorf("ParseRight(%q) = %v, %v", r, got, err)
		}
	}
	if _, err := ParseRight("all"); err == nil {
		t.Error("a right that is none was taken")
	}
}
