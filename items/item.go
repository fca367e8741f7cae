package items

import (
	"encoding/binary"
	"fmt"
	"iter"
	"math"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
	"unsafe"
)

// Item is a stored item: what one session holds. The zero Item is an empty one.
//
// Names are case-insensitive; the first spelling and the place of a name stay
// when its value is set again. A body of a foreign writer may hold a name twice:
// then Get finds the first, Set replaces the first, Delete removes all, and what
// is not touched stays.
//
// A body may also hold a value under .NET's null key, and values that this
// package cannot read. Both count, and are written back as they came.
//
// The methods that only read (Get, All, Names, Len, Size, Append, Clone) change
// nothing, not even inside, so that goroutines may share an Item that nobody
// changes. All others need the Item for themselves.
type Item struct {
	// Timeout is the session's sliding timeout. The body holds whole minutes;
	// Append rounds up.
	Timeout time.Duration

	entries []entry
	static  string // the static objects section as it came, empty if there is none
}

// entry is one name and its value. In 10 million sessions each byte counts.
type entry struct {
	name string
	val  Value
}

// The parts of a body that have one size.
const (
	endMark   = 0xff
	headSize  = 4 + 1 + 1
	minBody   = headSize + 1
	noNullKey = -1
)

// Parse makes it the item of a body and indexes the names; values are read when
// they are asked for. Memory that it held before is used again.
//
// Names, values, and strings decoded from them share body's memory, without a
// copy. So body must never be changed again, not even when the Item is gone: it
// must not go back to a pool.
//
// A body that is damaged or cut off is a *[FormatError], and leaves it empty. A
// single value that cannot be read is not: Get reports it.
func (it *Item) Parse(body []byte) error {
	it.Timeout, it.entries, it.static = 0, it.entries[:0], ""
	err := it.parse(unsafe.String(unsafe.SliceData(body), len(body)))
	if err != nil {
		it.Timeout, it.entries, it.static = 0, it.entries[:0], ""
	}
	return err
}

func (it *Item) parse(s string) error {
	if len(s) < minBody {
		return damaged(len(s), "the body is cut off: it has %d bytes, and the shortest has %d", len(s), minBody)
	}
	end := len(s) - 1
	if s[end] != endMark {
		return damaged(end, "the end mark is missing")
	}
	minutes := int32(le32(s))
	if minutes < 0 || int64(minutes) > math.MaxInt64/int64(time.Minute) {
		return damaged(0, "the timeout of %d minutes is out of range", minutes)
	}
	if s[4] > 1 || s[5] > 1 {
		return damaged(4, "the flags are %d and %d, not 0 or 1", s[4], s[5])
	}
	at := headSize
	if s[4] == 1 {
		var err error
		if at, err = it.parseItems(s[:end], at); err != nil {
			return err
		}
	}
	switch rest := end - at; {
	case s[5] == 1 && rest < 4:
		return damaged(at, "the static objects are cut off")
	case s[5] == 0 && rest > 0:
		return damaged(at, "%d bytes stand between the items and the end mark", rest)
	}
	it.static = s[at:end]
	it.Timeout = time.Duration(minutes) * time.Minute
	return nil
}

// parseItems reads the collection that starts at the offset at and returns where
// it ends.
func (it *Item) parseItems(s string, at int) (end int, err error) {
	if len(s)-at < 4 {
		return 0, damaged(at, "the number of items is cut off")
	}
	count := int(int32(le32(s[at:])))
	if count == 0 {
		return at + 4, nil
	}
	// An item takes a byte for the length of its name, save one, and its end offset.
	if room := len(s) - at - 8; count < 0 || count > (room+1)/5 {
		return 0, damaged(at, "%d items do not fit into the %d bytes that follow", count, max(room, 0))
	}
	nullKey := int(int32(le32(s[at+4:])))
	if nullKey < noNullKey || nullKey >= count {
		return 0, damaged(at+4, "item %d of %d has the null key", nullKey, count)
	}
	at += 8

	it.entries = slices.Grow(it.entries[:0], count)[:count]
	for i := range it.entries {
		e := &it.entries[i]
		if i == nullKey {
			e.name = ""
			continue
		}
		n, w := uvarint(s[at:])
		if w == 0 || n > len(s)-at-w {
			return 0, damaged(at, "the name of item %d is longer than the body", i)
		}
		e.name = s[at+w : at+w+n]
		at += w + n
	}

	ends := at
	at += 4 * count
	if at > len(s) {
		return 0, damaged(ends, "the end offsets are cut off")
	}
	values, from := s[at:], 0
	for i := range it.entries {
		to := int(int32(le32(s[ends+4*i:])))
		if to < from || to > len(values) {
			return 0, damaged(ends+4*i, "the value of item %q reaches from %d to %d of %d bytes", it.entries[i].name, from, to, len(values))
		}
		code := codeRaw
		if i == nullKey {
			code = codeRawNull
		}
		it.entries[i].val = Value{ref: values[from:to], code: code}
		from = to
	}
	return at + from, nil
}

// Len returns the number of items, the one under the null key included.
func (it *Item) Len() int { return len(it.entries) }

// find returns the place of the first item of a name, -1 if there is none.
func (it *Item) find(name string) int {
	for i := range it.entries {
		e := &it.entries[i]
		if sameName(e.name, name) && e.val.code != codeRawNull {
			return i
		}
	}
	return -1
}

// sameName compares names without case. Most differ in their first letter.
func sameName(a, b string) bool {
	if a != "" && b != "" && a[0]|b[0] < utf8.RuneSelf && (a[0]^b[0])&^('a'-'A') != 0 {
		return false
	}
	return a == b || strings.EqualFold(a, b)
}

// Get returns the value of a name and whether there is one. If its bytes cannot
// be read, the error is a *[FormatError] that names the item and the offset into
// its value; the item stays as it is, and the others can still be read.
func (it *Item) Get(name string) (Value, bool, error) {
	i := it.find(name)
	if i < 0 {
		return Value{}, false, nil
	}
	v, err := it.entries[i].value()
	return v, true, err
}

// value reads the entry's value if that is still encoded.
func (e *entry) value() (Value, error) {
	if e.val.code != codeRaw {
		return e.val, nil
	}
	v, err := ParseValue(e.val.ref)
	if err != nil {
		f := err.(*FormatError)
		f.Item = e.name
	}
	return v, err
}

// Set gives a name a value. A new name comes last. The zero Value deletes.
func (it *Item) Set(name string, v Value) {
	if v.IsZero() {
		it.Delete(name)
		return
	}
	if i := it.find(name); i >= 0 {
		it.entries[i].val = v
		return
	}
	it.entries = append(it.entries, entry{name, v})
}

// Delete removes a name and reports whether it was there.
func (it *Item) Delete(name string) bool {
	i := it.find(name)
	if i < 0 {
		return false
	}
	for i >= 0 {
		it.entries = slices.Delete(it.entries, i, i+1)
		i = it.find(name)
	}
	return true
}

// Clear removes all items, the one under the null key included. Timeout and
// static objects stay, as in ASP.NET.
func (it *Item) Clear() {
	clear(it.entries)
	it.entries = it.entries[:0]
}

// Names yields the names in order.
func (it *Item) Names() iter.Seq[string] {
	return func(yield func(string) bool) {
		for i := range it.entries {
			if e := &it.entries[i]; e.val.code != codeRawNull && !yield(e.name) {
				return
			}
		}
	}
}

// All yields the names and values in order. The value of an item whose bytes
// cannot be read is the zero Value; Get tells what is wrong with it.
func (it *Item) All() iter.Seq2[string, Value] {
	return func(yield func(string, Value) bool) {
		for i := range it.entries {
			e := &it.entries[i]
			if e.val.code == codeRawNull {
				continue
			}
			if v, _ := e.value(); !yield(e.name, v) {
				return
			}
		}
	}
}

// Clone returns an independent copy. The values themselves are shared, as they
// never change.
func (it *Item) Clone() *Item {
	if len(it.entries) > smallItem {
		return &Item{Timeout: it.Timeout, entries: slices.Clone(it.entries), static: it.static}
	}
	small := new(struct { // in one piece, as most are
		Item
		room [smallItem]entry
	})
	small.Item = Item{Timeout: it.Timeout, entries: append(small.room[:0], it.entries...), static: it.static}
	return &small.Item
}

// smallItem is how many entries an Item has that is cloned in one piece.
const smallItem = 6

// Size returns the length of the body that Append appends, in bytes.
func (it *Item) Size() int {
	n := headSize + len(it.static) + 1
	if len(it.entries) > 0 {
		n += 4 + 4
	}
	for i := range it.entries {
		e := &it.entries[i]
		if e.val.code != codeRawNull {
			n += uvarintSize(len(e.name)) + len(e.name)
		}
		n += 4 + e.val.Size()
	}
	return n
}

// Append appends the item's body to dst and returns the extended slice. What
// Parse read and nobody replaced is written byte for byte as it was. It fails
// where the body has no room for the timeout or for the values, which together
// may have 2 GiB.
func (it *Item) Append(dst []byte) ([]byte, error) {
	minutes := it.Timeout / time.Minute
	if it.Timeout%time.Minute > 0 {
		minutes++
	}
	if it.Timeout < 0 || minutes > math.MaxInt32 {
		return dst, fmt.Errorf("items: the timeout %v cannot be stored; it must not be negative", it.Timeout)
	}
	size := it.Size()
	if size > math.MaxInt32 {
		return dst, fmt.Errorf("items: the body of %d bytes is larger than the 2 GiB that its format has room for", size)
	}
	dst = slices.Grow(dst, size)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(minutes))
	dst = append(dst, flag(len(it.entries) > 0), flag(it.static != ""))
	if len(it.entries) > 0 {
		dst = it.appendItems(dst)
	}
	dst = append(dst, it.static...)
	return append(dst, endMark), nil
}

func (it *Item) appendItems(dst []byte) []byte {
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(it.entries)))
	nullKeyAt := len(dst)
	dst = append(dst, "\xff\xff\xff\xff"...)
	for i := range it.entries {
		e := &it.entries[i]
		if e.val.code == codeRawNull {
			binary.LittleEndian.PutUint32(dst[nullKeyAt:], uint32(i))
			continue
		}
		dst = appendUvarint(dst, len(e.name))
		dst = append(dst, e.name...)
	}
	ends := len(dst)
	dst = dst[:ends+4*len(it.entries)] // Append made the room
	values := len(dst)
	for i := range it.entries {
		dst = it.entries[i].val.Append(dst)
		binary.LittleEndian.PutUint32(dst[ends+4*i:], uint32(len(dst)-values))
	}
	return dst
}

func flag(set bool) byte {
	if set {
		return 1
	}
	return 0
}
