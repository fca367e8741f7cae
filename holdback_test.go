package holdfast

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

var errRefused = errors.New("the session could not be saved")

// A scriptedGate notes what it is asked, and refuses at one of its calls.
type scriptedGate struct {
	w      *writer
	refuse string // the call to refuse
	skip   bool   // but not the first time
	mu     sync.Mutex
	calls  []string
	header http.Header // added to the response
	add    func(h http.Header)
}

func (g *scriptedGate) leave(status int, h http.Header, why leaving) error {
	name := [...]string{"end", "full", "flushed", "hijacked"}[why]
	maps.Copy(h, g.header)
	err := g.called(fmt.Sprintf("leave %d %s", status, name))
	if err == nil && g.add != nil {
		g.add(h)
	}
	return err
}

func (g *scriptedGate) flushed() error { return g.called("flushed") }

func (g *scriptedGate) called(call string) error {
	g.w.left() // as the session does, which must not block
	g.w.status()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.calls = append(g.calls, call)
	if call != g.refuse {
		return nil
	}
	if g.skip {
		g.skip = false
		return nil
	}
	return errRefused
}

// heldBack is the middleware, without sessions.
func heldBack(h http.Handler, limit int, g *scriptedGate) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		var w writer
		g := g
		if g == nil {
			g = &scriptedGate{}
		}
		g.w = &w
		w.init(rw, r, limit, g)
		defer w.release()
		returned := false
		defer func() {
			if !returned {
				w.discard()
			}
		}()
		h.ServeHTTP(&w, r)
		returned = true
		if err := w.finish(); err != nil {
			if w.left() {
				panic(http.ErrAbortHandler)
			}
			w.discard()
			http.Error(rw, err.Error(), http.StatusServiceUnavailable)
		}
	})
}

// tell notes what a handler itself saw: the errors, mostly.
type tell func(format string, args ...any)

// alike are handlers whose response, and what they see, must not change.
var alike = []struct {
	name    string
	handler func(w http.ResponseWriter, r *http.Request, tell tell)
}{
	{"nothing", func(w http.ResponseWriter, r *http.Request, tell tell) {}},
	{"header only", func(w http.ResponseWriter, r *http.Request, tell tell) { w.Header().Set("X-A", "1") }},
	{"empty write", func(w http.ResponseWriter, r *http.Request, tell tell) {
		n, err := w.Write(nil)
		tell("%d %v", n, err)
		w.Header().Set("X-Late", "1")
	}},
	{"short", func(w http.ResponseWriter, r *http.Request, tell tell) { fmt.Fprint(w, "hello") }},
	{"strings", func(w http.ResponseWriter, r *http.Request, tell tell) {
		for range 500 {
			io.WriteString(w, "<p>hello</p>\n")
		}
	}},
	{"sizes", func(w http.ResponseWriter, r *http.Request, tell tell) {
		size, _ := strconv.Atoi(r.URL.Query().Get("size"))
		n, err := w.Write(bytes.Repeat([]byte("x"), size))
		tell("%d %v", n, err)
	}},
	{"sizes in two", func(w http.ResponseWriter, r *http.Request, tell tell) {
		size, _ := strconv.Atoi(r.URL.Query().Get("size"))
		io.WriteString(w, "<html>")
		w.Write(bytes.Repeat([]byte("x"), size))
	}},
	{"sniffed across writes", func(w http.ResponseWriter, r *http.Request, tell tell) {
		io.WriteString(w, "<!DOC")
		io.WriteString(w, "TYPE html>")
	}},
	{"sniffed before a flush", func(w http.ResponseWriter, r *http.Request, tell tell) {
		io.WriteString(w, "<!DOC")
		w.(http.Flusher).Flush()
		io.WriteString(w, "TYPE html>")
	}},
	{"binary", func(w http.ResponseWriter, r *http.Request, tell tell) { w.Write([]byte("\x89PNG\x0D\x0A\x1A\x0A")) }},
	{"no type", func(w http.ResponseWriter, r *http.Request, tell tell) {
		w.Header()["Content-Type"] = nil
		w.Header()["Date"] = nil
		io.WriteString(w, "<html>")
	}},
	{"encoded", func(w http.ResponseWriter, r *http.Request, tell tell) {
		w.Header().Set("Content-Encoding", "br")
		io.WriteString(w, "<html>")
	}},
	{"identity", func(w http.ResponseWriter, r *http.Request, tell tell) {
		if r.ProtoMajor == 1 {
			w.Header().Set("Transfer-Encoding", "identity")
		}
		io.WriteString(w, "data: x\n\n")
	}},
	{"created", func(w http.ResponseWriter, r *http.Request, tell tell) {
		w.Header().Set("Location", "/new")
		w.WriteHeader(http.StatusCreated)
		io.WriteString(w, "made")
	}},
	{"odd status", func(w http.ResponseWriter, r *http.Request, tell tell) { w.WriteHeader(799) }},
	{"no content", func(w http.ResponseWriter, r *http.Request, tell tell) {
		w.WriteHeader(http.StatusNoContent)
		n, err := w.Write([]byte("x"))
		tell("%d %v", n, err)
	}},
	{"not modified", func(w http.ResponseWriter, r *http.Request, tell tell) {
		w.Header().Set("Etag", `"1"`)
		w.Header().Set("Content-Type", "text/css")
		w.Header().Set("Content-Length", "100")
		w.WriteHeader(http.StatusNotModified)
		n, err := io.WriteString(w, "x")
		tell("%d %v", n, err)
	}},
	{"redirect", func(w http.ResponseWriter, r *http.Request, tell tell) { http.Redirect(w, r, "/x", http.StatusFound) }},
	{"error", func(w http.ResponseWriter, r *http.Request, tell tell) { http.Error(w, "no", http.StatusTeapot) }},
	{"late header", func(w http.ResponseWriter, r *http.Request, tell tell) {
		h := w.Header()
		h.Set("X-Set", "early")
		h.Set("X-Deleted", "early")
		h["X-Changed"] = []string{"a", "b"}
		w.WriteHeader(http.StatusAccepted)
		h.Set("X-Set", "late")
		h.Set("X-New", "late")
		h.Del("X-Deleted")
		h["X-Changed"][1] = "late"
		io.WriteString(w, "x")
		tell("%v", w.Header())
	}},
	{"late header, never asked for before", func(w http.ResponseWriter, r *http.Request, tell tell) {
		io.WriteString(w, "x")
		w.Header().Set("X-Late", "1")
		w.Header().Set("Content-Type", "text/late")
	}},
	{"late header in a long body", func(w http.ResponseWriter, r *http.Request, tell tell) {
		w.Header().Set("X-A", "early")
		for range 100 {
			w.Write(make([]byte, 1000))
			w.Header().Set("X-A", "late")
		}
	}},
	{"trailers", func(w http.ResponseWriter, r *http.Request, tell tell) {
		w.Header().Set("Trailer", "X-Sum, X-None, Content-Length")
		w.Header().Add("Trailer", "X-Two")
		io.WriteString(w, "body")
		w.Header().Set("X-Sum", "7")
		w.Header()["X-Two"] = []string{"1", "2"}
	}},
	{"trailers of a long body", func(w http.ResponseWriter, r *http.Request, tell tell) {
		w.Header().Set("Trailer", "X-Sum")
		w.Header().Set("X-Sum", "early")
		w.Write(make([]byte, 100_000))
		w.Header().Set("X-Sum", "7")
		w.Header().Set(http.TrailerPrefix+"X-Undeclared", "8")
	}},
	{"undeclared trailers", func(w http.ResponseWriter, r *http.Request, tell tell) {
		io.WriteString(w, "body")
		w.Header().Set(http.TrailerPrefix+"X-Sum", "7")
	}},
	{"undeclared trailers, 5000 bytes", func(w http.ResponseWriter, r *http.Request, tell tell) {
		w.Write(make([]byte, 5000))
		w.Header().Set(http.TrailerPrefix+"X-Sum", "7")
	}},
	{"undeclared trailers, set early", func(w http.ResponseWriter, r *http.Request, tell tell) {
		w.Header().Set(http.TrailerPrefix+"X-Sum", "7")
		io.WriteString(w, "body")
	}},
	{"undeclared trailers after a flush", func(w http.ResponseWriter, r *http.Request, tell tell) {
		io.WriteString(w, "body")
		tell("%v", http.NewResponseController(w).Flush())
		w.Header().Set(http.TrailerPrefix+"X-Sum", "7")
	}},
	{"twice", func(w http.ResponseWriter, r *http.Request, tell tell) {
		w.WriteHeader(http.StatusConflict)
		w.WriteHeader(http.StatusOK)
		w.WriteHeader(http.StatusEarlyHints)
		w.WriteHeader(1)
	}},
	{"status after the body", func(w http.ResponseWriter, r *http.Request, tell tell) {
		io.WriteString(w, "x")
		http.Error(w, "failed", http.StatusInternalServerError)
	}},
	{"invalid status", func(w http.ResponseWriter, r *http.Request, tell tell) {
		for _, code := range []int{0, 99, 1000, -1} {
			func() {
				defer func() { tell("%v", recover()) }()
				w.WriteHeader(code)
			}()
		}
		w.WriteHeader(http.StatusGone)
	}},
	{"informational", func(w http.ResponseWriter, r *http.Request, tell tell) {
		w.Header().Set("Link", "</style.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Set("Link", "</other.css>; rel=preload")
		w.WriteHeader(http.StatusProcessing)
		w.Header().Set("Content-Type", "text/x")
		io.WriteString(w, "x")
		w.WriteHeader(http.StatusEarlyHints)
	}},
	{"length", func(w http.ResponseWriter, r *http.Request, tell tell) {
		w.Header().Set("Content-Length", "5")
		n, err := io.WriteString(w, "hello")
		tell("%d %v", n, err)
	}},
	{"length, too short a body", func(w http.ResponseWriter, r *http.Request, tell tell) {
		w.Header().Set("Content-Length", "50")
		io.WriteString(w, "hello")
	}},
	{"length, too long a body", func(w http.ResponseWriter, r *http.Request, tell tell) {
		if r.ProtoMajor == 2 {
			return // there net/http notices some of the time
		}
		w.Header().Set("Content-Length", "5")
		for _, s := range []string{"hel", "lo", " world"} {
			n, err := io.WriteString(w, s)
			tell("%d %v", n, err)
		}
	}},
	{"length of a long body", func(w http.ResponseWriter, r *http.Request, tell tell) {
		w.Header().Set("Content-Length", "100000")
		for range 10 {
			w.Write(bytes.Repeat([]byte("x"), 10_000))
		}
	}},
	{"length for HEAD", func(w http.ResponseWriter, r *http.Request, tell tell) {
		w.Header().Set("Content-Length", "100000")
		if r.Method != http.MethodHead {
			w.Write(make([]byte, 100_000))
		}
	}},
	{"flush first", func(w http.ResponseWriter, r *http.Request, tell tell) {
		tell("%v", http.NewResponseController(w).Flush())
		w.Header().Set("X-Late", "1")
		io.WriteString(w, "x")
	}},
	{"events", func(w http.ResponseWriter, r *http.Request, tell tell) {
		w.Header().Set("Content-Type", "text/event-stream")
		for i := range 5 {
			fmt.Fprintf(w, "data: %d\n\n", i)
			w.(http.Flusher).Flush()
		}
	}},
	{"flush without a body", func(w http.ResponseWriter, r *http.Request, tell tell) {
		w.WriteHeader(http.StatusNoContent)
		tell("%v", http.NewResponseController(w).Flush())
	}},
	{"controller", func(w http.ResponseWriter, r *http.Request, tell tell) {
		c := http.NewResponseController(w)
		soon := time.Now().Add(time.Minute)
		tell("%v %v %v", c.SetReadDeadline(soon), c.SetWriteDeadline(soon), c.EnableFullDuplex())
	}},
	{"copied, short", func(w http.ResponseWriter, r *http.Request, tell tell) {
		n, err := io.Copy(w, io.LimitReader(strings.NewReader("<html>"), 100))
		tell("%d %v", n, err)
	}},
	{"copied, nothing", func(w http.ResponseWriter, r *http.Request, tell tell) {
		n, err := io.Copy(w, io.LimitReader(strings.NewReader(""), 100))
		tell("%d %v", n, err)
		w.WriteHeader(http.StatusNotFound)
	}},
	{"copied, long", func(w http.ResponseWriter, r *http.Request, tell tell) {
		n, err := io.Copy(w, io.LimitReader(zeros{}, 200_000))
		tell("%d %v", n, err)
		w.Header().Set(http.TrailerPrefix+"X-Sum", "7")
	}},
	{"copied without a body", func(w http.ResponseWriter, r *http.Request, tell tell) {
		w.WriteHeader(http.StatusNotModified)
		n, err := io.Copy(w, io.LimitReader(zeros{}, 200_000))
		tell("%d %v", n, err)
	}},
	{"copied from a reader that fails", func(w http.ResponseWriter, r *http.Request, tell tell) {
		n, err := io.Copy(w, io.MultiReader(strings.NewReader("x"), failing{}))
		tell("%d %v", n, err)
	}},
	{"copied from a reader that uses the writer", func(w http.ResponseWriter, r *http.Request, tell tell) {
		w.Header().Set("Trailer", "X-Sum")
		n, err := io.Copy(w, readerFunc(func(p []byte) (int, error) {
			w.Header().Set("X-Sum", "7")
			w.(http.Flusher).Flush()
			return 0, io.EOF
		}))
		tell("%d %v", n, err)
	}},
	{"content", func(w http.ResponseWriter, r *http.Request, tell tell) {
		http.ServeContent(w, r, "x.bin", time.Unix(1e9, 0), bytes.NewReader(make([]byte, 300_000)))
	}},
	{"file", func(w http.ResponseWriter, r *http.Request, tell tell) { http.ServeFile(w, r, "holdback_test.go") }},
	{"range", func(w http.ResponseWriter, r *http.Request, tell tell) {
		r.Header.Set("Range", "bytes=10-100009")
		http.ServeContent(w, r, "x.bin", time.Unix(1e9, 0), bytes.NewReader(make([]byte, 300_000)))
	}},
	{"not modified since", func(w http.ResponseWriter, r *http.Request, tell tell) {
		r.Header.Set("If-Modified-Since", time.Unix(1e9, 0).UTC().Format(http.TimeFormat))
		http.ServeContent(w, r, "x.bin", time.Unix(1e9, 0), bytes.NewReader(make([]byte, 300_000)))
	}},
	{"timeout inside, met", func(w http.ResponseWriter, r *http.Request, tell tell) {
		http.TimeoutHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X-A", "1")
			io.WriteString(w, "in time")
		}), time.Minute, "late").ServeHTTP(w, r)
	}},
	{"timeout inside, missed", func(w http.ResponseWriter, r *http.Request, tell tell) {
		answered := make(chan bool)
		defer close(answered)
		http.TimeoutHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, "not in time")
			<-answered
		}), time.Nanosecond, "late").ServeHTTP(w, r)
	}},
	{"push", func(w http.ResponseWriter, r *http.Request, tell tell) {
		if r.ProtoMajor == 1 {
			return // there net/http has no Push at all, and we have one that says so
		}
		tell("%v", w.(http.Pusher).Push("/style.css", nil)) // Go's clients allow none
		tell("%v", w.(http.Pusher).Push("style.css", nil))
	}},
	{"abort", func(w http.ResponseWriter, r *http.Request, tell tell) {
		io.Copy(io.Discard, r.Body)
		w.Write(make([]byte, 50_000))
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}},
	{"abort early", func(w http.ResponseWriter, r *http.Request, tell tell) {
		io.Copy(io.Discard, r.Body)
		io.WriteString(w, "x")
		panic(http.ErrAbortHandler)
	}},
	{"echo", func(w http.ResponseWriter, r *http.Request, tell tell) {
		w.Header().Set("Content-Type", "text/plain")
		n, err := io.Copy(w, r.Body)
		tell("%d %v", n, err)
	}},
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errors.New("broken source") }

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// A site is one handler served over HTTP/1.1 and HTTP/2.
type site struct {
	handler http.Handler
	protos  map[string]*httptest.Server
	running sync.RWMutex // read-locked by each request
}

func newSite(t *testing.T, h http.Handler) *site {
	st := &site{handler: h, protos: map[string]*httptest.Server{}}
	for _, proto := range []string{"HTTP/1.1", "HTTP/2.0"} {
		s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			st.running.RLock()
			defer st.running.RUnlock()
			st.handler.ServeHTTP(w, r)
		}))
		s.Config.ErrorLog = log.New(io.Discard, "", 0)
		if s.EnableHTTP2 = proto == "HTTP/2.0"; s.EnableHTTP2 {
			s.StartTLS()
		} else {
			s.Start()
		}
		s.Client().Transport.(*http.Transport).DisableCompression = true
		s.Client().CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
		t.Cleanup(s.Close)
		st.protos[proto] = s
	}
	return st
}

// wait returns when the handlers of all answered requests have returned.
func (st *site) wait() {
	st.running.Lock()
	st.running.Unlock() //lint:ignore SA2001 nothing is guarded
}

// varies is what differs between two answers that are the same.
var varies = regexp.MustCompile(`stream ID \d+|Date:[^]\r]+`)

// seen is a response as its client sees it.
func seen(t *testing.T, s *httptest.Server, method, query string) string {
	var body io.Reader
	if method == http.MethodPost {
		body = strings.NewReader("posted")
	}
	var b strings.Builder
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
		Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
			fmt.Fprintln(&b, "informational", code, h)
			return nil
		},
	})
	req, err := http.NewRequestWithContext(ctx, method, s.URL+"/?"+query, body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header["X-Idempotency-Key"] = nil  // not sent; lets the client try again where it met a closed connection
	if strings.Contains(query, "expect") { // and never where a handler might not read it: net/http waits for ever
		req.Header.Set("Expect", "100-continue")
	}
	resp, err := s.Client().Do(req)
	if err != nil {
		return "no response"
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	fmt.Fprintln(&b, resp.Proto, resp.Status, "length", resp.ContentLength, resp.TransferEncoding, "close", resp.Close)
	fmt.Fprintln(&b, resp.Header)
	fmt.Fprintf(&b, "%d bytes %.40q %x %v\n", len(got), got, sha256.Sum256(got), err)
	fmt.Fprintln(&b, "trailer", resp.Trailer)
	return varies.ReplaceAllString(b.String(), "")
}

// exchange sends raw bytes to a server, and returns all it answers.
func exchange(t *testing.T, s *httptest.Server, request string) string {
	c, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, request)
	got, err := io.ReadAll(c)
	if err != nil && len(got) == 0 {
		t.Fatal(err)
	}
	return varies.ReplaceAllString(string(got), "")
}

// middlewares are the ways in which a handler's response may be held back.
var middlewares = map[string]func(http.Handler) http.Handler{
	"limit 0":   func(h http.Handler) http.Handler { return heldBack(h, 0, nil) },
	"limit 3":   func(h http.Handler) http.Handler { return heldBack(h, 3, nil) },
	"limit 600": func(h http.Handler) http.Handler { return heldBack(h, 600, nil) },
	"default":   func(h http.Handler) http.Handler { return heldBack(h, holdLimit, nil) },
	"twice":     func(h http.Handler) http.Handler { return heldBack(heldBack(h, 600, nil), holdLimit, nil) },
}

func TestResponsesAreAsWithoutHoldBack(t *testing.T) {
	st := newSite(t, nil)
	for _, tt := range alike {
		queries := []string{""}
		switch tt.name {
		case "sizes", "sizes in two":
			queries = nil
			for _, size := range []int{0, 512, 2048, 2049, 4096, 4097, holdLimit, holdLimit + 1} {
				queries = append(queries, fmt.Sprint("size=", size))
			}
		case "echo":
			queries = []string{"", "expect"}
		}
		t.Run(tt.name, func(t *testing.T) {
			for _, query := range queries {
				requests := map[string]func() string{
					"HTTP/1.0": func() string { return exchange(t, st.protos["HTTP/1.1"], "GET /?"+query+" HTTP/1.0\r\n\r\n") },
				}
				for proto, s := range st.protos {
					for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPost} {
						requests[proto+" "+method] = func() string { return seen(t, s, method, query) }
					}
				}
				for name, request := range requests {
					var told []string
					h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						tt.handler(w, r, func(format string, args ...any) {
							if r.ProtoMajor == 1 || r.Method != http.MethodHead { // else its stream has ended, or will soon
								told = append(told, fmt.Sprintf(format, args...))
							}
						})
					})
					st.handler = h
					bare := request()
					st.wait()
					bareTold := told
					for mw, around := range middlewares {
						st.handler, told = around(h), nil
						got := request()
						st.wait()
						if got != bare || !slices.Equal(told, bareTold) {
							t.Errorf("%s, %s, %s:\n%s%q\nwithout:\n%s%q", name, query, mw, got, told, bare, bareTold)
						}
					}
				}
			}
		})
	}
}

// What differs, for the better.
func TestWhatDiffersFromNetHTTP(t *testing.T) {
	st := newSite(t, nil)
	s := st.protos["HTTP/1.1"]
	for _, tt := range []struct {
		name       string
		handler    http.HandlerFunc
		bare, held string
	}{
		{"a short body that is copied has its length", func(w http.ResponseWriter, r *http.Request) {
			io.Copy(w, io.LimitReader(zeros{}, 1000))
		}, "length -1 [chunked]", "length 1000 []"},
		{"the request's body can still be asked for", func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusOK)
			io.Copy(w, r.Body)
		}, "HTTP/1.1 200", "informational 100"},
	} {
		for want, h := range map[string]http.Handler{tt.bare: tt.handler, tt.held: heldBack(tt.handler, holdLimit, nil)} {
			st.handler = h
			if got := seen(t, s, http.MethodPost, "expect"); !strings.Contains(strings.SplitN(got, "\n", 2)[0], want) {
				t.Errorf("%s: got %s, want %s", tt.name, got, want)
			}
		}
	}
}

// Each step of a handler, and what the gate is asked by then.
func TestGateIsAskedBeforeAnythingLeaves(t *testing.T) {
	flush := func(w http.ResponseWriter) { w.(http.Flusher).Flush() }
	full := func(w http.ResponseWriter) { w.Write(make([]byte, holdLimit+1)) }
	hijack := func(w http.ResponseWriter) {
		if c, _, err := http.NewResponseController(w).Hijack(); err == nil {
			c.Close()
		}
	}
	status := func(code int) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) { w.WriteHeader(code) }
	}
	type steps []func(http.ResponseWriter)
	for _, tt := range []struct {
		name  string
		steps steps
		want  []string
	}{
		{"nothing", nil, []string{"leave 200 end"}},
		{"a status", steps{status(404)}, []string{"leave 404 end"}},
		{"informational", steps{status(103)}, []string{"leave 200 end"}},
		{"a failure", steps{status(500)}, []string{"leave 500 end"}},
		{"a long body", steps{full, full}, []string{"leave 200 full"}},
		{"a body declared long", steps{func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", "1000000")
			io.WriteString(w, "x")
		}}, []string{"leave 200 full"}},
		{"flushes", steps{flush, flush, flush}, []string{"leave 200 flushed", "flushed", "flushed"}},
		{"a flush after a long body", steps{full, flush}, []string{"leave 200 full", "flushed"}},
		{"switched", steps{status(101), hijack}, []string{"leave 101 flushed", "flushed"}},
		{"hijacked", steps{hijack}, []string{"leave 0 hijacked"}},
		{"hijacked with a status", steps{status(201), hijack}, []string{"leave 201 hijacked"}},
		{"hijacked after a flush", steps{flush, hijack, flush}, []string{"leave 200 flushed", "flushed"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			// Each of the calls is refused in turn, then none.
			for n := range len(tt.want) + 1 {
				g, want := &scriptedGate{}, tt.want
				if n < len(want) {
					g.refuse, want = want[n], want[:n+1]
					g.skip = slices.Index(want, want[n]) != n
				}
				var told []error
				st := newSite(t, heldBack(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("Location", "/")
					for _, step := range tt.steps {
						step(w)
					}
					if g.refuse != "" && !strings.HasSuffix(g.refuse, "end") {
						_, err := io.WriteString(w, "x")
						told = append(told, err, http.NewResponseController(w).Flush())
						_, err = io.Copy(w, io.LimitReader(zeros{}, 1))
						told = append(told, err)
						_, _, err = w.(http.Hijacker).Hijack()
						told = append(told, err)
						w.WriteHeader(http.StatusOK)
					}
				}), holdLimit, g))
				got := exchange(t, st.protos["HTTP/1.1"], "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
				st.wait()
				if !slices.Equal(g.calls, want) {
					t.Errorf("asked %q, want %q", g.calls, want)
				}
				for _, err := range told {
					if err != errRefused {
						t.Errorf("refused at %q: then %v", g.refuse, err)
					}
				}
				_, page, ok := strings.Cut(got, "HTTP/1.1 503")
				if n == 0 && (!ok || !strings.HasSuffix(page, errRefused.Error()+"\n") || strings.Contains(page, "Location")) {
					t.Errorf("refused at %q: got %.300q", g.refuse, got)
				}
			}
		})
	}
}

func TestHeaderOfTheGateIsSent(t *testing.T) {
	g := &scriptedGate{header: http.Header{"Set-Cookie": {"session=1"}, "Vary": {"Cookie"}}}
	for name, h := range map[string]http.HandlerFunc{
		"nothing":     func(w http.ResponseWriter, r *http.Request) {},
		"body":        func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "x") },
		"late header": func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(204); w.Header().Set("Vary", "late") },
		"flush":       func(w http.ResponseWriter, r *http.Request) { w.(http.Flusher).Flush() },
	} {
		for proto, s := range newSite(t, heldBack(h, holdLimit, g)).protos {
			if got := seen(t, s, "GET", ""); !strings.Contains(got, "Set-Cookie:[session=1] Vary:[Cookie]") {
				t.Errorf("%s, %s: got %s", name, proto, got)
			}
		}
	}
}

// What the gate adds is there, and once, for writers that read their header long after
// WriteHeader, whatever the handler does to its header after the first Write. The
// header is otherwise what the handler left, as those writers find it without us.
func TestHeaderOfTheGateIsSentByWritersThatReadItLate(t *testing.T) {
	outsides := map[string]func(http.Handler) http.Handler{
		"TimeoutHandler": func(h http.Handler) http.Handler { return http.TimeoutHandler(h, time.Hour, "too slow") },
		"buffering":      buffering,
	}
	lates := map[string]func(h http.Header){
		"nothing":      func(h http.Header) {},
		"adds":         func(h http.Header) { h.Set("X-Late", "1") },
		"changes":      func(h http.Header) { h.Set("X-Early", "2"); h.Set("Vary", "Late") },
		"deletes":      func(h http.Header) { h.Del("X-Early"); h.Del("Vary"); h.Del("Set-Cookie") },
		"sets cookies": func(h http.Header) { h.Add("Set-Cookie", "late=1") },
	}
	for outside, around := range outsides {
		for name, late := range lates {
			for _, size := range []int{1, holdLimit + 1} {
				ask := func(h http.Handler) http.Header {
					rec := httptest.NewRecorder()
					around(h).ServeHTTP(rec, httptest.NewRequest("GET", "/", nil))
					return rec.Result().Header
				}
				h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("X-Early", "1")
					w.Header().Set("Vary", "Accept")
					w.Header().Add("Set-Cookie", "app=1")
					w.Write(make([]byte, size/2))
					late(w.Header())
					w.Write(make([]byte, size-size/2))
				})
				want := ask(h)
				want["Set-Cookie"] = []string{"app=1", "session=1"}
				want["Vary"] = []string{"Accept", "Cookie"}
				got := ask(heldBack(h, holdLimit, &scriptedGate{add: func(h http.Header) {
					h.Add("Set-Cookie", "session=1")
					h.Add("Vary", "Cookie")
				}}))
				if !maps.EqualFunc(got, want, slices.Equal) {
					t.Errorf("%s, which %s, %d bytes: got %v, want %v", outside, name, size, got, want)
				}
			}
		}
	}
}

// buffering is middleware that reads its header when the handler has returned, as
// those do that compress.
func buffering(h http.Handler) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		b := &buffered{ResponseWriter: rw, code: http.StatusOK}
		h.ServeHTTP(b, r)
		rw.WriteHeader(b.code)
		rw.Write(b.body.Bytes())
	})
}

type buffered struct {
	http.ResponseWriter
	code int
	body bytes.Buffer
}

func (b *buffered) WriteHeader(code int)        { b.code = code }
func (b *buffered) Write(p []byte) (int, error) { return b.body.Write(p) }

// A flush reaches the client while the handler still runs.
func TestFlushArrives(t *testing.T) {
	read := make(chan bool)
	for proto, s := range newSite(t, heldBack(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for i := range 3 {
			fmt.Fprintf(w, "data: %d\n", i)
			if err := http.NewResponseController(w).Flush(); err != nil {
				t.Error(err)
			}
			<-read
		}
	}), holdLimit, nil)).protos {
		resp, err := s.Client().Get(s.URL)
		if err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(resp.Body)
		for i := range 3 {
			if !lines.Scan() || lines.Text() != fmt.Sprint("data: ", i) {
				t.Errorf("%s: got %q, %v", proto, lines.Text(), lines.Err())
			}
			read <- true
		}
		resp.Body.Close()
	}
}

func TestHijack(t *testing.T) {
	st := newSite(t, nil)
	s := st.protos["HTTP/1.1"]
	echo := func(t *testing.T, w http.ResponseWriter, greeting string) {
		c, rw, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		rw.WriteString(greeting)
		line, _ := rw.ReadString('\n')
		rw.WriteString(line)
		rw.Flush()
		w.WriteHeader(http.StatusOK)
		if _, err := w.Write([]byte("x")); err != http.ErrHijacked {
			t.Errorf("Write after Hijack: %v", err)
		}
	}
	const request = "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nping\n"
	for name, before := range map[string]func(w http.ResponseWriter) string{
		"own answer": func(w http.ResponseWriter) string { return "HTTP/1.1 101 Switching Protocols\r\n\r\n" },
		"101": func(w http.ResponseWriter) string {
			w.Header().Set("Connection", "Upgrade")
			w.Header().Set("Upgrade", "echo")
			w.WriteHeader(http.StatusSwitchingProtocols)
			return ""
		},
		"after a flush": func(w http.ResponseWriter) string {
			w.Header().Set("Content-Length", "100")
			io.WriteString(w, "body")
			w.(http.Flusher).Flush()
			return "more"
		},
		"after a status": func(w http.ResponseWriter) string { w.WriteHeader(http.StatusAccepted); return "more" },
	} {
		t.Run(name, func(t *testing.T) {
			h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { echo(t, w, before(w)) })
			st.handler = h
			bare := exchange(t, s, request)
			st.wait()
			for mw, around := range middlewares {
				st.handler = around(h)
				got := exchange(t, s, request)
				st.wait()
				if got != bare || !strings.HasSuffix(got, "ping\n") {
					t.Errorf("%s: got %q, without %q", mw, got, bare)
				}
			}
		})
	}
}

// hijackFails is a writer like those of careless middleware.
type hijackFails struct{ http.ResponseWriter }

func (hijackFails) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return nil, nil, errors.New("not this one")
}

func TestWhatIsNotSupportedChangesNothing(t *testing.T) {
	for name, tt := range map[string]struct {
		below func(http.ResponseWriter) http.ResponseWriter
		want  []string
	}{
		"no flush, no hijack": {func(rw http.ResponseWriter) http.ResponseWriter { return struct{ http.ResponseWriter }{rw} },
			[]string{"leave 501 end"}},
		"a hijack that fails": {func(rw http.ResponseWriter) http.ResponseWriter { return hijackFails{rw} },
			[]string{"leave 0 hijacked", "leave 501 end"}},
	} {
		g := &scriptedGate{}
		h := heldBack(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if err := http.NewResponseController(w).Flush(); !errors.Is(err, errors.ErrUnsupported) {
				t.Errorf("%s: Flush: %v", name, err)
			}
			if _, _, err := http.NewResponseController(w).Hijack(); err == nil {
				t.Errorf("%s: Hijack: no error", name)
			}
			w.WriteHeader(http.StatusNotImplemented)
		}), holdLimit, g)
		rec := httptest.NewRecorder()
		h.ServeHTTP(tt.below(rec), httptest.NewRequest("GET", "/", nil))
		if rec.Code != http.StatusNotImplemented || !slices.Equal(g.calls, tt.want) {
			t.Errorf("%s: status %d, asked %q", name, rec.Code, g.calls)
		}
	}
}

func TestErrorPageIsNotDescribedAsTheResponseWas(t *testing.T) {
	rec := httptest.NewRecorder()
	rec.Header().Set("X-Request-Id", "1")
	rec.Header().Set("Connection", "close")
	var w writer
	w.init(rec, httptest.NewRequest("GET", "/", nil), holdLimit, &scriptedGate{w: &w})
	defer w.release()
	h := w.Header()
	for _, k := range []string{"Content-Type", "Content-Length", "Content-Encoding", "Content-Disposition", "Content-Range", "ETag",
		"Last-Modified", "Cache-Control", "Expires", "Location", "Set-Cookie", "Trailer", "Trailer:X-Sum", "Sec-WebSocket-Accept"} {
		h.Set(k, "1")
	}
	h.Set("Access-Control-Allow-Origin", "*")
	h.Set("Content-Security-Policy", "default-src 'self'")
	w.WriteHeader(http.StatusOK)
	io.WriteString(&w, "dropped")
	w.discard()
	want := http.Header{"X-Request-Id": {"1"}, "Connection": {"close"}, "Access-Control-Allow-Origin": {"*"}, "Content-Security-Policy": {"default-src 'self'"}}
	if !maps.EqualFunc(rec.Header(), want, slices.Equal) || w.status() != 0 || w.left() || rec.Body.Len() > 0 {
		t.Errorf("header %v, status %d, body %q", rec.Header(), w.status(), rec.Body)
	}
}

// What the middleware around us has put into the header is there for the error page,
// whatever was done to it since, and however far the response has come.
func TestErrorPageHasTheHeaderOfTheMiddlewareOutside(t *testing.T) {
	outer := http.Header{"X-Request-Id": {"1"}, "Content-Encoding": {"gzip"}, "Set-Cookie": {"csrf=1", "a=b"}, "Vary": {"Accept-Encoding"}, "Cache-Control": {"no-cache"}, "Date": nil}
	spoil := func(w http.ResponseWriter) {
		h := w.Header()
		h["Set-Cookie"][0] = "csrf=2"
		h.Add("Set-Cookie", "app=1")
		h.Set("Content-Encoding", "br")
		h.Set("Content-Length", "5")
		h.Set("Vary", "*")
		h.Del("X-Request-Id")
		h.Del("Date")
	}
	for name, tt := range map[string]struct {
		refuse string
		h      func(w http.ResponseWriter)
	}{
		"dropped, not touched":  {"", func(w http.ResponseWriter) { io.WriteString(w, "x") }},
		"dropped":               {"", spoil},
		"dropped, written":      {"", func(w http.ResponseWriter) { spoil(w); io.WriteString(w, "x") }},
		"dropped, changed late": {"", func(w http.ResponseWriter) { io.WriteString(w, "x"); spoil(w) }},
		"refused at the end":    {"leave 200 end", func(w http.ResponseWriter) { spoil(w); io.WriteString(w, "hello") }},
		"refused, not touched":  {"leave 200 end", func(w http.ResponseWriter) { io.WriteString(w, "hello") }},
		"refused at a flush":    {"leave 200 flushed", func(w http.ResponseWriter) { spoil(w); w.(http.Flusher).Flush(); w.Header().Set("Etag", "1") }},
		"refused, then changed": {"leave 200 flushed", func(w http.ResponseWriter) { w.(http.Flusher).Flush(); spoil(w) }},
		"refused, changed late": {"leave 200 full", func(w http.ResponseWriter) { io.WriteString(w, "x"); spoil(w); w.Write(make([]byte, holdLimit)) }},
		"refused at a hijack":   {"leave 0 hijacked", func(w http.ResponseWriter) { spoil(w); http.NewResponseController(w).Hijack() }},
		"refused after a hijack": {"leave 200 end", func(w http.ResponseWriter) {
			spoil(w)
			http.NewResponseController(w).Hijack()
			io.WriteString(w, "hello")
		}},
		"refused at the end, later": {"leave 200 end", func(w http.ResponseWriter) { http.NewResponseController(w).Hijack(); io.WriteString(w, "hello") }},
	} {
		rec := httptest.NewRecorder()
		maps.Copy(rec.Header(), outer.Clone())
		g := &scriptedGate{refuse: tt.refuse, add: func(h http.Header) { h.Add("Set-Cookie", "session=1") }} // at a hijack that then fails
		var w writer
		g.w = &w
		w.init(struct {
			hijackFails
			http.Flusher
		}{hijackFails{rec}, rec}, httptest.NewRequest("GET", "/", nil), holdLimit, g)
		tt.h(&w)
		if tt.refuse != "" {
			w.finish()
		}
		w.discard()
		if !maps.EqualFunc(rec.Header(), outer, slices.Equal) || rec.Body.Len() > 0 {
			t.Errorf("%s: header %v, body %q", name, rec.Header(), rec.Body)
		}
		w.release()
		if w.held != nil {
			t.Errorf("%s: the buffer was not given back", name)
		}
	}
}

// Goroutines that outlive their handler write on, into nobody's response.
func TestLateGoroutine(t *testing.T) {
	var late sync.WaitGroup
	st := newSite(t, heldBack(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		letter := bytes.Repeat([]byte(r.URL.Query().Get("letter")), 100)
		w.Header().Set("Content-Type", "text/plain")
		late.Go(func() {
			for {
				if _, err := w.Write(letter); err == errHandlerDone {
					break
				} else if err != nil {
					t.Error(err)
				}
			}
			w.WriteHeader(http.StatusTeapot)
			if _, err := io.Copy(w, bytes.NewReader(letter)); err != errHandlerDone {
				t.Error(err)
			}
			c := http.NewResponseController(w)
			_, _, err := c.Hijack()
			for _, err := range []error{err, c.Flush()} {
				if err != errHandlerDone {
					t.Error(err)
				}
			}
		})
		w.Write(letter)
	}), holdLimit, nil))
	var visitors sync.WaitGroup
	for _, s := range st.protos {
		for i := range 8 {
			letter := string(rune('a' + i))
			visitors.Go(func() {
				for range 50 {
					resp, err := s.Client().Get(s.URL + "?letter=" + letter)
					if err != nil {
						t.Error(err)
						return
					}
					body, err := io.ReadAll(resp.Body)
					resp.Body.Close()
					if n := len(body); err != nil || n == 0 || n%100 != 0 || strings.Count(string(body), letter) != n {
						t.Errorf("visitor %s: %v, %d bytes %.200q", letter, err, n, body)
					}
				}
			})
		}
	}
	visitors.Wait()
	late.Wait()
}

func TestReleasedWriterTouchesNothing(t *testing.T) {
	rec := httptest.NewRecorder()
	var w writer
	w.init(rec, httptest.NewRequest("GET", "/", nil), holdLimit, &scriptedGate{w: &w})
	io.WriteString(&w, "x")
	if err := w.finish(); err != nil {
		t.Fatal(err)
	}
	w.release()
	w.Header().Set("X-Late", "1")
	c := http.NewResponseController(&w)
	if err := c.SetWriteDeadline(time.Now()); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("SetWriteDeadline: %v", err)
	}
	if _, err := w.Write([]byte("y")); err != errHandlerDone || rec.Body.String() != "x" || rec.Header().Get("X-Late") != "" {
		t.Errorf("Write: %v, body %q, header %v", err, rec.Body, rec.Header())
	}
}

func TestSuperfluousStatusIsLoggedAsByNetHTTP(t *testing.T) {
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, "a", 400)
		http.Error(w, "b", 500)
		c, _, _ := w.(http.Hijacker).Hijack()
		w.WriteHeader(200)
		c.Close()
	})
	logged := func(h http.Handler) string {
		var b strings.Builder
		st := newSite(t, h)
		s := st.protos["HTTP/1.1"]
		s.Config.ErrorLog.SetOutput(&b)
		exchange(t, s, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		st.wait()
		return b.String()
	}
	bare, got := logged(h), logged(heldBack(h, holdLimit, nil))
	if got != bare || !strings.Contains(bare, "superfluous") || !strings.Contains(bare, "hijacked") {
		t.Errorf("logged %q, without %q", got, bare)
	}
}

func TestCloseNotify(t *testing.T) {
	told := make(chan bool)
	for _, s := range newSite(t, heldBack(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		gone := w.(interface{ CloseNotify() <-chan bool }).CloseNotify()
		w.(http.Flusher).Flush()
		told <- <-gone
	}), holdLimit, nil)).protos {
		resp, err := s.Client().Get(s.URL)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		<-told
	}
}

// The heap does not grow with what was sent of a download of 100 MB.
func TestDownloadInConstantMemory(t *testing.T) {
	const size = 100_000_000
	file := filepath.Join(t.TempDir(), "download")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, size); err != nil {
		t.Fatal(err)
	}
	for proto, s := range newSite(t, heldBack(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/file":
			http.ServeFile(w, r, file)
		case "/copied":
			io.Copy(w, io.LimitReader(zeros{}, size))
		case "/written":
			chunk := make([]byte, 10_000)
			for n := 0; n < size; n += len(chunk) {
				w.Write(chunk[:min(len(chunk), size-n)])
			}
		}
	}), holdLimit, nil)).protos {
		for _, path := range []string{"/file", "/copied", "/written"} {
			resp, err := s.Client().Get(s.URL + path)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			var first uint64
			for n := 0; n < size; n += size / 10 {
				if _, err := io.CopyN(io.Discard, resp.Body, size/10); err != nil {
					t.Fatalf("%s %s: %v after %d bytes", proto, path, err, n)
				}
				var now runtime.MemStats
				runtime.GC()
				runtime.ReadMemStats(&now)
				if first == 0 {
					first = now.HeapAlloc
				} else if now.HeapAlloc > first+8<<20 { // the client's HTTP/2 window alone is 4 MB
					t.Errorf("%s %s: the heap grew from %d to %d after %d bytes", proto, path, first, now.HeapAlloc, n)
				}
			}
		}
	}
}

// readsFrom is a writer that has a way of its own to copy a file.
type readsFrom struct {
	http.ResponseWriter
	from []io.Reader
}

func (w *readsFrom) ReadFrom(src io.Reader) (int64, error) {
	w.from = append(w.from, src)
	return io.Copy(w.ResponseWriter, src)
}

func TestReadFromIsLeftToTheServer(t *testing.T) {
	for _, tt := range []struct {
		size int64
		left bool
	}{{holdLimit, false}, {10 * holdLimit, true}} {
		rec := httptest.NewRecorder()
		rw, src := &readsFrom{ResponseWriter: rec}, io.LimitReader(zeros{}, tt.size)
		h := heldBack(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if n, err := io.Copy(w, src); n != tt.size || err != nil {
				t.Errorf("copied %d, %v", n, err)
			}
		}), holdLimit, nil)
		h.ServeHTTP(rw, httptest.NewRequest("GET", "/", nil))
		if got := slices.Contains(rw.from, src); got != tt.left || int64(rec.Body.Len()) != tt.size {
			t.Errorf("%d bytes: left to the server %v, %d arrived", tt.size, got, rec.Body.Len())
		}
	}
}

// pushes is a writer whose client takes what is pushed.
type pushes struct {
	http.ResponseWriter
	pushed []string
}

func (p *pushes) Push(target string, o *http.PushOptions) error {
	p.pushed = append(p.pushed, fmt.Sprint(target, " ", o.Header))
	return nil
}

func TestPushIsLeftToTheServer(t *testing.T) {
	var kept http.Pusher
	push := func() error {
		return kept.Push("/style.css", &http.PushOptions{Header: http.Header{"X-A": {"1"}}})
	}
	var err error
	h := heldBack(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		kept = w.(http.Pusher)
		err = push()
	}), holdLimit, nil)
	rw := &pushes{ResponseWriter: httptest.NewRecorder()}
	h.ServeHTTP(rw, httptest.NewRequest("GET", "/", nil))
	late := push()
	if want := []string{"/style.css map[X-A:[1]]"}; err != nil || late != http.ErrNotSupported || !slices.Equal(rw.pushed, want) {
		t.Errorf("pushed %q (%v), want %q; and when the handler had returned: %v", rw.pushed, err, want, late)
	}
	h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
	if err != http.ErrNotSupported {
		t.Errorf("to a writer that cannot: %v", err)
	}
}

// blank is the cheapest of response writers.
type blank struct{ h http.Header }

func (b blank) Header() http.Header         { return b.h }
func (b blank) WriteHeader(int)             {}
func (b blank) Write(p []byte) (int, error) { return len(p), nil }

type open struct{}

func (open) leave(int, http.Header, leaving) error { return nil }
func (open) flushed() error                        { return nil }

func small(w http.ResponseWriter) {
	w.Header()["Content-Type"] = textPlain
	w.Write(hello)
}

var textPlain, hello = []string{"text/plain"}, []byte("hello, world")

func TestSmallResponseAllocatesNothing(t *testing.T) {
	b, r, w := blank{http.Header{}}, &http.Request{}, new(writer)
	if n := testing.AllocsPerRun(1000, func() {
		*w = writer{}
		w.init(b, r, holdLimit, open{})
		small(w)
		w.finish()
		w.release()
	}); n > 1 { // none; but under the race detector a pool loses some of what it is given
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkSmallResponse(b *testing.B) {
	rw, r := blank{http.Header{}}, &http.Request{URL: &url.URL{}}
	b.Run("bare", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			small(rw)
		}
	})
	b.Run("held", func(b *testing.B) {
		b.ReportAllocs()
		w := new(writer)
		for b.Loop() {
			*w = writer{}
			w.init(rw, r, holdLimit, open{})
			small(w)
			w.finish()
			w.release()
		}
	})
}
