package wal

import (
	"crypto/rand"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"strconv"
	"strings"
)

// A found is a segment file as Open finds it.
type found struct {
	*segment
	header  header
	ok      bool    // the header is intact
	damaged []int64 // offsets of its copies that are not
	size    int64   // of the file

	// Set by chain.
	limit int64  // where its last record ends, as the next one says; else the file's size
	last  uint64 // that record's sequence number, if the next one says
	next  bool   // the next one says
}

// A reopening is what Open found, and Replay goes through.
type reopening struct {
	files   []*found // ascending
	horizon uint64   // nothing up to it may be missing
	last    uint64   // the highest sequence number seen anywhere
}

// parseName returns the number in a name of the form number and suffix.
func parseName(name, suffix string, digits int) (uint64, bool) {
	hex, ok := strings.CutSuffix(name, suffix)
	if !ok || len(hex) != digits || strings.ToLower(hex) != hex {
		return 0, false
	}
	n, err := strconv.ParseUint(hex, 16, 64)
	return n, err == nil
}

// examine lists the folder and reads the segments' headers.
func (l *Log) examine() error {
	list, err := l.fs.List()
	if err != nil {
		return err
	}
	l.reopen = &reopening{}
	named := false // the log's ID is known
	for _, info := range list {
		if seq, ok := parseName(info.Name, snapshotSuffix, 16); ok {
			l.snapshot.files = append(l.snapshot.files, snapshotFile{name: info.Name, seq: seq, size: info.Size})
			continue
		}
		switch info.Name {
		case snapshotTemp:
			l.leftovers = append(l.leftovers, info.Name)
			continue
		case reserveName:
			if info.Size >= l.reserveSize {
				l.reserve = info.Size
				l.allocated += info.Size
			}
			continue
		}
		number, ok := parseName(info.Name, ".seg", 8)
		if !ok || number == 0 {
			continue // not ours
		}
		f, err := l.fs.Open(info.Name)
		if err != nil {
			return err
		}
		s := &found{segment: &segment{number: uint32(number), size: info.Size, f: f}, size: info.Size}
		l.activateFound(s)
		s.header, s.ok, s.damaged, err = readHeader(f)
		if err != nil {
			return err
		}
		if s.ok && s.header.version > formatVersion {
			return fmt.Errorf("%s has format version %d, this program knows up to %d: it was written by a newer program", info.Name, s.header.version, formatVersion)
		}
		if s.ok && s.header.number != s.number {
			return fmt.Errorf("%s says that it is %s: was it copied or renamed?", info.Name, segmentName(s.header.number))
		}
		if s.ok {
			if named && s.header.id != l.id {
				return fmt.Errorf("%s belongs to another log than the segments before it", info.Name)
			}
			l.id, named = s.header.id, true
		}
	}
	if !named {
		if err := l.checkBlank(); err != nil {
			return err
		}
		rand.Read(l.id[:])
	}
	l.seed = crc32.Checksum(l.id[:], castagnoli)
	return nil
}

// activateFound enters a segment that is there.
func (l *Log) activateFound(s *found) {
	all := append(*l.segments.Load(), s.segment)
	l.segments.Store(&all)
	l.number = s.number
	l.allocated += s.size
	l.reopen.files = append(l.reopen.files, s)
}

// checkBlank makes sure that segments of which none has a header hold nothing, as
// after a power cut while the first was made. Without any header the CRCs cannot be
// checked, so what is in them could not be read.
func (l *Log) checkBlank() error {
	for _, s := range l.reopen.files {
		var b [endSize]byte
		if _, err := s.f.ReadAt(b[:], recordsStart); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if !zero(b[:]) {
			return fmt.Errorf("%s: both copies of the header are damaged and no other segment is there: %w", segmentName(s.number), ErrDamaged)
		}
	}
	if len(l.snapshot.files) > 0 {
		return fmt.Errorf("%s is there, but no segment of the log with an intact header: %w", l.snapshot.files[0].name, ErrDamaged)
	}
	return nil
}

// survey finds the horizon. Only the records of the last segments can state a higher
// one than the segments' headers, back to the last header that there is: it states no
// less than what lies before it. Of segments without a header it finds where they
// begin.
func (l *Log) survey() error {
	r := l.reopen
	for _, s := range r.files {
		if s.ok {
			r.horizon = max(r.horizon, s.header.horizon)
			r.last = max(r.last, s.header.first-1)
		}
	}
	r.horizon = max(r.horizon, l.snapshot.horizon)
	for i, tail := len(r.files)-1, true; i >= 0; i-- {
		s := r.files[i]
		if s.ok && !tail {
			continue
		}
		tail = tail && !s.ok
		scan := newScanner(s.f, recordsStart, s.size, l.seed)
		for {
			it, ok, err := scan.next()
			if err != nil {
				return err
			}
			if !ok {
				break
			}
			if it.state == garbage {
				continue
			}
			if !s.ok && s.header.first == 0 {
				s.header.first = it.end.seq
			}
			r.horizon = max(r.horizon, it.end.horizon)
			r.last = max(r.last, it.end.seq)
		}
	}
	r.last = max(r.last, r.horizon)
	return nil
}

// chain finds which segments are the log and where each ends, from the newest back,
// and takes the others out.
func (l *Log) chain() []*found {
	r := l.reopen
	var log []*found // newest first
	var next *found  // the one after, if its header is intact
	drop := map[uint32]bool{}
	for i := len(r.files) - 1; i >= 0; i-- {
		s := r.files[i]
		linked := next != nil && next.header.prev == s.number
		if next != nil && next.header.prev < s.number {
			drop[s.number] = true // left out
			continue
		}
		if !s.ok {
			// Not committed, unless something says that it was durable.
			first := s.header.first
			if first == 0 && linked {
				first = next.header.prevLast
			}
			if first == 0 || first > r.horizon {
				drop[s.number] = true
				if linked { // then what goes on from it is not either
					for _, n := range log {
						drop[n.number] = true
					}
					log, next = nil, nil
				}
				continue
			}
		}
		s.limit = s.size
		if linked {
			s.limit, s.last, s.next = next.header.prevEnd, next.header.prevLast, true
		}
		log = append(log, s)
		if next = nil; s.ok {
			next = s
		}
	}
	l.discard(func(s *segment) bool { return drop[s.number] })
	slices.Reverse(log)
	return log
}
