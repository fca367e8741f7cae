package cursor

import (
	"slices"
	"testing"

	"github.com/holdfast-session/holdfast/store"
)

func TestOrder(t *testing.T) {
	want := []Cursor{{}, {Key: 1}, {1, store.ID{App: "z", Session: "a"}}, {1, store.ID{App: "a", Session: "b"}}, {1, store.ID{App: "b", Session: "b"}}, {Key: 1 << 63}}
	got := slices.Clone(want)
	slices.Reverse(got)
	slices.SortFunc(got, Cursor.Compare)
	if !slices.Equal(got, want) {
		t.Errorf("sorted: %v; want %v", got, want)
	}
}

func FuzzParse(f *testing.F) {
	for _, c := range []Cursor{{}, {Key: 1<<64 - 1}, {7, store.ID{App: "/shop", Session: "\x00.\xff"}}} {
		f.Add(c.String())
	}
	for _, bad := range []string{".", "1", "1.", "x.61.61", "1.6.61", "1.61.zz", "1.61.61.61", "-1.61.61", "10000000000000000.61.61"} {
		f.Add(bad)
	}
	f.Fuzz(func(t *testing.T, text string) {
		c, err := Parse(text)
		if err != nil {
			return
		}
		if again, err := Parse(c.String()); err != nil || again != c {
			t.Errorf("%q is %v, and that is %v, %v", text, c, again, err)
		}
	})
}
