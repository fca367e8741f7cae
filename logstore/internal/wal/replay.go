package wal

import (
	"cmp"
	"fmt"
	"math"
	"slices"
)

// A Report says what Replay found.
type Report struct {
	Segments  int
	Bytes     int64  // read
	Records   uint64 // given to the owner
	Rewritten uint64 // of these: written again, because they were not known to be durable

	// What was not as it should be, in records. Lost counts those whose names could
	// not be found, if their number is known; Torn are those that a power cut or a
	// kill left unfinished, which nobody was promised.
	Damaged, Mended, Lost, Torn uint64

	Damage []Damage // the first maxDamage, in order
}

// maxDamage is how many places a Report names.
const maxDamage = 1000

// A Kind says what is wrong at a place.
type Kind uint8

const (
	// Header: a copy of a segment's header is damaged. The other one was used.
	Header Kind = iota + 1
	// NoHeader: both are.
	NoHeader
	// Mended: one end of a record is damaged, and the record is exact all the same.
	Mended
	// Damaged: a durable record cannot be read. Its key is known.
	Damaged
	// Lost: durable records are gone, and nothing tells their keys.
	Lost
	// Short: the file is shorter than it was; what was behind its end is lost.
	Short
	// Torn: records that were not durable yet, and are dropped.
	Torn
)

var kindTexts = [...]string{
	Header:   "a copy of the segment's header is damaged; the other is good",
	NoHeader: "both copies of the segment's header are damaged",
	Mended:   "one end of a record is damaged; the record is exact",
	Damaged:  "a record is damaged; its session is lost",
	Lost:     "records are lost; their sessions are as they were before, or missing",
	Short:    "the file was cut off; what was behind is lost",
	Torn:     "records that were not durable yet are unfinished and dropped",
}

// String returns a sentence.
func (k Kind) String() string { return kindTexts[k] }

// Damage is one place that was not as it should be.
type Damage struct {
	Kind    Kind
	Segment uint32
	Offset  int64
	Bytes   int64
	Records uint64 // how many records; 0: not known
	Key     Key    // of Damaged and Mended
	Seq     uint64 // likewise
}

// String names the place and what is wrong there.
func (d Damage) String() string {
	return fmt.Sprintf("%s offset %d: %v", segmentName(d.Segment), d.Offset, d.Kind)
}

func (l *Log) report(r *Report, d Damage) {
	switch d.Kind {
	case Mended:
		r.Mended++
	case Damaged:
		r.Damaged++
	case Lost:
		r.Lost += d.Records
	case Torn:
		r.Torn += max(1, d.Records)
	}
	if len(r.Damage) == maxDamage {
		return
	}
	r.Damage = append(r.Damage, d)
	if d.Kind == Torn || d.Kind == Mended {
		l.logger.Info("log: "+d.Kind.String(), "segment", segmentName(d.Segment), "offset", d.Offset, "bytes", d.Bytes)
	} else {
		l.logger.Error("log: "+d.Kind.String(), "segment", segmentName(d.Segment), "offset", d.Offset, "bytes", d.Bytes, "records", d.Records)
	}
}

// Replay gives every record with a higher sequence number than from to visit, in log
// order, and begins a new segment; the log can be appended to when it returns nil.
// Records that are not known to be durable are written again, and given under their
// new number and place. An error of visit ends it and is returned; after any error
// the log can only be closed.
//
// A file that the file system cannot read is an error, not damage: what is wrong
// with the disk may pass.
func (l *Log) Replay(from uint64, visit func(Entry) error) (Report, error) {
	if l.reopen == nil {
		return Report{}, ErrClosed
	}
	if err := l.survey(); err != nil {
		return Report{}, err
	}
	p := replay{l: l, from: from, visit: visit, horizon: l.reopen.horizon}
	log := l.chain()
	l.last.Store(max(l.reopen.last, from))
	l.reopen = nil

	err := p.segments(log)
	if err == nil && !p.rewriting {
		err = p.begin()
	}
	if err == nil {
		err = l.commitRun()
	}
	if err != nil {
		l.mu.Lock()
		l.active = nil
		l.mu.Unlock()
		return p.report, err
	}
	l.settle(p.end)
	l.running.Add(1)
	go l.tend()
	l.mu.Lock()
	for l.making {
		l.changed.Wait()
	}
	reserve := l.reserve
	l.mu.Unlock()
	if reserve == 0 {
		if err := l.makeReserve(); err != nil {
			l.logger.Warn("log: no space for the reserve", "err", err)
		}
	}
	return p.report, nil
}

// settle ends a run that commitRun has made durable: the log goes on from that place,
// and what was behind it there is no part of the log.
func (l *Log) settle(from place) {
	l.mu.Lock()
	l.again, l.failing, l.noSpace = false, nil, nil
	if from.segment != nil {
		l.discard(func(s *segment) bool { return !s.attempt && s.number > from.segment.number })
		from.segment.off, from.segment.trimmed = from.off, false
	}
	for _, s := range *l.segments.Load() {
		s.attempt = false
	}
	l.changed.Broadcast()
	l.mu.Unlock()
	if err := l.sweep(); err != nil {
		l.logger.Warn("log: cannot remove files that are not needed", "err", err)
	}
	if from.segment != nil {
		if err := l.trim(from.segment); err != nil {
			l.logger.Warn("log: cannot shorten a segment that was left", "segment", segmentName(from.segment.number), "err", err)
		}
	}
}

// A replay is one call of Replay.
type replay struct {
	l       *Log
	from    uint64
	visit   func(Entry) error
	log     []*found
	report  Report
	horizon uint64

	seen      uint64  // the highest sequence number met; 0: none, so that no gap can be told
	hole      *Damage // bytes without a name, until it is known what is missing
	end       place   // behind the last record that is durable
	past      bool    // records that are not durable were met, or are missing: end stays
	rewriting bool    // the segment in which the log goes on is begun
}

func (p *replay) segments(log []*found) error {
	p.log = log
	for i, s := range log {
		s.off = min(s.limit, s.size)
		for _, off := range s.damaged {
			kind := Header
			if !s.ok {
				kind = NoHeader
			}
			p.tell(Damage{Kind: kind, Segment: s.number, Offset: off, Bytes: headerSize})
		}
		if i+1 < len(log) && log[i+1].ok && log[i+1].header.first <= p.from+1 {
			continue // all in the snapshot
		}
		highest := uint64(math.MaxUint64)
		switch {
		case s.next:
			highest = s.last
		case i+1 < len(log) && log[i+1].ok:
			highest = log[i+1].header.first - 1
		}
		if err := p.segment(s, i+1 == len(log), highest); err != nil {
			return err
		}
	}
	return nil
}

// segment goes through one segment, which has no records above highest. The end of the
// last one nobody has written down.
func (p *replay) segment(s *found, last bool, highest uint64) error {
	p.report.Segments++
	if s.ok {
		p.seen = max(p.seen, s.header.first-1) // what lies between two segments was left out, or dropped
	}
	if !p.past {
		p.end = place{s.segment, recordsStart}
	}
	if s.size < s.limit || last && s.ok && s.size < s.header.size {
		if err := p.short(s); err != nil {
			return err
		}
	}

	limit := min(s.limit, s.size)
	at := int64(recordsStart)
	for scan := newScanner(s.f, at, limit, p.l.seed); ; {
		it, ok, err := scan.next()
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		p.report.Bytes += it.size
		if it.state == garbage || it.end.seq <= p.seen || it.end.seq > highest { // or in a wrong place
			p.hole = &Damage{Segment: s.number, Offset: it.off, Bytes: it.size}
			continue
		}
		if err := p.item(s, it); err != nil {
			return err
		}
		at = it.off + it.size
	}

	// Up to which number records should be here.
	until := p.seen
	switch {
	case s.next:
		until = max(until, s.last)
	case last:
		until = max(until, p.horizon)
	}
	p.gap(s, until+1, at)
	if s.next && !p.past {
		p.end.off = max(p.end.off, limit)
	}
	return nil
}

// short is for a segment that has lost its end, which no power cut does, as it was
// allocated before it was used: what can be read before the cut is taken for durable,
// so that the record that the cut goes through is damaged and not as it was before.
func (p *replay) short(s *found) error {
	p.tell(Damage{Kind: Short, Segment: s.number, Offset: s.size})
	for scan := newScanner(s.f, recordsStart, s.size, p.l.seed); ; {
		it, ok, err := scan.next()
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		if it.state != garbage {
			p.horizon = max(p.horizon, it.end.seq)
		}
	}
	return s.f.Sync()
}

// gap tells of the records between the last one and seq, of which nothing is left.
func (p *replay) gap(s *found, seq uint64, off int64) {
	d := Damage{Segment: s.number, Offset: off}
	hole := p.hole != nil
	if hole {
		d, p.hole = *p.hole, nil
	}
	missing := uint64(0)
	if p.seen > 0 || s.ok {
		missing = seq - min(seq, p.seen+1)
	}
	durable := uint64(0)
	if !p.past {
		durable = min(missing, p.horizon-min(p.horizon, p.seen))
	}
	if durable > 0 {
		d.Kind, d.Records = Lost, durable
		p.tell(d)
	}
	if missing > durable {
		p.past = true
	}
	if missing > durable || hole && missing == 0 {
		d.Kind, d.Records = Torn, missing-durable
		p.tell(d)
	}
	p.seen = max(p.seen, seq-1)
}

// item takes one record.
func (p *replay) item(s *found, it item) error {
	e := &it.end
	p.gap(s, e.seq, it.off)
	p.seen = max(p.seen, e.seq)
	at := At{Segment: s.number, Offset: uint32(it.off), Size: uint32(e.size())}
	d := Damage{Segment: s.number, Offset: it.off, Bytes: it.size, Key: e.key, Seq: e.seq, Records: 1}
	p.past = p.past || e.seq > p.horizon
	if !p.past {
		p.end = place{s.segment, it.off + it.size}
	}
	wanted := e.typ < markType && e.seq > p.from
	switch {
	case it.state == damaged && p.past:
		d.Kind = Torn
		p.tell(d)
		return nil
	case it.state == damaged:
		d.Kind = Damaged
		p.tell(d)
		if !wanted {
			return nil
		}
		p.report.Records++
		return p.visit(Entry{Key: e.key, Seq: e.seq, At: at, Damaged: true})
	case it.state == mended:
		d.Kind = Mended
		p.tell(d)
	}
	if !wanted {
		return nil
	}
	seq := e.seq
	if p.past {
		if !p.rewriting {
			if err := p.begin(); err != nil {
				return err
			}
		}
		var err error
		if at, seq, err = p.l.Append(e.key, e.typ, Again, it.payload); err != nil {
			return err
		}
		p.report.Rewritten++
	} else {
		s.live.Add(int64(at.Size))
	}
	p.report.Records++
	return p.visit(Entry{Key: e.key, Type: e.typ, Seq: seq, At: at, Payload: it.payload})
}

// confirm makes durable what the log's end stands on. A header that can be read may be
// lost yet: that of a run is written when its records are durable, that of any other
// along with them, and the process can have died, or the sync failed, before it was
// durable itself. Later ones are left out by the segment that is about to begin; those
// before the newest run were confirmed by the Replay or the recovery that began it.
func (p *replay) confirm() error {
	end := slices.IndexFunc(p.log, func(s *found) bool { return s.segment == p.end.segment })
	for i := end; i >= 0; i-- {
		s := p.log[i]
		run := s.ok && s.header.horizon+1 >= s.header.first
		if s.ok && (run || i == end) {
			// Written again, as a sync that failed may have taken it for written.
			b := make([]byte, recordsStart)
			s.header.put(b)
			if _, err := s.f.WriteAt(b, 0); err != nil {
				return err
			}
			if err := s.f.Sync(); err != nil {
				return err
			}
		}
		if run {
			break
		}
	}
	return nil
}

// begin starts the segment in which the log goes on.
func (p *replay) begin() error {
	l := p.l
	if err := p.confirm(); err != nil {
		return err
	}
	s, err := l.fresh()
	if err != nil {
		return err
	}
	number, last := uint32(0), p.horizon
	if p.end.segment != nil {
		number = p.end.segment.number
	}
	if !p.past {
		last = max(last, p.seen)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.begin(s, number, p.end.off, last)
	p.rewriting = true
	return nil
}

func (p *replay) tell(d Damage) { p.l.report(&p.report, d) }

// segment returns that of the number, or nil.
func (l *Log) segment(number uint32) *segment {
	all := *l.segments.Load()
	i, ok := slices.BinarySearchFunc(all, number, func(s *segment, n uint32) int { return cmp.Compare(s.number, n) })
	if !ok {
		return nil
	}
	return all[i]
}
