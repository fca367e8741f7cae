// Package off is the store of mode Off, which package holdfast knows and package mode
// opens.
package off

import (
	"context"

	"github.com/holdfast-session/holdfast/store"
)

// Store is never asked: a Manager that has it keeps nothing.
type Store struct{}

var _ store.Store = Store{}

// Close does nothing.
func (Store) Close() error { return nil }

// Load implements [store.Store].
func (Store) Load(context.Context, store.ID, *store.Record) error { return store.ErrNotFound }

// Lock implements [store.Store].
func (Store) Lock(context.Context, store.ID, store.LockOptions, *store.Record) error {
	return store.ErrNotFound
}

// Create implements [store.Store].
func (Store) Create(context.Context, store.ID, *store.Record, bool) error { return store.ErrFull }

// Save implements [store.Store].
func (Store) Save(context.Context, store.ID, *store.Record, store.Version, bool) error {
	return store.ErrNotFound
}

// Unlock implements [store.Store].
func (Store) Unlock(context.Context, store.ID, store.Lock) error { return store.ErrNotFound }

// Remove implements [store.Store].
func (Store) Remove(context.Context, store.ID, store.Lock, store.Reason) error {
	return store.ErrNotFound
}

// Touch implements [store.Store].
func (Store) Touch(context.Context, store.ID) error { return store.ErrNotFound }
