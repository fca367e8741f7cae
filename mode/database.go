package mode

import (
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	_ "github.com/microsoft/go-mssqldb" // the driver sqlserver
	_ "github.com/sijms/go-ora/v2"      // the driver oracle
	_ "modernc.org/sqlite"              // the driver sqlite

	"github.com/holdfast-session/holdfast/sqlstore"
	"github.com/holdfast-session/holdfast/sqlstore/pgnotify"
)

// Mode SQLServer, on any database. What is not in databaseParams is a parameter of the
// driver.

var databaseParams = []string{"table", "schema", "items-type", "install", "max-size", "compress", "key-file", "ends", "conns"}

var (
	postgresParams  = append([]string{"notify"}, databaseParams...)
	mysqlParams     = append([]string{"socket"}, databaseParams...)
	sqliteParams    = append([]string{"sync"}, databaseParams...)
	sqlServerParams = append([]string{"aspstate"}, databaseParams...)
)

var databaseSchemes = []scheme{
	{prefix: "postgres://", example: "postgres://user:password@host/database", params: postgresParams, foreign: true, database: parsePostgres},
	{prefix: "postgresql://", params: postgresParams, foreign: true, database: parsePostgres},
	{prefix: "mysql://", example: "mysql://user:password@host/database", params: mysqlParams, foreign: true, database: parseMySQL},
	{prefix: "sqlserver://", example: "sqlserver://user:password@host?database=name", params: sqlServerParams, foreign: true, database: parseSQLServer},
	{prefix: "sqlite:", example: "sqlite:/var/lib/app/sessions.db", params: sqliteParams, foreign: true, database: parseSQLite},
	{prefix: "oracle://", example: "oracle://user:password@host:1521/service", params: databaseParams, foreign: true, database: parseOracle},
}

const (
	defaultConns = 32
	connIdle     = 5 * time.Minute
	// connLife is how long a connection is used at most: after a failover that ended none
	// of them, they are to a server that is no primary any more.
	connLife = 10 * time.Minute
	// sqliteBusy is how long a process waits for another's write to a SQLite file.
	sqliteBusy = 10 * time.Second
)

// A Database is one that a spec names, and how sessions are kept in it.
type Database struct {
	// DB is the caller's to close.
	DB *sql.DB
	// ASPState says that sessions are in the tables of ASP.NET's ASPState database; of
	// the options only Compress and MaxBytes then mean anything.
	ASPState bool
	Options  sqlstore.Options
}

// OpenDatabase opens the database that spec names, but no store in it, as who installs
// the tables needs it. Nothing is asked of the database yet.
func OpenDatabase(spec string) (*Database, error) {
	s, where, query, ok := split(spec)
	if ok && s.database == nil {
		return nil, fmt.Errorf("mode: %s is no database; write postgres://, mysql://, sqlserver://, sqlite: or oracle://", s.prefix)
	}
	if !ok {
		return nil, fmt.Errorf("mode: %w", unknown(spec))
	}
	var d *database
	err := s.read(where, query, func(p *params) (err error) {
		d, err = readDatabase(s, where, p)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("mode: %w", err)
	}
	opened, err := d.open()
	if err != nil {
		return nil, fmt.Errorf("mode: %w", guarded(spec, err))
	}
	return opened, nil
}

// A database is a spec of one that was understood.
type database struct {
	connect func() (*sql.DB, error)
	conns   int
	notify  bool
	file    string // of SQLite, whose errors do not name it
	Database
}

func readDatabase(s scheme, where string, p *params) (*database, error) {
	d := &database{conns: p.number("conns")}
	if d.conns == 0 {
		d.conns = defaultConns
	}
	d.Options = sqlstore.Options{
		Table: p.text("table"), Schema: p.text("schema"), ItemsType: p.text("items-type"), AutoInstall: p.flag("install"),
		MaxBytes: int(p.size("max-size")), Compress: p.flag("compress"), Ends: orNone(p, "ends", p.numberOr),
	}
	if file := p.text("key-file"); file != "" {
		var err error
		if d.Options.Keys, err = readKeys(file); err != nil {
			return nil, err
		}
	}
	// Drivers take what is before a slash in a password for the host, and show it.
	if _, path, _ := strings.Cut(where, "/"); s.prefix != "sqlite:" && strings.Contains(path, "@") {
		return nil, errors.New("it cannot be read; " + escapePassword)
	}
	return d, s.database(d, where, p)
}

const escapePassword = "in a password, write @ as %40, / as %2F, ? as %3F, # as %23 and % as %25"

// parseDatabase is the parse of a scheme of databases.
func parseDatabase(s scheme, where string, p *params) (opener, error) {
	d, err := readDatabase(s, where, p)
	if err != nil {
		return nil, err
	}
	return d.store, nil
}

func (d *database) open() (*Database, error) {
	db, err := d.connect()
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(d.conns)
	db.SetMaxIdleConns(d.conns)
	db.SetConnMaxIdleTime(connIdle)
	db.SetConnMaxLifetime(connLife)
	d.DB = db
	return &d.Database, nil
}

// store opens the store in the database, which is closed with it.
func (d *database) store() (Store, error) {
	if _, err := d.open(); err != nil {
		return nil, err
	}
	if d.ASPState {
		s, err := sqlstore.NewASPState(d.DB, &sqlstore.ASPStateOptions{Compress: d.Options.Compress, MaxBytes: d.Options.MaxBytes})
		if err != nil {
			return nil, errors.Join(err, d.DB.Close())
		}
		return &inASPState{s, d.DB}, nil
	}
	if d.notify {
		d.Options.Notifier = pgnotify.New(d.DB)
	}
	s, err := sqlstore.New(d.DB, &d.Options)
	if err != nil && d.file != "" {
		err = fmt.Errorf("%s: %w", d.file, err)
	}
	if err != nil {
		return nil, errors.Join(err, d.DB.Close())
	}
	return &inDatabase{s, d.DB}, nil
}

// Stores that close their database.
type (
	inDatabase struct {
		*sqlstore.Store
		db *sql.DB
	}
	inASPState struct {
		*sqlstore.ASPState
		db *sql.DB
	}
)

func (s *inDatabase) Close() error { return errors.Join(s.Store.Close(), s.db.Close()) }
func (s *inASPState) Close() error { return s.db.Close() }

func parsePostgres(d *database, where string, p *params) error {
	d.Options.Dialect = sqlstore.PostgreSQL
	c, err := pgx.ParseConfig("postgres://" + where + p.foreignQuery())
	if err != nil {
		return errors.New("it cannot be read; write postgres://user:password@host:5432/database?sslmode=verify-full; " + escapePassword)
	}
	d.notify = !p.values.Has("notify") || p.flag("notify")
	if d.notify && d.conns < 2 {
		p.wrong("conns", "2 at least, one of which listens; or notify=0")
	}
	// A server that only reads was the primary before a failover: the next connection is
	// perhaps to the one that is now. The driver's own judgement is of fatal errors.
	fatal := c.OnPgError
	c.OnPgError = func(conn *pgconn.PgConn, e *pgconn.PgError) (keep bool) {
		const readOnly = "25006"
		return e.Code != readOnly && (fatal == nil || fatal(conn, e))
	}
	d.connect = func() (*sql.DB, error) { return stdlib.OpenDB(*c), nil }
	return nil
}

func parseMySQL(d *database, where string, p *params) error {
	d.Options.Dialect = sqlstore.MySQL
	u, err := url.Parse("mysql://" + where)
	if err != nil || strings.Trim(u.Path, "/") == "" {
		return errors.New("it cannot be read; write mysql://user:password@host:3306/database; " + escapePassword)
	}
	address := "tcp(" + hostPort(u.Host, "3306") + ")"
	if socket := p.text("socket"); socket != "" {
		address = "unix(" + socket + ")"
	}
	c, err := mysql.ParseDSN(address + u.EscapedPath() + p.foreignQuery())
	if err != nil {
		return fmt.Errorf("its parameters cannot be read: %w", err)
	}
	if u.User != nil {
		c.User = u.User.Username()
		c.Passwd, _ = u.User.Password()
	}
	if !p.foreign.Has("rejectReadOnly") {
		c.RejectReadOnly = true // was the primary before a failover
	}
	d.connect = func() (*sql.DB, error) {
		connector, err := mysql.NewConnector(c)
		if err != nil {
			return nil, err
		}
		return sql.OpenDB(connector), nil
	}
	return nil
}

func hostPort(host, port string) string {
	u := url.URL{Host: host}
	if u.Port() != "" {
		return host
	}
	name := u.Hostname()
	if name == "" {
		name = "localhost"
	}
	return net.JoinHostPort(name, port)
}

func parseSQLite(d *database, file string, p *params) error {
	d.Options.Dialect = sqlstore.SQLite
	switch {
	case file == "":
		return errors.New("it names no file; write sqlite:/var/lib/app/sessions.db")
	case strings.HasPrefix(file, ":memory:"):
		return errors.New("a database in memory is gone with its connection; write inproc: for sessions in memory")
	}
	mode := []string{"full", "normal"}[p.choice("sync", "full", "normal")]
	abs, err := filepath.Abs(file)
	if err != nil {
		return err
	}
	d.file = file
	u := url.URL{Scheme: "file", Path: filepath.ToSlash(abs)}
	pragmas := url.Values{"_pragma": {
		"journal_mode(wal)", fmt.Sprintf("busy_timeout(%d)", sqliteBusy.Milliseconds()), "synchronous(" + mode + ")",
	}}
	for name, values := range p.foreign {
		pragmas[name] = append(pragmas[name], values...)
	}
	u.RawQuery = pragmas.Encode()
	d.connect = func() (*sql.DB, error) { return sql.Open("sqlite", u.String()) }
	return nil
}

func parseSQLServer(d *database, where string, p *params) error {
	d.Options.Dialect = sqlstore.SQLServer
	d.ASPState = p.flag("aspstate")
	if d.ASPState {
		for _, other := range []string{"table", "schema", "items-type", "install", "key-file", "ends"} {
			if p.values.Has(other) {
				p.wrong(other, "none: the tables are those of ASP.NET")
			}
		}
	}
	return d.openURL("sqlserver", where, p)
}

func parseOracle(d *database, where string, p *params) error {
	d.Options.Dialect = sqlstore.Oracle
	return d.openURL("oracle", where, p)
}

// openURL has a database opened whose driver reads URLs and is named as their scheme. What
// the driver could not read it would show, and only when it is used.
func (d *database) openURL(driver, where string, p *params) error {
	where = driver + "://" + where
	if _, err := url.Parse(where); err != nil || strings.Contains(where, "#") { // before which it would take a password for the host
		return fmt.Errorf("it cannot be read; write %s://user:password@host/…; %s", driver, escapePassword)
	}
	where += p.foreignQuery()
	d.connect = func() (*sql.DB, error) { return sql.Open(driver, where) }
	return nil
}

// readKeys reads the keys of a file, each in a line of 64 hexadecimal digits.
func readKeys(file string) (keys [][]byte, err error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("key-file: %w", err)
	}
	n := 0
	for line := range strings.Lines(string(text)) {
		n++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		key, err := hex.DecodeString(line)
		if err != nil || len(key) != 32 {
			return nil, fmt.Errorf("key-file: line %d of %s is no key: 64 hexadecimal digits, as openssl rand -hex 32 prints them", n, file)
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("key-file: there is no key in %s", file)
	}
	return keys, nil
}
