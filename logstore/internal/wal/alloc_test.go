//go:build !race

package wal

import (
	"testing"
)

func TestSteadyCallsAllocateNothing(t *testing.T) {
	for _, sync := range []Sync{Interval, Always, Never} {
		l := open(t, dir(t), Options{Sync: sync})
		replay1(t, l, 0)
		body := make([]byte, 500)
		head := make([]byte, 20)
		buf := make([]byte, 0, 1000)
		k := key(1)
		var err error
		n := testing.AllocsPerRun(200, func() {
			at, seq, e := l.Append(k, putType, Change, head, body)
			if e == nil {
				e = l.Commit(seq)
			}
			if e == nil && seq%8 == 0 {
				e = l.CommitEnd(seq)
			}
			if e == nil {
				buf, e = l.Read(at, k, buf)
			}
			l.Free(at)
			if e != nil {
				err = e
			}
		})
		if n != 0 || err != nil {
			t.Errorf("sync %d: %v allocations, %v", sync, n, err)
		}
	}
}
