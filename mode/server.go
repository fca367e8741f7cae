package mode

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/holdfast-session/holdfast/stateserver"
)

// Mode StateServer.

var serverParams = []string{"timeout", "compat", "tls", "ca", "cert", "key", "server-name", "token-file", "conns", "max-conns", "max-waits",
	"open-after", "near-cache", "idle-timeout", "name"}

func parseStateServer(where string, p *params) (opener, error) {
	return parseServers(where, p, p.flag("tls"))
}

func parseStateServerTLS(where string, p *params) (opener, error) {
	if p.values.Has("tls") && !p.flag("tls") {
		p.wrong("tls", "1: stateservers:// is TLS; without, it is stateserver://")
	}
	return parseServers(where, p, true)
}

func parseUnix(path string, p *params) (opener, error) {
	if path == "" {
		return nil, errors.New("it names no socket; write unix:/run/holdfast/state.sock")
	}
	return openServers([]string{"unix:" + path}, "", p, p.flag("tls"))
}

// parseTCPIP reads ASP.NET's form, in which a comma parts several.
func parseTCPIP(where string, p *params) (opener, error) {
	servers := strings.Split(where, ",")
	for i, s := range servers {
		servers[i], _ = cutPrefixFold(strings.TrimSpace(s), "tcpip=")
	}
	return parseServers(strings.Join(servers, ","), p, p.flag("tls"))
}

// parseServers reads [token@]host:port[,host:port…].
func parseServers(where string, p *params, encrypt bool) (opener, error) {
	token := ""
	if i := strings.LastIndexByte(where, '@'); i >= 0 {
		var err error
		if token, err = url.PathUnescape(where[:i]); err != nil {
			return nil, errors.New("the token cannot be read; write %25 for a percent sign in it, or use token-file")
		}
		where = where[i+1:]
	}
	where = strings.TrimSuffix(where, "/")
	var servers []string
	for server := range strings.SplitSeq(where, ",") {
		server = strings.TrimSpace(server)
		host, port, err := net.SplitHostPort(server)
		switch {
		case server == "":
			return nil, errors.New("it names no server; write host:42424")
		case err != nil && strings.Count(server, ":") > 1 && !strings.HasPrefix(server, "["):
			return nil, fmt.Errorf("an IPv6 address is in brackets; write [%s]:42424", server)
		case err != nil && !strings.Contains(server, ":"), err == nil && port == "":
			return nil, fmt.Errorf("%s has no port; write %[1]s:42424", strings.TrimSuffix(server, ":"))
		case err == nil && host == "":
			return nil, fmt.Errorf("%s has no host; write localhost%[1]s", server)
		}
		if _, _, err := stateserver.ParseAddr(server); err != nil {
			return nil, err
		}
		if slices.Contains(servers, server) {
			return nil, fmt.Errorf("%s is there twice", server)
		}
		servers = append(servers, server)
	}
	return openServers(servers, token, p, encrypt)
}

func openServers(servers []string, token string, p *params, encrypt bool) (opener, error) {
	o := serverOptions(p)
	o.Token = token
	names := make([]string, len(servers)) // none has one
	if p.values.Has("name") {
		names = strings.Split(o.Name, ",")
		if sorted := slices.Sorted(slices.Values(names)); len(names) != len(servers) || sorted[0] == "" || len(slices.Compact(sorted)) < len(names) {
			p.wrong("name", "a name for each server, with commas between, and no two the same")
		}
	}
	if token != "" && p.values.Has("token-file") {
		return nil, errors.New("there are a token and a token-file; one of them is enough")
	}
	if (p.text("cert") == "") != (p.text("key") == "") {
		return nil, errors.New("cert and key go together: the PEM files of a client's certificate and of its key")
	}
	for _, name := range []string{"ca", "cert", "server-name"} {
		if p.values.Has(name) && !encrypt {
			return nil, fmt.Errorf("%s is for TLS; write stateservers:// or tls=1", name)
		}
	}
	return func() (Store, error) {
		if file := p.text("token-file"); file != "" {
			text, err := os.ReadFile(file)
			if err != nil {
				return nil, err
			}
			first, _, _ := strings.Cut(string(text), "\n")
			if o.Token = strings.TrimSpace(first); o.Token == "" {
				return nil, fmt.Errorf("%s has no token in its first line", file)
			}
		}
		if encrypt {
			var err error
			if o.TLS, err = tlsConfig(p); err != nil {
				return nil, err
			}
		}
		var clients []*stateserver.Client
		for i, server := range servers {
			o.Name = names[i]
			c, err := stateserver.Dial(server, &o)
			if err != nil {
				for _, c := range clients {
					c.Close()
				}
				return nil, err
			}
			clients = append(clients, c)
		}
		if len(clients) == 1 {
			return clients[0], nil
		}
		return stateserver.Partitioned(clients...), nil
	}, nil
}

func serverOptions(p *params) stateserver.ClientOptions {
	return stateserver.ClientOptions{
		Name: p.text("name"), Conns: p.number("conns"), MaxConns: p.number("max-conns"), MaxWaits: p.number("max-waits"),
		Timeout: p.duration("timeout"), OpenAfter: orNone(p, "open-after", p.durationOr), NearCache: int(orNone(p, "near-cache", p.sizeOr)),
		IdleTimeout: p.duration("idle-timeout"), Compat: p.flag("compat"),
	}
}

func tlsConfig(p *params) (*tls.Config, error) {
	c := &tls.Config{ServerName: p.text("server-name"), MinVersion: tls.VersionTLS12}
	if file := p.text("ca"); file != "" {
		pem, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s has no certificate in PEM", file)
		}
	}
	if file := p.text("cert"); file != "" {
		pair, err := tls.LoadX509KeyPair(file, p.text("key"))
		if err != nil {
			return nil, err
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}
