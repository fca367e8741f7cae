package items

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The bytes here were written by .NET; see testdata/README.md.

func vector(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "vectors", name+".bin"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// vectors returns those whose name starts with one of the prefixes.
func vectors(t testing.TB, prefixes ...string) map[string][]byte {
	t.Helper()
	found := map[string][]byte{}
	for _, prefix := range prefixes {
		files, err := filepath.Glob(filepath.Join("testdata", "vectors", prefix+"*.bin"))
		if err != nil || len(files) == 0 {
			t.Fatalf("no vectors %s*: %v", prefix, err)
		}
		for _, f := range files {
			name := strings.TrimSuffix(filepath.Base(f), ".bin")
			found[name] = vector(t, name)
		}
	}
	return found
}

type golden struct {
	Name, Layer, Hex string
	CLRType          string `json:"clr_type"`
	bytes            []byte
}

func goldens(t testing.TB, layer string) (found []golden) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "golden.json"))
	if err != nil {
		t.Fatal(err)
	}
	var all []golden
	if err := json.Unmarshal(b, &all); err != nil {
		t.Fatal(err)
	}
	for _, g := range all {
		if !strings.HasPrefix(g.Layer, layer) {
			continue
		}
		if g.bytes, err = hex.DecodeString(g.Hex); err != nil {
			t.Fatalf("%s: %v", g.Name, err)
		}
		found = append(found, g)
	}
	if len(found) == 0 {
		t.Fatalf("no golden bytes of the layer %q", layer)
	}
	return found
}

func TestValuesOfDotNet(t *testing.T) {
	values := map[string][]byte{}
	for _, g := range goldens(t, "AltSerialization value") {
		values[g.Name] = g.bytes
	}
	for name, stream := range vectors(t, "BF_", "x_") {
		values[name] = append([]byte{byte(CodeObject)}, stream...)
	}
	for name, b := range vectors(t, "null", "string_", "int_", "true", "DateTime", "decimal", "byte", "char", "single",
		"double", "sbyte", "short", "long", "ushort", "uint", "ulong", "timespan", "guid") {
		values[name] = b
	}
	for name, b := range values {
		v, err := ParseValue(string(b))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := v.Append(nil); !bytes.Equal(got, b) {
			t.Errorf("%s: written as % x, want % x", name, got, b)
		}
		if v.Size() != len(b) {
			t.Errorf("%s: Size is %d, want %d", name, v.Size(), len(b))
		}
		if v.Code() != Code(b[0]) {
			t.Errorf("%s: Code is %v, want %v", name, v.Code(), Code(b[0]))
		}
		again, err := ParseValue(string(v.Append(nil)))
		if err != nil || again != v {
			t.Errorf("%s: read again it is another value: %v", name, err)
		}
		if got, object := v.Any().(Object); object && !bytes.Equal(got, b) {
			t.Errorf("%s: Any gives the object % x, want % x", name, got, b)
		}
	}
}

// storeBodies returns all stored items, uncompressed.
func storeBodies(t testing.TB) map[string][]byte {
	t.Helper()
	bodies := map[string][]byte{}
	for _, g := range goldens(t, "SessionStateUtility.Serialize") {
		bodies[g.Name] = g.bytes
	}
	compressed := map[string][]byte{"item_two_deflated_mono_zlib": vector(t, "item_two_deflated_mono_zlib")}
	for _, g := range goldens(t, "SerializeStoreData compressionEnabled=true") {
		compressed[g.Name] = g.bytes
	}
	for name, b := range compressed {
		body, err := Inflate(nil, b, 1<<20)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		bodies[name] = body
	}
	for _, name := range []string{"item_empty_t20", "item_nullkey", "item_nullval", "item_one_int", "item_two"} {
		bodies[name] = vector(t, name)
	}
	// A collection by itself becomes an item with a head and an end mark.
	for _, g := range goldens(t, "SessionStateItemCollection.Serialize") {
		if len(g.bytes) == 4 {
			continue // SessionStateUtility writes no empty collection
		}
		body := binary.LittleEndian.AppendUint32(nil, 20)
		body = append(append(append(body, 1, 0), g.bytes...), endMark)
		bodies[g.Name] = body
	}
	return bodies
}

func TestItemsOfDotNet(t *testing.T) {
	for name, body := range storeBodies(t) {
		var it Item
		if err := it.Parse(bytes.Clone(body)); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if want := time.Duration(body[0]) * time.Minute; it.Timeout != want {
			t.Errorf("%s: the timeout is %v, want %v", name, it.Timeout, want)
		}
		checkWritten(t, name+", untouched", &it, body)

		// Every value read and set again must not change a byte either.
		for n := range it.Clone().Names() {
			v, ok, err := it.Get(n)
			if err != nil || !ok {
				t.Errorf("%s: Get(%q) is %v, %v", name, n, ok, err)
			}
			it.Set(n, v)
		}
		checkWritten(t, name+", all set again", &it, body)
	}
}

func checkWritten(t *testing.T, what string, it *Item, want []byte) {
	t.Helper()
	got, err := it.Append(nil)
	if err != nil {
		t.Errorf("%s: %v", what, err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s: written as\n% x, want\n% x", what, head(got), head(want))
	}
	if it.Size() != len(want) {
		t.Errorf("%s: Size is %d, want %d", what, it.Size(), len(want))
	}
}

func head(b []byte) []byte { return b[:min(len(b), 200)] }

func TestGoldenItem(t *testing.T) {
	var it Item
	if err := it.Parse(storeBodies(t)["storez_basic9"]); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"n": int32(1), "s": "hello", "b": true, "z": nil, "ts": 5 * time.Minute, "x": 2.5,
		"d": time.Date(2024, 2, 29, 1, 2, 3, 0, time.UTC),
		"m": NewDecimal(125, 1),
		"g": GUID{0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff},
	}
	for name, v := range it.All() {
		if got := v.Any(); got != want[name] {
			t.Errorf("%s is %#v, want %#v", name, got, want[name])
		}
		delete(want, name)
	}
	if len(want) > 0 {
		t.Errorf("missing: %v", want)
	}
}
