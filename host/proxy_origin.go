package host

import (
	"net/http"
	"net/http/httputil"
	"net/netip"
	"slices"
	"strings"
)

// An origin is where a request comes from.
type origin struct {
	peer    netip.Addr // who is connected; invalid over a Unix socket
	trusted bool       // the peer is a proxy whose word counts
	client  netip.Addr // who has asked, as far as is known
}

// originOf finds out where a request comes from: the nearest address that is none of a
// trusted proxy's.
func (p *Proxy) originOf(r *http.Request) origin {
	addr, _ := netip.ParseAddrPort(r.RemoteAddr)
	o := origin{peer: addr.Addr().Unmap().WithZone("")}
	o.client = o.peer
	if o.trusted = p.trusts(o.peer); !o.trusted {
		return o
	}
	chain := r.Header["X-Forwarded-For"]
	for _, line := range slices.Backward(chain) {
		for line != "" {
			i := strings.LastIndexByte(line, ',')
			addr, err := netip.ParseAddr(strings.TrimSpace(line[i+1:]))
			if err != nil {
				return o
			}
			if o.client = addr.Unmap(); !p.trusts(o.client) {
				return o
			}
			line = line[:max(i, 0)]
		}
	}
	return o
}

func (p *Proxy) trusts(a netip.Addr) bool {
	return !a.IsValid() || slices.ContainsFunc(p.Trusted, func(net netip.Prefix) bool { return net.Contains(a) })
}

// key is the same for all requests of a client: of its address or, of IPv6, of the
// network that is usually one household's.
func (o *origin) key() uint64 {
	if o.client.Is6() {
		b := o.client.As16()
		return keyOf(b[:8])
	}
	b := o.client.AsSlice()
	return keyOf(b)
}

// rewrite makes the request that the worker gets.
func rewrite(r *httputil.ProxyRequest) {
	o := &exchangeOf(r.In.Context()).origin
	in, out := r.In.Header, r.Out.Header
	r.Out.URL.Scheme = "http"              // the host comes with the worker
	r.Out.URL.RawQuery = r.In.URL.RawQuery // as it came, not as ReverseProxy understands it
	host, proto := r.In.Host, "http"
	if r.In.TLS != nil {
		proto = "https"
	}
	var chain string
	if o.trusted {
		chain = strings.Join(in["X-Forwarded-For"], ", ")
		host, proto = first(in["X-Forwarded-Host"], host), first(in["X-Forwarded-Proto"], proto)
	} else {
		for name := range out {
			if strings.HasPrefix(name, "X-Forwarded-") || name == "X-Real-Ip" {
				delete(out, name)
			}
		}
	}
	if o.peer.IsValid() {
		if chain != "" {
			chain += ", "
		}
		chain += o.peer.String()
	}
	if chain != "" {
		out["X-Forwarded-For"] = []string{chain}
	}
	out["X-Forwarded-Host"] = []string{host}
	out["X-Forwarded-Proto"] = []string{proto}
}

// first returns the first value, or def if there is none.
func first(values []string, def string) string {
	if len(values) > 0 {
		return values[0]
	}
	return def
}
