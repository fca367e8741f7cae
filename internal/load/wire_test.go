package load

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var answers = []struct {
	text string
	head bool
	n    int
	want answer
	err  string
}{
	{text: "HTTP/1.1 200 OK\r\nHoldfast: 1\r\nETag: \"00000000000000ff\"\r\nLockCookie: 7\r\nContent-Length: 5\r\n\r\nhelloHTTP",
		n: 97, want: answer{status: 200, marked: true, version: 255, cookie: 7, body: []byte("hello")}},
	{text: "200 OK\r\nX-AspNet-Version: 4.0.30319\r\nLock-Cookie:3\r\nCONTENT-LENGTH: 0\r\n\r\n",
		n: 73, want: answer{status: 200, cookie: 3, body: []byte{}}},
	{text: "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", head: true, n: 38, want: answer{status: 200}},
	{text: "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell"},
	{text: "HTTP/1.1 200 OK\r\nContent-Le"},
	{text: "+PONG\r\n\r\n", err: "no state server"},
	{text: "HTTP/1.1 OK\r\n\r\n", err: "no state server"},
	{text: "HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n", err: "Content-Length"},
	{text: "HTTP/1.1 200 OK\r\nETag: \"x\"\r\n\r\n", err: "version"},
	{text: "HTTP/1.1 200 OK\r\nLockCookie: x\r\n\r\n", err: "LockCookie"},
	{text: strings.Repeat("x", maxHead+1), err: "no state server"},
}

func TestParseAnswer(t *testing.T) {
	for _, c := range answers {
		n, a, err := parseAnswer([]byte(c.text), c.head)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%.60q: %v, want %q", c.text, err, c.err)
			}
			continue
		}
		if err != nil || n != c.n {
			t.Errorf("%.60q: %d bytes, %v; want %d", c.text, n, err, c.n)
		}
		if c.n == 0 {
			continue
		}
		if d := cmp.Diff(c.want, a, cmp.AllowUnexported(answer{})); d != "" {
			t.Errorf("%.60q: %s", c.text, d)
		}
	}
}

// However an answer is cut, it is read when it is complete and not before.
func FuzzParseAnswer(f *testing.F) {
	for _, c := range answers {
		f.Add([]byte(c.text), c.head)
	}
	f.Fuzz(func(t *testing.T, b []byte, head bool) {
		n, a, err := parseAnswer(b, head)
		if n < 0 || n > len(b) || err != nil && n != 0 {
			t.Fatalf("%d of %d bytes, %v", n, len(b), err)
		}
		if n == 0 {
			return
		}
		again, same, err := parseAnswer(b[:n], head)
		if d := cmp.Diff(a, same, cmp.AllowUnexported(answer{})); again != n || err != nil || d != "" {
			t.Fatalf("its %d bytes alone: %d, %v, %s", n, again, err, d)
		}
		if short, _, err := parseAnswer(b[:n-1], head); short != 0 || err != nil {
			t.Fatalf("one byte less: %d, %v", short, err)
		}
	})
}
