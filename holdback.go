package holdfast

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"path"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
)

// Hold-back: a response waits in a small buffer until its session is saved, so
// that no page tells of a change that was then lost. In all else a handler finds
// what net/http would have given it, and the client receives the same response.

// holdLimit is how much of a body waits by default.
const holdLimit = 32 << 10

// errHandlerDone answers whoever writes after the handler has returned.
var errHandlerDone = errors.New("holdfast: write to a response whose handler has returned")

// leaving says why a response's header is about to leave.
type leaving uint8

const (
	leavingAtEnd    leaving = iota // the handler has returned
	leavingFull                    // the body outgrew the buffer: save, keep the lock, stream
	leavingFlushed                 // Flush or status 101: save and give the lock up
	leavingHijacked                // the same, and the handler writes to the connection itself
)

// A gate is asked before anything of a response leaves. It is asked with the
// writer's mutex held, so it, and whatever lock it takes, may use no method of the
// writer but left and status.
type gate interface {
	// leave saves the session before the header of the response leaves. It may add
	// to h, which is sent with status. For a connection hijacked before any status
	// was set, status is 0, and h is sent only by a handler that reads it.
	// After an error nothing leaves: the writer drops what it holds and answers
	// every further write with it. The error page is the gate's owner's.
	// It is asked once, or again where the Hijack that followed failed.
	leave(status int, h http.Header, why leaving) error

	// flushed is called before each later Flush and Hijack, so that the session is
	// saved and its lock given up before the bytes go. After an error they do not
	// go, and every further write is answered with it.
	flushed() error
}

// A writer is the [http.ResponseWriter] that a handler gets. Like net/http's it is
// for one goroutine at a time; its mutex is for the goroutine that outlives its
// handler, whose writes fail and reach neither the connection nor a pooled buffer.
type writer struct {
	r     *http.Request
	gate  gate
	limit int

	// Read by left and status without the mutex, under whatever lock the session
	// holds: the order is the writer's mutex, then the session's.
	code atomic.Int32 // the final status, 0 if none was set
	gone atomic.Bool  // the header has left
	sick atomic.Bool  // a status of 500 or more came too late

	mu      sync.Mutex          // guards what follows
	rw      http.ResponseWriter // nil after release
	held    *held               // what waits; nil if nothing does
	asked   bool                // the header map may have been changed
	length  int64               // the body's declared length, or -1
	written int64               // what the handler wrote of it
	err     error               // why no more can be written
}

var (
	_ http.ResponseWriter                    = (*writer)(nil)
	_ http.Flusher                           = (*writer)(nil)
	_ http.Hijacker                          = (*writer)(nil)
	_ io.ReaderFrom                          = (*writer)(nil)
	_ io.StringWriter                        = (*writer)(nil)
	_ http.Pusher                            = (*writer)(nil)
	_ interface{ FlushError() error }        = (*writer)(nil)
	_ interface{ CloseNotify() <-chan bool } = (*writer)(nil)
)

// init makes w the response to r, of whose body up to limit bytes are held.
func (w *writer) init(rw http.ResponseWriter, r *http.Request, limit int, g gate) {
	w.rw, w.r, w.limit, w.gate = rw, r, limit, g
	w.length = -1
}

// left reports whether the header has left, or can no longer be changed.
func (w *writer) left() bool { return w.gone.Load() }

// status returns the status that the handler has set, 0 if none yet.
func (w *writer) status() int { return int(w.code.Load()) }

// failed reports whether a status of 500 or more was set, be it too late to be sent:
// that is what middleware does which recovers from a panic after the first write.
func (w *writer) failed() bool {
	return w.status() >= http.StatusInternalServerError || w.sick.Load()
}

// finish sends what is held, after a handler that returned. Its error is the
// gate's, now or earlier, or that of writing; left tells them apart.
func (w *writer) finish() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	err := w.err
	switch {
	case err == http.ErrHijacked:
		err = nil
	case err != nil || w.left():
	case w.status() != 0:
		err = w.leave(leavingAtEnd)
	default:
		// Nothing was written: the status stays with the server, or with the
		// middleware around this one, as it does without.
		if err = w.gate.leave(http.StatusOK, w.rw.Header(), leavingAtEnd); err == nil {
			w.gone.Store(true)
		}
	}
	w.end(err)
	return err
}

// discard drops what is held. If nothing has left, the underlying writer is then
// ready for an error page: its header is without what described the dropped
// response, and has what the middleware around us put there.
func (w *writer) discard() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.rw != nil && !w.left() {
		w.code.Store(0)
		if w.asked { // else nobody can have changed it
			h := w.rw.Header()
			undescribe(h)
			if w.held != nil {
				w.held.outer.restore(h)
			}
		}
	}
	w.end(nil)
	w.drop()
}

// release parts w from the connection and returns its buffer, after finish or
// discard.
func (w *writer) release() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.end(nil)
	w.drop()
	w.rw = nil
}

// end lets nothing more be written, for the first reason given.
func (w *writer) end(err error) {
	if w.err == nil {
		w.err = err
	}
	if w.err == nil {
		w.err = errHandlerDone
	}
}

// drop gives the buffer back.
func (w *writer) drop() {
	if w.held != nil {
		w.held.free()
		w.held = nil
	}
}

// hold returns the buffer, taking one at the first call.
func (w *writer) hold() *held {
	if w.held == nil {
		w.held = heldPool.Get().(*held)
	}
	return w.held
}

// Header returns the underlying writer's map. From WriteHeader on its changes are
// for the trailers alone, as in net/http.
func (w *writer) Header() http.Header {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.rw == nil {
		return make(http.Header)
	}
	h := w.rw.Header()
	if !w.left() {
		w.note(h)
		if w.err == nil && w.status() != 0 {
			w.hold().sent.take(h)
		}
	}
	return h
}

// note keeps the header as the middleware around us has made it, before it can be
// changed for the first time.
func (w *writer) note(h http.Header) {
	if !w.asked && len(h) > 0 {
		w.hold().outer.take(h)
	}
	w.asked = true
}

// WriteHeader notes the status and the header as they are now; they leave with
// the body. Informational statuses are sent at once, without asking the gate.
func (w *writer) WriteHeader(code int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.err == http.ErrHijacked:
		w.complain("response.WriteHeader on hijacked connection")
	case w.err != nil:
		// The session was not saved, or the handler is over: there is an answer.
	case w.status() != 0:
		w.complain("superfluous response.WriteHeader call")
		if code >= http.StatusInternalServerError {
			w.sick.Store(true)
		}
	case code < 100 || code > 999:
		panic(fmt.Sprintf("invalid WriteHeader code %v", code))
	case code == http.StatusSwitchingProtocols:
		w.begin(code)
		w.leave(leavingFlushed) // an error is kept for Write and Hijack
	case code <= 199:
		w.rw.WriteHeader(code)
	default:
		w.begin(code)
	}
}

// begin fixes the status, the header and the body's length.
func (w *writer) begin(code int) {
	w.code.Store(int32(code))
	h := w.rw.Header()
	if v := h["Content-Length"]; len(v) > 0 {
		if n, err := strconv.ParseInt(v[0], 10, 64); err == nil && n >= 0 {
			w.length = n
		}
	}
	if w.asked { // else nobody can change it before calling Header
		w.hold().sent.take(h)
	}
}

// leave asks the gate, then sends the header and what is held.
func (w *writer) leave(why leaving) error {
	h, code := w.rw.Header(), w.status()
	var late http.Header
	if w.held != nil {
		late = w.held.sent.rewind(h)
	}
	err := w.gate.leave(code, h, why)
	if err == nil {
		w.gone.Store(true)
		w.rw.WriteHeader(code)
	}
	if late != nil { // the trailers among it are read when the response ends
		w.held.sent.forward(h, late)
	}
	if err == nil && w.held != nil && len(w.held.body) > 0 {
		_, err = w.rw.Write(w.held.body)
	}
	if w.left() { // else discard needs it
		w.drop()
	}
	w.err = err
	return err
}

func (w *writer) Write(p []byte) (int, error)       { return w.write(len(p), p, "") }
func (w *writer) WriteString(s string) (int, error) { return w.write(len(s), nil, s) }

// write writes p or s, whichever is not empty.
func (w *writer) write(n int, p []byte, s string) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return 0, w.err
	}
	if w.status() == 0 {
		w.begin(http.StatusOK)
	}
	if n == 0 {
		return 0, nil
	}
	if code := w.status(); code <= 199 || code == http.StatusNoContent || code == http.StatusNotModified {
		return 0, http.ErrBodyNotAllowed
	}
	w.written += int64(n)
	if w.length >= 0 && w.written > w.length {
		return 0, http.ErrContentLength
	}
	if !w.left() {
		// A body declared too long for the buffer does not wait to fill it.
		if b := w.hold(); len(b.body)+n <= w.limit && w.length <= int64(w.limit) {
			b.body = append(append(b.body, p...), s...)
			return n, nil
		}
		if err := w.leave(leavingFull); err != nil {
			return 0, err
		}
	}
	if s != "" {
		return io.WriteString(w.rw, s)
	}
	return w.rw.Write(p)
}

// ReadFrom holds what fits; past that the underlying writer's own ReadFrom has it,
// so that a file goes by sendfile. The mutex is not held while src is read: its
// Read may use w.
func (w *writer) ReadFrom(src io.Reader) (n int64, err error) {
	to := w.streaming()
	if to == nil {
		b := heldPool.Get().(*held)
		defer b.free()
		b.body = slices.Grow(b.body, holdLimit)
		chunk := b.body[:holdLimit]
		for to == nil {
			nr, rerr := src.Read(chunk)
			if nr > 0 {
				nw, werr := w.Write(chunk[:nr])
				n += int64(nw)
				if werr != nil {
					return n, werr
				}
			}
			if rerr == io.EOF {
				return n, nil
			}
			if rerr != nil {
				return n, rerr
			}
			to = w.streaming()
		}
	}
	m, err := to.ReadFrom(src)
	w.mu.Lock()
	w.written += m
	w.mu.Unlock()
	return n + m, err
}

// streaming returns what ReadFrom can leave the rest to, nil while it cannot.
func (w *writer) streaming() io.ReaderFrom {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil || !w.left() {
		return nil
	}
	to, _ := w.rw.(io.ReaderFrom)
	return to
}

// Flush is FlushError for those who expect no error.
func (w *writer) Flush() { w.FlushError() }

// FlushError saves the session and sends what is held. Where the underlying writer
// cannot flush, nothing happens, so the handler may still choose another answer.
func (w *writer) FlushError() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return w.err
	}
	if !canFlush(w.rw) {
		return http.ErrNotSupported
	}
	if w.status() == 0 {
		w.begin(http.StatusOK)
	}
	if err := w.pass(leavingFlushed); err != nil {
		return err
	}
	return http.NewResponseController(w.rw).Flush()
}

// Hijack saves the session and gives the connection to the handler. Where the
// underlying writer cannot be hijacked, nothing happens.
func (w *writer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return nil, nil, w.err
	}
	to, ok := find[http.Hijacker](w.rw)
	if !ok {
		return nil, nil, http.ErrNotSupported
	}
	if err := w.pass(leavingHijacked); err != nil {
		return nil, nil, err
	}
	conn, buf, err := to.Hijack()
	if err == nil {
		w.gone.Store(true)
		w.end(http.ErrHijacked)
		w.drop()
	}
	return conn, buf, err
}

// Push is the underlying writer's: what is pushed is a response of its own. Where that
// cannot, as over HTTP/1, it is [http.ErrNotSupported].
func (w *writer) Push(target string, o *http.PushOptions) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.rw == nil {
		return http.ErrNotSupported
	}
	if to, ok := find[http.Pusher](w.rw); ok {
		return to.Push(target, o)
	}
	return http.ErrNotSupported
}

// pass asks the gate, before a Flush or a Hijack, and sends what is held.
func (w *writer) pass(why leaving) (err error) {
	switch {
	case w.left():
		err = w.gate.flushed()
	case w.status() == 0:
		h := w.rw.Header()
		w.note(h) // the Hijack may fail
		err = w.gate.leave(0, h, why)
	default:
		return w.leave(why)
	}
	if err != nil {
		w.end(err)
	}
	return err
}

// Unwrap is for the methods of [http.ResponseController] that need no hold-back:
// the deadlines and EnableFullDuplex.
func (w *writer) Unwrap() http.ResponseWriter {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.rw
}

// CloseNotify is deprecated in net/http, but routers' own writers assert it
// unchecked. The request's context ends when the client goes.
func (w *writer) CloseNotify() <-chan bool {
	c := make(chan bool, 1)
	context.AfterFunc(w.r.Context(), func() { c <- true })
	return c
}

// complain logs what net/http logs, and where, to the server's log.
func (w *writer) complain(what string) {
	pc := make([]uintptr, 16)
	frames := runtime.CallersFrames(pc[:runtime.Callers(3, pc)]) // past complain and WriteHeader
	f, more := frames.Next()
	for more && strings.HasPrefix(f.Function, "net/http.") {
		f, more = frames.Next()
	}
	logf := log.Printf
	if s, ok := w.r.Context().Value(http.ServerContextKey).(*http.Server); ok && s.ErrorLog != nil {
		logf = s.ErrorLog.Printf
	}
	logf("http: %s from %s (%s:%d)", what, f.Function, path.Base(f.File), f.Line)
}

// find returns the T that rw is or wraps, as [http.ResponseController] looks for it.
func find[T any](rw http.ResponseWriter) (t T, ok bool) {
	for {
		if t, ok = rw.(T); ok {
			return t, true
		}
		u, wraps := rw.(interface{ Unwrap() http.ResponseWriter })
		if !wraps {
			return t, false
		}
		rw = u.Unwrap()
	}
}

func canFlush(rw http.ResponseWriter) bool {
	if _, ok := find[http.Flusher](rw); ok {
		return true
	}
	_, ok := find[interface{ FlushError() error }](rw)
	return ok
}

// undescribe deletes from h what belongs to a response that was dropped: what
// describes its body, redirects, lets it be cached, sets cookies, switches
// protocols, or comes after it.
func undescribe(h http.Header) {
	if h.Get("Upgrade") != "" {
		h.Del("Connection") // else it may be the server's order to close
	}
	for k := range h {
		switch k {
		case "Accept-Ranges", "Cache-Control", "Digest", "Etag", "Expires", "Last-Modified", "Location",
			"Refresh", "Repr-Digest", "Set-Cookie", "Trailer", "Transfer-Encoding", "Upgrade":
			delete(h, k)
		default:
			if strings.HasPrefix(k, http.TrailerPrefix) || strings.HasPrefix(k, "Sec-Websocket-") ||
				strings.HasPrefix(k, "Content-") && !strings.HasPrefix(k, "Content-Security-Policy") {
				delete(h, k)
			}
		}
	}
}

// held is what waits to leave: the body so far, and the header as it was at
// WriteHeader. Beside it is the header as it was before the handler saw it.
type held struct {
	body        []byte
	sent, outer snapshot
}

// A snapshot is a header as it was once, kept flat so that keeping it allocates
// nothing.
type snapshot struct {
	taken  bool
	fields []field
	values []string // those of all fields, in their order
}

type field struct {
	key string
	n   int // how many of the values are its own
}

var heldPool = sync.Pool{New: func() any { return &held{body: make([]byte, 0, 4<<10)} }}

// free gives b back to the pool, unless one large response made it too large to keep.
func (b *held) free() {
	if cap(b.body) > 2*holdLimit || cap(b.sent.values) > 256 || cap(b.outer.values) > 256 {
		return
	}
	b.body = b.body[:0]
	b.sent.clear()
	b.outer.clear()
	heldPool.Put(b)
}

func (s *snapshot) clear() {
	clear(s.fields)
	clear(s.values)
	s.fields, s.values, s.taken = s.fields[:0], s.values[:0], false
}

// take notes what h is now, at its first call.
func (s *snapshot) take(h http.Header) {
	if s.taken {
		return
	}
	s.taken = true
	for k, v := range h {
		s.fields = append(s.fields, field{k, len(v)})
		s.values = append(s.values, v...)
	}
}

// restore puts what was noted into h, in place of other values of these fields.
func (s *snapshot) restore(h http.Header) {
	values := slices.Clone(s.values) // whoever is below may keep them
	for _, f := range s.fields {
		h[f.key], values = values[:f.n:f.n], values[f.n:]
	}
}

// rewind makes h what it was when it was noted. If that changes h, it returns what
// h was before, else nil.
func (s *snapshot) rewind(h http.Header) http.Header {
	if !s.taken || s.same(h) {
		return nil
	}
	late := maps.Clone(h)
	clear(h)
	s.restore(h)
	return late
}

// forward undoes rewind, but for what the gate has done to h meanwhile: a writer below
// that reads its header later than at WriteHeader, as http.TimeoutHandler's does, is to
// find that there.
func (s *snapshot) forward(h, late http.Header) {
	values := s.values
	for _, f := range s.fields {
		if slices.Equal(h[f.key], values[:f.n]) {
			delete(h, f.key) // what is left in h is the gate's
		}
		values = values[f.n:]
	}
	for k, v := range late {
		if _, ok := h[k]; !ok {
			h[k] = v
		}
	}
}

// same reports whether h is still what was noted.
func (s *snapshot) same(h http.Header) bool {
	if len(h) != len(s.fields) {
		return false
	}
	values := s.values
	for _, f := range s.fields {
		v, ok := h[f.key]
		if !ok || !slices.Equal(v, values[:f.n]) {
			return false
		}
		values = values[f.n:]
	}
	return true
}
