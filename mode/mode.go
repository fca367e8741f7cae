// Package mode opens the store that one string names, so that the place where sessions
// are kept is a matter of configuration: change the mode, not the code.
//
//	sessions, err := mode.Open("logstore:/var/lib/shop/sessions")
//
// By convention the string is in the environment variable HOLDFAST_STORE ([FromEnv]). An
// application that comes from ASP.NET finds it by [ParseWebConfig].
//
// These are the modes:
//
//	off:                                nowhere: every session lives for one request
//	inproc:                             this process; gone when it ends
//	inproc:?backing=DIR                 the same, and read back from a folder after a restart
//	logstore:DIR                        a folder, used by this process alone
//	stateserver://host:port             a state server; also host:port,host:port,… for several
//	stateservers://host:port            the same over TLS
//	unix:/path/to/socket                a state server on this machine
//	tcpip=host:port                     a state server, as in ASP.NET's stateConnectionString
//	postgres://user:password@host/db    a table in PostgreSQL
//	mysql://user:password@host/db       a table in MySQL or MariaDB
//	sqlite:FILE                         a table in SQLite, used by the processes of one machine
//	sqlserver://user:password@host?database=db
//	                                    a table in SQL Server; with aspstate=1 the tables of ASP.NET
//	oracle://user:password@host/service a table in Oracle
//	redis://host:6379                   Redis or Valkey; also rediss:// (TLS), redis+unix:///path,
//	                                    redis-cluster://host:port,…, redis-sentinel://host:port,…/master
//
// Parameters follow a question mark, as in a URL:
//
//	inproc:?max-memory=512MiB&full=refuse
//	logstore:/var/lib/shop/sessions?sync=always&max-disk=10GiB
//	postgres://shop:secret@db/shop?sslmode=verify-full&table=sessions&compress=1
//	stateservers://token@one:42424,two:42424?ca=/etc/shop/ca.pem&timeout=2s
//
// They are, with the option of the package that has the details:
//
//	inproc        max-memory (MaxBytes), max-sessions, full=evict|refuse, tombstones, ends, count-cookies=1, backing,
//	              and with that sync and interval
//	logstore      sync=interval|always|never, interval, max-memory, max-disk, segment-size, tombstones, ends
//	state servers timeout, compat=1, tls=1, ca, cert and key (PEM files), server-name, token-file, conns, max-conns,
//	              max-waits, open-after, near-cache, idle-timeout, name (of several: one,two in the order of the servers)
//	databases     table, schema, items-type, install=1 (AutoInstall), max-size (MaxBytes), compress=1, ends, conns (how
//	              many connections, 32), and key-file: a file of Keys, one in a line, as openssl rand -hex 32 prints them;
//	              for PostgreSQL notify=0 (no Notifier), MySQL socket, SQLite sync=full|normal, SQL Server aspstate=1;
//	              all others are given to the driver
//	Redis         prefix, timeout, near-cache, staleness, wait-replicas, wait-timeout, ends; and those of redisstore.Open
//
// The tables of a database are made before, by holdfast sql install, or with install=1.
//
// Sizes are in bytes, or have a unit: KiB, MiB, GiB, TiB, KB, MB, GB, TB. Durations are
// written as 500ms, 2s, 1m30s. What an option turns off by a number below zero, such as ends
// and near-cache, is none (ends=none); max-memory=none is no limit. A token that is not in the string can be in a file
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
// says what is possible. A state server need not be running yet; a database and Redis are
// asked whether sessions can be kept there.
func Open(spec string) (Store, error) {
	open, err := parse(spec)
	if err != nil {
		return nil, fmt.Errorf("mode: %w", err)
	}
	s, err := open()
	if err != nil {
		return nil, fmt.Errorf("mode: %w", guarded(spec, err))
	}
	return s, nil
}

// guarded is the error of opening what spec names, as it may be shown.
func guarded(spec string, err error) error {
	s, _, query, _ := split(spec)
	if strings.Contains(query, "@") { // perhaps what is before it is a password, and what it was taken for is in err
		return fmt.Errorf("%s…: it cannot be opened, and why could tell a secret; %s, and this says more", s.prefix, escapeQuery)
	}
	return err
}

// escapeQuery says how a question mark in a secret is told from the one of the parameters.
const escapeQuery = "write a question mark in a token or password as %3F, and an @ in a parameter as %40"

// A scheme is a way to name a store.
type scheme struct {
	prefix  string // what a spec begins with
	example string // empty if it is another's too
	params  []string
	parse   func(where string, p *params) (opener, error)
	// foreign lets other parameters through, to a driver that knows what they mean.
	foreign bool
	// database reads the spec of a database; parse is then nil.
	database func(d *database, where string, p *params) error
}

// An opener opens a store from a spec that was understood.
type opener func() (Store, error)

// schemes are all there are. A mode that is added is added here.
var schemes = slices.Concat([]scheme{
	{prefix: "off:", example: "off:", parse: parseOff},
	{prefix: "inproc:", example: "inproc:", params: inprocParams, parse: parseInproc},
	{prefix: "logstore:", example: "logstore:/var/lib/app/sessions", params: logstoreParams, parse: parseLogstore},
	{prefix: "stateserver://", example: "stateserver://localhost:42424", params: serverParams, parse: parseStateServer},
	{prefix: "stateservers://", example: "stateservers://host:42424", params: serverParams, parse: parseStateServerTLS},
	{prefix: "unix:", example: "unix:/run/holdfast/state.sock", params: serverParams, parse: parseUnix},
	{prefix: "tcpip=", example: "tcpip=localhost:42424", params: serverParams, parse: parseTCPIP},
}, databaseSchemes, redisSchemes())

// split finds the scheme of a spec, and what comes before and after the question mark.
func split(spec string) (s scheme, where, query string, ok bool) {
	for _, s := range schemes {
		if rest, ok := cutPrefixFold(spec, s.prefix); ok {
			where, query, _ := strings.Cut(rest, "?")
			return s, where, query, true
		}
	}
	return scheme{}, "", "", false
}

func parse(spec string) (open opener, err error) {
	s, where, query, ok := split(spec)
	if !ok {
		return nil, unknown(spec)
	}
	err = s.read(where, query, func(p *params) error {
		if s.database != nil {
			open, err = parseDatabase(s, where, p)
		} else {
			open, err = s.parse(where, p)
		}
		return err
	})
	return open, err
}

// read reads the parameters of a spec, and has a function read the rest.
func (s *scheme) read(where, query string, rest func(p *params) error) error {
	p, err := parseParams(query, s.params, s.foreign)
	if err == nil {
		if err = rest(p); err == nil {
			err = errors.Join(p.errs...)
		}
	}
	switch {
	case err == nil:
		return nil
	case strings.Contains(query, "@"): // perhaps what is before it is a token, and not a place
		return fmt.Errorf("%s…: it cannot be read; %s", s.prefix, escapeQuery)
	}
	return fmt.Errorf("%s%s: %w", s.prefix, shown(where), err)
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
		if s.example != "" {
			all = append(all, s.example)
		}
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
func parseParams(query string, known []string, foreign bool) (*params, error) {
	values, err := url.ParseQuery(query)
	if err != nil {
		return nil, errors.New("its parameters cannot be read; write name=value&name=value, with %25 for a percent sign and %26 for an ampersand")
	}
	p := &params{values: values}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		switch {
		case slices.Contains(known, name):
			if len(values[name]) > 1 {
				return nil, fmt.Errorf("the parameter %s is there %d times", name, len(values[name]))
			}
		case len(known) == 0:
			return nil, fmt.Errorf("there is no parameter %q here, and no other", clip(name))
		case foreign && likely(name, known) == "":
			if p.foreign == nil {
				p.foreign = make(url.Values)
			}
			p.foreign[name] = values[name]
			delete(values, name)
		default:
			return nil, fmt.Errorf("there is no parameter %q here; %s", clip(name), nearest(name, known))
		}
	}
	return p, nil
}

// clip is what an error may show of a name or a value.
func clip(s string) string {
	if strings.Contains(s, "@") { // perhaps a part of a password is before it
		return "…"
	}
	if len(s) > 40 {
		return s[:40] + "…"
	}
	return s
}

// nearest says which of the names was meant, or which there are.
func nearest(name string, known []string) string {
	if best := likely(name, known); best != "" {
		return fmt.Sprintf("did you mean %s?", best)
	}
	return "possible are " + strings.Join(known, ", ")
}

// likely returns which of the names was meant, if that can be told.
func likely(name string, known []string) string {
	name = strings.ReplaceAll(strings.ToLower(name), "_", "-")
	best, d := "", max(2, len(name)/3)+1
	for _, k := range known {
		lower := strings.ToLower(k)
		n := edits.Distance(name, lower)
		if strings.ReplaceAll(name, "-", "") == strings.ReplaceAll(lower, "-", "") {
			n = 0
		}
		if n < d {
			best, d = k, n
		}
	}
	return best
}
