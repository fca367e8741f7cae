package redisstore

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// dialled is what Open understands of a URL.
type dialled struct {
	Addr                           []string
	User, Password, Master         string
	SentinelUser, SentinelPassword string
	DB                             int
	TLS, Single, Unix              bool
}

func TestURL(t *testing.T) {
	for in, want := range map[string]dialled{
		"redis://h":                     {Addr: []string{"h:6379"}, Single: true},
		"Redis://u:p%40:@h:1/3":         {Addr: []string{"h:1"}, User: "u", Password: "p@:", DB: 3, Single: true},
		"valkey://:p@[::1]:1":           {Addr: []string{"[::1]:1"}, Password: "p", Single: true},
		"redis://[::1]?db=2":            {Addr: []string{"[::1]:6379"}, DB: 2, Single: true},
		"rediss://h":                    {Addr: []string{"h:6379"}, TLS: true, Single: true},
		"valkeys-cluster://h,i:2":       {Addr: []string{"h:6379", "i:2"}, TLS: true},
		"redis-cluster://u@h":           {Addr: []string{"h:6379"}, User: "u"},
		"redis+unix:///run/r.sock?db=1": {Addr: []string{"/run/r.sock"}, DB: 1, Single: true, Unix: true},
		"redis+unix://u:p@/run/r.sock":  {Addr: []string{"/run/r.sock"}, User: "u", Password: "p", Single: true, Unix: true},
		"redis-sentinel://h,i:2/m/4":    {Addr: []string{"h:26379", "i:2"}, Master: "m", DB: 4},
		"rediss-sentinel://:p@h:1/m":    {Addr: []string{"h:1"}, Password: "p", Master: "m", TLS: true},
		"redis-sentinel://h/m?sentinel-user=u&sentinel-password=p%26": {Addr: []string{"h:26379"}, Master: "m", SentinelUser: "u", SentinelPassword: "p&"},
	} {
		o, err := parseURL(in)
		got := dialled{o.InitAddress, o.Username, o.Password, o.Sentinel.MasterSet, o.Sentinel.Username, o.Sentinel.Password,
			o.SelectDB, o.TLSConfig != nil, o.ForceSingleClient, o.DialCtxFn != nil}
		if d := cmp.Diff(want, got); err != nil || d != "" {
			t.Errorf("%s: %v %s", in, err, d)
		}
	}
	for _, in := range []string{
		"", "h:6379", "http://h", "redis://", "redis://h:x", "redis://h:0", "redis://h,i", "redis://h/x", "redis://h/-1",
		"redis+unix://h/run", "redis+unix://", "rediss+unix:///run", "redis-cluster://h/1", "redis-cluster://h?db=1",
		"redis-sentinel://h", "redis-sentinel:///m", "redis://h?timeout=1s", "redis://u:s3cret%@h", "redis://h?%", "s3cret", "://s3cret",
		"redis://:6379?s3cret@h", "redis://:s3cret?more@h:6379", "redis://s3cret:1?db=1@h", "redis-sentinel://h/m?db=s3cret@h",
	} {
		if _, err := parseURL(in); err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v; want an error without secrets", in, err)
		}
	}
}

func FuzzURL(f *testing.F) {
	for _, s := range []string{"redis://u:p@h:1/3?db=2", "redis-sentinel://h,[::1]:2/m/4", "redis+unix:///run/r.sock", "rediss-cluster://,"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		o, err := parseURL(s)
		if err == nil && len(o.InitAddress) == 0 {
			t.Errorf("%q has no address", s)
		}
	})
}
