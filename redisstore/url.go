package redisstore

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/valkey-io/valkey-go"
)

// What a client has that Open makes.
const (
	dialTimeout = 3 * time.Second
	// hangTimeout is after what time a connection whose server does not answer is given
	// up, and another server perhaps found.
	hangTimeout = 3 * time.Second
	// refreshInterval is how often it is asked who is who, besides when something fails.
	refreshInterval = 5 * time.Second
)

// Open returns a store at a URL, over a client of its own:
//
//	redis://[user[:password]@]host[:6379][/database]
//	redis+unix:///run/redis/redis.sock[?db=database]
//	redis-cluster://[user[:password]@]host[:6379],host…
//	redis-sentinel://[user[:password]@]host[:26379],host…/master[/database]
//
// With rediss in place of redis, connections are encrypted (TLS 1.2 or later, and the
// certificate must be valid); valkey in place of redis means the same. Of a cluster, or
// the Sentinels, some of the hosts are enough. Parameters are db, and sentinel-user and
// sentinel-password for Sentinels that ask for them. Characters that mean something in a
// URL are escaped in user names and passwords, "@" as %40.
func Open(rawURL string, o *Options) (*Store, error) {
	co, err := parseURL(rawURL)
	if err != nil {
		return nil, fmt.Errorf("redisstore: %w", err)
	}
	co.DisableCache = o == nil || o.Staleness == 0
	client, err := valkey.NewClient(co)
	if err != nil {
		if client != nil {
			client.Close()
		}
		return nil, fmt.Errorf("redisstore: %s: %w", strings.Join(co.InitAddress, ","), err)
	}
	s, err := New(client, o)
	if err != nil {
		client.Close()
		return nil, err
	}
	s.owned = true
	return s, nil
}

var schemes = []string{"redis", "redis+unix", "redis-cluster", "redis-sentinel"}

// parseURL reads what Open takes. Its errors have no part of the URL in them that could
// be secret.
func parseURL(rawURL string) (valkey.ClientOption, error) {
	o, err := readURL(rawURL)
	if _, query, _ := strings.Cut(rawURL, "?"); err != nil && strings.Contains(query, "@") {
		// Perhaps the question mark is in the password, and what could not be read a part of it.
		err = errors.New("it cannot be read; write a question mark in a password as %3F, and an @ in a parameter as %40")
	}
	return o, err
}

func readURL(rawURL string) (o valkey.ClientOption, err error) {
	o.Dialer = net.Dialer{Timeout: dialTimeout, KeepAlive: time.Second}
	o.ConnWriteTimeout = hangTimeout
	o.ClientName = "holdfast"
	scheme, rest, ok := strings.Cut(rawURL, "://")
	if !ok {
		return o, errors.New("this is no URL; write redis://host:6379")
	}
	scheme = strings.ToLower(scheme)
	if after, ok := strings.CutPrefix(scheme, "valkey"); ok {
		scheme = "redis" + after
	}
	encrypted := strings.HasPrefix(scheme, "rediss")
	if encrypted {
		scheme = "redis" + scheme[len("rediss"):]
	}
	if !slices.Contains(schemes, scheme) || encrypted && scheme == "redis+unix" {
		return o, fmt.Errorf("there is no scheme of that name; possible are %s, and rediss or valkey in place of redis", strings.Join(schemes, ", "))
	}
	rest, query, _ := strings.Cut(rest, "?")
	if at := strings.LastIndexByte(rest, '@'); at >= 0 {
		user, password, _ := strings.Cut(rest[:at], ":")
		var err1, err2 error
		o.Username, err1 = url.PathUnescape(user)
		o.Password, err2 = url.PathUnescape(password)
		if err1 != nil || err2 != nil {
			return o, errors.New("the user name or password cannot be read; write a percent sign as %25")
		}
		rest = rest[at+1:]
	}
	hosts, path, _ := strings.Cut(rest, "/")
	values, err := url.ParseQuery(query)
	if err != nil {
		return o, errors.New("the parameters cannot be read")
	}
	db := ""
	for name, v := range values {
		switch {
		case name == "db" && scheme != "redis-cluster":
			db = v[0]
		case name == "sentinel-user" && scheme == "redis-sentinel":
			o.Sentinel.Username = v[0]
		case name == "sentinel-password" && scheme == "redis-sentinel":
			o.Sentinel.Password = v[0]
		case strings.Contains(name, "@"): // and a password before it, perhaps
			return o, fmt.Errorf("there is a parameter that %s does not have", scheme)
		default:
			return o, fmt.Errorf("there is no parameter %q of %s", name, scheme)
		}
	}
	port := "6379"
	switch scheme {
	case "redis":
		o.ForceSingleClient = true
		if strings.Contains(hosts, ",") {
			return o, errors.New("redis:// has one host; several are of redis-cluster:// or redis-sentinel://")
		}
		if path != "" {
			db = path
		}
	case "redis+unix":
		o.ForceSingleClient = true
		if hosts != "" || path == "" {
			return o, errors.New("a socket is written redis+unix:///path/to/socket")
		}
		o.DialCtxFn = dialUnix
		o.InitAddress = []string{"/" + path}
	case "redis-cluster":
		o.ShuffleInit = true
		o.ClusterOption.ShardsRefreshInterval = refreshInterval
		if path != "" {
			return o, errors.New("a cluster has no databases")
		}
	case "redis-sentinel":
		port = "26379"
		o.Sentinel.MasterSet, path, _ = strings.Cut(path, "/")
		o.Sentinel.TopologyRefreshInterval = refreshInterval
		o.Sentinel.Dialer = o.Dialer
		if o.Sentinel.MasterSet == "" {
			return o, errors.New("a master's name follows the Sentinels: redis-sentinel://host:26379/mymaster")
		}
		if path != "" {
			db = path
		}
	}
	if o.InitAddress == nil {
		if o.InitAddress, err = addresses(hosts, port); err != nil {
			return o, err
		}
	}
	if encrypted {
		o.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12}
		o.Sentinel.TLSConfig = o.TLSConfig
	}
	if db != "" {
		if o.SelectDB, err = strconv.Atoi(db); err != nil || o.SelectDB < 0 {
			return o, fmt.Errorf("%q is no number of a database", db)
		}
	}
	return o, nil
}

// addresses reads hosts, each with a port or none.
func addresses(hosts, port string) ([]string, error) {
	var all []string
	for host := range strings.SplitSeq(hosts, ",") {
		h, p := host, port
		if i := strings.LastIndexByte(host, ':'); i >= 0 && !strings.HasSuffix(host, "]") {
			h, p = host[:i], host[i+1:]
		}
		h = strings.TrimSuffix(strings.TrimPrefix(h, "["), "]")
		if n, err := strconv.ParseUint(p, 10, 16); h == "" || err != nil || n == 0 {
			return nil, fmt.Errorf("%q is no host and port", host)
		}
		all = append(all, net.JoinHostPort(h, p))
	}
	return all, nil
}

// dialUnix connects to a Unix socket.
func dialUnix(ctx context.Context, path string, d *net.Dialer, _ *tls.Config) (net.Conn, error) {
	return d.DialContext(ctx, "unix", path)
}
