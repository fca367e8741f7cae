package holdfast

import (
	"net/http"
	"strings"
	"time"
)

// Secure says when the session's cookie has the Secure attribute.
type Secure uint8

const (
	// Auto: on requests that came over TLS.
	Auto Secure = iota
	// Always, also where TLS ends at a proxy in front.
	Always
	// Never.
	Never
)

// Cookie is how the session ID travels. HttpOnly is always set.
type Cookie struct {
	// Name of the cookie; default "session". With Secure Always, no Domain and the
	// default Path it travels as "__Host-" + Name, which a browser takes only from
	// this very host over TLS.
	Name string
	// Domain attribute; default none, so that only this host gets the cookie.
	Domain string
	// Path attribute; default "/".
	Path string
	// Secure attribute; default [Auto].
	Secure Secure
	// SameSite attribute; default Lax.
	SameSite http.SameSite
	// MaxAge is how long the browser keeps the cookie; default 0, until it closes.
	MaxAge time.Duration
}

// maxCandidates is how many cookies of the session's name are tried: a stale one
// of a parent domain or another path must not hide the right one, and hundreds
// must not cost hundreds of store calls.
const maxCandidates = 3

// complete fills in the defaults.
func (c *Cookie) complete() {
	if c.Name == "" {
		c.Name = "session"
	}
	host := c.Secure == Always && c.Domain == "" && (c.Path == "" || c.Path == "/")
	if c.Path == "" {
		c.Path = "/"
	}
	if c.SameSite == 0 {
		c.SameSite = http.SameSiteLaxMode
	}
	if host && !strings.HasPrefix(c.Name, "__Host-") {
		c.Name = "__Host-" + c.Name
	}
	if err := (&http.Cookie{Name: c.Name, Value: "x", Path: c.Path, Domain: c.Domain}).Valid(); err != nil {
		panic("holdfast: Options.Cookie: " + err.Error())
	}
	if strings.HasPrefix(c.Name, "__Host-") && !host {
		panic("holdfast: a cookie named __Host-… needs Secure: Always, the default Path, and no Domain")
	}
}

// read appends to ids what the request presents: well-formed IDs only, each once.
// It parses by hand because net/http allocates for every cookie of the request.
func (c *Cookie) read(r *http.Request, ids []string) []string {
	for _, header := range r.Header["Cookie"] {
		for header != "" && len(ids) < maxCandidates {
			var part string
			part, header, _ = strings.Cut(header, ";")
			name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
			if name != c.Name {
				continue
			}
			if len(value) > 1 && value[0] == '"' && value[len(value)-1] == '"' {
				value = value[1 : len(value)-1]
			}
			id, ok := parseID(value)
			if !ok {
				continue
			}
			known := false
			for _, have := range ids {
				known = known || have == id
			}
			if !known {
				ids = append(ids, id)
			}
		}
	}
	return ids
}

// write sets the cookie to id in h or, if id is empty, takes it from the browser.
func (c *Cookie) write(h http.Header, r *http.Request, id string) {
	cookie := http.Cookie{
		Name: c.Name, Value: id, Path: c.Path, Domain: c.Domain, HttpOnly: true, SameSite: c.SameSite,
		Secure: c.Secure == Always || c.Secure == Auto && r.TLS != nil,
		MaxAge: int(c.MaxAge / time.Second),
	}
	if id == "" {
		cookie.MaxAge = -1
	}
	h.Add("Set-Cookie", cookie.String())
}

// guard keeps caches from showing one visitor's page to another: a response whose
// handler has looked into the session depends on the cookie; one that sets it is
// not stored at all.
func guard(h http.Header, cookieSet bool) {
	if cookieSet {
		h.Set("Cache-Control", "no-store")
	} else if len(h["Cache-Control"]) == 0 {
		h["Cache-Control"] = private
	}
	for _, line := range h["Vary"] {
		for part := range strings.SplitSeq(line, ",") {
			if part = strings.TrimSpace(part); part == "*" || strings.EqualFold(part, "Cookie") {
				return
			}
		}
	}
	if len(h["Vary"]) == 0 {
		h["Vary"] = varyCookie
		return
	}
	h.Add("Vary", "Cookie")
}

// Shared by all responses; clipped, so that an Add copies them.
var (
	private    = []string{"private"}[:1:1]
	varyCookie = []string{"Cookie"}[:1:1]
)
