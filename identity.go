package holdfast

import (
	"iter"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
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

// An Identity is how the session ID travels between client and application. The
// Manager checks what is read from a request, and asks the store for no more than
// three IDs of it. Its methods are safe for concurrent use.
type Identity interface {
	// Read returns the IDs that r presents, the likeliest first.
	Read(r *http.Request) []string
	// Write tells the client its ID in the header of the response to r or, if id is
	// empty, that it has none any more.
	Write(h http.Header, r *http.Request, id string)
	// Vary names the request header that Read reads, for caches; "" if there is none.
	Vary() string
}

// Header is the Identity of clients that are programs: the ID travels in a header
// of that name, such as "X-Session", of requests and responses.
func Header(name string) Identity {
	if name == "" {
		panic("holdfast: Header: the name is empty")
	}
	return headerIdentity(http.CanonicalHeaderKey(name))
}

type headerIdentity string

func (name headerIdentity) Read(r *http.Request) []string { return r.Header[string(name)] }

func (name headerIdentity) Write(h http.Header, _ *http.Request, id string) { h.Set(string(name), id) }

func (name headerIdentity) Vary() string { return string(name) }

// IDs is the form of session IDs. The zero IDs is ASP.NET's form, 24 characters of
// a-z and 0-5 for 120 random bits.
type IDs struct {
	// New draws an ID. It must be random, of at least 64 bits, and pass through a
	// cookie (or with [Cookieless], through a path) as it is: letters, digits, '-'
	// and '_' do.
	New func() string
	// Parse returns an ID that a client sent in its canonical form, and whether it
	// is one. Nothing else is shown to the store. Default, if New is set: 16 to 80
	// letters, digits, '-' and '_'.
	Parse func(s string) (id string, ok bool)
}

// maxID is the longest ID of any form, as in ASP.NET.
const maxID = 80

func (ids *IDs) complete(by Identity) {
	switch {
	case ids.New == nil && ids.Parse == nil:
		ids.New, ids.Parse = newID, parseID
	case ids.New == nil:
		panic("holdfast: Options.IDs has a Parse but no New")
	case ids.Parse == nil:
		ids.Parse = parseAnyID
	}
	for range 32 { // an ID may happen to have none of the characters that do not pass
		id := ids.New()
		if len(id) > maxID {
			panic("holdfast: Options.IDs.New draws IDs of more than 80 characters")
		}
		if where := harmedIn(id, by); where != "" {
			panic("holdfast: Options.IDs.New draws what does not come back whole in " + where + ": " + strconv.Quote(id) + "; use letters, digits, '-' and '_'")
		}
		if again, ok := ids.Parse(id); !ok || again != id {
			panic("holdfast: Options.IDs.Parse does not take what New draws: " + strconv.Quote(id))
		}
	}
}

// harmedIn returns where id would not come back as it was sent, "" if it would. What an
// Identity of the application's own or a header can carry is for those to know.
func harmedIn(id string, by Identity) string {
	switch by.(type) {
	case nil:
		isHarmed := func(c rune) bool { return c <= ' ' || c > '~' || strings.ContainsRune(`",;\`+ageMark, c) }
		if strings.ContainsFunc(id, isHarmed) {
			return "a cookie"
		}
	case cookieless:
		if url.PathEscape(id) != id {
			return "a URL"
		}
	}
	return ""
}

func parseAnyID(s string) (string, bool) {
	for i := range len(s) {
		c := s[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_') {
			return "", false
		}
	}
	return s, len(s) >= 16
}

// Cookie is the usual way for the session ID to travel. HttpOnly is always set.
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
	// MaxAge is how long the browser keeps the cookie of a session that has not
	// called [Session.Persist]; default 0, until it closes. A cookie that is kept is
	// sent again when a tenth of that has passed.
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
func (c *Cookie) read(r *http.Request, ids []string, parse func(string) (string, bool)) []string {
	for value := range c.values(r) {
		value, _, _ = strings.Cut(value, ageMark)
		if ids = appendID(ids, value, parse); len(ids) == maxCandidates {
			break
		}
	}
	return ids
}

// values yields the values of the cookies of that name.
func (c *Cookie) values(r *http.Request) iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, header := range r.Header["Cookie"] {
			for header != "" {
				var part string
				part, header, _ = strings.Cut(header, ";")
				name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
				if name != c.Name {
					continue
				}
				if len(value) > 1 && value[0] == '"' && value[len(value)-1] == '"' {
					value = value[1 : len(value)-1]
				}
				if !yield(value) {
					return
				}
			}
		}
	}
}

// appendID appends s if it is an ID that is not there yet.
func appendID(ids []string, s string, parse func(string) (string, bool)) []string {
	if s == "" || len(s) > maxID {
		return ids
	}
	id, ok := parse(s)
	if !ok || slices.Contains(ids, id) {
		return ids
	}
	return append(ids, id)
}

// A cookie that the browser keeps says behind its ID when it was sent, in hours
// since 1970, so that it can be sent again as it ages. Nothing else depends on it.
const ageMark = "~"

// isOld reports whether the cookie that presents id needs to be sent again to be
// kept for maxAge from now on.
func (c *Cookie) isOld(r *http.Request, id string, maxAge time.Duration, now time.Time) bool {
	for value := range c.values(r) {
		value, hours, _ := strings.Cut(value, ageMark)
		if strings.EqualFold(value, id) {
			sent, err := strconv.ParseInt(hours, 36, 64)
			return err != nil || now.Sub(time.Unix(sent*3600, 0)) > max(maxAge/10, time.Hour)
		}
	}
	return true
}

// write sets the cookie to id in h, kept for maxAge or, if that is zero, until the
// browser closes. If id is empty it takes the cookie from the browser.
func (c *Cookie) write(h http.Header, id string, maxAge time.Duration, secure bool) {
	cookie := http.Cookie{
		Name: c.Name, Value: id, Path: c.Path, Domain: c.Domain, HttpOnly: true, SameSite: c.SameSite,
		Secure: c.Secure == Always || c.Secure == Auto && secure,
		MaxAge: int(maxAge / time.Second),
	}
	switch {
	case id == "":
		cookie.MaxAge = -1
	case maxAge > 0:
		cookie.Value += ageMark + strconv.FormatInt(time.Now().Unix()/3600, 36)
	}
	h.Add("Set-Cookie", cookie.String())
}

// isSecure reports whether the client's request came over TLS: to us, or to a proxy
// that we trust to say so.
func (m *Manager) isSecure(r *http.Request) bool {
	if r.TLS != nil || len(m.o.Proxies) == 0 {
		return r.TLS != nil
	}
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return false
	}
	addr := from.Addr().Unmap()
	for _, p := range m.o.Proxies {
		if p.Contains(addr) {
			return strings.EqualFold(r.Header.Get("X-Forwarded-Proto"), "https")
		}
	}
	return false
}

// present appends the IDs that the request presents.
func (s *Session) present(ids []string) []string {
	m := s.m
	switch {
	case m.cookieless:
		ids = appendID(ids, s.segment.id, m.o.IDs.Parse)
	case m.o.Identity == nil:
		ids = m.o.Cookie.read(s.r, ids, m.o.IDs.Parse)
	default:
		for _, id := range m.o.Identity.Read(s.r) {
			if ids = appendID(ids, id, m.o.IDs.Parse); len(ids) == maxCandidates {
				break
			}
		}
	}
	return ids
}

// tell says in h what the client must know of its session's ID. Called with mu
// held.
func (s *Session) tell(h http.Header) {
	m := s.m
	changed := s.sayID || s.sayGone
	switch {
	case m.cookieless:
		relocate(h, s.id)
	case m.o.Identity != nil:
		if s.sayID {
			m.o.Identity.Write(h, s.r, s.id)
		} else if s.sayGone {
			m.o.Identity.Write(h, s.r, "")
		}
	default:
		maxAge := s.now.persist
		if maxAge == 0 {
			maxAge = m.o.Cookie.MaxAge
		}
		maxAge = max(maxAge, 0)
		if !changed && s.stored && !s.follows &&
			(s.now.persist != s.said || maxAge > 0 && m.o.Cookie.isOld(s.r, s.id, maxAge, time.Now())) {
			changed, s.sayID = true, true
		}
		if s.sayID {
			m.o.Cookie.write(h, s.id, maxAge, m.isSecure(s.r))
		} else if s.sayGone {
			m.o.Cookie.write(h, "", 0, m.isSecure(s.r))
		}
	}
	s.sayID, s.sayGone, s.said = false, false, s.now.persist
	guard(h, changed, m.vary)
}

// guard keeps caches from showing one visitor's page to another: a response whose
// handler has looked into the session depends on the cookie; one that sets it is
// not stored at all.
func guard(h http.Header, cookieSet bool, vary []string) {
	if cookieSet {
		h.Set("Cache-Control", "no-store")
	} else if len(h["Cache-Control"]) == 0 {
		h["Cache-Control"] = private
	}
	if len(vary) == 0 {
		return
	}
	for _, line := range h["Vary"] {
		for part := range strings.SplitSeq(line, ",") {
			if part = strings.TrimSpace(part); part == "*" || strings.EqualFold(part, vary[0]) {
				return
			}
		}
	}
	if len(h["Vary"]) == 0 {
		h["Vary"] = vary
		return
	}
	h.Add("Vary", vary[0])
}

// Shared by all responses; clipped, so that an Add copies them.
var (
	private    = []string{"private"}[:1:1]
	varyCookie = []string{"Cookie"}[:1:1]
)
