package main

import (
	"context"
	"database/sql"
	"net"
	"net/http"
	"path/filepath"
	"time"

	"github.com/alexedwards/scs/goredisstore"
	"github.com/alexedwards/scs/mysqlstore"
	"github.com/alexedwards/scs/pgxstore"
	"github.com/alexedwards/scs/sqlite3store"
	"github.com/alexedwards/scs/v2"
	"github.com/alexedwards/scs/v2/memstore"
	ginsessions "github.com/gin-contrib/sessions"
	ginredis "github.com/gin-contrib/sessions/redis"
	"github.com/gin-gonic/gin"
	"github.com/gofiber/fiber/v3"
	fibersession "github.com/gofiber/fiber/v3/middleware/session"
	fiberredis "github.com/gofiber/storage/redis/v3"
	"github.com/gorilla/sessions"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"

	"github.com/holdfast-session/holdfast"
	"github.com/holdfast-session/holdfast/inproc"
	"github.com/holdfast-session/holdfast/redisstore"
	"github.com/holdfast-session/holdfast/sqlstore"
	"github.com/holdfast-session/holdfast/sqlstore/pgnotify"
	"github.com/holdfast-session/holdfast/stateserver"
	"github.com/holdfast-session/holdfast/store"

	_ "github.com/go-sql-driver/mysql"
	_ "github.com/jackc/pgx/v5/stdlib"
	_ "github.com/mattn/go-sqlite3"
)

// libraries are all ways to have sessions. The peers have the settings that their own
// documentation recommends, and larger limits and pools where the load needs them.
var libraries = []library{
	{"holdfast, InProc", inProcess, storeNone, ours(func(string) (store.Store, error) { return inproc.New(nil), nil })},
	{"holdfast, StateServer", onServer, storeHoldfast, ours(func(address string) (store.Store, error) { return stateserver.Dial(address, nil) })},
	{"holdfast, Redis", onServer, storeRedis, ours(func(address string) (store.Store, error) { return redisstore.Open("redis://"+address, nil) })},
	{"holdfast, PostgreSQL", inPostgres, storePostgres, ours(func(address string) (store.Store, error) {
		db, err := openSQL("pgx", address)
		return oursSQL(db, &sqlstore.Options{Notifier: pgnotify.New(db)}, err)
	})},
	{"holdfast, MariaDB", inMariaDB, storeMariaDB, ours(func(address string) (store.Store, error) {
		db, err := openSQL("mysql", address)
		return oursSQL(db, new(sqlstore.Options), err)
	})},
	{"holdfast, SQLite", inSQLite, storeFolder, ours(func(address string) (store.Store, error) {
		db, err := openSQLite(address, "NORMAL")
		return oursSQL(db, new(sqlstore.Options), err)
	})},
	{noSessions, inProcess, storeNone, openBare},
	{"scs, memstore", inProcess, storeNone, scsApplication(0, func(string) (scs.Store, error) { return memstore.New(), nil })},
	{"scs, goredisstore", onServer, storeRedis, scsApplication(0, scsRedis)},
	{"scs, goredisstore, IdleTimeout", onServer, storeRedis, scsApplication(idleTimeout, scsRedis)},
	{"scs, pgxstore", inPostgres, storePostgres, scsApplication(0, scsPostgres)},
	{"scs, pgxstore, IdleTimeout", inPostgres, storePostgres, scsApplication(idleTimeout, scsPostgres)},
	{"scs, mysqlstore", inMariaDB, storeMariaDB, scsApplication(0, scsMySQL)},
	{"scs, mysqlstore, IdleTimeout", inMariaDB, storeMariaDB, scsApplication(idleTimeout, scsMySQL)},
	{"scs, sqlite3store", inSQLite, storeFolder, scsApplication(0, scsSQLite)},
	{"scs, sqlite3store, IdleTimeout", inSQLite, storeFolder, scsApplication(idleTimeout, scsSQLite)},
	{cookieStore, inProcess, storeNone, gorilla(func(string) (sessions.Store, error) { return sessions.NewCookieStore(hashKey, blockKey), nil })},
	{"gorilla, FilesystemStore", inProcess, storeFolder, gorilla(func(dir string) (sessions.Store, error) {
		s := sessions.NewFilesystemStore(dir, hashKey, blockKey)
		s.MaxLength(0)
		return s, nil
	})},
	{"gin-contrib/sessions, Redis", onServer, storeRedis, ginApplication},
	{"fiber session, memory", inProcess, storeNone, fiberApplication(func(string) fiber.Storage { return nil })},
	{"fiber session, Redis", onServer, storeRedis, fiberApplication(func(address string) fiber.Storage {
		return fiberredis.New(fiberredis.Config{Addrs: []string{address}})
	})},
}

const (
	// noSessions is the application without any.
	noSessions = "net/http, no sessions"
	// cookieStore keeps sessions in the cookie, which has no room for large ones.
	cookieStore = "gorilla, CookieStore"

	idleTimeout = 20 * time.Minute
	// sqlConnections is how many connections to a database an application has.
	sqlConnections = 8
)

var hashKey, blockKey = []byte("0123456789abcdef0123456789abcdef"), []byte("0123456789abcdef")

// oursTexts are the keys of our texts.
var oursTexts = func() map[string]holdfast.Key[string] {
	m := make(map[string]holdfast.Key[string])
	for _, name := range allNames {
		m[name] = holdfast.NewKey[string](name)
	}
	return m
}()

func newStrangeKey() holdfast.Key[chan int] { return holdfast.NewKey[chan int]("strange") }

// An oursVisit is one of Holdfast.
type oursVisit struct{ s *holdfast.Session }

func (v oursVisit) hits() int                  { return keyHits.Get(v.s) }
func (v oursVisit) setHits(n int)              { keyHits.Set(v.s, n) }
func (v oursVisit) text(name string) string    { return oursTexts[name].Get(v.s) }
func (v oursVisit) setText(name, value string) { oursTexts[name].Set(v.s, value) }
func (v oursVisit) setStrange()                { newStrangeKey().Set(v.s, make(chan int)) }
func (v oursVisit) save() error                { return v.s.Err() }
func (v oursVisit) end() error                 { return v.s.Abandon() }
func (v oursVisit) renew() error               { v.s.RegenerateID(); return v.s.Err() }

// ours is the application over one of our stores. Its page /read is declared
// read-only, as a page that only shows something should be.
func ours(open func(address string) (store.Store, error)) func(string, bool) (application, error) {
	return func(address string, strange bool) (application, error) {
		if strange {
			newStrangeKey()
		}
		st, err := open(address)
		if err != nil {
			return nil, err
		}
		m := holdfast.New(st, nil)
		return httpApplication(func(_ http.ResponseWriter, r *http.Request) (visit, error) {
			return oursVisit{holdfast.From(r)}, nil
		}, func(path string, h http.Handler) http.Handler {
			if path == "/read" {
				return m.With(holdfast.ReadOnly).Handler(h)
			}
			return m.Handler(h)
		}), nil
	}
}

// oursSQL is our store in a database that was opened, or failed to.
func oursSQL(db *sql.DB, o *sqlstore.Options, err error) (store.Store, error) {
	if err != nil {
		return nil, err
	}
	o.AutoInstall = true
	return sqlstore.New(db, o)
}

// A bareVisit pretends that there is a session, and keeps nothing.
type bareVisit struct{}

func (bareVisit) hits() int              { return 0 }
func (bareVisit) setHits(int)            {}
func (bareVisit) text(string) string     { return "x" }
func (bareVisit) setText(string, string) {}
func (bareVisit) setStrange()            {}
func (bareVisit) save() error            { return nil }
func (bareVisit) end() error             { return nil }
func (bareVisit) renew() error           { return nil }

func openBare(string, bool) (application, error) {
	return httpApplication(func(http.ResponseWriter, *http.Request) (visit, error) { return bareVisit{}, nil }, nil), nil
}

// A scsVisit is one of alexedwards/scs.
type scsVisit struct {
	m   *scs.SessionManager
	ctx context.Context
}

func (v scsVisit) hits() int                  { return v.m.GetInt(v.ctx, "hits") }
func (v scsVisit) setHits(n int)              { v.m.Put(v.ctx, "hits", n) }
func (v scsVisit) text(name string) string    { return v.m.GetString(v.ctx, name) }
func (v scsVisit) setText(name, value string) { v.m.Put(v.ctx, name, value) }
func (v scsVisit) setStrange()                { v.m.Put(v.ctx, "strange", make(chan int)) }
func (v scsVisit) save() error                { return nil }
func (v scsVisit) end() error                 { return v.m.Destroy(v.ctx) }
func (v scsVisit) renew() error               { return v.m.RenewToken(v.ctx) }

func scsApplication(idle time.Duration, open func(address string) (scs.Store, error)) func(string, bool) (application, error) {
	return func(address string, _ bool) (application, error) {
		st, err := open(address)
		if err != nil {
			return nil, err
		}
		m := scs.New()
		m.Store, m.IdleTimeout = st, idle
		return httpApplication(func(_ http.ResponseWriter, r *http.Request) (visit, error) {
			return scsVisit{m, r.Context()}, nil
		}, func(_ string, h http.Handler) http.Handler { return m.LoadAndSave(h) }), nil
	}
}

func scsRedis(address string) (scs.Store, error) {
	return goredisstore.New(redis.NewClient(&redis.Options{Addr: address})), nil
}

func scsPostgres(address string) (scs.Store, error) {
	ctx := context.Background()
	c, err := pgxpool.ParseConfig(address)
	if err != nil {
		return nil, err
	}
	c.MaxConns = sqlConnections
	pool, err := pgxpool.NewWithConfig(ctx, c)
	if err != nil {
		return nil, err
	}
	_, err = pool.Exec(ctx, `CREATE TABLE IF NOT EXISTS sessions (token TEXT PRIMARY KEY, data BYTEA NOT NULL, expiry TIMESTAMPTZ NOT NULL);
CREATE INDEX IF NOT EXISTS sessions_expiry_idx ON sessions (expiry)`)
	return pgxstore.New(pool), err
}

func scsMySQL(address string) (scs.Store, error) {
	db, err := openSQL("mysql", address, "CREATE TABLE IF NOT EXISTS sessions (token CHAR(43) PRIMARY KEY, data BLOB NOT NULL, expiry TIMESTAMP(6) NOT NULL, INDEX sessions_expiry_idx (expiry))")
	return mysqlstore.New(db), err
}

func scsSQLite(dir string) (scs.Store, error) {
	db, err := openSQLite(dir, "NORMAL", "CREATE TABLE IF NOT EXISTS sessions (token TEXT PRIMARY KEY, data BLOB NOT NULL, expiry REAL NOT NULL)",
		"CREATE INDEX IF NOT EXISTS sessions_expiry_idx ON sessions (expiry)")
	return sqlite3store.New(db), err
}

// openSQL opens a database, with as many connections for everybody, and makes tables.
func openSQL(driver, address string, tables ...string) (*sql.DB, error) {
	db, err := sql.Open(driver, address)
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(sqlConnections)
	db.SetMaxIdleConns(sqlConnections)
	for _, t := range tables {
		if _, err := db.Exec(t); err != nil {
			return nil, err
		}
	}
	return db, nil
}

// openSQLite opens SQLite as it is quickest with several writers: with a write-ahead
// log, a transaction's lock taken at its beginning, and waiting for it instead of
// failing.
func openSQLite(dir, synchronous string, tables ...string) (*sql.DB, error) {
	return openSQL("sqlite3", "file:"+filepath.Join(dir, "sessions.db")+"?_journal_mode=WAL&_busy_timeout=10000&_txlock=immediate&_synchronous="+synchronous, tables...)
}

// looseVisit is what most libraries have: values of any type by their names.
type looseVisit struct {
	values interface {
		Get(name any) any
		Set(name, value any)
	}
}

func (v looseVisit) hits() int                  { n, _ := v.values.Get("hits").(int); return n }
func (v looseVisit) setHits(n int)              { v.values.Set("hits", n) }
func (v looseVisit) text(name string) string    { s, _ := v.values.Get(name).(string); return s }
func (v looseVisit) setText(name, value string) { v.values.Set(name, value) }
func (v looseVisit) setStrange()                { v.values.Set("strange", make(chan int)) }

// A gorillaVisit is one of gorilla/sessions.
type gorillaVisit struct {
	looseVisit
	s *sessions.Session
	w http.ResponseWriter
	r *http.Request
}

// gorillaValues are the values of a session of gorilla/sessions.
type gorillaValues map[any]any

func (m gorillaValues) Get(name any) any    { return m[name] }
func (m gorillaValues) Set(name, value any) { m[name] = value }

func (v gorillaVisit) save() error  { return v.s.Save(v.r, v.w) }
func (v gorillaVisit) renew() error { return nil }

func (v gorillaVisit) end() error {
	v.s.Options.MaxAge = -1
	return v.save()
}

func gorilla(open func(address string) (sessions.Store, error)) func(string, bool) (application, error) {
	return func(address string, _ bool) (application, error) {
		st, err := open(address)
		if err != nil {
			return nil, err
		}
		return httpApplication(func(w http.ResponseWriter, r *http.Request) (visit, error) {
			// An error means that the cookie is none of ours any more; the session is
			// new then.
			s, _ := st.Get(r, "session")
			return gorillaVisit{looseVisit{gorillaValues(s.Values)}, s, w, r}, nil
		}, nil), nil
	}
}

// A ginVisit is one of gin-contrib/sessions.
type ginVisit struct {
	looseVisit
	s ginsessions.Session
}

func (v ginVisit) save() error  { return v.s.Save() }
func (v ginVisit) renew() error { return nil }

func (v ginVisit) end() error {
	v.s.Clear()
	v.s.Options(ginsessions.Options{Path: "/", MaxAge: -1})
	return v.save()
}

func ginApplication(address string, _ bool) (application, error) {
	st, err := ginredis.NewStore(webConnections, "tcp", address, "", "", hashKey, blockKey)
	if err != nil {
		return nil, err
	}
	pool, err := ginredis.GetRedisStore(st)
	if err != nil {
		return nil, err
	}
	pool.SetMaxLength(1 << 20)
	gin.SetMode(gin.ReleaseMode)
	e := gin.New()
	e.Use(ginsessions.Sessions("session", st))
	for path, page := range pages {
		e.GET(path, func(c *gin.Context) {
			s := ginsessions.Default(c)
			if err := page(ginVisit{looseVisit{s}, s}, c.Query, c.Writer); err != nil {
				_ = c.AbortWithError(http.StatusInternalServerError, err)
			}
		})
	}
	return e.RunListener, nil
}

// A fiberVisit is one of fiber's own sessions.
type fiberVisit struct {
	looseVisit
	s *fibersession.Middleware
}

func (v fiberVisit) save() error  { return nil }
func (v fiberVisit) end() error   { return v.s.Destroy() }
func (v fiberVisit) renew() error { return v.s.Regenerate() }

func fiberApplication(open func(address string) fiber.Storage) func(string, bool) (application, error) {
	return func(address string, _ bool) (application, error) {
		app := fiber.New()
		app.Use(fibersession.New(fibersession.Config{Storage: open(address), IdleTimeout: idleTimeout}))
		for path, page := range pages {
			app.Get(path, func(c fiber.Ctx) error {
				s := fibersession.FromContext(c)
				return page(fiberVisit{looseVisit{s}, s}, func(name string) string { return c.Query(name) }, c)
			})
		}
		return func(l net.Listener) error {
			return app.Listener(l, fiber.ListenConfig{DisableStartupMessage: true})
		}, nil
	}
}
