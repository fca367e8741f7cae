package storetest

import "github.com/holdfast-session/holdfast/store"

type twisted struct {
	*memory
}

var _ store.Store = (*twisted)(nil)
