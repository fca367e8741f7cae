package redisstore

import (
	"encoding/hex"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-session/holdfast/internal/servers"
	"github.com/holdfast-session/holdfast/store"
)

// An indexed is a session, and a store whose index is looked at by the test alone.
type indexed struct {
	*testing.T
	s      *Store
	a      *application
	id     store.ID
	bucket int
}

func newIndexed(t *testing.T) *indexed {
	s, err := Open(servers.StartRedis(t, nil).URL(), &Options{Ends: 100, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	s.apps.sweeping = true // it is not, by itself
	x := &indexed{T: t, s: s, id: store.ID{App: "/", Session: "s"}}
	x.a, x.bucket = s.apps.get(s, x.id.App), s.keys.bucketOf(x.id.Session)
	return x
}

func (x *indexed) must(err error) {
	x.Helper()
	if err != nil {
		x.Fatal(err)
	}
}

func (x *indexed) create() {
	x.Helper()
	rec := &store.Record{Version: store.NewVersion(), Timeout: 20 * time.Minute, Body: []byte("x")}
	x.must(x.s.Create(x.Context(), x.id, rec, false))
}

func (x *indexed) remove(why store.Kind) {
	x.Helper()
	x.must(x.s.Remove(x.Context(), x.id, store.Lock{}, store.Reason{Kind: why}))
}

// score is when the session is to be looked at, as the index has it.
func (x *indexed) score() float64 {
	x.Helper()
	v, err := x.s.one(x.Context(), &call{command: "ZSCORE", key: x.a.keys.index(x.bucket), args: []string{x.id.Session}})
	x.must(err)
	n, err := v.AsFloat64()
	if err != nil {
		x.Fatalf("a session that lives is not in the index: no sweep ends it, and no list has it (%v)", err)
	}
	return n
}

// rescore tells the index what was seen of the session when it had that score.
func (x *indexed) rescore(was float64, seen sight) {
	x.Helper()
	_, err := x.s.one(x.Context(), &call{script: x.s.scripts.rescore, key: x.a.keys.index(x.bucket), args: []string{x.id.Session, score(was), seen.score()}})
	x.must(err)
}

// TestCreateDuringSweepStaysIndexed has a session created, under the ID of one that a
// sweep has just seen gone, before the sweep tells the index: in every state in which the
// sweep may have found the one before in the index.
func TestCreateDuringSweepStaysIndexed(t *testing.T) {
	x := newIndexed(t)
	look := func() sight {
		t.Helper()
		seen, err := x.s.look(t.Context(), x.a, []candidate{{session: x.id.Session, bucket: x.bucket}}, string(append(x.a.begin(9), '0').u64(0)))
		x.must(err)
		return seen[0]
	}
	for name, before := range map[string]func() (was float64){
		"removed": func() float64 { x.remove(store.Moved); return x.score() },
		"created again and removed": func() float64 {
			x.remove(store.Moved)
			x.create()
			was := x.score()
			x.remove(store.Moved)
			return was
		},
		"alive": func() float64 { was := x.score(); x.remove(store.Moved); return was },
	} {
		t.Run(name, func(t *testing.T) {
			x.T = t
			x.create()
			was := before()
			seen := look()
			if seen.deadline != 0 {
				t.Fatalf("a session that was removed is seen: %+v", seen)
			}
			x.create()
			x.rescore(was, seen)
			x.score()
			x.remove(store.Moved)
		})
	}
}

// TestCreateDuringAckStaysIndexed has it created while the end of the one before is
// acknowledged.
func TestCreateDuringAckStaysIndexed(t *testing.T) {
	x := newIndexed(t)
	x.create()
	x.remove(store.Abandoned)
	ends, err := x.s.Ended(t.Context(), x.id.App, 10, time.Minute)
	if err != nil || len(ends) != 1 {
		t.Fatalf("%d ends, %v", len(ends), err)
	}
	was := x.score()
	name, _, _ := strings.Cut(ends[0].Key, ".")
	end, err := hex.DecodeString(name)
	x.must(err)
	v, err := x.s.one(t.Context(), &call{script: x.s.scripts.ack, key: x.a.keys.session(x.id.Session), args: []string{string(x.a.begin(0)), string(end)}})
	x.must(err)
	parts, err := v.AsIntSlice()
	x.must(err)
	x.create()
	x.rescore(was, sight{deadline: parts[0], ready: parts[1]})
	x.score()
}

// TestCreateTellsIndexAgain: where the index had the session before, a sweep may have
// taken it out between the two calls of Create.
func TestCreateTellsIndexAgain(t *testing.T) {
	x := newIndexed(t)
	x.create()
	x.remove(store.Moved)
	index := x.a.keys.index(x.bucket)
	sweep := &script{text: "redis.call('ZREM', KEYS[1], '" + x.id.Session + "') return {0}"}
	calls := []call{
		{script: x.s.scripts.due, key: index, args: []string{x.id.Session, "1000000"}},
		{script: sweep, whole: true, key: index}, // what comes between the two, and stands for the second
	}
	if _, err := x.s.askIndexed(t.Context(), calls); err != nil {
		t.Fatal(err)
	}
	x.s.background.wait()
	x.score()
}
