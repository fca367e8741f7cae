package holdfast_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-session/holdfast"
	"github.com/holdfast-session/holdfast/store"
)

// add adds n to the hits.
func add(r *http.Request, n int) {
	siteHits.Update(holdfast.From(r), func(hits int) int { return hits + n })
}

// A stream is a response that is read bit by bit.
type stream struct {
	t   *testing.T
	res *http.Response
	*bufio.Reader
}

// open asks for a page and returns it when its header is there.
func (s *site) open(path string) *stream {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), promptly)
	s.t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, "POST", s.srv.URL+path, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	res, err := s.srv.Client().Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { res.Body.Close() })
	return &stream{s.t, res, bufio.NewReader(res.Body)}
}

// line reads a line, which is to be want.
func (st *stream) line(want string) {
	st.t.Helper()
	if got, err := st.ReadString('\n'); got != want+"\n" {
		st.t.Fatalf("the next line is %q (%v), want %q", got, err, want)
	}
}

// TestServerSentEvents: from the first Flush the lock is free, while the stream goes
// on; what the stream changes later is merged with what others saved meanwhile.
func TestServerSentEvents(t *testing.T) {
	everywhere(t, func(t *testing.T, on setting) {
		s := newSite(t, on, holdfast.Options{}, nil)
		ticks := make(chan int)
		end := sync.OnceFunc(func() { close(ticks) })
		s.page("/events", func(w http.ResponseWriter, r *http.Request) {
			c := http.NewResponseController(w)
			w.Header().Set("Content-Type", "text/event-stream")
			add(r, 10)
			fmt.Fprintln(w, "data: begun")
			if err := c.Flush(); err != nil {
				t.Error(err)
			}
			for n := range ticks {
				add(r, n)
				siteBag.Get(holdfast.From(r))["tick"] = fmt.Sprint(n)
				fmt.Fprintln(w, "data:", n)
				if err := c.Flush(); err != nil {
					t.Error(err)
				}
			}
			add(r, 100000)
		})
		s.begin()
		events := s.open("/events")
		defer end()
		if ct := events.res.Header.Get("Content-Type"); ct != "text/event-stream" {
			t.Errorf("Content-Type: %q", ct)
		}
		events.line("data: begun")
		s.shows("11 map[a:1]")
		for i, n := range []int{100, 1000} {
			if got := s.post("/add"); got.status != 200 {
				t.Errorf("another request: %d", got.status)
			}
			ticks <- n
			events.line(fmt.Sprint("data: ", n))
			s.shows([]string{"112 map[a:1 tick:100]", "1113 map[a:1 tick:1000]"}[i])
		}
		s.post("/add")
		end()
		if _, err := io.ReadAll(events); err != nil {
			t.Errorf("the stream was cut: %v", err)
		}
		s.shows("101114 map[a:1 tick:1000]")
		if lines := s.log.take(); lines != "" {
			t.Errorf("the server logs %s", lines)
		}
	})
}

// TestSessionOfALateStream: one that first asks for its session when the stream has
// begun gives the lock up at the next Flush.
func TestSessionOfALateStream(t *testing.T) {
	everywhere(t, func(t *testing.T, on setting) {
		s := newSite(t, on, holdfast.Options{}, nil)
		proceed := make(chan struct{})
		goOn := sync.OnceFunc(func() { close(proceed) })
		s.page("/events", func(w http.ResponseWriter, r *http.Request) {
			w.(http.Flusher).Flush()
			add(r, 10)
			fmt.Fprintln(w, "one")
			w.(http.Flusher).Flush()
			<-proceed
			add(r, 100)
		})
		s.begin()
		events := s.open("/events")
		defer goOn()
		events.line("one")
		s.shows("11 map[a:1]")
		s.post("/add")
		goOn()
		if _, err := io.ReadAll(events); err != nil {
			t.Errorf("the stream was cut: %v", err)
		}
		s.shows("112 map[a:1]")
	})
}

// TestStreamThenFailure: what was saved by the last Flush stays, what came after is
// discarded, and the visitor sees that the stream did not end well.
func TestStreamThenFailure(t *testing.T) {
	for _, c := range []struct {
		name string
		fail func()
	}{
		{"panic", func() { panic("sorry") }},
		{"ErrAbortHandler", func() { panic(http.ErrAbortHandler) }},
		{"Goexit", func() { runtime.Goexit() }},
	} {
		t.Run(c.name, func(t *testing.T) {
			everywhere(t, func(t *testing.T, on setting) {
				s := newSite(t, on, holdfast.Options{}, nil)
				s.page("/flush", func(w http.ResponseWriter, r *http.Request) {
					add(r, 10)
					fmt.Fprintln(w, "one")
					w.(http.Flusher).Flush()
					add(r, 100)
					siteBag.Get(holdfast.From(r))["b"] = "2"
					w.(http.Flusher).Flush()
					add(r, 1000)
					siteBag.Get(holdfast.From(r))["c"] = "3"
					c.fail()
				})
				s.page("/large", func(w http.ResponseWriter, r *http.Request) {
					add(r, 10000)
					io.WriteString(w, big)
					add(r, 100000)
					c.fail()
				})
				s.begin()
				if got := s.post("/flush"); got.status != 200 || got.body != "one\n" || got.cut == nil {
					t.Errorf("the visitor saw %d %q, and an end of %v", got.status, got.body, got.cut)
				}
				s.shows("111 map[a:1 b:2]")
				if got := s.post("/large"); got.cut == nil {
					t.Errorf("the visitor saw %d %.10q, and no cut", got.status, got.body)
				}
				s.shows("10111 map[a:1 b:2]")
			})
		})
	}
}

// TestChangeAfterTheFirstByte is saved when the handler ends.
func TestChangeAfterTheFirstByte(t *testing.T) {
	everywhere(t, func(t *testing.T, on setting) {
		s := newSite(t, on, holdfast.Options{}, nil)
		s.page("/large", func(w http.ResponseWriter, r *http.Request) {
			bag := siteBag.Get(holdfast.From(r))
			io.WriteString(w, big)
			bag["b"] = "2"
			add(r, 10)
			io.WriteString(w, big)
			add(r, 100)
		})
		s.page("/before", func(w http.ResponseWriter, r *http.Request) { // never looked at before
			io.WriteString(w, big)
			add(r, 1000)
		})
		s.begin()
		if got := s.post("/large"); got.body != big+big || got.cut != nil {
			t.Errorf("the visitor saw %d bytes, and an end of %v", len(got.body), got.cut)
		}
		s.shows("111 map[a:1 b:2]")
		if got := s.post("/before"); got.body != big || got.cut != nil {
			t.Errorf("the visitor saw %d bytes, and an end of %v", len(got.body), got.cut)
		}
		s.shows("1111 map[a:1 b:2]")
	})
}

// TestTooLateForACookie: a new session, or a new ID, after the header has left is an
// error before anything changes.
func TestTooLateForACookie(t *testing.T) {
	everywhere(t, func(t *testing.T, on setting) {
		s := newSite(t, on, holdfast.Options{}, nil)
		result := make(chan error, 1)
		for name, late := range map[string]func(*holdfast.Session){
			"new":   func(s *holdfast.Session) { siteHits.Set(s, 5000) },
			"newid": func(s *holdfast.Session) { siteHits.Set(s, 5000); s.RegenerateID() },
		} {
			for way, leave := range map[string]func(http.ResponseWriter){
				"flush": func(w http.ResponseWriter) { w.(http.Flusher).Flush() },
				"large": func(w http.ResponseWriter) { io.WriteString(w, big) },
			} {
				// The handler that asks is told, and may go on without.
				s.page("/asks/"+name+"/"+way, func(w http.ResponseWriter, r *http.Request) {
					session := holdfast.From(r)
					leave(w)
					late(session)
					result <- session.Save(r.Context())
					session.Discard()
				})
				// The one that does not has its response cut.
				s.page("/cut/"+name+"/"+way, func(w http.ResponseWriter, r *http.Request) {
					session := holdfast.From(r)
					leave(w)
					late(session)
				})
			}
		}
		for _, name := range []string{"new", "newid"} {
			if name == "newid" {
				s.begin()
			}
			creates, saves := s.store.creates.Load(), s.store.saves.Load()
			for _, way := range []string{"flush", "large"} {
				got := s.post("/asks/" + name + "/" + way)
				if err := <-result; !errors.Is(err, holdfast.ErrHeadersSent) {
					t.Errorf("%s after %s: Save returned %v, want ErrHeadersSent", name, way, err)
				}
				if got.cut != nil || got.header.Get("Set-Cookie") != "" {
					t.Errorf("%s after %s, discarded: the visitor saw %v %v", name, way, got.cut, got.header)
				}
				got = s.post("/cut/" + name + "/" + way)
				if got.cut == nil {
					t.Errorf("%s after %s: the response was not cut", name, way)
				}
				s.hears(holdfast.ErrHeadersSent)
			}
			if s.store.creates.Load() != creates || s.store.saves.Load() != saves {
				t.Errorf("%s: something was saved", name)
			}
		}
		s.shows(begun)
	})
}

// TestHijack: what was changed before is saved and the lock free while the handler
// has the connection; what it changes then is saved at its end, or by Save.
func TestHijack(t *testing.T) {
	everywhere(t, func(t *testing.T, on setting) {
		s := newSite(t, on, holdfast.Options{}, nil)
		if on.h2 {
			s.page("/hijack", func(w http.ResponseWriter, r *http.Request) {
				add(r, 10)
				if _, _, err := http.NewResponseController(w).Hijack(); !errors.Is(err, http.ErrNotSupported) {
					t.Errorf("Hijack over HTTP/2: %v", err)
				}
				w.WriteHeader(http.StatusUpgradeRequired)
			})
			s.begin()
			if got := s.post("/hijack"); got.status != http.StatusUpgradeRequired {
				t.Errorf("the visitor saw %d %q", got.status, got.body)
			}
			s.shows("11 map[a:1]")
			return
		}
		s.page("/hijack", func(w http.ResponseWriter, r *http.Request) {
			session := holdfast.From(r)
			add(r, 10)
			conn, buf, err := w.(http.Hijacker).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			if _, err := w.Write([]byte("x")); !errors.Is(err, http.ErrHijacked) {
				t.Errorf("Write after Hijack: %v", err)
			}
			for {
				line, err := buf.ReadString('\n')
				switch line {
				case "save\n":
					add(r, 100)
					if err := session.Save(r.Context()); err != nil {
						t.Error(err)
					}
				case "panic\n":
					add(r, 5000)
					conn.Close()
					panic("sorry")
				}
				if err != nil {
					add(r, 1000)
					return
				}
				buf.WriteString("done " + line)
				buf.Flush()
			}
		})
		s.begin()
		dial := func() (net.Conn, *bufio.Reader) {
			conn, err := net.Dial("tcp", s.srv.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			conn.SetDeadline(time.Now().Add(promptly))
			req, err := http.NewRequest("GET", s.srv.URL+"/hijack", nil)
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range s.srv.Client().Jar.Cookies(req.URL) {
				req.AddCookie(c)
			}
			if err := req.Write(conn); err != nil {
				t.Fatal(err)
			}
			io.WriteString(conn, "hello\n")
			r := bufio.NewReader(conn)
			if line, err := r.ReadString('\n'); line != "done hello\n" {
				t.Fatalf("the connection says %q, %v", line, err)
			}
			return conn, r
		}
		conn, r := dial()
		s.shows("11 map[a:1]")
		s.post("/add")
		io.WriteString(conn, "save\n")
		if line, err := r.ReadString('\n'); line != "done save\n" {
			t.Fatalf("the connection says %q, %v", line, err)
		}
		s.shows("112 map[a:1]")
		conn.(*net.TCPConn).CloseWrite()
		io.Copy(io.Discard, r)
		conn.Close()
		s.srv.CloseClientConnections()
		s.comesToShow("1112 map[a:1]")

		conn, r = dial()
		io.WriteString(conn, "panic\n")
		io.Copy(io.Discard, r)
		conn.Close()
		s.shows("1122 map[a:1]")
		s.srv.Close()
		if lines := s.log.take(); strings.Contains(lines, "superfluous") || strings.Contains(lines, "WriteHeader") {
			t.Errorf("the server logs %s", lines)
		}
	})
}

// comesToShow waits until want is saved by a handler whose end nobody sees.
func (s *site) comesToShow(want string) {
	s.t.Helper()
	deadline := time.Now().Add(promptly)
	for got := ""; got != want; got = s.post("/show").body {
		if time.Now().After(deadline) {
			s.t.Fatalf("saved: %q, want %q", got, want)
		}
		runtime.Gosched()
	}
}

// TestFullDuplex: the handler reads and writes in turns, as it may without a session.
func TestFullDuplex(t *testing.T) {
	everywhere(t, func(t *testing.T, on setting) {
		s := newSite(t, on, holdfast.Options{}, nil)
		s.page("/echo", func(w http.ResponseWriter, r *http.Request) {
			c := http.NewResponseController(w)
			add(r, 1)
			if err := c.EnableFullDuplex(); err != nil && !on.h2 {
				t.Error(err)
			}
			for in := bufio.NewReader(r.Body); ; {
				line, err := in.ReadString('\n')
				if err != nil {
					return
				}
				io.WriteString(w, line)
				if err := c.Flush(); err != nil {
					t.Error(err)
				}
			}
		})
		s.begin()
		ctx, cancel := context.WithTimeout(t.Context(), promptly)
		defer cancel()
		body, in := io.Pipe()
		req, err := http.NewRequestWithContext(ctx, "POST", s.srv.URL+"/echo", body)
		if err != nil {
			t.Fatal(err)
		}
		go fmt.Fprintln(in, "one")
		res, err := s.srv.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		echo := &stream{t, res, bufio.NewReader(res.Body)}
		echo.line("one")
		fmt.Fprintln(in, "two")
		echo.line("two")
		s.shows("2 map[a:1]")
		in.Close()
		if rest, err := io.ReadAll(echo); err != nil || len(rest) > 0 {
			t.Errorf("the rest is %q, %v", rest, err)
		}
	})
}

// zeros is as long as it is asked for.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// TestLargeDownload: 100 MB pass in constant memory. The lock is kept while they do,
// unless Release gives it up before.
func TestLargeDownload(t *testing.T) {
	const size = 100 << 20
	everywhere(t, func(t *testing.T, on setting) {
		for _, release := range []bool{false, true} {
			t.Run(fmt.Sprint("release=", release), func(t *testing.T) {
				s := newSite(t, on, holdfast.Options{LockWait: 50 * time.Millisecond}, nil)
				s.page("/download", func(w http.ResponseWriter, r *http.Request) {
					add(r, 10)
					if release {
						if err := holdfast.From(r).Release(r.Context()); err != nil {
							t.Error(err)
						}
					}
					w.Header().Set("Content-Type", "application/octet-stream")
					if n, err := io.Copy(w, io.LimitReader(zeros{}, size)); n != size || err != nil {
						t.Errorf("copied %d bytes, %v", n, err)
					}
					add(r, 100)
				})
				s.begin()
				before := inUse()
				download := s.open("/download")
				var peak uint64
				for left := int64(size); left > 0; {
					n, err := io.CopyN(io.Discard, download, min(left, 10<<20))
					if err != nil {
						t.Fatalf("cut with %d bytes left: %v", left, err)
					}
					if left == size { // others meanwhile: it is too much for any buffer on the way
						want := "11 map[a:1]"
						if on.access == holdfast.Exclusive && !release {
							want = unavailable
						}
						if got := s.post("/show"); got.body != want {
							t.Errorf("another request meanwhile: %d %q, want %q", got.status, got.body, want)
						}
					}
					left -= n
					peak = max(peak, inUse())
				}
				if _, err := download.ReadByte(); err != io.EOF {
					t.Errorf("after the end: %v", err)
				}
				if peak > before+30<<20 {
					t.Errorf("the heap grew from %d to %d MB", before>>20, peak>>20)
				}
				s.shows("111 map[a:1]")
			})
		}
	})
}

func inUse() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// TestCachesAreTold what a session makes of a response: one that looked into it
// depends on the cookie, one that sets the cookie is stored nowhere.
func TestCachesAreTold(t *testing.T) {
	everywhere(t, func(t *testing.T, on setting) {
		lazy := on.access == holdfast.Exclusive // the others have it before the handler runs
		for _, c := range []struct {
			name        string
			h           http.HandlerFunc
			begun       bool
			cache, vary []string
		}{
			{"read", func(w http.ResponseWriter, r *http.Request) { siteHits.Get(holdfast.From(r)) }, true, []string{"private"}, []string{"Cookie"}},
			{"read, new", func(w http.ResponseWriter, r *http.Request) { siteHits.Get(holdfast.From(r)) }, false, []string{"private"}, []string{"Cookie"}},
			{"changed", func(w http.ResponseWriter, r *http.Request) { add(r, 1) }, true, []string{"private"}, []string{"Cookie"}},
			{"new", func(w http.ResponseWriter, r *http.Request) { add(r, 1) }, false, []string{"no-store"}, []string{"Cookie"}},
			{"new, public", func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Cache-Control", "public, max-age=60")
				add(r, 1)
			}, false, []string{"no-store"}, []string{"Cookie"}},
			{"read, with a rule of its own", func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Cache-Control", "max-age=60")
				siteHits.Get(holdfast.From(r))
			}, true, []string{"max-age=60"}, []string{"Cookie"}},
			{"read, varies already", func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Vary", "Accept-Encoding")
				siteHits.Get(holdfast.From(r))
			}, true, []string{"private"}, []string{"Accept-Encoding", "Cookie"}},
			{"read, varies by it already", func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Vary", "Accept, cookie")
				siteHits.Get(holdfast.From(r))
			}, true, []string{"private"}, []string{"Accept, cookie"}},
			{"read, flushed", func(w http.ResponseWriter, r *http.Request) {
				siteHits.Get(holdfast.From(r))
				w.(http.Flusher).Flush()
			}, true, []string{"private"}, []string{"Cookie"}},
			{"new ID", func(w http.ResponseWriter, r *http.Request) { holdfast.From(r).RegenerateID() }, true, []string{"no-store"}, []string{"Cookie"}},
			{"status 500", func(w http.ResponseWriter, r *http.Request) {
				add(r, 1)
				w.WriteHeader(500)
			}, false, []string{"private"}, []string{"Cookie"}},
			{"signed out", func(w http.ResponseWriter, r *http.Request) { holdfast.From(r).Abandon() }, true, []string{"no-store"}, []string{"Cookie"}},
			{"never asked", func(w http.ResponseWriter, r *http.Request) {}, true, nil, nil},
			{"asked after the first byte", func(w http.ResponseWriter, r *http.Request) {
				w.(http.Flusher).Flush()
				siteHits.Get(holdfast.From(r))
			}, true, nil, nil},
		} {
			t.Run(c.name, func(t *testing.T) {
				if c.cache == nil && !lazy {
					c.cache, c.vary = []string{"private"}, []string{"Cookie"}
				}
				s := newSite(t, on, holdfast.Options{}, nil)
				s.page("/page", c.h)
				if c.begun {
					s.begin()
				}
				got := s.post("/page")
				if !slices.Equal(got.header["Cache-Control"], c.cache) || !slices.Equal(got.header["Vary"], c.vary) {
					t.Errorf("Cache-Control: %q, Vary: %q; want %q, %q", got.header["Cache-Control"], got.header["Vary"], c.cache, c.vary)
				}
			})
		}
	})
}

// TestUploadsLeaveNoFiles: net/http deletes the temporary files of a form when the
// request is over, also if a session is around it, and however the handler ends.
func TestUploadsLeaveNoFiles(t *testing.T) {
	for _, c := range []struct {
		name    string
		outside func(http.Handler) http.Handler
		then    func(r *http.Request, down func())
		status  int
	}{
		{"returns", plain, func(r *http.Request, down func()) { add(r, 1) }, 200},
		{"cannot have its session", plain, func(r *http.Request, down func()) {
			down()
			add(r, 1)
		}, 503},
		{"panics, recovered outside", recoverer, func(r *http.Request, down func()) {
			add(r, 1)
			panic("sorry")
		}, 500},
	} {
		t.Run(c.name, func(t *testing.T) {
			everywhere(t, func(t *testing.T, on setting) {
				t.Setenv("TMPDIR", t.TempDir())
				var isDown atomic.Bool
				s := newSite(t, on, holdfast.Options{}, func(string) error {
					if isDown.Load() {
						return store.ErrUnavailable
					}
					return nil
				})
				within := s.m.Handler // so that From is what fails
				if c.status != 503 {
					within = s.within
				}
				names := make(chan string, 1)
				s.mux.Handle("/upload", c.outside(within(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					name := ""
					defer func() { names <- name }()
					if err := r.ParseMultipartForm(1); err != nil {
						t.Error(err)
					}
					f, _, err := r.FormFile("f")
					if err != nil {
						t.Error(err)
						return
					}
					defer f.Close()
					if file, ok := f.(*os.File); ok {
						name = file.Name()
					} else {
						t.Errorf("the upload is in a %T", f)
					}
					c.then(r, func() { isDown.Store(true) })
				}))))
				s.begin()
				var body bytes.Buffer
				form := multipart.NewWriter(&body)
				part, err := form.CreateFormFile("f", "f.txt")
				if err != nil {
					t.Fatal(err)
				}
				part.Write(make([]byte, 1<<20))
				form.Close()
				res, err := s.srv.Client().Post(s.srv.URL+"/upload", form.FormDataContentType(), &body)
				if err != nil {
					t.Fatal(err)
				}
				res.Body.Close()
				if res.StatusCode != c.status {
					t.Errorf("the visitor saw %d, want %d", res.StatusCode, c.status)
				}
				s.srv.Close() // waits for the end of the request
				if name := <-names; name != "" {
					if _, err := os.Stat(name); !errors.Is(err, os.ErrNotExist) {
						t.Errorf("the file of the upload is still there (%v)", err)
					}
				}
			})
		})
	}
}

// TestRouteIsSeenOutside: what is around the middleware (a log, a metric) learns
// from the request which route it took.
func TestRouteIsSeenOutside(t *testing.T) {
	everywhere(t, func(t *testing.T, on setting) {
		s := newSite(t, on, holdfast.Options{}, nil)
		routes := http.NewServeMux()
		routes.HandleFunc("POST /item/{id}", func(w http.ResponseWriter, r *http.Request) {
			add(r, 1)
			fmt.Fprint(w, r.PathValue("id"))
		})
		inner, saw := s.within(routes), make(chan string, 1)
		s.mux.HandleFunc("/item/", func(w http.ResponseWriter, r *http.Request) {
			inner.ServeHTTP(w, r)
			saw <- r.Pattern
		})
		if got := s.post("/item/42"); got.body != "42" {
			t.Errorf("the visitor saw %d %q", got.status, got.body)
		}
		if got := <-saw; got != "POST /item/{id}" {
			t.Errorf("Pattern is %q outside", got)
		}
	})
}
