package serve

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	"github.com/holdfast-session/holdfast/stateserver"
)

// load is Load with a command line, an environment, and a file's text.
func load(t *testing.T, args string, environ []string, file string) (*Config, error) {
	t.Helper()
	var c Config
	flags := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	c.AddFlags(flags)
	if err := flags.Parse(strings.Fields(args)); err != nil {
		return nil, err
	}
	path := ""
	if file != "" {
		path = filepath.Join(t.TempDir(), "holdfast.yaml")
		if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return Load(flags, append(environ, "STATE_DIRECTORY=/state"), path)
}

func mustLoad(t *testing.T, args string, environ []string, file string) *Config {
	t.Helper()
	c, err := load(t, args, environ, file)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestFlagBeatsEnvironmentBeatsFileBeatsDefault(t *testing.T) {
	const file = "drain: 1s\nmax-disk: 1GB\nlisten: [127.0.0.1:1, 127.0.0.1:2]\nsync: never\n"
	env := []string{"HOLDFAST_SERVE_MAX_DISK=2GB", "HOLDFAST_SERVE_DRAIN=2s", "HOLDFAST_SERVE_LISTEN=127.0.0.1:3,127.0.0.1:4"}
	c := mustLoad(t, "--drain 3s --listen 127.0.0.1:5 --listen 127.0.0.1:6", env, file)
	if c.Drain != 3*time.Second {
		t.Errorf("drain %v, want that of the flag", c.Drain)
	}
	if got := c.MaxDisk.String(); got != "2GB" {
		t.Errorf("max-disk %s, want that of the environment", got)
	}
	if c.Sync != "never" {
		t.Errorf("sync %s, want that of the file", c.Sync)
	}
	if got := c.MaxMemory.String(); got != "25%" {
		t.Errorf("max-memory %s, want the default", got)
	}
	if diff := cmp.Diff([]string{"127.0.0.1:5", "127.0.0.1:6"}, c.Listen); diff != "" {
		t.Errorf("listen: %s", diff)
	}
	c = mustLoad(t, "", env, file)
	if diff := cmp.Diff([]string{"127.0.0.1:3", "127.0.0.1:4"}, c.Listen); diff != "" {
		t.Errorf("listen of the environment: %s", diff)
	}
	c = mustLoad(t, "", nil, file)
	if diff := cmp.Diff([]string{"127.0.0.1:1", "127.0.0.1:2"}, c.Listen); diff != "" {
		t.Errorf("listen of the file: %s", diff)
	}
	c = mustLoad(t, "", nil, "")
	if diff := cmp.Diff([]string{"127.0.0.1:42424", "unix:/state/state.sock"}, c.Listen); diff != "" {
		t.Errorf("listen by default: %s", diff)
	}
	if c.Data != "/state" || c.Admin != "unix:/state/admin.sock" {
		t.Errorf("data %s, admin %s", c.Data, c.Admin)
	}
	c = mustLoad(t, "--memory", nil, "")
	if diff := cmp.Diff([]string{"127.0.0.1:42424"}, c.Listen); diff != "" || c.Admin != AdminOff {
		t.Errorf("in memory: listen %s, admin %s", diff, c.Admin)
	}
}

func TestTokensOfTheFile(t *testing.T) {
	hash := stateserver.HashToken("secret")
	c := mustLoad(t, "", nil, fmt.Sprintf(`
tokens:
  - name: shop
    hash: %s
    apps: [shop, cart]
    right: write
  - {name: watch, hash: %s, right: admin}
allow: [10.0.0.0/8, 192.0.2.7, "2001:db8::/32"]
trusted: 127.0.0.1
`, hash, stateserver.HashToken("other")))
	want := []stateserver.Token{
		{Name: "shop", Hash: hash, Apps: []string{"shop", "cart"}, Right: stateserver.Write},
		{Name: "watch", Hash: stateserver.HashToken("other"), Right: stateserver.Admin},
	}
	if diff := cmp.Diff(want, c.Tokens); diff != "" {
		t.Error(diff)
	}
	networks := func(all ...string) (prefixes []netip.Prefix) {
		for _, s := range all {
			prefixes = append(prefixes, netip.MustParsePrefix(s))
		}
		return prefixes
	}
	same := cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })
	if diff := cmp.Diff(networks("10.0.0.0/8", "192.0.2.7/32", "2001:db8::/32"), c.Allow, same); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(networks("127.0.0.1/32"), c.Trusted, same); diff != "" {
		t.Error(diff)
	}

	var out bytes.Buffer
	if _, err := c.WriteTo(&out); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(out.String(), hash) || strings.Contains(out.String(), "secret") {
		t.Errorf("the configuration is printed with a hash in it:\n%s", &out)
	}
	if !strings.Contains(out.String(), "name: shop") {
		t.Errorf("the tokens' names are not printed:\n%s", &out)
	}
}

func TestLimitsOfClients(t *testing.T) {
	c := mustLoad(t, "--max-conns 1 --max-conns-per-client 2 --max-waits-per-client 3 --max-rate-per-client 4.5 --allow 10.0.0.0/8 --trusted 10.1.0.0/16 --trust-sockets", nil, "")
	a, err := c.access()
	if err != nil {
		t.Fatal(err)
	}
	want := &stateserver.Access{
		Allow: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, Trusted: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}, TrustSockets: true,
		MaxConns: 2, MaxWaits: 3, Rate: 4.5,
	}
	if diff := cmp.Diff(want, a, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
	if s := c.stateServer(&engine{}, a, nil); s.MaxConns != 1 || s.AllowRemote {
		t.Errorf("%d connections, other machines %v", s.MaxConns, s.AllowRemote)
	}
}

// What --check prints is a file that means the same.
func TestWhatIsPrintedCanBeRead(t *testing.T) {
	c := mustLoad(t, "--listen 127.0.0.1:0 --max-memory 1.5GiB --allow 10.0.0.0/8 --log-level debug --drain 90s --exact", []string{"HOLDFAST_SERVE_MAX_CONNS=7"}, "pprof: true")
	var first, second bytes.Buffer
	if _, err := c.WriteTo(&first); err != nil {
		t.Fatal(err)
	}
	if _, err := mustLoad(t, "", nil, first.String()).WriteTo(&second); err != nil {
		t.Fatal(err)
	}
	values := func(text string) (lines []string) {
		for line := range strings.Lines(text) {
			if !strings.HasPrefix(line, "#") && strings.TrimSpace(line) != "" {
				lines = append(lines, line)
			}
		}
		return lines
	}
	if diff := cmp.Diff(values(first.String()), values(second.String())); diff != "" {
		t.Errorf("%s\n%s", diff, &first)
	}
	for _, want := range []string{"# from --max-memory\nmax-memory: 1.5GiB\n", "# from HOLDFAST_SERVE_MAX_CONNS\nmax-conns: 7\n", "holdfast.yaml:1\npprof: true\n"} {
		if !strings.Contains(first.String(), want) {
			t.Errorf("%q is not in\n%s", want, &first)
		}
	}
}

func TestMistakes(t *testing.T) {
	for _, c := range []struct{ args, env, file, want string }{
		{args: "--sync sometimes", want: "there is always, interval and never"},
		{args: "--max-memory lots", want: "write 512MB, 2GiB, 25% or none"},
		{args: "--max-memory 2G", want: "write 512MB, 2GiB, 25% or none"},
		{args: "--max-disk 101%", want: "write up to 100%"},
		{args: "--log-level loud", want: "there is debug, info, warn and error"},
		{args: "--listen 42424", want: "write host:port, [ipv6]:port or unix:/path"},
		{args: "--listen 127.0.0.1:1 --listen 127.0.0.1:1", want: "is there twice"},
		{args: "--allow 10.0.0.1/8", want: "is it 10.0.0.0/8?"},
		{args: "--allow everybody", want: "write 10.1.2.3, 10.0.0.0/8 or fd00::/8"},
		{args: "--memory --sync always", want: "--memory and --sync do not go together"},
		{args: "--memory --data /x", want: "--memory and --data do not go together: there is no folder"},
		{args: "--memory --store redis://x", want: "--memory and --store do not go together: sessions are kept in one place"},
		{args: "--store redis://x --max-memory 1GB", want: "--store and --max-memory do not go together: sessions are kept in that store"},
		{args: "--max-disk 5", want: "--max-disk 5: the folder takes about 100 MiB without any sessions"},
		{file: "max-disk: 99MiB", want: "holdfast.yaml:1: max-disk 99MiB: the folder takes about 100 MiB"},
		{args: "--tls-cert x", want: "tls-cert and tls-key belong together"},
		{args: "--tls-client-ca x", want: "needs tls-cert and tls-key"},
		{args: "--admin off --pprof", want: "needs the admin listener"},
		{args: "--admin 7", want: "or write off"},
		{args: "--max-conns -1", want: "--max-conns is less than 0"},
		{env: "HOLDFAST_SERVE_LISTN=x", want: "HOLDFAST_SERVE_LISTN, which is no setting; is it HOLDFAST_SERVE_LISTEN?"},
		{env: "HOLDFAST_SERVE_COLOUR=x", want: "which is no setting; there is HOLDFAST_SERVE_ADMIN, "},
		{env: "HOLDFAST_SERVE_MEMORY=perhaps", want: `HOLDFAST_SERVE_MEMORY: "perhaps" is neither true nor false`},
		{env: "HOLDFAST_SERVE_MAX_CONNS=many", want: `"many" is no number`},
		{file: "max-memroy: 1GB", want: "holdfast.yaml:1: max-memroy is no setting; is it max-memory?"},
		{file: "\ncolour: red", want: "holdfast.yaml:2: colour is no setting; there is admin, "},
		{file: "sync: sometimes", want: "holdfast.yaml:1: sync: there is always, interval and never"},
		{file: "sync: [always]", want: "has one value, not a list"},
		{file: "drain: {a: b}", want: "is a plain value or a list"},
		{file: "listen: [[a]]", want: "is a list of plain values"},
		{file: "drain: 1s\ndrain: 2s", want: "drain is there twice, first in line 1"},
		{file: "- listen", want: "here belong lines of the form name: value"},
		{file: "a: b: c", want: "mapping values are not allowed"},
		{file: "drain: 1s\n---\ndrain: 2s", want: "more than one document"},
		{file: "tokens: secret", want: "is a list; make an entry with `holdfast token"},
		{file: "tokens: [{name: a}]", want: "a token has a name, and the hash"},
		{file: "tokens: [{name: a, hash: b, rigth: read}]", want: "rigth is no setting; is it right?"},
		{file: "tokens: [{name: a, hash: b}]", want: "token a has no right; write read, write or admin"},
		{file: "tokens: [{name: a, hash: b, right: all}]", want: "there is read, write and admin"},
		{file: "tokens: [{name: a, hash: b, right: read}]", want: `the hash of token "a" is not what HashToken makes`},
	} {
		t.Run(c.args+c.env+c.file, func(t *testing.T) {
			var env []string
			if c.env != "" {
				env = []string{c.env}
			}
			_, err := load(t, c.args, env, c.file)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
	if _, err := Load(pflag.NewFlagSet("", pflag.ContinueOnError), nil, "/no/such/file"); err == nil || !strings.Contains(err.Error(), "/no/such/file") {
		t.Errorf("no file: %v", err)
	}
	// What Kubernetes puts there is none of our settings and no mistake.
	mustLoad(t, "", []string{"HOLDFAST_SERVE_SERVICE_HOST=10.0.0.1", "HOLDFAST_SERVE_PORT_42424_TCP_ADDR=10.0.0.1"}, "")
	mustLoad(t, "", nil, "# nothing but a comment\n")
	mustLoad(t, "", nil, "tls-cert:\nlisten:\n") // names without values
}

func TestSize(t *testing.T) {
	for _, c := range []struct {
		text string
		want int64
	}{
		{"1", 1}, {"17 B", 17}, {"512MB", 512e6}, {"512 mb", 512e6}, {"2GiB", 2 << 30}, {"1.5KiB", 1536}, {"3TB", 3e12},
		{"25%", 250}, {"0.01%", 1}, {"100%", 1000}, {"none", 0}, {"None", 0},
	} {
		var z Size
		if err := z.Set(c.text); err != nil {
			t.Errorf("%s: %v", c.text, err)
			continue
		}
		got, err := z.Of(func() (int64, error) { return 1000, nil })
		if err != nil || got != c.want {
			t.Errorf("%s: %d, %v; want %d", c.text, got, err, c.want)
		}
		var again Size
		if err := again.Set(z.String()); err != nil || again != z {
			t.Errorf("%s is written %s and read %+v, %v", c.text, &z, again, err)
		}
	}
	for _, text := range []string{"", "0", "-1MB", "MB", "1XB", "1e9", "NaN", "Inf", "0%", "101%", "9999999TiB", "1,5GB", "0.1"} {
		var z Size
		if err := z.Set(text); err == nil {
			t.Errorf("%q is read as %s", text, &z)
		}
	}
}

func TestDefaultData(t *testing.T) {
	env := func(kv map[string]string) func(string) string { return func(k string) string { return kv[k] } }
	dir, err := DefaultData(env(map[string]string{"STATE_DIRECTORY": "/var/lib/a:/var/lib/b", "HOME": "/home/x"}))
	if err != nil || dir != "/var/lib/a" {
		t.Errorf("with systemd: %s, %v", dir, err)
	}
	dir, err = DefaultData(env(map[string]string{"HOME": "/home/x", "LocalAppData": `C:\x`}))
	if err != nil || !strings.HasSuffix(dir, "holdfast") || !filepath.IsAbs(dir) {
		t.Errorf("%s, %v", dir, err)
	}
}

func FuzzSize(f *testing.F) {
	for _, s := range []string{"512MB", "2GiB", "25%", "none", "1.5 KiB", "", "%", "-1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var z, again Size
		if z.Set(s) != nil {
			return
		}
		n, err := z.Of(func() (int64, error) { return 1 << 40, nil })
		if err != nil || n < 0 {
			t.Fatalf("%q: %d, %v", s, n, err)
		}
		if err := again.Set(z.String()); err != nil || again != z {
			t.Fatalf("%q: written %q, %v", s, z.String(), err)
		}
	})
}

// Whatever is in the file, it is read or refused with its name.
func FuzzFile(f *testing.F) {
	for _, s := range []string{"listen: [127.0.0.1:1]\ndrain: 1s", "tokens: [{name: a, hash: b, right: read}]", "a: &x 1\nb: *x", "- 1", "a: b: c", "sync: never\n---\n"} {
		f.Add(s)
	}
	path := filepath.Join(f.TempDir(), "holdfast.yaml")
	f.Fuzz(func(t *testing.T, s string) {
		if err := os.WriteFile(path, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
		flags := pflag.NewFlagSet("", pflag.ContinueOnError)
		c, err := Load(flags, []string{"STATE_DIRECTORY=/state"}, path)
		if err != nil {
			return
		}
		if _, err := c.WriteTo(new(bytes.Buffer)); err != nil {
			t.Fatal(err)
		}
	})
}
