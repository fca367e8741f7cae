package wal

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-session/holdfast/logstore/internal/vfs"
)

// A slowFS takes its time to sync files.
type slowFS struct {
	vfs.FS
	sync time.Duration
}

func (s slowFS) Create(name string) (vfs.File, error) {
	f, err := s.FS.Create(name)
	return slowFile{f, s.sync}, err
}

type slowFile struct {
	vfs.File
	sync time.Duration
}

func (f slowFile) Sync() error {
	time.Sleep(f.sync)
	return f.File.Sync()
}

// TestGather has writers that come back a while after each commit: those that two
// syncs had parted meet again in one, and who is alone is not held up.
func TestGather(t *testing.T) {
	for _, tc := range []struct {
		name    string
		writers int
		away    time.Duration // between a commit and the next append
		most    time.Duration // for a hundred appends of each
	}{
		// A sync for each append of one writer, and nothing else.
		{"one", 1, 500 * time.Microsecond, 100 * 5500 * time.Microsecond},
		// Parted, they would take two syncs for an append of each: a second in all.
		{"many", 64, 500 * time.Microsecond, 100*5500*time.Microsecond + 50*time.Millisecond},
		// Those who stay away for long are not waited for each time.
		{"away", 2, 20 * time.Millisecond, 100*25*time.Millisecond + 100*time.Millisecond},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := open(t, slowFS{vfs.NewMem(), 5 * time.Millisecond}, Options{Sync: Always})
				replay1(t, l, 0)
				start := time.Now()
				var writers sync.WaitGroup
				for i := range tc.writers {
					writers.Go(func() {
						time.Sleep(time.Duration(i) * 100 * time.Microsecond) // parted
						for range 100 {
							_, seq, err := l.Append(key(i), putType, Change, []byte("payload"))
							if err == nil {
								err = l.Commit(seq)
							}
							if err != nil {
								t.Error(err)
								return
							}
							time.Sleep(tc.away)
						}
					})
				}
				writers.Wait()
				took, s := time.Since(start), l.Stats()
				t.Logf("%v, %.1f records a sync", took, float64(s.Records)/float64(s.Syncs))
				if took > tc.most {
					t.Errorf("took %v; want %v at most", took, tc.most)
				}
				l.Close()
			})
		})
	}
}
