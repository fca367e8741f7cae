package load

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseMix(t *testing.T) {
	m, err := ParseMix("load:80, lock+save:20,create+remove")
	if err != nil {
		t.Fatal(err)
	}
	want := Mix{
		{[]op{opLoad}, 80},
		{[]op{opLock, opSave}, 20},
		{[]op{opCreate, opRemove}, 1},
	}
	if d := cmp.Diff(want, m, cmp.AllowUnexported(sequence{})); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]op{opLoad, opLock, opSave, opCreate, opRemove}, m.uses()); d != "" {
		t.Error(d)
	}
	counts := make(map[*sequence]int)
	for n := range m.weight() {
		counts[m.at(n)]++
	}
	for i := range m {
		if counts[&m[i]] != m[i].weight {
			t.Errorf("sequence %d comes %d times, want %d", i, counts[&m[i]], m[i].weight)
		}
	}
}

func TestParseMixMistakes(t *testing.T) {
	for mix, want := range map[string]string{
		"":                   "no request",
		"fetch":              "only load, lock, save, unlock, touch, create, remove",
		"load:0":             "not a number from 1",
		"load:x":             "not a number from 1",
		"load,":              "no request",
		"load+create":        "create can only come first",
		"lock+remove":        "began with create",
		"create+remove+load": "can only end",
		"unlock":             "needs a lock",
	} {
		if _, err := ParseMix(mix); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", mix, err, want)
		}
	}
}

func TestMixFor(t *testing.T) {
	for _, c := range []struct {
		mix        string
		plain, hot bool
	}{
		{"load,touch", true, true},
		{"lock+save,lock+unlock", true, true},
		{"lock", false, false},
		{"save", true, false},
		{"load+save,create+save+remove", true, true},
		{"touch+save", true, false},
	} {
		m, err := ParseMix(c.mix)
		if err != nil {
			t.Fatal(err)
		}
		if got := m.checkPlain() == nil; got != c.plain {
			t.Errorf("%s: for a foreign server: %v", c.mix, got)
		}
		if got := m.checkHot() == nil; got != c.hot {
			t.Errorf("%s: for a shared session: %v", c.mix, got)
		}
	}
}
