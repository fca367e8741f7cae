package items

import (
	"encoding"
	"fmt"
	"math/big"
	"reflect"
	"strings"
	"time"

	"github.com/fxamacker/cbor/v2"
)

var (
	typeTime   = reflect.TypeFor[time.Time]()
	typeBigInt = reflect.TypeFor[big.Int]()
)

// check walks through a type that goes as CBOR. The error says what in it would
// not survive.
func check(t reflect.Type) (walker, error) {
	w := walker{state: map[reflect.Type]walkState{}}
	err := w.walk(t, t.String())
	return w, err
}

type walkState uint8

const (
	walking walkState = iota + 1
	walked
	opaque // walked, and it marshals itself
)

type walker struct {
	state    map[reflect.Type]walkState
	mutable  bool // a value can be changed in place
	examines bool // a value may contain itself, or a time, and must be examined
}

// refuse makes the error of one place. The advice says what to do there.
func refuse(path string, what any, advice string) error {
	return fmt.Errorf("items: %s: %v cannot leave the process; %s", path, what, advice)
}

const (
	leaveOut    = "leave it out with the tag `cbor:\"-\"`, or keep the value in this process with a LiveKey"
	useConcrete = "nothing would say what to decode it into; use a concrete type"
)

func (w *walker) walk(t reflect.Type, path string) error {
	switch w.state[t] {
	case walking:
		w.examines = true
		return nil
	case walked, opaque:
		return nil
	}
	own, err := marshalsItself(t)
	if err != nil {
		return fmt.Errorf("items: %s: %w", path, err)
	}
	if own || t == typeTime || t == typeBigInt {
		w.state[t] = opaque
		w.examines = w.examines || t == typeTime
		w.mutable = w.mutable || hasReferences(t, map[reflect.Type]bool{})
		return nil
	}
	w.state[t] = walking
	defer func() { w.state[t] = walked }()

	switch t.Kind() {
	case reflect.Chan, reflect.Func:
		return refuse(path, t, leaveOut)
	case reflect.Uintptr, reflect.UnsafePointer:
		return refuse(path, t, "an address means nothing elsewhere; "+leaveOut)
	case reflect.Complex64, reflect.Complex128:
		return refuse(path, t, "CBOR has no complex numbers; store the real and the imaginary part")
	case reflect.Interface:
		return refuse(path, "the interface "+t.String(), useConcrete)
	case reflect.Pointer, reflect.Slice:
		w.mutable = true
		return w.walk(t.Elem(), path+elemOf(t))
	case reflect.Array:
		return w.walk(t.Elem(), path+elemOf(t))
	case reflect.Map:
		w.mutable = true
		if t.Key().Kind() == reflect.Pointer {
			return refuse(path, "a map with the key "+t.Key().String(), "pointers are other ones after decoding; use what they point to")
		}
		if err := w.walk(t.Key(), path+"[key]"); err != nil {
			return err
		}
		return w.walk(t.Elem(), path+elemOf(t))
	case reflect.Struct:
		return w.walkFields(t, path)
	}
	return nil
}

// elemOf is how a path goes on from a value to what it holds.
func elemOf(t reflect.Type) string {
	if t.Kind() == reflect.Pointer {
		return ""
	}
	return "[]"
}

func (w *walker) walkFields(t reflect.Type, path string) error {
	for i := range t.NumField() {
		f := t.Field(i)
		if leftOut(f) {
			continue
		}
		if err := w.walkField(t, f, path+"."+f.Name); err != nil {
			return err
		}
	}
	return nil
}

func (w *walker) walkField(t reflect.Type, f reflect.StructField, path string) error {
	inner := pointedTo(f.Type)
	promotes := f.Anonymous && inner.Kind() == reflect.Struct && tagName(f) == ""
	switch {
	case !f.IsExported() && promotes && f.Type.Kind() == reflect.Pointer:
		return refuse(path, "the embedded pointer to the unexported "+inner.String(), "nothing could set it when decoding; embed the struct itself, or export its type")
	case !f.IsExported() && !promotes:
		return refuse(path, "an unexported field", fmt.Sprintf("export it, leave it out with the tag `cbor:\"-\"`, or give %v MarshalBinary and UnmarshalBinary", t))
	case fieldTag(f) == "-":
		return refuse(path, "a field with the tag `json:\"-\"`", "keep it with the tag `cbor:\""+f.Name+"\"`, or leave it out here too with `cbor:\"-\"`")
	case promotes:
		// Its fields take part one by one, and its marshaler none.
		w.mutable = w.mutable || f.Type.Kind() == reflect.Pointer
		before := w.state[inner]
		if before == walking {
			w.examines = true
			return nil
		}
		w.state[inner] = walking
		defer func() { w.state[inner] = before }() // where it is a field, its marshaler counts
		return w.walkFields(inner, path)
	}
	return w.walk(f.Type, path)
}

// leftOut reports whether the type's author wants a field not to be stored.
// Blank fields hold nothing; the library reads options from their tags.
func leftOut(f reflect.StructField) bool { return f.Name == "_" || f.Tag.Get("cbor") == "-" }

// fieldTag is the tag that the library goes by.
func fieldTag(f reflect.StructField) string {
	if tag := f.Tag.Get("cbor"); tag != "" {
		return tag
	}
	return f.Tag.Get("json")
}

func tagName(f reflect.StructField) string {
	name, _, _ := strings.Cut(fieldTag(f), ",")
	return name
}

func pointedTo(t reflect.Type) reflect.Type {
	if t.Kind() == reflect.Pointer {
		return t.Elem()
	}
	return t
}

// marshals is marshalsItself for types that check has let through.
func marshals(t reflect.Type) bool {
	own, _ := marshalsItself(t)
	return own
}

// marshalsItself reports whether the library leaves t's bytes to t, as it does
// not for time.Time and big.Int. It fails if there is no way back. The order is
// the library's: CBOR, binary, text.
func marshalsItself(t reflect.Type) (bool, error) {
	if k := t.Kind(); k == reflect.Pointer || k == reflect.Interface || t == typeTime || t == typeBigInt {
		return false, nil
	}
	p := reflect.PointerTo(t)
	for _, pair := range [3]struct {
		to, from         reflect.Type
		toName, fromName string
	}{
		{reflect.TypeFor[cbor.Marshaler](), reflect.TypeFor[cbor.Unmarshaler](), "MarshalCBOR", "UnmarshalCBOR"},
		{reflect.TypeFor[encoding.BinaryMarshaler](), reflect.TypeFor[encoding.BinaryUnmarshaler](), "MarshalBinary", "UnmarshalBinary"},
		{reflect.TypeFor[encoding.TextMarshaler](), reflect.TypeFor[encoding.TextUnmarshaler](), "MarshalText", "UnmarshalText"},
	} {
		to, from := p.Implements(pair.to), p.Implements(pair.from)
		switch {
		case to && from:
			return true, nil
		case to:
			return false, fmt.Errorf("%v has %s and no %s, so it could be stored and not be read; add %[3]s", t, pair.toName, pair.fromName)
		case from:
			return false, fmt.Errorf("%v has %s and no %s, so it could not read what is stored; add %[3]s", t, pair.fromName, pair.toName)
		}
	}
	return false, nil
}

// hasReferences reports whether any part of t, seen or hidden, can be changed
// through a copy of a T.
func hasReferences(t reflect.Type, seen map[reflect.Type]bool) bool {
	if t == typeTime || seen[t] {
		return false
	}
	seen[t] = true
	switch t.Kind() {
	case reflect.Array:
		return hasReferences(t.Elem(), seen)
	case reflect.Struct:
		for i := range t.NumField() {
			if hasReferences(t.Field(i).Type, seen) {
				return true
			}
		}
		return false
	}
	return !isScalar(t.Kind())
}

// examine returns why v, of the type that was walked, could be encoded wrongly or
// not at all, or "". The library would follow a cycle until the stack is full,
// and would write years that it cannot read.
func (w *walker) examine(v reflect.Value, depth int) (reason string) {
	t := v.Type()
	switch {
	case t == typeTime:
		if y := v.Interface().(time.Time).UTC().Year(); y < 0 || y > 9999 {
			return fmt.Sprintf("it holds a time in the year %d, outside 0 to 9999", y)
		}
		return ""
	case isScalar(t.Kind()) || w.state[t] == opaque || t.Kind() == reflect.Pointer && v.IsNil():
		return ""
	case depth == 0:
		return fmt.Sprintf("it contains itself, or is nested deeper than %d", maxDepth)
	}
	switch t.Kind() {
	case reflect.Pointer:
		return w.examine(v.Elem(), depth-1)
	case reflect.Slice, reflect.Array:
		if isScalar(t.Elem().Kind()) {
			return ""
		}
		for i := range v.Len() {
			if reason := w.examine(v.Index(i), depth-1); reason != "" {
				return reason
			}
		}
	case reflect.Map:
		for i := v.MapRange(); i.Next(); {
			if reason := w.examine(i.Key(), depth-1); reason != "" {
				return reason
			}
			if reason := w.examine(i.Value(), depth-1); reason != "" {
				return reason
			}
		}
	case reflect.Struct:
		for i := range t.NumField() {
			if leftOut(t.Field(i)) {
				continue
			}
			if reason := w.examine(v.Field(i), depth-1); reason != "" {
				return reason
			}
		}
	}
	return ""
}

// isScalar tells numbers, strings and bool from what holds other values.
func isScalar(k reflect.Kind) bool { return formOfKind[k] != formCBOR }
