// Package mode opens the store that one string names, so that the place where sessions
// are kept is a matter of configuration: change the mode, not the code.
//
//	sessions, err := mode.Open(os.Getenv("SESSIONS"))
//
// These are the modes:
//
//	inproc:                             this process; gone when it ends
//	inproc:?backing=DIR                 the same, and read back from a folder after a restart
//	logstore:DIR                        a folder, used by this process alone
//	stateserver://host:port             a state server; also host:port,host:port,… for several
//	stateservers://host:port            the same over TLS
//	unix:/path/to/socket                a state server on this machine
//	tcpip=host:port                     a state server, as in ASP.NET's stateConnectionString
//
// Parameters follow a question mark, as in a URL:
//
//	inproc:?max-memory=512MiB&full=refuse
//	logstore:/var/lib/shop/sessions?sync=always&max-disk=10GiB
//	stateservers://token@one:42424,two:42424?ca=/etc/shop/ca.pem&timeout=2s
//
// They are, with the option of the package that has the details:
//
//	inproc        max-memory (MaxBytes), max-sessions, full=evict|refuse, backing, and with that sync and interval
//	logstore      sync=interval|always|never, interval, max-memory, max-disk
//	state servers timeout, compat=1, tls=1, ca, cert and key (PEM files), server-name, token-file, conns
//
// Sizes are in bytes, or have a unit: KiB, MiB, GiB, TiB, KB, MB, GB, TB. Durations are
// written as 500ms, 2s, 1m30s. A token that is not in the string can be in a file
// (token-file), whose first line it is.
//
// In an error a string appears without what could be secret in it.
package mode

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"slices"
	"strings"

	"github.com/holdfast-session/holdfast/internal/edits"
	"github.com/holdfast-session/holdfast/store"
)

// A Store is an opened mode. What else it can do ([store.Ender], [store.Lister]) is
// found by type assertion.
type Store interface {
	store.Store
	io.Closer
}

// Open opens the store that spec names. A spec that cannot be right is an error that
// says what is possible. A state server need not be running yet.
func Open(spec string) (Store, error) {
	open, err := parse(spec)
	if err != nil {
		return nil, fmt.Errorf("mode: %w", err)
	}
	s, err := open()
	if err != nil {
		return nil, fmt.Errorf("mode: %w", err)
	}
	return s, nil
}

// A scheme is a way to name a store.
type scheme struct {
	prefix  string // what a spec begins with
	example string
	params  []string
	parse   func(where string, p *params) (opener, error)
}

// An opener opens a store from a spec that was understood.
type opener func() (Store, error)

// schemes are all there are. A mode that is added is added here.
var schemes = []scheme{
	{"inproc:", "inproc:", inprocParams, parseInproc},
	{"logstore:", "logstore:/var/lib/app/sessions", logstoreParams, parseLogstore},
	{"stateserver://", "stateserver://localhost:42424", serverParams, parseStateServer},
	{"stateservers://", "stateservers://host:42424", serverParams, parseStateServerTLS},
	{"unix:", "unix:/run/holdfast/state.sock", serverParams, parseUnix},
	{"tcpip=", "tcpip=localhost:42424", serverParams, parseTCPIP},
}

func parse(spec string) (opener, error) {
	for _, s := range schemes {
		rest, ok := cutPrefixFold(spec, s.prefix)
		if !ok {
			continue
		}
		where, query, _ := strings.Cut(rest, "?")
		p, err := parseParams(query, s.params)
		if err == nil {
			var open opener
			if open, err = s.parse(where, p); err == nil {
				if err = errors.Join(p.errs...); err == nil {
					return open, nil
				}
			}
		}
		if strings.Contains(query, "@") { // perhaps what is before it is a token, and not a place
			return nil, fmt.Errorf("%s…: it cannot be read; write a question mark in a token as %%3F, and an @ in a parameter as %%40", s.prefix)
		}
		return nil, fmt.Errorf("%s%s: %w", s.prefix, shown(where), err)
	}
	return nil, unknown(spec)
}

func cutPrefixFold(s, prefix string) (rest string, ok bool) {
	if len(s) < len(prefix) || !strings.EqualFold(s[:len(prefix)], prefix) {
		return s, false
	}
	return s[len(prefix):], true
}

// shown is what an error may show of a place: nothing before an @, which is a token.
func shown(where string) string {
	if i := strings.LastIndexByte(where, '@'); i >= 0 {
		return "…@" + where[i+1:]
	}
	return where
}

// unknown is the error of a spec that begins with no scheme. It shows no more than that
// beginning, for what comes then may be secret.
func unknown(spec string) error {
	var all []string
	for _, s := range schemes {
		all = append(all, s.example)
	}
	possible := "possible are " + strings.Join(all, ", ")
	i := strings.IndexAny(spec, ":=/@?;")
	name := spec
	if i >= 0 {
		name = spec[:i]
	}
	switch {
	case spec == "":
		return errors.New("nothing says where sessions are kept; " + possible)
	case strings.EqualFold(name, "off"):
		return errors.New("mode Off keeps nothing and has no store to open; pass holdfast.Off to holdfast.New")
	case i >= 0 && spec[i] == ':' && isPort(spec[i+1:]):
		return fmt.Errorf("a state server is written as stateserver://%s", spec)
	}
	if len(name) > 20 {
		return errors.New("this names no mode; " + possible)
	}
	best, d := "", 3
	for _, s := range schemes {
		if n := edits.Distance(strings.ToLower(name), strings.TrimRight(s.prefix, ":/=")); n < d {
			best, d = s.example, n
		}
	}
	if best != "" {
		return fmt.Errorf("there is no mode %q; did you mean %s?", name, best)
	}
	if i < 0 || spec[i] != ':' {
		return errors.New("this names no mode; " + possible) // and is perhaps a token
	}
	return fmt.Errorf("there is no mode %q; %s", name, possible)
}

func isPort(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != "" && len(s) <= 5
}

// parseParams reads what follows the question mark.
func parseParams(query string, known []string) (*params, error) {
	values, err := url.ParseQuery(query)
	if err != nil {
		return nil, errors.New("its parameters cannot be read; write name=value&name=value, with %25 for a percent sign and %26 for an ampersand")
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		switch {
		case !slices.Contains(known, name):
			return nil, fmt.Errorf("there is no parameter %q here; %s", clip(name), nearest(name, known))
		case len(values[name]) > 1:
			return nil, fmt.Errorf("the parameter %s is there %d times", name, len(values[name]))
		}
	}
	return &params{values: values}, nil
}

func clip(s string) string {
	if len(s) > 40 {
		return s[:40] + "…"
	}
	return s
}

// nearest says which of the names was meant, or which there are.
func nearest(name string, known []string) string {
	name = strings.ReplaceAll(strings.ToLower(name), "_", "-")
	best, d := "", max(2, len(name)/3)+1
	for _, k := range known {
		n := edits.Distance(name, k)
		if strings.ReplaceAll(name, "-", "") == strings.ReplaceAll(k, "-", "") {
			n = 0
		}
		if n < d {
			best, d = k, n
		}
	}
	if best != "" {
		return fmt.Sprintf("did you mean %s?", best)
	}
	return "possible are " + strings.Join(known, ", ")
}
