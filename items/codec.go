package items

import (
	"fmt"
	"reflect"
	"unsafe"
)

// Codec converts between a Go type and a [Value]. It is made once for each type
// and safe for concurrent use. Types that have a code of their own (see the
// package comment) are converted without reflection and, but for the bytes of
// []byte, Decimal, GUID and pointers, without allocation.
type Codec[T any] struct {
	typ     reflect.Type
	form    form
	elem    reflect.Type // if T is a pointer to a type of that form
	nilable bool         // T is a pointer, a map or a slice, all of which begin with a pointer
	mutable bool
	walker  walker // what check found, if T goes as CBOR
}

// NewCodec makes the codec of T. It fails if T would not survive leaving the
// process; the error names the path to the field at fault and says what to do.
//
// T must not contain channels, functions, complex numbers, uintptr, unsafe
// pointers or interfaces, nor unexported fields or embedded pointers to
// unexported structs, because these would be lost. What the tag `cbor:"-"`
// leaves out on purpose is not looked at. Types that marshal themselves
// (cbor.Marshaler, else encoding.BinaryMarshaler, else encoding.TextMarshaler)
// may hold anything, but must have the way back too. JSON marshalers are not
// used; the names and options of json tags are, where there is no cbor tag.
//
// What these rules let through is proved: a T filled with values is encoded,
// decoded and compared. That finds embedded fields that hide each other, doubled
// names, and marshalers that do not fit together. Types that marshal themselves
// are probed with their zero value, as nobody knows which others they take.
func NewCodec[T any]() (*Codec[T], error) {
	t := reflect.TypeFor[T]()
	c := &Codec[T]{typ: t, form: formOf(t)}
	switch t.Kind() {
	case reflect.Pointer, reflect.Map, reflect.Slice:
		c.nilable = true
	}
	if c.form != formCBOR {
		c.mutable = c.form == formBytes
		return c, nil
	}
	if t.Kind() == reflect.Pointer {
		if f := formOf(t.Elem()); f != formCBOR {
			c.form, c.elem, c.mutable = f, t.Elem(), true
			return c, nil
		}
	}
	var err error
	if c.walker, err = check(t); err != nil {
		return nil, err
	}
	c.mutable = c.walker.mutable
	if err := probe(t); err != nil {
		return nil, err
	}
	return c, nil
}

// Mutable reports whether a T that Decode returned can be changed in place: it
// holds a slice, a map or a pointer. Scalars, strings, times, and arrays and
// structs of only these cannot.
func (c *Codec[T]) Mutable() bool { return c.mutable }

// Encode returns the value of v, normalised: times in UTC, times and durations
// that have a code of their own in 100 ns. It shares no memory with v but that
// of a string. It fails for times outside the years 1 to 9999 (0 to 9999 inside
// CBOR), for values that contain themselves or are nested deeper than 1000, for
// CBOR of more than 16 MiB, and where a marshaler fails.
func (c *Codec[T]) Encode(v T) (Value, error) {
	p := unsafe.Pointer(&v)
	if c.nilable && *(*unsafe.Pointer)(p) == nil {
		return Value{code: CodeNull}, nil
	}
	if c.form == formCBOR {
		return c.encodeCBOR(v)
	}
	if c.elem != nil {
		p = *(*unsafe.Pointer)(p)
	}
	val, err := encodeForm(c.form, p)
	if err != nil {
		return Value{}, fmt.Errorf("items: %v cannot be stored: %w", c.typ, err)
	}
	return val, nil
}

func (c *Codec[T]) encodeCBOR(v T) (Value, error) {
	if c.walker.examines {
		if reason := c.walker.examine(reflect.ValueOf(&v).Elem(), maxDepth); reason != "" {
			return Value{}, fmt.Errorf("items: %v cannot be stored: %s", c.typ, reason)
		}
	}
	content, err := encodeCBOR(&v)
	if err != nil {
		return Value{}, fmt.Errorf("items: %v cannot be stored: %w", c.typ, err)
	}
	return Value{code: CodeObject, num: byteArray, ref: content}, nil
}

// Decode returns the T that v holds. It shares no memory with v but that of a
// string. Null and the zero Value are the zero T. It fails where v holds
// something else, or a number that T has no room for; the error names both
// types.
func (c *Codec[T]) Decode(v Value) (T, error) {
	if v.code == CodeNull || v.code == 0 {
		var zero T
		return zero, nil
	}
	if c.form == formCBOR {
		return c.decodeCBOR(v)
	}
	var t T
	p := unsafe.Pointer(&t)
	if c.elem != nil {
		e := reflect.New(c.elem).UnsafePointer()
		*(*unsafe.Pointer)(p) = e
		p = e
	}
	if reason := decodeForm(c.form, v, p); reason != "" {
		var zero T
		return zero, c.mismatch(v, reason)
	}
	return t, nil
}

func (c *Codec[T]) decodeCBOR(v Value) (T, error) {
	var zero T
	if v.code != CodeObject || v.num != byteArray || !isCBOR(v.ref) {
		return zero, c.mismatch(v, wrongType)
	}
	t := new(T)
	if err := decodeCBOR(v.ref, t); err != nil {
		return zero, fmt.Errorf("items: the stored CBOR cannot be read as %v: %w", c.typ, err)
	}
	return *t, nil
}

// mismatch is the error of a value that is no T.
func (c *Codec[T]) mismatch(v Value, reason string) error {
	stored := v.code.String()
	if v.code == CodeObject {
		switch {
		case v.num != byteArray:
			stored = ".NET object"
		case isCBOR(v.ref):
			stored = "CBOR"
		default:
			stored = "[]byte"
		}
	}
	return fmt.Errorf("items: the stored %s cannot be read as %v: %s", stored, c.typ, reason)
}
