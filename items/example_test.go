package items_test

import (
	"fmt"
	"time"

	"github.com/holdfast-session/holdfast/items"
)

func ExampleItem() {
	count, err := items.NewCodec[int]()
	if err != nil {
		panic(err)
	}
	seven, err := count.Encode(7)
	if err != nil {
		panic(err)
	}
	it := items.Item{Timeout: 20 * time.Minute}
	it.Set("count", seven)

	body, err := it.Append(nil) // what a store keeps
	if err != nil {
		panic(err)
	}
	fmt.Printf("% x\n", body)

	var read items.Item
	if err := read.Parse(body); err != nil {
		panic(err)
	}
	v, ok, err := read.Get("Count")
	if err != nil || !ok {
		panic(err)
	}
	n, err := count.Decode(v)
	fmt.Println(v.Code(), n, err)
	// Output:
	// 14 00 00 00 01 00 01 00 00 00 ff ff ff ff 05 63 6f 75 6e 74 05 00 00 00 02 07 00 00 00 ff
	// Int32 7 <nil>
}

func ExampleItem_All() {
	name, err := items.NewCodec[string]()
	if err != nil {
		panic(err)
	}
	var it items.Item
	for _, s := range []string{"Ann", "Bob"} {
		v, err := name.Encode(s)
		if err != nil {
			panic(err)
		}
		it.Set(s, v)
	}
	for name, v := range it.All() {
		fmt.Println(name, v.Any())
	}
	// Output:
	// Ann Ann
	// Bob Bob
}

func ExampleCodec() {
	type line struct {
		Article string
		Count   int
	}
	lines, err := items.NewCodec[[]line]()
	if err != nil {
		panic(err)
	}
	v, err := lines.Encode([]line{{"apple", 3}})
	if err != nil {
		panic(err)
	}
	got, err := lines.Decode(v)
	fmt.Println(v.Code(), got, err, lines.Mutable())
	// Output: Object [{apple 3}] <nil> true
}

// A type that would not survive is found when the program starts.
func ExampleNewCodec() {
	type line struct {
		Article string
		Notify  chan int
	}
	_, err := items.NewCodec[[]line]()
	fmt.Println(err)
	// Output: items: []items_test.line[].Notify: chan int cannot leave the process; leave it out with the tag `cbor:"-"`, or keep the value in this process with a LiveKey
}

func ExampleDecimal() {
	price, err := items.ParseDecimal("12.30")
	fmt.Println(price, err, price == items.NewDecimal(1230, 2))
	// Output: 12.30 <nil> true
}
