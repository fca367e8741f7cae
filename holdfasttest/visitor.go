package holdfasttest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"

	"github.com/holdfast-session/holdfast"
	"github.com/holdfast-session/holdfast/inproc"
	"github.com/holdfast-session/holdfast/store"
)

// A Visitor is one browser, or one client program: it keeps what the application
// tells it of its session, and of other things in cookies, and sends that along.
//
// Cookies go with every request whose path they are for. A visitor visits one site,
// whatever hosts its requests name, and may be there over TLS or not: Domain, Secure
// and SameSite are not looked at. With [holdfast.Header] it sends the header back, with
// [holdfast.Cookieless] it asks for "/cart" under its own URL. An Identity of the
// application's own works if it uses cookies, or one header of the same name both ways.
//
// It may send requests from several goroutines, as a browser does.
type Visitor struct {
	ht *Sessions

	mu      sync.Mutex
	cookies []cookie
	header  string // the ID, where it travels in a header
	segment string // the ID, where it travels in the URL
}

// Clone returns another visitor who knows what v does: somebody who has stolen its
// cookie, or a second window that goes on by itself.
func (v *Visitor) Clone() *Visitor {
	v.mu.Lock()
	defer v.mu.Unlock()
	return &Visitor{ht: v.ht, cookies: append([]cookie(nil), v.cookies...), header: v.header, segment: v.segment}
}

// Prepare has f put into the visitor's session what an earlier request would have put
// there. A visitor who has no session gets one. It fails the test if that cannot be
// saved.
func (v *Visitor) Prepare(f func(s *holdfast.Session)) {
	v.ht.t.Helper()
	v.visit("Prepare", holdfast.Exclusive, f)
}

// Session returns the visitor's session as it is saved now, to read: a change is for
// Prepare. Where it is gone, or never began, it is empty, and its Lost says what is
// known of that. Every call reads anew, and is a visit, which restarts the timeout.
func (v *Visitor) Session() *holdfast.Session {
	v.ht.t.Helper()
	s, _ := v.read("Session")
	return s
}

func (v *Visitor) read(who string) (s *holdfast.Session, id store.ID) {
	v.ht.t.Helper()
	id = v.visit(who, holdfast.ReadOnly, func(now *holdfast.Session) { s = now })
	return s, id
}

// End ends the visitor's session behind his back, while he has its cookie still:
// [store.Expired] as if its timeout had passed, [store.Abandoned] as if he had signed
// out elsewhere, [store.Evicted] as if the store had been full. In the middle of a
// request (called by its handler) it ends it under it, too.
func (v *Visitor) End(why store.Kind) {
	v.ht.t.Helper()
	s, id := v.read("End")
	if s.ID() == "" {
		v.ht.t.Fatalf("holdfasttest: End: the visitor has no session")
	}
	if err := v.ht.kept.Remove(context.Background(), id, store.Lock{}, store.Reason{Kind: why}); err != nil {
		v.ht.t.Fatalf("holdfasttest: End: %v", err)
	}
}

// Do has the visitor send r, and h answer it. r is one that a server gets, as
// [httptest.NewRequest] makes them; a cookie, header or URL of a session that it has
// already stays. What the handler panics with is Do's panic.
//
// A cookieless visitor is sent on to a session of his own first, and Do returns the
// answer that he gets there. Other redirects are answers.
func (v *Visitor) Do(h http.Handler, r *http.Request) *httptest.ResponseRecorder {
	v.ht.t.Helper()
	var body []byte
	if v.ht.cookieless && r.Body != nil {
		var err error
		if body, err = io.ReadAll(r.Body); err != nil {
			v.ht.t.Fatalf("holdfasttest: Do: the request's body: %v", err)
		}
	}
	const tries = 5 // more than a Manager sends anybody on
	for try := 1; ; try++ {
		req := v.carry(r)
		if body != nil {
			req.Body = io.NopCloser(bytes.NewReader(body))
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, req)
		header := w.Result().Header
		v.learn(req.URL, header)
		to := sentOn(req, w.Code, header)
		if !v.ht.cookieless || to == nil || try == tries {
			return w
		}
		r = r.Clone(r.Context())
		moveTo(r, to.Path, to.RawPath)
	}
}

// Client returns a client that sends the visitor's requests to a real server, for an
// application that is tested behind one. It follows redirects, as the server's own
// Client does.
func (v *Visitor) Client(server *httptest.Server) *http.Client {
	c := *server.Client()
	c.Transport = transport{v, c.Transport}
	return &c
}

type transport struct {
	v    *Visitor
	next http.RoundTripper
}

func (t transport) RoundTrip(r *http.Request) (*http.Response, error) {
	r = t.v.carry(r)
	resp, err := t.next.RoundTrip(r)
	if err == nil {
		t.v.learn(r.URL, resp.Header)
	}
	return resp, err
}

// visit runs f as a request of the visitor's that no fault befalls, and returns the
// store's key of the session that it had.
func (v *Visitor) visit(who string, a holdfast.Access, f func(s *holdfast.Session)) store.ID {
	t := v.ht.t
	t.Helper()
	var (
		mu     sync.Mutex
		failed error
		over   bool
	)
	o := v.ht.o
	o.OnError = func(_ context.Context, err error) {
		mu.Lock()
		defer mu.Unlock()
		if failed = errors.Join(failed, err); over {
			t.Errorf("holdfasttest: %s: %v", who, err) // a value that cannot be read
		}
	}
	st := &noting{Store: v.ht.kept}
	m := holdfast.New(st, &o)
	defer m.Close(context.Background())
	w := v.Do(m.With(a).Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f(m.From(r))
		if a != holdfast.ReadOnly {
			http.Redirect(w, r, "/", http.StatusSeeOther) // which tells a cookieless visitor a new ID
		}
	})), httptest.NewRequest("GET", v.ht.path, nil))
	mu.Lock()
	defer mu.Unlock()
	over = true
	if w.Code >= 400 || failed != nil {
		t.Fatalf("holdfasttest: %s: status %d: %v", who, w.Code, failed)
	}
	return st.last
}

// noting is a store that notes which session was read last.
type noting struct {
	*inproc.Store
	last store.ID
}

func (s *noting) Load(ctx context.Context, id store.ID, rec *store.Record) error {
	err := s.Store.Load(ctx, id, rec)
	if err == nil {
		s.last = store.ID{App: strings.Clone(id.App), Session: strings.Clone(id.Session)}
	}
	return err
}
