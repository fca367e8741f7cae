package logstore

import (
	"encoding/binary"
	"errors"
	"time"

	"github.com/holdfast-session/holdfast/logstore/internal/wal"
	"github.com/holdfast-session/holdfast/store"
)

// The records of the log. A session's state is its latest record; numbers are little
// endian, times are nanoseconds of Unix time.
const (
	// typePut is a whole session: head, names, body.
	typePut wal.Type = 1 + iota
	// typeTouch says that the session was used, and when.
	typeTouch
	// typeRemove says that the session ended: why.
	typeRemove
	// typeEnd is typeRemove where somebody wants to know of the end: the end's key,
	// then why. What the session held is in its latest typePut before this.
	typeEnd
	// typeEnded is an end with what the session held: the end's key, why, and what a
	// typePut has. It says nothing of a session that is there. Its key is endRecord's.
	typeEnded
	// typeAck says that an end was taken notice of. Its key is endRecord's.
	typeAck
	// typeApp says that somebody wants the ends of an application: its name.
	typeApp
	// typeOpen says that a process began to work here. It comes before all that the
	// process did, so that locks in a snapshot from before are known to be old.
	typeOpen
)

// maxContent is how large names and body of a session may be.
const maxContent = 1 << 29

// headSize is what the head of a session has before the application's name.
const headSize = 70

// appendHead appends a session's head; used is when it was used last.
func appendHead(b []byte, e *entry, app string, used int64) []byte {
	le := binary.LittleEndian
	b = le.AppendUint64(b, uint64(e.version))
	for _, v := range e.history {
		b = le.AppendUint64(b, uint64(v))
	}
	b = le.AppendUint64(b, uint64(e.acquired))
	b = le.AppendUint64(b, uint64(e.created))
	b = le.AppendUint64(b, uint64(used))
	b = le.AppendUint32(b, e.timeout)
	b = le.AppendUint32(b, uint32(e.cookie))
	b = le.AppendUint32(b, uint32(e.flags))
	b = le.AppendUint16(b, uint16(len(app)))
	return append(b, app...)
}

var errMalformed = errors.New("malformed record")

// A head is what appendHead put together, in an entry of which the rest is zero.
type head struct {
	entry
	app  []byte
	used int64
}

// parseHead parses a session's head and returns what is behind it.
func parseHead(b []byte) (h head, rest []byte, err error) {
	if len(b) < headSize {
		return h, nil, errMalformed
	}
	le := binary.LittleEndian
	h.version = store.Version(le.Uint64(b))
	for i := range h.history {
		h.history[i] = store.Version(le.Uint64(b[8+8*i:]))
	}
	h.acquired = store.Version(le.Uint64(b[32:]))
	h.created = int64(le.Uint64(b[40:]))
	h.used = int64(le.Uint64(b[48:]))
	h.timeout = le.Uint32(b[56:])
	h.cookie = int32(le.Uint32(b[60:]))
	h.flags = store.Flags(le.Uint32(b[64:]))
	n := int(le.Uint16(b[68:]))
	if b = b[headSize:]; len(b) < n {
		return h, nil, errMalformed
	}
	h.app = b[:n]
	return h, b[n:], nil
}

// parsePut parses a whole session. Names and body are as in its block.
func parsePut(b []byte) (h head, content []byte, err error) {
	h, content, err = parseHead(b)
	if err != nil {
		return h, nil, err
	}
	if _, err := checkNames(content); err != nil {
		return h, nil, err
	}
	h.size = uint32(len(content))
	return h, content, nil
}

// checkNames checks that names can parse b, and returns how long they are.
func checkNames(b []byte) (size int, err error) {
	rest := b
	for range 2 {
		n, k := binary.Uvarint(rest)
		if k <= 0 || n > uint64(len(rest)-k) {
			return 0, errMalformed
		}
		rest = rest[k+int(n):]
	}
	return len(b) - len(rest), nil
}

// recordSize is the size of a session's latest record in the log.
func (s *Store) recordSize(e *entry) uint32 {
	return uint32(wal.Overhead+headSize+len(s.apps.name(e.app))) + e.size
}

// place is where that is.
func (s *Store) place(e *entry) wal.At {
	return wal.At{Segment: e.segment, Offset: e.offset, Size: s.recordSize(e)}
}

// in reports whether the session's latest record is there.
func (e *entry) in(at wal.At) bool { return e.segment == at.Segment && e.offset == at.Offset }

// A why is how and when a session ended, as it is written.
type why struct {
	kind store.Kind
	at   int64
	to   string
}

func newWhy(r store.Reason, now int64) why {
	return why{kind: r.Kind, at: now - int64(r.Age), to: r.To}
}

func (w why) reason(now int64) store.Reason {
	return store.Reason{Kind: w.kind, Age: time.Duration(max(now-w.at, 0)), To: w.to}
}

func appendWhy(b []byte, w why) []byte {
	b = binary.LittleEndian.AppendUint64(b, uint64(w.at))
	b = append(b, byte(w.kind))
	b = binary.AppendUvarint(b, uint64(len(w.to)))
	return append(b, w.to...)
}

func parseWhy(b []byte) (w why, rest []byte, err error) {
	if len(b) < 9 {
		return w, nil, errMalformed
	}
	w.at, w.kind = int64(binary.LittleEndian.Uint64(b)), store.Kind(b[8])
	n, k := binary.Uvarint(b[9:])
	if k <= 0 || n > uint64(len(b)-9-k) {
		return w, nil, errMalformed
	}
	b = b[9+k:]
	w.to = string(b[:n])
	return w, b[n:], nil
}

// parseEnd parses a typeEnd, or the beginning of a typeEnded.
func parseEnd(b []byte) (key uint64, w why, rest []byte, err error) {
	if len(b) < 8 {
		return 0, w, nil, errMalformed
	}
	w, rest, err = parseWhy(b[8:])
	return binary.LittleEndian.Uint64(b), w, rest, err
}

// endRecord is what an end's own records are called in the log: nothing that a hash
// of an ID is, so that what is damaged there harms no session.
func endRecord(end uint64) (key wal.Key) {
	binary.LittleEndian.PutUint64(key[:], end)
	binary.LittleEndian.PutUint64(key[8:], ^end)
	return key
}

// endOf is the inverse of endRecord.
func endOf(key wal.Key) (end uint64, ok bool) {
	end = binary.LittleEndian.Uint64(key[:])
	return end, binary.LittleEndian.Uint64(key[8:]) == ^end
}
