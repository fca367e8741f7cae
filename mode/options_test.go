package mode

import (
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/holdfast-session/holdfast/stateserver"
)

// TestEveryOptionIsInTheString has each field of a mode's options set by a parameter, but
// for the few whose values no string can have. An option that is added needs a line here.
func TestEveryOptionIsInTheString(t *testing.T) {
	keys := filepath.Join(t.TempDir(), "keys")
	if err := os.WriteFile(keys, []byte(strings.Repeat("0f", 32)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	const elsewhere = "" // what has no parameter of its own, or is no value of a string
	for _, tc := range []struct {
		mode   string
		params []string
		read   func(p *params) (options any)
		fields map[string]string // a parameter with a value, by the field that it is for
		off    []string          // parameters that can be none
	}{
		{"inproc", inprocParams, func(p *params) any { o, _ := inprocOptions(p); return o }, map[string]string{
			"Tombstones": "tombstones=5", "MaxSessions": "max-sessions=5", "MaxBytes": "max-memory=1MiB", "Full": "full=refuse",
			"Ends": "ends=5", "CountCookies": "count-cookies=1", "BackingInterval": "interval=2s",
			"Backing": elsewhere, // opened of backing=DIR
		}, []string{"tombstones", "max-memory", "ends"}},
		{"logstore", logstoreParams, func(p *params) any { return logOptions(p) }, map[string]string{
			"Sync": "sync=always", "Interval": "interval=2s", "MaxMemory": "max-memory=1MiB", "MaxDisk": "max-disk=1GiB",
			"SegmentSize": "segment-size=1MiB", "Tombstones": "tombstones=5", "Ends": "ends=5",
			"Logger": elsewhere,
		}, []string{"max-memory", "tombstones", "ends"}},
		{"state servers", serverParams, func(p *params) any { return serverOptions(p) }, map[string]string{
			"Name": "name=one", "Conns": "conns=5", "MaxConns": "max-conns=5", "MaxWaits": "max-waits=5", "Timeout": "timeout=2s",
			"OpenAfter": "open-after=2s", "NearCache": "near-cache=1MiB", "IdleTimeout": "idle-timeout=2s", "Compat": "compat=1",
			"Token": elsewhere, "TLS": elsewhere, // before the @, or of a token-file; of ca, cert, key and server-name
			"DialContext": elsewhere,
		}, []string{"open-after", "near-cache"}},
		{"databases", databaseParams, func(p *params) any {
			d, err := readDatabase(scheme{database: func(*database, string, *params) error { return nil }}, "", p)
			if err != nil {
				t.Fatal(err)
			}
			return d.Options
		}, map[string]string{
			"Table": "table=t", "Schema": "schema=s", "ItemsType": "items-type=BYTEA", "AutoInstall": "install=1", "MaxBytes": "max-size=1MiB",
			"Compress": "compress=1", "Keys": "key-file=" + url.QueryEscape(keys), "Ends": "ends=5",
			"Dialect": elsewhere, "Notifier": elsewhere, // of the scheme; of notify=0
		}, []string{"ends"}},
		{"Redis", redisParams, func(p *params) any { return redisOptions(p) }, map[string]string{
			"Prefix": "prefix=p", "Timeout": "timeout=2s", "NearCache": "near-cache=1MiB", "Staleness": "staleness=2s",
			"WaitReplicas": "wait-replicas=1", "WaitTimeout": "wait-timeout=2s", "Ends": "ends=5",
			"Logger": elsewhere,
		}, []string{"near-cache", "ends"}},
	} {
		field := func(pair, name string) reflect.Value {
			t.Helper()
			p, err := parseParams(pair, tc.params, false)
			if err != nil {
				t.Fatalf("%s: %s: %v", tc.mode, pair, err)
			}
			o := reflect.ValueOf(tc.read(p))
			if len(p.errs) > 0 {
				t.Fatalf("%s: %s: %v", tc.mode, pair, p.errs)
			}
			return o.FieldByName(name)
		}
		isOff := make(map[string]bool)
		for _, f := range reflect.VisibleFields(reflect.TypeOf(tc.read(&params{}))) {
			pair, ok := tc.fields[f.Name]
			switch {
			case !ok:
				t.Errorf("%s: no parameter sets the option %s", tc.mode, f.Name)
			case pair != elsewhere && field(pair, f.Name).IsZero():
				t.Errorf("%s: %s does not set the option %s", tc.mode, pair, f.Name)
			}
			name, _, _ := strings.Cut(pair, "=")
			if slices.Contains(tc.off, name) {
				isOff[name] = true
				if v := field(name+"=none", f.Name); v.Int() >= 0 {
					t.Errorf("%s: %s=none sets the option %s to %v; want less than 0", tc.mode, name, f.Name, v)
				}
				p, err := parseParams(name+"=0", tc.params, false)
				if err != nil {
					t.Fatal(err)
				}
				if tc.read(p); len(p.errs) != 1 || !strings.Contains(p.errs[0].Error(), ", or none") {
					t.Errorf("%s: %s=0: %v; want the way to turn it off", tc.mode, name, p.errs)
				}
			}
		}
		if len(isOff) != len(tc.off) {
			t.Errorf("%s: of %v only %v are parameters of options", tc.mode, tc.off, slices.Collect(maps.Keys(isOff)))
		}
	}
}

// TestServerNames has each server of a list called as its name says.
func TestServerNames(t *testing.T) {
	s, err := Open("stateserver://a:1,b:2?name=one,two&near-cache=none&open-after=none&max-waits=3")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	names := make(map[string]bool)
	for _, c := range s.(*stateserver.Partitions).Servers() {
		names[c.Name()] = true
	}
	if !names["one"] || !names["two"] {
		t.Errorf("the servers are called %v", names)
	}
	for _, names := range []string{"one", "one,one", "one,", "one,two,three"} {
		if s, err := Open("stateserver://a:1,b:2?name=" + names); err == nil || !strings.Contains(err.Error(), "a name for each server") {
			t.Errorf("name=%s: %v", names, err)
			if err == nil {
				s.Close()
			}
		}
	}
}
