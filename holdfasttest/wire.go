package holdfasttest

import (
	"net/http"
	"net/url"
	"path"
	"regexp"
	"strings"
	"time"
)

// A cookie is one that a visitor has.
type cookie struct {
	http.Cookie           // its name, value and path
	until       time.Time // when the browser forgets it; zero: when it closes
}

// isFor reports whether a request of that path carries the cookie.
func (c *cookie) isFor(path string) bool {
	return path == c.Path || strings.HasPrefix(path, c.Path) &&
		(strings.HasSuffix(c.Path, "/") || path[len(c.Path)] == '/')
}

// carry returns a copy of r that says who the visitor is, in the way that the
// application expects, unless r says so itself.
func (v *Visitor) carry(r *http.Request) *http.Request {
	r = r.Clone(r.Context())
	v.mu.Lock()
	defer v.mu.Unlock()
	own := make(map[string]bool)
	for _, c := range r.Cookies() {
		own[c.Name] = true
	}
	now, at := time.Now(), r.URL.Path
	if at == "" {
		at = "/"
	}
	for _, c := range v.cookies {
		if !own[c.Name] && c.isFor(at) && (c.until.IsZero() || now.Before(c.until)) {
			r.AddCookie(&c.Cookie)
		}
	}
	if name := v.ht.header; name != "" && v.header != "" && r.Header[name] == nil {
		r.Header.Set(name, v.header)
	}
	if _, id := cutSegment(r.URL.Path); id == "" && v.segment != "" && strings.HasPrefix(r.URL.Path, "/") {
		segment := "/(S(" + v.segment + "))"
		moveTo(r, segment+r.URL.Path, segment+r.URL.EscapedPath())
	}
	return r
}

// moveTo makes r a request for another path.
func moveTo(r *http.Request, path, raw string) {
	r.URL.Path, r.URL.RawPath = path, raw
	if r.RequestURI != "" {
		r.RequestURI = r.URL.RequestURI()
	}
}

// learn keeps what the header of the response to a request for u tells the visitor.
func (v *Visitor) learn(u *url.URL, h http.Header) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, c := range (&http.Response{Header: h}).Cookies() {
		v.keep(c, u.Path)
	}
	if values := h[v.ht.header]; len(values) > 0 {
		v.header = values[0]
	}
	if to := h.Get("Location"); v.ht.cookieless && strings.HasPrefix(to, "/") {
		if _, id := cutSegment(to); id != "" {
			v.segment = id
		}
	}
}

// keep puts a cookie that came from a page into its place. Called with mu held.
func (v *Visitor) keep(c *http.Cookie, page string) {
	kept := cookie{Cookie: http.Cookie{Name: c.Name, Value: c.Value, Quoted: c.Quoted, Path: c.Path}, until: c.Expires}
	if !strings.HasPrefix(c.Path, "/") {
		kept.Path = path.Dir("/" + strings.TrimPrefix(page, "/"))
	}
	if c.MaxAge > 0 {
		kept.until = time.Now().Add(time.Duration(c.MaxAge) * time.Second)
	}
	gone := c.MaxAge < 0 || !kept.until.IsZero() && !time.Now().Before(kept.until)
	others := make([]cookie, 0, len(v.cookies)+1)
	for _, o := range v.cookies {
		if o.Name != kept.Name || o.Path != kept.Path {
			others = append(others, o)
		}
	}
	if v.cookies = others; gone {
		return
	}
	at := 0 // those with the longer path come first
	for at < len(others) && len(others[at].Path) >= len(kept.Path) {
		at++
	}
	v.cookies = append(others[:at:at], append([]cookie{kept}, others[at:]...)...)
}

// A cookieless ID is in the first segment of the path: "/(S(…))/cart".
var (
	segmentForm = regexp.MustCompile(`^/\(((?:[A-Z]\([^()/]*\))+)\)(/.*)?$`)
	segmentID   = regexp.MustCompile(`S\(([^()]+)\)`)
)

// cutSegment returns path without its segment, and the ID in there.
func cutSegment(path string) (rest, id string) {
	m := segmentForm.FindStringSubmatch(path)
	if m == nil {
		return path, ""
	}
	if rest = m[2]; rest == "" {
		rest = "/"
	}
	if s := segmentID.FindStringSubmatch(m[1]); s != nil {
		id = s[1]
	}
	return rest, id
}

// sentOn returns where the Manager, and not the handler, sends a cookieless visitor: to
// the same page under another ID. Else it returns nil.
func sentOn(r *http.Request, code int, h http.Header) *url.URL {
	want := http.StatusTemporaryRedirect
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		want = http.StatusFound
	}
	to, err := url.Parse(h.Get("Location"))
	if err != nil || code != want || to.Host != "" || to.RawQuery != r.URL.RawQuery {
		return nil
	}
	page, old := cutSegment(r.URL.Path)
	next, id := cutSegment(to.Path)
	if page != next || id == "" || id == old {
		return nil
	}
	return to
}
