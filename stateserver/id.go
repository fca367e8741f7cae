package stateserver

import "github.com/holdfast-session/holdfast/store"

// ServerID is what a [Server]'s Store gets for the session that a [Client] calls id:
// the protocol has one name for application and session together.
func ServerID(id store.ID) store.ID {
	return store.ID{App: appKey(id.App), Session: escapeSession(id.Session)}
}

// ClientID is the inverse of [ServerID], for a Store that others in this process use by
// the names that clients have; false if no client can name that session. It may alias
// id.
func ClientID(id store.ID) (_ store.ID, ok bool) { return clientID(id) }
