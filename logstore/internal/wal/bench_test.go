package wal

import (
	"fmt"
	"sync/atomic"
	"testing"
)

// BenchmarkAppend measures an append of 500 bytes until it is committed, on the real
// disk. Records per sync say how well the callers share.
func BenchmarkAppend(b *testing.B) {
	for _, sync := range []Sync{Interval, Always} {
		for _, writers := range []int{1, 64} {
			b.Run(fmt.Sprintf("%s/%d", [...]string{"Interval", "Always", "Never"}[sync], writers), func(b *testing.B) {
				l := open(b, dir(b), Options{Sync: sync})
				replay1(b, l, 0)
				payload := make([]byte, 500)
				var n atomic.Int64
				b.SetBytes(int64(len(payload)))
				b.ReportAllocs()
				before := l.Stats()
				b.SetParallelism(max(1, writers/2)) // of two processors
				if writers == 1 {
					for range b.N {
						one(b, l, key(1), payload)
					}
				} else {
					b.RunParallel(func(pb *testing.PB) {
						k := key(int(n.Add(1)))
						for pb.Next() {
							one(b, l, k, payload)
						}
					})
				}
				s := l.Stats()
				if syncs := s.Syncs - before.Syncs; syncs > 0 {
					b.ReportMetric(float64(s.Records-before.Records)/float64(syncs), "records/sync")
				}
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
			})
		}
	}
}

func one(b *testing.B, l *Log, k Key, payload []byte) {
	at, seq, err := l.Append(k, putType, Change, payload)
	if err == nil {
		err = l.Commit(seq)
	}
	if err != nil {
		b.Error(err)
	}
	l.Free(at)
	if seq%(1<<16) == 0 {
		// Keep the disk from filling up.
		for s, ok := l.Candidate(); ok; s, ok = l.Candidate() {
			if l.Drop(s) != nil {
				break
			}
		}
	}
}

// BenchmarkDisk is what the disk can: a write of 32 such records and a sync.
func BenchmarkDisk(b *testing.B) {
	f, err := dir(b).Create("file")
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	const size = 32 * (500 + overhead)
	if err := f.Allocate(DefaultSegmentSize); err != nil {
		b.Fatal(err)
	}
	payload := make([]byte, size)
	for i := range b.N {
		if _, err := f.WriteAt(payload, int64(i%(DefaultSegmentSize/size))*size); err != nil {
			b.Fatal(err)
		}
		if err := f.Sync(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(32*float64(b.N)/b.Elapsed().Seconds(), "records/s")
}

// BenchmarkReplay measures reading a log back, per record of 500 bytes.
func BenchmarkReplay(b *testing.B) {
	fs := dir(b)
	l := open(b, fs, Options{})
	replay1(b, l, 0)
	const records = 200_000
	payload := make([]byte, 500)
	for n := range records {
		if _, _, err := l.Append(key(n), putType, New, payload); err != nil {
			b.Fatal(err)
		}
	}
	closeLog(b, l)
	for b.Loop() {
		l := open(b, fs, Options{})
		n := 0
		if _, err := l.Replay(0, func(Entry) error { n++; return nil }); err != nil || n != records {
			b.Fatal(n, err)
		}
		closeLog(b, l)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/records, "ns/record")
}
