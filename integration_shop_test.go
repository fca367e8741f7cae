package holdfast_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-session/holdfast"
	"github.com/holdfast-session/holdfast/inproc"
	"github.com/holdfast-session/holdfast/logstore"
	"github.com/holdfast-session/holdfast/store"
	"github.com/holdfast-session/holdfast/storetest"
)

// A mode is a place where sessions are kept. Every test that can runs in each.
type mode struct {
	name   string
	remote bool // in another process
	open   func(t testing.TB) store.Store
	way    way // how the session ID travels
}

var modes = []mode{
	{"InProc", false, func(t testing.TB) store.Store {
		s := inproc.New(nil)
		t.Cleanup(func() { s.Close() })
		return s
	}, cookies},
	{"StateServer", true, func(t testing.TB) store.Store { return dial(t, sharedServer.addr(t)) }, cookies},
	{"logstore", false, func(t testing.TB) store.Store {
		s, err := logstore.Open(t.TempDir(), &logstore.Options{SegmentSize: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return s
	}, cookies},
}

var inProc, stateServer = modes[0], modes[1]

// inEveryMode runs test in each mode, side by side, also with other tests.
func inEveryMode(t *testing.T, test func(t *testing.T, md mode)) {
	t.Helper()
	t.Parallel()
	for _, md := range modes {
		t.Run(md.name, func(t *testing.T) {
			t.Parallel()
			test(t, md)
		})
	}
}

// What the applications of these tests keep.
type line struct {
	Article string
	Count   int
}

var (
	hits  = holdfast.NewKey[int]("shop.hits")
	user  = holdfast.NewKey[string]("shop.user")
	note  = holdfast.NewKey[string]("shop.note")
	cart  = holdfast.NewKey[[]line]("shop.cart")
	tags  = holdfast.NewKey[map[string]int]("shop.tags")
	slots = func() (keys [50]holdfast.Key[int]) {
		for i := range keys {
			keys[i] = holdfast.NewKey[int](fmt.Sprintf("shop.slot%d", i))
		}
		return keys
	}()
)

func increment(n int) int { return n + 1 }

// A shop is a web application with sessions, at a real listener.
type shop struct {
	*http.ServeMux
	t      testing.TB
	mode   mode
	way    way // of its visitors
	m      *holdfast.Manager
	app    string
	store  store.Store       // not by way of faults
	faults *storetest.Faults // around the store that the Manager has
	rule   atomic.Pointer[func(storetest.Call) storetest.Fault]
	last   atomic.Pointer[store.ID] // the session that the Manager asked for last
	errs   *errorList               // what Options.OnError heard
	url    string
	to     http.RoundTripper // its browsers'
}

var applications atomic.Int64

// newShop returns a shop in mode md, without pages.
func newShop(t testing.TB, md mode, o *holdfast.Options) *shop {
	t.Helper()
	st := openShop(t, md.open(t), md.way.with(o))
	st.mode = md
	return st
}

// sibling returns another shop of the same application, as another process would
// have it: with a Manager and, where the store is in another process, a client of
// its own.
func (st *shop) sibling(o *holdfast.Options) *shop {
	st.t.Helper()
	s := st.store
	if st.mode.remote {
		s = st.mode.open(st.t)
	}
	var own holdfast.Options
	if o != nil {
		own = *o
	}
	own.App = st.app
	return openShop(st.t, s, st.mode.way.with(&own))
}

// openShop returns a shop over a store.
func openShop(t testing.TB, s store.Store, o *holdfast.Options) *shop {
	t.Helper()
	st := buildShop(t, s, o)
	server := httptest.NewUnstartedServer(st.m.Handler(st))
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // handlers panic on purpose
	server.Start()
	to := &http.Transport{MaxIdleConnsPerHost: 100}
	t.Cleanup(func() {
		to.CloseIdleConnections()
		server.Close()
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := st.m.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	st.url, st.to = server.URL, to
	return st
}

// fakeShop returns a shop without a listener, for tests in fake time: connections
// would stop the clock.
func fakeShop(t testing.TB, o *holdfast.Options) *shop {
	t.Helper()
	st := buildShop(t, inProc.open(t), o)
	st.url, st.to = "http://shop.test", directly{st.m.Handler(st)}
	return st
}

func buildShop(t testing.TB, s store.Store, o *holdfast.Options) *shop {
	t.Helper()
	var own holdfast.Options
	if o != nil {
		own = *o
	}
	if own.App == "" {
		own.App = fmt.Sprintf("/%s/%d", t.Name(), applications.Add(1))
	}
	st := &shop{ServeMux: http.NewServeMux(), t: t, app: own.App, store: s, faults: new(storetest.Faults), errs: new(errorList), way: wayOf(own.Identity)}
	st.faults.Rule = func(c storetest.Call) storetest.Fault {
		st.last.Store(&c.ID)
		if rule := st.rule.Load(); rule != nil {
			return (*rule)(c)
		}
		return storetest.None
	}
	if own.OnError == nil {
		own.OnError = st.errs.add
	}
	st.m = holdfast.New(st.faults.Wrap(s), &own)
	st.HandleFunc("/said", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.FormValue("text")) })
	return st
}

// fail makes the store fail by rule from now on; nil: not any more.
func (st *shop) fail(rule func(storetest.Call) storetest.Fault) {
	if rule == nil {
		st.rule.Store(nil)
		return
	}
	st.rule.Store(&rule)
}

// refuse is a rule that refuses all calls of these methods; of all, if none is
// named.
func refuse(methods ...string) func(storetest.Call) storetest.Fault {
	return func(c storetest.Call) storetest.Fault {
		if len(methods) == 0 || slices.Contains(methods, c.Method) {
			return storetest.Refuse
		}
		return storetest.None
	}
}

// page adds a handler that is given its session with access a, acquired before it
// runs.
func (st *shop) page(path string, a holdfast.Access, h func(w http.ResponseWriter, r *http.Request, s *holdfast.Session)) {
	st.Handle(path, st.m.With(a).Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h(w, r, holdfast.From(r))
	})))
}

// do adds a page that needs neither the request nor, save by what it returns, the
// response.
func (st *shop) do(path string, a holdfast.Access, h func(s *holdfast.Session) any) {
	st.page(path, a, func(w http.ResponseWriter, _ *http.Request, s *holdfast.Session) {
		if v := h(s); v != nil {
			fmt.Fprint(w, v)
		}
	})
}

// moves adds a page like that of do, whose response may give the session another ID:
// where that is part of the URL, it takes a redirect.
func (st *shop) moves(path string, a holdfast.Access, h func(s *holdfast.Session) any) {
	if !st.way.urls {
		st.do(path, a, h)
		return
	}
	st.page(path, a, func(w http.ResponseWriter, r *http.Request, s *holdfast.Session) {
		text := ""
		if v := h(s); v != nil {
			text = fmt.Sprint(v)
		}
		http.Redirect(w, r, "/said?"+url.Values{"text": {text}}.Encode(), http.StatusSeeOther)
	})
}

// An errorList is an Options.OnError that remembers.
type errorList struct {
	mu  sync.Mutex
	all []error
}

func (l *errorList) add(_ context.Context, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, err)
}

// has reports whether it heard of target.
func (l *errorList) has(target error) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, err := range l.all {
		if errors.Is(err, target) {
			return true
		}
	}
	return false
}

func (l *errorList) len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.all)
}

// An answer is a response, read to its end.
type answer struct {
	status int
	header http.Header
	body   string
	told   *string // what it said of the client's session ID, if anything; "": that it has none any more
	err    error   // there was none, or not all of it
}

// sessionCookie is what the reply does to the session's cookie: nil if nothing.
func (rp *answer) sessionCookie() *http.Cookie {
	for _, c := range (&http.Response{Header: rp.header}).Cookies() {
		if strings.HasSuffix(c.Name, "session") {
			return c
		}
	}
	return nil
}

// A browser visits a site and keeps its session ID, in a cookie or in whatever other
// way. It may make several requests at a time.
type browser struct {
	t      testing.TB
	client http.Client
	base   *url.URL
	way    way
	mu     sync.Mutex
	held   string // its session ID, if that is in no cookie
}

func newBrowser(t testing.TB, to http.RoundTripper, base string) *browser {
	t.Helper()
	u, err := url.Parse(base)
	if err != nil {
		t.Fatal(err)
	}
	b := &browser{t: t, base: u, way: cookies}
	b.client.Transport = to
	b.client.Jar, _ = cookiejar.New(nil)
	b.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return b
}

func (st *shop) browser() *browser {
	st.t.Helper()
	b := newBrowser(st.t, st.to, st.url)
	b.way = st.way
	return b
}

// withID returns another browser that has the session ID id: a copy of one in
// another's hands.
func (b *browser) withID(id string) *browser {
	c := newBrowser(b.t, b.client.Transport, b.base.String())
	c.way = b.way
	c.setID(id)
	return c
}

func (b *browser) setID(id string) {
	if b.way.identity != nil {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.held = id
		return
	}
	b.client.Jar.SetCookies(b.base, []*http.Cookie{{Name: "session", Value: id, Path: "/"}})
}

// id returns the session ID that the browser has, or "".
func (b *browser) id() string {
	if b.way.identity != nil {
		b.mu.Lock()
		defer b.mu.Unlock()
		return b.held
	}
	for _, c := range b.client.Jar.Cookies(b.base) {
		if c.Name == "session" {
			return c.Value
		}
	}
	return ""
}

// fetch makes a request. The request's header may be changed by edit, if not nil.
func (b *browser) fetch(ctx context.Context, path string, edit func(http.Header)) *answer {
	return b.send(ctx, "GET", path, "", edit)
}

// send makes a request, with a form if that is not empty. Where the ID is part of the
// URL it goes where it is sent on to.
func (b *browser) send(ctx context.Context, method, path, form string, edit func(http.Header)) *answer {
	var told *string
	if id := b.id(); b.way.urls && id != "" {
		path = "/(S(" + id + "))" + path
	}
	for range 8 {
		r, err := http.NewRequestWithContext(ctx, method, b.base.String()+path, strings.NewReader(form))
		if err != nil {
			return &answer{err: err}
		}
		if form != "" {
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		}
		if id := b.id(); b.way.carry != nil && id != "" {
			b.way.carry(r, id)
		}
		if edit != nil {
			edit(r.Header)
		}
		resp, err := b.client.Do(r)
		if err != nil {
			return &answer{err: err, told: told}
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if id := b.way.learn(resp); id != nil {
			told = id
			if b.way.identity != nil {
				b.setID(*id)
			}
		}
		to := resp.Header.Get("Location")
		if !b.way.urls || !strings.HasPrefix(to, "/") || strings.HasPrefix(to, "//") || strings.HasPrefix(to, `/\`) {
			return &answer{resp.StatusCode, resp.Header, string(body), told, err}
		}
		path = to
		if resp.StatusCode != http.StatusTemporaryRedirect {
			method, form = "GET", ""
		}
	}
	return &answer{err: errors.New("sent in circles"), told: told}
}

// patience is how long a request may take before the test takes it for stuck.
const patience = 30 * time.Second

// get makes a request that must be answered.
func (b *browser) get(path string) *answer {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	rp := b.fetch(ctx, path, nil)
	if rp.err != nil {
		b.t.Errorf("%s: %v", path, rp.err)
	}
	return rp
}

// want makes a request that must be answered with 200 and this body.
func (b *browser) want(path, body string) *answer {
	b.t.Helper()
	rp := b.get(path)
	if rp.status != http.StatusOK || rp.body != body {
		b.t.Errorf("%s: %d %q, want 200 %q", path, rp.status, rp.body, body)
	}
	return rp
}

// wantStatus makes a request that must be answered with status.
func (b *browser) wantStatus(path string, status int) *answer {
	b.t.Helper()
	rp := b.get(path)
	if rp.status != status {
		b.t.Errorf("%s: %d %q, want %d", path, rp.status, rp.body, status)
	}
	return rp
}

// begin makes a request without waiting for its reply.
func (b *browser) begin(path string) <-chan *answer {
	c := make(chan *answer, 1)
	go func() { c <- b.get(path) }()
	return c
}

// directly is a RoundTripper that calls a handler. Its visitors never leave.
type directly struct{ h http.Handler }

func (d directly) RoundTrip(r *http.Request) (resp *http.Response, err error) {
	w := httptest.NewRecorder()
	in := httptest.NewRequest(r.Method, r.URL.String(), r.Body)
	in.Header = r.Header
	defer func() {
		if p := recover(); p != nil { // a server cuts the connection
			resp, err = nil, fmt.Errorf("panic: %v", p)
		}
	}()
	d.h.ServeHTTP(w, in)
	resp = w.Result()
	resp.Request = r
	return resp, nil
}

// A gate is where a handler waits for the test.
type gate struct{ entered, opened chan struct{} }

func newGate() *gate { return &gate{make(chan struct{}), make(chan struct{})} }

// pass is the handler's side: it says that it is there and waits.
func (g *gate) pass() {
	close(g.entered)
	<-g.opened
}

// await waits until the handler is there.
func (g *gate) await(t testing.TB) {
	t.Helper()
	receive(t, g.entered)
}

func (g *gate) open() { close(g.opened) }

// receive takes from c what must come.
func receive[T any](t testing.TB, c <-chan T) (v T) {
	t.Helper()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case v = <-c:
	case <-timer.C:
		t.Fatal("nothing came")
	}
	return v
}

// waitUntil waits until ok; it is for what no channel tells.
func waitUntil(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("not in %v: %s", patience, what)
		}
	}
}
