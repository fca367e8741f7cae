package holdfast

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

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
	tries int // redirects in a row that led to no session
}

// maxRedirects is how often a visitor is sent on to a new session in a row. More
// can only mean that sessions do not stay where they are put.
const maxRedirects = 3

// cutSegment returns path without its segment: the last one of that form.
func cutSegment(path string) (rest string, seg urlSegment, ok bool) {
	end := strings.LastIndex(path, ")/")
	if end < 0 {
		if !strings.HasSuffix(path, ")") {
			return path, seg, false
		}
		end = len(path) - 1
	}
	start := strings.LastIndex(path[:end], "/(")
	if start < 0 {
		return path, seg, false
	}
	for values := path[start+2 : end]; values != ""; {
		length := strings.IndexByte(values, ')')
		if length < 2 || values[0] < 'A' || values[0] > 'Z' || values[1] != '(' || strings.IndexByte(values[:length], '/') >= 0 {
			return path, urlSegment{}, false
		}
		switch v := values[2:length]; values[0] {
		case 'S':
			seg.id = v
		case 'L':
			seg.lost, seg.tries = parseLoss(v)
		}
		values = values[length+1:]
		ok = true
	}
	if !ok {
		return path, seg, false
	}
	rest = path[:start] + path[end+1:]
	if rest == "" {
		rest = "/"
	}
	return rest, seg, true
}

// withSegment returns path, which begins with a slash, with a segment for id.
func withSegment(path, id string) string { return "/(S(" + id + "))" + path }

func parseLoss(s string) (why store.Reason, tries int) {
	parts := strings.Split(s, ".")
	if len(parts) != 3 {
		return store.Reason{}, 0
	}
	seconds, err1 := strconv.ParseUint(parts[1], 10, 31)
	n, err2 := strconv.ParseUint(parts[2], 10, 8)
	if err1 != nil || err2 != nil {
		return store.Reason{}, 0
	}
	return store.Reason{Kind: store.ParseKind(parts[0]), Age: time.Duration(seconds) * time.Second}, int(n)
}

func (seg urlSegment) loss() string {
	return "L(" + seg.lost.Kind.String() + "." + strconv.FormatInt(int64(seg.lost.Age/time.Second), 10) + "." + strconv.Itoa(seg.tries) + ")"
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

// redirectTo is where a visitor without a session is sent on to, in the session id.
func redirectTo(r *http.Request, id string, seg urlSegment) string {
	inner, _ := cutRequest(r)
	prefix := "/(S(" + id + "))"
	if seg.tries > 0 {
		prefix = "/(" + seg.loss() + "S(" + id + "))"
	}
	to := prefix + inner.URL.EscapedPath()
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
