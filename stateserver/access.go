package stateserver

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"time"
)

// Who may use a server, and how much of it.

// Access says who may use a [Server]. The zero Access lets in whoever can connect,
// without limits.
type Access struct {
	// Allow are the networks whose clients may connect; none means all. Unix sockets
	// are no network: the permissions of their files say who may connect.
	Allow []netip.Prefix

	// Tokens are those that requests have to carry, one of them each, as
	// "Authorization: Bearer secret"; none means that no request needs one. Whoever
	// can listen on the wire reads the secret: use TLS between machines.
	Tokens []Token

	// Trusted are the networks whose clients need no token and have no limits, and
	// TrustSockets does the same for unix sockets. Clients of ASP.NET cannot carry a
	// token: where there are some, only these settings let them in. Trusted clients
	// may do everything.
	Trusted      []netip.Prefix
	TrustSockets bool

	// ClientCerts refuses connections that are not TLS with a client certificate that
	// was verified. (The listener asks for it: tls.Config.ClientAuth.)
	ClientCerts bool

	// MaxConns is how many connections one address may have at a time, Rate how many
	// requests a second, in bursts of up to Burst, and MaxWaits how many requests may
	// wait for a lock at a time; a new connection counts as ten requests. 0 means no
	// limit, and of Burst one second's worth, but at least a connection and a request. All
	// of an IPv6 network of 64 bits count as one address, and so do all unix sockets.
	//
	// Who exceeds Rate is slowed down, and refused only where that is not enough.
	MaxConns int
	Rate     float64
	Burst    int
	MaxWaits int
}

// A Token lets its bearers in.
type Token struct {
	// Name is what the log calls it.
	Name string
	// Hash is what [HashToken] makes of the secret, which is kept nowhere.
	Hash string
	// Apps are the applications whose sessions it opens, as holdfast.Options.App
	// has them; none means all.
	Apps []string
	// Right is what may be done with them.
	Right Right
}

// A Right is what a [Token] allows.
type Right uint8

const (
	// Read allows Load, Touch, and List of one application.
	Read Right = iota
	// Write allows all calls of one application.
	Write
	// Admin also allows List of all applications. Such a token has no Apps.
	Admin
)

var rights = [...]string{"read", "write", "admin"}

// String returns the right's name, in lower case.
func (r Right) String() string { return rights[min(int(r), len(rights)-1)] }

// ParseRight is the inverse of [Right.String].
func ParseRight(s string) (Right, error) {
	i := slices.Index(rights[:], s)
	if i < 0 {
		return 0, fmt.Errorf("stateserver: there is no right %q; there is read, write and admin", s)
	}
	return Right(i), nil
}

// HashToken returns what a [Token] keeps of its secret: the SHA-256 in hexadecimal
// digits. Secrets have to be random, of 128 bits or more: a hash does not protect one
// that can be guessed.
func HashToken(secret string) string {
	hash := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(hash[:])
}

// SetAccess replaces [Server.Access], at any time: every request from then on is
// judged by a, also on connections that are open already, and connections that a
// does not let in are closed at their next request.
func (s *Server) SetAccess(a Access) error {
	s.setUp()
	r, err := compile(&a)
	if err != nil {
		return err
	}
	s.rules.Store(r)
	return nil
}

// rules are an Access in the form in which it is asked. They never change.
type rules struct {
	Access
	tokens   []token
	guarded  bool // there is something to ask for each request
	interval int64
	burst    int64 // both in nanoseconds of the bucket
}

type token struct {
	*Token
	hash [sha256.Size]byte
	apps map[string]bool // as in the server's keys; nil for all
}

func compile(a *Access) (*rules, error) {
	r := &rules{Access: *a}
	r.guarded = len(a.Tokens) > 0 || len(a.Allow) > 0 || a.ClientCerts || a.Rate > 0
	for _, prefix := range slices.Concat(a.Allow, a.Trusted) {
		if !prefix.IsValid() {
			return nil, errors.New("stateserver: Access has a network that is none")
		}
	}
	if a.MaxConns < 0 || a.Rate < 0 || math.IsNaN(a.Rate) || a.Burst < 0 || a.MaxWaits < 0 {
		return nil, errors.New("stateserver: Access has a limit of less than 0")
	}
	for i := range a.Tokens {
		t := token{Token: &a.Tokens[i]}
		hash, err := hex.DecodeString(t.Hash)
		if err != nil || len(hash) != len(t.hash) {
			return nil, fmt.Errorf("stateserver: the hash of token %q is not what HashToken makes", t.Name)
		}
		copy(t.hash[:], hash)
		if slices.ContainsFunc(r.tokens, func(u token) bool { return u.hash == t.hash }) {
			return nil, fmt.Errorf("stateserver: token %q has the secret of another", t.Name)
		}
		if t.Right > Admin || t.Right == Admin && len(t.Apps) > 0 {
			return nil, fmt.Errorf("stateserver: token %q: a right of %v is for all applications", t.Name, t.Right)
		}
		for _, app := range t.Apps {
			if t.apps == nil {
				t.apps = make(map[string]bool)
			}
			t.apps[appKey(app)] = true
		}
		r.tokens = append(r.tokens, t)
	}
	if a.Rate > 0 {
		r.interval = max(int64(float64(time.Second)/a.Rate), 1)
		r.burst = max(int64(time.Second), r.interval)
		if a.Burst > 0 {
			r.burst = r.interval * int64(a.Burst)
		}
		// With less, a connection would have to wait for its own tokens for longer than
		// anything is held back, and nobody could ever come in.
		r.burst = max(r.burst, (connCost+1)*r.interval)
	}
	return r, nil
}

// protected reports whether whoever connects has to show who it is.
func (r *rules) protected() bool { return len(r.tokens) > 0 || r.ClientCerts }

func within(addr netip.Addr, networks []netip.Prefix) bool {
	return slices.ContainsFunc(networks, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// welcomes reports whether a client at addr may connect; an invalid addr is that of
// a unix socket.
func (r *rules) welcomes(addr netip.Addr, remote bool) bool {
	if addr.IsValid() && len(r.Allow) > 0 && !within(addr, r.Allow) {
		return false
	}
	return r.reaches(addr, remote)
}

// reaches reports whether the machine at addr may connect at all: this one, or any
// if that was allowed or whoever connects has to show who it is.
func (r *rules) reaches(addr netip.Addr, remote bool) bool {
	return remote || !addr.IsValid() || addr.IsLoopback() || r.protected()
}

// trusts reports whether a client at addr needs no token.
func (r *rules) trusts(addr netip.Addr) bool {
	return len(r.tokens) == 0 || r.unlimited(addr)
}

// unlimited reports whether a client at addr has no limits: it is trusted by name.
func (r *rules) unlimited(addr netip.Addr) bool {
	if !addr.IsValid() {
		return r.TrustSockets
	}
	return within(addr, r.Trusted)
}

// bearer returns the token with that secret, or nil. It takes as long for every
// secret.
func (r *rules) bearer(secret []byte) *token {
	hash := sha256.Sum256(secret)
	var found *token
	for i := range r.tokens {
		if subtle.ConstantTimeCompare(r.tokens[i].hash[:], hash[:]) == 1 {
			found = &r.tokens[i]
		}
	}
	return found
}

// A pass is what a connection remembers of how it was judged, so that the same
// secret is not hashed again for each request.
type pass struct {
	rules  *rules
	closed bool   // to this client, since the rules have changed
	free   bool   // of tokens
	secret []byte // the last one that was right
	token  *token // which has that secret
}

// admit judges the request in c.req, which asks for need on an application, as in
// the server's keys (empty: all of them), and reports why it is refused.
func (c *conn) admit(app string, need Right) (why refusal, ok bool) {
	r := c.s.rules.Load()
	if r == c.pass.rules && !r.guarded {
		return 0, true
	}
	return c.judge(r, app, need)
}

func (c *conn) judge(r *rules, app string, need Right) (why refusal, ok bool) {
	p := &c.pass
	if r != p.rules {
		*p = pass{rules: r, free: r.trusts(c.addr), secret: p.secret[:0]}
		p.closed = !r.welcomes(c.addr, c.s.AllowRemote) || r.ClientCerts && !c.certified
	}
	switch {
	case p.closed:
		c.hangUp = true
		return refusedAddress, false
	case p.free:
		return 0, true
	case len(c.req.secret) == 0:
		return refusedToken, false
	}
	if p.token == nil || subtle.ConstantTimeCompare(p.secret, c.req.secret) != 1 {
		t := r.bearer(c.req.secret)
		if t == nil {
			return refusedToken, false
		}
		p.token, p.secret = t, append(p.secret[:0], c.req.secret...)
	}
	// An application that is another's is answered as one that nobody has.
	if t := p.token; t.Right < need || t.apps != nil && !t.apps[app] {
		return refusedRight, false
	}
	return 0, true
}

// A refusal is why a client was refused.
type refusal uint8

const (
	refusedAddress refusal = iota
	refusedHandshake
	refusedCert
	refusedToken
	refusedRight
	refusedConns
	refusedRate
	refusedWaits
	refusedMemory
	refusals
)

// refusalTexts are the names in [Stats] and in the log, the status of the answer, and
// what it says.
var refusalTexts = [refusals]struct {
	name   string
	status int
	text   string
}{
	refusedAddress:   {"address", statusDenied, "this address may not connect"},
	refusedHandshake: {"handshake", 0, ""},
	refusedCert:      {"certificate", 0, ""},
	refusedToken:     {"token", statusNoToken, "a token is needed, and this is none"},
	refusedRight:     {"right", statusDenied, "the token does not allow this"},
	refusedConns:     {"connections", statusTooMany, "too many connections from this address"},
	refusedRate:      {"rate", statusTooMany, "too many requests from this address"},
	refusedWaits:     {"waits", statusTooMany, "too many requests from this address wait for locks"},
	refusedMemory:    {"memory", statusUnavailable, "too many large requests at the same time"},
}

// deny refuses the request in c.req.
func (c *conn) deny(why refusal) {
	c.s.refused(c, why)
	c.tell(why)
}

// tell answers a request that was refused. An old client gets a 400, the one status
// that it does not take for an answer.
func (c *conn) tell(why refusal) {
	status := refusalTexts[why].status
	if c.s.Exact || !c.req.marked() {
		status = statusBadRequest
	}
	c.fail(status, "stateserver: "+refusalTexts[why].text)
	c.outcome = outcomeRefused
}

// refused counts and logs that a connection, or its request, was refused. Of each
// source and reason there is one line a minute.
func (s *Server) refused(c *conn, why refusal, attrs ...any) {
	c.counters.refused[why].Add(1)
	times, log := c.source.logged[why].log(s.nanos(), logEvery)
	if !log {
		return
	}
	attrs = append([]any{"why", refusalTexts[why].name, "peer", c.nc.RemoteAddr()}, attrs...)
	if why == refusedRight {
		attrs = append(attrs, "token", c.pass.token.Name)
	}
	if times > 1 {
		attrs = append(attrs, "times", times)
	}
	s.Logger.Warn("stateserver: refused", attrs...)
}
