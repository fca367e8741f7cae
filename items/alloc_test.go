//go:build !race

package items

import (
	"testing"
	"time"
)

// What the race detector would make meaningless, or far too slow.

func noAllocs[T any](t *testing.T, v T) {
	t.Helper()
	c := codec[T](t)
	val := value(t, v)
	var err error
	if n := testing.AllocsPerRun(100, func() { val, err = c.Encode(v) }); n != 0 || err != nil {
		t.Errorf("%T: Encode allocates %v times, %v", v, n, err)
	}
	if n := testing.AllocsPerRun(100, func() { v, err = c.Decode(val) }); n != 0 || err != nil {
		t.Errorf("%T: Decode allocates %v times, %v", v, n, err)
	}
}

func TestLargeCBOR(t *testing.T) {
	through(t, make([]int, maxCBOR-10))
	if _, err := codec[[]int](t).Encode(make([]int, maxCBOR)); err == nil {
		t.Error("more than can be read is stored")
	}
	if got, _ := through(t, make([]byte, maxCBOR*2)); len(got) != maxCBOR*2 {
		t.Errorf("a large []byte comes back as %d bytes", len(got))
	}
}

func TestScalarsAllocateNothing(t *testing.T) {
	noAllocs(t, true)
	noAllocs(t, 1<<40)
	noAllocs(t, myInt(7))
	noAllocs(t, uint16(7))
	noAllocs(t, 1.5)
	noAllocs(t, float32(1.5))
	noAllocs(t, "hello")
	noAllocs(t, myString("hello"))
	noAllocs(t, time.Now())
	noAllocs(t, time.Second)
	noAllocs(t, (*basket)(nil))
}

func TestItemLyingCountAllocatesNothing(t *testing.T) {
	b := []byte{20, 0, 0, 0, 1, 0, 0xff, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, endMark}
	var it Item
	if n := testing.AllocsPerRun(10, func() { _ = it.Parse(b) }); n > 10 {
		t.Errorf("a lying count allocates %v times", n)
	}
	if cap(it.entries) > 0 {
		t.Errorf("a lying count makes %d entries", cap(it.entries))
	}
}
