// Package modes has the code of the guide to the modes.
package modes

import (
	"context"
	"log/slog"

	"github.com/holdfast-session/holdfast"
	"github.com/holdfast-session/holdfast/mode"
	"github.com/holdfast-session/holdfast/store"
)

// Open returns the place for sessions that a program's configuration names.
func Open(spec string) (store.Store, error) {
	if spec == "off" {
		return holdfast.Off, nil
	}
	return mode.Open(spec)
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
