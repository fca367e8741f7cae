package sqlstore

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-session/holdfast/store"
)

// A gathering lets calls that come while others of their kind are at the database be made
// together, in one statement: the more there is to do, the less each costs. A call that
// finds nobody there is not held up.
//
// Where there is an undo, a call is made to its end although its caller has gone: a
// statement that is broken off may be carried out by the server later, when nobody can tell.
type gathering struct {
	together func(ctx context.Context, calls []*call) // fills in what each call comes to
	single   func(ctx context.Context, c *call)       // the same for one call, with the statement for one; where there is an undo
	undo     func(c *call)                            // of a call that was perhaps made after its caller had gone; may be nil
	spawn    func(func())
	least    int           // how many are made together at least: two, and one in tests
	patience time.Duration // how long calls wait for those before them: patience, and more in a test

	mu      sync.Mutex
	running int     // how many statements are at the database
	waiting []*call // for one of these to come back
}

const (
	// maxTogether is how many calls are made together at most, a power of two. So many do
	// not wait for those before them to come back.
	maxTogether = 16
	// mostTogether is how large a content may be that is written together with others.
	mostTogether = 32 << 10
	// goesOn is how long a call is made whose caller has gone.
	goesOn = 10 * time.Second
	// patience is not longer because a connection that is dead must not hold up all others.
	patience = 100 * time.Millisecond
)

// A call is one of those that wait.
type call struct {
	ctx   context.Context
	id    key
	a     args
	ready chan struct{} // closed when what follows is known

	lead    bool // it is to be made by itself, and others started after it; under the mutex
	left    bool // its caller has gone; under the mutex
	made    bool // what follows is known; under the mutex
	alone   bool // it is to be made by itself
	changed bool // it has changed its row
	unsure  bool // it is not known whether it has
	row     *row // that it read, or nil
	err     error
}

// do makes a call together with others, or by itself: with single where there is an undo,
// else with alone, and then it returns no call. Of one session no two are made together.
func (g *gathering) do(ctx context.Context, id key, a *args, alone func() error) (*call, error) {
	g.mu.Lock()
	if g.running == 0 && g.least > 1 {
		g.running = 1
		g.mu.Unlock()
		if g.undo != nil {
			return g.alone(ctx, &call{ctx: ctx, id: id, a: *a, lead: true})
		}
		defer g.back()
		return nil, alone()
	}
	c := &call{ctx: ctx, id: id, a: *a, ready: make(chan struct{})}
	if items, ok := a[pItems].([]byte); ok {
		c.a[pItems] = bytes.Clone(items) // it may be on its way yet when the caller has gone
	}
	g.waiting = append(g.waiting, c)
	if len(g.waiting) >= maxTogether || g.running == 0 {
		g.start()
	}
	g.mu.Unlock()

	late := time.NewTimer(g.patience)
	defer late.Stop()
	for ready := false; !ready; {
		select {
		case <-c.ready:
			ready = true
		case <-late.C:
			g.mu.Lock()
			if slices.Contains(g.waiting, c) {
				g.start()
				late.Reset(g.patience) // another call of its session may have gone first
			}
			g.mu.Unlock()
		case <-ctx.Done():
			g.mu.Lock()
			if i := slices.Index(g.waiting, c); i >= 0 {
				g.waiting = slices.Delete(g.waiting, i, i+1)
			}
			lead, made := c.lead, c.made
			c.left = true
			g.mu.Unlock()
			if lead {
				g.back()
			}
			if made && !c.alone && c.err == nil {
				return c, nil // with it, the caller knows what there is to undo
			}
			return nil, ctx.Err()
		}
	}
	if (c.lead || c.alone) && g.undo != nil {
		return g.alone(ctx, &call{ctx: ctx, id: id, a: c.a, lead: c.lead})
	}
	if c.lead {
		defer g.back()
	}
	if c.lead || c.alone {
		return nil, alone()
	}
	return c, c.err
}

// alone makes a call by itself, to its end also if its caller goes.
func (g *gathering) alone(ctx context.Context, c *call) (*call, error) {
	c.ready = make(chan struct{})
	g.spawn(func() {
		longer, cancel := context.WithCancel(context.WithoutCancel(ctx))
		defer cancel()
		defer context.AfterFunc(ctx, func() { time.AfterFunc(goesOn, cancel) })()
		g.single(longer, c)
		if c.lead {
			g.back()
		}
		g.finish(c)
	})
	select {
	case <-c.ready:
		return c, c.err
	case <-ctx.Done():
		g.mu.Lock()
		defer g.mu.Unlock()
		c.left = true
		if c.made && c.err == nil {
			return c, nil // with it, the caller knows what there is to undo
		}
		return nil, ctx.Err()
	}
}

// finish hands calls that were made to their callers, and undoes those of which that have
// gone.
func (g *gathering) finish(calls ...*call) {
	var left []*call
	g.mu.Lock()
	for _, c := range calls {
		c.made = true
		if c.left && (c.changed || c.unsure || c.err != nil) {
			left = append(left, c)
		}
	}
	g.mu.Unlock()
	for _, c := range calls {
		close(c.ready)
	}
	if g.undo != nil {
		for _, c := range left {
			g.undo(c)
		}
	}
}

// take returns the calls that can be made now. g.mu is held.
func (g *gathering) take() []*call {
	var calls, later []*call
	for _, c := range g.waiting {
		if len(calls) == maxTogether || slices.ContainsFunc(calls, func(other *call) bool { return other.id == c.id }) {
			later = append(later, c)
		} else {
			calls = append(calls, c)
		}
	}
	g.waiting = later
	return calls
}

// back is for who has come back from the database: it starts the calls that have gathered.
func (g *gathering) back() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.running--
	g.start()
}

// start starts the calls that can be made now. g.mu is held.
func (g *gathering) start() {
	calls := g.take()
	if len(calls) == 0 {
		return
	}
	g.running++
	if len(calls) < g.least {
		calls[0].lead = true
		close(calls[0].ready)
		return
	}
	g.spawn(func() { g.run(calls) })
}

// run makes some calls together. It goes on until all who wait for it are gone, with undo
// for a while longer.
func (g *gathering) run(calls []*call) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var gone atomic.Int32
	for _, c := range calls {
		defer context.AfterFunc(c.ctx, func() {
			switch {
			case gone.Add(1) != int32(len(calls)):
			case g.undo == nil:
				cancel()
			default:
				time.AfterFunc(goesOn, cancel)
			}
		})()
	}
	g.together(ctx, calls)
	g.back()
	g.finish(calls...)
}

// gathers lets the calls of a statement gather, of which all are the same for several
// sessions: one that changes them, or not, and reads them, or not.
func (s *Store) gathers(st *statement, all []*statement, changes, reads bool) {
	if len(all) == 0 {
		return
	}
	scan := func(rows *sql.Rows) (*keyed, error) {
		r := new(keyed)
		columns, err := rows.Columns()
		switch {
		case err != nil:
			return nil, err
		case reads:
			err = rows.Scan(append([]any{&r.id}, r.all()...)...)
			r.items = bytes.Clone(r.items)
		case len(columns) > 1: // what wakes somebody
			err = rows.Scan(&r.id, new(sql.RawBytes))
		default:
			err = rows.Scan(&r.id)
		}
		return r, err
	}
	single := func(ctx context.Context, c *call) {
		if changes && !s.d.returns() {
			var n int64
			n, c.err = s.exec(ctx, st, &c.a)
			c.changed = n > 0
			return
		}
		c.row, c.err = s.one(ctx, st, &c.a, changes, func(rows *sql.Rows) (*row, error) { // as the lock does
			r := new(row)
			err := rows.Scan(r.all()...)
			r.items = bytes.Clone(r.items)
			return r, err
		})
		c.changed = c.row != nil
	}
	st.gathering = &gathering{spawn: s.running.Go, single: single, least: 2, patience: patience, together: func(ctx context.Context, calls []*call) {
		i, a := 0, make([]*args, len(calls))
		for 2<<i < len(calls) {
			i++
		}
		for i, c := range calls {
			a[i] = &c.a
		}
		var err error
		if changes && !s.d.returns() {
			var n int64
			n, err = s.exec(ctx, all[i], a...)
			for _, c := range calls {
				c.changed = n == int64(len(calls))
				c.unsure = !c.changed // and has to look for itself
			}
		} else {
			var rows []*keyed
			rows, err = collect(ctx, s, all[i], changes, scan, a...)
			for _, r := range rows {
				if i := slices.IndexFunc(calls, func(c *call) bool { return bytes.Equal(c.id[:], r.id) }); i >= 0 {
					calls[i].changed, calls[i].row = true, &r.row
				}
			}
		}
		if err == nil {
			return
		}
		for _, c := range calls {
			if errors.Is(err, store.ErrUnsure) || ctx.Err() != nil {
				c.err = err
			} else {
				c.alone = true // what one of them is refused for is not for the others
			}
		}
	}}
}

// A keyed is a row with its key.
type keyed struct {
	id []byte
	row
}

// change runs a statement that changes a session or not, perhaps together with others. It
// returns how many it changed, or -1 if that is not known.
func (s *Store) change(ctx context.Context, st *statement, k key, a *args) (n int64, err error) {
	items, _ := a[pItems].([]byte)
	if st.gathering == nil || len(items) > mostTogether {
		return s.exec(ctx, st, a)
	}
	c, err := st.gathering.do(ctx, k, a, func() (err error) {
		n, err = s.exec(ctx, st, a)
		return err
	})
	switch {
	case c == nil:
	case c.changed:
		n = 1
	case c.unsure:
		n = -1
	}
	return n, err
}

// read runs a statement that returns a session in allColumns or nothing, perhaps together
// with others, and fills in rec if it is one that wanted wants.
func (s *Store) read(ctx context.Context, st *statement, k key, a *args, changes bool, rec *store.Record, wanted func(*row) bool) (r *row, err error) {
	alone := func() (err error) {
		r, err = s.one(ctx, st, a, changes, s.scanAll(k, rec, wanted))
		return err
	}
	if st.gathering == nil {
		err = alone()
		return r, err
	}
	c, err := st.gathering.do(ctx, k, a, alone)
	switch {
	case c == nil || err != nil:
		return r, err
	case c.row == nil || !wanted(c.row):
		return c.row, nil
	}
	return c.row, s.fillAll(k, c.row, rec)
}
