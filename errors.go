package holdfast

import (
	"context"
	"errors"
	"net/http"
	"strconv"

	"github.com/holdfast-session/holdfast/store"
)

var (
	// ErrEnded means that the session ended (abandoned, expired, regenerated,
	// evicted) while this request was working on it. Nothing is saved: logout stays
	// out. Answered with 409.
	ErrEnded = errors.New("holdfast: the session has ended meanwhile")

	// ErrConflict means that another request changed what this one had read and
	// wanted to overwrite, or took the session's lock over. Nothing is saved; use
	// Update instead of Get and Set, or Exclusive. Answered with 409.
	ErrConflict = errors.New("holdfast: the session was changed by another request")

	// ErrBusy means that the session's lock was not to be had: LockWait passed, or
	// more than MaxWaiters wait already. Answered with 503 and Retry-After.
	ErrBusy = errors.New("holdfast: the session is busy with other requests")

	// ErrReadOnly means that a request with read-only access tried to change its
	// session. Use With(Exclusive) or With(Merge) for it.
	ErrReadOnly = errors.New("holdfast: the session is read-only in this request; use Exclusive or Merge access to change it")

	// ErrHeadersSent means that a session was to begin, or to change its ID, after
	// the response's header had left: its cookie could not be sent any more. Put
	// something in, or call RegenerateID, before the first Flush.
	ErrHeadersSent = errors.New("holdfast: the response has begun, a new session cannot send its cookie any more; change the session before the first Flush or large write")

	// ErrTooLarge means that the session would be larger than Options.MaxBytes.
	ErrTooLarge = errors.New("holdfast: the session is larger than Options.MaxBytes; keep large values elsewhere and their key in the session")

	// ErrNoSession means that there is no session in this request: no Handler of
	// the Manager is around it, or its access is Disabled.
	ErrNoSession = errors.New("holdfast: no session in this request; wrap the handler: http.ListenAndServe(addr, sessions.Handler(mux))")

	// ErrFinished means that a session was changed after its request had ended, by
	// a goroutine that outlives the handler. Nothing is saved.
	ErrFinished = errors.New("holdfast: the request of this session has ended")
)

// statusOf is the status that err is answered with.
func statusOf(err error) int {
	switch {
	case errors.Is(err, ErrEnded), errors.Is(err, ErrConflict):
		return http.StatusConflict
	case errors.Is(err, ErrBusy), errors.Is(err, store.ErrUnavailable), errors.Is(err, store.ErrUnsure), errors.Is(err, store.ErrFull),
		errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return http.StatusServiceUnavailable
	default:
		return http.StatusInternalServerError
	}
}

// retryAfter is what a 503 suggests, in seconds.
const retryAfter = 2

// errorPage answers a request whose session could not be had or saved. Nothing of
// the handler's own response has left.
func (m *Manager) errorPage(w http.ResponseWriter, r *http.Request, err error) {
	status := statusOf(err)
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	if m.cookieless {
		r, _ = cutRequest(r)
		keepReferrer(h)
	}
	if status == http.StatusServiceUnavailable {
		h.Set("Retry-After", strconv.Itoa(retryAfter))
	}
	if m.o.ErrorPage != nil {
		m.o.ErrorPage(w, r, status, err)
		return
	}
	// Whether something was saved we do not always know: by a Save before, or by one
	// whose reply was lost.
	text := "The server could not handle the session of this request."
	switch status {
	case http.StatusConflict:
		text = "Your session has changed or ended in another request. What you have just done may not have been saved; please load the page again."
	case http.StatusServiceUnavailable:
		text = "Your session is not available at the moment. What you have just done may not have been saved; please look again in a few seconds."
	}
	http.Error(w, text, status)
}

// report tells the application's hook and log of an error that no caller sees.
func (m *Manager) report(ctx context.Context, err error, what string, s *Session) {
	if m.o.OnError != nil {
		m.o.OnError(ctx, err)
	}
	if m.log != nil {
		m.log.ErrorContext(ctx, "holdfast: "+what, "error", err, "session", s.logID())
	}
}
