package stateserver

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
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

// appPrefix returns the part of the target that an application's sessions share:
// its name, the hash of it, and the slash, escaped as ASP.NET does.
func appPrefix(app string) string {
	hash := sha256.Sum256([]byte(app))
	base := app + "(" + base64.StdEncoding.EncodeToString(hash[:]) + ")/"
	if !strings.HasPrefix(app, "/") {
		base = "/" + base
	}
	return string(appendEscaped(nil, base))
}

// appendSession writes the rest of the target. A session ID with a slash or a
// percent sign, as neither ASP.NET nor Holdfast makes them, is escaped once more:
// the last slash of a key is then always the one before the session, and no two
// sessions have the same key.
func appendSession(b []byte, session string) []byte {
	if strings.ContainsAny(session, "/%") {
		session = strings.NewReplacer("%", "%25", "/", "%2f").Replace(session)
	}
	return appendEscaped(b, session)
}

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
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c == '+':
			c = ' '
		case c == '%':
			if len(s)-i < 3 || unhex(s[i+1]) > 15 || unhex(s[i+2]) > 15 {
				return b, false
			}
			c = unhex(s[i+1])<<4 | unhex(s[i+2])
			i += 2
		}
		b = append(b, c)
	}
	return b, true
}

// appendKey appends the key that a request's target names. Clients of ASP.NET 1.1
// send one more slash in front.
func appendKey(b, target []byte) (_ []byte, ok bool) {
	if len(target) > 1 && target[0] == '/' && target[1] == '/' {
		target = target[1:]
	}
	return appendUnescaped(b, target)
}

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
