package main

import (
	"bytes"
	"encoding/gob"
	"encoding/json"
	"fmt"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/tinylib/msgp/msgp"
	"github.com/vmihailenco/msgpack/v5"

	"github.com/holdfast-session/holdfast/items"
)

var itemsRow = row{
	name:  "items",
	title: "A session of five values, to bytes and back",
	note: "Who, since when, how often, how much, and a flag, as a session has them: names and values of any type, none of which is known before the program reads it. " +
		"\"Map\" is map[string]any; \"struct\" has the five fields built in, which a session library cannot have. Index finds out what is there without decoding it, " +
		"as a request does that reads one value of five.",
	metrics: []metric{metricTime, metricAllocs, metricHeap, metricBytes},
	cells:   itemsCells,
}

// A fiveCodec turns the session into bytes and back.
type fiveCodec struct {
	name   string
	encode func(dst []byte) ([]byte, error)
	// decode returns how many values it found.
	decode func(b []byte) (int, error)
}

func itemsCells(*suite) ([]cell, error) {
	ours, index, err := itemsCodec()
	if err != nil {
		return nil, err
	}
	gob.Register(time.Time{})
	values := fiveValues.toMap()
	mapCodec := func(name string, marshal func(any) ([]byte, error), unmarshal func([]byte, any) error) fiveCodec {
		return fiveCodec{name, func([]byte) ([]byte, error) { return marshal(values) }, func(b []byte) (int, error) {
			var m map[string]any
			err := unmarshal(b, &m)
			return len(m), err
		}}
	}
	cborMode, err := cbor.CoreDetEncOptions().EncMode()
	if err != nil {
		return nil, err
	}
	codecs := []fiveCodec{
		ours,
		{"tinylib/msgp, map", func(dst []byte) ([]byte, error) { return msgp.AppendIntf(dst, values) }, func(b []byte) (int, error) {
			v, _, err := msgp.ReadIntfBytes(b)
			m, _ := v.(map[string]any)
			return len(m), err
		}},
		{"tinylib/msgp, struct", fiveValues.MarshalMsg, func(b []byte) (int, error) {
			var f five
			_, err := f.UnmarshalMsg(b)
			if f.Hits != fiveValues.Hits {
				return 0, err
			}
			return 5, err
		}},
		mapCodec("vmihailenco/msgpack, map", msgpack.Marshal, msgpack.Unmarshal),
		mapCodec("fxamacker/cbor, map", cborMode.Marshal, cbor.Unmarshal),
		mapCodec("encoding/json, map", json.Marshal, json.Unmarshal),
		{"encoding/gob, map", func([]byte) ([]byte, error) {
			var b bytes.Buffer
			err := gob.NewEncoder(&b).Encode(values)
			return b.Bytes(), err
		}, func(b []byte) (int, error) {
			var m map[string]any
			err := gob.NewDecoder(bytes.NewReader(b)).Decode(&m)
			return len(m), err
		}},
	}
	encode, decode := cell{name: "encode"}, cell{name: "decode"}
	for _, c := range codecs {
		body, err := c.encode(nil)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.name, err)
		}
		if n, err := c.decode(body); n != 5 || err != nil {
			return nil, fmt.Errorf("%s: %d values of 5 came back, %v", c.name, n, err)
		}
		size := figures{metricBytes.Name: float64(len(body))}
		buf := make([]byte, 0, 2*len(body))
		encode.sides = append(encode.sides, timed(c.name, func(n int) error {
			for range n {
				if _, err := c.encode(buf[:0]); err != nil {
					return err
				}
			}
			return nil
		}).with(size))
		decode.sides = append(decode.sides, timed(c.name, func(n int) error {
			for range n {
				if _, err := c.decode(body); err != nil {
					return err
				}
			}
			return nil
		}).with(size))
	}
	return []cell{encode, decode, {"index", []side{timed("holdfast items", index)}}}, nil
}

// itemsCodec is ours: codecs made once for each key, and an item that is used again
// where a request would.
func itemsCodec() (c fiveCodec, index func(n int) error, err error) {
	user, err := items.NewCodec[string]()
	if err != nil {
		return c, nil, err
	}
	since, err := items.NewCodec[time.Time]()
	if err != nil {
		return c, nil, err
	}
	hits, err := items.NewCodec[int]()
	if err != nil {
		return c, nil, err
	}
	total, err := items.NewCodec[float64]()
	if err != nil {
		return c, nil, err
	}
	admin, err := items.NewCodec[bool]()
	if err != nil {
		return c, nil, err
	}
	it := items.Item{Timeout: 20 * time.Minute}
	encode := func(dst []byte) ([]byte, error) {
		it.Clear()
		f := &fiveValues
		if err := set(&it, "user", user, f.User); err != nil {
			return nil, err
		}
		if err := set(&it, "since", since, f.Since); err != nil {
			return nil, err
		}
		if err := set(&it, "hits", hits, f.Hits); err != nil {
			return nil, err
		}
		if err := set(&it, "total", total, f.Total); err != nil {
			return nil, err
		}
		if err := set(&it, "admin", admin, f.Admin); err != nil {
			return nil, err
		}
		return it.Append(dst)
	}
	var back items.Item
	decode := func(b []byte) (int, error) {
		if err := back.Parse(b); err != nil {
			return 0, err
		}
		var f five
		if err := get(&back, "user", user, &f.User); err != nil {
			return 0, err
		}
		if err := get(&back, "since", since, &f.Since); err != nil {
			return 0, err
		}
		if err := get(&back, "hits", hits, &f.Hits); err != nil {
			return 0, err
		}
		if err := get(&back, "total", total, &f.Total); err != nil {
			return 0, err
		}
		if err := get(&back, "admin", admin, &f.Admin); err != nil {
			return 0, err
		}
		if f != fiveValues {
			return 0, fmt.Errorf("%+v came back", f)
		}
		return back.Len(), nil
	}
	body, err := encode(nil)
	return fiveCodec{"holdfast items", encode, decode}, func(n int) error {
		for range n {
			if err := back.Parse(body); err != nil {
				return err
			}
		}
		return nil
	}, err
}

func set[T any](it *items.Item, name string, c *items.Codec[T], v T) error {
	value, err := c.Encode(v)
	if err == nil {
		it.Set(name, value)
	}
	return err
}

func get[T any](it *items.Item, name string, c *items.Codec[T], to *T) error {
	v, _, err := it.Get(name)
	if err == nil {
		*to, err = c.Decode(v)
	}
	return err
}
