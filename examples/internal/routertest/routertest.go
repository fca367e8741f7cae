// Package routertest tries the examples with routers: the same pages, made with
// each router's own means, do the same in a browser.
package routertest

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-session/holdfast/inproc"
	"github.com/holdfast-session/holdfast/stateserver"
)

const childMark = "ROUTERTEST_MAIN"

// Main is the TestMain of an example whose main is program: it makes the test
// binary the program itself where [Run] starts it.
func Main(m *testing.M, program func()) {
	if os.Getenv(childMark) != "" {
		program()
		return
	}
	os.Exit(m.Run())
}

// Run tries the program.
func Run(t *testing.T) {
	t.Run("KeepsTheSession", keepsTheSession)
	t.Run("SignsInAndOut", signsInAndOut)
	t.Run("PanicSavesNothing", panicSavesNothing)
	t.Run("LongPage", longPage)
	t.Run("AccessOfARoute", accessOfARoute)
	t.Run("RefusesOtherSites", refusesOtherSites)
	t.Run("StoreIsDown", storeIsDown)
}

func keepsTheSession(t *testing.T) {
	site := start(t)
	b := newBrowser(t, site)
	if got := b.get("/nowhere"); got.status != http.StatusNotFound || len(got.cookies) != 0 {
		t.Errorf("a page that is not there: %d, cookies %v", got.status, got.cookies)
	}
	for n := range 3 {
		b.get("/").wants(t, http.StatusOK, "here "+strconv.Itoa(n+1)+" times")
	}
	newBrowser(t, site).get("/").wants(t, http.StatusOK, "here 1 times", "!Hello")
}

func signsInAndOut(t *testing.T) {
	site := start(t)
	b := newBrowser(t, site)
	b.get("/").wants(t, http.StatusOK, "!Hello")
	before := b.session()
	b.post("/signin", "name", "").wants(t, http.StatusBadRequest, "Who are you?")
	b.post("/signin", "name", "Ann <3").wants(t, http.StatusOK, "Hello, Ann &lt;3", "here 2 times")
	signedIn := b.session()
	if signedIn == before {
		t.Error("signing in kept the ID")
	}
	b.post("/signout", "", "").wants(t, http.StatusOK, "!Hello", "here 1 times")

	// Whoever still has the cookie has nothing.
	thief := newBrowser(t, site)
	thief.Jar.SetCookies(thief.site, []*http.Cookie{{Name: "session", Value: signedIn}})
	thief.get("/").wants(t, http.StatusOK, "!Hello", "here 1 times")
}

// panicSavesNothing is for a handler that panics before it has written anything,
// and after: then the recoverer may answer with an error or cut the connection, but
// a page that looks whole and was not saved, or is not whole and was saved, is wrong.
func panicSavesNothing(t *testing.T) {
	site := start(t)
	b := newBrowser(t, site)
	b.get("/").wants(t, http.StatusOK, "here 1 times")
	b.get("/broken/early").wants(t, http.StatusInternalServerError)
	b.get("/").wants(t, http.StatusOK, "here 2 times") // and it does not wait for a lock
	if got := b.get("/broken/late"); got.err == nil && got.status != http.StatusInternalServerError {
		t.Errorf("a panic after half a page: %d %q", got.status, got.body)
	}
	b.get("/").wants(t, http.StatusOK, "here 3 times")
}

// longPage is for one that is longer than what is held back: it streams, and what
// changes later is saved too; where it cannot be, because the cookie of a new session
// would come too late, the visitor must not take the page for whole.
func longPage(t *testing.T) {
	site := start(t)
	b := newBrowser(t, site)
	b.get("/").wants(t, http.StatusOK, "here 1 times")
	b.get("/long").wants(t, http.StatusOK, "the end")
	b.get("/").wants(t, http.StatusOK, "here 3 times")

	if got := newBrowser(t, site).get("/long"); got.err == nil {
		t.Errorf("a page whose session could not begin came whole: %d, %d bytes", got.status, len(got.body))
	}
}

// accessOfARoute is for the page that reads both what the router and what Holdfast
// keep in the request.
func accessOfARoute(t *testing.T) {
	b := newBrowser(t, start(t))
	b.post("/signin", "name", "Ann").wants(t, http.StatusOK, "Hello, Ann")
	b.get("/greet/welcome").wants(t, http.StatusOK, "welcome, Ann (ReadOnly)")
}

func refusesOtherSites(t *testing.T) {
	b := newBrowser(t, start(t))
	b.post("/signin", "name", "Ann").wants(t, http.StatusOK, "Hello, Ann")
	req, err := http.NewRequest("POST", b.site.JoinPath("/signout").String(), nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Sec-Fetch-Site", "cross-site")
	b.do(req).wants(t, http.StatusForbidden)
	b.get("/").wants(t, http.StatusOK, "Hello, Ann")
}

func storeIsDown(t *testing.T) {
	dir, err := os.MkdirTemp("", "router") // t.TempDir is too long a path for a socket on some systems
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "state")
	sessions := inproc.New(nil)
	server := serve(t, sessions, socket)

	b := newBrowser(t, start(t, "-state", "unix:"+socket))
	b.post("/signin", "name", "Ann").wants(t, http.StatusOK, "Hello, Ann", "here 1 times")
	if err := server.Close(); err != nil {
		t.Error(err)
	}
	for _, page := range []string{"/", "/greet/hello", "/long"} {
		got := b.get(page)
		got.wants(t, http.StatusServiceUnavailable, "Your session is not available", "!Hello", "!Internal")
		if got.retryAfter == "" {
			t.Errorf("%s: no Retry-After", page)
		}
	}
	b.post("/signout", "", "").wants(t, http.StatusServiceUnavailable)
	b.get("/nowhere").wants(t, http.StatusNotFound) // asks for no session

	// He loads the page again until the application has found the server, which it looks
	// for every second or so.
	serve(t, sessions, socket)
	got := b.get("/")
	for back := time.Now().Add(10 * time.Second); got.status == http.StatusServiceUnavailable && time.Now().Before(back); {
		got = b.get("/")
	}
	got.wants(t, http.StatusOK, "Hello, Ann", "here 2 times")
}

// serve starts a state server over sessions.
func serve(t *testing.T, sessions *inproc.Store, socket string) *stateserver.Server {
	t.Helper()
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &stateserver.Server{Store: sessions}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
	return server
}

// start starts the program and returns its address.
func start(t *testing.T, args ...string) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, append([]string{"-addr", "127.0.0.1:0"}, args...)...)
	cmd.Env = append(os.Environ(), childMark+"=1", "GORACE=halt_on_error=1")
	cmd.Stderr = t.Output()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	rest := make(chan struct{})
	lines := bufio.NewReader(out)
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-rest
		cmd.Wait()
	})
	for {
		text, err := lines.ReadString('\n')
		if err != nil {
			close(rest)
			t.Fatalf("the program did not start: %v", err)
		}
		if _, site, ok := strings.Cut(strings.TrimSpace(text), " are at "); ok {
			go func() {
				defer close(rest)
				io.Copy(t.Output(), lines)
			}()
			return site
		}
	}
}

// A browser keeps cookies and follows redirects.
type browser struct {
	t    *testing.T
	site *url.URL
	http.Client
}

func newBrowser(t *testing.T, site string) *browser {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(site)
	if err != nil {
		t.Fatal(err)
	}
	return &browser{t, u, http.Client{Jar: jar, Timeout: 20 * time.Second}}
}

// session returns the ID that the browser has.
func (b *browser) session() string {
	for _, c := range b.Jar.Cookies(b.site) {
		if c.Name == "session" {
			return c.Value
		}
	}
	return ""
}

func (b *browser) get(page string) answer {
	b.t.Helper()
	req, err := http.NewRequest("GET", b.site.JoinPath(page).String(), nil)
	if err != nil {
		b.t.Fatal(err)
	}
	return b.do(req)
}

func (b *browser) post(page, name, value string) answer {
	b.t.Helper()
	req, err := http.NewRequest("POST", b.site.JoinPath(page).String(), strings.NewReader(url.Values{name: {value}}.Encode()))
	if err != nil {
		b.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return b.do(req)
}

func (b *browser) do(req *http.Request) answer {
	res, err := b.Do(req)
	if err != nil {
		return answer{page: req.URL.Path, err: err}
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return answer{req.URL.Path, res.StatusCode, string(body), res.Header.Get("Retry-After"), res.Cookies(), err}
}

type answer struct {
	page       string
	status     int
	body       string
	retryAfter string
	cookies    []*http.Cookie
	err        error // the connection was cut
}

// wants fails the test unless the answer has this status, all of texts and nothing
// of what follows "!".
func (a answer) wants(t *testing.T, status int, texts ...string) {
	t.Helper()
	if a.err != nil || a.status != status {
		t.Errorf("%s: %d %v, want %d\n%s", a.page, a.status, a.err, status, a.body)
		return
	}
	for _, text := range texts {
		hidden, not := strings.CutPrefix(text, "!")
		if strings.Contains(a.body, hidden) == not {
			t.Errorf("%s: want %q in\n%s", a.page, text, a.body)
		}
	}
}
