package wal

import (
	"encoding/binary"
	"hash/crc32"
	"math"
)

// A Key names what a record is about. It is opaque to the log.
type Key [16]byte

// A Type says what a record's payload is. The owner's are 1 to 127; the others are
// the log's own and are never given to the owner.
type Type uint8

// markType is a record without payload that states a horizon when nothing else is
// appended that could.
const markType Type = 128

// At is the place of a record. The zero At is no place.
type At struct {
	Segment uint32
	Offset  uint32 // of the record's first byte, in the segment's file
	Size    uint32 // of the whole record, in bytes
}

// An Entry is a record as Replay and Scan give it.
type Entry struct {
	Key     Key
	Type    Type
	Seq     uint64
	At      At
	Payload []byte // valid during the call

	// Damaged: the record was durable once and cannot be read. Key, Seq and At are
	// known, the rest is not.
	Damaged bool
}

// A record is a header, the payload and a trailer. Header and trailer say the same
// under a CRC of their own, so either alone names the record, leads to the other
// end, and tells whether the payload is whole:
//
//	magic     2 bytes, another one at each end
//	type      1
//	zero      1
//	length    4, of the payload
//	seq       8
//	key       16
//	distance  4, seq minus the horizon
//	sum       4, CRC of the payload
//	CRC       4, of the 40 bytes before
//
// All numbers are little-endian. CRCs are CRC-32C and begin with one of the log's
// random ID, so that a payload with the bytes of a record in it, perhaps made up by
// somebody, is not taken for one when the log is searched behind damage.
const (
	endSize  = 44
	overhead = 2 * endSize

	magicByte  = 0xB7 // the first of both magics
	headMagic  = 'h'<<8 | magicByte
	tailMagic  = 't'<<8 | magicByte
	maxPayload = 1 << 30
	farHorizon = math.MaxUint32 // the distance is at least this: says nothing
	sumOffset  = endSize - 4
)

// Overhead is what a record takes besides its payload, in bytes.
const Overhead = overhead

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// An end is what both ends of a record say.
type end struct {
	typ     Type
	length  uint32
	seq     uint64
	key     Key
	horizon uint64 // 0: not known
	sum     uint32
}

// size returns that of the whole record.
func (e *end) size() int64 { return int64(e.length) + overhead }

// put encodes e into b.
func (e *end) put(b []byte, magic uint16, seed uint32) {
	_ = b[endSize-1]
	binary.LittleEndian.PutUint16(b, magic)
	b[2], b[3] = byte(e.typ), 0
	binary.LittleEndian.PutUint32(b[4:], e.length)
	binary.LittleEndian.PutUint64(b[8:], e.seq)
	copy(b[16:32], e.key[:])
	binary.LittleEndian.PutUint32(b[32:], uint32(min(e.seq-e.horizon, farHorizon)))
	binary.LittleEndian.PutUint32(b[36:], e.sum)
	binary.LittleEndian.PutUint32(b[sumOffset:], crc32.Update(seed, castagnoli, b[:sumOffset]))
}

// parseEnd decodes one end; ok is false if b does not begin with an intact one of
// that magic.
func parseEnd(b []byte, magic uint16, seed uint32) (e end, ok bool) {
	if len(b) < endSize || binary.LittleEndian.Uint16(b) != magic ||
		binary.LittleEndian.Uint32(b[sumOffset:]) != crc32.Update(seed, castagnoli, b[:sumOffset]) {
		return end{}, false
	}
	e = end{
		typ:    Type(b[2]),
		length: binary.LittleEndian.Uint32(b[4:]),
		seq:    binary.LittleEndian.Uint64(b[8:]),
		key:    Key(b[16:32]),
		sum:    binary.LittleEndian.Uint32(b[36:]),
	}
	if d := uint64(binary.LittleEndian.Uint32(b[32:])); d < farHorizon && d <= e.seq {
		e.horizon = e.seq - d
	}
	return e, e.length <= maxPayload && e.seq > 0
}

// sumOf returns the CRC of a payload in parts.
func sumOf(seed uint32, payload [][]byte) (sum uint32, length int) {
	sum = seed
	for _, p := range payload {
		sum = crc32.Update(sum, castagnoli, p)
		length += len(p)
	}
	return sum, length
}
