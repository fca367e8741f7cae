package holdfasttest

import (
	"context"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-session/holdfast"
	"github.com/holdfast-session/holdfast/inproc"
	"github.com/holdfast-session/holdfast/store"
)

// Sessions are the sessions of an application under test: a Manager over a store in
// this process, which fails when it is told to. It is safe for concurrent use.
type Sessions struct {
	// The Manager is what the application is given. Its methods are those of Sessions
	// too: ht.Handler(h), ht.With(holdfast.Merge), ht.EndAll(…).
	*holdfast.Manager

	// Store is the Manager's, with its faults: for an application that makes its
	// Manager itself. It must do so with the Options that New was given.
	Store store.Store

	t          testing.TB
	kept       *inproc.Store    // below the faults
	o          holdfast.Options // of the Managers that serve Prepare and Session
	path       string           // of their requests
	header     string           // the request header that carries the ID, unless it is a cookie
	cookieless bool
	faults     faults
}

// storeTimeout is the default of Options.StoreTimeout here: a store in this process
// answers at once, and one that is down need not be asked for the usual 5 seconds.
const storeTimeout = 250 * time.Millisecond

// New returns the sessions of an application with these Options, which may be nil.
// They are the application's own, so that the cookie, the timeouts and the hooks under
// test are those that it runs with; only StoreTimeout has another default, a quarter
// of a second. Everything is closed when the test ends.
//
// Live keys work, as in any store of this process.
func New(t testing.TB, o *holdfast.Options) *Sessions {
	t.Helper()
	ht := &Sessions{t: t, kept: inproc.New(nil), path: "/"}
	ht.Store = faulty{ht.kept, &ht.faults}
	if o != nil {
		ht.o = *o
	}
	if ht.o.StoreTimeout == 0 {
		ht.o.StoreTimeout = storeTimeout
	}
	switch id := ht.o.Identity; {
	case id == nil:
		if ht.o.Cookie.Path != "" {
			ht.path = ht.o.Cookie.Path
		}
	case id == holdfast.Cookieless():
		ht.cookieless = true
	default:
		if h := http.CanonicalHeaderKey(id.Vary()); h != "Cookie" {
			ht.header = h
		}
	}
	ht.Manager = holdfast.New(ht.Store, &ht.o)
	ht.o.OnEnd, ht.o.ErrorPage, ht.o.Logger = nil, nil, nil // the application's alone
	t.Cleanup(func() {
		ht.faults.clear()
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := ht.Close(ctx); err != nil {
			t.Errorf("holdfasttest: at the end of the test: %v", err)
		}
		ht.kept.Close()
	})
	return ht
}

// Visitor returns a new visitor, who has no session yet.
func (ht *Sessions) Visitor() *Visitor { return &Visitor{ht: ht} }

// Advance moves the clock by d, and returns when everything is done that was due by
// then. It works in the fake time of [synctest.Test] and fails the test elsewhere.
//
// A session ends up to a tenth later than its timeout says, never earlier, and
// Options.OnEnd hears of it in the two seconds after.
func (ht *Sessions) Advance(d time.Duration) {
	ht.t.Helper()
	if p := settle(); p != nil {
		ht.t.Fatalf("holdfasttest: Advance: %v; it needs the fake time of synctest.Test(t, func(t *testing.T) { … })", p)
	}
	time.Sleep(d)
	synctest.Wait()
}

// settle waits for the other goroutines of the bubble, and returns what is wrong if
// there is none.
func settle() (p any) {
	defer func() { p = recover() }()
	synctest.Wait()
	return nil
}
