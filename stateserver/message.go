package stateserver

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-session/holdfast/store"
)

// What requests and answers have in common: lines, header fields, and how the
// values in them are written. net/http reads neither, see the package comment.

// maxLines bounds the lines of one head.
const maxLines = 64

var (
	// errShort means that the message goes on past the bytes that are there.
	errShort = errors.New("stateserver: message is not complete")

	errHeadTooLarge = errors.New("stateserver: head is too large")
	errBodyTooLarge = errors.New("stateserver: body is too large")
	errTooManyLines = errors.New("stateserver: head has too many lines")
	errBadLine      = errors.New("stateserver: malformed header line")
	errBadStart     = errors.New("stateserver: malformed first line")
	errBadLength    = errors.New("stateserver: missing or malformed Content-Length")
	errBadTarget    = errors.New("stateserver: malformed target")
	errEncoding     = errors.New("stateserver: Transfer-Encoding is not part of the protocol")
)

// A method is what a request asks for.
type method uint8

const (
	methodUnknown method = iota
	methodGet
	methodPut
	methodDelete
	methodHead
)

var methods = [...]string{"", "GET", "PUT", "DELETE", "HEAD"}

// exclusive is the value of the Exclusive field.
type exclusive uint8

const (
	exclusiveNone exclusive = iota
	exclusiveAcquire
	exclusiveRelease
)

// A field is a header field that the protocol knows.
type field uint8

const (
	fieldUnknown field = iota
	fieldActionFlags
	fieldAcquired
	fieldAge
	fieldAspNetVersion
	fieldAuthorization
	fieldContentLength
	fieldCreated
	fieldETag
	fieldExclusive
	fieldExtraFlags
	fieldFlags
	fieldHistory
	fieldHold
	fieldHoldfast
	fieldIdempotencyKey
	fieldIfMatch
	fieldIfNoneMatch
	fieldLockAge
	fieldLockCookie
	fieldLockToken
	fieldPrefer
	fieldReason
	fieldSeconds
	fieldStale
	fieldSubject
	fieldTimeout
	fieldTo
	fieldTransferEncoding
)

// fieldOf finds a field by its name, in any case. LockCookie has two spellings,
// since Microsoft's own text has both. The length and one letter leave one name to
// compare.
func fieldOf(name []byte) field {
	var want string
	var f field
	switch len(name) {
	case 4:
		want, f = "ETag", fieldETag
	case 6:
		want, f = "Prefer", fieldPrefer
	case 7:
		switch name[0] | 0x20 {
		case 't':
			want, f = "Timeout", fieldTimeout
		case 'l':
			want, f = "LockAge", fieldLockAge
		}
	case 8:
		switch name[0] | 0x20 {
		case 'h':
			want, f = "Holdfast", fieldHoldfast
		case 'i':
			want, f = "If-Match", fieldIfMatch
		}
	case 9:
		want, f = "Exclusive", fieldExclusive
	case 10:
		switch name[5] | 0x20 {
		case 'o':
			want, f = "LockCookie", fieldLockCookie
		case 't':
			want, f = "Lock-Token", fieldLockToken
		case 'f':
			want, f = "ExtraFlags", fieldExtraFlags
		}
	case 11:
		switch name[0] | 0x20 {
		case 'l':
			want, f = "Lock-Cookie", fieldLockCookie
		case 'a':
			want, f = "ActionFlags", fieldActionFlags
		case 'h':
			want, f = "Holdfast-To", fieldTo
		}
	case 12:
		want, f = "Holdfast-Age", fieldAge
	case 13:
		switch name[0] | 0x20 {
		case 'i':
			want, f = "If-None-Match", fieldIfNoneMatch
		case 'h':
			want, f = "Holdfast-Hold", fieldHold
		case 'a':
			want, f = "Authorization", fieldAuthorization
		}
	case 14:
		switch name[9] | 0x20 {
		case 'e':
			want, f = "Content-Length", fieldContentLength
		case 's':
			want, f = "Holdfast-Stale", fieldStale
		case 'f':
			want, f = "Holdfast-Flags", fieldFlags
		}
	case 15:
		switch name[0] | 0x20 {
		case 'i':
			want, f = "Idempotency-Key", fieldIdempotencyKey
		case 'h':
			want, f = "Holdfast-Reason", fieldReason
		}
	case 16:
		switch name[9] | 0x20 {
		case 'v':
			want, f = "X-AspNet-Version", fieldAspNetVersion
		case 't':
			want, f = "Holdfast-Timeout", fieldSeconds
		case 'c':
			want, f = "Holdfast-Created", fieldCreated
		case 's':
			want, f = "Holdfast-Subject", fieldSubject
		case 'h':
			want, f = "Holdfast-History", fieldHistory
		}
	case 17:
		switch name[0] | 0x20 {
		case 'h':
			want, f = "Holdfast-Acquired", fieldAcquired
		case 't':
			want, f = "Transfer-Encoding", fieldTransferEncoding
		}
	}
	if string(name) == want { // as almost everybody writes it
		return f
	}
	for i := range len(want) {
		if lower(name[i]) != lower(want[i]) {
			return fieldUnknown
		}
	}
	return f
}

func lower(b byte) byte {
	if 'A' <= b && b <= 'Z' {
		b |= 0x20
	}
	return b
}

// fields are the header fields of one message. A field that is not in have has
// its zero value; one that is in bad could not be read, which whoever needs it
// has to check.
type fields struct {
	have, bad uint32

	exclusive     exclusive
	contentLength int
	minutes       int32 // Timeout
	cookie        int32 // LockCookie
	extraFlags    int32
	actionFlags   int32
	major         int32 // of X-AspNet-Version

	owner       uint64        // Lock-Token
	version     store.Version // ETag or If-Match
	next        store.Version // Idempotency-Key
	known       store.Version // If-None-Match
	acquired    store.Version
	history     [3]store.Version
	any         bool // If-Match: *
	absent      bool // If-None-Match: *
	hold        bool
	wait, stale time.Duration
	lockAge     time.Duration
	age         time.Duration
	timeout     time.Duration // Holdfast-Timeout
	created     time.Time
	flags       store.Flags
	kind        store.Kind
	subject     []byte // escaped, in the message's buffer
	to          []byte // likewise
	secret      []byte // of Authorization: Bearer; in the message's buffer
}

func (h *fields) has(f field) bool { return h.have&(1<<f) != 0 }

// ok reports whether f is there and could be read.
func (h *fields) ok(f field) bool { return (h.have&^h.bad)&(1<<f) != 0 }

// wrong reports whether f is there and could not be read.
func (h *fields) wrong(f field) bool { return h.bad&(1<<f) != 0 }

// marked reports whether the message was sent by a Holdfast client or server.
func (h *fields) marked() bool { return h.ok(fieldHoldfast) }

// set reads the value of one field. The last one of a name counts.
func (h *fields) set(f field, v []byte) {
	ok := true
	switch f {
	case fieldUnknown:
		return
	case fieldActionFlags:
		h.actionFlags, ok = parseInt32(v)
	case fieldAcquired:
		h.acquired, ok = parseVersion(v)
	case fieldAge:
		h.age, ok = parseSeconds(v)
	case fieldAspNetVersion:
		digits, _, _ := bytes.Cut(v, []byte("."))
		h.major, ok = parseInt32(digits)
	case fieldAuthorization:
		h.secret = bearer(v)
	case fieldContentLength:
		n, good := parseUint(v, math.MaxInt32)
		// Two that differ leave no way to tell where the message ends.
		ok = good && (!h.has(f) || h.contentLength == int(n))
		h.contentLength = int(n)
	case fieldCreated:
		h.created, ok = parseTime(v)
	case fieldETag:
		h.version, ok = parseVersion(v)
	case fieldExclusive:
		switch {
		case bytes.EqualFold(v, []byte("acquire")):
			h.exclusive = exclusiveAcquire
		case bytes.EqualFold(v, []byte("release")):
			h.exclusive = exclusiveRelease
		default:
			ok = false
		}
	case fieldExtraFlags:
		neg := len(v) > 1 && v[0] == '-'
		if neg {
			v = v[1:]
		}
		h.extraFlags, ok = parseInt32(v)
		if neg {
			h.extraFlags = -h.extraFlags
		}
	case fieldFlags:
		n, good := parseUint(v, math.MaxUint32)
		h.flags, ok = store.Flags(n), good
	case fieldHistory:
		h.history, ok = parseHistory(v)
	case fieldHold:
		h.hold = len(v) == 1 && v[0] == '1'
		ok = h.hold
	case fieldHoldfast:
		ok = len(v) == 1 && v[0] == '1'
	case fieldIdempotencyKey:
		h.next, ok = parseVersion(v)
		ok = ok && h.next != 0
	case fieldIfMatch:
		if h.any = len(v) == 1 && v[0] == '*'; !h.any {
			h.version, ok = parseVersion(v)
		}
	case fieldIfNoneMatch:
		if h.absent = len(v) == 1 && v[0] == '*'; !h.absent {
			h.known, ok = parseVersion(v)
		}
	case fieldLockAge:
		h.lockAge, ok = parseSeconds(v)
	case fieldLockCookie:
		h.cookie, ok = parseInt32(v)
	case fieldLockToken:
		h.owner, ok = parseHex(v)
		ok = ok && h.owner != 0
	case fieldPrefer:
		h.wait, ok = parseWait(v)
	case fieldReason:
		h.kind = store.ParseKind(string(v))
	case fieldSeconds:
		h.timeout, ok = parseSeconds(v)
	case fieldStale:
		h.stale, ok = parseSeconds(v)
	case fieldSubject:
		h.subject = v
	case fieldTimeout:
		h.minutes, ok = parseInt32(v)
	case fieldTo:
		h.to = v
	}
	bit := uint32(1) << f
	h.have |= bit
	switch {
	case !ok:
		h.bad |= bit
	case f != fieldContentLength: // one that is wrong stays wrong
		h.bad &^= bit
	}
}

// cutLine returns the line at the start of b without its end, and how long it is
// with it; n is 0 if its end is not there yet.
func cutLine(b []byte) (line []byte, n int) {
	i := bytes.IndexByte(b, '\n')
	if i < 0 {
		return nil, 0
	}
	line = b[:i]
	if i > 0 && line[i-1] == '\r' {
		line = line[:i-1]
	}
	return line, i + 1
}

// parse reads the header lines at the start of b up to the blank one, and returns
// how long they are with it. limit is what the head may still have.
func (h *fields) parse(b []byte, limit int) (n int, err error) {
	for lines := 1; ; lines++ {
		line, size := cutLine(b[n:])
		if n+size > limit || size == 0 && len(b) > limit {
			return 0, errHeadTooLarge
		}
		if size == 0 {
			return 0, errShort
		}
		n += size
		if len(line) == 0 {
			return n, nil
		}
		if lines == maxLines {
			return 0, errTooManyLines
		}
		colon := bytes.IndexByte(line, ':')
		if colon <= 0 || line[0] == ' ' || line[0] == '\t' || line[colon-1] == ' ' {
			return 0, errBadLine
		}
		h.set(fieldOf(line[:colon]), trimSpace(line[colon+1:]))
	}
}

// hasControl reports whether b has a control character of ASCII: eight bytes at a time,
// since targets are long.
func hasControl(b []byte) bool {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	for ; len(b) >= 8; b = b[8:] {
		w := binary.LittleEndian.Uint64(b)
		// A high bit is set if, and only if, a byte is below ' ' or is DEL; which one it
		// is does not matter.
		del := w ^ 0x7f*ones
		if ((w-' '*ones)&^w|(del-ones)&^del)&highs != 0 {
			return true
		}
	}
	for _, c := range b {
		if c < ' ' || c == 0x7f {
			return true
		}
	}
	return false
}

func trimSpace(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t') {
		b = b[1:]
	}
	for len(b) > 0 && (b[len(b)-1] == ' ' || b[len(b)-1] == '\t') {
		b = b[:len(b)-1]
	}
	return b
}

// parseUint reads a decimal number of at most limit.
func parseUint(b []byte, limit uint64) (n uint64, ok bool) {
	if len(b) == 0 || len(b) > 20 {
		return 0, false
	}
	for _, d := range b {
		if d < '0' || d > '9' {
			return 0, false
		}
		if n > (limit-uint64(d-'0'))/10 {
			return 0, false
		}
		n = n*10 + uint64(d-'0')
	}
	return n, true
}

// parseInt32 reads one of the protocol's non-negative numbers.
func parseInt32(b []byte) (int32, bool) {
	n, ok := parseUint(b, math.MaxInt32)
	return int32(n), ok
}

// parseHex reads up to sixteen hexadecimal digits.
func parseHex(b []byte) (n uint64, ok bool) {
	if len(b) == 0 || len(b) > 16 {
		return 0, false
	}
	for _, c := range b {
		d := unhex(c)
		if d > 15 {
			return 0, false
		}
		n = n<<4 | uint64(d)
	}
	return n, true
}

// unhex is the value of a hexadecimal digit, or more than 15.
func unhex(c byte) byte { return digits[c] }

var digits = func() (d [256]byte) {
	for i := range d {
		d[i] = 0xff
	}
	for i := range byte(16) {
		d[hexDigits[i]] = i
		d[strings.ToUpper(hexDigits)[i]] = i
	}
	return d
}()

const hexDigits = "0123456789abcdef"

// appendHex writes n as sixteen hexadecimal digits.
func appendHex(b []byte, n uint64) []byte {
	b = binary.BigEndian.AppendUint64(b, hexOf(uint32(n>>32)))
	return binary.BigEndian.AppendUint64(b, hexOf(uint32(n)))
}

// hexOf returns the eight digits of n, all of them worked out at once: an answer has up
// to a hundred.
func hexOf(n uint32) uint64 {
	const ones = 0x0101010101010101
	d := uint64(n)
	d = (d | d<<16) & 0x0000ffff0000ffff
	d = (d | d<<8) & 0x00ff00ff00ff00ff
	d = (d | d<<4) & 0x0f0f0f0f0f0f0f0f
	letters := (d + 6*ones) >> 4 & ones // 1 where the digit is above 9
	return d + '0'*ones + letters*('a'-'9'-1)
}

// parseVersion reads a version, an entity tag: hexadecimal digits in quotes.
func parseVersion(b []byte) (store.Version, bool) {
	if len(b) < 2 || b[0] != '"' || b[len(b)-1] != '"' {
		return 0, false
	}
	n, ok := parseHex(b[1 : len(b)-1])
	return store.Version(n), ok
}

func appendVersion(b []byte, v store.Version) []byte {
	b = append(b, '"')
	b = appendHex(b, uint64(v))
	return append(b, '"')
}

// parseHistory reads up to three versions, separated by commas.
func parseHistory(b []byte) (h [3]store.Version, ok bool) {
	for i := range h {
		item, rest, more := bytes.Cut(b, []byte(","))
		if h[i], ok = parseVersion(trimSpace(item)); !ok {
			return h, false
		}
		if !more {
			return h, true
		}
		b = rest
	}
	return h, false
}

func appendHistory(b []byte, h [3]store.Version) []byte {
	b = appendVersion(b, h[0])
	for i := 1; i < len(h) && (h[1] != 0 || h[2] != 0); i++ {
		b = append(b, ", "...)
		b = appendVersion(b, h[i])
	}
	return b
}

// parseSeconds reads seconds with up to nine decimals.
func parseSeconds(b []byte) (time.Duration, bool) {
	sec, nsec, ok := parseDecimal(b)
	if !ok || sec >= math.MaxInt64/int64(time.Second) {
		return 0, false
	}
	return time.Duration(sec)*time.Second + time.Duration(nsec), true
}

// parseTime reads a moment as the seconds since 1970.
func parseTime(b []byte) (time.Time, bool) {
	sec, nsec, ok := parseDecimal(b)
	if !ok || sec > 1<<48 {
		return time.Time{}, false
	}
	return time.Unix(sec, nsec), true
}

func parseDecimal(b []byte) (whole, billionths int64, ok bool) {
	digits, decimals, point := bytes.Cut(b, []byte("."))
	n, ok := parseUint(digits, math.MaxInt64)
	if !ok {
		return 0, 0, false
	}
	if !point {
		return int64(n), 0, true
	}
	if len(decimals) > 9 {
		return 0, 0, false
	}
	f, ok := parseUint(decimals, math.MaxInt64)
	for range 9 - len(decimals) {
		f *= 10
	}
	return int64(n), int64(f), ok
}

func appendSeconds(b []byte, d time.Duration) []byte {
	d = max(d, 0)
	return appendDecimal(b, int64(d/time.Second), int64(d%time.Second))
}

// appendTime writes t, which is not before 1970.
func appendTime(b []byte, t time.Time) []byte {
	return appendDecimal(b, t.Unix(), int64(t.Nanosecond()))
}

func appendDecimal(b []byte, whole, billionths int64) []byte {
	b = strconv.AppendInt(b, whole, 10)
	if billionths == 0 {
		return b
	}
	point := len(b)
	b = strconv.AppendInt(b, int64(time.Second)+billionths, 10) // a one, and nine digits
	b[point] = '.'
	return bytes.TrimRight(b, "0")
}

// parseWait reads wait=s among the preferences; others are not ours to judge.
func parseWait(b []byte) (time.Duration, bool) {
	for len(b) > 0 {
		var one []byte
		one, b, _ = bytes.Cut(b, []byte(","))
		one, _, _ = bytes.Cut(one, []byte(";"))
		name, value, _ := bytes.Cut(one, []byte("="))
		if bytes.EqualFold(trimSpace(name), []byte("wait")) {
			return parseSeconds(trimSpace(value))
		}
	}
	return 0, true
}

// bearer returns the secret in the value of Authorization, or nothing if that is of
// another scheme, which is for others to understand.
func bearer(v []byte) []byte {
	scheme, secret, _ := bytes.Cut(v, []byte(" "))
	if !bytes.EqualFold(scheme, []byte("Bearer")) {
		return nil
	}
	return trimSpace(secret)
}

// wholeSeconds rounds a timeout up to the seconds that travel.
func wholeSeconds(d time.Duration) time.Duration {
	if rest := d % time.Second; rest > 0 {
		d += time.Second - rest
	}
	return d
}
