package serve

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/holdfast-session/holdfast/internal/certs"
	"github.com/holdfast-session/holdfast/stateserver"
)

// A Config is what a state server is told, by flags, environment variables and a
// file, under the same names everywhere. [Load] makes one.
type Config struct {
	Listen      []string
	AllowRemote bool
	Exact       bool

	Data      string
	Memory    bool
	Store     string // as mode.Open has it
	Sync      string
	MaxMemory Size
	MaxDisk   Size

	TLSCert, TLSKey, TLSClientCA string

	Allow        []netip.Prefix
	Trusted      []netip.Prefix
	TrustSockets bool
	Tokens       []stateserver.Token // of the file only

	MaxConns          int
	MaxConnsPerClient int
	MaxWaitsPerClient int
	MaxRatePerClient  float64

	Admin       string
	AdminRemote bool
	Pprof       bool

	Drain    time.Duration
	LogLevel slog.Level

	set  *pflag.FlagSet    // the fields again, by name
	from map[string]string // where the value of a name is from
}

// Modes of --sync.
const (
	syncAlways   = "always"
	syncInterval = "interval"
	syncNever    = "never"
)

// AdminOff is the value of --admin for no admin listener.
const AdminOff = "off"

// AddFlags adds a flag for each setting, so that fs parses into c.
func (c *Config) AddFlags(fs *pflag.FlagSet) {
	c.set = fs
	c.LogLevel, c.Sync, c.MaxMemory = slog.LevelInfo, syncInterval, Size{percent: 25, text: "25%"}
	fs.StringArrayVar(&c.Listen, "listen", nil, "`address` to listen on: host:port (port 0 takes a free one) or unix:/path; may be repeated "+
		"(default 127.0.0.1:42424 and, with a data folder, unix:DATA/"+stateSocket+")")
	fs.BoolVar(&c.AllowRemote, "allow-remote", false, "let other machines connect without tokens or client certificates: whoever can reach the port can read and change every session")
	fs.BoolVar(&c.Exact, "exact", false, "behave as Microsoft's server in every answer, lost updates included (with --memory, cookies count too)")

	fs.StringVar(&c.Data, "data", "", "`folder` where sessions are kept (default the platform's place for state)")
	fs.BoolVar(&c.Memory, "memory", false, "keep sessions in memory only: they end with this process")
	fs.StringVar(&c.Store, "store", "", "keep sessions in a `store` that other state servers may have too: redis-cluster://…, postgres://…, mysql://…, sqlite:FILE and so on; this server keeps nothing then")
	fs.Var(&choice{&c.Sync, []string{syncAlways, syncInterval, syncNever}}, "sync", "when what is written is forced to disk: always (before each answer), interval (each second) or never; "+
		"a process that is killed loses nothing in any of them, a machine that loses power does")
	fs.Var(&c.MaxMemory, "max-memory", "memory for sessions, as 512MB, 2GiB, 25% or none; what does not fit is on disk only, with --memory the least recently used are ended")
	fs.Var(&c.MaxDisk, "max-disk", "disk space for sessions, in the same units; at the limit new sessions are refused")

	fs.StringVar(&c.TLSCert, "tls-cert", "", "`file` with the server's certificate and those above it, in PEM; read again when it changes")
	fs.StringVar(&c.TLSKey, "tls-key", "", "`file` with the certificate's private key")
	fs.StringVar(&c.TLSClientCA, "tls-client-ca", "", "`file` with the authorities of clients' certificates; without a certificate of theirs nobody connects")

	fs.Var(&prefixes{&c.Allow}, "allow", "`address` or network (10.0.0.0/8) that may connect, besides unix sockets; may be repeated (default any)")
	fs.Var(&prefixes{&c.Trusted}, "trusted", "`address` or network whose clients need no token, as those of ASP.NET cannot have one; may be repeated")
	fs.BoolVar(&c.TrustSockets, "trust-sockets", false, "clients of unix sockets need no token")
	fs.IntVar(&c.MaxConns, "max-conns", 0, "connections at a time (default no limit)")
	fs.IntVar(&c.MaxConnsPerClient, "max-conns-per-client", 0, "connections at a time from one address (default no limit)")
	fs.IntVar(&c.MaxWaitsPerClient, "max-waits-per-client", 0, "requests at a time from one address that wait for a lock (default no limit)")
	fs.Float64Var(&c.MaxRatePerClient, "max-rate-per-client", 0, "requests and new connections a second from one address; more than that are slowed down (default no limit)")

	fs.StringVar(&c.Admin, "admin", "", "`address` for health and metrics, host:port or unix:/path, or "+AdminOff+" (default, with a data folder, unix:DATA/"+adminSocket+")")
	fs.BoolVar(&c.AdminRemote, "admin-remote", false, "let other machines read health and metrics")
	fs.BoolVar(&c.Pprof, "pprof", false, "serve Go's profiles on the admin listener")

	fs.DurationVar(&c.Drain, "drain", 10*time.Second, "how long requests that have begun may take when the server stops")
	fs.Var(&level{&c.LogLevel}, "log-level", "debug (what peers do wrong, too), info, warn or error")
}

// live are the settings that a reload changes in a running server. Certificates are
// read again besides, by the same names.
var live = []string{
	"allow", "trusted", "trust-sockets", "max-conns-per-client", "max-waits-per-client", "max-rate-per-client", "drain", "log-level",
}

// tokensKey is the one setting that only a file has.
const tokensKey = "tokens"

// hasFolder reports whether sessions are kept in a folder.
func (c *Config) hasFolder() bool { return !c.Memory && c.Store == "" }

// protected reports whether a client has to show who it is.
func (c *Config) protected() bool { return len(c.Tokens) > 0 || c.TLSClientCA != "" }

// complete fills in the defaults that depend on others, and finds what does not go
// together.
func (c *Config) complete(getenv func(string) string) error {
	given := func(name string) bool { return c.from[name] != fromDefault }
	for _, instead := range []struct {
		name string
		is   bool
		not  []string
		why  string
	}{
		{"memory", c.Memory, []string{"store"}, "sessions are kept in one place"},
		{"memory", c.Memory, []string{"data", "sync", "max-disk"}, "there is no folder to keep sessions in"},
		{"store", c.Store != "", []string{"data", "sync", "max-disk", "max-memory"}, "sessions are kept in that store, and none in a folder or in memory"},
	} {
		for _, name := range instead.not {
			if instead.is && given(name) {
				return fmt.Errorf("%s and %s do not go together: %s; leave one out", c.from[instead.name], c.from[name], instead.why)
			}
		}
	}
	if c.hasFolder() && c.Data == "" {
		dir, err := DefaultData(getenv)
		if err != nil {
			return err
		}
		c.Data = dir
	}
	if len(c.Listen) == 0 {
		c.Listen = []string{"127.0.0.1:42424"}
		if sock := c.inData(stateSocket); sock != "" {
			c.Listen = append(c.Listen, sock)
		}
	}
	for i, addr := range c.Listen {
		if _, _, err := stateserver.ParseAddr(addr); err != nil {
			return fmt.Errorf("%s %s: %w", c.from["listen"], addr, err)
		}
		if slices.Contains(c.Listen[:i], addr) && !strings.HasSuffix(addr, ":0") {
			return fmt.Errorf("%s %s is there twice", c.from["listen"], addr)
		}
	}
	if c.Admin == "" {
		c.Admin = c.inData(adminSocket)
	}
	if c.Admin == "" {
		c.Admin = AdminOff
	}
	if c.Admin != AdminOff {
		if _, _, err := stateserver.ParseAddr(c.Admin); err != nil {
			return fmt.Errorf("%s %s: %w; or write %s", c.from["admin"], c.Admin, err, AdminOff)
		}
	}
	if c.Pprof && c.Admin == AdminOff {
		return fmt.Errorf("%s needs the admin listener; name its address with --admin", c.from["pprof"])
	}
	switch {
	case (c.TLSCert == "") != (c.TLSKey == ""):
		return errors.New("tls-cert and tls-key belong together: the certificate, and its private key")
	case c.TLSClientCA != "" && c.TLSCert == "":
		return fmt.Errorf("%s needs tls-cert and tls-key: clients show a certificate only to a server that has one", c.from["tls-client-ca"])
	}
	for name, n := range map[string]float64{
		"max-conns": float64(c.MaxConns), "max-conns-per-client": float64(c.MaxConnsPerClient),
		"max-waits-per-client": float64(c.MaxWaitsPerClient), "max-rate-per-client": c.MaxRatePerClient, "drain": float64(c.Drain),
	} {
		if n < 0 {
			return fmt.Errorf("%s is less than 0; leave it out for the default", c.from[name])
		}
	}
	if n := c.MaxDisk.Bytes(); n > 0 && n < minDisk {
		return fmt.Errorf("%s %s: %w", c.from["max-disk"], &c.MaxDisk, errMinDisk)
	}
	_, err := c.access()
	return err
}

// minDisk is what a folder takes before it has sessions, or little more.
const minDisk = 100 << 20

var errMinDisk = errors.New("the folder takes about 100 MiB without any sessions; give it more than that, as 1GiB")

// access is who may use the server, and how much of it. Who has no certificate where
// clients need one is turned away by TLS; unix sockets have permissions instead.
func (c *Config) access() (*stateserver.Access, error) {
	a := &stateserver.Access{
		Allow: c.Allow, Tokens: c.Tokens, Trusted: c.Trusted, TrustSockets: c.TrustSockets,
		MaxConns: c.MaxConnsPerClient, MaxWaits: c.MaxWaitsPerClient, Rate: c.MaxRatePerClient,
	}
	// A server that nobody uses tells whether they are in order.
	return a, new(stateserver.Server).SetAccess(*a)
}

// stateServer is a server of sessions that has not begun to serve. Of certificates it
// does not know; tokens, which a reload may take away, it looks after by itself.
func (c *Config) stateServer(e *engine, a *stateserver.Access, log *slog.Logger) *stateserver.Server {
	return &stateserver.Server{
		Store: e.Store, Exact: c.Exact, AllowRemote: c.AllowRemote || c.TLSClientCA != "", Access: *a, MaxConns: c.MaxConns, Logger: log,
	}
}

// certificates reads those that the configuration names; nil if it names none.
func (c *Config) certificates(log *slog.Logger) (*certs.Files, error) {
	if c.TLSCert == "" {
		return nil, nil
	}
	return certs.Read(c.TLSCert, c.TLSKey, c.TLSClientCA, log)
}

// adopt makes what systemd has opened what is configured, where nothing else is.
func (c *Config) adopt(open []*listener) error {
	for role, name := range map[string]string{roleState: "listen", roleAdmin: "admin"} {
		var addrs []string
		for _, l := range open {
			if l.role == role {
				addrs = append(addrs, l.name)
			}
		}
		switch {
		case len(addrs) == 0:
		case c.from[name] != fromDefault:
			return fmt.Errorf("systemd passes %s on, and %s says where to listen, too; leave one out", strings.Join(addrs, " and "), c.from[name])
		case role == roleState:
			c.Listen = addrs
		case len(addrs) > 1:
			return fmt.Errorf("systemd passes %d sockets on for the admin listener, which is one", len(addrs))
		default:
			c.Admin = addrs[0]
		}
	}
	return nil
}

// noTakeover says why nobody can be asked for the folder.
func (c *Config) noTakeover() error {
	switch {
	case c.Memory:
		return errors.New("--takeover: sessions in memory cannot be handed over; keep them in a folder")
	case c.Store != "":
		return errors.New("--takeover: with --store there is nothing to take over; start another server beside this one")
	case runtime.GOOS == "windows":
		return errors.New("--takeover: listeners cannot be handed over on this platform; stop the old server first")
	}
	return fmt.Errorf("--takeover: the path of the data folder is longer than a socket in it can have (%d bytes); use a shorter one", maxSocketPath-len(controlSocket)-1)
}

// A choice is a setting with few values.
type choice struct {
	value *string
	of    []string
}

func (c *choice) Set(s string) error {
	if !slices.Contains(c.of, s) {
		return fmt.Errorf("there is %s and %s", strings.Join(c.of[:len(c.of)-1], ", "), c.of[len(c.of)-1])
	}
	*c.value = s
	return nil
}
func (c *choice) String() string {
	if c.value == nil {
		return ""
	}
	return *c.value
}
func (c *choice) Type() string { return "mode" }

// A level is the setting of [slog.Level].
type level struct{ value *slog.Level }

func (l *level) Set(s string) error {
	switch s {
	case "debug", "info", "warn", "error":
		return l.value.UnmarshalText([]byte(s))
	}
	return errors.New("there is debug, info, warn and error")
}
func (l *level) String() string {
	if l.value == nil {
		return ""
	}
	return strings.ToLower(l.value.String())
}
func (l *level) Type() string { return "level" }

// prefixes is a setting that lists networks; an address alone is one.
type prefixes struct{ value *[]netip.Prefix }

func (p *prefixes) Set(s string) error { return p.Append(s) }
func (p *prefixes) Append(s string) error {
	prefix, err := parsePrefix(s)
	if err == nil {
		*p.value = append(*p.value, prefix)
	}
	return err
}
func (p *prefixes) Replace(all []string) error {
	*p.value = nil
	for _, s := range all {
		if err := p.Append(s); err != nil {
			return err
		}
	}
	return nil
}
func (p *prefixes) GetSlice() []string {
	all := make([]string, len(*p.value))
	for i, prefix := range *p.value {
		all[i] = prefix.String()
	}
	return all
}
func (p *prefixes) String() string {
	if p.value == nil || len(*p.value) == 0 {
		return ""
	}
	return strings.Join(p.GetSlice(), ",")
}
func (p *prefixes) Type() string { return "network" }

func parsePrefix(s string) (netip.Prefix, error) {
	prefix, err := netip.ParsePrefix(s)
	if err != nil {
		addr, addrErr := netip.ParseAddr(s)
		if addrErr != nil || addr.Zone() != "" {
			return netip.Prefix{}, fmt.Errorf("%q is no address or network; write 10.1.2.3, 10.0.0.0/8 or fd00::/8", s)
		}
		prefix = netip.PrefixFrom(addr, addr.BitLen())
	}
	if prefix != prefix.Masked() {
		return netip.Prefix{}, fmt.Errorf("%s has bits behind its length; is it %s?", prefix, prefix.Masked())
	}
	return prefix, nil
}

// SettingNames are the names of all settings that can be flags.
func SettingNames() []string {
	var names []string
	fs := pflag.NewFlagSet("", pflag.ContinueOnError)
	new(Config).AddFlags(fs)
	fs.VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
	return names
}
