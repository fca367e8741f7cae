package items

import (
	"encoding/binary"
	"math"
	"strconv"
	"time"
	"unicode/utf8"
)

// Code is the type code that AltSerialization writes before each value.
type Code uint8

// The type codes of .NET's AltSerialization. Zero is no code: that of the
// absent [Value].
const (
	CodeString   Code = 1
	CodeInt32    Code = 2
	CodeBool     Code = 3
	CodeDateTime Code = 4 // ticks of 100 ns since the year 1, without a zone
	CodeDecimal  Code = 5
	CodeByte     Code = 6
	CodeChar     Code = 7 // one UTF-16 unit that is no surrogate, as UTF-8
	CodeSingle   Code = 8
	CodeDouble   Code = 9
	CodeSByte    Code = 10
	CodeInt16    Code = 11
	CodeInt64    Code = 12
	CodeUInt16   Code = 13
	CodeUInt32   Code = 14
	CodeUInt64   Code = 15
	CodeTimeSpan Code = 16 // ticks of 100 ns
	CodeGUID     Code = 17
	CodeIntPtr   Code = 18 // 4 or 8 bytes, as wide as the writer's process
	CodeUIntPtr  Code = 19
	CodeObject   Code = 20 // a BinaryFormatter stream
	CodeNull     Code = 21
)

// These mark an entry of an [Item] whose value is still in its encoded form, in
// ref. They never leave this package.
const (
	codeRaw     Code = 0xfe
	codeRawNull Code = 0xff // the same, under the null key
)

var codeNames = [...]string{
	"nothing", "String", "Int32", "Boolean", "DateTime", "Decimal", "Byte", "Char",
	"Single", "Double", "SByte", "Int16", "Int64", "UInt16", "UInt32", "UInt64",
	"TimeSpan", "Guid", "IntPtr", "UIntPtr", "Object", "Null",
}

// String returns .NET's name of the type.
func (c Code) String() string {
	if int(c) < len(codeNames) {
		return codeNames[c]
	}
	return "Code(" + strconv.Itoa(int(c)) + ")"
}

// fixed is the size of the payload of types that have one size, else 0.
var fixed = [...]uint8{
	CodeInt32: 4, CodeBool: 1, CodeDateTime: 8, CodeDecimal: 16, CodeByte: 1,
	CodeSingle: 4, CodeDouble: 8, CodeSByte: 1, CodeInt16: 2, CodeInt64: 8,
	CodeUInt16: 2, CodeUInt32: 4, CodeUInt64: 8, CodeTimeSpan: 8, CodeGUID: 16,
	CodeNull: 0,
}

// Value is the value of one item. It is immutable and always in one canonical
// form, so that two Values are == exactly when they are encoded as the same
// bytes (so a NaN equals itself, and 0 does not equal -0). The zero Value means
// that there is none.
//
// Values come from [Codec.Encode], [Item.Get] and [ParseValue].
type Value struct {
	// ref is the text of a String, the payload of a Decimal, Guid, IntPtr or
	// UIntPtr, and an Object's stream, or its content if it is a byte array.
	ref string
	// num is the payload of all other types: integers sign-extended, floats as
	// their IEEE bits, Char as a code point. For an Object, 1 means a byte array.
	num  uint64
	code Code
}

// Code returns the type code, 0 for the zero Value.
func (v Value) Code() Code { return v.code }

// IsZero reports whether v is the zero Value, which stands for no value at all.
// It does not for Null, which is a value.
func (v Value) IsZero() bool { return v.code == 0 }

// Size returns the length of what [Value.Append] appends, in bytes.
func (v Value) Size() int {
	switch v.code {
	case 0:
		return 0
	case CodeString:
		return 1 + uvarintSize(len(v.ref)) + len(v.ref)
	case CodeChar:
		return 1 + utf8.RuneLen(rune(v.num))
	case CodeIntPtr, CodeUIntPtr:
		return 1 + len(v.ref)
	case CodeObject:
		if v.num == byteArray {
			return 1 + recordSize + len(v.ref)
		}
		return 1 + len(v.ref)
	case codeRaw, codeRawNull:
		return len(v.ref)
	}
	return 1 + int(fixed[v.code])
}

// Append appends the encoded value, type code first, to dst and returns the
// extended slice. The zero Value appends nothing.
func (v Value) Append(dst []byte) []byte {
	switch v.code {
	case 0:
		return dst
	case codeRaw, codeRawNull:
		return append(dst, v.ref...)
	}
	dst = append(dst, byte(v.code))
	switch v.code {
	case CodeString:
		dst = appendUvarint(dst, len(v.ref))
		return append(dst, v.ref...)
	case CodeChar:
		return utf8.AppendRune(dst, rune(v.num))
	case CodeDecimal, CodeGUID, CodeIntPtr, CodeUIntPtr:
		return append(dst, v.ref...)
	case CodeObject:
		if v.num == byteArray {
			return appendRecord(dst, v.ref)
		}
		return append(dst, v.ref...)
	}
	switch fixed[v.code] {
	case 1:
		return append(dst, byte(v.num))
	case 2:
		return binary.LittleEndian.AppendUint16(dst, uint16(v.num))
	case 4:
		return binary.LittleEndian.AppendUint32(dst, uint32(v.num))
	case 8:
		return binary.LittleEndian.AppendUint64(dst, v.num)
	}
	return dst
}

// Object is an encoded value, type code first, that has no natural form in Go:
// an object of .NET, which only .NET can read. [ParseValue] makes it a [Value]
// again.
type Object []byte

// Any returns the value in the Go type that is natural for it, for enumerating,
// logging and debugging: string, bool, int8 to int64, uint8 to uint64, float32,
// float64, rune, time.Time, time.Duration, [Decimal], [GUID], and []byte. IntPtr
// and UIntPtr are int64 and uint64. What [Codec] stored as CBOR is decoded into
// Go's general types: maps with string keys where all keys are strings, else
// map[any]any. Null and the zero Value are nil. What cannot be read is an
// [Object]: Any never fails.
func (v Value) Any() any {
	switch v.code {
	case 0, CodeNull:
		return nil
	case CodeString:
		return v.ref
	case CodeBool:
		return v.num != 0
	case CodeDateTime:
		return timeOfTicks(v.num)
	case CodeTimeSpan:
		if d, ok := durationOfTicks(int64(v.num)); ok {
			return d
		}
	case CodeDecimal:
		return decimalOfBits(v.ref)
	case CodeGUID:
		return guidOfBits(v.ref)
	case CodeChar, CodeInt32:
		return int32(v.num)
	case CodeByte:
		return uint8(v.num)
	case CodeSByte:
		return int8(v.num)
	case CodeInt16:
		return int16(v.num)
	case CodeInt64:
		return int64(v.num)
	case CodeUInt16:
		return uint16(v.num)
	case CodeUInt32:
		return uint32(v.num)
	case CodeUInt64:
		return v.num
	case CodeSingle:
		return math.Float32frombits(uint32(v.num))
	case CodeDouble:
		return math.Float64frombits(v.num)
	case CodeIntPtr, CodeUIntPtr:
		return v.pointer()
	case CodeObject:
		if v.num == byteArray {
			if !isCBOR(v.ref) {
				return []byte(v.ref)
			}
			if a, err := decodeAny(v.ref); err == nil {
				return a
			}
		}
	}
	return Object(v.Append(nil))
}

// pointer returns the number in an IntPtr (int64) or a UIntPtr (uint64).
func (v Value) pointer() any {
	wide := len(v.ref) == 8
	switch {
	case v.code == CodeIntPtr && wide:
		return int64(le64(v.ref))
	case v.code == CodeIntPtr:
		return int64(int32(le32(v.ref)))
	case wide:
		return le64(v.ref)
	}
	return uint64(le32(v.ref))
}

// Ticks are .NET's unit of time, 100 ns. maxTicks is the last of the year 9999.
const (
	tick            = 100 * time.Nanosecond
	ticksPerSecond  = uint64(time.Second / tick)
	maxTicks        = 3155378975999999999
	unixToYear1Secs = 62135596800
)

// timeOfTicks returns the time, in UTC, of a DateTime's ticks.
func timeOfTicks(t uint64) time.Time {
	return time.Unix(int64(t/ticksPerSecond)-unixToYear1Secs, int64(t%ticksPerSecond)*int64(tick)).UTC()
}

// ticksOfTime returns the ticks of t, rounded down. It is false for years that
// DateTime has not.
func ticksOfTime(t time.Time) (uint64, bool) {
	s := t.Unix() + unixToYear1Secs
	if s < 0 || s > maxTicks/int64(ticksPerSecond) {
		return 0, false
	}
	return uint64(s)*ticksPerSecond + uint64(t.Nanosecond())/uint64(tick), true
}

// durationOfTicks is false where a TimeSpan is longer than a time.Duration can
// be (292 years).
func durationOfTicks(t int64) (time.Duration, bool) {
	if t > math.MaxInt64/int64(tick) || t < math.MinInt64/int64(tick) {
		return 0, false
	}
	return time.Duration(t) * tick, true
}
