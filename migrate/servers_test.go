package migrate_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/holdfast-session/holdfast/migrate"
	"github.com/holdfast-session/holdfast/stateserver"
	"github.com/holdfast-session/holdfast/store"
)

// TestStays adds a server to a list of one: some sessions stay on the first, the others
// are on the second and nowhere else.
func TestStays(t *testing.T) {
	one, two := openStateServer(t).(*stateserver.Client), openStateServer(t).(*stateserver.Client)
	before, after := stateserver.Partitioned(one), stateserver.Partitioned(one, two)
	stays := func(id store.ID) bool {
		c, err := after.Server(id)
		return err == nil && c == one
	}
	versions := make(map[store.ID]store.Version)
	for i := range 200 {
		id := store.ID{App: "/shop", Session: fmt.Sprint(i)}
		rec := store.Record{Version: store.NewVersion(), Timeout: timeout}
		if err := before.Create(t.Context(), id, &rec, false); err != nil {
			t.Fatal(err)
		}
		versions[id] = rec.Version
	}

	// Nothing happens to a store that is taken for another one.
	if p, err := migrate.All(t.Context(), before, after, nil); !errors.Is(err, migrate.ErrSamePlace) || p.Moved > 0 && p.Moved >= len(versions)/2 {
		t.Errorf("All without Stays: %+v, %v; want ErrSamePlace", p, err)
	}
	for id := range versions {
		if err := after.Touch(t.Context(), id); stays(id) && err != nil {
			t.Fatalf("%s, which was to stay: %v", id.Session, err)
		}
	}

	var moved []store.ID
	o := &migrate.AllOptions{Stays: stays, Parallel: 4, Moved: func(id store.ID) { moved = append(moved, id) }}
	if p, err := migrate.All(t.Context(), before, after, o); err != nil || p.Moved != len(moved) || p.Busy > 0 || p.Gone > 0 {
		t.Fatalf("All: %+v, %v", p, err)
	}
	counts, err := migrate.Verify(t.Context(), before, after, o, moved)
	if err != nil || len(counts) != 1 || !counts[0].Done() || counts[0].New != len(versions) || counts[0].Found != len(moved) {
		t.Errorf("Verify: %+v, %v", counts, err)
	}
	for id, version := range versions {
		here, other := two, one
		if stays(id) {
			here, other = one, two
		}
		var rec store.Record
		if err := here.Load(t.Context(), id, &rec); err != nil || rec.Version != version || rec.Flags != 0 {
			t.Fatalf("%s is %+v, %v", id.Session, rec, err)
		}
		if err := other.Load(t.Context(), id, &rec); !errors.Is(err, store.ErrNotFound) {
			t.Fatalf("%s on the other server: %v", id.Session, err)
		}
	}
	for _, id := range moved {
		if stays(id) {
			t.Errorf("%s moved, and was to stay", id.Session)
		}
	}
}
