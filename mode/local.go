package mode

import (
	"errors"
	"fmt"

	"github.com/holdfast-session/holdfast/inproc"
	"github.com/holdfast-session/holdfast/logstore"
)

// The modes of this process.

var (
	inprocParams   = []string{"max-memory", "max-sessions", "full", "backing", "sync", "interval"}
	logstoreParams = []string{"sync", "interval", "max-memory", "max-disk"}
)

func parseInproc(where string, p *params) (opener, error) {
	if where != "" {
		return nil, fmt.Errorf("nothing comes between inproc: and its parameters; write inproc:?backing=%s if that is a folder to keep sessions in over a restart, or logstore:%[1]s", where)
	}
	o := inproc.Options{MaxBytes: p.size("max-memory"), MaxSessions: p.number("max-sessions")}
	o.Full = []inproc.Policy{inproc.EvictLeastRecentlyUsed, inproc.RefuseNew}[p.choice("full", "evict", "refuse")]
	back := logOptions(p)
	if !p.values.Has("backing") {
		if p.values.Has("sync") || p.values.Has("interval") {
			return nil, errors.New("sync and interval are for inproc with a backing=DIR")
		}
		return func() (Store, error) { return inproc.New(&o), nil }, nil
	}
	dir := p.text("backing")
	if dir == "" {
		return nil, errors.New("backing= names no folder; write backing=/var/lib/app/sessions")
	}
	o.BackingInterval = back.Interval
	return func() (Store, error) {
		backing, err := logstore.Open(dir, &back)
		if err != nil {
			return nil, err
		}
		o.Backing = backing
		return &backed{inproc.New(&o), backing}, nil
	}, nil
}

// backed is an InProc that closes what is behind it.
type backed struct {
	*inproc.Store
	backing *logstore.Store
}

func (b *backed) Close() error { return errors.Join(b.Store.Close(), b.backing.Close()) }

func parseLogstore(dir string, p *params) (opener, error) {
	if dir == "" {
		return nil, errors.New("it names no folder; write logstore:/var/lib/app/sessions")
	}
	o := logOptions(p)
	o.MaxMemory, o.MaxDisk = p.size("max-memory"), p.size("max-disk")
	return func() (Store, error) { return logstore.Open(dir, &o) }, nil
}

func logOptions(p *params) logstore.Options {
	sync := []logstore.Sync{logstore.Interval, logstore.Always, logstore.Never}[p.choice("sync", "interval", "always", "never")]
	return logstore.Options{Sync: sync, Interval: p.duration("interval")}
}
