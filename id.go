package holdfast

import (
	"crypto/rand"
	"crypto/sha256"
	"strings"
)

// A session ID is 24 characters of a-z and 0-5, five bits each: 120 random bits,
// the form that ASP.NET's SessionIDManager gives them, so that both can share
// cookies and stores.
const (
	idBytes  = 15
	idLength = idBytes * 8 / 5
	idChars  = "abcdefghijklmnopqrstuvwxyz012345"
)

// newID draws a session ID from the system's cryptographic generator.
func newID() string {
	var b [idBytes]byte
	rand.Read(b[:]) // never fails: the runtime ends the process instead
	return encodeID(b)
}

// encodeID writes each group of five bytes, read as a little-endian number, as
// eight characters, lowest bits first.
func encodeID(b [idBytes]byte) string {
	var out [idLength]byte
	for g := range idBytes / 5 {
		n := uint64(b[g*5]) | uint64(b[g*5+1])<<8 | uint64(b[g*5+2])<<16 | uint64(b[g*5+3])<<24 | uint64(b[g*5+4])<<32
		for i := range 8 {
			out[g*8+i] = idChars[n&31]
			n >>= 5
		}
	}
	return string(out[:])
}

// parseID returns the ID that a client sent in its canonical, lower-case form,
// and whether it has the shape of one. Nothing else is ever shown to a store.
func parseID(s string) (string, bool) {
	if len(s) != idLength {
		return "", false
	}
	upper := false
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '5':
		case 'A' <= c && c <= 'Z':
			upper = true
		default:
			return "", false
		}
	}
	if upper {
		s = strings.ToLower(s)
	}
	return s, true
}

// hashID is the name under which a store keeps the session: of the shape of an
// ID, but worth nothing to whoever reads it in the store, because the way back to
// the ID is a preimage of SHA-256 over 120 random bits.
func hashID(id string) string {
	var buf [len(hashPurpose) + 80]byte
	sum := sha256.Sum256(append(append(buf[:0], hashPurpose...), id...))
	return encodeID([idBytes]byte(sum[:idBytes]))
}

const hashPurpose = "holdfast session id\x00"

// logID is what stands for a session in logs and on pages: short, the same in all
// workers of one application, and no help in finding the ID.
func logID(app, key string) string {
	if key == "" {
		return ""
	}
	sum := sha256.Sum256([]byte("holdfast log\x00" + app + "\x00" + key))
	return encodeID([idBytes]byte(sum[:idBytes]))[:8]
}
