package inproc

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/holdfast-session/holdfast/internal/cursor"
	"github.com/holdfast-session/holdfast/store"
)

// defaultPage is how many sessions List returns if it may choose.
const defaultPage = 1000

// subjects find the sessions of a subject. A session without one is not in here, and
// its entry has a nil pointer.
type subjects struct {
	mu     sync.Mutex
	byName map[string]*subject
	last   uint64 // the order of the latest member
}

// A subject is somebody with sessions. Its name never changes.
type subject struct {
	name        string
	first, last *member // in order of their coming
}

// A member is a session's place among those of its subject.
type member struct {
	of            *subject
	e             *entry
	order         uint64
	before, after *member
}

// owner is the session's subject.
func (e *entry) owner() string {
	if e.subject == nil {
		return ""
	}
	return e.subject.of.name
}

// set makes name the subject of e.
func (x *subjects) set(e *entry, name string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.leave(e)
	e.subject = nil
	if name == "" {
		return
	}
	of := x.byName[name]
	if of == nil {
		if x.byName == nil {
			x.byName = make(map[string]*subject)
		}
		of = &subject{name: strings.Clone(name)}
		x.byName[of.name] = of
	}
	x.last++
	m := &member{of: of, e: e, order: x.last, before: of.last}
	if of.last == nil {
		of.first = m
	} else {
		of.last.after = m
	}
	of.last = m
	e.subject = m
}

// remove takes e, which ends, out of the index. It keeps its subject's name.
func (x *subjects) remove(e *entry) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.leave(e)
}

func (x *subjects) leave(e *entry) {
	m := e.subject
	if m == nil {
		return
	}
	of := m.of
	if m.before == nil {
		of.first = m.after
	} else {
		m.before.after = m.after
	}
	if m.after == nil {
		of.last = m.before
	} else {
		m.after.before = m.before
	}
	m.before, m.after = nil, nil
	if of.first == nil {
		delete(x.byName, of.name)
		if len(x.byName) == 0 {
			x.byName = nil // a map does not shrink by itself
		}
	}
}

// members appends up to limit members of a subject in one application (in all, if
// app is empty) that came after the given one.
func (x *subjects) members(list []*member, q store.Query, after uint64, limit int) []*member {
	x.mu.Lock()
	defer x.mu.Unlock()
	of := x.byName[q.Subject]
	if of == nil {
		return list
	}
	for m := of.first; m != nil && len(list) < limit; m = m.after {
		if m.order > after && (q.App == "" || m.e.app.Value() == q.App) {
			list = append(list, m)
		}
	}
	return list
}

// List implements [store.Lister]. A subject's sessions are found in an index, in the
// order in which they became the subject's. Other lists are in no order that means
// anything, and each page looks at every session of the part of the store that it is
// from (a sixty-fourth), or at all of them where few match.
//
// A page of no given length has up to 1,000 sessions.
func (s *Store) List(ctx context.Context, q store.Query) (page []store.Listed, next string, err error) {
	if q.Limit <= 0 {
		q.Limit = defaultPage
	}
	if s.behind != nil {
		return s.listBehind(ctx, q)
	}
	if q.Subject != "" {
		return s.listSubject(ctx, q)
	}
	return s.listAll(ctx, q)
}

func (s *Store) listSubject(ctx context.Context, q store.Query) (page []store.Listed, next string, err error) {
	after := uint64(0)
	if q.After != "" {
		if after, err = strconv.ParseUint(q.After, 36, 64); err != nil {
			return nil, "", badCursor(q)
		}
	}
	var some []*member
	for {
		if err := ctx.Err(); err != nil {
			return nil, "", err
		}
		some = s.subjects.members(some[:0], q, after, q.Limit+1-len(page))
		if len(some) == 0 {
			return page, "", nil
		}
		for _, m := range some {
			one, there := s.listed(s.key(m.e.id()), m.e, m)
			switch {
			case there && len(page) == q.Limit:
				return page, strconv.FormatUint(after, 36), nil
			case there:
				page = append(page, one)
			}
			after = m.order
		}
	}
}

// listed returns the session of an entry, if it is still there and m, if not nil,
// still tells whose it is.
func (s *Store) listed(key uint64, e *entry, m *member) (one store.Listed, there bool) {
	sh := s.of(key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	now := s.now()
	if sh.sessions.get(key, e.id()) != e || now >= e.deadline || m != nil && e.subject != m {
		return store.Listed{}, false
	}
	one.ID = e.id()
	bare := *e
	bare.content = nil
	bare.read(&one.Record, now)
	return one, true
}

func badCursor(q store.Query) error {
	return fmt.Errorf("inproc: Query.After is %q, which is not from a List of the same sessions", q.After)
}

func (s *Store) listAll(ctx context.Context, q store.Query) (page []store.Listed, next string, err error) {
	after, err := cursor.Parse(q.After)
	if err != nil {
		return nil, "", badCursor(q)
	}
	begun := q.After != ""
	var some []slot
	for i := after.Key >> shardShift; i < shards; i++ {
		if err := ctx.Err(); err != nil {
			return nil, "", err
		}
		some = s.shard[i].from(some[:0], after.Key)
		slices.SortFunc(some, func(a, b slot) int {
			if a.key != b.key {
				return cmp.Compare(a.key, b.key) // without a look at the sessions
			}
			return cursor.Cursor{Key: a.key, ID: a.e.id()}.Compare(cursor.Cursor{Key: b.key, ID: b.e.id()})
		})
		for _, at := range some {
			here := cursor.Cursor{Key: at.key, ID: at.e.id()}
			if begun && here.Compare(after) <= 0 || q.App != "" && here.ID.App != q.App {
				continue
			}
			one, there := s.listed(at.key, at.e, nil)
			switch {
			case there && len(page) == q.Limit:
				return page, after.String(), nil
			case there:
				page = append(page, one)
				after, begun = here, true
			}
		}
	}
	return page, "", nil
}

// from appends the sessions whose key is at least that.
func (sh *shard) from(list []slot, key uint64) []slot {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	for _, at := range sh.sessions.slots {
		if at.e != nil && at.key >= key {
			list = append(list, at)
		}
	}
	return list
}
