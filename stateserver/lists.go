package stateserver

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/url"
	"strconv"
	"time"

	"github.com/holdfast-session/holdfast/store"
)

// What a client and a server say to each other about many sessions at once. The
// targets are none that a session has: those of clients all have ")/" in them. The
// answers are JSON, and no hot path.

const (
	sessionsPath = "/holdfast/sessions"
	endsPath     = "/holdfast/ends"
)

// isListTarget reports whether a request is about many sessions.
func isListTarget(target []byte) bool {
	path, _, _ := bytes.Cut(target, []byte("?"))
	return string(path) == sessionsPath || string(path) == endsPath
}

// listCall is what a request with such a target asks for.
func listCall(r *request) callKind {
	path, _, _ := bytes.Cut(r.target, []byte("?"))
	switch {
	case r.method == methodGet && string(path) == sessionsPath:
		return callList
	case r.method == methodGet:
		return callEnded
	case r.method == methodDelete && string(path) == endsPath:
		return callAck
	}
	return callUnknown
}

// A listQuery is what comes after the question mark.
type listQuery struct {
	store.Query // with the application as the server knows it
	lease       time.Duration
	keys        []string
}

var errBadQuery = errors.New("stateserver: malformed query")

func parseListQuery(target []byte) (q listQuery, err error) {
	_, query, _ := bytes.Cut(target, []byte("?"))
	values, err := url.ParseQuery(string(query))
	if err != nil {
		return q, errBadQuery
	}
	q.App, q.Subject, q.After, q.keys = values.Get("app"), values.Get("subject"), values.Get("after"), values["key"]
	if v := values.Get("limit"); v != "" {
		n, ok := parseUint([]byte(v), math.MaxInt32)
		if q.Limit = int(n); !ok {
			return q, errBadQuery
		}
	}
	if v := values.Get("lease"); v != "" {
		var ok bool
		if q.lease, ok = parseSeconds([]byte(v)); !ok {
			return q, errBadQuery
		}
	}
	return q, nil
}

// appendParam writes one more parameter of a query, unless it is empty.
func appendParam(b []byte, name, value string) []byte {
	if value == "" {
		return b
	}
	mark := byte('&')
	if bytes.IndexByte(b, '?') < 0 {
		mark = '?'
	}
	b = append(b, mark)
	b = append(b, name...)
	b = append(b, '=')
	return appendEscaped(b, value)
}

// A listAnswer is the answer to List, an endedAnswer that to Ended.
type listAnswer struct {
	Sessions []listedSession `json:"sessions"`
	Next     escaped         `json:"next,omitempty"`
}

type endedAnswer struct {
	Ends []endedSession `json:"ends"`
}

type endedSession struct {
	Key    escaped `json:"key"`
	Reason string  `json:"reason"`
	Age    seconds `json:"age"`
	To     escaped `json:"to,omitempty"`
	listedSession
}

// A listedSession is a session with the target that names it. Of a lock, only the
// cookie is told.
type listedSession struct {
	Target   string     `json:"target"`
	Version  version    `json:"version"`
	History  [3]version `json:"history,omitzero"`
	Acquired version    `json:"acquired,omitzero"`
	Locked   bool       `json:"locked,omitempty"`
	LockAge  seconds    `json:"lockAge,omitempty"`
	Cookie   int32      `json:"lockCookie,omitempty"`
	Timeout  seconds    `json:"timeout"`
	Created  moment     `json:"created,omitzero"`
	Flags    uint32     `json:"flags,omitempty"`
	Subject  escaped    `json:"subject,omitempty"`
	Body     []byte     `json:"body,omitempty"`
}

// listedOf returns a session as it travels; false if no client can name it.
func listedOf(id store.ID, rec *store.Record) (one listedSession, ok bool) {
	if _, ok = clientID(id); !ok {
		return one, false
	}
	key, ok := keyOf(id)
	if !ok {
		return one, false
	}
	one = listedSession{
		Target:   string(appendEscaped(nil, key)),
		Version:  version(rec.Version),
		Acquired: version(rec.Acquired),
		Locked:   rec.Locked,
		LockAge:  seconds(rec.LockAge),
		Cookie:   rec.Lock.Cookie,
		Timeout:  seconds(rec.Timeout),
		Flags:    uint32(rec.Flags),
		Subject:  escaped(rec.Subject),
		Body:     rec.Body,
	}
	for i, v := range rec.History {
		one.History[i] = version(v)
	}
	if rec.Created.Unix() >= 0 {
		one.Created = moment{rec.Created}
	}
	return one, true
}

// session is the inverse of listedOf.
func (l *listedSession) session() (store.Listed, error) {
	key, ok := appendKey(nil, []byte(l.Target))
	if !ok {
		return store.Listed{}, errBadTarget
	}
	id, ok := clientID(splitKey(key))
	if !ok {
		return store.Listed{}, errBadTarget
	}
	rec := store.Record{
		Version:  store.Version(l.Version),
		Lock:     store.Lock{Cookie: l.Cookie},
		Locked:   l.Locked,
		LockAge:  time.Duration(l.LockAge),
		Timeout:  time.Duration(l.Timeout),
		Created:  l.Created.Time,
		Flags:    store.Flags(l.Flags),
		Acquired: store.Version(l.Acquired),
		Subject:  string(l.Subject),
		Body:     l.Body,
	}
	for i, v := range l.History {
		rec.History[i] = store.Version(v)
	}
	return store.Listed{ID: id, Record: rec}, nil
}

// How values look in JSON: as in a header field, since not every string is one of
// JSON's, and not every number survives there.
type (
	escaped string
	version store.Version
	seconds time.Duration
	moment  struct{ time.Time }
)

func (s escaped) MarshalText() ([]byte, error) { return appendEscaped(nil, string(s)), nil }

func (s *escaped) UnmarshalText(b []byte) error {
	text, ok := appendUnescaped(nil, b)
	*s = escaped(text)
	return valid(ok, b)
}

func (v version) MarshalText() ([]byte, error) { return appendHex(nil, uint64(v)), nil }

func (v *version) UnmarshalText(b []byte) error {
	n, ok := parseHex(b)
	*v = version(n)
	return valid(ok, b)
}

func (s seconds) MarshalJSON() ([]byte, error) { return appendSeconds(nil, time.Duration(s)), nil }

func (s *seconds) UnmarshalJSON(b []byte) error {
	d, ok := parseSeconds(b)
	*s = seconds(d)
	return valid(ok, b)
}

func (m moment) MarshalJSON() ([]byte, error) { return appendTime(nil, m.Time), nil }

func (m *moment) UnmarshalJSON(b []byte) error {
	t, ok := parseTime(b)
	*m = moment{t}
	return valid(ok, b)
}

var (
	_ json.Marshaler   = seconds(0)
	_ json.Unmarshaler = (*moment)(nil)
)

func valid(ok bool, b []byte) error {
	if !ok {
		return fmt.Errorf("stateserver: malformed value %s", strconv.Quote(string(b)))
	}
	return nil
}
