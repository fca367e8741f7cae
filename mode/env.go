package mode

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/holdfast-session/holdfast/internal/off"
)

// StoreVar is the environment variable that, by convention, says where an application
// keeps its sessions.
const StoreVar = "HOLDFAST_STORE"

// FromEnv opens the store that the environment variable HOLDFAST_STORE names. If it is
// empty or not set, that is an error that says what is possible: an application that has
// a default writes
//
//	mode.Open(cmp.Or(os.Getenv(mode.StoreVar), "inproc:"))
func FromEnv() (Store, error) {
	s, err := Open(os.Getenv(StoreVar))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", StoreVar, err)
	}
	return s, nil
}

// parseOff is mode Off. What it opens is what holdfast.Off is.
func parseOff(where string, _ *params) (opener, error) {
	if where != "" {
		return nil, errors.New("this mode keeps nothing, so there is no place to name")
	}
	return func() (Store, error) { return off.Store{}, nil }, nil
}

// Redact returns spec with an ellipsis for whatever in it could be secret, for people to
// see: what stands before an @, and parameters such as password and token. Of a string
// that names no mode nothing is left.
func Redact(spec string) string {
	s, where, query, ok := split(spec)
	switch {
	case !ok:
		return "…"
	case strings.Contains(query, "@"): // perhaps the question mark is in a token
		return s.prefix + "…"
	case query == "":
		return s.prefix + shown(where)
	}
	pairs := strings.Split(query, "&")
	for i, pair := range pairs {
		switch name, _, ok := strings.Cut(pair, "="); {
		case !ok:
			pairs[i] = "…"
		case isSecret(name):
			pairs[i] = name + "=…"
		}
	}
	return s.prefix + shown(where) + "?" + strings.Join(pairs, "&")
}

// isSecret reports whether a parameter's value is not for everybody, going by its name.
func isSecret(name string) bool {
	name = strings.ToLower(name)
	for _, word := range []string{"pass", "pwd", "secret", "auth", "%"} { // what is escaped could be any of them
		if strings.Contains(name, word) {
			return true
		}
	}
	return name == "token"
}
