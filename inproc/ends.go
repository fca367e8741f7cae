package inproc

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-session/holdfast/store"
)

// defaultEnds is more than end within a second in any store that people use.
const defaultEnds = 1 << 20

// endOverhead is what an end takes besides its session.
const endOverhead = 144

// ends remember sessions that ended until somebody has taken notice.
//
// A session that has ended is changed by nobody any more, so its entry is kept as
// it is, and read without a lock.
type ends struct {
	on atomic.Bool // whether any are remembered: what every end asks, without the mutex

	mu       sync.Mutex
	max      int   // how many; 0 for none
	maxBytes int64 // what they may take
	always   bool  // also of applications that nobody has asked for
	apps     map[string]*appEnds
	all      endList // oldest first
	bytes    int64
	next     uint64 // the key of the next one; it begins anywhere, so that no key of another process is known here
}

// appEnds are the ends of one application.
type appEnds struct {
	waiting   endList         // for somebody to claim them, oldest first
	claimed   endList         // in the order of their claims
	claimants map[uint64]*end // the claimed ones by their key
}

// An end is a session that ended. Its last fields change, under ends.mu.
type end struct {
	of      *appEnds
	session *entry
	key     uint64
	at      int64 // when it ended, by Store.now
	to      string
	kind    store.Kind

	taken   bool  // it is in of.claimed, not in of.waiting
	claimed int64 // when, by Store.now
	links   [2]struct{ before, after *end }
}

// An endList is a list of ends, linked through one of the two places that an end
// has for that.
type endList struct {
	first, last *end
	len         int
	place       uint8
}

// The places.
const (
	byAge uint8 = iota
	byApp
)

func (l *endList) push(e *end) {
	e.links[l.place].before, e.links[l.place].after = l.last, nil
	if l.last == nil {
		l.first = e
	} else {
		l.last.links[l.place].after = e
	}
	l.last = e
	l.len++
}

func (l *endList) remove(e *end) {
	at := &e.links[l.place]
	if at.before == nil {
		l.first = at.after
	} else {
		at.before.links[l.place].after = at.after
	}
	if at.after == nil {
		l.last = at.before
	} else {
		at.after.links[l.place].before = at.before
	}
	at.before, at.after = nil, nil
	l.len--
}

// app returns the ends of an application, which are remembered from now on.
func (x *ends) app(name string) *appEnds {
	a := x.apps[name]
	if a == nil {
		a = &appEnds{waiting: endList{place: byApp}, claimed: endList{place: byApp}}
		if x.apps == nil {
			x.apps = make(map[string]*appEnds)
		}
		x.apps[strings.Clone(name)] = a
	}
	return a
}

// add remembers a session that ended why.Age before now, if it has an end and
// anybody wants to know, and drops the oldest ends if there is no room.
func (x *ends) add(e *entry, why store.Reason, now int64) {
	if !x.on.Load() || why.Kind == store.Moved || e.flags&store.Uninitialized != 0 {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	a := x.apps[e.app.Value()]
	if a == nil {
		if !x.always {
			return
		}
		a = x.app(e.app.Value())
	}
	end := &end{of: a, session: e, key: x.next, at: now - int64(why.Age), to: strings.Clone(why.To), kind: why.Kind}
	x.next++
	x.all.push(end)
	a.waiting.push(end)
	x.bytes += end.cost()
	for x.all.len > x.max || x.bytes > x.maxBytes {
		x.forget(x.all.first)
	}
}

func (e *end) cost() int64 { return e.session.cost() + endOverhead }

// forget takes an end out, which is there.
func (x *ends) forget(e *end) {
	x.all.remove(e)
	x.bytes -= e.cost()
	if e.taken {
		e.of.claimed.remove(e)
		delete(e.of.claimants, e.key)
	} else {
		e.of.waiting.remove(e)
	}
}

// claim returns ends of an application and remembers when: first those whose claim
// is older than lease, then those that nobody has claimed.
func (x *ends) claim(app string, limit int, now int64, lease time.Duration) []*end {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.max <= 0 {
		return nil
	}
	a := x.app(app)
	x.on.Store(true)
	var claimed []*end
	for len(claimed) < limit {
		e := a.claimed.first
		if e != nil && now-e.claimed > int64(lease) && e.claimed != now {
			a.claimed.remove(e)
		} else if e = a.waiting.first; e != nil {
			a.waiting.remove(e)
		} else {
			break
		}
		if a.claimants == nil {
			a.claimants = make(map[uint64]*end)
		}
		a.claimants[e.key] = e
		a.claimed.push(e)
		e.taken, e.claimed = true, now
		claimed = append(claimed, e)
	}
	return claimed
}

// Ended implements [store.Ender]. The ends of an application are remembered from
// the first call of Ended for it on (or all along, see [Options].Ends): a Manager
// with OnEnd calls it once before its first session. With the limit 0 it claims
// nothing and does just that.
//
// Ends come oldest first, those before all others whose claimer did not acknowledge
// them in time. The items are those of the session itself, not copied. An expired
// session has its end as soon as a call has met it, and about a second later at the
// latest. Nobody is told of it: to ask, say each second, costs a mutex and a look
// into a map, and keeps no goroutine here.
func (s *Store) Ended(ctx context.Context, app string, limit int, lease time.Duration) ([]store.End, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	now := s.now()
	claimed := s.ends.claim(app, limit, now, lease)
	if s.behind != nil && (len(claimed) == 0 || limit <= 0) {
		return s.endedBehind(ctx, app, limit, lease)
	}
	if len(claimed) == 0 {
		return nil, nil
	}
	ended := make([]store.End, len(claimed))
	for i, e := range claimed {
		ended[i] = store.End{
			Key:    strconv.FormatUint(e.key, 36),
			ID:     e.session.id(),
			Reason: store.Reason{Kind: e.kind, Age: time.Duration(now - e.at), To: e.to},
		}
		e.session.read(&ended[i].Record, now)
	}
	return ended, nil
}

// Ack implements [store.Ender].
func (s *Store) Ack(ctx context.Context, app string, keys []string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if s.behind != nil {
		var err error
		if keys, err = s.ackBehind(ctx, app, keys); err != nil {
			return err
		}
	}
	x := &s.ends
	x.mu.Lock()
	defer x.mu.Unlock()
	a := x.apps[app]
	if a == nil {
		return nil
	}
	for _, name := range keys {
		key, err := strconv.ParseUint(name, 36, 64)
		if e := a.claimants[key]; e != nil && err == nil {
			x.forget(e)
		}
	}
	if len(a.claimants) == 0 {
		a.claimants = nil // a map does not shrink by itself
	}
	return nil
}
