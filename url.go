package holdfast

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-session/holdfast/items"
	"github.com/holdfast-session/holdfast/store"
)

// Cookieless sessions, as ASP.NET has them (cookieless="UseUri"): the ID travels in
// a segment of the path in parentheses, of letters with a value each,
//
//	/(S(lit3py55t21z5v55vlm25s55))/cart
//
// S is the session ID. L is ours: what became of a session that was lost, so that
// the page after the redirect can say it, and how often that went wrong. Others
// (A and F for ASP.NET's anonymous users and tickets, X for its auto-detection) are
// accepted and dropped.
type urlSegment struct {
	id    string
	lost  store.Reason
	tries int   // redirects in a row that led to no session
	at    int64 // when the last of them was, in Unix seconds; 0: long ago
}

// Cookieless is the Identity of browsers without cookies: the ID is part of every
// URL, which the handler does not see.
//
// A first request is sent on, before its handler does anything, to a real but empty
// session: by a 302, or a 307 where a body must not be lost. Redirects of the
// handler to paths of the application ("/cart") get the ID by themselves; links in a
// page get it by [Session.Link]. Whoever is given such a URL has the session, so
// it is the worst way for an ID to travel, and is there for clients that have no other.
//
// A response that gives the session another ID (RegenerateID, or values put in after
// Abandon) must be a redirect into the application.
func Cookieless() Identity { return cookieless{} }

type cookieless struct{}

func (cookieless) Read(r *http.Request) []string {
	_, seg, _ := cutSegment(r.URL.Path)
	return []string{seg.id}
}

// Write does nothing: the Manager sends the client on.
func (cookieless) Write(http.Header, *http.Request, string) {}

func (cookieless) Vary() string { return "" }

var (
	errRedirect = errors.New("holdfast: the client is sent on to a session of its own")

	// ErrNotRedirected means that a cookieless session has got another ID, and the
	// response is no redirect into the application that would tell the client.
	ErrNotRedirected = errors.New("holdfast: a cookieless session has got another ID; answer with a redirect to a path of the application")

	errRedirectLoop = errors.New("holdfast: sessions do not stay where they are put: does every worker have its own?")
)

// Link returns link, a path of this application such as "/cart", as a page must
// show it: with the session's ID in it where that travels in the URL ([Cookieless]),
// otherwise unchanged. Links to other sites are never changed.
func (s *Session) Link(link string) string {
	if !s.m.cookieless {
		return link
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return relink(link, s.id)
}

// prepare makes an empty session, that lives for a minute, for the client to be
// sent on to.
func (s *Session) prepare(ctx context.Context, lost store.Reason, presented bool) error {
	next := urlSegment{lost: lost, at: time.Now().Unix()}
	if presented {
		next.tries = 1
		if between := next.at - s.segment.at; -redirectsInARow < between && between < redirectsInARow {
			next.tries += s.segment.tries
		}
	}
	if next.tries > maxRedirects {
		return errRedirectLoop
	}
	ch := changes{now: traits{timeout: time.Minute}}
	s.rec = store.Record{Version: store.NewVersion(), Flags: store.Uninitialized}
	id, err := s.insert(ctx, &ch, &items.Item{Timeout: time.Minute}, false)
	if err != nil {
		return err
	}
	next.id = id
	s.segment = next
	return errRedirect
}

// redirect sends the client on to the session that prepare has made.
func (s *Session) redirect() {
	code := http.StatusTemporaryRedirect // the form in the body is sent again
	if s.r.Method == http.MethodGet || s.r.Method == http.MethodHead {
		code = http.StatusFound
	}
	h := s.w.rw.Header()
	h.Set("Location", redirectTo(s.r, s.segment))
	h.Set("Cache-Control", "no-store")
	h.Set("Referrer-Policy", "same-origin")
	s.w.rw.WriteHeader(code)
}

// relocate puts the ID into a redirect of the handler's, and sees to it that no other
// site is told of it.
func relocate(h http.Header, id string) {
	if to := h.Get("Location"); to != "" {
		h.Set("Location", relink(to, id))
	}
	keepReferrer(h)
}

// keepReferrer has the browser tell no other site the URL of this response.
func keepReferrer(h http.Header) {
	if h.Get("Referrer-Policy") == "" {
		h.Set("Referrer-Policy", "same-origin")
	}
}

// canMove reports whether a response tells a cookieless client its new ID.
func canMove(status int, h http.Header) bool {
	return status >= 300 && status < 400 && isLocal(h.Get("Location"))
}

// maxRedirects is how often a visitor is sent on to a new session in a row. More
// can only mean that sessions do not stay where they are put.
const maxRedirects = 3

// redirectsInARow is how many seconds may lie between them. A visitor who loads a page
// again whose session has ended meanwhile is not sent in circles.
const redirectsInARow = 30

// cutSegment returns path without its segment: the last one of that form, which is
// the whole of what stands between two slashes. Others in parentheses are the path's.
func cutSegment(path string) (rest string, seg urlSegment, ok bool) {
	for end := len(path); end > 0; {
		start := strings.LastIndexByte(path[:end], '/')
		if start < 0 {
			break
		}
		if seg, ok = parseSegment(path[start+1 : end]); ok {
			if rest = path[:start] + path[end:]; rest == "" {
				rest = "/"
			}
			return rest, seg, true
		}
		end = start
	}
	return path, urlSegment{}, false
}

// parseSegment reads a segment with its parentheses.
func parseSegment(s string) (seg urlSegment, ok bool) {
	if len(s) < 2 || s[0] != '(' || s[len(s)-1] != ')' {
		return seg, false
	}
	for values := s[1 : len(s)-1]; values != ""; {
		length := strings.IndexByte(values, ')')
		if length < 2 || values[0] < 'A' || values[0] > 'Z' || values[1] != '(' {
			return urlSegment{}, false
		}
		switch v := values[2:length]; values[0] {
		case 'S':
			seg.id = v
		case 'L':
			seg.lost, seg.tries, seg.at = parseLoss(v)
		}
		values = values[length+1:]
		ok = true
	}
	return seg, ok
}

// withSegment returns path, which begins with a slash, with a segment for id.
func withSegment(path, id string) string { return "/(S(" + id + "))" + path }

func parseLoss(s string) (why store.Reason, tries int, at int64) {
	parts := strings.Split(s, ".")
	if len(parts) != 4 {
		return store.Reason{}, 0, 0
	}
	seconds, err1 := strconv.ParseUint(parts[1], 10, 31)
	n, err2 := strconv.ParseUint(parts[2], 10, 8)
	at, err3 := strconv.ParseInt(parts[3], 10, 64)
	if err1 != nil || err2 != nil || err3 != nil || at < 0 {
		return store.Reason{}, 0, 0
	}
	return store.Reason{Kind: store.ParseKind(parts[0]), Age: time.Duration(seconds) * time.Second}, int(n), at
}

// lostBy returns the reason with its age as it is by now. The segment stays in the
// client's URL as it was at the redirect, and tells that time in whole seconds; what
// has passed since is what certainly has.
func (seg urlSegment) lostBy(now time.Time) store.Reason {
	why := seg.lost
	if why.Kind != store.Unknown {
		why.Age += max(now.Sub(time.Unix(seg.at, 0))-time.Second, 0)
	}
	return why
}

func (seg urlSegment) loss() string {
	return "L(" + seg.lost.Kind.String() + "." + strconv.FormatInt(int64(seg.lost.Age/time.Second), 10) + "." + strconv.Itoa(seg.tries) + "." + strconv.FormatInt(seg.at, 10) + ")"
}

// cutRequest returns r as the handler sees it, without the segment in its path.
func cutRequest(r *http.Request) (*http.Request, urlSegment) {
	path, seg, ok := cutSegment(r.URL.Path)
	if !ok {
		return r, seg
	}
	inner := new(http.Request)
	*inner = *r
	inner.URL = new(url.URL)
	*inner.URL = *r.URL
	inner.URL.Path = path
	if raw, _, ok := cutSegment(r.URL.RawPath); ok {
		inner.URL.RawPath = raw
	} else {
		inner.URL.RawPath = "" // the parentheses were escaped: net/url escapes the rest anew
	}
	return inner, seg
}

// redirectTo is where a visitor without a session is sent on to.
func redirectTo(r *http.Request, seg urlSegment) string {
	inner, _ := cutRequest(r)
	loss := ""
	if seg.tries > 0 {
		loss = seg.loss()
	}
	to := "/(" + loss + "S(" + seg.id + "))" + inner.URL.EscapedPath()
	if r.URL.RawQuery != "" {
		to += "?" + r.URL.RawQuery
	}
	return to
}

// isLocal reports whether a link leads into this application: a path from its root.
func isLocal(link string) bool {
	return strings.HasPrefix(link, "/") && !strings.HasPrefix(link, "//") && !strings.HasPrefix(link, `/\`)
}

// relink returns a local link with the segment for id, in place of the one that it
// may have. Others are returned as they are.
func relink(link, id string) string {
	if !isLocal(link) || id == "" {
		return link
	}
	path, rest := link, ""
	if i := strings.IndexAny(link, "?#"); i >= 0 {
		path, rest = link[:i], link[i:]
	}
	path, _, _ = cutSegment(path)
	return withSegment(path, id) + rest
}
