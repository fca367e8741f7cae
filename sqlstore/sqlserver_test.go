package sqlstore

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/hex"
	"net/url"
	"os"
	"sync"
	"testing"
	"time"

	_ "github.com/microsoft/go-mssqldb"
)

const sqlServerDSN = "HOLDFAST_SQLSERVER_DSN"

func init() {
	if os.Getenv(sqlServerDSN) != "" {
		databases = append(databases, struct {
			name string
			make func(t testing.TB) *database
		}{"SQLServer", openSQLServer})
	}
}

// TestContractSQLServer is of a table of our own; TestASPStateContract of ASP.NET's.
func TestContractSQLServer(t *testing.T) { contract(t, openSQLServer(t), Options{}, nil) }

// making is held for making and dropping a database: Babelfish does one at a time.
var making sync.Mutex

// openSQLServer makes a database on the server that the environment names.
func openSQLServer(t testing.TB) *database {
	t.Helper()
	dsn := os.Getenv(sqlServerDSN)
	if dsn == "" {
		t.Skip("not run, neither ASPState nor a table of ours: " + sqlServerDSN + " names no SQL Server")
	}
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatalf("%s: %v", sqlServerDSN, err)
	}
	server, err := sql.Open("sqlserver", dsn)
	if err != nil {
		t.Fatalf("%s: %v", sqlServerDSN, err)
	}
	var random [6]byte
	rand.Read(random[:])
	name := "holdfast_test_" + hex.EncodeToString(random[:])
	making.Lock()
	_, err = server.Exec("CREATE DATABASE " + name)
	making.Unlock()
	if err != nil {
		t.Fatalf("%s: %v", sqlServerDSN, err)
	}
	t.Cleanup(func() {
		defer server.Close()
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		for { // until the server has noticed that nobody uses it any more
			making.Lock()
			_, err := server.ExecContext(ctx, "DROP DATABASE "+name)
			making.Unlock()
			if err == nil {
				return
			}
			if sleep(ctx, 50*time.Millisecond) != nil {
				t.Logf("the database %s is left: %v", name, err)
				return
			}
		}
	})
	q := u.Query()
	q.Set("database", name)
	u.RawQuery = q.Encode()
	d := openDatabase(t, SQLServer, "sqlserver", u.String(), nil)
	warm(t, d.db)
	return d
}

// warm opens connections, which are kept: logging in takes longer than anything else, so
// long that a lock can become stale over it.
func warm(t testing.TB, db *sql.DB) {
	for range 20 {
		c, err := db.Conn(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
}
