package inproc

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-session/holdfast/store"
)

func TestTombstones(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, nil)
		advance(time.Hour)
		wantReason(t, "never there", s.Touch(ctx, sid("x")), store.Reason{Kind: store.Restarted, Age: time.Hour})

		create(t, s, sid("a"), time.Minute)
		why := store.Reason{Kind: store.Moved, To: "elsewhere"}
		wantErr(t, "Remove", s.Remove(ctx, sid("a"), store.Lock{}, why), nil)
		advance(time.Minute)
		why.Age = time.Minute
		for name, err := range map[string]error{
			"Load":   s.Load(ctx, sid("a"), new(store.Record)),
			"Lock":   s.Lock(ctx, sid("a"), store.LockOptions{Owner: 1, Wait: time.Second}, new(store.Record)),
			"Save":   s.Save(ctx, sid("a"), new(store.Record), 1, false),
			"Unlock": s.Unlock(ctx, sid("a"), store.Lock{Owner: 1}),
			"Remove": s.Remove(ctx, sid("a"), store.Lock{}, store.Reason{Kind: store.Abandoned}),
			"Touch":  s.Touch(ctx, sid("a")),
		} {
			wantReason(t, name, err, why)
		}

		create(t, s, sid("a"), time.Minute)
		advance(time.Minute)
		wantReason(t, "the next one", s.Touch(ctx, sid("a")), store.Reason{Kind: store.Expired})
	})
}

func TestTombstonesAreBounded(t *testing.T) {
	s := open(t, &Options{Tombstones: 10})
	end := func(i int) {
		t.Helper()
		create(t, s, sid(fmt.Sprint(i)), time.Minute)
		wantErr(t, "Remove", s.Remove(ctx, sid(fmt.Sprint(i)), store.Lock{}, store.Reason{Kind: store.Abandoned, To: "x"}), nil)
	}
	for i := range 100 {
		end(i)
		end(0) // again and again: it is always among the latest
	}
	if r, x, to := len(s.tombstones.ring), len(s.tombstones.index), len(s.tombstones.to); r != 10 || x > 10 || to != x {
		t.Errorf("%d tombstones, %d in the index, %d places", r, x, to)
	}
	for i := range 100 {
		want := store.Restarted
		if i == 0 || i >= 96 {
			want = store.Abandoned
		}
		if got := store.ReasonOf(s.Touch(ctx, sid(fmt.Sprint(i)))).Kind; got != want && i != 95 {
			t.Errorf("session %d: %v, want %v", i, got, want)
		}
	}
}

func TestNoTombstones(t *testing.T) {
	s := open(t, &Options{Tombstones: -1})
	create(t, s, sid("a"), time.Minute)
	wantErr(t, "Remove", s.Remove(ctx, sid("a"), store.Lock{}, store.Reason{Kind: store.Abandoned}), nil)
	if got := store.ReasonOf(s.Touch(ctx, sid("a"))).Kind; got != store.Restarted {
		t.Errorf("%v, want restarted", got)
	}
}
