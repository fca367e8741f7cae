package wal

import (
	"bytes"
	"errors"
	"io"
)

// A state says what a scanner found at a place.
type state uint8

const (
	whole   state = iota // a record
	mended               // a record of which one end is damaged: the other leads to an intact payload
	damaged              // a record whose payload cannot be read, named by one of its ends
	garbage              // bytes in which there is no end of a record
)

// An item is what a scanner finds next.
type item struct {
	state   state
	off     int64
	size    int64
	end     end    // but for garbage
	payload []byte // if whole or mended; valid until the next call
}

// A scanner goes through the records of a segment, in order, and past damage.
type scanner struct {
	window window
	seed   uint32
	off    int64 // of what comes next
	limit  int64 // nothing that is behind it counts
}

// newScanner reads f from off up to limit.
func newScanner(f io.ReaderAt, off, limit int64, seed uint32) *scanner {
	return &scanner{window: window{f: f}, seed: seed, off: off, limit: limit}
}

// next returns what is at s.off and moves behind it; ok is false at the end, where
// nothing but zeros follows.
func (s *scanner) next() (it item, ok bool, err error) {
	if s.off >= s.limit {
		return item{}, false, nil
	}
	b, err := s.bytes(s.off, endSize)
	if err != nil {
		return item{}, false, err
	}
	if head, ok := parseEnd(b, headMagic, s.seed); ok {
		it, err := s.record(s.off, head)
		if err != nil {
			return item{}, false, err
		}
		s.off += it.size
		return it, true, nil
	}
	return s.search()
}

// record reads the record at off whose header is intact.
func (s *scanner) record(off int64, head end) (item, error) {
	size := head.size()
	if off+size > s.limit { // cut off
		return item{state: damaged, off: off, size: s.limit - off, end: head}, nil
	}
	b, err := s.bytes(off, size)
	if err != nil {
		return item{}, err
	}
	it := item{state: whole, off: off, size: size, end: head}
	if int64(len(b)) < size { // the file is shorter than it was a moment ago
		it.state = damaged
		return it, nil
	}
	it.payload = b[endSize : size-endSize]
	tail, intact := parseEnd(b[size-endSize:], tailMagic, s.seed)
	switch sum, _ := sumOf(s.seed, [][]byte{it.payload}); {
	case sum != head.sum:
		it.state, it.payload = damaged, nil
	case !intact || tail != head:
		it.state = mended
	}
	return it, nil
}

// search is for a place where no header is: it looks for the next end of a record
// behind it, byte by byte.
func (s *scanner) search() (it item, ok bool, err error) {
	start := s.off
	used := start // behind the last byte that is not zero
	for off := start; off < s.limit; {
		b, err := s.bytes(off, windowSize)
		if err != nil {
			return item{}, false, err
		}
		if len(b) == 0 {
			break
		}
		last := int64(len(b)) < min(windowSize, s.limit-off) || off+int64(len(b)) >= s.limit
		if !zero(b) {
			used = off + int64(len(bytes.TrimRight(b, "\x00")))
			for i := 0; ; i++ {
				k := bytes.IndexByte(b[i:], magicByte)
				if k < 0 {
					break
				}
				i += k
				at := off + int64(i)
				if _, ok := parseEnd(b[i:], headMagic, s.seed); ok && at > start {
					s.off = at
					return item{state: garbage, off: start, size: at - start}, true, nil
				}
				tail, ok := parseEnd(b[i:], tailMagic, s.seed)
				begin := at + endSize - tail.size()
				if !ok || begin < start {
					continue
				}
				if begin > start { // found again from there
					s.off = begin
					return item{state: garbage, off: start, size: begin - start}, true, nil
				}
				it, err := s.tailed(start, tail)
				s.off += it.size
				return it, true, err
			}
		}
		if last {
			break
		}
		off += int64(len(b)) - (endSize - 1) // an end may lie across two windows
	}
	s.off = s.limit
	if used == start {
		return item{}, false, nil
	}
	return item{state: garbage, off: start, size: used - start}, true, nil
}

// tailed reads the record at off of which the trailer alone is intact.
func (s *scanner) tailed(off int64, tail end) (item, error) {
	it := item{state: damaged, off: off, size: tail.size(), end: tail}
	b, err := s.bytes(off, it.size)
	if err != nil || int64(len(b)) < it.size {
		return it, err
	}
	payload := b[endSize : it.size-endSize]
	if sum, _ := sumOf(s.seed, [][]byte{payload}); sum == tail.sum {
		it.state, it.payload = mended, payload
	}
	return it, nil
}

// bytes returns n bytes at off, or as many as there are before the limit and in the
// file.
func (s *scanner) bytes(off, n int64) ([]byte, error) {
	return s.window.bytes(off, min(n, s.limit-off), s.limit)
}

var zeros [64 << 10]byte

func zero(b []byte) bool {
	for len(b) > len(zeros) {
		if !bytes.Equal(b[:len(zeros)], zeros[:]) {
			return false
		}
		b = b[len(zeros):]
	}
	return bytes.Equal(b, zeros[:len(b)])
}

const windowSize = 256 << 10

// A window reads a file in large pieces.
type window struct {
	f   io.ReaderAt
	buf []byte // what is at off
	off int64
}

// bytes returns the n bytes at off, fewer at the end of the file. It reads ahead, up
// to limit. The result is valid until the next call.
func (w *window) bytes(off, n, limit int64) ([]byte, error) {
	if have := w.off + int64(len(w.buf)) - off; off < w.off || have < n {
		kept := 0
		want := max(n, min(windowSize, limit-off))
		buf := w.buf[:0]
		if int64(cap(buf)) < want {
			buf = make([]byte, 0, want)
		}
		if off >= w.off && have > 0 {
			kept = copy(buf[:have], w.buf[int64(len(w.buf))-have:])
		}
		w.off, w.buf = off, buf[:want]
		read, err := w.f.ReadAt(w.buf[kept:], off+int64(kept))
		w.buf = w.buf[:kept+read]
		if err != nil && !errors.Is(err, io.EOF) {
			w.buf = w.buf[:0]
			return nil, err
		}
	}
	b := w.buf[off-w.off:]
	return b[:min(n, int64(len(b)))], nil
}
