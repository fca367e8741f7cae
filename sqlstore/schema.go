package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"time"
	"unicode"
)

// schemaVersion is that of the tables as [tables] has them.
const schemaVersion = 2

// What the table beside the sessions says, by the column kind.
const (
	metaSchema = 0 // value: the version of the schema; meta_id: metaOurs
	metaSweep  = 1 // value: until when one process has the turn at sweeping
	metaEnds   = 2 // meta_id: the hash of an application whose ends are remembered
)

// metaOurs says that the tables are ours: "holdfast", read as a number.
const metaOurs = 0x686f6c6466617374

// schemaInstalling is the version while the tables are being made.
const schemaInstalling = 0

// tables are the tables as they are now.
func tables(n names) (sessions, meta table) {
	sessions = table{name: n.table, keys: 1, columns: []column{
		{name: "id", typ: typeKey}, {name: "app", typ: typeBytes}, {name: "app_hash", typ: typeInt}, {name: "session_id", typ: typeBytes},
		// What it is: a session or a tombstone. The sweep looks at a row when it is due,
		// which is when it would have expired if nobody had come; so a request that
		// restarts the timeout changes nothing that an index is about.
		{name: "state", typ: typeInt}, {name: "due", typ: typeInt},
		{name: "created", typ: typeInt}, {name: "expires", typ: typeInt}, {name: "timeout", typ: typeInt}, {name: "slide", typ: typeInt},
		{name: "version", typ: typeInt}, {name: "version1", typ: typeInt}, {name: "version2", typ: typeInt}, {name: "version3", typ: typeInt},
		{name: "acquired", typ: typeInt},
		{name: "lock_cookie", typ: typeInt}, {name: "lock_owner", typ: typeInt}, {name: "lock_date", typ: typeInt}, {name: "lock_timeout", typ: typeInt},
		waited,
		{name: "flags", typ: typeInt}, {name: "subject", typ: typeBytes}, {name: "subject_hash", typ: typeMaybe},
		{name: "ended_at", typ: typeInt}, {name: "reason", typ: typeInt}, {name: "moved_to", typ: typeBytes}, {name: "lease", typ: typeMaybe},
		{name: "packing", typ: typeInt}, {name: "items", typ: typeBody, as: n.itemsType},
	}, indexes: []index{
		{name: n.index("due"), columns: "state, due"},
		{name: n.index("subject"), columns: "subject_hash, id", where: "subject_hash IS NOT NULL"},
		{name: n.index("ends"), columns: "app_hash, lease", where: "lease IS NOT NULL"},
	}}
	meta = table{name: n.meta, keys: 2, columns: []column{
		{name: "kind", typ: typeInt}, {name: "meta_id", typ: typeInt}, {name: "value", typ: typeInt},
	}}
	return sessions, meta
}

// waited says that somebody waits for the lock who wants to be told.
var waited = column{name: "waited", typ: typeInt, initial: "0"}

// upgrades are the statements that make the next version of each.
var upgrades = map[int64]func(d dialect, n names) []string{
	1: func(d dialect, n names) []string { return []string{addColumn(d, n.table, waited)} },
}

// An admin looks after the tables.
type admin struct {
	db    *sql.DB
	name  Dialect
	d     dialect
	o     Options
	names names
}

func newAdmin(db *sql.DB, o *Options) (*admin, error) {
	full, err := o.check()
	if err != nil {
		return nil, err
	}
	a := &admin{db: db, o: full, name: full.Dialect}
	if db != nil {
		driver := reflect.TypeOf(db.Driver())
		if err := checkDriver(driver); err != nil {
			return nil, err
		}
		if a.name == "" {
			if a.name, err = detect(driver); err != nil {
				return nil, err
			}
		}
	}
	var known bool
	if a.d, known = dialectOf(a.name); !known {
		return nil, fmt.Errorf("sqlstore: Options.Dialect is %q; possible are %s, %s, %s, %s and %s", a.name, PostgreSQL, MySQL, SQLite, SQLServer, Oracle)
	}
	a.names = full.names(a.d)
	return a, nil
}

// What the tables of a name may be.
var (
	errMissing = errors.New("there are no tables yet")
	errForeign = errors.New("there is a table of that name which is not ours, and is left alone; choose another name")
)

// version returns the version of the schema: schemaInstalling also of tables of which an
// interrupted Remove has left only the one that says whose they are.
func (a *admin) version(ctx context.Context) (v int64, err error) {
	// What is ours says so before there are sessions. So it is looked at again when there
	// is a table with sessions that a moment ago was not ours.
	for range 2 {
		query := fmt.Sprintf("SELECT value FROM %s WHERE kind = %d AND meta_id = %d", a.names.meta, metaSchema, metaOurs)
		err := a.scan(ctx, query, &v)
		ours := err == nil
		if !ours && !errors.Is(err, sql.ErrNoRows) && !a.isAbsent(err) {
			return 0, err
		}
		var n int64
		err = a.scan(ctx, "SELECT COUNT(*) FROM "+a.names.table+" WHERE 1 = 0", &n)
		switch absent := a.isAbsent(err); {
		case ours && absent && v <= schemaVersion:
			return schemaInstalling, nil
		case ours && (absent || err == nil):
			return v, nil
		case absent:
			return 0, errMissing
		case err != nil:
			return 0, err
		}
	}
	return 0, errForeign
}

// isAbsent reports whether err says that there is no such table.
func (a *admin) isAbsent(err error) bool {
	v, said := judge(a.d, err)
	return said && v == absent
}

// scan reads one row. That there is none is sql.ErrNoRows.
func (a *admin) scan(ctx context.Context, query string, to ...any) error {
	none := false
	err := repeat(ctx, a.d, false, func() error {
		err := a.db.QueryRowContext(ctx, query).Scan(to...)
		if none = errors.Is(err, sql.ErrNoRows); none {
			return nil
		}
		return err
	})
	if none {
		return sql.ErrNoRows
	}
	return err
}

// check returns nil if the tables are there, in this version.
func (a *admin) check(ctx context.Context) error {
	v, err := a.version(ctx)
	switch {
	case a.o.AutoInstall && (errors.Is(err, errMissing) || err == nil && v < schemaVersion):
		return a.install(ctx)
	case errors.Is(err, errMissing), err == nil && v == schemaInstalling:
		err = fmt.Errorf("there are no tables yet; %s", a.command("makes them"))
	case err == nil && v < schemaVersion:
		err = fmt.Errorf("the tables have version %d of the schema, and this program needs %d; %s", v, schemaVersion, a.command("changes them, and keeps the sessions"))
	case err == nil && v > schemaVersion:
		err = tooNew(v)
	}
	return a.wrap(err)
}

func tooNew(v int64) error {
	return fmt.Errorf("the tables have version %d of the schema, and this program knows %d at most; update it", v, schemaVersion)
}

// command names the command that mends it.
func (a *admin) command(does string) string {
	flags := ""
	if a.o.Table != defaultTable {
		flags = " --table " + shellQuote(a.o.Table)
	}
	if a.o.Schema != "" {
		flags += " --schema " + shellQuote(a.o.Schema)
	}
	return fmt.Sprintf("run \"holdfast sql install%s --store …\", which %s (or set Options.AutoInstall, in development)", flags, does)
}

// shellQuote renders a word for a shell, where it is not a plain one.
func shellQuote(word string) string {
	plain := func(r rune) bool {
		return r < 0x80 && (unicode.IsLetter(r) || unicode.IsDigit(r) || strings.ContainsRune("_.-", r))
	}
	if strings.TrimFunc(word, plain) == "" {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

func (a *admin) wrap(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("sqlstore: table %s: %w", a.names.table, err)
}

// installTries is how often installing is begun again, when others install at the same
// time.
const installTries = 20

// install makes the tables, or changes those of an older version.
func (a *admin) install(ctx context.Context) error {
	var failed error
	for range installTries {
		v, err := a.version(ctx)
		switch {
		case errors.Is(err, errMissing):
			v = schemaInstalling
		case err != nil:
			return err
		case v == schemaVersion:
			return nil
		case v > schemaVersion:
			return tooNew(v)
		}
		if v == schemaInstalling {
			failed = a.run(ctx, a.creation())
		} else {
			failed = a.run(ctx, append(upgrades[v](a.d, a.names), a.setVersion(v, v+1)))
		}
		if failed != nil {
			if err := sleep(ctx, jitter(50*time.Millisecond)); err != nil {
				break
			}
		}
	}
	return failed
}

// creation are the statements that make the tables. They say that the tables are ours
// before there are any sessions, and that these are whole at the end.
func (a *admin) creation() []string {
	sessions, meta := tables(a.names)
	insert := func(kind, id, value int64) string {
		return a.d.insert(a.names.meta, "kind, meta_id, value", fmt.Sprintf("%d, %d, %d", kind, id, value))
	}
	all := a.d.create(meta)
	all = append(all, insert(metaSchema, metaOurs, schemaInstalling))
	all = append(all, a.d.create(sessions)...)
	return append(all, insert(metaSweep, 0, 0), a.setVersion(schemaInstalling, schemaVersion))
}

func (a *admin) setVersion(from, to int64) string {
	return fmt.Sprintf("UPDATE %s SET value = %d WHERE kind = %d AND meta_id = %d AND value = %d", a.names.meta, to, metaSchema, metaOurs, from)
}

// run runs statements, some of which may have been run before.
func (a *admin) run(ctx context.Context, statements []string) error {
	for _, query := range statements {
		_, err := a.db.ExecContext(ctx, query)
		if v, said := judge(a.d, err); err != nil && !(said && (v == present || v == duplicate)) {
			return err
		}
	}
	return nil
}

// Install makes the tables that o names, or changes those of an older version, of which
// it keeps the sessions. It leaves alone what is right already, and what is not ours,
// which is an error. Several processes may install at once.
func Install(ctx context.Context, db *sql.DB, o *Options) error {
	a, err := newAdmin(db, o)
	if err != nil {
		return err
	}
	return a.wrap(a.install(ctx))
}

// Remove drops the tables, with all sessions. That there are none is no error.
func Remove(ctx context.Context, db *sql.DB, o *Options) error {
	a, err := newAdmin(db, o)
	if err != nil {
		return err
	}
	if _, err = a.version(ctx); err != nil && !errors.Is(err, errMissing) {
		return a.wrap(err)
	}
	// The one that says whose they are goes last. Where this was interrupted before, it is
	// the only one.
	for _, name := range []string{a.names.table, a.names.meta} {
		if _, err := a.db.ExecContext(ctx, a.d.drop(name)); err != nil && !a.isAbsent(err) {
			return a.wrap(err)
		}
	}
	return nil
}

// Script returns the statements that [Install] runs where there are no tables yet, for
// somebody else to run, with a program such as sqlcmd or SQL*Plus: with what that needs
// besides. Options.Dialect has to be set.
func Script(o *Options) (string, error) {
	if o == nil || o.Dialect == "" {
		return "", errors.New("sqlstore: Options.Dialect is not set, and there is no driver to find it from")
	}
	a, err := newAdmin(nil, o)
	if err != nil {
		return "", err
	}
	all := a.creation()
	switch a.name {
	case SQLServer: // for which sqlcmd takes what is in double quotes for a string
		all = append([]string{"SET QUOTED_IDENTIFIER ON"}, all...)
	case Oracle: // which commits by itself only what makes tables
		all = append(all, "COMMIT")
	}
	return strings.Join(all, ";\n\n") + ";\n", nil
}
