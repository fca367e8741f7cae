package stateserver

import (
	"bytes"
	"strconv"
	"time"

	"github.com/holdfast-session/holdfast/internal/nearcache"
	"github.com/holdfast-session/holdfast/store"
)

// A request is one request as it was read. Its slices alias the buffer.
type request struct {
	method method
	target []byte
	fields
	body []byte
	// want is how long the whole request is, once its head could be read.
	want int
}

// limits bound what one peer can make the other keep.
type limits struct{ head, body int }

// parse reads the request at the start of b and returns its length. Only a PUT
// has a body: ASP.NET's documentation shows lengths on other requests that no body
// follows.
func (r *request) parse(b []byte, l limits) (n int, err error) {
	*r = request{}
	for n < len(b) && (b[n] == '\r' || b[n] == '\n') {
		n++ // left over from whatever came before
	}
	if n == len(b) {
		if n > l.head {
			return 0, errHeadTooLarge
		}
		return 0, errShort
	}
	if b[n] < 'A' || b[n] > 'z' {
		return 0, errBadStart // TLS, or noise: there may never be a line's end
	}
	line, size := cutLine(b[n:])
	if n+size > l.head || size == 0 && len(b) > l.head {
		return 0, errHeadTooLarge
	}
	if size == 0 {
		return 0, errShort
	}
	if err := r.parseLine(line); err != nil {
		return 0, err
	}
	n += size
	size, err = r.fields.parse(b[n:], l.head-n)
	if err != nil {
		return 0, err
	}
	n += size
	if r.has(fieldTransferEncoding) {
		return 0, errEncoding
	}
	r.want = n
	if r.method != methodPut {
		return n, nil
	}
	if !r.ok(fieldContentLength) {
		return 0, errBadLength
	}
	if r.contentLength > l.body {
		return 0, errBodyTooLarge
	}
	r.want += r.contentLength
	if len(b) < r.want {
		return 0, errShort
	}
	r.body = b[n:r.want:r.want]
	return r.want, nil
}

// parseLine reads METHOD SP target SP HTTP/1.x. A method that the protocol does
// not have is no error yet.
func (r *request) parseLine(line []byte) error {
	name, rest, ok := bytes.Cut(line, []byte(" "))
	if !ok {
		return errBadStart
	}
	end := bytes.IndexByte(rest, ' ')
	if end <= 0 || len(rest)-end != len(" HTTP/1.1") || string(rest[end:len(rest)-1]) != " HTTP/1." {
		return errBadStart
	}
	r.target = rest[:end]
	if hasControl(r.target) {
		return errBadTarget
	}
	switch string(name) {
	case "GET":
		r.method = methodGet
	case "PUT":
		r.method = methodPut
	case "DELETE":
		r.method = methodDelete
	case "HEAD":
		r.method = methodHead
	}
	return nil
}

// A call is one request as a client writes it, the same at every repeat.
type call struct {
	method  method
	prefix  string // of the application, see appPrefix
	session string
	path    string // instead of both: a list's target, with its query

	exclusive exclusive
	lock      store.Lock
	wait      time.Duration
	stale     time.Duration
	create    bool          // PUT: if there is none
	match     store.Version // PUT otherwise: if that is its version
	next      store.Version // PUT: the new version
	// hold is to keep the lock at a PUT, and to renew the caller's own at an acquire.
	hold   bool
	always bool             // DELETE: whoever has the lock
	why    *store.Reason    // DELETE
	in     *store.Record    // PUT: what to store
	out    *store.Record    // what to read a successful answer into
	near   *nearcache.Entry // GET: what the client has of the session

	// plain leaves the mark out, and with it all that is not in [MS-ASP].
	plain bool
}

// takes reports whether q is a Lock of one who does not have the lock: if nobody hears
// of the grant, it has to be given back.
func (q *call) takes() bool { return q.exclusive == exclusiveAcquire && !q.hold }

// appendTo writes the request for host, which other lines of the head may follow.
func (q *call) appendTo(b []byte, host string) []byte {
	b = append(b, methods[q.method]...)
	b = append(b, ' ')
	if q.path != "" {
		b = append(b, q.path...)
	} else {
		b = append(b, q.prefix...)
		b = appendSession(b, q.session)
	}
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = append(b, host...)
	if q.in != nil {
		b = append(b, "\r\nContent-Length: "...)
		b = strconv.AppendInt(b, int64(len(q.in.Body)), 10)
	}
	switch q.exclusive {
	case exclusiveAcquire:
		b = append(b, "\r\nExclusive: acquire"...)
	case exclusiveRelease:
		b = append(b, "\r\nExclusive: release"...)
	}
	if q.plain {
		b = q.appendPlain(b)
	} else {
		b = q.appendMarked(b)
	}
	b = append(b, "\r\n\r\n"...)
	if q.in != nil {
		b = append(b, q.in.Body...)
	}
	return b
}

func (q *call) appendPlain(b []byte) []byte {
	if q.in != nil {
		b = append(b, "\r\nTimeout: "...)
		b = strconv.AppendInt(b, int64(ceilMinutes(q.in.Timeout)), 10)
	}
	if q.in != nil || q.lock.Cookie != 0 {
		b = append(b, "\r\nLockCookie: "...)
		b = strconv.AppendInt(b, int64(q.lock.Cookie), 10)
	}
	if q.in != nil {
		b = append(b, "\r\nExtraFlags: "...)
		b = strconv.AppendUint(b, uint64(q.in.Flags&store.Uninitialized), 10)
	}
	return b
}

func (q *call) appendMarked(b []byte) []byte {
	b = append(b, "\r\nHoldfast: 1"...)
	if q.lock.Owner != 0 {
		b = append(b, "\r\nLock-Token: "...)
		b = appendHex(b, q.lock.Owner)
	}
	if q.lock.Cookie != 0 {
		b = append(b, "\r\nLockCookie: "...)
		b = strconv.AppendInt(b, int64(q.lock.Cookie), 10)
	}
	if q.near != nil {
		b = append(b, "\r\nIf-None-Match: "...)
		b = appendVersion(b, q.near.Version)
	}
	if q.wait > 0 {
		b = append(b, "\r\nPrefer: wait="...)
		b = appendSeconds(b, q.wait)
	}
	if q.stale > 0 {
		b = append(b, "\r\nHoldfast-Stale: "...)
		b = appendSeconds(b, q.stale)
	}
	if q.hold {
		b = append(b, "\r\nHoldfast-Hold: 1"...)
	}
	if q.always {
		b = append(b, "\r\nIf-Match: *"...)
	}
	if q.why != nil {
		b = append(b, "\r\nHoldfast-Reason: "...)
		b = append(b, q.why.Kind.String()...)
		if q.why.To != "" {
			b = append(b, "\r\nHoldfast-To: "...)
			b = appendEscaped(b, q.why.To)
		}
	}
	if q.in == nil {
		return b
	}
	if q.create {
		b = append(b, "\r\nIf-None-Match: *"...)
	} else {
		b = append(b, "\r\nIf-Match: "...)
		b = appendVersion(b, q.match)
	}
	b = append(b, "\r\nIdempotency-Key: "...)
	b = appendVersion(b, q.next)
	return appendRecord(b, q.in, q.create)
}

// appendRecord writes the lines of a record that travel the same in both
// directions; what a Save does not change only with all.
func appendRecord(b []byte, rec *store.Record, all bool) []byte {
	b = append(b, "\r\nHoldfast-Timeout: "...)
	b = strconv.AppendInt(b, int64(wholeSeconds(rec.Timeout)/time.Second), 10)
	if rec.Flags != 0 {
		b = append(b, "\r\nHoldfast-Flags: "...)
		b = strconv.AppendUint(b, uint64(rec.Flags), 10)
	}
	if rec.Subject != "" {
		b = append(b, "\r\nHoldfast-Subject: "...)
		b = appendEscaped(b, rec.Subject)
	}
	if !all {
		return b
	}
	if rec.Created.Unix() >= 0 {
		b = append(b, "\r\nHoldfast-Created: "...)
		b = appendTime(b, rec.Created)
	}
	if rec.History != ([3]store.Version{}) {
		b = append(b, "\r\nHoldfast-History: "...)
		b = appendHistory(b, rec.History)
	}
	return b
}

// ceilMinutes is a timeout as an old client's body has it.
func ceilMinutes(d time.Duration) time.Duration {
	return (d + time.Minute - 1) / time.Minute
}
