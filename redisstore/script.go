package redisstore

import (
	"crypto/sha1"
	"embed"
	"encoding/hex"
	"fmt"
	"time"
)

const (
	// retention is how long an end is remembered that nobody acknowledges, and how long
	// a session that expired waits to be noticed.
	retention = 72 * time.Hour
	// endsBase is the score of an end at the beginning of time. It is far enough from
	// zero, where the scores of deadlines begin, and no further than a score is exact.
	endsBase = -1 << 52
)

//go:embed lua/*.lua
var sources embed.FS

// A script is one that Redis runs, and knows by its hash once it has run it.
type script struct {
	text, hash string
	change     bool // it changes what a caller sees of a session
}

// scripts are those of one store.
type scripts struct {
	load, touch, lock, unlock, create, save, remove, peek, visit, ack *script // of a session
	due, ended, rescore                                               *script // of an index
	duty, register, unregister                                        *script
}

// newScripts puts the scripts together for a store whose processes have inboxes under
// that name and whose reads may be stale for that long. The clock is what defines now.
func newScripts(clock, inboxes string, staleness time.Duration) *scripts {
	settings := fmt.Sprintf("local INBOXES, STALENESS, RETENTION, ENDS = '%s', %d, %d, %d\n",
		inboxes, staleness.Microseconds(), retention.Microseconds(), int64(endsBase))
	of := func(names ...string) *script {
		text := clock + settings
		for _, name := range names {
			text += source(name)
		}
		hash := sha1.Sum([]byte(text)) // as Redis names it
		return &script{text: text, hash: hex.EncodeToString(hash[:])}
	}
	s := &scripts{
		load:   of("fast", "session", "load"),
		touch:  of("session", "touch"),
		lock:   of("fastlock", "session", "queue", "lock"),
		unlock: of("fastunlock", "session", "queue", "unlock"),
		create: of("session", "create"),
		save:   of("fastsave", "session", "queue", "save"),
		remove: of("session", "remove"),
		peek:   of("session", "peek"),
		visit:  of("session", "ends", "visit"),
		ack:    of("session", "ends", "ack"),

		due:     of("due"),
		ended:   of("ended"),
		rescore: of("rescore"),

		duty:       of("duty"),
		register:   of("register"),
		unregister: of("unregister"),
	}
	for _, c := range []*script{s.lock, s.unlock, s.create, s.save, s.remove} {
		c.change = true
	}
	return s
}

func source(name string) string {
	text, err := sources.ReadFile("lua/" + name + ".lua")
	if err != nil {
		panic(err) // it is in the binary
	}
	return string(text)
}
