package mode

import (
	"errors"
	"fmt"

	"github.com/holdfast-session/holdfast/inproc"
	"github.com/holdfast-session/holdfast/logstore"
)

// The modes of this process.

var (
	inprocParams   = []string{"max-memory", "max-sessions", "full", "tombstones", "ends", "count-cookies", "backing", "sync", "interval"}
	logstoreParams = []string{"sync", "interval", "max-memory", "max-disk", "segment-size", "tombstones", "ends"}
)

func parseInproc(where string, p *params) (opener, error) {
	if where != "" {
		return nil, fmt.Errorf("nothing comes between inproc: and its parameters; write inproc:?backing=%s if that is a folder to keep sessions in over a restart, or logstore:%[1]s", where)
	}
	o, back := inprocOptions(p)
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
	return func() (Store, error) {
		backing, err := logstore.Open(dir, &back)
		if err != nil {
			return nil, err
		}
		o.Backing = backing
		return &backed{inproc.New(&o), backing}, nil
	}, nil
}

// inprocOptions are the options of an InProc and of the folder behind it.
func inprocOptions(p *params) (inproc.Options, logstore.Options) {
	back := logstore.Options{Sync: syncOf(p), Interval: p.duration("interval")}
	return inproc.Options{
		MaxBytes: orNone(p, "max-memory", p.sizeOr), MaxSessions: p.number("max-sessions"),
		Full:       []inproc.Policy{inproc.EvictLeastRecentlyUsed, inproc.RefuseNew}[p.choice("full", "evict", "refuse")],
		Tombstones: orNone(p, "tombstones", p.numberOr), Ends: orNone(p, "ends", p.numberOr), CountCookies: p.flag("count-cookies"),
		BackingInterval: back.Interval,
	}, back
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
	return func() (Store, error) { return logstore.Open(dir, &o) }, nil
}

func logOptions(p *params) logstore.Options {
	return logstore.Options{
		Sync: syncOf(p), Interval: p.duration("interval"), MaxMemory: orNone(p, "max-memory", p.sizeOr), MaxDisk: p.size("max-disk"),
		SegmentSize: p.size("segment-size"), Tombstones: orNone(p, "tombstones", p.numberOr), Ends: orNone(p, "ends", p.numberOr),
	}
}

func syncOf(p *params) logstore.Sync {
	return []logstore.Sync{logstore.Interval, logstore.Always, logstore.Never}[p.choice("sync", "interval", "always", "never")]
}
