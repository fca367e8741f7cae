package stateserver

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"github.com/holdfast-session/holdfast/store"
)

// How a session is named on the wire, and where the server is.

// DefaultAddr is where a state server listens if nobody says otherwise.
const DefaultAddr = "localhost:42424"

// ParseAddr reads the address of a state server as [Dial] and
// [Server.ListenAndServe] take it, and returns what package net calls it:
// "host:port", "[ipv6]:port", the same behind ASP.NET's "tcpip=", or "unix:/path".
func ParseAddr(addr string) (network, address string, err error) {
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		if path == "" {
			return "", "", fmt.Errorf("stateserver: address %q has no path; write unix:/path/to/socket", addr)
		}
		return "unix", path, nil
	}
	address, _ = strings.CutPrefix(addr, "tcpip=")
	if err := checkHostPort(address); err != nil {
		return "", "", fmt.Errorf("stateserver: address %q: %w; write host:port, [ipv6]:port or unix:/path", addr, err)
	}
	return "tcp", address, nil
}

func checkHostPort(address string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		var ae *net.AddrError
		if errors.As(err, &ae) {
			return errors.New(ae.Err)
		}
		return err
	}
	for i := range len(host) {
		if host[i] <= ' ' || host[i] >= 0x7f {
			return errors.New("host is not ASCII")
		}
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return fmt.Errorf("port %q is not a number up to 65535", port)
	}
	return nil
}

// appPrefix returns the part of the target that an application's sessions share.
func appPrefix(app string) string { return string(appendEscaped(nil, appKey(app)+"/")) }

// appKey is what a server calls an application: its name with a slash in front, and
// the hash of the name in parentheses. Frameworks before .NET 4.5 use a hash with a
// key of their own: a name that has such a hash already is taken as it is.
func appKey(app string) string {
	if name, hash, ok := cutHash(app); ok && app[0] == '/' && hash != hashOf(name) && hash != hashOf(name[1:]) {
		return app
	}
	key := app + "(" + hashOf(app) + ")"
	if !strings.HasPrefix(app, "/") {
		key = "/" + key
	}
	return key
}

func hashOf(app string) string {
	hash := sha256.Sum256([]byte(app))
	return base64.StdEncoding.EncodeToString(hash[:])
}

// cutHash cuts a name with the hash of an application into the two.
func cutHash(key string) (name, hash string, ok bool) {
	name, ok = strings.CutSuffix(key, ")")
	i := strings.LastIndexByte(name, '(')
	if !ok || i < 0 {
		return "", "", false
	}
	name, hash = name[:i], name[i+1:]
	b, err := base64.StdEncoding.Strict().DecodeString(hash)
	return name, hash, err == nil && name != "" && (len(b) == 20 || len(b) == 32 || len(b) == 64)
}

// keyOf is the key that a server's ID is from; false if none is.
func keyOf(id store.ID) (key string, ok bool) {
	key = id.App + id.Session
	if strings.HasSuffix(id.App, ")") {
		key = id.App + "/" + id.Session
	}
	return key, splitKey([]byte(key)) == id
}

// clientID is what a client calls the session that a server knows by that ID. There
// are sessions that no client can name.
func clientID(id store.ID) (_ store.ID, ok bool) {
	name, hash, ok := cutHash(id.App)
	switch {
	case !ok:
		return store.ID{}, false
	case hash == hashOf(name):
		id.App = name
	case name[0] == '/' && hash == hashOf(name[1:]):
		id.App = name[1:]
	}
	server := id
	id.Session = sessionUnescaper.Replace(id.Session)
	return id, escapeSession(id.Session) == server.Session && !strings.Contains(server.Session, "/")
}

var (
	sessionEscaper   = strings.NewReplacer("%", "%25", "/", "%2f")
	sessionUnescaper = strings.NewReplacer("%25", "%", "%2f", "/")
)

// escapeSession escapes a session ID with a slash or a percent sign, as neither
// ASP.NET nor Holdfast makes them: the last slash of a key is then always the one
// before the session, and no two sessions have the same key.
func escapeSession(session string) string {
	if !strings.ContainsAny(session, "/%") {
		return session
	}
	return sessionEscaper.Replace(session)
}

// appendSession writes the rest of the target.
func appendSession(b []byte, session string) []byte { return appendEscaped(b, escapeSession(session)) }

// appendEscaped escapes s as .NET's UrlEncode does: with + for a space, and in
// lower case, which a server is free to tell from upper case.
func appendEscaped(b []byte, s string) []byte {
	for i := range len(s) {
		c := s[i]
		switch {
		case 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9',
			c == '-', c == '_', c == '.', c == '!', c == '*', c == '(', c == ')':
			b = append(b, c)
		case c == ' ':
			b = append(b, '+')
		default:
			b = append(b, '%', hexDigits[c>>4], hexDigits[c&15])
		}
	}
	return b
}

// appendUnescaped appends what s, as escaped by [appendEscaped] or not at all,
// stands for. An escape that is none is an error: read as it stands, it would be
// the same as another key.
func appendUnescaped(b, s []byte) (_ []byte, ok bool) {
	n := len(b)
	b = slices.Grow(b, len(s))[:n+len(s)]
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c == '+':
			c = ' '
		case c == '%':
			if len(s)-i < 3 || unhex(s[i+1]) > 15 || unhex(s[i+2]) > 15 {
				return b[:n], false
			}
			c = unhex(s[i+1])<<4 | unhex(s[i+2])
			i += 2
		}
		b[n] = c
		n++
	}
	return b[:n], true
}

// appendKey appends the key that a request's target names. Clients of ASP.NET 1.1
// send one more slash in front.
func appendKey(b, target []byte) (_ []byte, ok bool) {
	if len(target) > 1 && target[0] == '/' && target[1] == '/' {
		target = target[1:]
	}
	return appendUnescaped(b, target)
}

// An appTarget is the beginning of the targets of one application, as a peer sends it and
// unescaped: two thirds of a target that most of a connection's requests have in
// common.
type appTarget struct{ sent, key []byte }

// appendKey is appendKey, which remembers the application.
func (t *appTarget) appendKey(b, sent []byte) (_ []byte, ok bool) {
	if len(t.sent) > 0 && bytes.HasPrefix(sent, t.sent) {
		return appendUnescaped(append(b, t.key...), sent[len(t.sent):])
	}
	n := len(b)
	b, ok = appendKey(b, sent)
	if end := bytes.LastIndex(sent, endOfApp) + len(endOfApp); ok && end >= len(endOfApp) && len(sent) <= keepTarget {
		t.sent = append(t.sent[:0], sent[:end]...)
		rest := len(sent) - end - 2*bytes.Count(sent[end:], []byte("%"))
		t.key = append(t.key[:0], b[n:len(b)-rest]...)
	}
	return b, ok
}

// endOfApp is what follows the hash of an application, and keepTarget how long a
// target may be to be remembered.
var endOfApp = []byte(")%2f")

const keepTarget = 1 << 10

// splitKey splits a key into application and session: at the last ")/", which is
// how the hash of the application ends, else after the last slash. What is left of
// the application's end (a parenthesis, a slash, or nothing) says which it was, so
// that no two keys become the same ID. The ID aliases key.
func splitKey(key []byte) store.ID {
	slash := -1
	for i := len(key) - 1; i >= 0; i-- {
		if key[i] != '/' {
			continue
		}
		if i > 0 && key[i-1] == ')' {
			return store.ID{App: alias(key[:i]), Session: alias(key[i+1:])}
		}
		slash = max(slash, i)
	}
	return store.ID{App: alias(key[:slash+1]), Session: alias(key[slash+1:])}
}

// alias returns b as a string that changes with it.
func alias(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
