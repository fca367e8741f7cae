package holdfast_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/holdfast-session/holdfast"
	"github.com/holdfast-session/holdfast/inproc"
	"github.com/holdfast-session/holdfast/stateserver"
	"github.com/holdfast-session/holdfast/store"
)

// One process signs a visitor out, and another hears of it: with the reason, and with
// what the session held.
func TestEndsAreHeardOfInEveryMode(t *testing.T) {
	inEveryMode(t, func(t *testing.T, md mode) {
		heard := make(chan string, 10)
		st := newShop(t, md, &holdfast.Options{OnEnd: func(_ context.Context, s *holdfast.Session, why store.Reason) {
			heard <- fmt.Sprint(user.Get(s), " ", why.Kind)
		}})
		other := st.sibling(nil)
		for _, s := range []*shop{st, other} {
			s.do("/in", holdfast.Exclusive, func(s *holdfast.Session) any { user.Set(s, "ann"); return nil })
			s.do("/out", holdfast.Exclusive, func(s *holdfast.Session) any { return s.Abandon() })
		}
		b := st.browser()
		b.wantStatus("/in", 200)
		far := other.browser()
		far.setID(b.id())
		far.wantStatus("/out", 200)
		select {
		case end := <-heard:
			if end != "ann abandoned" {
				t.Errorf("heard of %q", end)
			}
		case <-time.After(patience):
			t.Error("nobody heard of the end")
		}
	})
}

func TestSignOutEverywhereInEveryMode(t *testing.T) {
	inEveryMode(t, func(t *testing.T, md mode) {
		st := newShop(t, md, nil)
		other := st.sibling(nil)
		for _, s := range []*shop{st, other} {
			s.do("/in", holdfast.Exclusive, func(s *holdfast.Session) any { s.SetSubject("ann"); user.Set(s, "ann"); return nil })
			s.do("/elsewhere", holdfast.Exclusive, func(s *holdfast.Session) any {
				n, err := st.m.EndAll(t.Context(), s.Subject(), s)
				return fmt.Sprint(n, err)
			})
			s.do("/who", holdfast.ReadOnly, func(s *holdfast.Session) any { return user.Get(s) })
		}
		var browsers []*browser
		for i := range 4 {
			b := []*shop{st, other}[i%2].browser()
			b.wantStatus("/in", 200)
			browsers = append(browsers, b)
		}
		all, err := other.m.Sessions(t.Context(), "ann")
		if err != nil || len(all) != 4 || slices.ContainsFunc(all, func(i holdfast.Info) bool { return i.Subject != "ann" }) {
			t.Fatalf("Sessions: %v, %v", all, err)
		}
		browsers[1].want("/elsewhere", "3 <nil>")
		for i, b := range browsers {
			want := ""
			if i == 1 {
				want = "ann"
			}
			b.want("/who", want)
		}
	})
}

// bare is a store with nothing but what every store has.
type bare struct{ store.Store }

func TestServerThatHasNoListsSaysSo(t *testing.T) {
	kept := inproc.New(nil)
	defer kept.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &stateserver.Server{Store: bare{kept}}
	go srv.Serve(l)
	defer srv.Close()
	client := dial(t, l.Addr().String())
	reported := make(chan error, 10)
	m := holdfast.New(client, &holdfast.Options{
		OnEnd:   func(context.Context, *holdfast.Session, store.Reason) {},
		OnError: func(_ context.Context, err error) { reported <- err },
	})
	if _, err := m.Sessions(t.Context(), "ann"); !errors.Is(err, holdfast.ErrNoList) {
		t.Errorf("Sessions: %v", err)
	}
	select {
	case err := <-reported:
		if !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("reported: %v", err)
		}
	case <-time.After(patience):
		t.Error("nothing is said about ends that never come")
	}
	if err := m.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if len(reported) != 0 {
		t.Errorf("said again: %v", <-reported)
	}
}
