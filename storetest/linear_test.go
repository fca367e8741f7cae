package storetest

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/holdfast-session/holdfast/store"
)

// histories build up call by call.
func (h *history) add(q request, p reply, call, ret int64) {
	q.id = store.ID{App: "/", Session: "s"}
	h.ops = append(h.ops, porcupine.Operation{Input: &q, Output: &p, Call: call, Return: ret})
}

func verdict(t *testing.T, h *history, limit time.Duration) string {
	return verdictOf(t, h, model{reasons: true}, limit)
}

func verdictOf(t *testing.T, h *history, m model, limit time.Duration) string {
	r := &recorder{TB: t}
	h.check(r, store.ID{App: "/", Session: "s"}, m, limit)
	return strings.Join(r.failures, "\n")
}

func TestHistoryOfLostUpdate(t *testing.T) {
	h := new(history)
	h.add(request{method: "Create", rec: store.Record{Version: 1 << 48, Body: []byte("v0")}}, reply{}, 1, 2)
	for i := range int64(2) { // both wrote over the same version
		h.add(request{method: "Save", rec: store.Record{Version: 1 << 48, Body: []byte("v1")}, next: store.Version(2+i) << 48}, reply{}, 3+i, 10+i)
	}
	got := verdict(t, h, time.Minute)
	for _, want := range []string{"no order of these calls explains", "#1  client 0    1–  2  Create version 0001, body v0 → ok", "Save 0003 over 0001, body v1 → ok"} {
		if !strings.Contains(got, want) {
			t.Errorf("the report lacks %q:\n%s", want, got)
		}
	}

	h.ops[2].Output = &reply{err: store.ErrConflict}
	if got := verdict(t, h, time.Minute); got != "" {
		t.Errorf("a history that is right fails:\n%s", got)
	}
}

func TestHistoryTakesTooLong(t *testing.T) {
	h := new(history)
	h.add(request{method: "Create", rec: store.Record{Version: 1}}, reply{}, 1, 2)
	for i := range store.Version(40) { // which of them were applied, and in what order?
		h.add(request{method: "Save", rec: store.Record{Version: 1 + i/2}, next: 2 + i}, reply{err: store.ErrUnsure, lost: true}, int64(3+i), math.MaxInt64)
	}
	h.add(request{method: "Load"}, reply{rec: store.Record{Version: 99}}, 100, 101)
	if got := verdict(t, h, 50*time.Millisecond); !strings.Contains(got, "took more than 50ms") {
		t.Errorf("a check that cannot end in time reports %q; want that it took too long", got)
	}
}

// TestModelOfUnknownCookie has a lock whose cookie nobody was told.
func TestModelOfUnknownCookie(t *testing.T) {
	h := new(history)
	h.add(request{method: "Create", rec: store.Record{Version: 1}}, reply{}, 1, 2)
	h.add(request{method: "Lock", options: store.LockOptions{Owner: 7}}, reply{err: store.ErrUnsure, lost: true}, 3, math.MaxInt64)
	held := store.Record{Version: 1, Acquired: 1, Locked: true, Lock: store.Lock{Cookie: 5}}
	h.add(request{method: "Load"}, reply{rec: held}, 4, 5)
	h.add(request{method: "Unlock", lock: store.Lock{Cookie: 6}}, reply{err: store.ErrLockLost}, 6, 7)
	h.add(request{method: "Unlock", lock: store.Lock{Owner: 7}}, reply{}, 8, 9)
	if got := verdict(t, h, time.Minute); got != "" {
		t.Errorf("a history that is right fails:\n%s", got)
	}
	held.Lock.Cookie = 6
	h.add(request{method: "Load"}, reply{rec: held}, 10, 11)
	if got := verdict(t, h, time.Minute); got == "" {
		t.Error("a history with a lock after it was released passes")
	}
}

// TestModelOfEarlyLock has a lock that is seen before its session ends, of which the Lock
// that took it returns that.
func TestModelOfEarlyLock(t *testing.T) {
	early := model{reasons: true, early: true}
	h := new(history)
	h.add(request{method: "Create", rec: store.Record{Version: 1}}, reply{}, 1, 2)
	h.add(request{method: "Lock", options: store.LockOptions{Owner: 7}}, reply{err: &store.NotFoundError{Reason: store.Reason{Kind: store.Abandoned}}}, 3, 10)
	h.add(request{method: "Save", rec: store.Record{Version: 1}, next: 2}, reply{err: &store.LockedError{Lock: store.Lock{Owner: 7, Cookie: 5}}}, 4, 5)
	h.add(request{method: "Remove", why: store.Abandoned}, reply{}, 6, 7)
	if got := verdict(t, h, time.Minute); got == "" {
		t.Error("with AtomicLock the history passes")
	}
	if got := verdictOf(t, h, early, time.Minute); got != "" {
		t.Errorf("without AtomicLock it fails:\n%s", got)
	}

	// The lock is nobody's who never asked for it, and does not outlive the session.
	h.ops[2].Output = &reply{err: &store.LockedError{Lock: store.Lock{Owner: 8, Cookie: 5}}}
	if got := verdictOf(t, h, early, time.Minute); got == "" {
		t.Error("a lock of somebody else passes")
	}
	h.ops[2].Output = &reply{err: &store.LockedError{Lock: store.Lock{Owner: 7, Cookie: 5}}}
	h.add(request{method: "Create", rec: store.Record{Version: 3}}, reply{}, 11, 12)
	h.add(request{method: "Save", rec: store.Record{Version: 3}, next: 4}, reply{err: &store.LockedError{Lock: store.Lock{Owner: 7}}}, 13, 14)
	if got := verdictOf(t, h, early, time.Minute); got == "" {
		t.Error("a lock after its session has ended passes")
	}
}
