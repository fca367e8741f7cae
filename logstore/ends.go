package logstore

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-session/holdfast/logstore/internal/wal"
	"github.com/holdfast-session/holdfast/store"
)

// defaultEnds is more than end within a second in any store that people use.
const defaultEnds = 1 << 20

// endBytes is what an end takes besides its session's entry and names.
const endBytes = 320

// ends remember sessions that ended until somebody has taken notice. What they last
// held stays where it is in the log, and in memory only while there is room.
type ends struct {
	on      atomic.Bool // whether any are remembered: what every end asks, without the mutex
	garbage atomic.Bool // whether dropped has any

	mu       sync.Mutex
	max      int   // how many; 0 for none
	maxBytes int64 // what they may take in memory, besides bodies
	maxDisk  int64 // what they may take in log and snapshot
	always   bool  // also of applications that nobody has asked for
	closed   bool
	apps     map[string]*appEnds
	all      list.List // of *end, oldest first
	byName   map[uint64]*end
	byPlace  map[place]*end
	bytes    int64
	disk     int64
	dropped  []*end // to be given back, under the mutex of their shard
	acked    []ack  // of which the disk may not know yet
}

// A place is where a record begins.
type place struct{ segment, offset uint32 }

func placeOf(at wal.At) place { return place{at.Segment, at.Offset} }

// An ack is an end that somebody took notice of, with the record that says so.
type ack struct{ name, seq uint64 }

// appEnds are the ends of one application.
type appEnds struct {
	seq     uint64    // of the record that somebody wants them
	waiting list.List // of *end: for somebody to claim them, oldest first
	claimed list.List // in the order of their claims
}

// An end is a session that ended. Its entry stays where it was, in no index. What
// changes is guarded by ends.mu, and gone, prefix and the entry by the shard: both
// change where the content is.
type end struct {
	name  uint64
	why   why
	shard *shard
	ref   uint32
	of    *appEnds
	cost  int64 // in memory
	size  int64 // in log and snapshot

	gone   bool   // its entry was given back
	prefix uint32 // what the record with its content has before that

	seq     uint64 // of the record that says it ended
	at      place  // where the record with its content is
	taken   bool   // it is in of.claimed, not in of.waiting
	claimed int64  // when, by Store.now
	byAge   *list.Element
	byApp   *list.Element
}

// draw returns a name for an end. Names are random, so that no process meets those
// of another.
func (x *ends) draw() uint64 { return rand.Uint64() }

// wants reports whether ends of an application are remembered.
func (x *ends) wants(app string) bool {
	if !x.on.Load() {
		return false
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.max > 0 && (x.always || x.apps[app] != nil)
}

// app returns the ends of an application, which are remembered from now on.
func (x *ends) app(name string) *appEnds {
	a := x.apps[name]
	if a == nil {
		a = new(appEnds)
		if x.apps == nil {
			x.apps = make(map[string]*appEnds)
		}
		x.apps[strings.Clone(name)] = a
		x.on.Store(true)
	}
	return a
}

// addEnd remembers an end, whose session is in no index any more, and drops the oldest
// if there is no room.
func (s *Store) addEnd(e *end, session *entry) {
	x := &s.ends
	e.cost = endBytes + int64(session.size) - s.bodySize(session)
	e.size = int64(s.recordSize(session)) + e.cost // which is more than a snapshot needs
	e.at = place{session.segment, session.offset}
	e.why.to = strings.Clone(e.why.to)
	x.mu.Lock()
	defer x.mu.Unlock()
	e.of = x.app(s.apps.name(session.app))
	if x.byName == nil {
		x.byName, x.byPlace = make(map[uint64]*end), make(map[place]*end)
	}
	x.byName[e.name] = e
	x.byPlace[e.at] = e
	e.byAge = x.all.PushBack(e)
	e.byApp = e.of.waiting.PushBack(e)
	x.bytes += e.cost
	x.disk += e.size
	for x.all.Len() > x.max || x.bytes > x.maxBytes || x.disk > x.maxDisk {
		x.drop(x.all.Front().Value.(*end))
	}
}

// drop forgets an end, which is there. What it takes is given back by reap.
func (x *ends) drop(e *end) {
	x.all.Remove(e.byAge)
	if e.taken {
		e.of.claimed.Remove(e.byApp)
	} else {
		e.of.waiting.Remove(e.byApp)
	}
	delete(x.byName, e.name)
	delete(x.byPlace, e.at)
	x.bytes -= e.cost
	x.disk -= e.size
	x.dropped = append(x.dropped, e)
	x.garbage.Store(true)
}

// reap gives back what ends took that were dropped. The caller has no shard.
func (s *Store) reap() {
	x := &s.ends
	if !x.garbage.Load() {
		return
	}
	x.mu.Lock()
	dropped := x.dropped
	x.dropped = nil
	x.garbage.Store(false)
	x.mu.Unlock()
	for _, e := range dropped {
		e.shard.mu.Lock()
		e.gone = true
		s.discard(e.shard, e.ref, e.shard.entries.at(e.ref), e.prefix)
		e.shard.mu.Unlock()
	}
}

// claim returns ends of an application and remembers when: first those whose claim
// is older than lease, then those that nobody has claimed.
func (x *ends) claim(a *appEnds, limit int, now int64, lease time.Duration) (claimed []*end, seq uint64) {
	for len(claimed) < limit {
		var e *end
		if first := a.claimed.Front(); first != nil {
			e = first.Value.(*end)
		}
		if e != nil && now-e.claimed > int64(lease) && e.claimed != now {
			a.claimed.Remove(e.byApp)
		} else if first := a.waiting.Front(); first != nil {
			e = first.Value.(*end)
			a.waiting.Remove(first)
		} else {
			break
		}
		e.byApp = a.claimed.PushBack(e)
		e.taken, e.claimed = true, now
		claimed = append(claimed, e)
		seq = max(seq, e.seq)
	}
	return claimed, seq
}

// Ended implements [store.Ender]. The ends of an application are remembered from
// the first call of Ended for it on, also over restarts (or all along, see
// [Options].Ends): a Manager with OnEnd calls it once before its first session. With
// the limit 0 it claims nothing and does just that.
//
// Ends come oldest first, those before all others whose claimer did not acknowledge
// them in time; after a restart all are as if nobody had claimed them. An expired
// session has its end as soon as a call has met it, and about a second later at the
// latest. A session that was damaged may come without its content.
func (s *Store) Ended(ctx context.Context, app string, limit int, lease time.Duration) ([]store.End, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	now := s.now()
	claimed, seq, err := s.claimEnds(app, limit, now, lease)
	if err != nil {
		return nil, unavailable(err)
	}
	if err := s.log.CommitEnd(seq); err != nil {
		return nil, unavailable(err)
	}
	var ended []store.End
	for _, e := range claimed {
		one := store.End{Key: strconv.FormatUint(e.name, 36), Reason: e.why.reason(now)}
		there, err := s.lastHeld(e, &one, now)
		if err != nil {
			return nil, unavailable(err) // they come again
		}
		if there {
			ended = append(ended, one)
		}
	}
	return ended, nil
}

// claimEnds claims ends, and returns the record to wait for before they are told.
func (s *Store) claimEnds(app string, limit int, now int64, lease time.Duration) ([]*end, uint64, error) {
	x := &s.ends
	x.mu.Lock()
	defer x.mu.Unlock()
	switch {
	case x.closed:
		return nil, 0, errClosed
	case x.max <= 0:
		return nil, 0, nil
	}
	a := x.apps[app]
	if a == nil || a.seq == 0 && !x.always {
		_, seq, err := s.append(endRecord(0), typeApp, wal.End, []byte(app), nil)
		if err != nil {
			return nil, 0, err
		}
		a = x.app(app)
		a.seq = seq
	}
	claimed, seq := x.claim(a, limit, now, lease)
	return claimed, max(seq, a.seq), nil
}

// lastHeld reads what an end's session last held, unless the end is gone.
func (s *Store) lastHeld(e *end, to *store.End, now int64) (there bool, err error) {
	for {
		e.shard.mu.Lock()
		if e.gone {
			e.shard.mu.Unlock()
			return false, nil
		}
		session := e.shard.entries.at(e.ref)
		to.ID = s.id(session)
		s.read(e.shard, session, &to.Record, now)
		if !session.cold() {
			_, _, body := names(s.content(session))
			to.Record.Body = append(to.Record.Body, body...)
			e.shard.mu.Unlock()
			return true, nil
		}
		at, key := s.place(session), keyOf(to.ID)
		if at.Size += e.prefix; e.prefix > 0 {
			key = endRecord(e.name)
		}
		size, skip := session.size, e.prefix
		e.shard.mu.Unlock()

		payload, err := s.log.Read(at, key, nil)
		if err == nil {
			_, content, malformed := parsePut(payload[min(int(skip), len(payload)):])
			if malformed == nil && len(content) == int(size) {
				_, _, to.Record.Body = names(content)
				return true, nil
			}
			err = wal.ErrDamaged
		}
		e.shard.mu.Lock()
		moved := e.gone || !e.shard.entries.at(e.ref).in(at)
		e.shard.mu.Unlock()
		switch {
		case moved:
		case errors.Is(err, wal.ErrDamaged):
			s.logger.Error("logstore: the content of a session that ended cannot be read any more", "segment", at.Segment, "offset", at.Offset)
			return true, nil
		default:
			return false, err
		}
	}
}

// Ack implements [store.Ender].
func (s *Store) Ack(ctx context.Context, app string, keys []string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	last, err := s.ackEnds(app, keys)
	s.reap()
	if err == nil && last > 0 {
		err = s.log.CommitEnd(last)
	}
	switch {
	case err == nil:
		return nil
	case last == 0:
		return unavailable(err)
	}
	return fmt.Errorf("%w: %w", store.ErrUnsure, err)
}

// ackEnds forgets ends, and returns the record to wait for.
func (s *Store) ackEnds(app string, keys []string) (last uint64, err error) {
	x := &s.ends
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.closed {
		return 0, errClosed
	}
	a := x.apps[app]
	if a == nil {
		return 0, nil
	}
	synced := s.log.Synced()
	for len(x.acked) > 0 && x.acked[0].seq <= synced {
		x.acked = x.acked[1:]
	}
	for _, key := range keys {
		name, err := strconv.ParseUint(key, 36, 64)
		e := x.byName[name]
		if err != nil || e == nil || e.of != a {
			continue
		}
		_, seq, err := s.append(endRecord(name), typeAck, wal.End, nil, nil)
		if err != nil {
			return last, err
		}
		last = seq
		x.acked = append(x.acked, ack{name, seq})
		x.drop(e)
	}
	return last, nil
}
