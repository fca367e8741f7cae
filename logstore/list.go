package logstore

import (
	"cmp"
	"context"
	"fmt"
	"hash/maphash"
	"slices"
	"strconv"
	"sync"

	"github.com/holdfast-session/holdfast/internal/cursor"
	"github.com/holdfast-session/holdfast/store"
)

// defaultPage is how many sessions List returns if it may choose.
const defaultPage = 1000

// subjects find the sessions of a subject, without pointers. A session without one is
// not in here.
type subjects struct {
	mu      sync.Mutex
	seed    maphash.Seed
	blocks  *blocks
	byName  map[uint64]uint32 // the first subject with a name of that hash
	list    []subject         // by number; 0 is none
	members []member          // by number; 0 is none
	freeS   []uint32
	freeM   []uint32
	last    uint64 // the order of the latest member
}

// A subject is somebody with sessions.
type subject struct {
	hash        uint64
	name        block
	size        uint32 // of name
	same        uint32 // the next one with a name of this hash
	first, last uint32 // members, in order of their coming
}

// A member is a session's place among those of its subject.
type member struct {
	order         uint64
	ref           uint32
	shard         uint16
	of            uint32
	before, after uint32
}

func (x *subjects) name(i uint32) []byte {
	return x.blocks.bytes(x.list[i].name)[:x.list[i].size]
}

// find returns the number of a subject, or 0.
func (x *subjects) find(name string, hash uint64) uint32 {
	i := x.byName[hash]
	for i != 0 && string(x.name(i)) != name {
		i = x.list[i].same
	}
	return i
}

// take returns a number of a list that is free, for which there is room then.
func take[T any](list *[]T, free *[]uint32) uint32 {
	if n := len(*free); n > 0 {
		i := (*free)[n-1]
		*free = (*free)[:n-1]
		return i
	}
	if len(*list) == 0 {
		*list = append(*list, *new(T)) // 0 is none
	}
	*list = append(*list, *new(T))
	return uint32(len(*list) - 1)
}

// join makes name the subject of e, which has none. Where there is no memory left for
// the name, it is not listed under it.
func (s *Store) join(sh uint16, ref uint32, e *entry, name string) {
	x := &s.subjects
	x.mu.Lock()
	defer x.mu.Unlock()
	hash := maphash.String(x.seed, name)
	of := x.find(name, hash)
	if of == 0 {
		b, ok := x.blocks.alloc(len(name))
		if !ok {
			return
		}
		copy(x.blocks.bytes(b), name)
		of = take(&x.list, &x.freeS)
		if x.byName == nil {
			x.byName = make(map[uint64]uint32)
		}
		x.list[of] = subject{hash: hash, name: b, size: uint32(len(name)), same: x.byName[hash]}
		x.byName[hash] = of
	}
	x.last++
	i := take(&x.members, &x.freeM)
	last := x.list[of].last
	x.members[i] = member{order: x.last, ref: ref, shard: sh, of: of, before: last}
	if last == 0 {
		x.list[of].first = i
	} else {
		x.members[last].after = i
	}
	x.list[of].last = i
	e.member = i
}

// part takes e from its subject, if it has one.
func (s *Store) part(e *entry) {
	if e.member == 0 {
		return
	}
	x := &s.subjects
	x.mu.Lock()
	defer x.mu.Unlock()
	m, of := x.members[e.member], &x.list[x.members[e.member].of]
	if m.before == 0 {
		of.first = m.after
	} else {
		x.members[m.before].after = m.after
	}
	if m.after == 0 {
		of.last = m.before
	} else {
		x.members[m.after].before = m.before
	}
	x.members[e.member] = member{}
	x.freeM = append(x.freeM, e.member)
	e.member = 0
	if of.first != 0 {
		return
	}
	if i := x.byName[of.hash]; i == m.of && of.same == 0 {
		delete(x.byName, of.hash)
	} else if i == m.of {
		x.byName[of.hash] = of.same
	} else {
		for x.list[i].same != m.of {
			i = x.list[i].same
		}
		x.list[i].same = of.same
	}
	x.blocks.release(of.name)
	*of = subject{}
	x.freeS = append(x.freeS, m.of)
	if len(x.byName) == 0 { // nothing of this shrinks by itself
		x.byName, x.list, x.members, x.freeS, x.freeM = nil, nil, nil, nil, nil
	}
}

// of appends up to limit members of a subject that came after the given one, with
// their numbers.
func (x *subjects) of(some []numbered, name string, after uint64, limit int) []numbered {
	x.mu.Lock()
	defer x.mu.Unlock()
	of := x.find(name, maphash.String(x.seed, name))
	if of == 0 {
		return some
	}
	for i := x.list[of].first; i != 0 && len(some) < limit; i = x.members[i].after {
		if x.members[i].order > after {
			some = append(some, numbered{i, x.members[i]})
		}
	}
	return some
}

type numbered struct {
	number uint32
	member
}

// List implements [store.Lister]. A subject's sessions are found in an index, in the
// order in which they became the subject's, or after a restart in any. Other lists are
// in no order that means anything, and each page looks at every session of the part of
// the store that it is from (a sixty-fourth), or at all of them where few match.
//
// A page of no given length has up to 1,000 sessions.
func (s *Store) List(ctx context.Context, q store.Query) (page []store.Listed, next string, err error) {
	if q.Limit <= 0 {
		q.Limit = defaultPage
	}
	if s.closed.Load() {
		return nil, "", unavailable(errClosed)
	}
	var seq uint64
	if q.Subject != "" {
		page, next, seq, err = s.listSubject(ctx, q)
	} else {
		page, next, seq, err = s.listAll(ctx, q)
	}
	if err == nil {
		err = s.shown(seq)
	}
	if err != nil {
		return nil, "", err
	}
	return page, next, nil
}

func (s *Store) listSubject(ctx context.Context, q store.Query) (page []store.Listed, next string, seq uint64, err error) {
	after := uint64(0)
	if q.After != "" {
		if after, err = strconv.ParseUint(q.After, 36, 64); err != nil {
			return nil, "", 0, badCursor(q)
		}
	}
	var some []numbered
	for {
		if err := ctx.Err(); err != nil {
			return nil, "", 0, err
		}
		some = s.subjects.of(some[:0], q.Subject, after, q.Limit+1-len(page))
		if len(some) == 0 {
			return page, "", seq, nil
		}
		for _, m := range some {
			one, at, there := s.listed(&s.shard[m.shard], m.ref, func(e *entry) bool {
				return e.member == m.number && string(s.subject(e)) == q.Subject && (q.App == "" || s.apps.name(e.app) == q.App)
			})
			switch {
			case there && len(page) == q.Limit:
				return page, strconv.FormatUint(after, 36), seq, nil
			case there:
				page, seq = append(page, one), max(seq, at)
			}
			after = m.order
		}
	}
}

// listed returns the session of a number, if it is the one that was meant, and its
// latest record.
func (s *Store) listed(sh *shard, ref uint32, is func(*entry) bool) (one store.Listed, seq uint64, there bool) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	e := sh.entries.there(ref)
	now := s.now()
	if e == nil || e.size == 0 || now >= e.deadline || !is(e) {
		return store.Listed{}, 0, false
	}
	one.ID = s.id(e)
	s.read(sh, e, &one.Record, now)
	return one, e.seq, true
}

func badCursor(q store.Query) error {
	return fmt.Errorf("logstore: Query.After is %q, which is not from a List of the same sessions", q.After)
}

func (s *Store) listAll(ctx context.Context, q store.Query) (page []store.Listed, next string, seq uint64, err error) {
	after, err := cursor.Parse(q.After)
	if err != nil {
		return nil, "", 0, badCursor(q)
	}
	begun := q.After != ""
	var some []slot
	for i := after.Key >> 32; i < shards; i++ {
		if err := ctx.Err(); err != nil {
			return nil, "", 0, err
		}
		sh := &s.shard[i]
		first := uint32(0)
		if i == after.Key>>32 {
			first = uint32(after.Key)
		}
		some = sh.from(some[:0], first)
		slices.SortFunc(some, func(a, b slot) int { return cmp.Compare(a.tag, b.tag) })
		for len(some) > 0 {
			same := 1
			for same < len(some) && some[same].tag == some[0].tag {
				same++
			}
			for _, one := range s.sameTag(sh, i, some[:same], after, begun, q.App) {
				if len(page) == q.Limit {
					return page, after.String(), seq, nil
				}
				page, seq = append(page, one.Listed), max(seq, one.seq)
				after, begun = cursor.Cursor{Key: i<<32 | uint64(some[0].tag), ID: one.ID}, true
			}
			some = some[same:]
		}
	}
	return page, "", seq, nil
}

type listedAt struct {
	store.Listed
	seq uint64
}

// sameTag returns the sessions of one tag that come after a cursor, in the order of
// their IDs.
func (s *Store) sameTag(sh *shard, i uint64, same []slot, after cursor.Cursor, begun bool, app string) (list []listedAt) {
	for _, at := range same {
		one, seq, there := s.listed(sh, at.ref, func(e *entry) bool {
			if app != "" && s.apps.name(e.app) != app {
				return false
			}
			id := s.id(e)
			here := cursor.Cursor{Key: i<<32 | uint64(at.tag), ID: id}
			return tag(keyOf(id)) == at.tag && (!begun || here.Compare(after) > 0)
		})
		if there {
			list = append(list, listedAt{one, seq})
		}
	}
	slices.SortFunc(list, func(a, b listedAt) int { return cursor.Cursor{ID: a.ID}.Compare(cursor.Cursor{ID: b.ID}) })
	return list
}

// from appends the sessions whose tag is at least that.
func (sh *shard) from(list []slot, tag uint32) []slot {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	for _, at := range sh.index.slots {
		if at.ref != 0 && at.tag >= tag {
			list = append(list, at)
		}
	}
	return list
}
