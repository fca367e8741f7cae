package mode

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A WebConfig is what an ASP.NET application asks for by its web.config, in the terms
// of Holdfast: what to give to [Open], and to holdfast.New as options. What has no
// counterpart, or means something else here, is in Notes.
type WebConfig struct {
	// Mode is ASP.NET's name of the mode: Off, InProc, StateServer, SQLServer, Custom.
	Mode string
	// Spec is what [Open] takes. It may hold a password: show what [Redact] makes of it.
	// It is empty if the file does not say where the sessions are, but code does; a Note
	// then says what to do.
	Spec string

	// Timeout is for Options.Timeout.
	Timeout time.Duration
	// StoreTimeout is for Options.StoreTimeout; 0, for the default, if the file has
	// nothing of the kind.
	StoreTimeout time.Duration
	// Cookieless says that Options.Identity is holdfast.Cookieless(). Otherwise the ID
	// travels in a cookie.
	Cookieless bool
	// CookieName, CookieDomain and SameSite are for the fields of Options.Cookie.
	CookieName, CookieDomain string
	SameSite                 http.SameSite
	// RequireSSL says that Options.Cookie.Secure is holdfast.Always.
	RequireSSL bool

	// Notes are in the order of the attributes' names.
	Notes []Note
}

// A Note says what becomes of a setting that Holdfast does not have as it is.
type Note struct {
	Setting string // an attribute, or "mode"
	Text    string
}

func (n Note) String() string { return n.Setting + ": " + n.Text }

// ParseWebConfig reads the <sessionState> element of an ASP.NET application, with what
// belongs to it: text is a whole web.config or the element alone. location is empty for
// the application whose file it is, or names one below it for which the file has a
// <location path="…"> of its own.
//
// All mistakes are told at once. Neither an error nor a Note has anything that could be
// secret in it.
func ParseWebConfig(text []byte, location string) (*WebConfig, error) {
	c, err := parseWebConfig(text, location)
	if err != nil {
		return nil, fmt.Errorf("mode: web.config: %w", err)
	}
	return c, nil
}

func parseWebConfig(text []byte, location string) (*WebConfig, error) {
	root, err := parseXML(text)
	if err != nil {
		return nil, err
	}
	in, err := gather(root, location)
	if err != nil {
		return nil, err
	}
	r := &reader{source: in}
	c := r.read()
	if len(r.errs) > 0 {
		return nil, errors.Join(r.errs...)
	}
	slices.SortStableFunc(c.Notes, func(a, b Note) int { return strings.Compare(a.Setting, b.Setting) })
	return c, nil
}

// An element of XML.
type element struct {
	name     string
	line     int
	attrs    map[string]string
	edits    bool // it has attributes that say how to change another file
	children []*element
}

// each yields the elements at a path of names below e.
func (e *element) each(path ...string) iter.Seq[*element] {
	return func(yield func(*element) bool) {
		for _, c := range e.children {
			if c.name != path[0] {
				continue
			}
			if len(path) == 1 {
				if !yield(c) {
					return
				}
				continue
			}
			for below := range c.each(path[1:]...) {
				if !yield(below) {
					return
				}
			}
		}
	}
}

// parseXML returns the outermost element.
func parseXML(text []byte) (*element, error) {
	d := xml.NewDecoder(bytes.NewReader(text))
	charset := ""
	d.CharsetReader = func(name string, in io.Reader) (io.Reader, error) {
		decoded, err := decode(name, in)
		if err != nil {
			charset = clip(name)
		}
		return decoded, err
	}
	if len(text) > 1 && (text[0] == 0 || text[1] == 0 || text[0] >= 0xfe && text[1] >= 0xfe) {
		return nil, errors.New("it is encoded as UTF-16; save it as UTF-8")
	}
	top := &element{}
	open := []*element{top}
	for {
		token, err := d.Token()
		line, _ := d.InputPos()
		if err != nil {
			if len(open) == 1 && len(top.children) > 0 && err == io.EOF {
				return top.children[0], nil
			}
			if charset != "" {
				return nil, fmt.Errorf("it is encoded as %s; save it as UTF-8", charset)
			}
			// What is wrong may be a piece of a password.
			return nil, fmt.Errorf("line %d is not XML; in a value, & is written as &amp; and < as &lt;", line)
		}
		switch token := token.(type) {
		case xml.StartElement:
			e := &element{name: token.Name.Local, line: line, attrs: make(map[string]string)}
			for _, a := range token.Attr {
				switch {
				case a.Name.Space == "xmlns" || a.Name.Local == "xmlns":
				case a.Name.Space != "":
					e.edits = true
				default:
					if _, twice := e.attrs[a.Name.Local]; twice {
						return nil, fmt.Errorf("line %d: <%s> has an attribute twice", line, clip(e.name))
					}
					e.attrs[a.Name.Local] = a.Value
				}
			}
			last := open[len(open)-1]
			last.children = append(last.children, e)
			open = append(open, e)
		case xml.EndElement:
			open = open[:len(open)-1]
		}
	}
}

// decode returns what is read from in, as UTF-8.
func decode(charset string, in io.Reader) (io.Reader, error) {
	high := "" // the characters from 0x80 on, where they are not those of Unicode
	switch strings.ToLower(charset) {
	case "us-ascii", "ascii":
		return in, nil
	case "iso-8859-1", "latin1":
	case "windows-1252", "cp1252":
		high = "€\u0081‚ƒ„…†‡ˆ‰Š‹Œ\u008dŽ\u008f\u0090‘’“”•–—˜™š›œ\u009džŸ"
	default:
		return nil, errors.New("no such encoding is read here")
	}
	text, err := io.ReadAll(in)
	if err != nil {
		return nil, err
	}
	special := []rune(high)
	var b bytes.Buffer
	for _, c := range text {
		if i := int(c) - 0x80; i >= 0 && i < len(special) {
			b.WriteRune(special[i])
		} else {
			b.WriteRune(rune(c))
		}
	}
	return &b, nil
}

// A source is what a file has for one application.
type source struct {
	sessionState map[string]string
	httpCookies  map[string]string
	providers    map[string]map[string]string // of customProvider
	connections  map[string]string            // <connectionStrings>
	appSettings  map[string]string
	notes        []Note
}

// fold is a name in the maps of a source, by which upper and lower case are the same, as
// they are to .NET.
func fold(name string) string { return strings.ToLower(name) }

// gather collects what counts for the application at location: what stands in the
// <location> for it over what stands outside.
func gather(root *element, location string) (*source, error) {
	in := &source{httpCookies: map[string]string{}, providers: map[string]map[string]string{}, connections: map[string]string{}, appSettings: map[string]string{}}
	switch root.name {
	case "sessionState":
		return in, in.overlay(root)
	case "system.web":
		root = &element{children: []*element{root}}
	case "configuration":
	default:
		return nil, fmt.Errorf("<%s> is neither <configuration> nor <sessionState>", clip(root.name))
	}
	scopes := []*element{root}
	var others []string // applications that the file also speaks of
	var own *element
	for l := range root.each("location") {
		path := strings.Trim(l.attrs["path"], "/")
		switch {
		case path == "" || path == ".":
			if location == "" || !strings.EqualFold(l.attrs["inheritInChildApplications"], "false") {
				scopes = append(scopes, l)
			}
		case strings.EqualFold(path, strings.Trim(location, "/")):
			own = l
		default:
			for range l.each("system.web", "sessionState") {
				others = append(others, path)
			}
		}
	}
	if own != nil {
		scopes = append(scopes, own)
	}
	if location != "" && own == nil {
		return nil, fmt.Errorf("there is no <location path=%q>%s", clip(location), also(others))
	}
	for _, scope := range scopes {
		if err := in.scope(scope); err != nil {
			return nil, err
		}
	}
	if in.sessionState == nil {
		if len(others) > 0 {
			return nil, errors.New("there is no <sessionState> for the application itself" + also(others))
		}
		in.sessionState = map[string]string{}
		in.note("mode", "there is no <sessionState> in this file, so what counts is that of a file above it, or ASP.NET's default, which is returned")
	}
	return in, nil
}

func also(locations []string) string {
	if len(locations) == 0 {
		return ""
	}
	for i, path := range locations {
		locations[i] = clip(path)
	}
	return "; there is one for the location " + strings.Join(locations, ", ")
}

func (in *source) note(setting, text string) { in.notes = append(in.notes, Note{setting, text}) }

// scope takes over what stands in a <configuration> or <location>.
func (in *source) scope(e *element) error {
	n := 0
	for state := range e.each("system.web", "sessionState") {
		if n++; n > 1 {
			return fmt.Errorf("line %d: <sessionState> is there twice", state.line)
		}
		if err := in.overlay(state); err != nil {
			return err
		}
	}
	for cookies := range e.each("system.web", "httpCookies") {
		maps.Copy(in.httpCookies, cookies.attrs)
	}
	for add := range e.each("connectionStrings", "add") {
		in.connections[fold(add.attrs["name"])] = add.attrs["connectionString"]
	}
	for add := range e.each("appSettings", "add") {
		in.appSettings[fold(add.attrs["key"])] = add.attrs["value"]
	}
	for section := range e.each("connectionStrings") {
		if section.attrs["configSource"] != "" {
			in.note("sqlConnectionString", "<connectionStrings> is in another file (configSource), which is not read")
		}
	}
	return nil
}

// overlay takes over the attributes and providers of a <sessionState>.
func (in *source) overlay(e *element) error {
	if file := e.attrs["configSource"]; file != "" {
		return fmt.Errorf("line %d: <sessionState> is in another file (configSource), %s; read that one", e.line, clip(file))
	}
	for range e.each("EncryptedData") {
		return fmt.Errorf("line %d: <sessionState> is encrypted; decrypt the file with aspnet_regiis -pdf", e.line)
	}
	if e.edits {
		in.note("mode", "this is a file that changes another one (xdt:Transform), and was read as if it stood alone")
	}
	if in.sessionState == nil {
		in.sessionState = make(map[string]string)
	}
	maps.Copy(in.sessionState, e.attrs)
	for list := range e.each("providers") {
		for _, p := range list.children {
			switch p.name {
			case "add":
				in.providers[fold(p.attrs["name"])] = p.attrs
			case "remove":
				delete(in.providers, fold(p.attrs["name"]))
			case "clear":
				clear(in.providers)
			}
		}
	}
	return nil
}

// attributes are all that <sessionState> has.
var attributes = []string{
	"mode", "stateConnectionString", "stateNetworkTimeout", "sqlConnectionString", "sqlCommandTimeout", "sqlConnectionRetryInterval",
	"customProvider", "cookieless", "cookieName", "timeout", "allowCustomSqlDatabase", "compressionEnabled", "regenerateExpiredSessionId",
	"partitionResolverType", "useHostingIdentity", "sessionIDManagerType", "cookieSameSite",
}

// generic are the attributes that every section may have. They say who may change what
// in files below this one.
var generic = []string{
	"lockAttributes", "lockItem", "lockElements", "lockAllAttributesExcept", "lockAllElementsExcept", "configSource", "configProtectionProvider",
}

// A reader turns a source into a WebConfig, and notes all mistakes.
type reader struct {
	*source
	c              *WebConfig
	customDatabase bool // allowCustomSqlDatabase
	compressed     bool // compressionEnabled, which says something in the modes that leave the process
	errs           []error
}

func (r *reader) wrong(format string, args ...any) {
	r.errs = append(r.errs, fmt.Errorf(format, args...))
}

func (r *reader) text(name string) string { return r.sessionState[name] }

func (r *reader) has(name string) bool { return r.sessionState[name] != "" }

// choice returns which of the values an attribute has; the first one is the default.
// ASP.NET tells upper from lower case here.
func (r *reader) choice(name string, of ...string) string {
	v, ok := r.sessionState[name]
	if ok && !slices.Contains(of, v) {
		slices.Sort(of)
		r.wrong("%s=%q: want %s", name, clip(v), strings.Join(of, ", "))
	}
	if !ok {
		return of[0]
	}
	return v
}

func (r *reader) flag(attrs map[string]string, name string, otherwise bool) bool {
	v, ok := attrs[name]
	switch {
	case !ok:
		return otherwise
	case strings.EqualFold(v, "true"):
		return true
	case !strings.EqualFold(v, "false"):
		r.wrong("%s=%q: want true or false", name, clip(v))
	}
	return false
}

// infinite is the duration of "Infinite".
const infinite = time.Duration(-1)

// duration returns the value of an attribute that is a number of units.
func (r *reader) duration(name string, unit, otherwise time.Duration, least int64) time.Duration {
	v, ok := r.sessionState[name]
	if !ok {
		return otherwise
	}
	if v == "Infinite" {
		return infinite
	}
	n, err := strconv.ParseInt(strings.TrimSpace(v), 10, 64)
	if err != nil || n < least || n > int64(100*365*24*time.Hour/unit) {
		what := "seconds"
		if unit == time.Minute {
			what = "minutes"
		}
		r.wrong("%s=%q: want a number of %s from %d, or Infinite", name, clip(v), what, least)
		return otherwise
	}
	return time.Duration(n) * unit
}

func (r *reader) read() *WebConfig {
	for _, name := range slices.Sorted(maps.Keys(r.sessionState)) {
		if !slices.Contains(attributes, name) && !slices.Contains(generic, name) {
			r.wrong("<sessionState> has no attribute %q; %s", clip(name), nearest(name, attributes))
		}
	}
	r.c = &WebConfig{Mode: r.choice("mode", "InProc", "Off", "StateServer", "SQLServer", "Custom")}
	r.timeout()
	r.identity()
	r.rest()
	network := r.duration("stateNetworkTimeout", time.Second, 0, 1)
	command := r.duration("sqlCommandTimeout", time.Second, 0, 0)
	retry := r.duration("sqlConnectionRetryInterval", time.Second, 0, 0)
	resolved := r.has("partitionResolverType")
	if resolved && r.c.Mode != "StateServer" && r.c.Mode != "SQLServer" {
		r.wrong("partitionResolverType is for the modes StateServer and SQLServer, and the mode is %s", r.c.Mode)
	}
	switch r.c.Mode {
	case "Off":
		r.c.Spec = "off:"
	case "InProc":
		r.c.Spec = "inproc:"
	case "StateServer":
		r.storeTimeout("stateNetworkTimeout", network)
		if resolved {
			r.note("partitionResolverType", "its code says where the state servers are. Write all of them as stateserver://one:42424,two:42424: sessions then spread over them by themselves; or set stateserver.Partitions.Resolve to a function that does the same as that code")
		} else {
			r.stateServer()
		}
		r.shared()
	case "SQLServer":
		if command >= 0 && retry > 0 {
			command += retry // a Manager repeats a call for as long as StoreTimeout lasts
		}
		r.storeTimeout("sqlCommandTimeout", command)
		if resolved {
			r.note("partitionResolverType", "its code says where the databases are. Holdfast uses one; give that to mode.Open, or write a store.Store that chooses among several as stateserver.Partitions does")
		} else {
			r.sqlServer()
		}
		r.shared()
	case "Custom":
		r.custom()
	}
	r.c.Notes = r.notes
	return r.c
}

// longest is the longest timeout of the modes InProc and StateServer, a year.
const longest = 525600 * time.Minute

func (r *reader) timeout() {
	t := r.duration("timeout", time.Minute, 20*time.Minute, 1)
	isInfinite := t == infinite
	if isInfinite || t > longest {
		if r.c.Mode == "InProc" || r.c.Mode == "StateServer" {
			r.wrong("timeout=%q: a year, 525600 minutes, is the most in the mode %s", clip(r.text("timeout")), r.c.Mode)
		}
	}
	if isInfinite {
		r.note("timeout", "a session always ends some time; Infinite has become a year")
		t = longest
	}
	r.c.Timeout = t
}

func (r *reader) storeTimeout(name string, d time.Duration) {
	if d == infinite || d == 0 && r.has(name) {
		r.note(name, "a call of the store has an end; the default of Options.StoreTimeout is left")
		return
	}
	r.c.StoreTimeout = d
}

// identity reads how the session ID travels.
func (r *reader) identity() {
	c := r.c
	c.CookieName = "ASP.NET_SessionId"
	if r.has("cookieName") {
		c.CookieName = r.text("cookieName")
	}
	c.CookieDomain = r.httpCookies["domain"]
	if err := (&http.Cookie{Name: c.CookieName, Value: "x", Domain: c.CookieDomain}).Valid(); err != nil {
		r.wrong("cookieName or the domain of <httpCookies> cannot be sent: %w", err)
	}
	c.RequireSSL = r.flag(r.httpCookies, "requireSSL", false)
	if c.RequireSSL && c.CookieDomain == "" {
		r.note("cookieName", "with Cookie.Secure Always (requireSSL) the cookie is called __Host-"+clip(c.CookieName)+", which other applications do not read. Where one does, leave Secure at Auto")
	}
	switch v := r.choice("cookieSameSite", "Lax", "Strict", "None", "(-1)", "Unspecified"); v {
	case "Strict":
		c.SameSite = http.SameSiteStrictMode
	case "None":
		c.SameSite = http.SameSiteNoneMode
	case "(-1)", "Unspecified":
		c.SameSite = http.SameSiteDefaultMode
	default:
		c.SameSite = http.SameSiteLaxMode
	}
	switch v := r.choice("cookieless", "UseCookies", "UseUri", "AutoDetect", "UseDeviceProfile", "true", "false"); v {
	case "UseUri", "true":
		c.Cookieless = true
	case "AutoDetect", "UseDeviceProfile":
		r.note("cookieless", v+" has no counterpart: nobody finds out which browsers take cookies, and all get one. Set Options.Identity to holdfast.Cookieless() if there are clients without")
	}
}

// rest reads what is the same in all modes, most of which has no counterpart.
func (r *reader) rest() {
	r.compressed = r.flag(r.sessionState, "compressionEnabled", false)
	if r.compressed && r.c.Mode == "StateServer" {
		r.note("compressionEnabled", "Holdfast does not compress sessions on a state server, and does not read those that others have compressed: applications that share sessions with it set this to false")
	}
	if !r.flag(r.sessionState, "regenerateExpiredSessionId", true) {
		r.note("regenerateExpiredSessionId", "an ID that no session has is never used for a new one; false has no counterpart")
	}
	if !r.flag(r.sessionState, "useHostingIdentity", true) {
		r.note("useHostingIdentity", "the store is always called as the process; nobody is impersonated")
	}
	r.customDatabase = r.flag(r.sessionState, "allowCustomSqlDatabase", false)
	if r.has("sessionIDManagerType") {
		r.note("sessionIDManagerType", "its code makes the IDs. Set Options.IDs to functions that do what its CreateSessionID and Validate do and, if IDs do not travel in a cookie, Options.Identity")
	}
}

// shared notes what sharing sessions takes.
func (r *reader) shared() {
	r.note("mode", "to share sessions with the ASP.NET application, set Options.App to its AppDomainAppId, such as /LM/W3SVC/1/ROOT, and Options.PlainIDs; otherwise leave both")
}
