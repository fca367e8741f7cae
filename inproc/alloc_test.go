//go:build !race

package inproc

import (
	"testing"
	"time"
	"unsafe"

	"github.com/holdfast-session/holdfast/store"
)

func TestSteadyCallsAllocateNothing(t *testing.T) {
	s := open(t, nil)
	id := sid("xk3vbbsoamqhpobn3ujz4ljc")
	rec := store.Record{Version: 1, Timeout: 20 * time.Minute, Items: new(int)}
	if err := s.Create(ctx, id, &rec, false); err != nil {
		t.Fatal(err)
	}
	inBytes := sid("its content is bytes")
	rec2 := store.Record{Version: 1, Timeout: 20 * time.Minute, Body: make([]byte, 500), Subject: "alice"}
	if err := s.Create(ctx, inBytes, &rec2, false); err != nil {
		t.Fatal(err)
	}
	v := uint64(1)
	for name, call := range map[string]func() error{
		"Lock and Save":           func() error { v++; return cycle(s, id, &rec, v, v) },
		"Lock and Save of a body": func() error { v++; return cycle(s, inBytes, &rec2, v, v) },
		"Load":                    func() error { return s.Load(ctx, id, &rec) },
		"Touch":                   func() error { return s.Touch(ctx, id) },
		"Lock and Unlock": func() error {
			if err := s.Lock(ctx, id, store.LockOptions{Owner: 3}, &rec); err != nil {
				return err
			}
			return s.Unlock(ctx, id, rec.Lock)
		},
	} {
		var err error
		if n := testing.AllocsPerRun(100, func() { err = call() }); n != 0 || err != nil {
			t.Errorf("%s: %v allocations, %v", name, n, err)
		}
	}
}

func TestEntryIsSmall(t *testing.T) {
	if size := unsafe.Sizeof(entry{}); size > 144 {
		t.Errorf("an entry has %d bytes; past 144 the allocator gives it 160", size)
	}
}
