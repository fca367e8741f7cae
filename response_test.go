package holdfast_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-session/holdfast"
	"github.com/holdfast-session/holdfast/inproc"
	"github.com/holdfast-session/holdfast/store"
)

var (
	siteHits = holdfast.NewKey[int]("site-hits")
	siteBag  = holdfast.NewKey[map[string]string]("site-bag")
)

// promptly is how long an answer may take that waits for nobody. What would wait
// for a lock that was left behind takes longer: siteLockWait.
const (
	promptly     = 20 * time.Second
	siteLockWait = 5 * time.Minute
)

// A setting is an access and a protocol. Every test here runs in each.
type setting struct {
	access holdfast.Access
	h2     bool
}

func everywhere(t *testing.T, test func(t *testing.T, on setting)) {
	for _, access := range []holdfast.Access{holdfast.Exclusive, holdfast.Merge} {
		for _, h2 := range []bool{false, true} {
			name := access.String() + "/HTTP1"
			if h2 {
				name = access.String() + "/HTTP2"
			}
			t.Run(name, func(t *testing.T) { test(t, setting{access, h2}) })
		}
	}
}

// listen serves h on a real listener, with a client that keeps cookies.
func (on setting) listen(t *testing.T, h http.Handler) (*httptest.Server, *serverLog) {
	srv := httptest.NewUnstartedServer(h)
	var lines serverLog
	srv.Config.ErrorLog = log.New(&lines, "", 0)
	if on.h2 {
		srv.EnableHTTP2 = true
		srv.StartTLS()
	} else {
		srv.Start()
	}
	t.Cleanup(srv.Close)
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	srv.Client().Jar = jar
	return srv, &lines
}

// A serverLog is what the server complains of.
type serverLog struct {
	mu    sync.Mutex
	lines bytes.Buffer
}

func (l *serverLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lines.Write(p)
}

// take returns what came since the last time.
func (l *serverLog) take() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	lines := l.lines.String()
	l.lines.Reset()
	return lines
}

// siteStore is an InProc that counts what it is asked, and fails when told to.
type siteStore struct {
	*inproc.Store
	creates, saves atomic.Int32
	fail           func(method string) error // set before the first request; nil: never
}

func (s *siteStore) Create(ctx context.Context, id store.ID, rec *store.Record, hold bool) error {
	s.creates.Add(1)
	if s.fail != nil {
		if err := s.fail("Create"); err != nil {
			return err
		}
	}
	return s.Store.Create(ctx, id, rec, hold)
}

func (s *siteStore) Save(ctx context.Context, id store.ID, rec *store.Record, next store.Version, hold bool) error {
	s.saves.Add(1)
	if s.fail != nil {
		if err := s.fail("Save"); err != nil {
			return err
		}
	}
	return s.Store.Save(ctx, id, rec, next, hold)
}

func (s *siteStore) Lock(ctx context.Context, id store.ID, o store.LockOptions, rec *store.Record) error {
	if s.fail != nil {
		if err := s.fail("Lock"); err != nil {
			return err
		}
	}
	return s.Store.Lock(ctx, id, o, rec)
}

func (s *siteStore) Load(ctx context.Context, id store.ID, rec *store.Record) error {
	if s.fail != nil {
		if err := s.fail("Load"); err != nil {
			return err
		}
	}
	return s.Store.Load(ctx, id, rec)
}

// A site is an application on a real listener, as one visitor meets it.
type site struct {
	t     *testing.T
	on    setting
	store *siteStore
	m     *holdfast.Manager
	mux   *http.ServeMux
	srv   *httptest.Server
	log   *serverLog
	heard chan error // what OnError heard
}

// newSite starts an application whose pages are added to its mux. It has three:
// /begin puts hits 1 and the bag map[a:1] in, /add adds 1 to the hits, and /show,
// which is Exclusive, says what is saved.
func newSite(t *testing.T, on setting, o holdfast.Options, fail func(method string) error) *site {
	s := &site{t: t, on: on, heard: make(chan error, 16), mux: http.NewServeMux()}
	s.store = &siteStore{Store: inproc.New(nil), fail: fail}
	t.Cleanup(func() { s.store.Close() })
	if o.LockWait == 0 {
		o.LockWait = siteLockWait
	}
	o.LockTimeout = time.Hour // nobody takes a lock over that was left behind
	o.OnError = func(_ context.Context, err error) { s.heard <- err }
	s.m = holdfast.New(s.store, &o)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), promptly)
		defer cancel()
		if err := s.m.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	s.mux.Handle("/begin", s.m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		siteHits.Set(holdfast.From(r), 1)
		siteBag.Set(holdfast.From(r), map[string]string{"a": "1"})
	})))
	s.mux.Handle("/add", s.m.With(holdfast.Exclusive).Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		siteHits.Update(holdfast.From(r), func(n int) int { return n + 1 })
	})))
	s.mux.Handle("/show", s.m.With(holdfast.Exclusive).Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, siteHits.Get(holdfast.From(r)), " ", siteBag.Get(holdfast.From(r)))
	})))
	s.srv, s.log = on.listen(t, s.mux)
	return s
}

// begun is what is saved after /begin.
const begun = "1 map[a:1]"

// page makes h the page at path, with the access of the setting.
func (s *site) page(path string, h http.HandlerFunc) { s.mux.Handle(path, s.within(h)) }

// within is the middleware as the setting has it. Exclusive sessions are acquired
// at the first From.
func (s *site) within(h http.Handler) http.Handler {
	if s.on.access == holdfast.Exclusive {
		return s.m.Handler(h)
	}
	return s.m.With(s.on.access).Handler(h)
}

// A reply is what the visitor saw.
type reply struct {
	status int
	header http.Header
	body   string
	cut    error // the response was not whole
}

// post asks for a page by a method that the client never repeats by itself.
func (s *site) post(path string) reply {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), promptly)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "POST", s.srv.URL+path, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	res, err := s.srv.Client().Do(req)
	if err != nil {
		if ctx.Err() != nil {
			s.t.Errorf("POST %s: no answer: %v", path, err)
		}
		return reply{cut: err}
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if ctx.Err() != nil {
		s.t.Errorf("POST %s: the answer did not end: %v", path, err)
	}
	return reply{res.StatusCode, res.Header, string(body), err}
}

// shows fails the test unless want is saved, and its lock free.
func (s *site) shows(want string) {
	s.t.Helper()
	if got := s.post("/show"); got.status != 200 || got.body != want {
		s.t.Errorf("saved: %q (status %d), want %q", got.body, got.status, want)
	}
}

func (s *site) begin() {
	s.t.Helper()
	if got := s.post("/begin"); got.status != 200 || got.header.Get("Set-Cookie") == "" {
		s.t.Fatalf("no session: %+v", got)
	}
}

// hears fails the test unless OnError heard of an error that is want.
func (s *site) hears(want error) {
	s.t.Helper()
	select {
	case err := <-s.heard:
		if !errors.Is(err, want) {
			s.t.Errorf("OnError heard %v, want %v", err, want)
		}
	case <-time.After(promptly):
		s.t.Errorf("OnError did not hear of %v", want)
	}
}
