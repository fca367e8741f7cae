package items

import (
	"bytes"
	"errors"
	"math"
	"math/big"
	"net/netip"
	"net/url"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

type (
	myBool     bool
	myInt      int
	myInt8     int8
	myUint     uint
	myFloat    float64
	myString   string
	myBytes    []byte
	octet      uint8
	line       struct{ Article, Count int }
	basket     struct{ Lines []line }
	point      struct{ X, Y float64 }
	list       struct{ Next *list }
	tree       map[string]tree
	nested     []nested
	withHidden struct {
		Seen   string
		hidden []int  `cbor:"-"`
		Left   func() `cbor:"-"`
	}
)

// through encodes v, takes the value through its bytes, and decodes it.
func through[T any](t testing.TB, v T) (T, Value) {
	t.Helper()
	c := codec[T](t)
	val, err := c.Encode(v)
	if err != nil {
		t.Fatalf("Encode(%v): %v", v, err)
	}
	read := parseValue(t, string(val.Append(nil)))
	if read != val {
		t.Errorf("%v: the value read from its bytes is another: %v, not %v", v, read.Any(), val.Any())
	}
	got, err := c.Decode(read)
	if err != nil {
		t.Fatalf("Decode of %v: %v", v, err)
	}
	return got, val
}

func same[T any](t *testing.T, code Code, all ...T) {
	t.Helper()
	for _, v := range all {
		got, val := through(t, v)
		if val.Code() != code {
			t.Errorf("%T(%v) is stored as %v, want %v", v, v, val.Code(), code)
		}
		if !reflect.DeepEqual(got, v) {
			t.Errorf("%T(%v) comes back as %v", v, v, got)
		}
	}
}

func TestTypeTable(t *testing.T) {
	same(t, CodeBool, true, false)
	same(t, CodeBool, myBool(true))
	same(t, CodeInt32, 0, -1, math.MaxInt32, math.MinInt32)
	same(t, CodeInt32, myInt(7))
	same(t, CodeInt64, math.MaxInt32+1, math.MinInt32-1, math.MaxInt64, math.MinInt64)
	same(t, CodeSByte, int8(math.MinInt8), math.MaxInt8)
	same(t, CodeSByte, myInt8(-2))
	same(t, CodeInt16, int16(math.MinInt16), math.MaxInt16)
	same(t, CodeInt32, int32(math.MinInt32), 'x')
	same(t, CodeInt64, int64(0), math.MinInt64)
	same(t, CodeUInt32, uint(0), math.MaxUint32)
	same(t, CodeUInt32, myUint(7))
	same(t, CodeUInt64, uint(math.MaxUint32+1), math.MaxUint64)
	same(t, CodeByte, uint8(255))
	same(t, CodeUInt16, uint16(math.MaxUint16))
	same(t, CodeUInt32, uint32(math.MaxUint32))
	same(t, CodeUInt64, uint64(0), math.MaxUint64)
	same(t, CodeSingle, float32(1.5), math.MaxFloat32, float32(math.Inf(-1)))
	same(t, CodeDouble, 0, math.Pi, math.Inf(1), math.Copysign(0, -1))
	same(t, CodeDouble, myFloat(2.5))
	same(t, CodeString, "", "é\xff\x00", strings.Repeat("x", 20000))
	same(t, CodeString, myString("hi"))
	same(t, CodeTimeSpan, 0, time.Hour, -time.Microsecond, math.MaxInt64/100*100)
	same(t, CodeDecimal, Decimal{}, NewDecimal(-1234, 2))
	same(t, CodeGUID, GUID{}, GUID{1, 2, 3})
	same(t, CodeObject, []byte{}, []byte("abc"), []byte(cborMagic), []byte(cborMagic+"\xf6"))
	same(t, CodeNull, []byte(nil))
	same(t, CodeObject, myBytes("abc"))
	same(t, CodeObject, []octet{1, 2})
	same(t, CodeObject, struct{}{})
	same(t, CodeObject, point{1.5, -2})
	same(t, CodeObject, [2]int{1, 2})
	same(t, CodeObject, [3]byte{1, 2, 3})
	same(t, CodeObject, []string{"a", ""}, []string{})
	same(t, CodeNull, []string(nil))
	same(t, CodeObject, map[string]int{"a": 1}, map[string]int{})
	same(t, CodeNull, map[string]int(nil))
	same(t, CodeNull, (*int)(nil))
	same(t, CodeNull, (*basket)(nil))
	same(t, CodeInt32, new(int))
	same(t, CodeString, new(string))
	same(t, CodeDateTime, new(time.Time))
	same(t, CodeObject, &basket{[]line{{1, 2}, {3, 4}}}, &basket{}, &basket{Lines: []line{}})

	if got, val := through(t, math.NaN()); val.Code() != CodeDouble || !math.IsNaN(got) {
		t.Errorf("NaN comes back as %v", got)
	}
	nan, another := value(t, math.NaN()), value(t, math.NaN())
	if nan != another || value(t, math.Copysign(0, -1)) == value(t, 0.0) {
		t.Error("floats are not compared bit by bit")
	}
}

func TestBytesAsDotNetWritesThem(t *testing.T) {
	want := append([]byte{byte(CodeObject)}, vector(t, "BF_byte_array")...)
	if got := value(t, []byte{1, 2, 3}).Append(nil); !bytes.Equal(got, want) {
		t.Errorf("a []byte is written as\n% x, want\n% x", got, want)
	}
	content := cborMagic + "\xa2\x61X\x01\x61Y\x02"
	want = appendRecord([]byte{byte(CodeObject)}, content)
	if got := value(t, struct{ Y, X int }{2, 1}).Append(nil); !bytes.Equal(got, want) {
		t.Errorf("a struct is written as\n% x, want\n% x", got, want)
	}
}

func TestTimeIsNormalised(t *testing.T) {
	zone := time.FixedZone("somewhere", 3600)
	for _, c := range []struct{ in, out time.Time }{
		{time.Time{}, time.Time{}},
		{time.Date(2026, 11, 21, 1, 2, 3, 123456789, zone), time.Date(2026, 11, 21, 0, 2, 3, 123456700, time.UTC)},
		{time.Date(1, 1, 1, 0, 0, 0, 199, time.UTC), time.Date(1, 1, 1, 0, 0, 0, 100, time.UTC)},
		{time.Date(1969, 12, 31, 23, 59, 59, 999999999, time.UTC), time.Date(1969, 12, 31, 23, 59, 59, 999999900, time.UTC)},
		{time.Date(9999, 12, 31, 23, 59, 59, 999999999, time.UTC), time.Date(9999, 12, 31, 23, 59, 59, 999999900, time.UTC)},
	} {
		if got, _ := through(t, c.in); got != c.out {
			t.Errorf("%v comes back as %v, want %v", c.in, got, c.out)
		}
	}
	now := time.Now()
	if got, _ := through(t, now); got != now.UTC().Truncate(100) {
		t.Errorf("%v comes back as %v", now, got)
	}
	if v := value(t, time.Date(9999, 12, 31, 23, 59, 59, 999999999, time.UTC)); v.num != maxTicks {
		t.Errorf("the last DateTime is %d ticks, want %d", v.num, maxTicks)
	}
	c := codec[time.Time](t)
	for _, in := range []time.Time{
		time.Date(0, 12, 31, 23, 59, 59, 0, time.UTC), time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC),
		time.Date(1, 1, 1, 0, 0, 0, 0, zone), time.Unix(math.MaxInt64, 0), time.Unix(math.MinInt64, 0),
	} {
		if v, err := c.Encode(in); err == nil {
			t.Errorf("%v is stored as %v", in, v.Any())
		}
	}
	if got, _ := through(t, time.Duration(-199)); got != -100 {
		t.Errorf("-199 ns come back as %v", got)
	}
}

func TestTimeInsideCBOR(t *testing.T) {
	type visit struct {
		At   time.Time
		Last *time.Time
	}
	at := time.Date(2026, 11, 21, 1, 2, 3, 123456789, time.FixedZone("", 3600))
	got, _ := through(t, visit{At: at})
	if want := at.UTC(); got.At != want || got.Last != nil {
		t.Errorf("%v comes back as %v, want %v", at, got, want)
	}
	if got, _ := through(t, visit{}); got != (visit{}) {
		t.Errorf("the zero time comes back as %v", got)
	}
	if got, _ := through(t, visit{Last: new(time.Time)}); got.Last != nil {
		t.Errorf("a pointer to the zero time comes back as %v: the package comment says nil", got.Last)
	}
	if _, err := codec[visit](t).Encode(visit{At: time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)}); err == nil {
		t.Error("the year 10000 is stored")
	}
}

func reads[T any](t *testing.T, v Value, want T) {
	t.Helper()
	got, err := codec[T](t).Decode(v)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("the %v %v is read as %#v, %v, want %#v", v.Code(), v.Any(), got, err, want)
	}
}

func readsNot[T any](t *testing.T, v Value, want ...string) {
	t.Helper()
	got, err := codec[T](t).Decode(v)
	if err == nil {
		t.Errorf("the %v %v is read as %T %v", v.Code(), v.Any(), got, got)
		return
	}
	for _, w := range want {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("the error is %q, want %q in it", err, w)
		}
	}
	if !reflect.DeepEqual(got, *new(T)) {
		t.Errorf("with the error %v comes %v", err, got)
	}
}

func TestReadIntoAnotherType(t *testing.T) {
	reads(t, value(t, int8(-5)), int64(-5))
	reads(t, value(t, int64(-5)), int8(-5))
	reads(t, value(t, uint64(200)), uint8(200))
	reads(t, value(t, uint8(200)), 200)
	reads(t, value(t, 200), uint16(200))
	reads(t, value(t, 1<<40), uint(1<<40))
	reads(t, parseValue(t, "\x12\xfb\xff\xff\xff"), int16(-5))
	reads(t, parseValue(t, "\x13\x05\x00\x00\x00\x00\x00\x00\x00"), 5)
	reads(t, value(t, 7), myInt8(7))
	reads(t, value(t, 7), new(7))
	reads(t, value(t, myInt(7)), int16(7))
	reads(t, value(t, float32(1.5)), 1.5)
	reads(t, value(t, 1.5), float32(1.5))
	reads(t, parseValue(t, string(vector(t, "char_euro"))), '€')
	reads(t, parseValue(t, string(vector(t, "char_euro"))), "€")
	reads(t, value(t, "hi"), myString("hi"))
	reads(t, value(t, []byte("hi")), myBytes("hi"))
	reads(t, value(t, basket{[]line{{1, 2}}}), &basket{[]line{{1, 2}}})
	reads(t, value(t, basket{[]line{{1, 2}}}), map[string][]line{"Lines": {{1, 2}}})

	for _, none := range []Value{{}, {code: CodeNull}} {
		reads(t, none, 0)
		reads(t, none, "")
		reads(t, none, time.Time{})
		reads(t, none, []byte(nil))
		reads(t, none, (*int)(nil))
		reads(t, none, basket{})
		reads(t, none, map[string]int(nil))
	}

	readsNot[int8](t, value(t, 128), "Int32", "int8", "no room for 128")
	readsNot[int8](t, value(t, -129), "-129")
	readsNot[int16](t, value(t, 1<<15))
	readsNot[int32](t, value(t, 1<<31), "Int64", "int32", "2147483648")
	readsNot[int](t, value(t, uint64(math.MaxUint64)), "18446744073709551615")
	readsNot[uint8](t, value(t, 256))
	readsNot[uint16](t, value(t, 1<<16))
	readsNot[uint32](t, value(t, 1<<32))
	readsNot[uint64](t, value(t, -1), "-1")
	readsNot[float32](t, value(t, math.Pi), "3.14159")
	readsNot[*int8](t, value(t, 128), "*int8")
	readsNot[string](t, value(t, 1), "the stored Int32 cannot be read as string")
	readsNot[int](t, value(t, "1"), "the stored String cannot be read as int")
	readsNot[int](t, value(t, true))
	readsNot[bool](t, value(t, 1))
	readsNot[float64](t, value(t, 1))
	readsNot[int](t, value(t, 1.0))
	readsNot[int64](t, parseValue(t, string(vector(t, "char_A"))), "Char")
	readsNot[int](t, value(t, time.Second), "TimeSpan")
	readsNot[time.Time](t, value(t, 1))
	readsNot[time.Duration](t, value(t, 1))
	readsNot[time.Duration](t, Value{code: CodeTimeSpan, num: math.MaxInt64}, "292 years")
	readsNot[Decimal](t, value(t, 1))
	readsNot[GUID](t, value(t, Decimal{}))
	readsNot[basket](t, value(t, 1), "Int32", "items.basket")
	readsNot[basket](t, value(t, []byte("abc")), "the stored []byte cannot be read as items.basket")
	readsNot[basket](t, value(t, []int{1}), "CBOR", "items.basket")
	readsNot[[]byte](t, value(t, basket{}), "the stored CBOR cannot be read as []uint8")
	readsNot[[]byte](t, value(t, "abc"))
	readsNot[basket](t, parseValue(t, "\x14"+string(vector(t, "BF_List_int"))), "the stored .NET object cannot be read as items.basket")
	readsNot[[]byte](t, parseValue(t, "\x14"+string(vector(t, "BF_List_int"))), ".NET object")
	readsNot[basket](t, Value{code: CodeObject, num: byteArray, ref: cborMagic}, "items.basket")
	readsNot[basket](t, Value{code: CodeObject, num: byteArray, ref: cborMagic + "\xf6\xf6"}, "items.basket")
}

func TestMutable(t *testing.T) {
	type flat struct {
		A [2]point
		T time.Time
		G GUID
		D Decimal
		S string
	}
	for name, c := range map[string]struct{ got, want bool }{
		"int":          {codec[int](t).Mutable(), false},
		"string":       {codec[string](t).Mutable(), false},
		"time":         {codec[time.Time](t).Mutable(), false},
		"array":        {codec[[2]int](t).Mutable(), false},
		"struct":       {codec[flat](t).Mutable(), false},
		"left out":     {codec[withHidden](t).Mutable(), false},
		"bytes":        {codec[[]byte](t).Mutable(), true},
		"pointer":      {codec[*int](t).Mutable(), true},
		"slice":        {codec[[]int](t).Mutable(), true},
		"map":          {codec[map[int]int](t).Mutable(), true},
		"slice inside": {codec[basket](t).Mutable(), true},
		"array inside": {codec[[1]map[int]int](t).Mutable(), true},
		"url.URL":      {codec[url.URL](t).Mutable(), true}, // holds a *Userinfo
		"big.Int":      {codec[big.Int](t).Mutable(), true},
	} {
		if c.got != c.want {
			t.Errorf("%s: Mutable is %v", name, c.got)
		}
	}
}

func TestDecodedSharesNothing(t *testing.T) {
	type blob struct{ Data, More []byte }
	in := blob{[]byte("abc"), []byte{}}
	v := value(t, in)
	in.Data[0] = 'X'
	c := codec[blob](t)
	first, err := c.Decode(v)
	if err != nil || string(first.Data) != "abc" {
		t.Fatalf("after the original changed it is %q, %v", first.Data, err)
	}
	first.Data[0] = 'Y'
	if again, err := c.Decode(v); err != nil || string(again.Data) != "abc" {
		t.Errorf("after a decoded one changed it is %q, %v", again.Data, err)
	}

	b := []byte("abc")
	v = value(t, b)
	b[0] = 'X'
	got, err := codec[[]byte](t).Decode(v)
	if err != nil || string(got) != "abc" {
		t.Fatalf("after the original changed it is %q, %v", got, err)
	}
	got[0] = 'Y'
	if v != value(t, []byte("abc")) {
		t.Error("changing a decoded []byte changed the value")
	}
	v.Any().([]byte)[0] = 'Y'
	if v != value(t, []byte("abc")) {
		t.Error("changing what Any returned changed the value")
	}
}

func TestCBORIsDeterministic(t *testing.T) {
	m := map[string]map[int]string{"a": {1: "x", 2: "y", 300: "z"}, "b": {}, "c": nil, "aa": {-1: "w"}}
	c := codec[map[string]map[int]string](t)
	want := value(t, m)
	for range 50 {
		got, err := c.Decode(want)
		if err != nil || !cmp.Equal(got, m) {
			t.Fatal(err, cmp.Diff(m, got))
		}
		if v, err := c.Encode(got); err != nil || v != want {
			t.Fatalf("the same map is other bytes: %v", err)
		}
	}
}

func TestCBORKeepsWhatItCan(t *testing.T) {
	type inner struct{ N int }
	type all struct {
		NilSlice, Empty []int
		NilMap, NoKeys  map[string]int
		NilPtr, Ptr     *inner
		Bytes, NoBytes  []byte
		Text            string
		Big             *big.Int
		Dec             Decimal
		ID              GUID
		Addr            netip.Addr
		Wait            time.Duration
		Array           [2]uint8
		Neg             float64
		Min, Max        int64
		Umax            uint64
		Short           float32
		Keyed           map[point]string
	}
	in := all{
		Empty: []int{}, NoKeys: map[string]int{}, Ptr: &inner{}, NoBytes: []byte{}, Text: "\xff\xfe é",
		Big: new(big.Int).Lsh(big.NewInt(1), 200), Dec: NewDecimal(1234, 2), ID: GUID{1, 15: 2},
		Addr: netip.MustParseAddr("::1"), Wait: 1, Array: [2]uint8{1, 2}, Neg: math.Copysign(0, -1),
		Min: math.MinInt64, Max: math.MaxInt64, Umax: math.MaxUint64, Short: math.MaxFloat32,
		Keyed: map[point]string{{1, 2}: "x"},
	}
	got, _ := through(t, in)
	opt := cmp.Options{
		cmp.Comparer(func(a, b *big.Int) bool { return a.Cmp(b) == 0 }),
		cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
		cmp.Comparer(func(a, b Decimal) bool { return a == b }),
		cmp.Comparer(func(a, b float64) bool { return math.Float64bits(a) == math.Float64bits(b) }),
	}
	if d := cmp.Diff(in, got, opt); d != "" {
		t.Error(d)
	}
}

func TestLeftOut(t *testing.T) {
	got, _ := through(t, withHidden{Seen: "a", hidden: []int{1}, Left: func() {}})
	if got.Seen != "a" || got.hidden != nil || got.Left != nil {
		t.Errorf("it comes back as %+v", got)
	}
}

func TestFieldsOfOtherVersions(t *testing.T) {
	type v1 struct{ Name, Gone string }
	type v2 struct{ Name, New string }
	reads(t, value(t, v1{"a", "b"}), v2{"a", ""})
	type other struct{ NAME string }
	reads(t, value(t, v1{"a", "b"}), other{}) // case counts
}

func TestCyclicValues(t *testing.T) {
	ring := &list{}
	ring.Next = ring
	encodesNot(t, ring)
	encodesNot(t, *ring)
	m := tree{}
	m["again"] = m
	encodesNot(t, m)
	s := make(nested, 1)
	s[0] = s
	encodesNot(t, s)

	// What is stored can be read: all depths up to the limit, none past it.
	deep := func(n int) *list {
		var l *list
		for range n {
			l = &list{l}
		}
		return l
	}
	for _, n := range []int{1, maxDepth/2 - 1, maxDepth / 2} {
		got, _ := through(t, deep(n))
		for range n {
			got = got.Next
		}
		if got != nil {
			t.Errorf("a list of %d comes back longer", n)
		}
	}
	encodesNot(t, deep(maxDepth))
	flat := nested{}
	for range maxDepth - 1 {
		flat = nested{flat}
	}
	through(t, flat)
	encodesNot(t, nested{flat})
	through(t, tree{"a": {"b": {}}, "c": nil})
}

func encodesNot[T any](t *testing.T, v T) {
	t.Helper()
	if val, err := codec[T](t).Encode(v); err == nil {
		t.Errorf("%T is stored in %d bytes", v, val.Size())
	} else if !strings.Contains(err.Error(), "contains itself") {
		t.Error(err)
	}
}

func TestHostileCBOR(t *testing.T) {
	c := codec[map[string][]list](t)
	for name, content := range map[string]string{
		"nothing":          "",
		"cut off":          "\xa1\x61a",
		"lying array":      "\xa1\x61a\x9b\x00\x00\x00\x7f\xff\xff\xff\xff",
		"lying map":        "\xbb\x7f\xff\xff\xff\xff\xff\xff\xff",
		"lying string":     "\xa1\x7b\x7f\xff\xff\xff\xff\xff\xff\xffa",
		"too deep":         strings.Repeat("\x81", 2000) + "\x00",
		"endless tags":     strings.Repeat("\xd9\xd9\xf7", 2000) + "\x00",
		"unlimited length": "\xbf\xff",
		"more":             "\xa0\xa0",
	} {
		v := Value{code: CodeObject, num: byteArray, ref: cborMagic + content}
		if got, err := c.Decode(v); err == nil {
			t.Errorf("%s: read as %v", name, got)
		}
		v.Any()
	}
}

type failing struct{ No bool }

var errMarshal = errors.New("will not")

func (f failing) MarshalText() ([]byte, error) {
	if f.No {
		return nil, errMarshal
	}
	return []byte("yes"), nil
}
func (f *failing) UnmarshalText([]byte) error { return nil }

func TestMarshalerFails(t *testing.T) {
	_, err := codec[[]failing](t).Encode([]failing{{No: true}})
	if !errors.Is(err, errMarshal) || !strings.Contains(err.Error(), "[]items.failing cannot be stored") {
		t.Errorf("the error is %v", err)
	}
}

func TestCodecInParallel(t *testing.T) {
	c := codec[basket](t)
	var g sync.WaitGroup
	for i := range 8 {
		g.Go(func() {
			for range 50 {
				want := basket{[]line{{i, i}}}
				v, err := c.Encode(want)
				got, err2 := c.Decode(v)
				if err != nil || err2 != nil || !cmp.Equal(got, want) {
					t.Errorf("%v comes back as %v, %v, %v", want, got, err, err2)
				}
			}
		})
	}
	g.Wait()
}
