package mode

import (
	"errors"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// Where the sessions of an ASP.NET application are. Connection strings hold passwords,
// so no error and no note shows a piece of one but for words that are known.

// stateServer reads stateConnectionString.
func (r *reader) stateServer() {
	const name = "stateConnectionString"
	s, ok := r.connection(name, "tcpip=loopback:42424")
	if !ok {
		return
	}
	where, ok := strings.CutPrefix(s, "tcpip=")
	if !ok {
		r.wrong("%s: want tcpip=host:port", name)
		return
	}
	host, port, err := net.SplitHostPort(where)
	n, numErr := strconv.ParseUint(port, 10, 16)
	if err != nil || host == "" || numErr != nil || n == 0 || strings.ContainsAny(host, ",?@/") {
		r.wrong("%s: want tcpip=host:port, or tcpip=[address]:port for an IPv6 address, with a port up to 65535", name)
		return
	}
	r.c.Spec = "tcpip=" + net.JoinHostPort(localhost(host), port)
	r.note(name, "if this is Microsoft's state service and not holdfast serve, add ?compat=1 to the string, and read what that costs: go doc stateserver.ClientOptions.Compat")
}

// localhost returns the host by the name that it has outside of Windows.
func localhost(host string) string {
	switch strings.ToLower(host) {
	case "loopback", "(local)", ".", "":
		return "localhost"
	}
	return host
}

// connection returns the value of an attribute that is a connection string or names
// one, and whether it is to be had.
func (r *reader) connection(name, otherwise string) (s string, ok bool) {
	if !r.has(name) {
		return otherwise, true
	}
	s = r.text(name)
	if strings.HasPrefix(strings.ToLower(s), "registry:") {
		r.note(name, "it is in the registry of the machine; look there, and write what it stands for as go doc mode has it")
		return "", false
	}
	if named, ok := r.connections[fold(s)]; ok {
		return named, true
	}
	if !strings.Contains(s, "=") {
		r.note(name, "it names a connection string that is not in this file; look for it in the files above, and write what it stands for as go doc mode has it")
		return "", false
	}
	return s, true
}

// sqlServer reads sqlConnectionString.
func (r *reader) sqlServer() {
	const name = "sqlConnectionString"
	s, ok := r.connection(name, "data source=localhost;Integrated Security=SSPI")
	if !ok {
		return
	}
	words, err := parseConnectionString(s)
	if err != nil {
		r.wrong("%s: %w", name, err)
		return
	}
	if (words["database"] != "" || words["attachdbfilename"] != "") && !r.customDatabase {
		r.wrong("%s names a database, and allowCustomSqlDatabase is not true", name)
		return
	}
	if words["attachdbfilename"] != "" {
		r.note(name, "a database that is attached as a file (AttachDbFilename) has no counterpart; attach it to a server, and write sqlserver://host?database=NAME")
		return
	}
	switch strings.ReplaceAll(strings.ToLower(words["authentication"]), " ", "") {
	case "", "sqlpassword", "notspecified":
	default:
		r.note(name, "it signs in by a service (Authentication), which has no counterpart; write sqlserver://user:password@host?database=NAME with a user of SQL Server")
		return
	}
	u := url.URL{Scheme: "sqlserver"}
	u.Host, u.Path, ok = dataSource(words["server"])
	if !ok {
		r.note(name, "its data source is none that is reached by TCP; write sqlserver://host?database=ASPState")
		return
	}
	q := url.Values{"database": {"ASPState"}, "aspstate": {"1"}}
	if r.compressed {
		q.Set("compress", "1")
	}
	if words["database"] != "" {
		q.Set("database", words["database"])
	}
	for word, param := range map[string]string{"encrypt": "encrypt", "trustservercertificate": "TrustServerCertificate"} {
		if v := words[word]; v != "" {
			q.Set(param, strings.ToLower(v))
		}
	}
	u.RawQuery = q.Encode()
	switch words["integrated security"] {
	case "", "false", "no":
		if words["user"] == "" {
			r.wrong("%s has neither a User ID nor Integrated Security", name)
			return
		}
		u.User = url.UserPassword(words["user"], words["password"])
	default:
		r.note(name, "it signs in as the Windows account of the process (Integrated Security). That works on Windows; elsewhere write sqlserver://user:password@host")
	}
	if dropped := words["dropped"]; dropped != "" {
		r.note(name, "these say nothing here and were left out: "+dropped)
	}
	r.c.Spec = u.String()
	r.note("mode", "with aspstate=1 the tables are those of ASP.NET, whose sessions can be shared, and what they cannot keep is lost: go doc sqlstore.ASPState. Without it Holdfast has a table of its own in the database (install=1 makes it)")
}

// dataSource splits a data source: a host, with an instance or a port.
func dataSource(s string) (host, path string, ok bool) {
	if protocol, rest, found := strings.Cut(s, ":"); found && !strings.Contains(protocol, "[") {
		if !strings.EqualFold(strings.TrimSpace(protocol), "tcp") {
			return "", "", false
		}
		s = rest
	}
	s, port, hasPort := strings.Cut(s, ",")
	host, instance, _ := strings.Cut(strings.TrimSpace(s), `\`)
	if strings.HasPrefix(strings.ToLower(host), "(localdb)") || strings.ContainsAny(host, "/?#@ ") || strings.ContainsAny(instance, "/?#@ ") {
		return "", "", false
	}
	host = localhost(host)
	if !hasPort {
		return host, instance, true
	}
	port = strings.TrimSpace(port)
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return "", "", false
	}
	return net.JoinHostPort(strings.Trim(host, "[]"), port), instance, true
}

// sqlWords are the words of a connection string for SQL Server, and what they are called
// here: the empty string is for those that say nothing to Holdfast.
var sqlWords = map[string]string{
	"data source": "server", "server": "server", "address": "server", "addr": "server", "network address": "server",
	"initial catalog": "database", "database": "database",
	"attachdbfilename": "attachdbfilename", "extended properties": "attachdbfilename", "initial file name": "attachdbfilename",
	"user id": "user", "uid": "user", "user": "user", "password": "password", "pwd": "password",
	"integrated security": "integrated security", "trusted_connection": "integrated security",
	"encrypt": "encrypt", "trustservercertificate": "trustservercertificate", "trust server certificate": "trustservercertificate",
	"persist security info": "", "persistsecurityinfo": "", "pooling": "", "min pool size": "", "max pool size": "",
	"connection lifetime": "", "load balance timeout": "", "connection reset": "", "enlist": "", "multipleactiveresultsets": "",
	"multiple active result sets": "", "asynchronous processing": "", "async": "", "application name": "", "app": "",
	"connect timeout": "", "connection timeout": "", "timeout": "", "connectretrycount": "", "connectretryinterval": "",
	"current language": "", "language": "", "packet size": "", "workstation id": "", "wsid": "", "type system version": "",
	"network library": "", "network": "", "net": "", "replication": "", "user instance": "", "transaction binding": "",
	"applicationintent": "", "application intent": "", "multisubnetfailover": "", "multi subnet failover": "",
	"transparentnetworkipresolution": "", "failover partner": "", "context connection": "", "column encryption setting": "",
	"poolblockingperiod": "", "pool blocking period": "", "connect retry count": "", "connect retry interval": "", "command timeout": "",
	"attestation protocol": "", "enclave attestation url": "", "ip address preference": "", "ipaddresspreference": "",
	"server spn": "", "serverspn": "", "failover partner spn": "", "failoverpartnerspn": "",
	"host name in certificate": "", "hostnameincertificate": "", "server certificate": "", "servercertificate": "",
	"authentication": "authentication",
}

// parseConnectionString reads word=value;word="value" by ADO.NET's rules. What it drops
// is listed under "dropped".
func parseConnectionString(s string) (map[string]string, error) {
	words := make(map[string]string)
	var dropped []string
	for {
		s = strings.TrimLeft(s, "; \t\r\n")
		if s == "" {
			break
		}
		word, rest, ok := strings.Cut(s, "=")
		word = strings.ToLower(strings.TrimSpace(word))
		to, known := sqlWords[word]
		if !ok {
			return nil, errors.New("it is not word=value;word=value; a value with a semicolon in it stands in quotes")
		}
		if !known { // it is not shown: if it is not of a later driver, it is a piece of a value
			word = "what is not known here (a value with a semicolon in it stands in quotes)"
		}
		value, after, err := cutValue(rest)
		if err != nil {
			return nil, err
		}
		s = after
		if to == "" {
			dropped = append(dropped, word)
		} else {
			words[to] = value
		}
	}
	for _, word := range []string{"integrated security", "encrypt"} {
		words[word] = strings.ToLower(words[word])
	}
	slices.Sort(dropped)
	words["dropped"] = strings.Join(slices.Compact(dropped), ", ")
	return words, nil
}

// cutValue cuts the value off that s begins with. In quotes, a quote is written twice.
func cutValue(s string) (value, rest string, err error) {
	s = strings.TrimLeft(s, " \t\r\n")
	if s == "" || s[0] != '"' && s[0] != '\'' {
		value, rest, _ = strings.Cut(s, ";")
		return strings.TrimSpace(value), rest, nil
	}
	quote := s[:1]
	for s = s[1:]; ; {
		part, after, ok := strings.Cut(s, quote)
		if !ok {
			return "", "", errors.New("a quote is not closed")
		}
		value += part
		if !strings.HasPrefix(after, quote) {
			if after = strings.TrimLeft(after, " \t\r\n"); after != "" && after[0] != ';' {
				return "", "", errors.New("something follows a value in quotes")
			}
			return value, after, nil
		}
		value, s = value+quote, after[1:]
	}
}

// custom reads the provider that customProvider names.
func (r *reader) custom() {
	name := r.text("customProvider")
	p, ok := r.providers[fold(name)]
	if name == "" || !ok {
		r.wrong("mode=\"Custom\": want a customProvider that is the name of one in <providers>")
		return
	}
	kind, _, _ := strings.Cut(p["type"], ",")
	switch strings.TrimSpace(kind) {
	case "Microsoft.Web.Redis.RedisSessionStateProvider":
		r.redis(p)
	case "Microsoft.AspNet.SessionState.SqlSessionStateProviderAsync":
		r.note("customProvider", "this provider has tables of its own, which Holdfast does not read; write sqlserver://user:password@host?database=NAME, and sessions begin anew there")
	default:
		r.note("customProvider", "its code keeps the sessions. Choose another mode (go doc mode), or write a store.Store that keeps them in the same place: docs/custom-store.md shows how")
	}
}

// redis reads the attributes of Microsoft's provider for Redis.
func (r *reader) redis(p map[string]string) {
	attr := func(name, otherwise string) string {
		v, ok := p[name]
		if setting, indirect := r.appSettings[fold(v)]; indirect {
			v = setting
		}
		if !ok || v == "" {
			return otherwise
		}
		return v
	}
	if p["connectionString"] != "" || p["settingsClassName"] != "" {
		r.note("customProvider", "this is Redis, at the place that its connectionString or code says; write it as redis://:password@host:6379/0, or rediss:// with TLS")
		return
	}
	scheme, port := "rediss", "6380"
	if strings.EqualFold(attr("ssl", "true"), "false") {
		scheme, port = "redis", "6379"
	}
	if p := attr("port", "0"); p != "0" {
		port = p
	}
	database := attr("databaseId", "0")
	host := attr("host", "localhost")
	_, portErr := strconv.ParseUint(port, 10, 16)
	_, dbErr := strconv.ParseUint(database, 10, 16)
	if portErr != nil || dbErr != nil || strings.ContainsAny(host, "/?#@ ") {
		r.wrong("the provider's host, port or databaseId cannot be read")
		return
	}
	u := url.URL{Scheme: scheme, Host: net.JoinHostPort(strings.Trim(host, "[]"), port), Path: database}
	if key := attr("accessKey", ""); key != "" {
		u.User = url.UserPassword("", key)
	}
	r.c.Spec = u.String()
	r.note("customProvider", "sessions begin anew: Holdfast does not read what Microsoft's provider has in Redis, and both can use the same one side by side")
}
