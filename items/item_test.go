package items

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"
)

func value[T any](t testing.TB, v T) Value {
	t.Helper()
	val, err := codec[T](t).Encode(v)
	if err != nil {
		t.Fatal(err)
	}
	return val
}

func codec[T any](t testing.TB) *Codec[T] {
	t.Helper()
	c, err := NewCodec[T]()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// body builds a stored item by hand: nullKey is -1 for none.
func body(nullKey int, namesAndValues ...string) []byte {
	b := []byte{20, 0, 0, 0, 1, 0}
	b = binary.LittleEndian.AppendUint32(b, uint32(len(namesAndValues)/2))
	b = binary.LittleEndian.AppendUint32(b, uint32(nullKey))
	for i := 0; i < len(namesAndValues); i += 2 {
		if i/2 != nullKey {
			b = append(appendUvarint(b, len(namesAndValues[i])), namesAndValues[i]...)
		}
	}
	end := 0
	for i := 1; i < len(namesAndValues); i += 2 {
		end += len(namesAndValues[i])
		b = binary.LittleEndian.AppendUint32(b, uint32(end))
	}
	for i := 1; i < len(namesAndValues); i += 2 {
		b = append(b, namesAndValues[i]...)
	}
	return append(b, endMark)
}

func parsed(t testing.TB, body []byte) *Item {
	t.Helper()
	it := new(Item)
	if err := it.Parse(body); err != nil {
		t.Fatal(err)
	}
	return it
}

func names(it *Item) string { return strings.Join(slices.Collect(it.Names()), " ") }

func TestSizes(t *testing.T) {
	if n := unsafe.Sizeof(Value{}); n > 32 {
		t.Errorf("a Value takes %d bytes", n)
	}
	if n := unsafe.Sizeof(entry{}); n > 48 {
		t.Errorf("an entry takes %d bytes", n)
	}
}

func TestItemSetGetDelete(t *testing.T) {
	var it Item
	if it.Len() != 0 || it.Delete("a") {
		t.Error("the zero Item is not empty")
	}
	it.Set("User", value(t, "bob"))
	it.Set("count", value(t, 7))
	it.Set("ÉTÉ", value(t, true))
	it.Set("USER", value(t, "eve"))
	if got, want := names(&it), "User count ÉTÉ"; got != want {
		t.Errorf("names are %q, want %q: the first spelling and place", got, want)
	}
	for name, want := range map[string]any{"user": "eve", "COUNT": int32(7), "été": true} {
		v, ok, err := it.Get(name)
		if err != nil || !ok || v.Any() != want {
			t.Errorf("Get(%q) = %v, %v, %v, want %v", name, v.Any(), ok, err, want)
		}
	}
	if _, ok, err := it.Get("use"); ok || err != nil {
		t.Errorf("Get of a missing name is %v, %v", ok, err)
	}
	it.Set("count", Value{})
	if _, ok, _ := it.Get("count"); ok {
		t.Error("setting the zero Value did not delete")
	}
	if !it.Delete("uSER") || it.Delete("user") || it.Len() != 1 {
		t.Errorf("after Delete the names are %q", names(&it))
	}
	it.Clear()
	if it.Len() != 0 {
		t.Errorf("after Clear the names are %q", names(&it))
	}
	if got, _ := it.Append(nil); !bytes.Equal(got, []byte{0, 0, 0, 0, 0, 0, endMark}) {
		t.Errorf("the empty item is % x", got)
	}
}

func TestSameName(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"", "", true}, {"", "a", false}, {"a", "A", true}, {"Z", "z", true}, {"[", "{", false}, {"@", "`", false},
		{"user", "uSeR", true}, {"user", "users", false}, {"é", "É", true}, {"k", "\u212a", true}, {"\u017fo", "So", true},
		{"\xff", "\xff", true}, {"1", "!", false},
	} {
		if sameName(c.a, c.b) != c.want || sameName(c.b, c.a) != c.want {
			t.Errorf("%q and %q: want %v", c.a, c.b, c.want)
		}
		if strings.EqualFold(c.a, c.b) != c.want {
			t.Errorf("EqualFold of %q and %q is another", c.a, c.b)
		}
	}
}

func TestItemBuiltAsDotNetDoes(t *testing.T) {
	it := Item{Timeout: 20 * time.Minute}
	it.Set("user", value(t, "bob"))
	it.Set("count", value(t, 7))
	checkWritten(t, "two items", &it, vector(t, "item_two"))
}

func TestItemChangesOneOfForeignValues(t *testing.T) {
	it := parsed(t, storeBodies(t)["store_objects"])
	it.Set("N", value(t, 6))
	got, err := it.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	want := bytes.Clone(storeBodies(t)["store_objects"])
	want[len(want)-5] = 6 // the last item's Int32
	if !bytes.Equal(got, want) {
		t.Error("setting one item changed others")
	}
}

func TestItemTimeout(t *testing.T) {
	for timeout, want := range map[time.Duration]uint32{
		0: 0, time.Second: 1, time.Minute: 1, time.Minute + time.Second: 2, 20 * time.Minute: 20,
		math.MaxInt64: 153722868,
	} {
		it := Item{Timeout: timeout}
		b, err := it.Append(nil)
		if err != nil || binary.LittleEndian.Uint32(b) != want {
			t.Errorf("%v is stored as % x, %v, want %d minutes", timeout, b, err, want)
		}
	}
	it := Item{Timeout: -time.Second}
	if b, err := it.Append([]byte("x")); err == nil || string(b) != "x" {
		t.Errorf("a negative timeout is stored as % x, %v", b, err)
	}
}

func TestItemAppendKeepsWhatIsThere(t *testing.T) {
	it := parsed(t, vector(t, "item_two"))
	got, err := it.Append([]byte("head"))
	if err != nil || string(got) != "head"+string(vector(t, "item_two")) {
		t.Errorf("Append to a prefix gives %q, %v", got, err)
	}
}

func TestItemUnreadableValueIsKept(t *testing.T) {
	b := body(-1, "a", "\x02\x01\x00\x00\x00", "bad", "\x01\x05hi", "none", "", "c", "\x03\x01")
	it := parsed(t, b)
	_, ok, err := it.Get("BAD")
	var f *FormatError
	if !ok || !errors.As(err, &f) || f.Item != "bad" || f.Offset != 1 {
		t.Errorf("Get of an unreadable value is %v, %v", ok, err)
	}
	if want := `items: item "bad" cannot be read: the string's length is 5, and 2 bytes follow at offset 1 of its value`; err.Error() != want {
		t.Errorf("the error is\n%s, want\n%s", err, want)
	}
	if _, ok, err := it.Get("none"); !ok || err == nil {
		t.Errorf("Get of no bytes at all is %v, %v", ok, err)
	}
	if v, _, err := it.Get("c"); err != nil || v.Any() != true {
		t.Errorf("the item behind it is %v, %v", v.Any(), err)
	}
	for name, v := range it.All() {
		if unreadable := name == "bad" || name == "none"; v.IsZero() != unreadable {
			t.Errorf("All gives %s as %v", name, v.Any())
		}
	}
	checkWritten(t, "unreadable values", it, b)

	it.Set("a", value(t, 1)) // as it was
	checkWritten(t, "unreadable values beside a new one", it, b)
	it.Set("bad", value(t, "hi"))
	if v, _, err := it.Get("bad"); err != nil || v.Any() != "hi" {
		t.Errorf("set again it is %v, %v", v.Any(), err)
	}
}

func TestItemNullKey(t *testing.T) {
	b := body(1, "a", "\x15", "", "\x01\x01z", "", "\x03\x00")
	it := parsed(t, b)
	if it.Len() != 3 || names(it) != "a " {
		t.Errorf("%d items, names %q", it.Len(), names(it))
	}
	if v, ok, err := it.Get(""); !ok || err != nil || v.Any() != false {
		t.Errorf("the empty name is %v, %v, %v: not that of the null key", v.Any(), ok, err)
	}
	checkWritten(t, "a null key", it, b)
	it.Delete("a")
	checkWritten(t, "a null key that moved", it, body(0, "", "\x01\x01z", "", "\x03\x00"))
	it.Delete("")
	checkWritten(t, "a null key alone", it, body(0, "", "\x01\x01z"))
	it.Clear()
	if it.Len() != 0 {
		t.Error("Clear leaves the null key")
	}
}

func TestItemDuplicates(t *testing.T) {
	b := body(-1, "a", "\x06\x01", "A", "\x06\x02", "b", "\x06\x03", "a", "\x06\x04")
	it := parsed(t, b)
	if v, _, _ := it.Get("A"); v.Any() != uint8(1) {
		t.Errorf("Get gives %v, not the first", v.Any())
	}
	checkWritten(t, "duplicates", it, b)
	it.Set("a", value(t, uint8(9)))
	checkWritten(t, "duplicates, the first set", it, body(-1, "a", "\x06\x09", "A", "\x06\x02", "b", "\x06\x03", "a", "\x06\x04"))
	it.Delete("a")
	checkWritten(t, "duplicates, deleted", it, body(-1, "b", "\x06\x03"))
}

func TestItemStaticObjects(t *testing.T) {
	static := "\x01\x00\x00\x00\x03obj\x00\x08My.Thing\x00"
	empty := append([]byte{20, 0, 0, 0, 0, 1}, static+"\xff"...)
	one := bytes.TrimSuffix(vector(t, "item_one_int"), []byte{endMark})
	one[5] = 1
	one = append(one, static+"\xff"...)
	for _, b := range [][]byte{empty, one} {
		it := parsed(t, b)
		checkWritten(t, "static objects", it, b)
		checkWritten(t, "static objects, cloned", it.Clone(), b)
	}
	it := parsed(t, one)
	it.Clear()
	checkWritten(t, "static objects after Clear", it, empty)
}

func TestItemCloneIsIndependent(t *testing.T) {
	b := vector(t, "item_two")
	it := parsed(t, b)
	c := it.Clone()
	c.Set("user", value(t, "eve"))
	c.Set("new", value(t, 1))
	c.Timeout = 0
	checkWritten(t, "the original", it, b)
	it.Clear()
	if names(c) != "user count new" {
		t.Errorf("the clone has %q", names(c))
	}
}

func TestItemParseReuses(t *testing.T) {
	two, one := vector(t, "item_two"), vector(t, "item_one_int")
	it := parsed(t, two)
	if err := it.Parse(one); err != nil {
		t.Fatal(err)
	}
	checkWritten(t, "parsed twice", it, one)
	if err := it.Parse(two[:20]); err == nil || it.Len() != 0 || it.Timeout != 0 {
		t.Errorf("after an error %v the item has %q", err, names(it))
	}
	if raceEnabled {
		return
	}
	it = parsed(t, two)
	if n := testing.AllocsPerRun(100, func() {
		if err := it.Parse(two); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("Parse allocates %v times", n)
	}
	buf := make([]byte, 0, 100)
	if n := testing.AllocsPerRun(100, func() {
		if _, err := it.Append(buf); err != nil {
			t.Fatal(err)
		}
		if v, _, err := it.Get("count"); err != nil || v.IsZero() {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("Append and Get allocate %v times", n)
	}
}

func TestItemDamaged(t *testing.T) {
	two := vector(t, "item_two")
	change := func(at int, b ...byte) []byte {
		c := bytes.Clone(two)
		copy(c[at:], b)
		return c
	}
	for name, c := range map[string]struct {
		body   []byte
		offset int
		reason string
	}{
		"empty":                {nil, 0, "cut off"},
		"too short":            {two[:6], 6, "cut off"},
		"no end mark":          {two[:43], 42, "end mark"},
		"other end mark":       {change(43, 0xfe), 43, "end mark"},
		"negative timeout":     {change(0, 0, 0, 0, 0x80), 0, "timeout of -2147483648 minutes"},
		"endless timeout":      {change(0, 0, 0, 0, 0x7f), 0, "timeout"},
		"odd flags":            {change(4, 2), 4, "flags"},
		"items, no flag":       {change(4, 0), 6, "between the items and the end mark"},
		"flag, no items":       {[]byte{20, 0, 0, 0, 1, 0, endMark}, 6, "number of items"},
		"flag, no static":      {[]byte{20, 0, 0, 0, 0, 1, endMark}, 6, "static objects"},
		"lying count":          {change(6, 0xff, 0xff, 0xff, 0x7f), 6, "2147483647 items do not fit"},
		"negative count":       {change(6, 0xff, 0xff, 0xff, 0xff), 6, "-1 items"},
		"count past the names": {change(6, 5), 33, "end offsets are cut off"}, // 5 items would fit
		"null key past items":  {change(10, 2, 0, 0, 0), 10, "null key"},
		"null key below -1":    {change(10, 0xfe), 10, "null key"},
		"long name":            {change(14, 0x7f), 14, "name of item 0"},
		"odd length of a name": {change(14, 0x80, 0x00), 14, "name of item 0"},
		"offset past the end":  {change(29, 0xff), 29, `"count" reaches from 5 to 255 of 10`},
		"offset backwards":     {change(25, 0x0a, 0, 0, 0, 0x09), 29, `"count" reaches from 10 to 9 of 10`},
		"negative offset":      {change(25, 0xff, 0xff, 0xff, 0xff), 25, `"user" reaches from 0 to -1`},
		"offset before end":    {change(29, 0x09), 42, "1 bytes stand between"},
	} {
		var it Item
		err := it.Parse(c.body)
		var f *FormatError
		if !errors.As(err, &f) || !strings.Contains(f.Reason, c.reason) {
			t.Errorf("%s: the error is %v, want %q", name, err, c.reason)
			continue
		}
		if f.Offset != c.offset {
			t.Errorf("%s: the offset is %d, want %d (%v)", name, f.Offset, c.offset, err)
		}
		if it.Len() != 0 {
			t.Errorf("%s: the item is not empty", name)
		}
	}
	for i := range two {
		if err := new(Item).Parse(two[:i]); err == nil {
			t.Errorf("the first %d bytes of a body are taken for a whole one", i)
		}
	}
}

func TestItemParallelReaders(t *testing.T) {
	it := parsed(t, storeBodies(t)["store_objects"])
	want, err := it.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	var g sync.WaitGroup
	for range 8 {
		g.Go(func() {
			for range 20 {
				for n := range it.Names() {
					if _, ok, err := it.Get(n); !ok || err != nil {
						t.Errorf("Get(%q) is %v, %v", n, ok, err)
					}
				}
				if got, err := it.Clone().Append(nil); err != nil || !bytes.Equal(got, want) {
					t.Errorf("a clone is another item: %v", err)
				}
				for range it.All() {
					break
				}
			}
		})
	}
	g.Wait()
}

func TestItemManyNames(t *testing.T) {
	it := parsed(t, storeBodies(t)["store_many300"])
	for i := range 300 {
		if v, ok, err := it.Get(fmt.Sprintf("K%d", i)); !ok || err != nil || v.Any() != int32(i) {
			t.Fatalf("k%d is %v, %v, %v", i, v.Any(), ok, err)
		}
	}
	for n := range it.Names() {
		if n != "k0" {
			t.Errorf("the first name is %q", n)
		}
		break
	}
}
