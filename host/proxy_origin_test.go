package host

import (
	"net/http"
	"net/netip"
	"testing"
)

func TestWhoHasAsked(t *testing.T) {
	p := Proxy{Trusted: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}}
	for _, c := range []struct {
		name, remote string
		chain        []string
		want         string
	}{
		{"a stranger", "192.0.2.1:1", []string{"198.51.100.1"}, "192.0.2.1"},
		{"through a proxy", "10.0.0.1:1", []string{"198.51.100.1"}, "198.51.100.1"},
		{"what a stranger claims before a proxy", "10.0.0.1:1", []string{"1.1.1.1, 198.51.100.1"}, "198.51.100.1"},
		{"through two", "10.0.0.1:1", []string{"1.1.1.1", "198.51.100.1,10.0.0.9"}, "198.51.100.1"},
		{"a proxy itself", "10.0.0.1:1", nil, "10.0.0.1"},
		{"proxies alone", "10.0.0.1:1", []string{"10.0.0.3, 10.0.0.2"}, "10.0.0.3"},
		{"nonsense", "10.0.0.1:1", []string{"198.51.100.1, unknown, 10.0.0.2"}, "10.0.0.2"},
		{"mapped", "[::ffff:10.0.0.1]:1", []string{"::ffff:198.51.100.1"}, "198.51.100.1"},
		{"version 6", "[fd00::1%eth0]:1", []string{"2001:db8::1"}, "2001:db8::1"},
		{"a Unix socket", "@", []string{"198.51.100.1"}, "198.51.100.1"},
		{"a Unix socket alone", "", nil, "invalid IP"},
	} {
		r := &http.Request{RemoteAddr: c.remote, Header: http.Header{}}
		if c.chain != nil {
			r.Header["X-Forwarded-For"] = c.chain
		}
		if o := p.originOf(r); o.client.String() != c.want {
			t.Errorf("%s: %s, want %s", c.name, o.client, c.want)
		}
	}
}

func TestClientsOfOneNetworkOfVersion6(t *testing.T) {
	key := func(addr string) uint64 {
		o := origin{client: netip.MustParseAddr(addr)}
		return o.key()
	}
	if key("2001:db8::1") != key("2001:db8::2") {
		t.Error("two addresses of a household have different keys")
	}
	if key("2001:db8::1") == key("2001:db8:0:1::1") || key("192.0.2.1") == key("192.0.2.2") {
		t.Error("two clients have one key")
	}
	if o := (origin{}); o.key() == 0 {
		t.Error("0 is no key")
	}
}

// Whatever a client sends, its address is found without a panic, and is that of the
// peer if the peer is a stranger.
func FuzzOrigin(f *testing.F) {
	for _, seed := range []string{"", "1.2.3.4", "1.2.3.4, 10.0.0.1", ",", " , ,", "10.0.0.1,::1", "[::1]:80", "a,10.0.0.1"} {
		f.Add("10.0.0.1:1", seed)
		f.Add("192.0.2.1:1", seed)
		f.Add("@", seed)
	}
	p := Proxy{Trusted: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}
	f.Fuzz(func(t *testing.T, remote, chain string) {
		o := p.originOf(&http.Request{RemoteAddr: remote, Header: http.Header{"X-Forwarded-For": {chain}}})
		if !o.trusted && o.client != o.peer {
			t.Errorf("a stranger at %q has made himself %s", remote, o.client)
		}
		if o.key() == 0 {
			t.Error("0 is no key")
		}
	})
}
