package items

import (
	"bytes"
	"math/big"
	"reflect"
	"slices"
	"testing"
	"time"
)

// FuzzParseItem: whatever the bytes are, nothing panics; what parses is written
// back as it was, and every value that can be read is the same after that.
func FuzzParseItem(f *testing.F) {
	for _, body := range storeBodies(f) {
		if len(body) < 2000 { // larger ones only make it slow
			f.Add(body)
		}
	}
	f.Add(body(-1, "a", "\x01\x05hi", "b", ""))
	f.Add(body(-1, "a", "\x01\x05hi", "A", "\x03\x01"))
	f.Add(body(1, "a", "\x15", "", "\x01\x01z", "", "\x03\x00"))
	f.Add([]byte("\x14\x00\x00\x00\x00\x01\x01\x00\x00\x00\x03obj\x00\x08My.Thing\x00\xff"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var it Item
		if err := it.Parse(bytes.Clone(data)); err != nil {
			if it.Len() != 0 {
				t.Fatal("damaged, and not empty")
			}
			return
		}
		out, err := it.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		if it.Size() != len(out) {
			t.Fatalf("Size is %d, and %d bytes are written", it.Size(), len(out))
		}
		// A flag for a collection of no items is the one thing that is not kept.
		if noItems := data[4] == 1 && it.Len() == 0; !noItems && !bytes.Equal(out, data) {
			t.Fatalf("written as\n%x\nnot\n%x", out, data)
		}
		set := it.Clone()
		for name := range it.Names() {
			v, ok, err := it.Get(name)
			if !ok || (err == nil) == v.IsZero() {
				t.Fatalf("Get(%q) is %v, %v, %v", name, v, ok, err)
			}
			if err == nil {
				v.Any()
				set.Set(name, v)
			}
		}
		if out, err = set.Append(nil); err != nil {
			t.Fatal(err)
		}
		var again Item
		if err := again.Parse(out); err != nil {
			t.Fatal(err)
		}
		if again.Len() != it.Len() || again.Timeout != it.Timeout || !slices.Equal(pairs(&it), pairs(&again)) {
			t.Fatal("another item after setting all values again")
		}
	})
}

type pair struct {
	name string
	val  Value
}

func pairs(it *Item) (all []pair) {
	for name, v := range it.All() {
		all = append(all, pair{name, v})
	}
	return all
}

// FuzzParseValue: what can be read is written as it was.
func FuzzParseValue(f *testing.F) {
	for _, b := range vectors(f, "null", "string_", "int_", "true", "DateTime", "decimal", "byte", "char", "single",
		"double", "sbyte", "short", "long", "ushort", "uint", "ulong", "timespan", "guid") {
		f.Add(string(b))
	}
	for _, g := range goldens(f, "AltSerialization value") {
		if len(g.bytes) < 2000 {
			f.Add(string(g.bytes))
		}
	}
	f.Add(string(value(f, basket{[]line{{1, 2}}}).Append(nil)))
	f.Fuzz(func(t *testing.T, data string) {
		v, err := ParseValue(data)
		if err != nil {
			if !v.IsZero() {
				t.Fatalf("with the error %v comes %v", err, v)
			}
			return
		}
		if got := string(v.Append(nil)); got != data || v.Size() != len(data) {
			t.Fatalf("%x is written as %x, and Size is %d", data, got, v.Size())
		}
		v.Any()
	})
}

// fuzzed has a field of each kind.
type fuzzed struct {
	B     bool
	I     int8
	U     uint64
	F     float32
	G     float64
	S     string
	P     *fuzzed
	L     []fuzzed
	A     [2]int16
	M     map[string]fuzzed
	K     map[int][]byte
	T     time.Time
	Big   *big.Int
	Bytes []byte
	Dec   Decimal
	ID    GUID
	Wait  time.Duration
}

// FuzzDecode: hostile CBOR does not panic, and what was decoded once is encoded
// and decoded to the same.
func FuzzDecode(f *testing.F) {
	c := codec[fuzzed](f)
	p := prober{own: map[reflect.Type]verdict{}, inside: map[reflect.Type]bool{}}
	var full fuzzed
	if err := p.fill(reflect.ValueOf(&full).Elem(), "full"); err != nil {
		f.Fatal(err)
	}
	for _, v := range []fuzzed{{}, full, {P: &fuzzed{}, L: []fuzzed{{}}}} {
		f.Add(value(f, v).ref[len(cborMagic):])
	}
	f.Add("\x9b\x00\x00\x00\x7f\xff\xff\xff\xff")
	f.Add("\xa1\x61L\x81\xa1\x61L\x80")
	f.Fuzz(func(t *testing.T, data string) {
		stored := Value{code: CodeObject, num: byteArray, ref: cborMagic + data}
		stored.Any()
		v, err := c.Decode(stored)
		if err != nil {
			return
		}
		one, err := c.Encode(v)
		if err != nil {
			return // a time of the year -1, say
		}
		again, err := c.Decode(one)
		if err != nil {
			t.Fatalf("%+v is encoded as %x, which cannot be read: %v", v, one.ref, err)
		}
		two, err := c.Encode(again)
		if err != nil || one != two {
			t.Fatalf("%x becomes %x, %v", one.ref, two.ref, err)
		}
	})
}
