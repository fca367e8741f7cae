package sqlstore

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
)

// Where a session is in ASPState: the column SessionId is the session's ID and then
// eight hexadecimal digits, the hash of the application's name.

const (
	maxASPSessionID = 80  // nvarchar(88), less the eight digits
	maxASPAppName   = 280 // char(280)
	aspAppDigits    = 8
)

// aspSessionID is what stands for a session ID in the column. Every ID that an ASP.NET
// application can have made stands for itself. One that is too long for the column, or
// has anything but printable ASCII, which the server would compare or store as
// something else, is known there by its hash.
func aspSessionID(id string) string {
	if len(id) <= maxASPSessionID && isPrintable(id) && !isDigest(id) {
		return id
	}
	return digest(id)
}

// aspAppName is what stands for an application's name. IIS's own (/LM/W3SVC/1/ROOT),
// which vary in case between machines, are in lower case there, as ASP.NET has them.
// Others differ by case too. One that char(280) would not keep apart from others, for
// its upper-case letters, blanks at its end or other characters, is known by its hash.
func aspAppName(app string) string {
	name := app
	if len(app) >= 4 && strings.EqualFold(app[:4], "/LM/") {
		name = strings.ToLower(app)
	}
	if name == "" || len(name) > maxASPAppName || !isPrintable(name) || name != strings.ToLower(name) ||
		strings.HasSuffix(name, " ") || isDigest(name) {
		return digest(app)
	}
	return name
}

// aspAppID is the hash of an application's name, which is in lower case by now.
func aspAppID(name string) int32 {
	h := uint32(5381)
	for i := range len(name) {
		h = h*33 ^ uint32(name[i])
	}
	return int32(h)
}

// aspKey is the column SessionId of a session.
func aspKey(session string, appID int32) string {
	return aspSessionID(session) + fmt.Sprintf("%08x", uint32(appID))
}

// A digest stands for a string that cannot stand for itself: a mark, and its SHA-256.
func digest(s string) string {
	sum := sha256.Sum256([]byte(s))
	return "~" + hex.EncodeToString(sum[:])
}

// isDigest reports whether s looks like a digest. One that does is hashed too, so that
// it does not stand for another.
func isDigest(s string) bool {
	if len(s) != 1+2*sha256.Size || s[0] != '~' {
		return false
	}
	_, err := hex.DecodeString(s[1:])
	return err == nil
}

func isPrintable(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}
