// Package modes has the code of the guide to the modes.
package modes

import (
	"cmp"
	"context"
	"log/slog"
	"os"

	"github.com/holdfast-session/holdfast/mode"
	"github.com/holdfast-session/holdfast/store"
)

// Open opens the place for sessions that HOLDFAST_STORE names; if nothing does, memory.
func Open() (mode.Store, error) {
	return mode.Open(cmp.Or(os.Getenv(mode.StoreVar), "inproc:"))
}

// Audited is a store that writes down who ended which session.
type Audited struct {
	store.Store
	Log *slog.Logger
}

// Remove implements store.Store.
func (a Audited) Remove(ctx context.Context, id store.ID, lock store.Lock, why store.Reason) error {
	err := a.Store.Remove(ctx, id, lock, why)
	a.Log.InfoContext(ctx, "a session was to end", "app", id.App, "session", id.Session, "why", why.Kind, "error", err)
	return err
}

// KeepsItems implements store.ItemKeeper, if the store inside does.
func (a Audited) KeepsItems() bool {
	k, ok := a.Store.(store.ItemKeeper)
	return ok && k.KeepsItems()
}
