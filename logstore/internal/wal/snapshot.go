package wal

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"slices"

	"github.com/holdfast-session/holdfast/logstore/internal/vfs"
)

// A snapshot file is named by the sequence number from which the log goes on. It has
// a header and then blocks of up to 64 KiB, each behind its length and the CRC of all
// content so far, so that none can be missing or in another place. A block of length
// zero is the last, and has 8 bytes: the horizon, which is not before anything that the
// snapshot knows, so that Replay leaves that where it is.
const (
	snapshotSuffix = ".snap"
	snapshotTemp   = "snapshot.tmp"

	snapshotHeader = 40 // magic 8, version 4, log ID 16, seq 8, CRC 4
	blockHeader    = 8  // length 4, CRC 4
	blockSize      = 64 << 10
)

var snapshotMagic = [8]byte{'H', 'O', 'L', 'D', 'S', 'N', 'A', 'P'}

type snapshotFile struct {
	name string
	seq  uint64
	size int64
}

// snapshotInfo is what the log knows of its snapshots. It is guarded by Log.mu.
type snapshotInfo struct {
	files []snapshotFile // that are there, ascending
	seq   uint64         // of the newest whole one; 0: none
	size  int64

	horizon uint64 // that the one which was loaded states
}

func snapshotName(seq uint64) string { return fmt.Sprintf("%016x%s", seq, snapshotSuffix) }

// Snapshot gives the newest snapshot that is whole to visit, and returns from where
// the log goes on; ok is false if there is none. It is read through and checked
// before visit sees any of it. One that is damaged is reported to the logger and
// removed. The error is visit's, or the file system's.
func (l *Log) Snapshot(visit func(r io.Reader) error) (from uint64, ok bool, err error) {
	if l.reopen == nil {
		return 0, false, ErrClosed
	}
	for _, s := range slices.Backward(l.snapshot.files) {
		if ok {
			l.leftovers = append(l.leftovers, s.name)
			continue
		}
		horizon, err := l.readSnapshot(s, visit)
		switch {
		case errors.Is(err, errSnapshot):
			l.logger.Error("log: a snapshot is damaged; the log is read instead", "file", s.name, "err", err)
			l.leftovers = append(l.leftovers, s.name)
			continue
		case err != nil:
			return 0, false, err
		}
		from, ok = s.seq, true
		l.snapshot = snapshotInfo{files: []snapshotFile{s}, seq: s.seq, size: s.size, horizon: horizon}
		l.allocated += s.size
	}
	if !ok {
		l.snapshot.files = nil
	}
	// An older one must not be found any more once its successor counts: removes that
	// are in the newer one only may be dropped from the log.
	return from, ok, l.sweep()
}

// errSnapshot means that a snapshot is not whole.
var errSnapshot = errors.New("not whole")

func (l *Log) readSnapshot(s snapshotFile, visit func(io.Reader) error) (horizon uint64, err error) {
	f, err := l.fs.Open(s.name)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	var b [snapshotHeader]byte
	if _, err := f.ReadAt(b[:], 0); err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	if [8]byte(b[:8]) != snapshotMagic || binary.LittleEndian.Uint32(b[36:]) != crc32.Update(l.seed, castagnoli, b[:36]) {
		return 0, fmt.Errorf("%w: header", errSnapshot)
	}
	if v := binary.LittleEndian.Uint32(b[8:]); v > formatVersion {
		return 0, fmt.Errorf("%s has format version %d, this program knows up to %d: it was written by a newer program", s.name, v, formatVersion)
	}
	if [16]byte(b[12:28]) != l.id || binary.LittleEndian.Uint64(b[28:]) != s.seq {
		return 0, fmt.Errorf("%w: it is another log's, or was renamed", errSnapshot)
	}
	check := l.blocks(f)
	if _, err := io.Copy(io.Discard, check); err != nil {
		return 0, err
	}
	return check.horizon, visit(bufio.NewReaderSize(l.blocks(f), blockSize))
}

func (l *Log) blocks(f vfs.File) *blockReader {
	return &blockReader{f: f, off: snapshotHeader, sum: l.seed}
}

// A blockReader reads the content of a snapshot.
type blockReader struct {
	f    vfs.File
	off  int64
	sum  uint32
	buf  []byte
	rest []byte // of the block, not read yet
	err  error

	horizon uint64 // known at the end
}

func (r *blockReader) Read(p []byte) (int, error) {
	for len(r.rest) == 0 && r.err == nil {
		r.rest, r.err = r.block()
	}
	if len(r.rest) == 0 {
		return 0, r.err
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// block reads the next block, and io.EOF after the last one.
func (r *blockReader) block() ([]byte, error) {
	if r.buf == nil {
		r.buf = make([]byte, blockHeader+blockSize)
	}
	n, err := r.f.ReadAt(r.buf, r.off)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if n < blockHeader {
		return nil, fmt.Errorf("%w: no end", errSnapshot)
	}
	length := int(binary.LittleEndian.Uint32(r.buf))
	last := length == 0
	if last {
		length = 8
	}
	if length > n-blockHeader {
		return nil, fmt.Errorf("%w: offset %d", errSnapshot, r.off)
	}
	b := r.buf[blockHeader:][:length]
	r.sum = crc32.Update(crc32.Update(r.sum, castagnoli, r.buf[:4]), castagnoli, b)
	if binary.LittleEndian.Uint32(r.buf[4:]) != r.sum {
		return nil, fmt.Errorf("%w: offset %d", errSnapshot, r.off)
	}
	r.off += int64(blockHeader + length)
	if last {
		r.horizon = binary.LittleEndian.Uint64(b)
		return nil, io.EOF
	}
	return b, nil
}

// WriteSnapshot writes a snapshot of the owner's state, which includes everything up
// to seq and may include what came later, and makes it the only one. Everything that
// is appended before write returns is synced first, so that a snapshot never knows
// more than the log. w is buffered. When there is an error the last snapshot stands.
// One call at a time.
func (l *Log) WriteSnapshot(seq uint64, write func(w io.Writer) error) (err error) {
	f, err := l.fs.Create(snapshotTemp)
	if errors.Is(err, fs.ErrExist) {
		if err := l.fs.Remove(snapshotTemp); err != nil {
			return err
		}
		f, err = l.fs.Create(snapshotTemp)
	}
	if err != nil {
		return err
	}
	w := &blockWriter{f: f, sum: l.seed}
	err = w.header(l.id, seq)
	if err == nil {
		b := bufio.NewWriterSize(w, blockSize)
		if err = write(b); err == nil {
			err = b.Flush()
		}
	}
	if err == nil {
		err = l.syncTo(l.Last())
	}
	if err == nil {
		err = w.last(l.Synced())
	}
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err != nil {
		l.fs.Remove(snapshotTemp)
		return err
	}
	return l.putSnapshot(snapshotFile{name: snapshotName(seq), seq: seq, size: w.off})
}

// putSnapshot makes the temporary file the snapshot. The old one goes before anybody
// relies on the new one.
func (l *Log) putSnapshot(s snapshotFile) error {
	if err := l.fs.Rename(snapshotTemp, s.name); err != nil {
		l.fs.Remove(snapshotTemp)
		return err
	}
	l.mu.Lock()
	old := slices.DeleteFunc(slices.Clone(l.snapshot.files), func(o snapshotFile) bool { return o.name == s.name })
	l.snapshot.files = append(slices.Clone(old), s)
	l.mu.Unlock()
	if err := l.fs.SyncDir(); err != nil {
		return err
	}
	for _, o := range old {
		if err := l.fs.Remove(o.name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if len(old) > 0 {
		if err := l.fs.SyncDir(); err != nil {
			return err
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.allocated += s.size - l.snapshot.size
	l.snapshot = snapshotInfo{files: []snapshotFile{s}, seq: s.seq, size: s.size}
	return nil
}

// SnapshotSeq returns the sequence number of the newest snapshot, once it is the only
// one; 0: there is none.
func (l *Log) SnapshotSeq() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.snapshot.seq
}

// SnapshotSize returns its bytes.
func (l *Log) SnapshotSize() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.snapshot.size
}

// A blockWriter writes what it gets as blocks.
type blockWriter struct {
	f   vfs.File
	off int64
	sum uint32
	buf []byte
}

func (w *blockWriter) header(id [16]byte, seq uint64) error {
	b := make([]byte, snapshotHeader)
	copy(b, snapshotMagic[:])
	binary.LittleEndian.PutUint32(b[8:], formatVersion)
	copy(b[12:28], id[:])
	binary.LittleEndian.PutUint64(b[28:], seq)
	binary.LittleEndian.PutUint32(b[36:], crc32.Update(w.sum, castagnoli, b[:36]))
	n, err := w.f.WriteAt(b, 0)
	w.off = int64(n)
	return err
}

func (w *blockWriter) Write(p []byte) (int, error) {
	done := 0
	for done < len(p) {
		b := p[done:min(len(p), done+blockSize)]
		if err := w.block(len(b), b); err != nil {
			return done, err
		}
		done += len(b)
	}
	return done, nil
}

// last writes the last block.
func (w *blockWriter) last(horizon uint64) error {
	return w.block(0, binary.LittleEndian.AppendUint64(nil, horizon))
}

func (w *blockWriter) block(length int, b []byte) error {
	w.buf = append(w.buf[:0], make([]byte, blockHeader)...)
	w.buf = append(w.buf, b...)
	binary.LittleEndian.PutUint32(w.buf, uint32(length))
	w.sum = crc32.Update(crc32.Update(w.sum, castagnoli, w.buf[:4]), castagnoli, b)
	binary.LittleEndian.PutUint32(w.buf[4:], w.sum)
	n, err := w.f.WriteAt(w.buf, w.off)
	w.off += int64(n)
	return err
}
