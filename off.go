package holdfast

import (
	"context"

	"github.com/holdfast-session/holdfast/store"
)

// Off is the store of mode Off: every session lives for one request, nothing is
// kept and no cookie is sent. Handlers run unchanged.
var Off store.Store = off{}

// off is never asked: the Manager knows it.
type off struct{}

func (off) Load(context.Context, store.ID, *store.Record) error { return store.ErrNotFound }

func (off) Lock(context.Context, store.ID, store.LockOptions, *store.Record) error {
	return store.ErrNotFound
}

func (off) Create(context.Context, store.ID, *store.Record, bool) error { return store.ErrFull }

func (off) Save(context.Context, store.ID, *store.Record, store.Version, bool) error {
	return store.ErrNotFound
}

func (off) Unlock(context.Context, store.ID, store.Lock) error { return store.ErrNotFound }

func (off) Remove(context.Context, store.ID, store.Lock, store.Reason) error {
	return store.ErrNotFound
}

func (off) Touch(context.Context, store.ID) error { return store.ErrNotFound }
