package holdfast

import (
	"github.com/holdfast-session/holdfast/internal/off"
	"github.com/holdfast-session/holdfast/store"
)

// Off is the store of mode Off: every session lives for one request, nothing is
// kept and no cookie is sent. Handlers run unchanged. It is what mode.Open("off:")
// returns.
var Off store.Store = off.Store{}
