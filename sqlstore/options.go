package sqlstore

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"
)

// Options configure a [Store], and say to [Install] and the like which tables are meant.
// The zero value, and a nil pointer, is a good choice.
type Options struct {
	// Dialect is the SQL that the database understands. Default: found from the driver
	// of the *sql.DB. Set it where that is a driver of your own around another. The driver
	// lib/pq is refused: what it says of lost connections is wrong, so that a change could
	// be made twice. Use pgx.
	Dialect Dialect

	// Table is the name of the table with the sessions. Beside it is one with the same
	// name and "_meta" behind it, with the version of the schema. Any name is right that
	// is, quoted, one in the database, up to 40 bytes long. Default "holdfast_sessions".
	Table string

	// Schema is where the tables are: a schema, or with MySQL a database. Default: where
	// the connection is.
	Schema string

	// ItemsType is the SQL type of the column with the content, as the installer writes
	// it. It has to take bytes of any number. Default: BYTEA, LONGBLOB, BLOB or
	// VARBINARY(MAX), as the dialect has it.
	ItemsType string

	// AutoInstall lets [New] create the tables where they are missing, and change those
	// of an older version. That is for development: in production an application should
	// have no right to do so.
	AutoInstall bool

	// MaxBytes is how large the content of a session may be, as package holdfast made it;
	// more is [store.ErrTooLarge]. Default 0: as large as the database takes, which for
	// MySQL is its max_allowed_packet, as it is when the store is opened, less 16 KiB.
	MaxBytes int

	// Compress deflates content of more than a few hundred bytes where that makes it
	// smaller. A row says whether it was, so that this can be changed at any time.
	Compress bool

	// Keys encrypt the content: AES-256-GCM, under the first of them; all of them
	// decrypt. Each has 32 random bytes. To change the key, put the new one second on
	// every machine, then first, and remove the old one when the sessions that it
	// encrypted have ended. Content that is not encrypted is read as well, and encrypted
	// when it is next saved.
	//
	// A content belongs to its session: put into another row it cannot be decrypted. What
	// the store itself needs stays readable: IDs (package holdfast gives it hashes of
	// them), applications, subjects and times.
	Keys [][]byte

	// Notifier tells of locks that were given up, with PostgreSQL (see package pgnotify).
	// Without one, who waits for a lock asks again and again: first after 2 ms, later
	// every 100 ms.
	Notifier Notifier

	// Ends is how many ended sessions are remembered at most, with what they last held,
	// until [Store.Ack]; past it the oldest are dropped, once a minute or so.
	//
	// Default 0: 1,048,576, and only of applications for which [Store.Ended] has been
	// called, by any process, ever. More than 0: that many, of all applications. Negative:
	// this process remembers none of the sessions that it ends.
	Ends int
}

// A Notifier listens for messages of the database. Its methods are safe for concurrent
// use.
type Notifier interface {
	// Listen calls received with each message on a channel from now on, until it is
	// closed, on one goroutine. Where messages were perhaps missed, because the
	// connection was lost, it calls received with an empty one.
	Listen(ctx context.Context, channel string, received func(message string)) (io.Closer, error)
}

const (
	defaultTable = "holdfast_sessions"
	maxTable     = 40 // room for "_subject" behind it, in what PostgreSQL takes for a name
	defaultEnds  = 1 << 20

	// slackAtMost and slackPart say how much later than its timeout a session may expire:
	// a tenth, and not more than a minute. Within that, reading it writes nothing.
	slackAtMost = time.Minute
	slackPart   = 10

	// keepAtMost is how long a tombstone is kept of a session with a long timeout.
	keepAtMost = 24 * time.Hour
)

// names are what the statements call the tables.
type names struct {
	table, meta string // quoted, with the schema
	index       func(name string) string
	channel     string // of notifications
	now         string
	itemsType   string // of the column items; empty for the dialect's
}

func (n names) replacer() *strings.Replacer {
	return strings.NewReplacer(inTable, n.table, inMeta, n.meta, inNow, n.now)
}

// check returns the options with their defaults, or what is wrong with them.
func (o *Options) check() (Options, error) {
	if o == nil {
		o = new(Options)
	}
	full := *o
	if full.Table == "" {
		full.Table = defaultTable
	}
	for name, value := range map[string]string{"Table": full.Table, "Schema": full.Schema} {
		if strings.ContainsRune(value, 0) || !utf8.ValidString(value) {
			return full, fmt.Errorf("sqlstore: Options.%s is %q; no database has such a name", name, value)
		}
	}
	if len(full.Table) > maxTable {
		return full, fmt.Errorf("sqlstore: Options.Table has %d bytes; %d is the most", len(full.Table), maxTable)
	}
	for i, key := range full.Keys {
		if len(key) != 32 {
			return full, fmt.Errorf("sqlstore: Options.Keys[%d] has %d bytes; AES-256 needs 32 random ones", i, len(key))
		}
	}
	if full.MaxBytes < 0 {
		return full, errors.New("sqlstore: Options.MaxBytes is negative")
	}
	return full, nil
}

// names renders the names that a dialect gives to what o names.
func (o *Options) names(d dialect) names {
	schema := ""
	if o.Schema != "" {
		schema = d.quote(o.Schema) + "."
	}
	sum := sha256.Sum256([]byte(o.Schema + "\x00" + o.Table))
	return names{
		table:   schema + d.quote(o.Table),
		meta:    schema + d.quote(o.Table+"_meta"),
		index:   func(name string) string { return d.quote(o.Table + "_" + name) },
		channel: "holdfast_" + hex.EncodeToString(sum[:8]),
		now:     d.now(), itemsType: o.ItemsType,
	}
}
