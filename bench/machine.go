package main

import (
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/holdfast-session/holdfast/internal/servers"
)

// A machine is where a run took place, without names: what a reader needs to judge
// the figures.
type machine struct {
	CPU        string            `json:"cpu"`
	Processors int               `json:"processors"`
	MemoryGiB  int               `json:"memory_gib,omitempty"`
	System     string            `json:"system"`
	Disk       string            `json:"disk,omitempty"` // file system of the durable servers
	Load       string            `json:"load,omitempty"` // average over a minute, when it began
	Versions   map[string]string `json:"versions"`
}

func thisMachine(s *suite) machine {
	m := machine{
		CPU:        procField("/proc/cpuinfo", "model name"),
		Processors: runtime.NumCPU(),
		System:     runtime.GOOS + "/" + runtime.GOARCH,
		Disk:       fileSystem(s.dir),
		Versions:   map[string]string{"Go": runtime.Version()},
	}
	if m.CPU == "" {
		m.CPU = runtime.GOARCH
	}
	if kb := procField("/proc/meminfo", "MemTotal"); kb != "" {
		m.MemoryGiB = int(atof(strings.TrimSuffix(kb, " kB"))/(1<<20) + 0.5)
	}
	if b, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		// Only the number: what follows it may name whose kernel it is.
		number, _, _ := strings.Cut(strings.TrimSpace(string(b)), "-")
		m.System += ", kernel " + number
	}
	if b, err := os.ReadFile("/proc/loadavg"); err == nil {
		m.Load, _, _ = strings.Cut(string(b), " ")
	}
	if v := versionOf("redis-server", "--version"); v != "" {
		for f := range strings.FieldsSeq(v) {
			if n, ok := strings.CutPrefix(f, "v="); ok {
				m.Versions["Redis"] = n
			}
		}
	}
	if v, ok := strings.CutPrefix(versionOf("memcached", "-V"), "memcached "); ok {
		m.Versions["memcached"] = v
	}
	for name, programs := range map[string][]string{"PostgreSQL": {"postgres", "/usr/lib/postgresql/*/bin/postgres"}, "MariaDB": {"mariadbd", "/usr/sbin/mariadbd"}} {
		path, err := standing(s, func(t testing.TB) string { return servers.Program(t, programs...) })
		if err != nil {
			continue // those who need it say so
		}
		if f := strings.Fields(versionOf(path, "--version")); len(f) > 2 {
			m.Versions[name], _, _ = strings.Cut(f[2], "-")
		}
	}
	if v := versionOf("cc", "--version"); v != "" {
		f := strings.Fields(v)
		m.Versions["C compiler"] = f[0] + " " + f[len(f)-1]
	}
	if b, err := exec.Command("git", "describe", "--always", "--dirty=, modified").Output(); err == nil {
		m.Versions["holdfast"] = strings.TrimSpace(string(b))
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, d := range info.Deps {
			for _, peer := range peerModules {
				if d.Path == peer {
					m.Versions[strings.TrimPrefix(d.Path, "github.com/")] = d.Version
				}
			}
		}
	}
	return m
}

// peerModules are the libraries that ours is compared with.
var peerModules = []string{
	"github.com/alexedwards/scs/goredisstore", "github.com/alexedwards/scs/mysqlstore", "github.com/alexedwards/scs/pgxstore",
	"github.com/alexedwards/scs/sqlite3store", "github.com/alexedwards/scs/v2", "github.com/cockroachdb/pebble/v2",
	"github.com/fxamacker/cbor/v2", "github.com/gin-contrib/sessions", "github.com/gofiber/fiber/v3", "github.com/gorilla/sessions",
	"github.com/mattn/go-sqlite3", "github.com/puzpuzpuz/xsync/v4", "github.com/redis/go-redis/v9", "github.com/tinylib/msgp",
	"github.com/valkey-io/valkey-go", "github.com/vmihailenco/msgpack/v5", "go.etcd.io/bbolt",
}

// procField returns a field of a file in /proc with lines of "name: value".
func procField(file, name string) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(b)) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == name {
			return strings.TrimSpace(v)
		}
	}
	return ""
}
