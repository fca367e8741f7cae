package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/holdfast-session/holdfast/items"
	"github.com/holdfast-session/holdfast/store"
)

// hashOf names a session without telling its ID.
func hashOf(id store.ID) string {
	hash := sha256.Sum256([]byte(id.App + "\x00" + id.Session))
	return hex.EncodeToString(hash[:])
}

// shortHash is as much of it as people read: among a million sessions, two with the
// same one are found once in five hundred times.
func shortHash(id store.ID) string { return hashOf(id)[:12] }

// rows calls row for each session to print.
type rows func(row func(*store.Listed) error) error

// tableAt is how many rows are laid out together. More of them would not fit on any
// screen, and a million of them not in memory.
const tableAt = 500

func printTable(w io.Writer, all rows) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	n := 0
	err := all(func(l *store.Listed) error {
		if n == 0 {
			fmt.Fprintln(t, "SESSION\tAPPLICATION\tSUBJECT\tBEGAN\tENDS AFTER\tLOCKED")
		}
		if n++; n%tableAt == 0 {
			if err := t.Flush(); err != nil {
				return err
			}
		}
		locked, began := "-", "-"
		if l.Record.Locked {
			locked = "for " + ago(l.Record.LockAge)
		}
		if created := l.Record.Created; created.Unix() > 0 {
			began = ago(max(0, time.Since(created))) + " ago"
		}
		_, err := fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", shortHash(l.ID), plain(l.ID.App), plain(l.Record.Subject), began, l.Record.Timeout, locked)
		return err
	})
	if n == 0 && err == nil {
		fmt.Fprintln(t, "there are none")
	}
	if e := t.Flush(); err == nil {
		err = e
	}
	return err
}

// A listedJSON is a session as it is printed. The ID is left out, since whoever has it
// may be able to use the session.
type listedJSON struct {
	Session string     `json:"session"`
	App     string     `json:"app"`
	Subject string     `json:"subject,omitempty"`
	Created *time.Time `json:"created,omitempty"`
	Timeout float64    `json:"timeout"` // seconds
	Locked  bool       `json:"locked"`
	LockAge float64    `json:"lockAge,omitempty"` // seconds
	Size    int        `json:"size,omitempty"`    // bytes of its content
	// Values are those that can be decoded, or Error says why there are none.
	Values map[string]any `json:"values,omitempty"`
	Error  string         `json:"error,omitempty"`
}

func jsonOf(id store.ID, rec *store.Record) listedJSON {
	l := listedJSON{
		Session: shortHash(id), App: id.App, Subject: rec.Subject, Timeout: rec.Timeout.Seconds(),
		Locked: rec.Locked, LockAge: rec.LockAge.Seconds(),
	}
	if rec.Created.Unix() > 0 {
		l.Created = &rec.Created
	}
	return l
}

func printJSON(w io.Writer, all rows) error {
	enc := json.NewEncoder(w)
	return all(func(l *store.Listed) error { return enc.Encode(jsonOf(l.ID, &l.Record)) })
}

// printSession prints a session with its values.
func printSession(w io.Writer, id store.ID, rec *store.Record, asJSON bool) error {
	l := jsonOf(id, rec)
	l.Size = len(rec.Body)
	item, err := decode(rec.Body)
	if err != nil {
		l.Error = err.Error()
	}
	if asJSON {
		if item != nil {
			l.Values = make(map[string]any)
			for name, v := range item.All() {
				l.Values[name] = forJSON(v.Any())
			}
		}
		return json.NewEncoder(w).Encode(l)
	}
	if err := printTable(w, func(row func(*store.Listed) error) error { return row(&store.Listed{ID: id, Record: *rec}) }); err != nil {
		return err
	}
	if item == nil {
		_, err := fmt.Fprintf(w, "  %d bytes that cannot be decoded: %s\n", len(rec.Body), l.Error)
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for name, v := range item.All() {
		value, err := json.Marshal(forJSON(v.Any()))
		if err != nil {
			return err
		}
		fmt.Fprintf(t, "  %s\t%s\n", plain(name), plain(string(value)))
	}
	if item.Len() == 0 {
		fmt.Fprintln(t, "  it is empty")
	}
	return t.Flush()
}

// maxInflated is how large a compressed body may become.
const maxInflated = 64 << 20

// decode reads a body, also one that ASP.NET has compressed.
func decode(body []byte) (*items.Item, error) {
	var item items.Item
	err := item.Parse(body)
	if err == nil || len(body) == 0 {
		return &item, nil
	}
	if inflated, inflateErr := items.Inflate(nil, body, maxInflated); inflateErr == nil {
		if item.Parse(inflated) == nil {
			return &item, nil
		}
	}
	return nil, err
}

// forJSON is a value as JSON can have it.
func forJSON(v any) any {
	switch v := v.(type) {
	case nil, bool, string, int8, int16, int32, int64, uint8, uint16, uint32, uint64, []byte, time.Time:
		return v
	case items.Object:
		return fmt.Sprintf("(a .NET object of %d bytes)", len(v))
	case time.Duration:
		return v.String()
	case float32:
		return forJSON(float64(v))
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return strconv.FormatFloat(v, 'g', -1, 64)
		}
		return v
	case []any:
		all := make([]any, len(v))
		for i := range v {
			all[i] = forJSON(v[i])
		}
		return all
	case map[string]any:
		all := make(map[string]any, len(v))
		for key, value := range v {
			all[key] = forJSON(value)
		}
		return all
	case map[any]any:
		all := make(map[string]any, len(v))
		for key, value := range v {
			all[fmt.Sprint(key)] = forJSON(value)
		}
		return all
	}
	return fmt.Sprint(v) // decimals, GUIDs, and what CBOR has besides
}

// plain is s for a terminal, which must not take orders from what visitors wrote.
func plain(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool { return r == unicode.ReplacementChar || !unicode.IsPrint(r) }) {
		return strconv.Quote(s)
	}
	if s == "" {
		return "-"
	}
	return s
}
