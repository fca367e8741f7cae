package stateserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/holdfast-session/holdfast/store"
)

// What a Client asks about many sessions at once. Not every server can answer: one
// that is not Holdfast's cannot, nor one over a store that does not list its sessions
// or remember their ends. The error then matches [errors.ErrUnsupported].

var (
	_ store.Lister = (*Client)(nil)
	_ store.Ender  = (*Client)(nil)
)

// maxTarget is how long a target with the keys of ends may become.
const maxTarget = 4 << 10

var errNoLists = fmt.Errorf("stateserver: the server is not Holdfast's, or behaves as Microsoft's (Exact): "+
	"it can neither list sessions nor tell which ended: %w", errors.ErrUnsupported)

// List implements [store.Lister], of sessions that a client can name. The owners of
// locks are left out, and a page has at most 1,000 sessions. The error matches
// [errors.ErrUnsupported] if the server cannot list its sessions, and
// [io/fs.ErrPermission] if the token does not allow it.
func (c *Client) List(ctx context.Context, q store.Query) (page []store.Listed, next string, err error) {
	target := []byte(sessionsPath)
	if q.App != "" {
		target = appendParam(target, "app", appKey(q.App))
	}
	target = appendParam(target, "subject", q.Subject)
	target = appendParam(target, "after", q.After)
	if q.Limit > 0 {
		target = appendParam(target, "limit", strconv.Itoa(q.Limit))
	}
	var all listAnswer
	if err := c.query(ctx, methodGet, target, &all); err != nil {
		return nil, "", err
	}
	page = make([]store.Listed, len(all.Sessions))
	for i := range all.Sessions {
		if page[i], err = all.Sessions[i].session(); err != nil {
			return nil, "", err
		}
	}
	return page, string(all.Next), nil
}

// Ended implements [store.Ender]. One call claims at most 1,000 ends, and fewer if
// their sessions are large: call it until it returns none. Its errors are those of
// [Client.List].
func (c *Client) Ended(ctx context.Context, app string, limit int, lease time.Duration) ([]store.End, error) {
	target := appendParam([]byte(endsPath), "app", appKey(app))
	target = appendParam(target, "limit", strconv.Itoa(max(limit, 0)))
	target = appendParam(target, "lease", string(appendSeconds(nil, lease)))
	var all endedAnswer
	if err := c.query(ctx, methodGet, target, &all); err != nil || len(all.Ends) == 0 {
		return nil, err
	}
	ends := make([]store.End, len(all.Ends))
	for i := range all.Ends {
		e := &all.Ends[i]
		session, err := e.session()
		if err != nil {
			return nil, err
		}
		ends[i] = store.End{
			Key:    string(e.Key),
			ID:     session.ID,
			Reason: store.Reason{Kind: store.ParseKind(e.Reason), Age: time.Duration(e.Age), To: string(e.To)},
			Record: session.Record,
		}
	}
	return ends, nil
}

// Ack implements [store.Ender]. Its errors are those of [Client.List].
func (c *Client) Ack(ctx context.Context, app string, keys []string) error {
	start := appendParam([]byte(endsPath), "app", appKey(app))
	for len(keys) > 0 {
		target := start[:len(start):len(start)]
		for first := true; len(keys) > 0 && (first || len(target)+3*len(keys[0]) < maxTarget); first = false {
			target = appendParam(target, "key", keys[0])
			keys = keys[1:]
		}
		if err := c.query(ctx, methodDelete, target, nil); err != nil {
			return err
		}
	}
	return nil
}

// query sends a request with that target, and reads the answer, JSON, into v.
func (c *Client) query(ctx context.Context, m method, target []byte, v any) error {
	var rec store.Record
	q := &call{method: m, path: string(target)}
	if v != nil {
		q.out = &rec
	}
	a, err := c.do(ctx, store.ID{}, q)
	switch {
	case err != nil:
		return err
	case a.foreign:
		return errNoLists
	}
	if err := a.err(nil, nil); err != nil || v == nil {
		return err
	}
	if err := json.Unmarshal(rec.Body, v); err != nil {
		return fmt.Errorf("stateserver: the server's answer cannot be read: %w", err)
	}
	return nil
}
