package worker

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/holdfast-session/holdfast/inproc"
	"github.com/holdfast-session/holdfast/stateserver"
	"github.com/holdfast-session/holdfast/store"
)

// sessions is the store of a worker: InProc, while sessions come from the process
// before and go to the one after.
type sessions struct {
	local *inproc.Store
	at    atomic.Pointer[place]
	began atomic.Int64 // UnixNano: sessions that began later have not been lost by a restart
	moved atomic.Int64 // sessions that have gone to the successor
}

// A place is where the sessions are found for the time being.
type place struct {
	store.Store
	left    chan struct{} // closed when it is another
	passing bool          // it reaches into another process, which may be about to end
}

var (
	_ store.ItemKeeper = (*sessions)(nil)
	_ store.Ender      = (*sessions)(nil)
	_ store.Lister     = (*sessions)(nil)
)

func newSessions(o *inproc.Options) *sessions {
	s := &sessions{local: inproc.New(o)}
	s.began.Store(time.Now().UnixNano())
	s.at.Store(&place{Store: s.local, left: make(chan struct{})})
	return s
}

// move has the sessions found elsewhere from now on.
func (s *sessions) move(to store.Store, passing bool) {
	close(s.at.Swap(&place{Store: to, left: make(chan struct{}), passing: passing}).left)
}

// settle is how long a call waits to learn that the process which it has asked in vain
// is gone.
const settle = 5 * time.Second

// do makes a call where the session is, and again where it went meanwhile.
func (s *sessions) do(ctx context.Context, call func(at store.Store) error) error {
	for {
		at := s.at.Load()
		err := call(at)
		gone, away := errors.Is(err, store.ErrNotFound), errors.Is(err, store.ErrUnavailable)
		if !gone && !away {
			return err
		}
		select {
		case <-at.left:
			continue
		default:
		}
		if !away || !at.passing {
			return s.sinceBegan(err)
		}
		patience := time.NewTimer(settle)
		select {
		case <-at.left:
			patience.Stop()
		case <-patience.C:
			return err
		case <-ctx.Done():
			patience.Stop()
			return err
		}
	}
}

// sinceBegan says of a session that may have been lost by a restart when that was: what
// was handed over was not lost.
func (s *sessions) sinceBegan(err error) error {
	if why := store.ReasonOf(err); why.Kind == store.Restarted {
		why.Age = time.Since(time.Unix(0, s.began.Load()))
		return &store.NotFoundError{Reason: why}
	}
	return err
}

func (s *sessions) KeepsItems() bool { return true }

func (s *sessions) Load(ctx context.Context, id store.ID, rec *store.Record) error {
	return s.do(ctx, func(at store.Store) error { return at.Load(ctx, id, rec) })
}

func (s *sessions) Lock(ctx context.Context, id store.ID, o store.LockOptions, rec *store.Record) error {
	return s.do(ctx, func(at store.Store) error { return at.Lock(ctx, id, o, rec) })
}

func (s *sessions) Create(ctx context.Context, id store.ID, rec *store.Record, hold bool) error {
	return s.do(ctx, func(at store.Store) error { return at.Create(ctx, id, rec, hold) })
}

func (s *sessions) Save(ctx context.Context, id store.ID, rec *store.Record, next store.Version, hold bool) error {
	return s.do(ctx, func(at store.Store) error { return at.Save(ctx, id, rec, next, hold) })
}

func (s *sessions) Unlock(ctx context.Context, id store.ID, lock store.Lock) error {
	return s.do(ctx, func(at store.Store) error { return at.Unlock(ctx, id, lock) })
}

func (s *sessions) Remove(ctx context.Context, id store.ID, lock store.Lock, why store.Reason) error {
	return s.do(ctx, func(at store.Store) error { return at.Remove(ctx, id, lock, why) })
}

func (s *sessions) Touch(ctx context.Context, id store.ID) error {
	return s.do(ctx, func(at store.Store) error { return at.Touch(ctx, id) })
}

// Ended claims the ends of sessions that ended here; each process delivers its own.
func (s *sessions) Ended(ctx context.Context, app string, limit int, lease time.Duration) ([]store.End, error) {
	return s.local.Ended(ctx, app, limit, lease)
}

func (s *sessions) Ack(ctx context.Context, app string, keys []string) error {
	return s.local.Ack(ctx, app, keys)
}

// List lists the sessions wherever they are. One that moves meanwhile may be listed
// twice.
func (s *sessions) List(ctx context.Context, q store.Query) (page []store.Listed, next string, err error) {
	err = s.do(ctx, func(at store.Store) error {
		page, next, err = at.(*place).Store.(store.Lister).List(ctx, q)
		return err
	})
	return page, next, err
}

// bytesOnly turns a content that is kept as values into bytes. Live values are left
// out, and their names kept (package holdfast then says that they are lost).
func bytesOnly(rec *store.Record) error {
	if rec.Items == nil {
		return nil
	}
	b, ok := rec.Items.(interface{ AppendBody([]byte) []byte })
	if !ok {
		return errors.New("worker: the session's content cannot leave the process")
	}
	rec.Body, rec.Items = b.AppendBody(rec.Body[:0]), nil
	return nil
}

// A leaving is the store in this process while its sessions go to the successor. It
// counts them.
type leaving struct {
	*inproc.Store
	s *sessions
}

func (l leaving) Remove(ctx context.Context, id store.ID, lock store.Lock, why store.Reason) error {
	err := l.Store.Remove(ctx, id, lock, why)
	if err == nil && why.Kind == store.Moved && why.To == toSuccessor {
		l.s.moved.Add(1)
	}
	return err
}

// An exit is the same as a state server's store, for the successor: by the names that
// its clients' sessions have there, and with bytes for content, because values cannot
// leave.
type exit struct{ at leaving }

// here is what a session is called in this process.
func here(id store.ID) store.ID {
	if client, ok := stateserver.ClientID(id); ok {
		return client
	}
	return id // no session of ours
}

func (e exit) Load(ctx context.Context, id store.ID, rec *store.Record) error {
	if err := e.at.Load(ctx, here(id), rec); err != nil {
		return e.at.s.sinceBegan(err)
	}
	return bytesOnly(rec)
}

func (e exit) Lock(ctx context.Context, id store.ID, o store.LockOptions, rec *store.Record) error {
	if err := e.at.Lock(ctx, here(id), o, rec); err != nil {
		return err
	}
	return bytesOnly(rec)
}

func (e exit) Create(ctx context.Context, id store.ID, rec *store.Record, hold bool) error {
	return e.at.Create(ctx, here(id), rec, hold)
}

func (e exit) Save(ctx context.Context, id store.ID, rec *store.Record, next store.Version, hold bool) error {
	return e.at.Save(ctx, here(id), rec, next, hold)
}

func (e exit) Unlock(ctx context.Context, id store.ID, lock store.Lock) error {
	return e.at.Unlock(ctx, here(id), lock)
}

func (e exit) Remove(ctx context.Context, id store.ID, lock store.Lock, why store.Reason) error {
	return e.at.Remove(ctx, here(id), lock, why)
}

func (e exit) Touch(ctx context.Context, id store.ID) error { return e.at.Touch(ctx, here(id)) }

func (e exit) List(ctx context.Context, q store.Query) ([]store.Listed, string, error) {
	if q.App != "" {
		q.App = here(store.ID{App: q.App}).App
	}
	page, next, err := e.at.List(ctx, q)
	for i := range page {
		page[i].ID = stateserver.ServerID(page[i].ID)
	}
	return page, next, err
}

// An entrance is the store of another process as this one sees it: what is kept as
// values here goes there as bytes.
type entrance struct{ remote }

// A remote is a client of another process.
type remote interface {
	store.Lister
	Close() error
}

func (e entrance) Create(ctx context.Context, id store.ID, rec *store.Record, hold bool) error {
	out := *rec
	if err := bytesOnly(&out); err != nil {
		return err
	}
	err := e.remote.Create(ctx, id, &out, hold)
	rec.Lock = out.Lock
	return err
}

func (e entrance) Save(ctx context.Context, id store.ID, rec *store.Record, next store.Version, hold bool) error {
	out := *rec
	if err := bytesOnly(&out); err != nil {
		return err
	}
	return e.remote.Save(ctx, id, &out, next, hold)
}
