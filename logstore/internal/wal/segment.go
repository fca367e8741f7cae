package wal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"sync"
	"sync/atomic"

	"github.com/holdfast-session/holdfast/logstore/internal/vfs"
)

// A segment file begins with its header, in two copies that lie apart, and goes on
// with records. What is not written yet is zeros: the file is allocated before it is
// used. A segment whose header is not there was never begun, or not committed: what
// is in it is in the segments before it too.
const (
	formatVersion = 1

	headerSize   = 128  // of one copy, its CRC last: fixed for every format version
	headerCopy   = 4096 // where the second one is
	recordsStart = 8192

	// minSegment is the least that a segment is worth having.
	minSegment = 16 << 10
)

var segmentMagic = [8]byte{'H', 'O', 'L', 'D', 'L', 'O', 'G', 0}

// A header is what a segment says of itself and of the one before it.
type header struct {
	version uint32
	id      [16]byte // of the log
	number  uint32
	first   uint64 // the sequence number of its first record
	size    int64  // of the file, as it was allocated
	horizon uint64 // the highest sequence number known synced when this was written

	// The segment before: where its last valid record ends, and that one's sequence
	// number. What is behind it, or in segments between the two, was appended again.
	prev     uint32 // 0: none
	prevEnd  int64
	prevLast uint64
}

// put encodes both copies into b, which has recordsStart zeros.
func (h *header) put(b []byte) {
	copy(b, segmentMagic[:])
	binary.LittleEndian.PutUint32(b[8:], h.version)
	copy(b[12:28], h.id[:])
	binary.LittleEndian.PutUint32(b[28:], h.number)
	binary.LittleEndian.PutUint64(b[32:], h.first)
	binary.LittleEndian.PutUint64(b[40:], uint64(h.size))
	binary.LittleEndian.PutUint64(b[48:], h.horizon)
	binary.LittleEndian.PutUint32(b[56:], h.prev)
	binary.LittleEndian.PutUint64(b[60:], uint64(h.prevEnd))
	binary.LittleEndian.PutUint64(b[68:], h.prevLast)
	binary.LittleEndian.PutUint32(b[headerSize-4:], crc32.Checksum(b[:headerSize-4], castagnoli))
	copy(b[headerCopy:], b[:headerSize])
}

func parseHeader(b []byte) (h header, ok bool) {
	if len(b) < headerSize || [8]byte(b) != segmentMagic ||
		binary.LittleEndian.Uint32(b[headerSize-4:]) != crc32.Checksum(b[:headerSize-4], castagnoli) {
		return header{}, false
	}
	return header{
		version:  binary.LittleEndian.Uint32(b[8:]),
		id:       [16]byte(b[12:28]),
		number:   binary.LittleEndian.Uint32(b[28:]),
		first:    binary.LittleEndian.Uint64(b[32:]),
		size:     int64(binary.LittleEndian.Uint64(b[40:])),
		horizon:  binary.LittleEndian.Uint64(b[48:]),
		prev:     binary.LittleEndian.Uint32(b[56:]),
		prevEnd:  int64(binary.LittleEndian.Uint64(b[60:])),
		prevLast: binary.LittleEndian.Uint64(b[68:]),
	}, true
}

// A segment is one file of the log. Fields without a word are guarded by Log.mu.
type segment struct {
	number uint32
	size   int64 // of the file, allocated
	off    int64 // of the active one: where the next record goes; of the others: where the last one ends
	live   atomic.Int64

	// trimmed: nothing is behind off in the file, for good.
	trimmed bool
	// reserve: it was made of the reserve file, which is not there any more.
	reserve bool
	// attempt: it belongs to a recovery that has not come through.
	attempt bool

	file sync.RWMutex // held for reading by readers, so that Drop can close f
	f    vfs.File     // nil: dropped
}

func segmentName(number uint32) string { return fmt.Sprintf("%08x.seg", number) }

// used returns how many bytes of records there are.
func (s *segment) used() int64 { return max(0, s.off-recordsStart) }

// ReadAt reads the file, also while somebody wants to drop it. A segment that was
// dropped is empty.
func (s *segment) ReadAt(p []byte, off int64) (int, error) {
	s.file.RLock()
	defer s.file.RUnlock()
	if s.f == nil {
		return 0, io.EOF
	}
	return s.f.ReadAt(p, off)
}

// readHeader reads one segment's header. damaged holds the offsets of copies that
// are not intact.
func readHeader(f vfs.File) (h header, ok bool, damaged []int64, err error) {
	var b [headerSize]byte
	for _, off := range []int64{0, headerCopy} {
		clear(b[:])
		if _, err := f.ReadAt(b[:], off); err != nil && !errors.Is(err, io.EOF) {
			return header{}, false, nil, err
		}
		switch c, intact := parseHeader(b[:]); {
		case !intact:
			damaged = append(damaged, off)
		case !ok:
			h, ok = c, true
		}
	}
	return h, ok, damaged, nil
}

// create makes an empty segment file, so that all of it is durable and allocated.
func (l *Log) create(number uint32, size int64) (*segment, error) {
	name := segmentName(number)
	f, err := l.fs.Create(name)
	if err != nil {
		return nil, err
	}
	err = f.Allocate(size)
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = l.fs.SyncDir()
	}
	if err != nil {
		f.Close()
		l.fs.Remove(name)
		return nil, err
	}
	return &segment{number: number, size: size, off: recordsStart, f: f}, nil
}

// trim cuts a segment that was left where its last record ends, which gives back its
// space and makes that end stand when the next segment, which says it too, is gone.
func (l *Log) trim(s *segment) error {
	l.mu.Lock()
	off, done := s.off, s.trimmed
	l.mu.Unlock()
	if done {
		return nil
	}
	s.file.RLock()
	defer s.file.RUnlock()
	if s.f == nil {
		return nil
	}
	if err := s.f.Truncate(off); err != nil {
		return err
	}
	if err := s.f.Sync(); err != nil {
		return err
	}
	l.mu.Lock()
	l.allocated -= s.size - off
	s.size, s.trimmed = off, true
	l.mu.Unlock()
	return nil
}
