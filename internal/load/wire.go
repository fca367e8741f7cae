package load

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
)

// What is said on the wire: the few requests of package stateserver that put load
// on, each as short as its client writes them, and of the answers what is needed to
// go on.

var methods = [len(opNames)]string{
	opLoad: "GET ", opLock: "GET ", opSave: "PUT ", opUnlock: "GET ", opTouch: "HEAD ", opCreate: "PUT ", opRemove: "DELETE ",
}

// appendRequest writes the request o about the session of t, and notes in t the
// version that it will have.
func (c *conn) appendRequest(b []byte, o op, t *slot) []byte {
	b = append(b, methods[o]...)
	b = append(b, c.s.prefix...)
	b = c.appendID(b, t.session)
	b = append(b, " HTTP/1.1\r\nHost: localhost"...)
	b = append(b, c.s.auth...)
	put := o == opSave || o == opCreate
	if put {
		b = append(b, "\r\nContent-Length: "...)
		b = strconv.AppendInt(b, int64(len(c.s.body)), 10)
	}
	switch o {
	case opLock:
		b = append(b, "\r\nExclusive: acquire"...)
	case opUnlock:
		b = append(b, "\r\nExclusive: release"...)
	}
	if c.s.foreign {
		b = c.appendPlain(b, put, t)
	} else {
		b = c.appendMarked(b, o, t)
	}
	b = append(b, "\r\n\r\n"...)
	if put {
		b = append(b, c.s.body...)
	}
	return b
}

// appendPlain writes the fields of [MS-ASP].
//
// [MS-ASP]: https://learn.microsoft.com/openspecs/windows_protocols/ms-asp/
func (c *conn) appendPlain(b []byte, put bool, t *slot) []byte {
	if put {
		b = append(b, "\r\nTimeout: "...)
		b = strconv.AppendInt(b, int64(timeout.Minutes()), 10)
	}
	if put || t.locked {
		b = append(b, "\r\nLockCookie: "...)
		b = strconv.AppendInt(b, int64(t.cookie), 10)
	}
	return b
}

func (c *conn) appendMarked(b []byte, o op, t *slot) []byte {
	b = append(b, "\r\nHoldfast: 1"...)
	if o == opLock || o == opUnlock || o == opSave && t.locked {
		b = append(b, "\r\nLock-Token: "...)
		b = appendHex(b, c.owner)
	}
	switch o {
	case opLock:
		if t.session == hot && c.s.o.Wait > 0 {
			b = append(b, "\r\nPrefer: wait="...)
			b = strconv.AppendFloat(b, c.s.o.Wait.Seconds(), 'f', -1, 64)
		}
		b = append(b, "\r\nHoldfast-Stale: "...)
		b = strconv.AppendInt(b, int64(stale.Seconds()), 10)
	case opCreate:
		b = append(b, "\r\nIf-None-Match: *"...)
	case opSave:
		b = append(b, "\r\nIf-Match: \""...)
		b = appendHex(b, t.version)
		b = append(b, '"')
	case opRemove:
		b = append(b, "\r\nIf-Match: *\r\nHoldfast-Reason: abandoned"...)
	}
	if o == opSave || o == opCreate {
		b = append(b, "\r\nIdempotency-Key: \""...)
		b = appendHex(b, rand.Uint64()|1)
		b = append(b, "\"\r\nHoldfast-Timeout: "...)
		b = strconv.AppendInt(b, int64(timeout.Seconds()), 10)
	}
	return b
}

// appendGreeting writes a request for a session that is not there.
func (s *Sessions) appendGreeting(b []byte) []byte {
	b = append(b, methods[opLoad]...)
	b = append(b, s.prefix...)
	b = append(b, s.nonce...)
	b = append(b, "0not0not0not0not HTTP/1.1\r\nHost: localhost"...)
	b = append(b, s.auth...)
	return append(b, "\r\nHoldfast: 1\r\n\r\n"...)
}

func appendHex(b []byte, n uint64) []byte {
	for shift := 60; shift >= 0; shift -= 4 {
		b = append(b, "0123456789abcdef"[n>>shift&15])
	}
	return b
}

// An answer is what the load needs of a server's answer.
type answer struct {
	status  int
	marked  bool // by a Holdfast server
	version uint64
	cookie  int
	body    []byte
}

// maxHead bounds the head of an answer.
const maxHead = 64 << 10

// parseAnswer reads the answer at the start of b; n is 0 if b does not hold the
// whole of it yet. Some servers leave the protocol out of the first line.
func parseAnswer(b []byte, head bool) (n int, a answer, err error) {
	end := bytes.Index(b, []byte("\r\n\r\n"))
	if end < 0 {
		if len(b) > maxHead {
			return 0, a, fmt.Errorf("this is no state server: its answer begins %.40q and goes on", b)
		}
		return 0, a, nil
	}
	line, rest, _ := bytes.Cut(b[:end], []byte("\r\n"))
	code := line
	if bytes.HasPrefix(line, []byte("HTTP/")) {
		_, code, _ = bytes.Cut(line, []byte(" "))
	}
	if len(code) < 3 {
		return 0, a, fmt.Errorf("this is no state server: its answer begins %.40q", b)
	}
	a.status, err = strconv.Atoi(string(code[:3]))
	if err != nil {
		return 0, a, fmt.Errorf("this is no state server: its answer begins %.40q", b)
	}
	length := 0
	for len(rest) > 0 {
		line, rest, _ = bytes.Cut(rest, []byte("\r\n"))
		name, v, _ := bytes.Cut(line, []byte(":"))
		v = bytes.TrimLeft(v, " ")
		switch {
		case fieldIs(name, "etag"):
			version, err := strconv.ParseUint(strings.Trim(string(v), `"`), 16, 64)
			if err != nil {
				return 0, a, fmt.Errorf("the server's version %q is none", v)
			}
			a.version = version
		case fieldIs(name, "content-length"):
			if length, err = strconv.Atoi(string(v)); err != nil || length < 0 {
				return 0, a, fmt.Errorf("the server's Content-Length %q is none", v)
			}
		case fieldIs(name, "lockcookie"), fieldIs(name, "lock-cookie"):
			if a.cookie, err = strconv.Atoi(string(v)); err != nil {
				return 0, a, fmt.Errorf("the server's LockCookie %q is none", v)
			}
		case fieldIs(name, "holdfast"):
			a.marked = true
		}
	}
	n = end + 4
	if head {
		return n, a, nil
	}
	if len(b)-n < length {
		return 0, a, nil
	}
	a.body = b[n : n+length]
	return n + length, a, nil
}

// fieldIs reports whether name is a field, which is in lower case, in any case.
func fieldIs(name []byte, field string) bool {
	return len(name) == len(field) && name[0]|0x20 == field[0] && strings.EqualFold(string(name), field)
}

// unexpected is the error that an answer is, which no load can go on from.
func (a *answer) unexpected(asked string) error {
	text := strings.TrimSpace(string(a.body[:min(len(a.body), 200)]))
	hint := ""
	if a.status == 401 || a.status == 403 {
		hint = "; name a token with the right to read and write this application's sessions"
	}
	if text != "" {
		text = ": " + text
	}
	return fmt.Errorf("%s: the server answered %d%s%s", asked, a.status, text, hint)
}
