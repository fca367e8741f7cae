package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	coder "github.com/coder/websocket"
	gorilla "github.com/gorilla/websocket"

	"github.com/holdfast-session/holdfast"
	"github.com/holdfast-session/holdfast/inproc"
	"github.com/holdfast-session/holdfast/store"
)

// A socket is a WebSocket of one of the libraries, on either side.
type socket interface {
	read() (string, error)
	write(string) error
	close() error
}

// A library is a WebSocket library that applications use.
type library struct {
	name string
	// accept upgrades a request as the library's documentation does it.
	accept func(w http.ResponseWriter, r *http.Request) (socket, error)
	dial   func(ctx context.Context, url string, client *http.Client) (socket, *http.Response, error)
	// early: it gives the header to net/http, not to the connection, so that a new
	// session's cookie travels with the 101.
	early bool
}

var libraries = []library{
	{"coder", acceptCoder, dialCoder, true},
	{"gorilla", acceptGorilla, dialGorilla, false},
}

type coderSocket struct{ *coder.Conn }

func acceptCoder(w http.ResponseWriter, r *http.Request) (socket, error) {
	c, err := coder.Accept(w, r, nil)
	return coderSocket{c}, err
}

func dialCoder(ctx context.Context, url string, client *http.Client) (socket, *http.Response, error) {
	c, res, err := coder.Dial(ctx, url, &coder.DialOptions{HTTPClient: client})
	return coderSocket{c}, res, err
}

func (s coderSocket) read() (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, b, err := s.Read(ctx)
	return string(b), err
}

func (s coderSocket) write(text string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return s.Write(ctx, coder.MessageText, []byte(text))
}

func (s coderSocket) close() error { return s.Close(coder.StatusNormalClosure, "") }

type gorillaSocket struct{ *gorilla.Conn }

func acceptGorilla(w http.ResponseWriter, r *http.Request) (socket, error) {
	c, err := (&gorilla.Upgrader{}).Upgrade(w, r, nil)
	return gorillaSocket{c}, err
}

func dialGorilla(ctx context.Context, url string, client *http.Client) (socket, *http.Response, error) {
	d := gorilla.Dialer{Jar: client.Jar}
	c, res, err := d.DialContext(ctx, "ws"+strings.TrimPrefix(url, "http"), nil)
	return gorillaSocket{c}, res, err
}

func (s gorillaSocket) read() (string, error) {
	s.SetReadDeadline(time.Now().Add(patience))
	_, b, err := s.ReadMessage()
	return string(b), err
}

func (s gorillaSocket) write(text string) error {
	s.SetWriteDeadline(time.Now().Add(patience))
	return s.WriteMessage(gorilla.TextMessage, []byte(text))
}

func (s gorillaSocket) close() error {
	s.WriteControl(gorilla.CloseMessage, gorilla.FormatCloseMessage(gorilla.CloseNormalClosure, ""), time.Now().Add(patience))
	return s.Close()
}

// A room is an application with a socket: what is said to it is done to the session.
type room struct {
	t       *testing.T
	library library
	store   *brittle
	srv     *httptest.Server
	client  *http.Client
	errs    chan error    // what OnError heard
	ended   chan struct{} // a socket's handler has returned
	refused chan error    // why a request was not upgraded
}

// brittle is an InProc whose saves fail when told to.
type brittle struct {
	*inproc.Store
	fail error
}

func (b *brittle) Save(ctx context.Context, id store.ID, rec *store.Record, next store.Version, hold bool) error {
	if b.fail != nil {
		return b.fail
	}
	return b.Store.Save(ctx, id, rec, next, hold)
}

var (
	said = holdfast.NewKey[int]("room-said")
	last = holdfast.NewKey[map[string]string]("room-last")
)

// inRooms runs a test with each library and access.
func inRooms(t *testing.T, test func(t *testing.T, rm *room)) {
	for _, lib := range libraries {
		for _, access := range []holdfast.Access{holdfast.Exclusive, holdfast.Merge} {
			t.Run(lib.name+"/"+access.String(), func(t *testing.T) { test(t, newRoom(t, lib, access)) })
		}
	}
}

func newRoom(t *testing.T, lib library, access holdfast.Access) *room {
	rm := &room{t: t, library: lib, errs: make(chan error, 8), ended: make(chan struct{}, 8), refused: make(chan error, 8)}
	rm.store = &brittle{Store: inproc.New(nil)}
	t.Cleanup(func() { rm.store.Close() })
	m := holdfast.New(rm.store, &holdfast.Options{
		LockWait:    5 * time.Minute, // longer than the test has patience, so that no lock
		LockTimeout: time.Hour,       // that is left behind passes unseen
		OnError:     func(_ context.Context, err error) { rm.errs <- err },
	})
	mux := http.NewServeMux()
	page := func(path string, a holdfast.Access, h http.HandlerFunc) { mux.Handle(path, m.With(a).Handler(h)) }
	page("/begin", holdfast.Exclusive, func(w http.ResponseWriter, r *http.Request) {
		said.Set(holdfast.From(r), 1)
		last.Set(holdfast.From(r), map[string]string{})
	})
	page("/show", holdfast.Exclusive, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, said.Get(holdfast.From(r)), " ", last.Get(holdfast.From(r)))
	})
	page("/say", holdfast.Exclusive, func(w http.ResponseWriter, r *http.Request) {
		said.Update(holdfast.From(r), func(n int) int { return n + 1 })
	})
	page("/signout", holdfast.Exclusive, func(w http.ResponseWriter, r *http.Request) { holdfast.From(r).Abandon() })
	socketPage := m.With(access).Handler(http.HandlerFunc(rm.serve))
	mux.HandleFunc("/socket", func(w http.ResponseWriter, r *http.Request) {
		defer func() { rm.ended <- struct{}{} }()
		socketPage.ServeHTTP(w, r)
	})
	rm.srv = httptest.NewServer(mux)
	t.Cleanup(rm.srv.Close)
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	rm.client = &http.Client{Jar: jar}
	return rm
}

// serve is the socket's handler: it changes the session before the upgrade, and as
// it is told during the socket's life.
func (rm *room) serve(w http.ResponseWriter, r *http.Request) {
	s := holdfast.From(r)
	add := func(n int) { said.Update(s, func(was int) int { return was + n }) }
	add(10)
	c, err := rm.library.accept(w, r)
	if err != nil {
		rm.refused <- err
		return
	}
	defer c.close()
	for {
		text, err := c.read()
		if err != nil {
			return // the visitor has gone, or said goodbye
		}
		switch text {
		case "panic":
			add(100000)
			panic(http.ErrAbortHandler)
		case "save":
			err = s.Save(r.Context())
		default:
			add(100)
			last.Update(s, func(m map[string]string) map[string]string {
				if m == nil {
					m = map[string]string{}
				}
				m["text"] = text
				return m
			})
		}
		if err := c.write(fmt.Sprint(text, " ", err)); err != nil {
			return
		}
	}
}

func (rm *room) ask(path string) (int, string) {
	rm.t.Helper()
	v := visitor{rm.t, rm.client}
	v.client.Timeout = patience
	status, body, err := v.try(strings.TrimPrefix(rm.srv.URL, "http://"), path)
	if err != nil {
		rm.t.Fatalf("%s: %v", path, err)
	}
	return status, body
}

func (rm *room) shows(want string) {
	rm.t.Helper()
	if status, got := rm.ask("/show"); status != 200 || got != want {
		rm.t.Errorf("saved: %d %q, want %q", status, got, want)
	}
}

// dial opens a socket; without a socket it returns the response instead.
func (rm *room) dial() (socket, *http.Response) {
	rm.t.Helper()
	ctx, cancel := context.WithTimeout(rm.t.Context(), patience)
	defer cancel()
	// A client's timeout would end the socket as well.
	c, res, err := rm.library.dial(ctx, rm.srv.URL+"/socket", &http.Client{Jar: rm.client.Jar})
	if err == nil {
		return c, res
	}
	if res == nil {
		rm.t.Fatal(err)
	}
	return nil, res
}

// say says text to the socket, which is to answer with no error.
func (rm *room) say(c socket, text string) {
	rm.t.Helper()
	if err := c.write(text); err != nil {
		rm.t.Fatal(err)
	}
	if got, err := c.read(); err != nil || got != text+" <nil>" {
		rm.t.Fatalf("to %q the socket says %q, %v", text, got, err)
	}
}

// TestWebSocket: what was changed before the upgrade is saved; during the socket's
// life the lock is free, and its changes are merged with those of other requests.
func TestWebSocket(t *testing.T) {
	inRooms(t, func(t *testing.T, rm *room) {
		rm.ask("/begin")
		c, _ := rm.dial()
		rm.shows("11 map[]")
		rm.say(c, "hello")
		rm.shows("11 map[]") // not saved yet
		rm.ask("/say")
		rm.say(c, "save")
		rm.shows("112 map[text:hello]")
		rm.ask("/say")
		rm.say(c, "goodbye")
		if err := c.close(); err != nil {
			t.Errorf("closing the socket: %v", err)
		}
		<-rm.ended
		rm.shows("213 map[text:goodbye]")
		if len(rm.errs) > 0 {
			t.Errorf("OnError heard %v", <-rm.errs)
		}
	})
}

// TestTwoWebSockets of one visitor are open at a time.
func TestTwoWebSockets(t *testing.T) {
	inRooms(t, func(t *testing.T, rm *room) {
		rm.ask("/begin")
		a, _ := rm.dial()
		b, _ := rm.dial()
		rm.say(a, "a")
		rm.say(b, "b")
		rm.say(b, "save")
		rm.say(a, "save")
		rm.shows("221 map[text:a]")
		a.close()
		b.close()
		<-rm.ended
		<-rm.ended
	})
}

// TestWebSocketFails: what came after the last save is discarded.
func TestWebSocketFails(t *testing.T) {
	inRooms(t, func(t *testing.T, rm *room) {
		rm.ask("/begin")
		c, _ := rm.dial()
		rm.say(c, "hello")
		rm.say(c, "save")
		if err := c.write("panic"); err != nil {
			t.Fatal(err)
		}
		<-rm.ended
		if _, err := c.read(); err == nil {
			t.Error("the socket goes on")
		}
		rm.shows("111 map[text:hello]")
	})
}

// TestWebSocketOutlivesItsSession: the visitor signs out in another tab; the socket
// is told at its next save, and brings nothing back.
func TestWebSocketOutlivesItsSession(t *testing.T) {
	inRooms(t, func(t *testing.T, rm *room) {
		rm.ask("/begin")
		c, _ := rm.dial()
		rm.say(c, "hello")
		rm.ask("/signout")
		if err := c.write("save"); err != nil {
			t.Fatal(err)
		}
		if got, err := c.read(); err != nil || got != fmt.Sprintf("save %v (abandoned)", holdfast.ErrEnded) {
			t.Errorf("the socket says %q, %v", got, err)
		}
		c.close()
		<-rm.ended
		rm.shows("0 map[]")
		if err := <-rm.errs; !errors.Is(err, holdfast.ErrEnded) {
			t.Errorf("OnError heard %v", err)
		}
	})
}

// TestWebSocketNotSaved: where the change before the upgrade could not be saved
// there is an error page and no socket.
func TestWebSocketNotSaved(t *testing.T) {
	inRooms(t, func(t *testing.T, rm *room) {
		rm.ask("/begin")
		rm.store.fail = store.ErrFull
		c, res := rm.dial()
		if c != nil {
			t.Fatal("there is a socket")
		}
		<-rm.ended
		if err := <-rm.refused; err == nil {
			t.Error("the handler was not told")
		}
		if res.StatusCode != http.StatusServiceUnavailable || res.Header.Get("Upgrade") != "" || res.Header.Get("Sec-WebSocket-Accept") != "" {
			t.Errorf("the visitor saw %d %v", res.StatusCode, res.Header)
		}
		rm.store.fail = nil
		rm.shows("1 map[]")
	})
}

// TestWebSocketOfANewVisitor: the new session's cookie comes with the 101 where the
// library leaves the header to net/http. Where it writes to the connection itself
// the cookie could not travel, so there is an error before anything is stored.
func TestWebSocketOfANewVisitor(t *testing.T) {
	inRooms(t, func(t *testing.T, rm *room) {
		c, res := rm.dial()
		if !rm.library.early {
			if c != nil || res.StatusCode != http.StatusInternalServerError || res.Header.Get("Set-Cookie") != "" {
				t.Errorf("the visitor saw %d %v", res.StatusCode, res.Header)
			}
			<-rm.ended
			if err := <-rm.refused; err == nil {
				t.Error("the handler was not told")
			}
			if err := <-rm.errs; !errors.Is(err, holdfast.ErrHeadersSent) {
				t.Errorf("OnError heard %v", err)
			}
			rm.shows("0 map[]")
			return
		}
		if c == nil {
			t.Fatalf("no socket: %d", res.StatusCode)
		}
		rm.say(c, "hello")
		rm.say(c, "save")
		rm.shows("110 map[text:hello]")
		c.close()
		<-rm.ended
	})
}
