package items

import (
	"fmt"
	"math"
	"reflect"
	"time"
	"unsafe"
)

// form is how a Go type is stored. It is chosen once, from the type; at call
// time the value is reached through a pointer, as named types have the memory
// of their kind.
type form uint8

const (
	formCBOR form = iota
	formBool
	formInt
	formInt8
	formInt16
	formInt32
	formInt64
	formUint
	formUint8
	formUint16
	formUint32
	formUint64
	formFloat32
	formFloat64
	formString
	formTime
	formDuration
	formDecimal
	formGUID
	formBytes
)

var formOfKind = map[reflect.Kind]form{
	reflect.Bool: formBool,
	reflect.Int:  formInt, reflect.Int8: formInt8, reflect.Int16: formInt16, reflect.Int32: formInt32, reflect.Int64: formInt64,
	reflect.Uint: formUint, reflect.Uint8: formUint8, reflect.Uint16: formUint16, reflect.Uint32: formUint32, reflect.Uint64: formUint64,
	reflect.Float32: formFloat32, reflect.Float64: formFloat64,
	reflect.String: formString,
}

func formOf(t reflect.Type) form {
	switch t {
	case reflect.TypeFor[time.Time]():
		return formTime
	case reflect.TypeFor[time.Duration]():
		return formDuration
	case reflect.TypeFor[Decimal]():
		return formDecimal
	case reflect.TypeFor[GUID]():
		return formGUID
	}
	if t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Uint8 {
		return formBytes
	}
	return formOfKind[t.Kind()]
}

// encodeForm makes the value of what p points to, which is of the form f.
func encodeForm(f form, p unsafe.Pointer) (Value, error) {
	switch f {
	case formBool:
		if *(*bool)(p) {
			return Value{code: CodeBool, num: 1}, nil
		}
		return Value{code: CodeBool}, nil
	case formInt:
		if n := int64(*(*int)(p)); n != int64(int32(n)) {
			return Value{code: CodeInt64, num: uint64(n)}, nil
		}
		return Value{code: CodeInt32, num: uint64(*(*int)(p))}, nil
	case formInt8:
		return Value{code: CodeSByte, num: uint64(*(*int8)(p))}, nil
	case formInt16:
		return Value{code: CodeInt16, num: uint64(*(*int16)(p))}, nil
	case formInt32:
		return Value{code: CodeInt32, num: uint64(*(*int32)(p))}, nil
	case formInt64:
		return Value{code: CodeInt64, num: uint64(*(*int64)(p))}, nil
	case formUint:
		if n := uint64(*(*uint)(p)); n > math.MaxUint32 {
			return Value{code: CodeUInt64, num: n}, nil
		}
		return Value{code: CodeUInt32, num: uint64(*(*uint)(p))}, nil
	case formUint8:
		return Value{code: CodeByte, num: uint64(*(*uint8)(p))}, nil
	case formUint16:
		return Value{code: CodeUInt16, num: uint64(*(*uint16)(p))}, nil
	case formUint32:
		return Value{code: CodeUInt32, num: uint64(*(*uint32)(p))}, nil
	case formUint64:
		return Value{code: CodeUInt64, num: *(*uint64)(p)}, nil
	case formFloat32:
		return Value{code: CodeSingle, num: uint64(math.Float32bits(*(*float32)(p)))}, nil
	case formFloat64:
		return Value{code: CodeDouble, num: math.Float64bits(*(*float64)(p))}, nil
	case formString:
		return Value{code: CodeString, ref: *(*string)(p)}, nil
	case formTime:
		n, ok := ticksOfTime(*(*time.Time)(p))
		if !ok {
			return Value{}, fmt.Errorf("the year %d is outside 1 to 9999", (*(*time.Time)(p)).UTC().Year())
		}
		return Value{code: CodeDateTime, num: n}, nil
	case formDuration:
		return Value{code: CodeTimeSpan, num: uint64(*(*time.Duration)(p) / tick)}, nil
	case formDecimal:
		return Value{code: CodeDecimal, ref: (*(*Decimal)(p)).bits()}, nil
	case formGUID:
		return Value{code: CodeGUID, ref: (*(*GUID)(p)).bits()}, nil
	case formBytes:
		return encodeBytes(*(*[]byte)(p))
	}
	panic("items: no such form")
}

// wrongType is the reason of most failures; the error names the types.
const wrongType = "it is another type"

// decodeForm puts v, which is neither Null nor absent, where p points to, memory
// of the form f. It returns why it could not, or "".
func decodeForm(f form, v Value, p unsafe.Pointer) (reason string) {
	switch f {
	case formBool:
		*(*bool)(p) = v.num != 0
		return only(v.code == CodeBool)
	case formInt, formInt8, formInt16, formInt32, formInt64:
		return decodeInt(f, v, p)
	case formUint, formUint8, formUint16, formUint32, formUint64:
		return decodeUint(f, v, p)
	case formFloat32:
		return decodeFloat32(v, (*float32)(p))
	case formFloat64:
		*(*float64)(p) = math.Float64frombits(v.num)
		if v.code == CodeSingle {
			*(*float64)(p) = float64(math.Float32frombits(uint32(v.num)))
		}
		return only(v.code == CodeDouble || v.code == CodeSingle)
	case formString:
		*(*string)(p) = v.ref
		if v.code == CodeChar {
			*(*string)(p) = string(rune(v.num))
		}
		return only(v.code == CodeString || v.code == CodeChar)
	case formTime:
		if v.code != CodeDateTime {
			return wrongType
		}
		*(*time.Time)(p) = timeOfTicks(v.num)
	case formDuration:
		if v.code != CodeTimeSpan {
			return wrongType
		}
		d, ok := durationOfTicks(int64(v.num))
		if !ok {
			return fmt.Sprintf("%d ticks of 100 ns are more than 292 years", int64(v.num))
		}
		*(*time.Duration)(p) = d
	case formDecimal:
		if v.code != CodeDecimal {
			return wrongType
		}
		*(*Decimal)(p) = decimalOfBits(v.ref)
	case formGUID:
		if v.code != CodeGUID {
			return wrongType
		}
		*(*GUID)(p) = guidOfBits(v.ref)
	case formBytes:
		return decodeBytes(v, (*[]byte)(p))
	}
	return ""
}

func only(ok bool) string {
	if ok {
		return ""
	}
	return wrongType
}

// integer returns the number in a value of an integer type: its 64 bits, and
// whether it is below zero.
func (v Value) integer() (n uint64, negative, ok bool) {
	switch v.code {
	case CodeSByte, CodeInt16, CodeInt32, CodeInt64:
		return v.num, int64(v.num) < 0, true
	case CodeByte, CodeUInt16, CodeUInt32, CodeUInt64:
		return v.num, false, true
	case CodeIntPtr:
		n := v.pointer().(int64)
		return uint64(n), n < 0, true
	case CodeUIntPtr:
		return v.pointer().(uint64), false, true
	}
	return 0, false, false
}

func decodeInt(f form, v Value, p unsafe.Pointer) (reason string) {
	u, negative, ok := v.integer()
	if !ok {
		if v.code != CodeChar || f != formInt32 {
			return wrongType
		}
		u = v.num // a rune
	}
	n := int64(u)
	fits := negative == (n < 0)
	switch f {
	case formInt:
		*(*int)(p) = int(n)
		fits = fits && int64(int(n)) == n
	case formInt8:
		*(*int8)(p) = int8(n)
		fits = fits && int64(int8(n)) == n
	case formInt16:
		*(*int16)(p) = int16(n)
		fits = fits && int64(int16(n)) == n
	case formInt32:
		*(*int32)(p) = int32(n)
		fits = fits && int64(int32(n)) == n
	default:
		*(*int64)(p) = n
	}
	return overflow(fits, u, negative)
}

func decodeUint(f form, v Value, p unsafe.Pointer) (reason string) {
	n, negative, ok := v.integer()
	if !ok {
		return wrongType
	}
	fits := !negative
	switch f {
	case formUint:
		*(*uint)(p) = uint(n)
		fits = fits && uint64(uint(n)) == n
	case formUint8:
		*(*uint8)(p) = uint8(n)
		fits = fits && uint64(uint8(n)) == n
	case formUint16:
		*(*uint16)(p) = uint16(n)
		fits = fits && uint64(uint16(n)) == n
	case formUint32:
		*(*uint32)(p) = uint32(n)
		fits = fits && uint64(uint32(n)) == n
	default:
		*(*uint64)(p) = n
	}
	return overflow(fits, n, negative)
}

func overflow(fits bool, n uint64, negative bool) string {
	switch {
	case fits:
		return ""
	case negative:
		return fmt.Sprintf("it has no room for %d", int64(n))
	}
	return fmt.Sprintf("it has no room for %d", n)
}

// decodeFloat32 takes a Double only if nothing is lost.
func decodeFloat32(v Value, p *float32) (reason string) {
	switch v.code {
	case CodeSingle:
		*p = math.Float32frombits(uint32(v.num))
		return ""
	case CodeDouble:
		d := math.Float64frombits(v.num)
		*p = float32(d)
		if float64(*p) == d || d != d {
			return ""
		}
		return fmt.Sprintf("it has no room for %v", d)
	}
	return wrongType
}

func decodeBytes(v Value, p *[]byte) (reason string) {
	if v.code != CodeObject || v.num != byteArray {
		return wrongType
	}
	if !isCBOR(v.ref) {
		*p = []byte(v.ref)
		return ""
	}
	var b []byte // p must not escape, or all that is decoded would
	if err := decodeCBOR(v.ref, &b); err != nil {
		return wrongType
	}
	*p = b
	return ""
}
