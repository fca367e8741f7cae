package items

import (
	"encoding/hex"
	"fmt"
)

// GUID is .NET's Guid, with its bytes in the order in which they are written as
// text (RFC 9562), so that it converts to and from the UUID types of other
// packages: items.GUID(id). Inside larger values it is stored as its text.
type GUID [16]byte

// dashes is where the text of a GUID has them.
var dashes = [...]int{8, 13, 18, 23}

// ParseGUID reads 00112233-4455-6677-8899-aabbccddeeff, in either case.
func ParseGUID(s string) (GUID, error) {
	var g GUID
	wrong := len(s) != 36
	if !wrong {
		for _, i := range dashes {
			wrong = wrong || s[i] != '-'
		}
	}
	if !wrong {
		_, err := hex.Decode(g[:], []byte(s[:8]+s[9:13]+s[14:18]+s[19:23]+s[24:]))
		wrong = err != nil
	}
	if wrong {
		return GUID{}, fmt.Errorf("items: %q is no GUID; write it as 00112233-4455-6677-8899-aabbccddeeff", s)
	}
	return g, nil
}

// String returns the text, in lower case.
func (g GUID) String() string {
	h := hex.EncodeToString(g[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// MarshalText returns [GUID.String].
func (g GUID) MarshalText() ([]byte, error) { return []byte(g.String()), nil }

// UnmarshalText is [ParseGUID].
func (g *GUID) UnmarshalText(text []byte) (err error) {
	*g, err = ParseGUID(string(text))
	return err
}

// guidOrder is where each byte of the text stands in the payload, which is that
// of Guid.ToByteArray: the first three fields are little-endian.
var guidOrder = [16]int{3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15}

// bits returns the payload of g.
func (g GUID) bits() string {
	var b [16]byte
	for i, j := range guidOrder {
		b[j] = g[i]
	}
	return string(b[:])
}

// guidOfBits reads a payload.
func guidOfBits(p string) (g GUID) {
	for i, j := range guidOrder {
		g[i] = p[j]
	}
	return g
}
