package holdfast_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-session/holdfast"
)

var big = strings.Repeat("0123456789abcdef", 4<<10) // twice the buffer

// An exchange is a request whose response is to be the same with a session as
// without. session is called where the handler would use it; note records what the
// handler itself sees.
type exchange struct {
	w       http.ResponseWriter
	r       *http.Request
	session func()
	note    func(...any)
}

var asWithout = []struct {
	name string
	h    func(x exchange)
}{
	{"nothing", func(x exchange) { x.session() }},
	{"small", func(x exchange) {
		x.session()
		x.note(fmt.Fprint(x.w, "hello"))
	}},
	{"session after the write", func(x exchange) {
		x.note(fmt.Fprint(x.w, "hello"))
		x.session()
	}},
	{"many small writes", func(x exchange) {
		x.session()
		for i := range 300 {
			x.note(io.WriteString(x.w, strconv.Itoa(i)))
		}
	}},
	{"as large as the buffer", func(x exchange) {
		x.session()
		x.note(io.WriteString(x.w, big[:32<<10]))
	}},
	{"larger than the buffer", func(x exchange) {
		x.session()
		x.note(io.WriteString(x.w, big[:8<<10]))
		x.note(io.WriteString(x.w, big[8<<10:]))
	}},
	{"declared length", func(x exchange) {
		x.session()
		x.w.Header().Set("Content-Length", "5")
		x.note(fmt.Fprint(x.w, "hello"))
	}},
	{"declared length, large", func(x exchange) {
		x.session()
		x.w.Header().Set("Content-Length", strconv.Itoa(len(big)))
		x.note(io.WriteString(x.w, big))
	}},
	{"more than declared", func(x exchange) {
		x.session()
		x.w.Header().Set("Content-Length", "5")
		x.note(fmt.Fprint(x.w, "hello"))
		x.note(fmt.Fprint(x.w, "!"))
	}},
	{"less than declared", func(x exchange) {
		x.session()
		x.w.Header().Set("Content-Length", "9")
		x.note(fmt.Fprint(x.w, "hello"))
	}},
	{"status 201", func(x exchange) {
		x.session()
		x.w.WriteHeader(http.StatusCreated)
	}},
	{"status 204", func(x exchange) {
		x.session()
		x.w.WriteHeader(http.StatusNoContent)
		x.note(fmt.Fprint(x.w, "hello"))
	}},
	{"status 304", func(x exchange) {
		x.session()
		x.w.Header().Set("Etag", `"v1"`)
		x.w.WriteHeader(http.StatusNotModified)
		x.note(fmt.Fprint(x.w, "hello"))
	}},
	{"status 404", func(x exchange) {
		x.session()
		http.NotFound(x.w, x.r)
	}},
	{"status 500", func(x exchange) {
		x.session()
		http.Error(x.w, "sorry", http.StatusInternalServerError)
	}},
	{"redirect", func(x exchange) {
		x.session()
		http.Redirect(x.w, x.r, "/elsewhere", http.StatusSeeOther)
	}},
	{"103", func(x exchange) {
		x.session()
		x.w.Header().Set("Link", "</style.css>; rel=preload")
		x.w.WriteHeader(http.StatusEarlyHints)
		x.w.Header().Add("Link", "</more.css>; rel=preload")
		x.w.WriteHeader(http.StatusEarlyHints)
		x.w.Header().Del("Link")
		x.note(fmt.Fprint(x.w, "hello"))
	}},
	{"102", func(x exchange) {
		x.w.WriteHeader(http.StatusProcessing)
		x.session()
		x.w.WriteHeader(http.StatusProcessing)
		x.w.WriteHeader(http.StatusTeapot)
	}},
	{"trailers", func(x exchange) {
		x.session()
		x.w.Header().Set("Trailer", "Sum, Unset")
		x.note(fmt.Fprint(x.w, "hello"))
		x.w.Header().Set("Sum", "42")
		x.w.Header().Set(http.TrailerPrefix+"Late", "yes")
	}},
	{"trailers, large", func(x exchange) {
		x.session()
		x.w.Header().Set("Trailer", "Sum")
		x.note(io.WriteString(x.w, big))
		x.w.Header().Set("Sum", "42")
	}},
	{"trailers, flushed", func(x exchange) {
		x.session()
		x.w.Header().Set("Trailer", "Sum")
		x.note(fmt.Fprint(x.w, "hel"))
		x.note(http.NewResponseController(x.w).Flush())
		x.note(fmt.Fprint(x.w, "lo"))
		x.w.Header().Set("Sum", "42")
	}},
	{"late header", func(x exchange) {
		x.session()
		x.w.Header().Set("X-Early", "1")
		x.w.WriteHeader(http.StatusAccepted)
		x.w.Header().Set("X-Early", "2")
		x.w.Header().Set("X-Late", "1")
		x.w.Header().Del("Content-Type")
		x.note(fmt.Fprint(x.w, "hello"))
	}},
	{"superfluous WriteHeader", func(x exchange) {
		x.session()
		x.w.WriteHeader(http.StatusAccepted)
		x.w.WriteHeader(http.StatusTeapot)
		x.note(fmt.Fprint(x.w, "hello"))
	}},
	{"flush first", func(x exchange) {
		x.session()
		x.w.(http.Flusher).Flush()
		x.note(fmt.Fprint(x.w, "hello"))
	}},
	{"flush between", func(x exchange) {
		x.session()
		x.note(fmt.Fprint(x.w, "hel"))
		x.note(http.NewResponseController(x.w).Flush())
		x.note(fmt.Fprint(x.w, "lo"))
	}},
	{"sniffed", func(x exchange) {
		x.session()
		x.note(fmt.Fprint(x.w, "<!doc"))
		x.note(fmt.Fprint(x.w, "type html><title>x</title>"))
	}},
	{"not sniffed, no date", func(x exchange) {
		x.session()
		x.w.Header()["Content-Type"] = nil
		x.w.Header()["Date"] = nil
		x.note(fmt.Fprint(x.w, "<!doctype html>"))
	}},
	{"copied from a reader", func(x exchange) {
		x.session()
		x.note(io.Copy(x.w, strings.NewReader(big)))
		x.note(io.Copy(x.w, io.LimitReader(strings.NewReader(big), 100<<10)))
	}},
	{"file", func(x exchange) {
		x.session()
		http.ServeContent(x.w, x.r, "a.txt", time.Unix(1e9, 0), strings.NewReader(big))
	}},
	{"range of a file", func(x exchange) {
		x.session()
		x.r.Header.Set("Range", "bytes=5-20,40000-40010")
		http.ServeContent(x.w, x.r, "a.txt", time.Unix(1e9, 0), strings.NewReader(big))
	}},
	{"file not modified", func(x exchange) {
		x.session()
		x.r.Header.Set("If-Modified-Since", time.Unix(1e9, 0).UTC().Format(http.TimeFormat))
		http.ServeContent(x.w, x.r, "a.txt", time.Unix(1e9, 0), strings.NewReader(big))
	}},
	{"connection closed", func(x exchange) {
		x.session()
		x.w.Header().Set("Connection", "close")
		x.note(fmt.Fprint(x.w, "hello"))
	}},
	{"cookies of its own", func(x exchange) {
		x.session()
		http.SetCookie(x.w, &http.Cookie{Name: "a", Value: "1"})
		http.SetCookie(x.w, &http.Cookie{Name: "b", Value: "2"})
		x.note(fmt.Fprint(x.w, "hello"))
	}},
	{"body read", func(x exchange) {
		x.session()
		x.note(io.Copy(x.w, x.r.Body))
	}},
	{"deadlines", func(x exchange) {
		c := http.NewResponseController(x.w)
		x.session()
		x.note(c.SetReadDeadline(time.Now().Add(time.Hour)), c.SetWriteDeadline(time.Now().Add(time.Hour)))
		x.note(fmt.Fprint(x.w, "hello"))
	}},
	{"write deadline passed", func(x exchange) {
		x.session()
		http.NewResponseController(x.w).SetWriteDeadline(time.Unix(1, 0))
		io.WriteString(x.w, big)
	}},
	{"invalid status", func(x exchange) {
		x.session()
		defer func() {
			x.note(recover())
			fmt.Fprint(x.w, "hello")
		}()
		x.w.WriteHeader(42)
	}},
}

// seen is everything of a response that a client sees.
type seen struct {
	Proto, Status   string
	Header, Trailer http.Header
	Body, Cut       string
	Length          int64
	Encoding        []string
	Close           bool
	Informed        []string // 1xx
}

// look asks once and returns all that was seen.
func look(t *testing.T, client *http.Client, method, url string) seen {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), promptly)
	defer cancel()
	var informed []string
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
			informed = append(informed, fmt.Sprint(code, h))
			return nil
		},
	})
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader("the body"))
	if err != nil {
		t.Fatal(err)
	}
	res, err := client.Do(req)
	if ctx.Err() != nil {
		t.Fatalf("%s %s: no answer", method, url)
	}
	if err != nil {
		return seen{Cut: "before the header", Informed: informed}
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	v := seen{res.Proto, res.Status, res.Header, res.Trailer, string(body), "", res.ContentLength, res.TransferEncoding, res.Close, informed}
	if err != nil {
		v.Cut = "in the body"
	}
	if v.Header.Get("Date") != "" {
		v.Header.Set("Date", "some")
	}
	v.Header["Set-Cookie"] = slices.DeleteFunc(v.Header["Set-Cookie"], func(c string) bool { return strings.HasPrefix(c, "session=") })
	if len(v.Header["Set-Cookie"]) == 0 {
		v.Header.Del("Set-Cookie")
	}
	v.Header.Del("Vary") // what these are is in TestCachesAreTold
	v.Header.Del("Cache-Control")
	// The boundary of a multipart answer is random.
	if ct := v.Header.Get("Content-Type"); strings.HasPrefix(ct, "multipart/") {
		_, boundary, _ := strings.Cut(ct, "boundary=")
		v.Header.Set("Content-Type", strings.ReplaceAll(ct, boundary, "B"))
		v.Body = strings.ReplaceAll(v.Body, boundary, "B")
	}
	return v
}

// uses are what a handler does with its session.
var uses = []struct {
	name   string
	begun  bool // the visitor has a session
	handle func(r *http.Request)
}{
	{"unasked", true, func(r *http.Request) {}},
	{"read", true, func(r *http.Request) { siteBag.Get(holdfast.From(r)) }},
	{"changed", true, func(r *http.Request) { siteBag.Get(holdfast.From(r))["a"] += "x" }},
	{"new", false, func(r *http.Request) { siteHits.Set(holdfast.From(r), 1) }},
}

// TestResponsesAreAsWithout runs the same handlers with and without a session, and
// compares everything that the client sees, that the handler sees, and that the
// server logs.
func TestResponsesAreAsWithout(t *testing.T) {
	everywhere(t, func(t *testing.T, on setting) {
		for _, use := range uses {
			t.Run(use.name, func(t *testing.T) {
				s := newSite(t, on, holdfast.Options{}, nil)
				bare := http.NewServeMux()
				notes := make(chan string, 1000)
				note := func(v ...any) { notes <- fmt.Sprint(v...) }
				const over = "the handler has returned"
				for i, c := range asWithout {
					path := fmt.Sprintf("/case/%d", i)
					bare.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
						defer note(over)
						c.h(exchange{w, r, func() {}, note})
					})
					s.page(path, func(w http.ResponseWriter, r *http.Request) {
						defer note(over)
						c.h(exchange{w, r, func() { use.handle(r) }, note})
					})
				}
				without, withoutLog := on.listen(t, bare)
				if use.begun {
					s.begin()
				}
				for i, c := range asWithout {
					for _, method := range []string{"POST", "HEAD"} {
						ask := func(srv *httptest.Server, log *serverLog) (v seen, n []string, logged string) {
							client := *srv.Client()
							client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
							if !use.begun {
								client.Jar = nil
							}
							v = look(t, &client, method, fmt.Sprintf("%s/case/%d", srv.URL, i))
							for line := range notes {
								if line == over {
									break
								}
								n = append(n, line)
							}
							if on.h2 && method == "HEAD" {
								n = nil // what writing to a stream says that has ended is by chance
							}
							if logged = log.take(); on.h2 {
								logged = "" // net/http does not complain of WriteHeader there
							}
							return v, n, logged
						}
						got, gotNotes, gotLog := ask(s.srv, s.log)
						want, wantNotes, wantLog := ask(without, withoutLog)
						if on.h2 && c.name == "more than declared" {
							// Over HTTP/2 net/http would send it, and the client refuse it all.
							// With a session it is ErrContentLength, as over HTTP/1.
							continue
						}
						if !reflect.DeepEqual(got, want) {
							t.Errorf("%s, %s: the client sees\n%s\nwithout the middleware\n%s", c.name, method, brief(got), brief(want))
						}
						if !slices.Equal(gotNotes, wantNotes) {
							t.Errorf("%s, %s: the handler sees\n%s\nwithout the middleware\n%s", c.name, method, brief(gotNotes), brief(wantNotes))
						}
						if gotLog != wantLog {
							t.Errorf("%s, %s: the server logs\n%s\nwithout the middleware\n%s", c.name, method, gotLog, wantLog)
						}
					}
				}
				if got := s.post("/show"); got.status != 200 {
					t.Errorf("the lock was not free: %d", got.status)
				}
			})
		}
	})
}

// brief is v without the length of its bodies.
func brief(v any) string {
	s := fmt.Sprintf("%+v", v)
	if len(s) > 700 {
		s = s[:350] + " … " + s[len(s)-350:]
	}
	return s
}

// TestOldClients is the same for HTTP/1.0, and for a client that waits for 100.
func TestOldClients(t *testing.T) {
	everywhere(t, func(t *testing.T, on setting) {
		if on.h2 {
			return
		}
		s := newSite(t, on, holdfast.Options{}, nil)
		bare := http.NewServeMux()
		for i, c := range asWithout {
			path := fmt.Sprintf("/case/%d", i)
			bare.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
				c.h(exchange{w, r, func() {}, func(...any) {}})
			})
			s.page(path, func(w http.ResponseWriter, r *http.Request) {
				c.h(exchange{w, r, func() { siteHits.Set(holdfast.From(r), 1) }, func(...any) {}})
			})
		}
		without, _ := on.listen(t, bare)
		for i, c := range asWithout {
			for _, request := range []string{
				"POST /case/%d HTTP/1.0\r\nContent-Length: 8\r\n\r\nthe body",
				"GET /case/%d HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET /case/0 HTTP/1.0\r\n\r\n",
				"POST /case/%d HTTP/1.1\r\nHost: a\r\nConnection: close\r\nExpect: 100-continue\r\nContent-Length: 8\r\n\r\nthe body",
			} {
				switch {
				case strings.Contains(request, "HTTP/1.1") && strings.Contains(c.name, "buffer"):
					continue // the same, but in other chunks
				case strings.Contains(request, "keep-alive") && c.name == "more than declared":
					continue // the same, but the connection need not be closed
				}
				request = fmt.Sprintf(request, i)
				got, want := converse(t, s.srv, request), converse(t, without, request)
				if !slices.Equal(got, want) {
					t.Errorf("%s: to %q the server answers\n%s\nwithout the middleware\n%s", c.name, request, brief(got), brief(want))
				}
			}
		}
	})
}

// converse sends request and returns the lines of all that comes back, without
// those that a session adds and those that are never the same.
func converse(t *testing.T, srv *httptest.Server, request string) []string {
	t.Helper()
	conn, err := net.Dial("tcp", srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(promptly))
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	var lines []string
	var boundary string
	for r := bufio.NewReader(conn); ; {
		line, err := r.ReadString('\n')
		if _, b, ok := strings.Cut(line, "multipart/byteranges; boundary="); ok {
			boundary = strings.TrimSpace(b)
		}
		if boundary != "" {
			line = strings.ReplaceAll(line, boundary, "B")
		}
		switch {
		case strings.HasPrefix(line, "Date: "), strings.HasPrefix(line, "Vary: "), strings.HasPrefix(line, "Cache-Control: "),
			strings.HasPrefix(line, "Set-Cookie: session="):
		default:
			lines = append(lines, line)
		}
		if err != nil {
			if err != io.EOF {
				lines = append(lines, "cut")
			}
			return lines
		}
	}
}
