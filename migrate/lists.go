package migrate

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/holdfast-session/holdfast/store"
)

// Keys of ends, and places in lists, say which store they are of.
const (
	ofOld = "old:"
	ofNew = "new:"
)

// pairEnder are the ends of both stores.
type pairEnder struct {
	p        *pair
	old, new store.Ender
}

// Ended implements [store.Ender].
func (e pairEnder) Ended(ctx context.Context, app string, limit int, lease time.Duration) ([]store.End, error) {
	ends, err := e.new.Ended(ctx, app, limit, lease)
	if err != nil {
		return nil, err
	}
	all := make([]store.End, 0, len(ends))
	for _, end := range ends {
		f := found{Record: end.Record}
		f.read()
		if f.state == copied {
			// A mover stopped, and what he left has ended; perhaps not the session.
			err := e.p.from.Load(ctx, end.ID, new(store.Record))
			if err == nil || isDead(err) {
				if err := e.new.Ack(ctx, app, []string{end.Key}); err != nil {
					return nil, err
				}
				continue
			}
			if !errors.Is(err, store.ErrNotFound) {
				continue // it comes again after its lease
			}
		}
		end.Key, end.Record = ofNew+end.Key, f.Record
		all = append(all, end)
	}
	if e.p.stays != nil || limit > 0 && len(ends) >= limit {
		return all, nil // the new store reaches all there is, or there is no room
	}
	ends, err = e.old.Ended(ctx, app, limit-len(ends), lease)
	if err != nil && len(all) == 0 {
		return nil, err
	}
	for _, end := range ends {
		end.Key = ofOld + end.Key
		all = append(all, end)
	}
	return all, nil // with those that are claimed already
}

// Ack implements [store.Ender].
func (e pairEnder) Ack(ctx context.Context, app string, keys []string) error {
	var old, new []string
	for _, key := range keys {
		if k, ok := strings.CutPrefix(key, ofOld); ok {
			old = append(old, k)
		} else if k, ok := strings.CutPrefix(key, ofNew); ok {
			new = append(new, k)
		}
	}
	var errs [2]error
	if len(new) > 0 {
		errs[0] = e.new.Ack(ctx, app, new)
	}
	if len(old) > 0 {
		errs[1] = e.old.Ack(ctx, app, old)
	}
	return errors.Join(errs[:]...)
}

// pairLister lists the sessions of both stores.
type pairLister struct {
	p        *pair
	old, new store.Lister
}

// List implements [store.Lister]: first the sessions of the old place, then those of
// the new, so that one that moves meanwhile may be listed twice and is never left out.
func (l pairLister) List(ctx context.Context, q store.Query) (page []store.Listed, next string, err error) {
	after, inNew := strings.CutPrefix(q.After, ofNew)
	if !inNew {
		var inOld bool
		if after, inOld = strings.CutPrefix(q.After, ofOld); q.After != "" && !inOld {
			return nil, "", fmt.Errorf("migrate: Query.After is %q, which is not from a List of these stores", q.After)
		}
		inNew = l.p.stays != nil // the new store reaches all there is
	}
	q.After = after
	if !inNew {
		page, next, err = l.old.List(ctx, q)
		switch {
		case err != nil:
			return nil, "", err
		case next != "":
			return page, ofOld + next, nil
		case q.Limit > 0 && len(page) == q.Limit:
			return page, ofNew, nil
		}
		if q.After = ""; q.Limit > 0 {
			q.Limit -= len(page)
		}
	}
	more, next, err := l.new.List(ctx, q)
	if err != nil {
		return nil, "", err
	}
	for _, one := range more {
		f := found{Record: one.Record}
		if f.read(); f.state != reserved {
			one.Record = f.Record
			page = append(page, one)
		}
	}
	if next != "" {
		next = ofNew + next
	}
	return page, next, nil
}
