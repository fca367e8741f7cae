//go:build !race

package logstore

import (
	"testing"
	"time"
	"unsafe"

	"github.com/holdfast-session/holdfast/store"
)

func TestSteadyCallsAllocateNothing(t *testing.T) {
	s, err := Open(t.TempDir(), &Options{SegmentSize: 4 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctx := t.Context()
	id := store.ID{App: "/", Session: "xk3vbbsoamqhpobn3ujz4ljc"}
	rec := store.Record{Version: 1, Timeout: 20 * time.Minute, Body: make([]byte, 500), Subject: "alice"}
	if err := s.Create(ctx, id, &rec, false); err != nil {
		t.Fatal(err)
	}
	version := store.Version(1)
	for name, call := range map[string]func() error{
		"Lock, Save and Load": func() error {
			if err := s.Lock(ctx, id, store.LockOptions{Owner: 3, Stale: time.Minute}, &rec); err != nil {
				return err
			}
			version++
			rec.Body[0]++
			if err := s.Save(ctx, id, &rec, version, false); err != nil {
				return err
			}
			return s.Load(ctx, id, &rec)
		},
		"Touch": func() error { return s.Touch(ctx, id) },
		"Lock and Unlock": func() error {
			if err := s.Lock(ctx, id, store.LockOptions{Owner: 3}, &rec); err != nil {
				return err
			}
			return s.Unlock(ctx, id, rec.Lock)
		},
	} {
		var err error
		if n := testing.AllocsPerRun(1000, func() { err = call() }); n != 0 || err != nil {
			t.Errorf("%s: %v allocations, %v", name, n, err)
		}
	}
}

func TestEntryIsSmall(t *testing.T) {
	if size := unsafe.Sizeof(entry{}); size != 112 {
		t.Errorf("an entry has %d bytes; entryBytes counts on 112", size)
	}
}
