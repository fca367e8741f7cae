package redisstore_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-session/holdfast/store"
)

const (
	ledgerSessions = 24
	ledgerWorkers  = 6
	// ledgerCall is how long one call may take, ledgerDoubt how long it is repeated.
	ledgerCall  = 3 * time.Second
	ledgerDoubt = 60 * time.Second
)

// A ledger is what workers have done with a few sessions, while the servers failed. Each
// save appends its number to the content, so that the content of a session at the end
// says which saves it descends from.
type ledger struct {
	app string

	mu       sync.Mutex
	saves    []save
	names    [ledgerSessions]int // which incarnation of each session is the current one
	made     map[store.ID]bool   // whether their Create was acknowledged
	ending   map[store.ID]bool   // that somebody ends, or has
	removed  map[store.ID]bool   // whether their Remove was acknowledged
	vanished map[store.ID]bool   // that were made, and then not there
	calls    int
	longest  time.Duration // that a call took, with its repeats
}

// A save is one that was tried.
type save struct {
	id         store.ID
	base, next store.Version
	acked      bool // it was certainly made
	refused    bool // it was certainly not made
}

func newLedger() *ledger {
	return &ledger{app: fmt.Sprintf("/ledger/%x", rand.Uint64()), made: make(map[store.ID]bool), ending: make(map[store.ID]bool),
		removed: make(map[store.ID]bool), vanished: make(map[store.ID]bool)}
}

// work has workers at the stores until stop is closed.
func (l *ledger) work(t *testing.T, stores []store.Store, stop <-chan struct{}) (wait func()) {
	var wg sync.WaitGroup
	for i := range ledgerWorkers {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := l.visit(t.Context(), stores[i%len(stores)], rand.IntN(ledgerSessions)); err != nil {
					t.Errorf("worker %d: %v", i, err)
					return
				}
			}
		})
	}
	return wg.Wait
}

// sure repeats a call until its outcome is known.
func (l *ledger) sure(ctx context.Context, call func(ctx context.Context) error) (err error, unsure bool) {
	began := time.Now()
	for {
		one, cancel := context.WithTimeout(ctx, ledgerCall)
		err = call(one)
		cancel()
		over := errors.Is(err, context.DeadlineExceeded) || errors.Is(err, store.ErrUnsure)
		unsure = unsure || over
		if !over && !errors.Is(err, store.ErrUnavailable) || time.Since(began) > ledgerDoubt {
			break
		}
		timer := time.NewTimer(20 * time.Millisecond)
		select {
		case <-timer.C:
		case <-ctx.Done():
			return ctx.Err(), unsure
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.calls++
	l.longest = max(l.longest, time.Since(began))
	return err, unsure
}

// visit is a visitor's request: it changes the session, under its lock or by comparing
// versions, or now and then ends it.
func (l *ledger) visit(ctx context.Context, s store.Store, session int) error {
	l.mu.Lock()
	id := store.ID{App: l.app, Session: fmt.Sprint(session, ".", l.names[session])}
	made := l.made[id]
	l.mu.Unlock()
	var rec store.Record
	exclusive := rand.IntN(4) > 0
	err, _ := l.sure(ctx, func(ctx context.Context) error {
		if !exclusive {
			return s.Load(ctx, id, &rec)
		}
		err := s.Lock(ctx, id, store.LockOptions{Owner: store.NewOwner(), Wait: time.Second, Stale: 5 * time.Second}, &rec)
		if locked := new(store.LockedError); errors.As(err, &locked) {
			return nil
		}
		return err
	})
	switch {
	case errors.Is(err, store.ErrNotFound):
		return l.create(ctx, s, id, session, made)
	case err != nil:
		return err
	case exclusive && rec.Lock.Owner == 0, !exclusive && rec.Version == 0:
		return nil // somebody else is busy with it
	}
	if rand.IntN(60) == 0 {
		return l.remove(ctx, s, id, session)
	}
	if !exclusive {
		rec.Lock = store.Lock{}
	}
	n := save{id: id, base: rec.Version, next: store.NewVersion()}
	l.mu.Lock()
	number := len(l.saves)
	l.saves = append(l.saves, n)
	l.mu.Unlock()
	rec.Body = append(append(rec.Body, ' '), strconv.Itoa(number)...)
	err, unsure := l.sure(ctx, func(ctx context.Context) error { return s.Save(ctx, id, &rec, n.next, false) })
	l.mu.Lock()
	defer l.mu.Unlock()
	locked := new(store.LockedError)
	switch {
	case err == nil:
		l.saves[number].acked = true
	case errors.Is(err, store.ErrConflict), errors.Is(err, store.ErrLockLost), errors.As(err, &locked):
		l.saves[number].refused = !unsure
	case errors.Is(err, store.ErrNotFound):
	default:
		return err
	}
	return nil
}

// create makes a session that was never there. One that had been made, and that nobody
// ends, was lost in a failover: another takes its place.
func (l *ledger) create(ctx context.Context, s store.Store, id store.ID, session int, made bool) error {
	l.mu.Lock()
	_, begun := l.made[id]
	if !begun {
		l.made[id] = false
	} else if made && !l.ending[id] {
		l.ending[id] = true
		l.vanished[id] = true
		l.names[session]++
	}
	l.mu.Unlock()
	if begun {
		return nil
	}
	rec := &store.Record{Version: store.NewVersion(), Timeout: time.Hour, Body: []byte("began")}
	err, _ := l.sure(ctx, func(ctx context.Context) error { return s.Create(ctx, id, rec, false) })
	if err == nil {
		l.mu.Lock()
		l.made[id] = true
		l.mu.Unlock()
	}
	return err
}

func (l *ledger) remove(ctx context.Context, s store.Store, id store.ID, session int) error {
	l.mu.Lock()
	if l.ending[id] || !l.made[id] {
		l.mu.Unlock()
		return nil
	}
	l.ending[id] = true
	l.mu.Unlock()
	err, _ := l.sure(ctx, func(ctx context.Context) error {
		return s.Remove(ctx, id, store.Lock{}, store.Reason{Kind: store.Abandoned})
	})
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.removed[id] = err == nil
	l.names[session]++
	return nil
}

// A verdict is what came of the acknowledged work.
type verdict struct {
	acked, lost   int // saves, of sessions that nobody ended
	ended, undone int // ends
}

// check compares what the sessions are at the end with what was acknowledged. It reports
// an error for each session that descends from two saves of one version, or from a save
// that was refused; what is missing it counts.
func (l *ledger) check(t *testing.T, s store.Store) (v verdict) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), ledgerDoubt)
	defer cancel()
	survived := make(map[int]bool)
	for session, last := range l.names {
		for n := range last + 1 {
			id := store.ID{App: l.app, Session: fmt.Sprint(session, ".", n)}
			var rec store.Record
			err, _ := l.sure(ctx, func(ctx context.Context) error { return s.Load(ctx, id, &rec) })
			switch {
			case errors.Is(err, store.ErrNotFound):
				continue
			case err != nil:
				t.Fatalf("Load at the end: %v", err)
			}
			if l.removed[id] {
				v.undone++
			}
			l.descent(t, id, &rec, survived)
		}
	}
	for _, acked := range l.removed {
		if acked {
			v.ended++
		}
	}
	for n, save := range l.saves {
		if save.acked && (!l.ending[save.id] || l.vanished[save.id]) {
			v.acked++
			if !survived[n] {
				v.lost++
			}
		}
	}
	v.lost += len(l.vanished)
	t.Logf("%d calls, %d saves tried; %d acknowledged of sessions that nobody ended, %d of them lost; %d ends acknowledged, %d undone; the longest call took %v",
		l.calls, len(l.saves), v.acked, v.lost, v.ended, v.undone, l.longest.Round(10*time.Millisecond))
	if v.acked < 50 || v.ended < 2 {
		t.Error("too little was done for this to say anything")
	}
	return v
}

// descent checks that each save that a session descends from was made on the one before.
func (l *ledger) descent(t *testing.T, id store.ID, rec *store.Record, survived map[int]bool) {
	t.Helper()
	var version store.Version
	for i, field := range strings.Fields(string(rec.Body))[1:] {
		n, err := strconv.Atoi(field)
		if err != nil || n >= len(l.saves) || l.saves[n].id != id {
			t.Errorf("%v descends from %q, which nobody saved", id, field)
			return
		}
		save := l.saves[n]
		switch {
		case survived[n]:
			t.Errorf("%v: the save %d is there twice", id, n)
		case save.refused:
			t.Errorf("%v: the save %d is there, although it was refused", id, n)
		case i > 0 && save.base != version:
			t.Errorf("%v: the save %d was made on %x, and came after %x: an update is lost", id, n, uint64(save.base), uint64(version))
		}
		survived[n], version = true, save.next
	}
	if version != 0 && rec.Version != version {
		t.Errorf("%v has the version %x and the content of %x", id, uint64(rec.Version), uint64(version))
	}
}
