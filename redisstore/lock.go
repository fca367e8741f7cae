package redisstore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/valkey-io/valkey-go"

	"github.com/holdfast-session/holdfast/store"
)

const (
	// turnLasts is for how long a lock that was given up is kept for the first in line;
	// lua/queue.lua has it too.
	turnLasts = 500 * time.Millisecond
	// firstAsk and longestAsk bound how often one who waits asks again without having
	// been told anything: a message may be lost.
	firstAsk   = 250 * time.Millisecond
	longestAsk = 4 * time.Second
)

// How a Lock asks, as lua/lock.lua has it.
const (
	tryOnce   = '0'
	wouldWait = '1'
	waits     = '2'
)

// waiters are the calls of Lock in this process that wait. Redis has the line; it tells
// this process, by its inbox, whose turn it is.
type waiters struct {
	inbox uint64

	mu         sync.Mutex
	listening  bool
	byOwner    map[uint64][]chan struct{} // usually one; each has room for one token
	givingBack map[uint64]chan struct{}   // owners whose locks are being given back; closed when they are
}

func (w *waiters) init() {
	w.inbox = rand.Uint64()
	w.byOwner = make(map[uint64][]chan struct{})
	w.givingBack = make(map[uint64]chan struct{})
}

// add returns what tells a waiter to ask, and what takes it out again.
func (w *waiters) add(owner uint64) (wake chan struct{}, remove func()) {
	wake = make(chan struct{}, 1)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.byOwner[owner] = append(w.byOwner[owner], wake)
	return wake, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		rest := w.byOwner[owner][:0]
		for _, other := range w.byOwner[owner] {
			if other != wake {
				rest = append(rest, other)
			}
		}
		if w.byOwner[owner] = rest; len(rest) == 0 {
			delete(w.byOwner, owner)
		}
	}
}

// wake tells those who wait as owner, and reports whether there are any.
func (w *waiters) wake(owner uint64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, wake := range w.byOwner[owner] {
		select {
		case wake <- struct{}{}:
		default:
		}
	}
	return len(w.byOwner[owner]) > 0
}

// wakeAll tells everybody: messages may have been missed.
func (w *waiters) wakeAll() {
	w.mu.Lock()
	owners := make([]uint64, 0, len(w.byOwner))
	for owner := range w.byOwner {
		owners = append(owners, owner)
	}
	w.mu.Unlock()
	for _, owner := range owners {
		w.wake(owner)
	}
}

// Lock implements [store.Store]. Those who wait stand in a line that Redis keeps, in
// order of arrival across processes. Who is first is told by a message; who is not told,
// because a message or a process was lost, asks again after a while.
func (s *Store) Lock(ctx context.Context, id store.ID, o store.LockOptions, rec *store.Record) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%w: %w", store.ErrUnavailable, err)
	}
	if err := s.givenBack(ctx, o.Owner); err != nil {
		return err
	}
	asking, cancel := unhurried(ctx)
	defer cancel()
	end := time.Now().Add(o.Wait)
	a := s.apps.get(s, id.App)
	near := s.near.Pin(id)
	defer near.Unpin()
	key := a.keys.session(id.Session)
	ask := func(how byte) (answer, error) {
		in := append(a.begin(48), how).u64(o.Owner).u64(uint64(micros(o.Stale))).u32(newCookie()).u64(s.line.inbox).known(near)
		return s.ask(asking, &call{script: s.scripts.lock, key: key, args: []string{string(in)}})
	}
	how := byte(tryOnce)
	if o.Wait > 0 {
		how = wouldWait
	}
	ans, err := ask(how)
	if err == nil && o.Wait > 0 && (ans.code == codeLocked || ans.code == codeTurn) {
		ans, err = s.wait(ctx, o, end, ask)
	}
	if err != nil {
		if ctx.Err() != nil && !errors.Is(err, store.ErrUnavailable) && !o.Renew {
			s.giveBack(key, o.Owner)
		}
		return err
	}
	s.wrote(key)
	return s.read(ctx, a, id, &ans, near, rec)
}

// unhurried is ctx for asking for a lock: the answer is waited for also where the caller
// leaves meanwhile, though not past his deadline. The client has several connections, so
// that what takes a lock back could overtake a Lock that is under way.
func unhurried(ctx context.Context) (context.Context, context.CancelFunc) {
	if ctx.Done() == nil {
		return ctx, func() {}
	}
	deadline, ok := ctx.Deadline()
	ctx = context.WithoutCancel(ctx)
	if !ok {
		return ctx, func() {}
	}
	return context.WithDeadline(ctx, deadline)
}

// wait asks for a lock until it is had or there is none, or the wait is over.
func (s *Store) wait(ctx context.Context, o store.LockOptions, end time.Time, ask func(how byte) (answer, error)) (answer, error) {
	wake, remove := s.line.add(o.Owner)
	defer remove()
	s.listen()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for patience := firstAsk; ; patience = min(2*patience, longestAsk) {
		how := byte(waits)
		left := time.Until(end)
		if left <= 0 {
			how = tryOnce
		}
		ans, err := ask(how)
		if err != nil || ans.code != codeLocked && ans.code != codeTurn || how == tryOnce {
			return ans, err
		}
		sleep := min(left, patience/2+rand.N(patience))
		if ans.code == codeTurn {
			sleep = min(left, turnLasts)
		} else if o.Stale > 0 {
			age := duration(ans.int(2))
			sleep = min(sleep, max(o.Stale-age, 0)+time.Millisecond)
		}
		timer.Reset(sleep)
		select {
		case <-wake:
		case <-timer.C:
		case <-ctx.Done():
		}
		if err := ctx.Err(); err != nil {
			return answer{}, err
		}
	}
}

// listen sees to it that messages to the inbox are heard.
func (s *Store) listen() {
	s.line.mu.Lock()
	defer s.line.mu.Unlock()
	if s.line.listening {
		return
	}
	s.line.listening = true
	s.background.run(s.hear)
}

// hear receives the messages to the inbox: whose turn it is, and at which session.
func (s *Store) hear() {
	inbox := s.keys.inboxes() + string(binary.BigEndian.AppendUint64(nil, s.line.inbox))
	ctx := valkey.WithOnSubscriptionHook(s.ctx, func(sub valkey.PubSubSubscription) {
		if sub.Kind == "subscribe" {
			s.line.wakeAll() // what was sent before was missed
		}
	})
	ctx = valkey.WithOnReceiveReturnHook(ctx, func(err error, client valkey.CommandClient) error {
		if s.closed.Load() {
			bye, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			client.Do(bye, client.B().Unsubscribe().Channel(inbox).Build())
		}
		return err
	})
	warned := false
	for pause := firstPause; s.ctx.Err() == nil; pause = min(2*pause, time.Second) {
		// It does not return while it works, and tries again by itself where it can.
		err := s.client.Receive(ctx, s.client.B().Subscribe().Channel(inbox).Build(), func(m valkey.PubSubMessage) {
			if len(m.Message) < 8 {
				return
			}
			if owner := binary.BigEndian.Uint64([]byte(m.Message[:8])); !s.line.wake(owner) {
				s.later(func(ctx context.Context) { s.leave(ctx, m.Message[8:], owner, true) })
			}
		})
		if _, refused := valkey.IsValkeyErr(err); refused && !warned {
			warned = true
			s.o.Logger.Warn("redisstore: the server does not let this user listen, so who waits for a lock asks again and again; allow the user these channels",
				"channels", s.keys.inboxes()+"*", "err", err)
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-s.ctx.Done():
			timer.Stop()
		}
	}
}

// leave gives up a place in the line and, unless that is all, the lock.
func (s *Store) leave(ctx context.Context, key string, owner uint64, placeOnly bool) {
	in := args{'1', flag(placeOnly)}.u64(owner).u32(0)
	_, _ = s.one(ctx, &call{script: s.scripts.unlock, key: key, args: []string{string(in)}})
}

// giveBack gives back, in the background, what a Lock may have got whose caller has
// left, unless another call repeats it.
func (s *Store) giveBack(key string, owner uint64) {
	given := make(chan struct{})
	s.line.mu.Lock()
	if s.line.givingBack[owner] != nil || len(s.line.byOwner[owner]) > 0 {
		s.line.mu.Unlock()
		return
	}
	s.line.givingBack[owner] = given
	s.line.mu.Unlock()
	s.later(func(ctx context.Context) {
		s.leave(ctx, key, owner, false)
		s.line.mu.Lock()
		delete(s.line.givingBack, owner)
		s.line.mu.Unlock()
		close(given)
	})
}

// givenBack waits until what an earlier Lock of the owner may have got is given back:
// else that would take the lock from this one.
func (s *Store) givenBack(ctx context.Context, owner uint64) error {
	s.line.mu.Lock()
	given := s.line.givingBack[owner]
	s.line.mu.Unlock()
	if given == nil {
		return nil
	}
	select {
	case <-given:
		return nil
	case <-ctx.Done():
		return errors.Join(store.ErrUnavailable, ctx.Err())
	}
}
