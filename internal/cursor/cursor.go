// Package cursor is a place in a list of all sessions of a store that is in the order
// of their keys (hashes, which two sessions may share) and then of their IDs. As text
// it is what store.Query.After carries.
package cursor

import (
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/holdfast-session/holdfast/store"
)

// A Cursor names a session of the list. The zero Cursor is before all.
type Cursor struct {
	Key uint64
	ID  store.ID
}

// Compare returns a negative number if c comes before d, and 0 if they are the same.
func (c Cursor) Compare(d Cursor) int {
	return cmp.Or(cmp.Compare(c.Key, d.Key), cmp.Compare(c.ID.Session, d.ID.Session), cmp.Compare(c.ID.App, d.ID.App))
}

// String returns the text that Parse reads.
func (c Cursor) String() string { return fmt.Sprintf("%016x.%x.%x", c.Key, c.ID.Session, c.ID.App) }

// Parse is the inverse of String. The empty text is the zero Cursor.
func Parse(text string) (c Cursor, err error) {
	if text == "" {
		return c, nil
	}
	key, rest, _ := strings.Cut(text, ".")
	session, app, _ := strings.Cut(rest, ".")
	var errs [3]error
	c.Key, errs[0] = strconv.ParseUint(key, 16, 64)
	c.ID.Session, errs[1] = unhex(session)
	c.ID.App, errs[2] = unhex(app)
	return c, errors.Join(errs[:]...)
}

func unhex(text string) (string, error) {
	b, err := hex.DecodeString(text)
	return string(b), err
}
