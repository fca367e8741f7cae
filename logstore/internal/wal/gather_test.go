package wal

import (
	"sync"
	"sync/atomic"
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

// TestGatherCountsOnce has writers come back in the very moment a sync ends, when whoever
// it wakes to lead the next may find another leading: nobody is counted twice, or the
// next leader would wait for one who does not come.
func TestGatherCountsOnce(t *testing.T) {
	const takes, rounds = 5 * time.Millisecond, 50
	synctest.Test(t, func(t *testing.T) {
		l := open(t, slowFS{vfs.NewMem(), takes}, Options{Sync: Always})
		replay1(t, l, 0)
		defer l.Close()
		var inside atomic.Int32
		var all sync.WaitGroup
		for i := range 16 {
			all.Go(func() {
				time.Sleep(time.Duration(i%3) * takes)
				for range rounds {
					_, seq, err := l.Append(key(i), putType, Change, []byte("payload"))
					inside.Add(1)
					if err == nil {
						err = l.Commit(seq)
					}
					inside.Add(-1)
					if err != nil {
						t.Error(err)
						return
					}
					time.Sleep(takes)
				}
			})
		}
		for range rounds {
			time.Sleep(takes)
			synctest.Wait()
			l.mu.Lock()
			if counted := l.gather.waiting[0] + l.gather.waiting[1]; counted > int(inside.Load()) {
				t.Errorf("%d are counted, and %d there", counted, inside.Load())
			}
			l.mu.Unlock()
		}
		all.Wait()
	})
}
