package items

import (
	"fmt"
	"math"
	"unicode/utf8"
)

// FormatError says that bytes are not what they should be: damaged, cut off, or
// written by something else.
type FormatError struct {
	// Item is the name of the item whose value cannot be read, empty if the
	// body as a whole or a value by itself cannot.
	Item string
	// Offset counts bytes from the start of the body, or of the value if one
	// value is at fault.
	Offset int
	// Reason says what is wrong there.
	Reason string
}

// Error names the item, the offset and the reason.
func (e *FormatError) Error() string {
	if e.Item != "" {
		return fmt.Sprintf("items: item %q cannot be read: %s at offset %d of its value", e.Item, e.Reason, e.Offset)
	}
	return fmt.Sprintf("items: %s at offset %d", e.Reason, e.Offset)
}

// damaged makes the error of one place.
func damaged(offset int, format string, args ...any) error {
	return &FormatError{Offset: offset, Reason: fmt.Sprintf(format, args...)}
}

// ParseValue reads one encoded value, which must be the whole of b; the Value
// may share b's memory. It accepts what .NET would write and nothing else; what
// it refuses is a *[FormatError].
//
// A .NET object (code 20) is taken as it is: only its first and last byte are
// looked at.
func ParseValue(b string) (Value, error) {
	if b == "" {
		return Value{}, damaged(0, "the value is empty")
	}
	code, p := Code(b[0]), b[1:]
	switch code {
	case CodeString:
		n, w := uvarint(p)
		if w == 0 {
			return Value{}, damaged(1, "the string's length is no length")
		}
		if n != len(p)-w {
			return Value{}, damaged(1, "the string's length is %d, and %d bytes follow", n, len(p)-w)
		}
		return Value{code: code, ref: p[w:]}, nil
	case CodeChar:
		r, w := utf8.DecodeRuneInString(p)
		if w != len(p) || w == 0 || r > 0xffff || r == utf8.RuneError && w == 1 {
			return Value{}, damaged(1, "% x is not one Char", truncated(p))
		}
		return Value{code: code, num: uint64(r)}, nil
	case CodeIntPtr, CodeUIntPtr:
		if len(p) != 4 && len(p) != 8 {
			return Value{}, damaged(1, "%s takes 4 or 8 bytes, not %d", code, len(p))
		}
		return Value{code: code, ref: p}, nil
	case CodeObject:
		if content, ok := cutRecord(p); ok {
			return Value{code: code, num: byteArray, ref: content}, nil
		}
		if len(p) < len(streamHead)+1 || p[0] != streamHead[0] || p[len(p)-1] != messageEnd {
			return Value{}, damaged(1, "the object is no complete BinaryFormatter stream")
		}
		return Value{code: code, ref: p}, nil
	}
	if code == 0 || code > CodeNull {
		return Value{}, damaged(0, "there is no type code %d", code)
	}
	if len(p) != int(fixed[code]) {
		return Value{}, damaged(1, "%s takes %d bytes, not %d", code, fixed[code], len(p))
	}
	v := Value{code: code}
	switch code {
	case CodeBool:
		if p[0] > 1 {
			return Value{}, damaged(1, "a Boolean is 0 or 1, not %d", p[0])
		}
		v.num = uint64(p[0])
	case CodeByte:
		v.num = uint64(p[0])
	case CodeSByte:
		v.num = uint64(int8(p[0]))
	case CodeInt16:
		v.num = uint64(int16(le16(p)))
	case CodeUInt16:
		v.num = uint64(le16(p))
	case CodeInt32:
		v.num = uint64(int32(le32(p)))
	case CodeUInt32, CodeSingle:
		v.num = uint64(le32(p))
	case CodeInt64, CodeUInt64, CodeDouble, CodeTimeSpan:
		v.num = le64(p)
	case CodeDateTime:
		if v.num = le64(p); v.num > maxTicks {
			return Value{}, damaged(1, "%d is past the last DateTime", v.num)
		}
	case CodeDecimal:
		if !validDecimal(p) {
			return Value{}, damaged(13, "%08x are no Decimal's flags", le32(p[12:]))
		}
		v.ref = p
	case CodeGUID:
		v.ref = p
	}
	return v, nil
}

// truncated returns as much of s as an error message should show.
func truncated(s string) string { return s[:min(len(s), 8)] }

func le16(s string) uint16 { return uint16(s[0]) | uint16(s[1])<<8 }

func le32(s string) uint32 {
	_ = s[3]
	return uint32(s[0]) | uint32(s[1])<<8 | uint32(s[2])<<16 | uint32(s[3])<<24
}

func le64(s string) uint64 { _ = s[7]; return uint64(le32(s)) | uint64(le32(s[4:]))<<32 }

// uvarint reads a length in 7-bit groups, lowest first, and how many bytes it
// took: 0 if it is cut off, more than .NET's int32 holds, or longer than it had
// to be, which .NET never writes.
func uvarint(s string) (n, width int) {
	if len(s) > 0 && s[0] < 0x80 {
		return int(s[0]), 1
	}
	var u uint64
	for i := 0; i < len(s) && i < 5; i++ {
		u |= uint64(s[i]&0x7f) << (7 * i)
		if s[i] < 0x80 {
			if s[i] == 0 || u > math.MaxInt32 {
				return 0, 0
			}
			return int(u), i + 1
		}
	}
	return 0, 0
}

func uvarintSize(n int) int {
	w := 1
	for n >= 0x80 {
		n >>= 7
		w++
	}
	return w
}

func appendUvarint(dst []byte, n int) []byte {
	for n >= 0x80 {
		dst = append(dst, byte(n)|0x80)
		n >>= 7
	}
	return append(dst, byte(n))
}
