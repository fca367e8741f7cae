package stateserver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/holdfast-session/holdfast/store"
)

// Partitions spread sessions over several servers, as ASP.NET's partition resolver
// does: each session is on one of them, which its ID decides. It is a [store.Store],
// [store.Lister] and [store.Ender]; make it with [Partitioned].
//
// Each server has a number for each session, and the session is on the one whose
// number is the highest (rendezvous hashing). So a server that is added takes an
// equal share from each of the others, and one that is taken away leaves its share to
// all of them; no other session moves. The number is
//
//	mix(fnv1a(name of the server) XOR fnv1a(application NUL session))
//
// of 64 bits each, where mix is the finalizer of SplitMix64, and of equal numbers the
// one of the name that comes first counts. It stays so in every later version.
// Names are those of [ClientOptions.Name].
//
// A server that is gone takes its sessions with it and no others: breakers,
// connections and deadlines are each server's own.
type Partitions struct {
	// Resolve, if not nil, says which server has a session, as an index into
	// Servers. Every process has to come to the same result. Set it before the first
	// use.
	Resolve func(id store.ID) int

	servers []*Client
	hashes  []uint64      // of the servers' names
	turn    atomic.Uint32 // where Ended begins
}

var (
	_ store.Lister = (*Partitions)(nil)
	_ store.Ender  = (*Partitions)(nil)
)

// Partitioned returns the servers as one store. They have to have different names,
// and their order does not matter. It panics on none, and on two of one name.
func Partitioned(servers ...*Client) *Partitions {
	if len(servers) == 0 {
		panic("stateserver: Partitioned without servers")
	}
	p := &Partitions{servers: slices.Clone(servers)}
	slices.SortFunc(p.servers, func(a, b *Client) int { return cmp.Compare(a.options.Name, b.options.Name) })
	for i, c := range p.servers {
		if i > 0 && c.options.Name == p.servers[i-1].options.Name {
			panic(fmt.Sprintf("stateserver: Partitioned: two servers are called %q; give them a ClientOptions.Name", c.options.Name))
		}
		p.hashes = append(p.hashes, fnv1a(fnvStart, c.options.Name))
	}
	return p
}

// Name returns what the server is called among those of [Partitioned].
func (c *Client) Name() string { return c.options.Name }

// Servers returns the servers, in the order of their names.
func (p *Partitions) Servers() []*Client { return slices.Clone(p.servers) }

// Server returns the server that has the session, or an error if Resolve names none.
func (p *Partitions) Server(id store.ID) (*Client, error) {
	if p.Resolve != nil {
		i := p.Resolve(id)
		if i < 0 || i >= len(p.servers) {
			return nil, fmt.Errorf("stateserver: Partitions.Resolve says %d, and there are %d servers: %w", i, len(p.servers), store.ErrUnavailable)
		}
		return p.servers[i], nil
	}
	session := fnv1a(fnv1a(fnv1a(fnvStart, id.App), "\x00"), id.Session)
	best, most := 0, uint64(0)
	for i, h := range p.hashes {
		if n := mix(h ^ session); n > most {
			best, most = i, n
		}
	}
	return p.servers[best], nil
}

const fnvStart = 14695981039346656037

// fnv1a goes on with the FNV-1a hash h.
func fnv1a(h uint64, s string) uint64 {
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return h
}

// mix is the finalizer of SplitMix64.
func mix(h uint64) uint64 {
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return h ^ h>>31
}

// Close closes all of the clients.
func (p *Partitions) Close() error {
	var errs []error
	for _, c := range p.servers {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// Load implements [store.Store].
func (p *Partitions) Load(ctx context.Context, id store.ID, rec *store.Record) error {
	c, err := p.Server(id)
	if err != nil {
		return err
	}
	return c.Load(ctx, id, rec)
}

// Lock implements [store.Store].
func (p *Partitions) Lock(ctx context.Context, id store.ID, o store.LockOptions, rec *store.Record) error {
	c, err := p.Server(id)
	if err != nil {
		return err
	}
	return c.Lock(ctx, id, o, rec)
}

// Create implements [store.Store].
func (p *Partitions) Create(ctx context.Context, id store.ID, rec *store.Record, hold bool) error {
	c, err := p.Server(id)
	if err != nil {
		return err
	}
	return c.Create(ctx, id, rec, hold)
}

// Save implements [store.Store].
func (p *Partitions) Save(ctx context.Context, id store.ID, rec *store.Record, next store.Version, hold bool) error {
	c, err := p.Server(id)
	if err != nil {
		return err
	}
	return c.Save(ctx, id, rec, next, hold)
}

// Unlock implements [store.Store].
func (p *Partitions) Unlock(ctx context.Context, id store.ID, lock store.Lock) error {
	c, err := p.Server(id)
	if err != nil {
		return err
	}
	return c.Unlock(ctx, id, lock)
}

// Remove implements [store.Store].
func (p *Partitions) Remove(ctx context.Context, id store.ID, lock store.Lock, why store.Reason) error {
	c, err := p.Server(id)
	if err != nil {
		return err
	}
	return c.Remove(ctx, id, lock, why)
}

// Touch implements [store.Store].
func (p *Partitions) Touch(ctx context.Context, id store.ID) error {
	c, err := p.Server(id)
	if err != nil {
		return err
	}
	return c.Touch(ctx, id)
}

// List implements [store.Lister]: one server after the other. One that does not
// answer is tried again at the end, so that its error comes after the sessions of
// all the others.
func (p *Partitions) List(ctx context.Context, q store.Query) (page []store.Listed, next string, err error) {
	todo, err := p.parsePlaces(q.After)
	if err != nil {
		return nil, "", err
	}
	for len(todo) > 0 && len(page) == 0 {
		at := todo[0]
		todo = todo[1:]
		q.After = at.after
		page, at.after, err = p.servers[at.server].List(ctx, q)
		switch {
		case err != nil && (at.again || ctx.Err() != nil):
			return nil, "", err
		case err != nil:
			page, at.after, at.again = nil, q.After, true
			todo = append(todo, at)
		case at.after != "":
			todo = append([]place{at}, todo...)
		}
	}
	return page, p.places(todo), nil
}

// A place is where the list of one server goes on.
type place struct {
	server int
	after  string
	again  bool // it has failed once
}

// places writes what is left of a list, as one string: for each server the hash of
// its name, and where to go on.
func (p *Partitions) places(todo []place) string {
	var b []byte
	for i, at := range todo {
		if i > 0 {
			b = append(b, ';')
		}
		if at.again {
			b = append(b, '!')
		}
		b = appendHex(b, p.hashes[at.server])
		b = append(b, ':')
		b = appendEscaped(b, at.after)
	}
	return string(b)
}

// parsePlaces is the inverse of places; the empty string is the beginning.
func (p *Partitions) parsePlaces(s string) ([]place, error) {
	if s == "" {
		todo := make([]place, len(p.servers))
		for i := range todo {
			todo[i].server = i
		}
		return todo, nil
	}
	var todo []place
	for item := range strings.SplitSeq(s, ";") {
		rest, again := strings.CutPrefix(item, "!")
		hash, after, _ := strings.Cut(rest, ":")
		server := p.hashed(hash)
		b, ok := appendUnescaped(nil, []byte(after))
		if server < 0 || !ok {
			return nil, fmt.Errorf("stateserver: Query.After %q is not of a list of these servers", s)
		}
		todo = append(todo, place{server, string(b), again})
	}
	return todo, nil
}

// hashed returns the server whose name has that hash, in hexadecimal digits, or -1.
func (p *Partitions) hashed(hash string) int {
	n, ok := parseHex([]byte(hash))
	if !ok {
		return -1
	}
	return slices.Index(p.hashes, n)
}

// Ended implements [store.Ender]. It begins at another server each time, and leaves
// out those that do not answer, unless none does.
func (p *Partitions) Ended(ctx context.Context, app string, limit int, lease time.Duration) ([]store.End, error) {
	var all []store.End
	var errs []error
	first := int(p.turn.Add(1) % uint32(len(p.servers)))
	for i := range p.servers {
		at := (first + i) % len(p.servers)
		ends, err := p.servers[at].Ended(ctx, app, limit-len(all), lease)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		prefix := string(appendHex(nil, p.hashes[at])) + ":"
		for j := range ends {
			ends[j].Key = prefix + ends[j].Key
		}
		all = append(all, ends...)
		if len(all) >= limit && limit > 0 {
			break
		}
	}
	if len(errs) == len(p.servers) {
		return nil, errors.Join(errs...)
	}
	return all, nil
}

// Ack implements [store.Ender].
func (p *Partitions) Ack(ctx context.Context, app string, keys []string) error {
	byServer := make([][]string, len(p.servers))
	for _, key := range keys {
		hash, rest, _ := strings.Cut(key, ":")
		if at := p.hashed(hash); at >= 0 {
			byServer[at] = append(byServer[at], rest)
		}
	}
	var errs []error
	for at, keys := range byServer {
		if len(keys) > 0 {
			errs = append(errs, p.servers[at].Ack(ctx, app, keys))
		}
	}
	return errors.Join(errs...)
}
