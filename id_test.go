package holdfast

import (
	"strings"
	"testing"
)

// The vectors are what .NET's SessionIDManager makes of the same bytes.
func TestEncodeID(t *testing.T) {
	var zero, one, counting, ones [idBytes]byte
	one[0] = 1
	for i := range counting {
		counting[i] = byte(i)
		ones[i] = 0xff
	}
	for want, b := range map[string][idBytes]byte{
		"aaaaaaaaaaaaaaaaaaaaaaaa": zero,
		"baaaaaaaaaaaaaaaaaaaaaaa": one,
		"aiaeqbqafqboaeebkycyqgyb": counting,
		"555555555555555555555555": ones,
	} {
		if got := encodeID(b); got != want {
			t.Errorf("encodeID(%x) = %q, want %q", b, got, want)
		}
	}
}

func TestParseID(t *testing.T) {
	good := "lit3py55t21z5v55vlm25s55"
	for in, want := range map[string]string{
		good:                          good,
		strings.ToUpper(good):         good,
		"":                            "",
		good[1:]:                      "",
		good + "a":                    "",
		"lit6py55t21z5v55vlm25s55":    "",
		"lit3py55t21z5v55vlm25s5/":    "",
		"lit3py55t21z5v55vlm25s\x005": "",
		strings.Repeat("a", 1<<20):    "",
	} {
		got, ok := parseID(in)
		if got != want || ok != (want != "") {
			t.Errorf("parseID(%.40q) = %q, %v, want %q", in, got, ok, want)
		}
	}
}

func TestNewIDIsWellFormedAndNeverTheSame(t *testing.T) {
	seen := make(map[string]bool)
	for range 1000 {
		id := newID()
		if _, ok := parseID(id); !ok || seen[id] {
			t.Fatalf("newID() = %q: malformed or drawn before", id)
		}
		seen[id] = true
	}
}

// A store is shown hashes of the IDs' own shape, so that it needs no second rule.
func TestHashIDHasTheShapeOfAnID(t *testing.T) {
	id := newID()
	h := hashID(id)
	if _, ok := parseID(h); !ok || h == id || h != hashID(id) {
		t.Errorf("hashID(%q) = %q", id, h)
	}
	if l := logID("/", h); len(l) != 8 || strings.Contains(h, l) {
		t.Errorf("logID = %q of %q", l, h)
	}
}

func FuzzParseID(f *testing.F) {
	f.Add("lit3py55t21z5v55vlm25s55")
	f.Add("LIT3PY55T21Z5V55VLM25S55")
	f.Add("../../../etc/passwd\x00aaaaa")
	f.Fuzz(func(t *testing.T, s string) {
		id, ok := parseID(s)
		if !ok {
			return
		}
		if again, ok := parseID(id); !ok || again != id || len(id) != idLength {
			t.Errorf("parseID(%q) = %q, which is not canonical", s, id)
		}
	})
}
