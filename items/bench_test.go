package items

import (
	"testing"
	"time"
)

// The session of the benchmarks has five values, as a shop's has: who, since
// when, how often, how much, and a flag.
var (
	benchNames  = [...]string{"user", "since", "hits", "total", "admin"}
	benchSince  = time.Date(2026, 11, 21, 1, 2, 3, 0, time.UTC)
	benchString = "a.visitor@example.com"
)

type benchSession struct {
	user  string
	since time.Time
	hits  int
	total float64
	admin bool
}

type benchCodecs struct {
	user  *Codec[string]
	since *Codec[time.Time]
	hits  *Codec[int]
	total *Codec[float64]
	admin *Codec[bool]
}

func newBench(b *testing.B) (benchCodecs, benchSession) {
	return benchCodecs{codec[string](b), codec[time.Time](b), codec[int](b), codec[float64](b), codec[bool](b)},
		benchSession{benchString, benchSince, 42, 12.5, true}
}

func (c *benchCodecs) encode(it *Item, s *benchSession, dst []byte) ([]byte, error) {
	it.Clear()
	user, err := c.user.Encode(s.user)
	if err != nil {
		return nil, err
	}
	since, err := c.since.Encode(s.since)
	if err != nil {
		return nil, err
	}
	hits, err := c.hits.Encode(s.hits)
	if err != nil {
		return nil, err
	}
	total, err := c.total.Encode(s.total)
	if err != nil {
		return nil, err
	}
	admin, err := c.admin.Encode(s.admin)
	if err != nil {
		return nil, err
	}
	for i, v := range [...]Value{user, since, hits, total, admin} {
		it.Set(benchNames[i], v)
	}
	return it.Append(dst)
}

func decodeOne[T any](it *Item, c *Codec[T], name string, to *T) error {
	v, _, err := it.Get(name)
	if err == nil {
		*to, err = c.Decode(v)
	}
	return err
}

func BenchmarkEncode5(b *testing.B) {
	c, s := newBench(b)
	it := Item{Timeout: 20 * time.Minute}
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		var err error
		if buf, err = c.encode(&it, &s, buf[:0]); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkAppend5 is what saving costs when one value of five was set.
func BenchmarkAppend5(b *testing.B) {
	it, buf := benchBody(b)
	v := value(b, 43)
	b.ReportAllocs()
	for b.Loop() {
		it.Set("hits", v)
		var err error
		if buf, err = it.Append(buf[:0]); err != nil {
			b.Fatal(err)
		}
	}
}

func benchBody(b *testing.B) (*Item, []byte) {
	c, s := newBench(b)
	it := Item{Timeout: 20 * time.Minute}
	body, err := c.encode(&it, &s, nil)
	if err != nil {
		b.Fatal(err)
	}
	return parsed(b, body), make([]byte, 0, len(body))
}

func BenchmarkDecode5(b *testing.B) {
	c, s := newBench(b)
	it := Item{}
	body, err := c.encode(&it, &s, nil)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		var got benchSession
		if err := it.Parse(body); err != nil {
			b.Fatal(err)
		}
		for _, err := range [...]error{
			decodeOne(&it, c.user, "user", &got.user),
			decodeOne(&it, c.since, "since", &got.since),
			decodeOne(&it, c.hits, "hits", &got.hits),
			decodeOne(&it, c.total, "total", &got.total),
			decodeOne(&it, c.admin, "admin", &got.admin),
		} {
			if err != nil {
				b.Fatal(err)
			}
		}
		if got != s {
			b.Fatalf("decoded %v", got)
		}
	}
}

func BenchmarkIndex5(b *testing.B) {
	c, s := newBench(b)
	it := Item{}
	body, err := c.encode(&it, &s, nil)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := it.Parse(body); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkGet(b *testing.B) {
	it, _ := benchBody(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, ok, err := it.Get("admin"); !ok || err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCodecInt(b *testing.B) {
	c := codec[int](b)
	b.ReportAllocs()
	for b.Loop() {
		v, err := c.Encode(42)
		if err != nil {
			b.Fatal(err)
		}
		if n, err := c.Decode(v); n != 42 || err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCodecStructEncode(b *testing.B) {
	c := codec[basket](b)
	v := basket{[]line{{1, 2}, {3, 4}, {5, 6}}}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Encode(v); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCodecStructDecode(b *testing.B) {
	c := codec[basket](b)
	v := value(b, basket{[]line{{1, 2}, {3, 4}, {5, 6}}})
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Decode(v); err != nil {
			b.Fatal(err)
		}
	}
}
