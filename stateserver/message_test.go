package stateserver

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-session/holdfast/store"
)

var testLimits = limits{head: 2 << 10, body: 1 << 20}

func TestRequestForms(t *testing.T) {
	tests := []struct {
		name, in string
		check    func(r *request) bool
	}{
		{"cookie", "GET /a HTTP/1.1\r\nLockCookie: 7\r\n\r\n", func(r *request) bool { return r.cookie == 7 }},
		{"hyphened cookie", "GET /a HTTP/1.1\r\nLock-Cookie: 7\r\n\r\n", func(r *request) bool { return r.cookie == 7 }},
		{"any case", "GET /a HTTP/1.1\r\nlOcKcOoKiE:7\r\nEXCLUSIVE:  AcQuIrE \r\n\r\n",
			func(r *request) bool { return r.cookie == 7 && r.exclusive == exclusiveAcquire }},
		{"release", "GET /a HTTP/1.1\r\nExclusive: release\r\n\r\n", func(r *request) bool { return r.exclusive == exclusiveRelease }},
		{"line feeds", "GET /a HTTP/1.0\nLockCookie: 7\n\n", func(r *request) bool { return r.cookie == 7 }},
		{"blank lines before", "\r\n\r\nHEAD /a HTTP/1.1\r\n\r\n", func(r *request) bool { return r.method == methodHead }},
		{"length without a body", "GET /a HTTP/1.1\r\nContent-Length: 163\r\n\r\n", func(r *request) bool { return len(r.body) == 0 }},
		{"body", "PUT /a HTTP/1.1\r\nContent-Length: 3\r\nTimeout: 20\r\nExtraFlags: 1\r\n\r\n\r\n\x00",
			func(r *request) bool { return string(r.body) == "\r\n\x00" && r.minutes == 20 && r.extraFlags == 1 }},
		{"unknown method", "POST /a HTTP/1.1\r\n\r\n", func(r *request) bool { return r.method == methodUnknown }},
		{"negative", "GET /a HTTP/1.1\r\nLockCookie: -1\r\n\r\n", func(r *request) bool { return r.wrong(fieldLockCookie) }},
		{"too large a number", "GET /a HTTP/1.1\r\nTimeout: 2147483648\r\n\r\n", func(r *request) bool { return r.wrong(fieldTimeout) }},
		{"the last one counts", "GET /a HTTP/1.1\r\nTimeout: x\r\nTimeout: 5\r\n\r\n", func(r *request) bool { return r.ok(fieldTimeout) && r.minutes == 5 }},
		{"other preferences", "GET /a HTTP/1.1\r\nPrefer: respond-async, Wait=1.5; x=y\r\n\r\n",
			func(r *request) bool { return r.wait == 1500*time.Millisecond }},
		{"unknown fields", "GET /a HTTP/1.1\r\nHost: x:1\r\nX:\r\nAccept: */*\r\n\r\n", func(r *request) bool { return r.have == 0 }},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			var r request
			n, err := r.parse([]byte(tc.in+"GET /next"), testLimits)
			if err != nil || n != len(tc.in) || !tc.check(&r) {
				t.Errorf("%d, %v, %+v", n, err, r)
			}
			for i := range len(tc.in) {
				if n, err := new(request).parse([]byte(tc.in[:i]), testLimits); err != errShort {
					t.Fatalf("the first %d bytes: %d, %v; want them to be too short", i, n, err)
				}
			}
		})
	}
}

func TestRequestRefused(t *testing.T) {
	for _, tc := range []struct {
		name, in string
		want     error
	}{
		{"TLS", "\x16\x03\x01\x02\x00\x01", errBadStart},
		{"noise", "\x00", errBadStart},
		{"no protocol", "GET /a\r\n\r\n", errBadStart},
		{"another protocol", "GET /a HTTP/2.0\r\n\r\n", errBadStart},
		{"spaces in the target", "GET /a b HTTP/1.1\r\n\r\n", errBadStart},
		{"no target", "GET  HTTP/1.1\r\n\r\n", errBadStart},
		{"control characters", "GET /a\x01 HTTP/1.1\r\n\r\n", errBadTarget},
		{"no colon", "GET /a HTTP/1.1\r\nTimeout\r\n\r\n", errBadLine},
		{"folded", "GET /a HTTP/1.1\r\nTimeout: 1\r\n 2: 3\r\n\r\n", errBadLine},
		{"space before the colon", "GET /a HTTP/1.1\r\nTimeout : 1\r\n\r\n", errBadLine},
		{"no length", "PUT /a HTTP/1.1\r\n\r\n", errBadLength},
		{"negative length", "PUT /a HTTP/1.1\r\nContent-Length: -1\r\n\r\n", errBadLength},
		{"two lengths", "PUT /a HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", errBadLength},
		{"endless length", "PUT /a HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n", errBadLength},
		{"chunks", "PUT /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", errEncoding},
		{"large body", "PUT /a HTTP/1.1\r\nContent-Length: 1048577\r\n\r\n", errBodyTooLarge},
		{"long line", "GET /" + strings.Repeat("a", 3000), errHeadTooLarge},
		{"long head", "GET /a HTTP/1.1\r\n" + strings.Repeat("X: 0123456789012345678901234567890123456789\r\n", 60) + "\r\n", errHeadTooLarge},
		{"blank lines without end", strings.Repeat("\r\n", 1100), errHeadTooLarge},
		{"many lines", "GET /a HTTP/1.1\r\n" + strings.Repeat("X:\r\n", 100) + "\r\n", errTooManyLines},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if n, err := new(request).parse([]byte(tc.in), testLimits); err != tc.want {
				t.Errorf("%d, %v; want %v", n, err, tc.want)
			}
		})
	}
}

func TestResponseForms(t *testing.T) {
	for _, in := range []string{
		"HTTP/1.1 200 OK\r\nX-AspNet-Version: 2.0.50727\r\nLockCookie: 2\r\nTimeout: 20\r\nContent-Length: 2\r\n\r\nhi",
		"200 OK\r\nx-aspnet-version: 4.0\r\nLock-Cookie: 2\r\nTimeout: 20\r\nContent-Length: 2\r\n\r\nhi",
		"200\r\nX-AspNet-Version: 4\r\nLOCKCOOKIE: 2\r\nTimeout: 20\r\nContent-Length: 2\r\n\r\nhi",
	} {
		var r response
		n, err := r.parse([]byte(in), methodGet, testLimits)
		if err != nil || n != len(in) || r.status != 200 || r.cookie != 2 || r.minutes != 20 || string(r.body) != "hi" || r.major < 2 {
			t.Errorf("%q: %d, %v, %+v", in, n, err, r)
		}
		if n, err := r.parse([]byte(in), methodHead, testLimits); err != nil || n != len(in)-2 {
			t.Errorf("%q to a HEAD: %d, %v; want no body", in, n, err)
		}
	}
	for _, in := range []string{"hello", "HTTP/1.1 20 OK", "HTTP/1.1 OK", "100 Continue"} {
		if _, err := new(response).parse([]byte(in+"\r\nContent-Length: 0\r\n\r\n"), methodGet, testLimits); err != errBadStart {
			t.Errorf("%q: %v; want %v", in, err, errBadStart)
		}
	}
}

// TestRecordTravels sends a record both ways and compares.
func TestRecordTravels(t *testing.T) {
	for _, want := range []store.Record{
		{Version: 1, Timeout: time.Second},
		{
			Version: math.MaxUint64, Lock: store.Lock{Cookie: math.MaxInt32, Owner: math.MaxUint64}, Locked: true, LockAge: 1234567891 * time.Nanosecond,
			Timeout: 366 * 24 * time.Hour, Created: time.Unix(1795228191, 7), Flags: store.Uninitialized | store.Moving | 1<<31,
			History: [3]store.Version{0, 2, 0}, Acquired: 5, Subject: "Zoë\r\nX: 1 %/+", Body: []byte("\r\n\r\n\x00\xff"),
		},
		{Version: 9, Lock: store.Lock{Cookie: 3}, Timeout: time.Minute, History: [3]store.Version{8}, Created: time.Unix(0, 0)},
	} {
		c := &conn{s: &Server{Version: DefaultVersion}, rec: want, buffers: new(buffers)}
		c.answerRecord(nil)
		var r response
		var got store.Record
		if n, err := r.parse(c.out, methodGet, testLimits); err != nil || n != len(c.out) {
			t.Fatalf("%q: %d, %v", c.out, n, err)
		}
		r.record(&got)
		if !got.Created.Equal(want.Created) && want.Created.Unix() >= 0 {
			t.Errorf("Created is %v; want %v", got.Created, want.Created)
		}
		got.Created = want.Created
		if a, b := fmt.Sprintf("%+v", got), fmt.Sprintf("%+v", want); a != b {
			t.Errorf("got  %s\nwant %s", a, b)
		}

		q := call{method: methodPut, prefix: "%2fA(h)%2f", session: "s", create: true, next: want.Version, lock: want.Lock, in: &want}
		var req request
		b := q.appendTo(nil, "localhost")
		if n, err := req.parse(b, testLimits); err != nil || n != len(b) || req.bad != 0 {
			t.Fatalf("%q: %d, %v, bad %b", b, n, err, req.bad)
		}
		if req.next != want.Version || req.cookie != want.Lock.Cookie || req.owner != want.Lock.Owner || req.timeout != want.Timeout ||
			req.flags != want.Flags || req.history != want.History || unescaped(req.subject) != want.Subject || !bytes.Equal(req.body, want.Body) {
			t.Errorf("%q was read as %+v", b, req)
		}
	}
}

func TestSeconds(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0", time.Second: "1", 1500 * time.Millisecond: "1.5", 1: "0.000000001", 1<<63 - 1 - time.Second: "9223372035.854775807",
	} {
		b := appendSeconds(nil, d)
		if got, ok := parseSeconds(b); string(b) != want || got != d || !ok {
			t.Errorf("%d: %s, and back %d, %v; want %s", d, b, got, ok, want)
		}
	}
	if b := appendSeconds(nil, -1); string(b) != "0" {
		t.Errorf("a negative age is sent as %s; want 0", b)
	}
	for _, bad := range []string{"", ".", "1.", ".5", "-1", "1.0000000001", "1e3", "0x1", " 1", "99999999999999999999"} {
		if d, ok := parseSeconds([]byte(bad)); ok {
			t.Errorf("%q: %v; want an error", bad, d)
		}
	}
	if wholeSeconds(1500*time.Millisecond) != 2*time.Second || wholeSeconds(time.Second) != time.Second {
		t.Error("timeouts are not rounded up to whole seconds")
	}
}

func FuzzRequest(f *testing.F) {
	for _, s := range []string{
		"GET " + target + " HTTP/1.1\r\nHost: 10.0.0.100:42424\r\nExclusive: acquire\r\n\r\n",
		"PUT " + target + " HTTP/1.1\r\nHost: x\r\nContent-Length: 7\r\nTimeout: 20\r\nLockCookie: 0\r\nExtraFlags: 1\r\n\r\n\x14\x00\x00\x00\x00\x00\xff",
		"GET /a HTTP/1.1\r\nHoldfast: 1\r\nExclusive: acquire\r\nLock-Token: 0123456789abcdef\r\nPrefer: wait=30\r\nHoldfast-Stale: 20\r\n\r\n",
		"PUT /a HTTP/1.1\r\nHoldfast: 1\r\nIf-Match: \"1\"\r\nIdempotency-Key: \"2\"\r\nHoldfast-History: \"1\", \"2\"\r\n" +
			"Holdfast-Created: 1.5\r\nHoldfast-Subject: a%20b\r\nContent-Length: 0\r\n\r\n",
		"DELETE //a HTTP/1.1\r\nHoldfast: 1\r\nIf-Match: *\r\nHoldfast-Reason: expired\r\nHoldfast-To: b\r\n\r\n",
		"HEAD /a HTTP/1.0\n\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var r, again request
		n, err := r.parse(b, testLimits)
		if err != nil {
			if err == errShort {
				return
			}
			// What is wrong stays wrong, whatever comes after.
			if _, err := again.parse(append(bytes.Clone(b), "\r\n\r\n"...), testLimits); err == nil && len(b) <= testLimits.head {
				t.Errorf("%q is refused and, with more after it, taken", b)
			}
			return
		}
		if n > len(b) || r.want != n {
			t.Fatalf("%q: %d of %d bytes, want %d", b, n, len(b), r.want)
		}
		if m, err := again.parse(b[:n], testLimits); m != n || err != nil {
			t.Fatalf("%q alone: %d, %v", b[:n], m, err)
		}
		for i := range n {
			if _, err := again.parse(b[:i], testLimits); err != errShort {
				t.Fatalf("the first %d bytes of %q: %v", i, b[:n], err)
			}
		}
		appendKey(nil, r.target)
	})
}

func FuzzResponse(f *testing.F) {
	for _, s := range []string{
		"HTTP/1.1 200 OK\r\nX-AspNet-Version: 4.0.30319\r\nActionFlags: 1\r\nLockCookie: 2\r\nTimeout: 20\r\nCache-Control: private\r\nContent-Length: 1\r\n\r\nx",
		"423 Locked\r\nX-AspNet-Version: 2.0.50727\r\nLockDate: 637135310450000000\r\nLockAge: 3\r\nLockCookie: 2\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 404 Not Found\r\nHoldfast: 1\r\nHoldfast-Reason: expired\r\nHoldfast-Age: 0.5\r\nHoldfast-To: %2f\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nHoldfast: 1\r\nETag: \"1\"\r\nHoldfast-Timeout: 60\r\nHoldfast-History: \"2\"\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 304 Not Modified\r\n\r\n",
	} {
		f.Add([]byte(s), byte(methodGet))
	}
	f.Add([]byte("HTTP/1.1 200 OK\r\n\r\n"), byte(methodHead))
	f.Fuzz(func(t *testing.T, b []byte, m byte) {
		var r response
		n, err := r.parse(b, method(m), testLimits)
		if err != nil {
			return
		}
		if n > len(b) || r.want != n || len(r.body) > n {
			t.Fatalf("%q: %d of %d bytes", b, n, len(b))
		}
		rec := store.Record{Body: []byte("before")}
		r.record(&rec)
		if !bytes.Equal(rec.Body, r.body) {
			t.Fatalf("the body is %q; want %q", rec.Body, r.body)
		}
		for i := range n {
			if _, err := new(response).parse(b[:i], method(m), testLimits); err != errShort {
				t.Fatalf("the first %d bytes of %q: %v", i, b[:n], err)
			}
		}
	})
}

// TestControlCharacters: every one of them, at every place in a target.
func TestControlCharacters(t *testing.T) {
	for c := range 256 {
		want := c < ' ' || c == 0x7f
		for i := range 19 {
			b := []byte("/abcdefgh\x80\xff~ ijklmn")
			b[i] = byte(c)
			if got := hasControl(b); got != want {
				t.Fatalf("hasControl(%q) = %v", b, got)
			}
		}
	}
}

func TestHexDigits(t *testing.T) {
	for range 1000 {
		n := rand.Uint64()
		b := appendHex(nil, n)
		if want := fmt.Sprintf("%016x", n); string(b) != want {
			t.Fatalf("appendHex(%#x) = %s", n, b)
		}
		for _, digits := range [][]byte{b, bytes.ToUpper(b)} {
			if got, ok := parseHex(digits); !ok || got != n {
				t.Fatalf("parseHex(%s) = %#x, %v", digits, got, ok)
			}
		}
	}
	for c := range 256 {
		want := strings.Contains("0123456789abcdefABCDEF", string(rune(c)))
		if _, ok := parseHex([]byte{byte(c)}); ok != want {
			t.Errorf("parseHex(%q): %v", []byte{byte(c)}, ok)
		}
	}
}

func TestDecimals(t *testing.T) {
	for want, d := range map[string]time.Duration{"0": 0, "7": 7 * time.Second, "1.5": 1500 * time.Millisecond,
		"0.000000001": 1, "3.12": 3120 * time.Millisecond, "0.100000001": 100000001, "2.999999999": 2999999999} {
		if got := appendSeconds(nil, d); string(got) != want {
			t.Errorf("%v is written as %s, want %s", d, got, want)
		}
		if got, ok := parseSeconds([]byte(want)); !ok || got != d {
			t.Errorf("%s is read as %v, %v", want, got, ok)
		}
	}
}
