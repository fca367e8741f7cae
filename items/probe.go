package items

import (
	"cmp"
	"fmt"
	"math/big"
	"reflect"
	"strconv"
	"time"
)

// probe proves that a T which passed check comes back as it went: once filled
// with values that are all different, and once at zero.
func probe(t reflect.Type) error {
	p := prober{own: map[reflect.Type]verdict{}, inside: map[reflect.Type]bool{}}
	filled := reflect.New(t)
	if err := p.fill(filled.Elem(), t.String()); err != nil {
		return fmt.Errorf("items: %w", err)
	}
	for _, v := range [2]reflect.Value{filled, reflect.New(t)} {
		back := reflect.New(t)
		if err := roundTrip(v, back); err != nil {
			return fmt.Errorf("items: %v does not survive being stored and read: %w", t, err)
		}
		if path := difference(v.Elem(), back.Elem(), t.String()); path != "" {
			return fmt.Errorf("items: %s is lost when a %v is stored and read; does another field have the same name or tag, or an embedded struct a field of that name?", path, t)
		}
	}
	return nil
}

// roundTrip encodes what the pointer from points to and decodes it into what
// to points to.
func roundTrip(from, to reflect.Value) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	content, err := encodeCBOR(from.Interface())
	if err != nil {
		return err
	}
	return decodeCBOR(content, to.Interface())
}

// verdict is what is wrong with a type that marshals itself.
type verdict struct {
	zero     error // its zero value does not survive
	promoted error // its marshaler is that of one field, and the others are lost
}

// prober fills values.
type prober struct {
	n      int64                    // the values so far
	own    map[reflect.Type]verdict // the types that marshal themselves
	inside map[reflect.Type]bool    // the types that are being filled: recursion ends there
}

// fill gives v a value that differs from zero and from all others. Types that
// marshal themselves stay at zero, where they must survive.
func (p *prober) fill(v reflect.Value, path string) error {
	t := v.Type()
	p.n++
	switch t {
	case typeTime:
		v.Set(reflect.ValueOf(time.Date(2001, 2, 3, 4, 5, 6, 123456789, time.UTC).Add(time.Duration(p.n) * time.Hour)))
		return nil
	case typeBigInt:
		v.Addr().Interface().(*big.Int).SetInt64(p.n)
		return nil
	}
	if own, v := p.marshaler(t); own {
		if err := cmp.Or(v.promoted, v.zero); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		return nil
	}
	if p.inside[t] {
		return nil
	}
	p.inside[t] = true
	defer delete(p.inside, t)

	switch t.Kind() {
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(p.n%100 + 1)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(uint64(p.n%100 + 1))
	case reflect.Float32, reflect.Float64:
		v.SetFloat(float64(p.n) + 0.5)
	case reflect.String:
		v.SetString("probe " + strconv.FormatInt(p.n, 10))
	case reflect.Pointer:
		if p.passes(t.Elem()) {
			v.Set(reflect.New(t.Elem()))
			return p.fill(v.Elem(), path)
		}
	case reflect.Slice:
		if p.passes(t.Elem()) {
			v.Set(reflect.MakeSlice(t, 1, 1))
			return p.fill(v.Index(0), path+"[]")
		}
	case reflect.Array:
		for i := range v.Len() {
			if err := p.fill(v.Index(i), path+"[]"); err != nil {
				return err
			}
		}
	case reflect.Map:
		return p.fillMap(v, path)
	case reflect.Struct:
		for i := range t.NumField() {
			f := t.Field(i)
			if leftOut(f) || !f.IsExported() && !f.Anonymous {
				continue
			}
			if err := p.fill(v.Field(i), path+"."+f.Name); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *prober) fillMap(v reflect.Value, path string) error {
	t := v.Type()
	if !p.passes(t.Key()) || !p.passes(t.Elem()) {
		return nil
	}
	key, elem := reflect.New(t.Key()).Elem(), reflect.New(t.Elem()).Elem()
	if err := p.fill(key, path+"[key]"); err != nil {
		return err
	}
	if err := p.fill(elem, path+"[]"); err != nil {
		return err
	}
	v.Set(reflect.MakeMap(t))
	v.SetMapIndex(key, elem)
	return nil
}

// passes is false for types that marshal themselves and do not survive at zero.
// Behind a pointer, or in a slice or map, that need not matter: there may never
// be a zero one.
func (p *prober) passes(t reflect.Type) bool {
	_, v := p.marshaler(t)
	return v.zero == nil || v.promoted != nil
}

// marshaler tells whether t marshals itself and, if so, what is wrong with that.
func (p *prober) marshaler(t reflect.Type) (own bool, v verdict) {
	if v, own = p.own[t]; own || !marshals(t) {
		return own, v
	}
	v = verdict{probeZero(t), p.probePromoted(t)}
	p.own[t] = v
	return true, v
}

// probeZero compares bytes: what t's values look like inside is t's affair.
func probeZero(t reflect.Type) error {
	zero, back := reflect.New(t), reflect.New(t)
	err := roundTrip(zero, back)
	if err == nil {
		var was, is string
		if was, err = encodeCBOR(zero.Interface()); err == nil {
			is, err = encodeCBOR(back.Interface())
		}
		if err == nil && was != is {
			err = fmt.Errorf("it comes back as %x instead of %x", is, was)
		}
	}
	if err != nil {
		return fmt.Errorf("the zero %v does not survive its own marshaler: %w; make it, or use a pointer", t, err)
	}
	return nil
}

// probePromoted finds marshalers that a struct has from an embedded field, as
// that of struct{ time.Time; Note string }: they know nothing of the others.
func (p *prober) probePromoted(t reflect.Type) error {
	if t.Kind() != reflect.Struct {
		return nil
	}
	v, back := reflect.New(t), reflect.New(t)
	var from reflect.Type
	var others []int // fields that can be seen and filled
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Anonymous {
			if inner := pointedTo(f.Type); marshals(inner) || inner == typeTime || inner == typeBigInt {
				from = inner
				if inner != f.Type && f.IsExported() {
					v.Elem().Field(i).Set(reflect.New(inner))
				}
			}
			continue
		}
		if !f.IsExported() || leftOut(f) {
			continue
		}
		if _, err := check(f.Type); err != nil {
			continue
		}
		if err := p.fill(v.Elem().Field(i), f.Name); err != nil {
			return err
		}
		others = append(others, i)
	}
	if from == nil || roundTrip(v, back) != nil {
		return nil // its own marshaler, which need not take what was made up here
	}
	for _, i := range others {
		path := t.String() + "." + t.Field(i).Name
		if path = difference(v.Elem().Field(i), back.Elem().Field(i), path); path != "" {
			return fmt.Errorf("%s is lost, because %v has the marshaler of the embedded %v; give that field a name", path, t, from)
		}
	}
	return nil
}

// difference returns the path to the first place where two values differ, or "".
func difference(a, b reflect.Value, path string) string {
	t := a.Type()
	switch t {
	case typeTime:
		return unless(a.Interface().(time.Time).Equal(b.Interface().(time.Time)), path)
	case typeBigInt:
		return unless(a.Addr().Interface().(*big.Int).Cmp(b.Addr().Interface().(*big.Int)) == 0, path)
	}
	if marshals(t) {
		return "" // probeZero has seen to it
	}
	switch t.Kind() {
	case reflect.Pointer:
		if a.IsNil() || b.IsNil() {
			return unless(a.IsNil() && b.IsNil(), path)
		}
		return difference(a.Elem(), b.Elem(), path)
	case reflect.Slice:
		if a.IsNil() != b.IsNil() {
			return path
		}
		fallthrough
	case reflect.Array:
		if a.Len() != b.Len() {
			return path
		}
		for i := range a.Len() {
			if d := difference(a.Index(i), b.Index(i), path+"[]"); d != "" {
				return d
			}
		}
		return ""
	case reflect.Map:
		if a.IsNil() != b.IsNil() || a.Len() != b.Len() {
			return path
		}
		for i := a.MapRange(); i.Next(); {
			other := b.MapIndex(i.Key())
			if !other.IsValid() {
				return path + "[key]"
			}
			if d := difference(addressable(i.Value()), addressable(other), path+"[]"); d != "" {
				return d
			}
		}
		return ""
	case reflect.Struct:
		for i := range t.NumField() {
			if f := t.Field(i); !leftOut(f) {
				if d := difference(a.Field(i), b.Field(i), path+"."+f.Name); d != "" {
					return d
				}
			}
		}
		return ""
	}
	return unless(a.Equal(b), path)
}

// addressable returns a copy of a map's element that has an address.
func addressable(v reflect.Value) reflect.Value {
	c := reflect.New(v.Type()).Elem()
	c.Set(v)
	return c
}

func unless(ok bool, path string) string {
	if ok {
		return ""
	}
	return path
}
