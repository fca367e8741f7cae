package stateserver

import (
	"bytes"
	"strconv"

	"github.com/holdfast-session/holdfast/store"
)

// The statuses of the protocol: Microsoft's four, and those that only answers to
// marked requests have.
const (
	statusOK          = 200
	statusNotModified = 304
	statusBadRequest  = 400
	statusNoToken     = 401
	statusDenied      = 403
	statusNotFound    = 404
	statusConflict    = 412
	statusTooLarge    = 413
	statusLocked      = 423
	statusTooMany     = 429
	statusFailed      = 500
	statusUnsupported = 501
	statusUnavailable = 503
	statusUnsure      = 504
	statusFull        = 507
)

func statusLine(status int) string {
	switch status {
	case statusOK:
		return "HTTP/1.1 200 OK"
	case statusNotModified:
		return "HTTP/1.1 304 Not Modified"
	case statusBadRequest:
		return "HTTP/1.1 400 Bad Request"
	case statusNoToken:
		return "HTTP/1.1 401 Unauthorized"
	case statusDenied:
		return "HTTP/1.1 403 Forbidden"
	case statusNotFound:
		return "HTTP/1.1 404 Not Found"
	case statusConflict:
		return "HTTP/1.1 412 Precondition Failed"
	case statusTooLarge:
		return "HTTP/1.1 413 Content Too Large"
	case statusLocked:
		return "HTTP/1.1 423 Locked"
	case statusTooMany:
		return "HTTP/1.1 429 Too Many Requests"
	case statusUnsupported:
		return "HTTP/1.1 501 Not Implemented"
	case statusUnavailable:
		return "HTTP/1.1 503 Service Unavailable"
	case statusUnsure:
		return "HTTP/1.1 504 Gateway Timeout"
	case statusFull:
		return "HTTP/1.1 507 Insufficient Storage"
	}
	return "HTTP/1.1 500 Internal Server Error"
}

// A response is one answer as it was read. Its slices alias the buffer.
type response struct {
	status int
	fields
	body []byte
	// want is how long the whole answer is, once its head could be read.
	want int
}

// parse reads the answer at the start of b to a request of method m, and returns
// its length. The first line may be without the protocol, as Microsoft's grammar
// has it.
func (r *response) parse(b []byte, m method, l limits) (n int, err error) {
	*r = response{}
	line, n := cutLine(b)
	if n > l.head || n == 0 && len(b) > l.head {
		return 0, errHeadTooLarge
	}
	if n == 0 {
		return 0, errShort
	}
	if bytes.HasPrefix(line, []byte("HTTP/1.")) {
		_, line, _ = bytes.Cut(line, []byte(" "))
	}
	code, _, _ := bytes.Cut(line, []byte(" "))
	status, ok := parseUint(code, 999)
	if !ok || len(code) != 3 || status < 200 {
		return 0, errBadStart
	}
	r.status = int(status)
	size, err := r.fields.parse(b[n:], l.head-n)
	if err != nil {
		return 0, err
	}
	n += size
	r.want = n
	if r.has(fieldTransferEncoding) {
		return 0, errEncoding
	}
	if m == methodHead || r.status == statusNotModified {
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

// record reads a successful answer into rec, every field of it.
func (r *response) record(rec *store.Record) {
	body := append(rec.Body[:0], r.body...)
	*rec = store.Record{
		Version:  r.version,
		Lock:     store.Lock{Cookie: r.cookie, Owner: r.owner},
		Locked:   r.ok(fieldLockAge),
		LockAge:  r.lockAge,
		Timeout:  r.timeout,
		Created:  r.created,
		Flags:    r.flags,
		History:  r.history,
		Acquired: r.acquired,
		Subject:  unescaped(r.subject),
		Body:     body,
	}
}

func unescaped(b []byte) string {
	if len(b) == 0 {
		return ""
	}
	s, _ := appendUnescaped(nil, b)
	return string(s)
}

// appendRecordHead writes the lines of an answer that carries rec.
func appendRecordHead(b []byte, rec *store.Record) []byte {
	b = append(b, "\r\nETag: "...)
	b = appendVersion(b, rec.Version)
	if rec.Locked {
		b = appendLock(b, rec.Lock)
		b = append(b, "\r\nLockAge: "...)
		b = appendSeconds(b, rec.LockAge)
	} else if rec.Lock.Cookie != 0 {
		b = appendLock(b, store.Lock{Cookie: rec.Lock.Cookie})
	}
	if rec.Acquired != 0 {
		b = append(b, "\r\nHoldfast-Acquired: "...)
		b = appendVersion(b, rec.Acquired)
	}
	return appendRecord(b, rec, true)
}

// appendLock writes the name of a lock.
func appendLock(b []byte, l store.Lock) []byte {
	b = append(b, "\r\nLockCookie: "...)
	b = strconv.AppendInt(b, int64(l.Cookie), 10)
	if l.Owner != 0 {
		b = append(b, "\r\nLock-Token: "...)
		b = appendHex(b, l.Owner)
	}
	return b
}
