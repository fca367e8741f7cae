package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/puzpuzpuz/xsync/v4"

	"github.com/holdfast-session/holdfast/inproc"
	"github.com/holdfast-session/holdfast/items"
	"github.com/holdfast-session/holdfast/store"
)

var inprocRow = row{
	name:  "inproc",
	title: "InProc: sessions in this process",
	note: "A session of five values is looked up, locked, its counter incremented, and its timeout restarted: always the same (hot), or any of very many that are in no cache of the processor (cold). " +
		"\"Without values\" only copies the session's bytes out and in. The map has what people write by hand: a concurrent map of structs with a mutex and a map[string]any.",
	metrics: []metric{metricTime, metricAllocs, metricHeap},
	cells:   inprocCells,
}

func inprocCells(s *suite) ([]cell, error) {
	hot, err := inprocCell(s, "hot", 1)
	if err != nil {
		return nil, err
	}
	cold, err := inprocCell(s, fmt.Sprintf("cold, %s sessions", number(float64(s.cold))), s.cold)
	if err != nil {
		return nil, err
	}
	touch := fmt.Sprintf("touch, %s sessions", number(float64(s.cold)))
	sessions, err := oursInproc(s, s.cold)
	if err != nil {
		return nil, err
	}
	return []cell{hot, cold, {touch, []side{timed("holdfast inproc", sessions.touch)}}}, nil
}

func inprocCell(s *suite, name string, count int) (cell, error) {
	ours, err := oursInproc(s, count)
	if err != nil {
		return cell{}, err
	}
	peer := newMapSessions(count)
	return cell{name, []side{
		timed(oursInprocName, ours.increment),
		timed("holdfast inproc, without values", ours.cycle),
		timed("xsync, map[string]any and a mutex", peer.increment),
	}}, nil
}

const oursInprocName = "holdfast inproc and items"

// inprocSessions are sessions of our store, in the order in which they are asked
// for.
type inprocSessions struct {
	store *inproc.Store
	ids   []store.ID
	hits  *items.Codec[int]
	next  int
	rec   store.Record
	item  items.Item
	body  []byte
}

func oursInproc(s *suite, count int) (*inprocSessions, error) {
	c, _, err := itemsCodec()
	if err != nil {
		return nil, err
	}
	body, err := c.encode(nil)
	if err != nil {
		return nil, err
	}
	p := &inprocSessions{store: inproc.New(&inproc.Options{MaxBytes: -1}), ids: make([]store.ID, count)}
	s.later(func() { p.store.Close() })
	if p.hits, err = items.NewCodec[int](); err != nil {
		return nil, err
	}
	for i := range p.ids {
		p.ids[i] = store.ID{App: "/", Session: sessionKey(0, i)}
		rec := store.Record{Version: store.NewVersion(), Timeout: 20 * time.Minute, Body: body}
		if err := p.store.Create(context.Background(), p.ids[i], &rec, false); err != nil {
			return nil, err
		}
	}
	shuffle(p.ids)
	return p, nil
}

// shuffle puts sessions into an order that is the same for all contenders.
func shuffle[T any](all []T) {
	rand.New(rand.NewPCG(1, 2)).Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
}

func (p *inprocSessions) id() store.ID {
	p.next = (p.next + 1) % len(p.ids)
	return p.ids[p.next]
}

// cycle is what a request costs at the store.
func (p *inprocSessions) cycle(n int) error {
	ctx := context.Background()
	for range n {
		id := p.id()
		if err := p.store.Lock(ctx, id, store.LockOptions{Owner: 7, Stale: 20 * time.Second}, &p.rec); err != nil {
			return err
		}
		if err := p.store.Save(ctx, id, &p.rec, store.NewVersion(), false); err != nil {
			return err
		}
	}
	return nil
}

// increment also reads the values' names, one value, and writes it.
func (p *inprocSessions) increment(n int) error {
	ctx := context.Background()
	for range n {
		id := p.id()
		if err := p.store.Lock(ctx, id, store.LockOptions{Owner: 7, Stale: 20 * time.Second}, &p.rec); err != nil {
			return err
		}
		if err := p.item.Parse(p.rec.Body); err != nil {
			return err
		}
		var hits int
		if err := get(&p.item, "hits", p.hits, &hits); err != nil {
			return err
		}
		if err := set(&p.item, "hits", p.hits, hits+1); err != nil {
			return err
		}
		var err error
		if p.body, err = p.item.Append(p.body[:0]); err != nil {
			return err
		}
		// What was read is not needed any more: the item is parsed anew next time.
		p.rec.Body, p.body = p.body, p.rec.Body
		if err := p.store.Save(ctx, id, &p.rec, store.NewVersion(), false); err != nil {
			return err
		}
	}
	return nil
}

func (p *inprocSessions) touch(n int) error {
	for range n {
		if err := p.store.Touch(context.Background(), p.id()); err != nil {
			return err
		}
	}
	return nil
}

// mapSessions are what an application would write by hand.
type mapSessions struct {
	sessions *xsync.Map[string, *mapSession]
	keys     []string
	next     int
}

type mapSession struct {
	mu      sync.Mutex
	values  map[string]any
	expires time.Time
}

func newMapSessions(count int) *mapSessions {
	p := &mapSessions{sessions: xsync.NewMap[string, *mapSession](), keys: make([]string, count)}
	for i := range p.keys {
		p.keys[i] = sessionKey(0, i)
		p.sessions.Store(p.keys[i], &mapSession{values: fiveValues.toMap(), expires: time.Now().Add(20 * time.Minute)})
	}
	shuffle(p.keys)
	return p
}

func (p *mapSessions) increment(n int) error {
	for range n {
		p.next = (p.next + 1) % len(p.keys)
		s, ok := p.sessions.Load(p.keys[p.next])
		if !ok {
			return store.ErrNotFound
		}
		s.mu.Lock()
		s.values["hits"] = s.values["hits"].(int) + 1
		s.expires = time.Now().Add(20 * time.Minute)
		s.mu.Unlock()
	}
	return nil
}
