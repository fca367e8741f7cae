package main

import (
	"context"
	"fmt"
	"runtime"
	"time"

	"github.com/alexedwards/scs/v2/memstore"

	"github.com/holdfast-session/holdfast/inproc"
	"github.com/holdfast-session/holdfast/internal/load"
	"github.com/holdfast-session/holdfast/store"
)

var expiryRow = row{
	name:  "expiry",
	title: "InProc: while very many sessions expire",
	note: "One session is read over and over while all the others expire: how long a read took at the most, of which the machine's other work is a part, as the line without others shows. " +
		"scs' memstore is told to look for expired sessions each second.",
	metrics: []metric{metricMax, metricP99, metricGone},
	slow:    true,
	cells:   expiryCells,
}

// An expiring is a store with sessions that are about to expire.
type expiring struct {
	look func() error // at the one that stays
	left func() int64 // how many are there
	end  time.Time    // when the last of the others expires
	stop func()
}

func expiryCells(s *suite) ([]cell, error) {
	count := s.many
	if s.quick {
		count = min(count, 20_000)
	}
	sides := []side{
		expirySide("holdfast inproc", count, oursExpiring),
		expirySide("holdfast inproc, no others", 0, oursExpiring),
		expirySide("scs, memstore", count, scsExpiring),
	}
	return []cell{{fmt.Sprintf("%s sessions expire", number(float64(count))), sides}}, nil
}

// expireIn is the timeout of those that expire, the shortest that there is.
const expireIn = time.Second

func oursExpiring(count int) (expiring, error) {
	ctx := context.Background()
	st := inproc.New(&inproc.Options{MaxBytes: -1, Tombstones: -1})
	add := func(i int, timeout time.Duration) error {
		rec := store.Record{Version: store.NewVersion(), Timeout: timeout, Body: make([]byte, 100)}
		return st.Create(ctx, store.ID{App: "/", Session: sessionKey(0, i)}, &rec, false)
	}
	if err := fillExpiring(count, add); err != nil {
		return expiring{}, err
	}
	var rec store.Record
	return expiring{
		func() error { return st.Load(ctx, store.ID{App: "/", Session: sessionKey(0, count)}, &rec) },
		func() int64 { return st.Stats().Sessions },
		time.Now().Add(expireIn),
		func() { st.Close() },
	}, nil
}

// fillExpiring adds the sessions that expire, and the one that stays.
func fillExpiring(count int, add func(i int, timeout time.Duration) error) error {
	for i := range count {
		if err := add(i, expireIn); err != nil {
			return err
		}
	}
	return add(count, idleTimeout)
}

func scsExpiring(count int) (expiring, error) {
	m := memstore.NewWithCleanupInterval(time.Second)
	add := func(i int, timeout time.Duration) error {
		return m.Commit(sessionKey(0, i), make([]byte, 100), time.Now().Add(timeout))
	}
	if err := fillExpiring(count, add); err != nil {
		return expiring{}, err
	}
	key := sessionKey(0, count)
	return expiring{
		func() error {
			if _, ok, err := m.Find(key); err != nil || !ok {
				return fmt.Errorf("the session that stays is gone: %w", err)
			}
			return nil
		},
		nil,
		time.Now().Add(expireIn),
		m.StopCleanup,
	}, nil
}

// sweptAfter bounds how long a store may take to sweep, and is how long one is watched
// that does not tell.
const sweptAfter = 1200 * time.Millisecond

// expirySide watches one session while the others expire.
func expirySide(name string, count int, fill func(count int) (expiring, error)) side {
	return side{name, func(ctx context.Context, _ window) (figures, error) {
		e, err := fill(count)
		if err != nil {
			return nil, err
		}
		defer e.stop()
		runtime.GC() // what filling it left behind
		f := make(figures)
		var h load.Histogram
		until := e.end.Add(sweptAfter)
		for now := time.Now(); now.Before(until); {
			if err := e.look(); err != nil {
				return nil, err
			}
			then := time.Now()
			h.Add(then.Sub(now), 1)
			now = then
			if _, known := f[metricGone.Name]; !known && count > 0 && e.left != nil && h.Count()%1024 == 0 && e.left() == 1 {
				f[metricGone.Name] = max(0, float64(now.Sub(e.end))/float64(time.Millisecond))
				now = time.Now() // counting them took time, too
			}
		}
		f[metricMax.Name], f[metricP99.Name] = micros(h.Max()), micros(h.Quantile(0.99))
		return f, ctx.Err()
	}}
}
