package servers

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"

	_ "github.com/go-sql-driver/mysql" // the driver mysql
)

// MariaDBOptions are the settings of a private MariaDB.
type MariaDBOptions struct {
	// Durable lets it sync what it writes to the disk, as in production. Without, what
	// is committed survives that the server is killed, but not that the machine is.
	Durable bool
	// Settings are further ones, as arguments of mariadbd ("--max-connections=20").
	Settings []string
}

// A MariaDB is a private MariaDB server.
type MariaDB struct {
	*Process
	socket    string
	databases atomic.Int32
}

// StartMariaDB starts MariaDB on a Unix socket in a folder of its own, where root has no
// password. Nil options are fine.
func StartMariaDB(t testing.TB, o *MariaDBOptions) *MariaDB {
	t.Helper()
	if o == nil {
		o = new(MariaDBOptions)
	}
	dir := Folder(t)
	data := filepath.Join(dir, "data")
	s := &MariaDB{socket: filepath.Join(dir, "s")}
	Run(t, dir, Program(t, "mariadb-install-db", "mysql_install_db"), "--no-defaults", "--datadir="+data,
		"--auth-root-authentication-method=normal", "--skip-test-db",
		"--tmpdir="+dir) // another server that starts removes the temporary tables in the usual one
	sync := []string{"--innodb-flush-log-at-trx-commit=2", "--innodb-flush-method=nosync", "--innodb-doublewrite=0"}
	if o.Durable {
		sync = []string{"--innodb-flush-log-at-trx-commit=1"}
	}
	args := append([]string{"--no-defaults", "--datadir=" + data, "--tmpdir=" + dir, "--socket=" + s.socket,
		"--pid-file=" + filepath.Join(dir, "pid"), "--skip-networking", "--skip-log-bin", "--max-connections=300",
		"--innodb-buffer-pool-size=64M", "--innodb-log-file-size=16M"}, slices.Concat(sync, o.Settings)...)
	s.Process = Start(t, Command{
		Program: Program(t, "mariadbd", "/usr/sbin/mariadbd"),
		Args:    args,
		Dir:     dir,
		Ready:   func(ctx context.Context) error { return ping(ctx, "mysql", s.DSN("mysql")) },
	})
	return s
}

// DSN returns the address of a database, for the driver mysql.
func (s *MariaDB) DSN(database string) string {
	return fmt.Sprintf("root@unix(%s)/%s", s.socket, database)
}

// Database makes an empty database, and returns its address for the driver mysql.
func (s *MariaDB) Database(t testing.TB) string {
	t.Helper()
	name := fmt.Sprint("test", s.databases.Add(1))
	createDatabase(t, "mysql", s.DSN("mysql"), name)
	return s.DSN(name)
}
