package items

import (
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestParseValueRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		bytes  string
		offset int
		reason string
	}{
		"nothing":              {"", 0, "empty"},
		"no code":              {"\x00", 0, "no type code 0"},
		"unknown code":         {"\x16", 0, "no type code 22"},
		"internal code":        {"\xfe\x01", 0, "no type code 254"},
		"string without end":   {"\x01\x03hi", 1, "length is 3, and 2 bytes follow"},
		"string and more":      {"\x01\x01hi", 1, "length is 1, and 2 bytes follow"},
		"string, no length":    {"\x01", 1, "no length"},
		"string, open length":  {"\x01\x80", 1, "no length"},
		"string, long length":  {"\x01\x82\x00hi", 1, "no length"},
		"string, huge length":  {"\x01\xff\xff\xff\xff\x7f", 1, "no length"},
		"string, 2 GiB":        {"\x01\xff\xff\xff\xff\x07", 1, "length is 2147483647"},
		"Int32 cut off":        {"\x02\x01\x00\x00", 1, "Int32 takes 4 bytes, not 3"},
		"Int64 and more":       {"\x0c123456789", 1, "Int64 takes 8 bytes, not 9"},
		"Boolean of 2":         {"\x03\x02", 1, "Boolean"},
		"DateTime of 10000":    {"\x04\x00\x40\x37\xf4\x75\x28\xca\x2b", 1, "past the last DateTime"},
		"Decimal, scale 29":    {"\x05123412341234\x00\x00\x1d\x00", 13, "Decimal's flags"},
		"Decimal, other flags": {"\x05123412341234\x01\x00\x00\x00", 13, "Decimal's flags"},
		"Char cut off":         {"\x07\xe2\x82", 1, "one Char"},
		"Char of nothing":      {"\x07", 1, "one Char"},
		"two Chars":            {"\x07ab", 1, "one Char"},
		"Char of a surrogate":  {"\x07\xed\xa0\x80", 1, "one Char"},
		"Char past the BMP":    {"\x07\xf0\x9f\x98\x80", 1, "one Char"},
		"IntPtr of 5 bytes":    {"\x1212345", 1, "4 or 8 bytes, not 5"},
		"Null and more":        {"\x15\x15", 1, "Null takes 0 bytes, not 1"},
		"object of nothing":    {"\x14", 1, "BinaryFormatter"},
		"object without end":   {"\x14" + streamHead + "\x06\x01\x00\x00\x00\x00", 1, "BinaryFormatter"},
		"object of text":       {"\x14" + strings.Repeat("a", 30), 1, "BinaryFormatter"},
	} {
		v, err := ParseValue(c.bytes)
		var f *FormatError
		if !errors.As(err, &f) || !strings.Contains(f.Reason, c.reason) || f.Offset != c.offset {
			t.Errorf("%s: the error is %v, want %q at offset %d", name, err, c.reason, c.offset)
		}
		if !v.IsZero() || v.Size() != 0 || len(v.Append(nil)) != 0 {
			t.Errorf("%s: the value is %v", name, v.Any())
		}
		if !strings.Contains(err.Error(), "items: ") || !strings.Contains(err.Error(), "at offset") {
			t.Errorf("%s: the error is %v", name, err)
		}
	}
}

// TestByteArrayThatLies: a record whose length is wrong is some object of .NET.
func TestByteArrayThatLies(t *testing.T) {
	good := string(appendRecord([]byte{byte(CodeObject)}, "abc"))
	v, err := ParseValue(good)
	if err != nil || string(v.Any().([]byte)) != "abc" {
		t.Fatalf("a byte array is %v, %v", v.Any(), err)
	}
	for at, b := range map[int]byte{1 + len(recordHead): 4, len(recordHead): 1, 1 + len(recordHead) + 4: 8} {
		lie := []byte(good)
		lie[at] = b
		v, err := ParseValue(string(lie))
		if err != nil {
			t.Errorf("changed at %d: %v", at, err)
		}
		if got, ok := v.Any().(Object); !ok || string(got) != string(lie) {
			t.Errorf("changed at %d it is %v", at, v.Any())
		}
	}
}

func TestValueAny(t *testing.T) {
	type point struct{ X, Y int }
	utc := time.Date(2026, 11, 21, 1, 2, 3, 456789100, time.UTC)
	for _, c := range []struct {
		v    Value
		want any
	}{
		{Value{}, nil},
		{value[*int](t, nil), nil},
		{value(t, "é"), "é"},
		{value(t, true), true},
		{value(t, 5), int32(5)},
		{value(t, 1<<40), int64(1 << 40)},
		{value(t, int8(-5)), int8(-5)},
		{value(t, int16(-5)), int16(-5)},
		{value(t, int64(-5)), int64(-5)},
		{value(t, uint8(5)), uint8(5)},
		{value(t, uint16(5)), uint16(5)},
		{value(t, uint(5)), uint32(5)},
		{value(t, uint64(5)), uint64(5)},
		{value(t, float32(1.5)), float32(1.5)},
		{value(t, 1.5), 1.5},
		{value(t, utc), utc},
		{value(t, -90*time.Second), -90 * time.Second},
		{value(t, NewDecimal(-125, 1)), NewDecimal(-125, 1)},
		{value(t, GUID{1, 2, 15: 3}), GUID{1, 2, 15: 3}},
		{value(t, []byte("abc")), []byte("abc")},
		{value(t, []byte(cborMagic+"x")), []byte(cborMagic + "x")},
		{value(t, point{1, -2}), map[string]any{"X": int64(1), "Y": int64(-2)}},
		{value(t, map[int]string{7: "x"}), map[any]any{int64(7): "x"}},
		{value(t, []time.Time{utc}), []any{utc}},
		{Value{code: CodeChar, num: 'é'}, 'é'},
		{parseValue(t, "\x12\xfb\xff\xff\xff"), int64(-5)},
		{parseValue(t, "\x12\xfb\xff\xff\xff\xff\xff\xff\xff"), int64(-5)},
		{parseValue(t, "\x13\x05\x00\x00\x00"), uint64(5)},
		{parseValue(t, "\x13\x05\x00\x00\x00\x00\x00\x00\x80"), uint64(1<<63 + 5)},
		{Value{code: CodeTimeSpan, num: math.MaxInt64}, Object("\x10\xff\xff\xff\xff\xff\xff\xff\x7f")},
		{Value{code: CodeObject, num: byteArray, ref: cborMagic + "\xff"}, Object(appendRecord([]byte{20}, cborMagic+"\xff"))},
	} {
		if got := c.v.Any(); !reflect.DeepEqual(got, c.want) {
			t.Errorf("the %v is %#v, want %#v", c.v.Code(), got, c.want)
		}
	}
}

func parseValue(t testing.TB, b string) Value {
	t.Helper()
	v, err := ParseValue(b)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestCodeString(t *testing.T) {
	for c, want := range map[Code]string{0: "nothing", CodeString: "String", CodeNull: "Null", 22: "Code(22)"} {
		if got := c.String(); got != want {
			t.Errorf("Code %d is %q, want %q", uint8(c), got, want)
		}
	}
}

func TestUvarint(t *testing.T) {
	for _, n := range []int{0, 1, 127, 128, 200, 16383, 16384, 20000, 1 << 21, math.MaxInt32} {
		b := string(appendUvarint(nil, n))
		got, width := uvarint(b + "x")
		if got != n || width != len(b) || uvarintSize(n) != len(b) {
			t.Errorf("%d is written as % x and read as %d of %d bytes", n, b, got, width)
		}
	}
	if b := appendUvarint(nil, 200); string(b) != "\xc8\x01" {
		t.Errorf("200 is % x", b)
	}
}

func TestDecimal(t *testing.T) {
	for s, hex := range map[string]string{
		"12.34":                          "\xd2\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00",
		"-1":                             "\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x80",
		"-79228162514264337593543950335": "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x80",
		"0.0000000000000000000000000001": "\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x1c\x00",
		"7.9228162514264337593543950335": "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00\x1c\x00",
		"0":                              "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
		"0.00":                           "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00",
		"-0.050":                         "\x32\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x03\x80",
	} {
		d, err := ParseDecimal(s)
		if err != nil || d.String() != s || d.bits() != hex || decimalOfBits(hex) != d {
			t.Errorf("%s is read as %v, % x, %v", s, d, d.bits(), err)
		}
	}
	if d, err := ParseDecimal("+007.50"); err != nil || d.String() != "7.50" || d != NewDecimal(750, 2) {
		t.Errorf("+007.50 is %v, %v", d, err)
	}
	if s := NewDecimal(math.MinInt64, 0).String(); s != "-9223372036854775808" {
		t.Errorf("the smallest int64 is %s", s)
	}
	for _, s := range []string{
		"", "-", "+", ".", "1.", ".5", "1e3", "1,5", " 1", "1.2.3", "--1", "0x1", "é",
		"79228162514264337593543950336", "99999999999999999999999999999999999", "0.00000000000000000000000000001",
	} {
		if d, err := ParseDecimal(s); err == nil {
			t.Errorf("%q is read as %v", s, d)
		}
	}
	for _, scale := range []int{-1, 29} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("NewDecimal takes the scale %d", scale)
				}
			}()
			NewDecimal(1, scale)
		}()
	}
}

func TestGUID(t *testing.T) {
	const text = "00112233-4455-6677-8899-aabbccddeeff"
	g, err := ParseGUID(strings.ToUpper(text))
	if err != nil || g.String() != text {
		t.Errorf("%s is read as %v, %v", text, g, err)
	}
	if got, want := string(value(t, g).Append(nil)), string(vector(t, "guid")); got != want {
		t.Errorf("written as % x, want % x", got, want)
	}
	for _, s := range []string{"", text[1:], text + "0", strings.ReplaceAll(text, "-", "0"), "g" + text[1:], "{" + text[2:] + "}"} {
		if g, err := ParseGUID(s); err == nil {
			t.Errorf("%q is read as %v", s, g)
		}
	}
}
